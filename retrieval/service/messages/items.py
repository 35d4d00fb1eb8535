"""Pictures that are added, changed and removed over HTTP."""

from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue
from pydantic_core import PydanticCustomError

from retrieval.service.messages.asked import Asked
from retrieval.service.messages.errors import ErrorDetail

__all__ = [
    "MAX_BULK",
    "MAX_REMOVED",
    "BulkOutcome",
    "BulkResponse",
    "ItemPatch",
    "NewItem",
    "RemovalRequest",
    "RemovalResponse",
    "StoredItem",
]

MAX_BULK: Final = 1_000
MAX_REMOVED: Final = 10_000
MAX_ID_CHARACTERS: Final = 1_000
MAX_CAPTION_CHARACTERS: Final = 10_000
MAX_NUMBERS: Final = 16_384  # of a feature: far more than any model's
MAX_DEPTH: Final = 100  # of metadata

_EXAMPLE: Final[dict[str, JsonValue]] = {
    "id": "shop/42",
    "path": "products/42.jpg",
    "caption": "红色的杯子",
    "metadata": {"tags": ["杯子"], "price": 25},
}


def _shallow(metadata: dict[str, Any]) -> dict[str, Any]:
    """Refuse metadata in which lists and objects stand in one another too deep."""
    level: list[Any] = [metadata]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return metadata
    raise PydanticCustomError(
        "too_deep", "Value should be nested at most {depth} deep", {"depth": MAX_DEPTH}
    )


Metadata = Annotated[dict[str, Any], AfterValidator(_shallow)]


class NewItem(Asked):
    """A picture to add. It has an image, a path or a feature, or an image or path and a feature."""

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE})

    id: str = Field(
        min_length=1,
        max_length=MAX_ID_CHARACTERS,
        description="Your own, on one line. The item that has it is replaced.",
        examples=["shop/42"],
    )
    image: str | None = Field(
        default=None,
        description="What is in its file, in base64, or as a data: address.",
        examples=[None],
    )
    path: str | None = Field(
        default=None,
        max_length=4_096,
        description="Where it lies on the service's machine, below a folder that the service may "
        "read; by default there is none.",
        examples=["products/42.jpg"],
    )
    feature: list[float] | None = Field(
        default=None,
        max_length=MAX_NUMBERS,
        fail_fast=True,  # else each number may be a mistake
        description="Its unit row, if it is finished; of the model that /version names.",
        examples=[None],
    )
    caption: str | None = Field(
        default=None,
        max_length=MAX_CAPTION_CHARACTERS,
        description="What it shows, in words.",
        examples=["红色的杯子"],
    )
    metadata: Metadata = Field(
        default={},
        description="Anything else; filters and facets know its keys.",
        examples=[{"tags": ["杯子"], "price": 25}],
    )


class ItemPatch(Asked):
    """What is to change, as a merge patch (RFC 7386): what is absent stays, null takes away."""

    model_config = ConfigDict(json_schema_extra={"example": {"metadata": {"price": 20}}})

    caption: str | None = Field(
        default=None,
        max_length=MAX_CAPTION_CHARACTERS,
        description="The new one; null takes it away.",
        examples=["蓝色的杯子"],
    )
    metadata: Metadata | None = Field(
        default=None,
        description="Keys to set; a key that is null is taken away, and so is all if this is.",
        examples=[{"price": 20, "sold": None}],
    )


class StoredItem(BaseModel):
    """A picture of the index."""

    id: str = Field(description="Its image_id.", examples=["shop/42"])
    row: int = Field(description="Its number in the index.", examples=[42])
    caption: str | None = Field(description="What it shows.", examples=["红色的杯子"])
    metadata: dict[str, Any] = Field(
        description="Anything else that is said of it.", examples=[{"tags": ["杯子"], "price": 25}]
    )
    bytes: int | None = Field(description="Of its file; null if unknown.", examples=[48_213])
    width: int | None = Field(description="Pixels across, as shown.", examples=[1_200])
    height: int | None = Field(description="Pixels down, as shown.", examples=[800])
    is_item: bool = Field(
        description="False for a picture of an indexed folder, which cannot be changed here.",
        examples=[True],
    )
    item_url: str = Field(description="Its own address.", examples=["/v1/items/shop/42"])
    image_url: str | None = Field(
        description="The original picture; null for one that was added without.",
        examples=["/v1/images/42"],
    )
    thumbnail_url: str | None = Field(
        description="A small WebP.", examples=["/v1/images/42/thumbnail"]
    )
    missing: bool = Field(description="True if its file is gone.", examples=[False])


class BulkOutcome(BaseModel):
    """What has become of one of several pictures."""

    id: str | None = Field(description="As it was sent; null if it had none.", examples=["shop/42"])
    status: int = Field(
        description="What a request for it alone would have been answered.", examples=[201]
    )
    row: int | None = Field(default=None, description="Its row, if it has one.", examples=[42])
    error: ErrorDetail | None = Field(default=None, description="Why not.", examples=[None])


class BulkResponse(BaseModel):
    """What has become of several pictures, in the order in which they were sent."""

    stored: int = Field(description="How many are in the index now.", examples=[1])
    failed: int = Field(description="How many are not.", examples=[0])
    items: list[BulkOutcome] = Field(description="Each one's outcome, in the order of the request.")


class RemovalRequest(Asked):
    """Pictures to forget."""

    ids: list[Annotated[str, Field(max_length=MAX_ID_CHARACTERS)]] = Field(
        max_length=MAX_REMOVED,
        fail_fast=True,  # else 10,000 mistakes would be told
        description="Their image_ids.",
        examples=[["shop/42", "shop/43"]],
    )


class RemovalResponse(BaseModel):
    """What has become of several pictures that were to be forgotten."""

    deleted: int = Field(description="How many are gone now.", examples=[1])
    failed: int = Field(description="How many are not, such as those that were not there.")
    items: list[BulkOutcome] = Field(description="Each one's outcome, in the order of the request.")
