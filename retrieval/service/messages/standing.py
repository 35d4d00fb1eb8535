"""What the service says of itself."""

from pydantic import BaseModel, Field


class HealthResponse(BaseModel):
    """The service is up."""

    status: str = Field(description="Always ok; a service that is down does not answer.")
    total: int = Field(description="How many pictures are indexed.", examples=[1_200])
    version: str = Field(description="The version of clip-text.", examples=["0.1.0"])


class VersionResponse(BaseModel):
    """What answers."""

    version: str = Field(description="The version of clip-text.", examples=["0.1.0"])
    fingerprint: str = Field(
        description="Of the model: only vectors of an equal one can be compared with the index's.",
        examples=["9b07ff2a5d1f0c3e8a6d4b7c1e2f3a45"],
    )
    embed_dim: int = Field(description="Numbers in a vector of the index.", examples=[256])
    runtime: str | None = Field(
        description="What computes the queries; null where the service was not told.",
        examples=["openvino"],
    )
    notes: list[str] = Field(
        description="What is worth knowing of all answers, such as that queries are computed in "
        "another precision than the pictures were; mostly empty.",
        examples=[[]],
    )


class ReloadResponse(BaseModel):
    """What is served now."""

    collections: dict[str, int] = Field(
        description="How many pictures each collection has.", examples=[{"default": 1_200}]
    )
