"""Suggestions over HTTP."""

from typing import Literal

from pydantic import BaseModel, Field

__all__ = ["SuggestResponse", "Suggestion"]


class Suggestion(BaseModel):
    """Something that is said of pictures."""

    text: str = Field(description="To be searched for.", examples=["红色的心"])
    kind: Literal["caption", "tag", "name"] = Field(
        description="What it is: a caption, a text of the metadata, the name of a file."
    )
    count: int = Field(description="Of how many pictures it is said.", examples=[3])
    field: str | None = Field(
        description="Of the metadata, for a tag; null for others.", examples=["tags"]
    )


class SuggestResponse(BaseModel):
    """What completes what was typed, best first."""

    suggestions: list[Suggestion] = Field(description="At most limit.")
