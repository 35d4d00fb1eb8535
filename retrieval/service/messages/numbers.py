"""Numbers as JSON has them."""

from typing import Annotated

from pydantic import BeforeValidator

__all__ = ["WholeNumber"]


def _as_whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WholeNumber = Annotated[int, BeforeValidator(_as_whole)]
"""An integer of JSON Schema, for which 96.0 is one, and true is none."""
