"""What whoever runs the service decides: bounds, and what is allowed."""

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["DEFAULTS", "Settings"]


class Settings(BaseModel):
    """How a service behaves; what it serves is said beside it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = Field(default="clip-text", description="The name on the page and in /docs.")
    batch: int = Field(
        default=32, ge=1, description="How many searches, or texts, are computed together at most."
    )
    waiting: int = Field(
        default=128,
        ge=1,
        description="How many requests wait for their turn; those beyond are answered 429.",
    )
    patience_s: float = Field(
        default=0.5,
        gt=0,
        description="Seconds a request is to wait for its turn at most, by how long others have "
        "taken lately; one that would wait longer is answered 429.",
    )
    timeout_s: float = Field(
        default=30.0, gt=0, description="Seconds from which a request is answered 503."
    )
    body_bytes: int = Field(
        # room for the longest query with every character written as two \uXXXX escapes
        default=64 * 1024,
        ge=1024,
        description="Bytes of a request at most that holds no picture.",
    )
    upload_bytes: int = Field(
        default=32 * 1024 * 1024, ge=1024, description="Bytes of a request at most with pictures."
    )
    drain_s: float = Field(
        default=0.0,
        ge=0,
        description="Seconds for which a service told to end goes on, while /readyz is 503 and "
        "connections are closed after their answers.",
    )
    shutdown_s: float = Field(
        default=5.0,
        gt=0,
        description="Seconds that requests at work have then; those that take longer are 503.",
    )


DEFAULTS: Final = Settings()
"""What holds where nobody says otherwise."""
