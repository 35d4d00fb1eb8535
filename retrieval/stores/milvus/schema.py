"""How pictures lie in a collection, and what a collection says of itself.

A picture is one entity. Numbers that lookups ask for are columns, hashes among them; what is said
of it, in the form that filters compare, is the JSON ``said``; the picture itself stands in
``picture`` and its metadata, letter for letter, in ``metadata``. Texts stand in JSON rather than in
columns of their own, since the server plans its segments by the longest text that a column may
hold. Everything that a filter names is in hex, or a number: there is nothing to escape.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrieval.catalogue.halves import StoredFeature, encode
from retrieval.errors import ItemError
from retrieval.features import unit_rows
from retrieval.filters.matching import FieldsOf
from retrieval.filters.values import BOOLEAN, NULL, NUMBER, TEXT
from retrieval.protocols import Feature
from retrieval.records import Failure, Picture, Record, displayed_text
from retrieval.stores.milvus.keys import field_key, hash_of, hex_of, value_key

__all__ = [
    "FAILURE",
    "HAVE",
    "KIND_LETTERS",
    "MANY",
    "MOST_LISTED",
    "NOTE_COLUMNS",
    "NO_NUMBER",
    "OWN",
    "PICTURE_COLUMNS",
    "RECORD_FIELDS",
    "SCHEMA_VERSION",
    "SOURCE",
    "TICK",
    "Stored",
    "as_failure",
    "as_feature",
    "as_record",
    "entity_of",
    "note_of_failure",
    "note_of_nothing",
    "note_of_source",
    "note_row",
    "own_key",
    "path_hash",
]

SCHEMA_VERSION = 1
"""Of what follows; written beside each collection."""

NO_NUMBER = -(2**63) + 1
"""Stands in columns for what a picture has not got: 2.3 has no null."""

KIND_LETTERS = {NULL: "z", BOOLEAN: "b", NUMBER: "n", TEXT: "t"}
"""Begin the keys in ``said`` of ascending lists of a field's values; in capitals, of the last."""

HAVE, OWN, MANY = "have", "own", "many"
"""Keys in ``said``: fields that exist, those that have values themselves, lists too long for
:data:`MOST_LISTED`."""

MOST_LISTED = 12
"""How far into a list of texts conditions on beginnings look; longer ones are told apart."""

PICTURE_COLUMNS = (
    "root_hash",  # 0 for a picture that is of no folder
    "path_hash",
    "folder_hash",  # of what stands before the path's last separator
    "id_hash",
    "content_hash",
    "source_hash",  # of the data set's name; 0 for none
    "mtime_ns",
    "width",
    "height",
)
"""Columns of whole numbers, beside ``row`` and ``feature`` and three of JSON."""

RECORD_FIELDS = ["row", "picture", "metadata"]
"""What a record is read from."""

NOTE_COLUMNS = ("kind",)
FAILURE, SOURCE, TICK = 1, 2, 3
"""What a note is: a file set aside, the name of a data set, or nothing but written last."""

_MOST_JSON = 65_536 - 256  # bytes: what the server takes, and what it may spell longer


@dataclass(frozen=True, slots=True)
class Stored:
    """A picture as it lies in the collection.

    Args:
        record: The picture and its row.
        source: The data set that it is of; None if of none.
        feature: In the digits that are stored, [embed_dim]; None where it was not read.
    """

    record: Record
    source: str | None
    feature: StoredFeature | None = None


def own_key(field: str) -> str:
    """Give the key in ``said`` of a text that every picture has beside its metadata."""
    return f"_{field}"


def path_hash(path: bytes | None) -> int:
    """Hash a path for the column of it; 0 for none."""
    return 0 if path is None else hash_of(path)


def as_feature(feature: Feature | StoredFeature, embed_dim: int) -> Feature:
    """Turn a feature into the unit row that is stored: as an index in a folder would read it."""
    halves = np.frombuffer(encode(feature, embed_dim), "<f2")
    unit: Feature = unit_rows(halves[None])[0]
    return unit


def entity_of(row: int, picture: Picture, feature: Feature, source: str | None) -> dict[str, Any]:
    """Write a picture as an entity.

    Args:
        row: Its row.
        picture: What is said of it.
        feature: Its unit row, [embed_dim].
        source: The data set that it is of.

    Raises:
        ItemError: If more is said of it than the server holds of one picture.
    """
    folder = None
    if picture.root is not None and picture.path is not None:
        folder = picture.path.rpartition(b"/")[0]
    entity: dict[str, Any] = {
        "row": row,
        "feature": feature,
        "root_hash": path_hash(picture.root),
        "path_hash": path_hash(picture.path),
        "folder_hash": path_hash(folder),
        "id_hash": hash_of(picture.image_id.encode()),
        "content_hash": 0 if picture.content_hash is None else hash_of(picture.content_hash),
        "source_hash": 0 if source is None else hash_of(source.encode()),
        "mtime_ns": _number(picture.mtime_ns),
        "width": _number(picture.width),
        "height": _number(picture.height),
        "said": _said(picture),
        "picture": {
            "root": hex_of(picture.root),
            "path": hex_of(picture.path),
            "image_id": picture.image_id,
            "size": picture.size,
            "mtime_ns": picture.mtime_ns,
            "content_hash": hex_of(picture.content_hash),
            "width": picture.width,
            "height": picture.height,
            "caption": picture.caption,
            "source": source,
        },
        "metadata": {"text": picture.metadata},
    }
    for name in ("said", "picture", "metadata"):
        length = len(json.dumps(entity[name], ensure_ascii=False, separators=(",", ":")).encode())
        if length > _MOST_JSON:
            raise ItemError(
                f"expected at most {_MOST_JSON} bytes that are said of a picture, got {length} for "
                f"{displayed_text(picture.image_id)[:200]!r}: Milvus holds no more. Shorten its "
                "caption or metadata."
            )
    return entity


def as_record(entity: dict[str, Any]) -> Stored:
    """Read a picture from an entity with :data:`RECORD_FIELDS`, its feature if that is there."""
    said = entity["picture"]
    picture = Picture(
        root=_bytes(said["root"]),
        path=_bytes(said["path"]),
        image_id=said["image_id"],
        size=said["size"],
        mtime_ns=said["mtime_ns"],
        content_hash=_bytes(said["content_hash"]),
        width=said["width"],
        height=said["height"],
        caption=said["caption"],
        metadata=entity["metadata"]["text"],
    )
    feature = entity.get("feature")
    halves = None if feature is None else np.asarray(feature, np.float32).astype("<f2")
    return Stored(Record(int(entity["row"]), picture), said["source"], halves)


def note_of_failure(failure: Failure) -> dict[str, Any]:
    """Write a file that was set aside as a note."""
    content = {**failure._asdict(), "path": failure.path.hex()}
    return _note(FAILURE, failure.path, content)


def as_failure(note: dict[str, Any]) -> Failure:
    """Read a file that was set aside."""
    content = note["content"]
    return Failure(**{**content, "path": bytes.fromhex(content["path"])})


def note_of_source(name: str) -> dict[str, Any]:
    """Write the name of a data set as a note."""
    return _note(SOURCE, name.encode(), {"name": name})


def note_of_nothing() -> dict[str, Any]:
    """Write a note for the sake of the time at which the server writes it."""
    return _note(TICK, b"", {})


def note_row(kind: int, identity: bytes) -> int:
    """Give the row of a note: of a path for failures, of a name for data sets."""
    return hash_of(b"%d" % kind, identity)


def _note(kind: int, identity: bytes, content: dict[str, Any]) -> dict[str, Any]:
    return {
        "row": note_row(kind, identity),
        "feature": [1.0, 0.0],  # there is no collection without one
        "kind": kind,
        "content": content,
    }


def _said(picture: Picture) -> dict[str, Any]:
    """Write what filters compare."""
    fields = FieldsOf(picture)
    said: dict[str, Any] = {}
    have: set[str] = set()
    many: list[str] = []
    for field, values in fields.metadata.items():
        parts = field.split(".")
        have.update(field_key(".".join(parts[: end + 1])) for end in range(len(parts)))
        for kind, letter in KIND_LETTERS.items():
            alike = sorted(value for held, value in values if held == kind)
            if alike:
                key = field_key(field)
                keys = [value_key((kind, value)) for value in alike]
                said[letter + key] = keys
                said[letter.upper() + key] = keys[-1]
                if kind == TEXT and len(keys) > MOST_LISTED:
                    many.append(key)
    said[HAVE] = sorted(have)
    said[OWN] = sorted(map(field_key, fields.metadata))
    said[MANY] = many
    for own in ("path", "folder", "caption"):
        for value in fields.values(own):
            key = value_key(value)
            said[KIND_LETTERS[TEXT] + own_key(own)] = [key]
            said[KIND_LETTERS[TEXT].upper() + own_key(own)] = key
    return said


def _number(number: int | None) -> int:
    return NO_NUMBER if number is None else number


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)
