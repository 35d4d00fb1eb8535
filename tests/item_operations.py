"""What may be done to the items of an index: to an IndexWriter, and to a plain dict beside it.

Each operation chooses its arguments (JSON) by chance from what is there, does it, and tells the
model. Another kind of operation joins by one line in OPERATIONS.
"""

import contextlib
import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from fakes import FakeEncoder, as_stored
from PIL import Image

from retrieval.errors import IndexLockedError
from retrieval.index import Recipe, background, compact, lifecycle, seal_if_due
from retrieval.ingest import IndexWriter, Item

WIDTH = 16
ENCODER = FakeEncoder(WIDTH)
RECIPES = {
    "exact": Recipe("exact"),
    "lists": Recipe("IVF2,SQfp16", probes=2, candidates=32),  # so few rows it scores one by one
}
SEAL_EARLY = (
    (lifecycle, "_TAIL_ROWS", 8),
    (background, "_WORTH_A_LOOK", 5),
)
"""What is to be set where, so that few rows are sealed: at the end, and beside the writer."""


@dataclass(frozen=True)
class Entry:
    """What the index should hold under an id.

    Args:
        source: What the feature is made from: ``feature`` or ``data``, and a seed.
    """

    source: tuple[str, int]
    caption: str | None
    metadata: dict[str, Any]

    @property
    def feature(self) -> np.ndarray:
        """As the index gives it back, [WIDTH]."""
        kind, seed = self.source
        row = unit_row(seed) if kind == "feature" else _encode(png(seed))
        return as_stored(row)


Model = dict[str, Entry]


def unit_row(seed: int) -> np.ndarray:
    row = np.random.default_rng(seed).standard_normal(WIDTH)
    return (row / np.linalg.norm(row)).astype(np.float32)


def png(seed: int) -> bytes:
    """A picture's file that no other seed gives."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG", compress_level=0)
    return file.getvalue()


def _encode(data: bytes) -> np.ndarray:
    return ENCODER.encode_pixels([ENCODER.load_pixels(data)])[0]


def item_of(image_id: str, entry: Entry) -> Item:
    """What adds an entry."""
    kind, seed = entry.source
    given: dict[str, Any] = (
        {"feature": unit_row(seed)} if kind == "feature" else {"data": png(seed)}
    )
    return Item(image_id, caption=entry.caption, metadata=entry.metadata, **given)


def _entry(chance: random.Random) -> list[Any]:
    kind = chance.choice(["feature", "data"])
    caption = chance.choice([None, "一只猫", "狗 dog", ""])
    return [[kind, chance.randrange(10**9)], caption, {"n": chance.randrange(5), "标签": ["a"]}]


def _to_entry(values: list[Any]) -> Entry:
    source, caption, metadata = values
    return Entry((source[0], source[1]), caption, metadata)


@dataclass(frozen=True)
class Operation:
    """One kind of thing to do.

    Args:
        choose: Gives arguments, by chance and by the ids that are there; None if there is
            nothing to do it to.
        do: Does it; gives the writer that is open afterwards.
        tell: What it makes of the model.
    """

    choose: Callable[[random.Random, list[str]], list[Any] | None]
    do: Callable[[IndexWriter, list[Any]], IndexWriter]
    tell: Callable[[Model, list[Any]], Model]


def _choose_add(chance: random.Random, ids: list[str]) -> list[Any]:
    """Mostly under a new id; sometimes under one that is there."""
    count = chance.choice([1, 1, 1, 2, 7])
    old = chance.sample(ids, min(len(ids), count // 2 if count > 1 else chance.randrange(2)))
    new = [f"id-{chance.randrange(10**9)}" for _ in range(count - len(old))]
    return [[image_id, _entry(chance)] for image_id in dict.fromkeys(old + new)]


def _add(writer: IndexWriter, arguments: list[Any]) -> IndexWriter:
    writer.add_many(item_of(image_id, _to_entry(values)) for image_id, values in arguments)
    return writer


def _choose_update(chance: random.Random, ids: list[str]) -> list[Any] | None:
    return [chance.choice(ids), *_entry(chance)[1:]] if ids else None


def _update(writer: IndexWriter, arguments: list[Any]) -> IndexWriter:
    image_id, caption, metadata = arguments
    writer.update(image_id, caption=caption, metadata=metadata)
    return writer


def _tell_update(model: Model, arguments: list[Any]) -> Model:
    image_id, caption, metadata = arguments
    return model | {image_id: Entry(model[image_id].source, caption, metadata)}


def _choose_delete(chance: random.Random, ids: list[str]) -> list[Any] | None:
    # More than are added once there are many.
    most = max(1, len(ids) // 4)
    return chance.sample(ids, chance.randint(1, most)) if ids else None


def _delete(writer: IndexWriter, arguments: list[Any]) -> IndexWriter:
    writer.delete(arguments)
    return writer


def _reopen(writer: IndexWriter, arguments: list[Any]) -> IndexWriter:
    """Closing writes what is derived from the catalogue."""
    writer.close()
    return IndexWriter.open(writer.location, ENCODER)


def _seal(writer: IndexWriter, arguments: list[Any]) -> IndexWriter:
    """As every writer does at its end; the one beside this writer may be at it already."""
    seal_if_due(writer.location, writer._catalogue)
    return writer


def _choose_compact(chance: random.Random, ids: list[str]) -> list[Any]:
    return [chance.choice(list(RECIPES)) if len(ids) > 1 else "exact"]


def _compact(writer: IndexWriter, arguments: list[Any]) -> IndexWriter:
    with contextlib.suppress(IndexLockedError):  # the one beside this writer is at it
        compact(writer.location, RECIPES[arguments[0]])
    return writer


def _tell_nothing(model: Model, arguments: list[Any]) -> Model:
    return model


OPERATIONS = {
    "add": Operation(
        _choose_add, _add, lambda model, told: model | {key: _to_entry(one) for key, one in told}
    ),
    "update": Operation(_choose_update, _update, _tell_update),
    "delete": Operation(
        _choose_delete,
        _delete,
        lambda model, told: {key: one for key, one in model.items() if key not in told},
    ),
    "reopen": Operation(lambda chance, ids: [], _reopen, _tell_nothing),
    "seal": Operation(lambda chance, ids: [], _seal, _tell_nothing),
    "compact": Operation(_choose_compact, _compact, _tell_nothing),
}
