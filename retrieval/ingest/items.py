"""Pictures that come from elsewhere than a folder: what is asked of them, and how ids are read."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.catalogue.store import Store
from retrieval.errors import ItemError, ItemNotFoundError
from retrieval.features import check_unit_rows
from retrieval.protocols import Feature
from retrieval.records import Picture, Record, breaks_text, displayed

__all__ = [
    "Item",
    "check_caption",
    "check_feature",
    "check_id",
    "item_picture",
    "metadata_text",
    "resolve",
]

_MOST_ID_CHARACTERS = 1000
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A picture from elsewhere than a folder, and what is said of it.

    Its feature is the one given; else that of ``data``; else that of the file at ``path``. What
    is in ``data`` is not kept: where a picture is to be shown, it needs a path.

    Args:
        id: The caller's own id: one line of at most 1,000 characters. No two items share one.
        path: Where the picture lies.
        data: What is in its file; or a function that gives that, called when it is its turn, by
            any thread. A picture that cannot be read then is ValueError or OSError.
        feature: A unit row, [embed_dim], of the model of the index.
        caption: What the picture shows, in words.
        metadata: Anything else, as JSON has it.
    """

    id: str
    path: str | os.PathLike[str] | None = None
    data: bytes | Callable[[], bytes] | None = None
    feature: Feature | Sequence[float] | None = None
    caption: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Callable[[], Path | bytes] | None:
        """Give what gives its file, or what would be in it; None where it has neither."""
        data, path = self.data, self.path
        if isinstance(data, bytes):
            return lambda: data
        if data is not None:
            return data
        return None if path is None else lambda: Path(path)


def item_picture(item: Item) -> Picture:
    """Give what is stored of an item, as far as that needs no look at its picture.

    Raises:
        ItemError: If its id, caption or metadata cannot be kept.
    """
    try:
        path = None if item.path is None else os.fsencode(os.path.abspath(item.path))  # noqa: PTH100
    except ValueError as error:
        raise ItemError(
            f"expected a path, got {item.path!a} ({error}). Correct it, or leave it out."
        ) from error
    return Picture(
        root=None,
        path=path,
        image_id=check_id(item.id),
        size=None,
        mtime_ns=None,
        content_hash=None,
        width=None,
        height=None,
        caption=check_caption(item.caption),
        metadata=metadata_text(item.metadata),
    )


def check_id(image_id: object) -> str:
    """Give an id that can be kept, sent and printed.

    Raises:
        ItemError: If it is something else.
    """
    if not isinstance(image_id, str):
        raise ItemError(f"expected an id that is text, got {type(image_id).__name__}. Pass a str.")
    if not image_id or len(image_id) > _MOST_ID_CHARACTERS:
        raise ItemError(
            f"expected an id of 1 to {_MOST_ID_CHARACTERS} characters, got {len(image_id)}. "
            "Choose another."
        )
    if any(map(breaks_text, image_id)):
        raise ItemError(
            f"expected an id on one line, got {image_id!a}. Leave out line ends and other "
            "control characters."
        )
    return image_id


def check_feature(feature: object, image_id: str, embed_dim: int) -> Feature:
    """Give a finished feature as a unit row, float32 [embed_dim].

    Raises:
        ItemError: If it is not finite, no unit row, or of another width.
    """
    remedy = f"Give {image_id!r} the row that the index's model makes of the picture."
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
            row = np.asarray(feature, np.float32)
    except (TypeError, ValueError) as error:
        raise ItemError(f"expected a feature of numbers, got {error}. {remedy}") from error
    if row.ndim != 1:
        raise ItemError(
            f"expected a feature of shape [{embed_dim}], got {list(row.shape)}. {remedy}"
        )
    check_unit_rows(row[None], embed_dim, ItemError, remedy)
    return row


def check_caption(caption: object) -> str | None:
    """Give a caption that can be kept and sent.

    Raises:
        ItemError: If it is no text, or holds half of a surrogate pair.
    """
    if caption is None:
        return None
    if not isinstance(caption, str):
        raise ItemError(
            f"expected a caption that is text, got {type(caption).__name__}. Pass a str or None."
        )
    _check_unicode("a caption", caption)
    return caption


def metadata_text(metadata: object) -> str:
    """Write metadata as the JSON text that is stored.

    Raises:
        ItemError: If it is no mapping, or JSON cannot hold it.
    """
    if not isinstance(metadata, Mapping):
        raise ItemError(
            f"expected metadata that is a mapping, got {type(metadata).__name__}. Pass a dict."
        )
    try:
        text = json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ItemError(
            f"expected metadata that JSON can hold, got what it cannot: {error}. Use texts, finite "
            "numbers, booleans, None, lists and dicts."
        ) from error
    _check_unicode("metadata", text)
    return text


def resolve(catalogue: Store, ids: Iterable[str]) -> list[Record]:
    """Find the pictures that ids mean, each once.

    An id is that of an item; where no item has it, the path of a picture below its indexed
    folder, if only one folder has such a picture.

    Raises:
        ItemNotFoundError: If no picture has one of the ids.
        ItemError: If several have; or the ids are one text.
    """
    if isinstance(ids, str):
        raise ItemError("expected a list of ids, got one text. Wrap it in a list.")
    found: dict[int, Record] = {}
    missing: list[str] = []
    for image_id in ids:
        records = catalogue.find_id(check_id(image_id))
        if len(records) > 1:
            paths = [displayed(record.picture.path or b"") for record in records]
            raise ItemError(
                f"expected an id of one picture, got {image_id!r}, which is that of "
                f"{_some(paths)}. Remove it by its folder (--folder)."
            )
        if records:
            found[records[0].row] = records[0]
        else:
            missing.append(image_id)
    if missing:
        raise ItemNotFoundError(
            f"expected ids of pictures in the index, got {_some([repr(one) for one in missing])}. "
            "Nothing was changed; leave out what is not there."
        )
    return list(found.values())


def _check_unicode(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ItemError(
            f"expected {what} in Unicode, got {text[error.start : error.end]!a} in it. "
            "Leave out halves of surrogate pairs."
        ) from error


def _some(names: list[str]) -> str:
    rest = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")
