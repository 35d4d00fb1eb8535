"""What all messages have in common that come from outside."""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

__all__ = ["MAX_KEYS", "Asked"]

MAX_KEYS: Final = 32
"""Of a message: more than any has fields. Each that is unknown is a mistake to be told."""


class Asked(BaseModel):
    """A message from outside, whose mistakes are few however much is sent."""

    # Strict: JSON has types of its own, and top_k: true is a mistake, not a 1.
    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, value: Any) -> Any:  # noqa: ANN401  whatever was sent
        """Refuse more keys than there can be before any of them is looked at."""
        if isinstance(value, dict) and len(value) > MAX_KEYS:
            raise PydanticCustomError(
                "too_many_keys", "Input should have at most {most} keys", {"most": MAX_KEYS}
            )
        return value
