"""The one form of every error."""

from pydantic import BaseModel, Field


class ErrorDetail(BaseModel):
    """What went wrong."""

    type: str = Field(description="For programs; stable.", examples=["invalid_request"])
    message: str = Field(
        description="For people: expected what, got what, what to do.",
        examples=["expected top_k to be less than or equal to 200, got 5000. Ask for fewer."],
    )


class ErrorResponse(BaseModel):
    """The form of every error."""

    error: ErrorDetail
