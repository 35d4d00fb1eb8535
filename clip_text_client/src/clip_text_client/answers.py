"""What the service answers, as dataclasses; what a newer one says beside is passed over."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

__all__ = [
    "Answer",
    "Collection",
    "Facet",
    "Field",
    "Folded",
    "Hit",
    "Item",
    "Label",
    "Outcome",
    "Suggestion",
    "read",
    "read_all",
]

Message = TypeVar("Message")


@dataclass(frozen=True, slots=True)
class Folded:
    """A near-duplicate of a hit.

    Args:
        score: Cosine of query and picture in [-1, 1].
        image_id: The picture's own name.
        row: Its number in the index.
    """

    score: float
    image_id: str
    row: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A picture that was found.

    Args:
        rank: Place in the answer; 1 is best.
        score: Cosine of query and picture in [-1, 1]; higher is better.
        image_id: The picture's own name.
        row: Its number in the index, by which ``Client.image`` gives it.
        caption: What is said of it; None without.
        metadata: What else is said of it.
        image_url: Address of the original, below the service's.
        thumbnail_url: Of a small WebP.
        missing: True if its file is gone.
        probability: That it is a right one, in [0, 1]; None without a calibration.
        recognised: The text that was read in it.
        word_score: BM25 of the query's words; None unless it was found by them.
        folded: Near-duplicates, where the query folds.
    """

    rank: int
    score: float
    image_id: str
    row: int
    caption: str | None
    metadata: Mapping[str, Any]
    image_url: str
    thumbnail_url: str
    missing: bool = False
    probability: float | None = None
    recognised: str | None = None
    word_score: float | None = None
    folded: Sequence[Folded] = field(default=(), metadata={"each": Folded})


@dataclass(frozen=True, slots=True)
class Facet:
    """A value of a field, and how many pictures have it."""

    value: str | float | bool | None
    count: int


@dataclass(frozen=True, slots=True)
class Label:
    """What a text may be, with its calibrated probability in [0, 1]."""

    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a search found.

    Args:
        hits: The best first.
        total: How many pictures are indexed.
        took_ms: Milliseconds that the service took.
        page: Names the order, where it is kept for further pages.
        category: What kind of query it is, where the model has a head for that.
        probability: That a right picture is among those searched; None without a calibration.
        nothing_matches: True if the hits are merely the nearest.
        facets: Of each field that was asked for, its commonest values.
    """

    hits: Sequence[Hit] = field(metadata={"each": Hit})
    total: int
    took_ms: float
    page: str | None = None
    category: Label | None = field(default=None, metadata={"one": Label})
    probability: float | None = None
    nothing_matches: bool = False
    facets: Mapping[str, Sequence[Facet]] = field(default_factory=dict, metadata={"of_each": Facet})


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a collection's metadata: its name, the kind of its values, how many have it."""

    name: str
    kind: str
    count: int


@dataclass(frozen=True, slots=True)
class Collection:
    """An index of the service.

    Args:
        name: What it is asked by.
        total: How many pictures it has.
        fingerprint: Of its model: rows of equal ones can be compared.
        embed_dim: Numbers in a row.
        runtime: What computes queries; None where the service does not say.
        writable: Whether pictures can be added.
        fields: Of its metadata.
    """

    name: str
    total: int
    fingerprint: str
    embed_dim: int
    runtime: str | None = None
    writable: bool = False
    fields: Sequence[Field] = field(default=(), metadata={"each": Field})


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Something that is said of pictures.

    Args:
        text: To be searched for.
        kind: ``caption``, ``tag`` or ``name``.
        count: Of how many pictures.
        field: Of the metadata, for a tag.
    """

    text: str
    kind: str
    count: int
    field: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """What is stored of a picture.

    Args:
        id: Its image_id.
        row: Its number in the index.
        caption: What it shows.
        metadata: What else is said of it.
        width: Pixels across.
        height: Pixels down.
        is_item: False for a picture of an indexed folder, which cannot be changed.
        missing: True if its file is gone.
    """

    id: str
    row: int
    caption: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    width: int | None = None
    height: int | None = None
    is_item: bool = True
    missing: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of one of several items.

    Args:
        id: The item's.
        status: What a request for it alone would have been answered; below 300 it is done.
        row: Its row, if it has one.
        error: ``type`` and ``message`` of what went wrong; None where nothing did.
    """

    id: str | None
    status: int
    row: int | None = None
    error: Mapping[str, str] | None = None


def read(message: type[Message], said: Mapping[str, Any]) -> Message:
    """Make a message of what was said in JSON.

    Raises:
        KeyError: If something is missing that the service has always said.
    """
    given: dict[str, Any] = {}
    for each in fields(message):  # type: ignore[arg-type]  # all messages are dataclasses
        if each.name not in said:
            if each.default is MISSING and each.default_factory is MISSING:
                raise KeyError(each.name)
            continue
        value = said[each.name]
        if "each" in each.metadata:
            value = tuple(read_all(each.metadata["each"], value))
        elif "of_each" in each.metadata:
            kind = each.metadata["of_each"]
            value = {name: tuple(read_all(kind, values)) for name, values in value.items()}
        elif "one" in each.metadata and value is not None:
            value = read(each.metadata["one"], value)
        given[each.name] = value
    return message(**given)


def read_all(message: type[Message], said: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Make a message of each."""
    return [read(message, one) for one in said]
