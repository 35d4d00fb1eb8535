"""The indexes that a service answers from."""

from pydantic import BaseModel, Field

__all__ = ["CollectionField", "CollectionResponse", "CollectionsResponse"]


class CollectionField(BaseModel):
    """A field of the metadata."""

    name: str = Field(description="As filters and facets call it.", examples=["tags"])
    kind: str = Field(
        description="What its values are: text, number, boolean, null; mixed if several of these.",
        examples=["text"],
    )
    count: int = Field(description="How many pictures have it.", examples=[1_200])
    values: int = Field(description="How many different values they have.", examples=[57])


class CollectionResponse(BaseModel):
    """One index."""

    name: str = Field(description="As ?collection= has it.", examples=["default"])
    total: int = Field(description="How many pictures are indexed.", examples=[1_200])
    fingerprint: str = Field(
        description="Of the model that built it.", examples=["9b07ff2a5d1f0c3e8a6d4b7c1e2f3a45"]
    )
    embed_dim: int = Field(description="Numbers in a vector of it.", examples=[256])
    runtime: str | None = Field(
        description="What computes the queries; null where the service was not told.",
        examples=["openvino"],
    )
    writable: bool = Field(description="Whether items can be added and removed.", examples=[True])
    fields: list[CollectionField] = Field(description="Of the metadata, by name.")


class CollectionsResponse(BaseModel):
    """All indexes."""

    collections: list[CollectionResponse] = Field(
        description="The first answers where a request names none."
    )
