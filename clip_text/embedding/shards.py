"""Cuts a source into shards: fixed slices in its order, each the work of one worker at a time."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["Piece", "Reading", "Shard", "Source", "SourceFile", "SourceFormat", "cut"]

SourceFormat = Literal["parquet", "webdataset", "listing"]
"""What pictures are read from: rows of Parquet, samples of tars, lines that name files."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source.

    Args:
        place: Its path or URL.
        name: What it is called in ids; no two files of a source have the same.
        size: Bytes.
        tail: Digest of its last bytes.
        rows: Pictures it names; None of a tar, which would have to be read to count them.
        starts: Of a listing, the byte at which each ``stride`` lines begin; else empty.
        stride: How many lines that are.
    """

    place: str
    name: str
    size: int
    tail: str
    rows: int | None = None
    starts: tuple[int, ...] = field(default=(), repr=False)
    stride: int = 0

    @property
    def facts(self) -> list[Any]:
        """What tells it from another file, wherever it lies."""
        return [self.name, self.size, self.tail, self.rows]


@dataclass(frozen=True, slots=True)
class Reading:
    """How pictures are read from the files of a source; what workers have to know of it.

    Args:
        format: What its files are.
        folder: What names of pictures are relative to.
        has_several: Whether there are several files, so that ids name theirs.
        kinds: Fields of captions; the usual one if None.
        image_field: Field of the picture, if it has an uncommon name.
        id_field: Column of the ids, if not the usual one.
    """

    format: SourceFormat
    folder: str = ""
    has_several: bool = False
    kinds: tuple[str, ...] | None = None
    image_field: str | None = None
    id_field: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where pictures come from.

    Args:
        name: What was asked for, made whole.
        files: In the order in which they are read.
        reading: How.
    """

    name: str
    files: tuple[SourceFile, ...]
    reading: Reading

    @property
    def rows(self) -> int | None:
        """How many pictures it names; None where that is not known before they are read."""
        counts = [file.rows for file in self.files]
        return sum(count for count in counts if count is not None) if None not in counts else None

    def as_json(self) -> dict[str, Any]:
        """Say what it is, as JSON has it; shards depend on neither ``name`` nor ``folder``."""
        told = {**asdict(self.reading), "kinds": self.reading.kinds and list(self.reading.kinds)}
        files = [file.facts for file in self.files]
        return {"name": self.name, **told, "rows": self.rows, "files": files}


@dataclass(frozen=True, slots=True)
class Piece:
    """A slice of one file.

    Args:
        file: Which it is.
        first: Its first row, from 0.
        count: How many rows; None for all of a file that was not counted.
        start: Of a listing, the byte at which the first line begins.
    """

    file: SourceFile
    first: int
    count: int | None
    start: int = 0


@dataclass(frozen=True, slots=True)
class Shard:
    """What becomes one file of features.

    Args:
        number: From 0, in the order of the source.
        pieces: What it consists of.
    """

    number: int
    pieces: tuple[Piece, ...]

    @property
    def name(self) -> str:
        """What its files are called, without their endings."""
        return f"shard-{self.number:06d}"


def cut(source: Source, shard_size: int) -> Iterator[Shard]:
    """Cut a source into shards of so many pictures, over the borders of its files.

    A tar is a shard of its own, whatever its size: where its samples lie is known only by reading
    it from its beginning.

    Args:
        source: Its files, counted; of a listing with ``shard_size`` as the stride.
        shard_size: Pictures of a shard.
    """
    pieces: list[Piece] = []
    room, number = shard_size, 0
    for file in source.files:
        if file.rows is None:
            yield Shard(number, (Piece(file, 0, None),))
            number += 1
            continue
        first = 0
        while first < file.rows:
            count = min(room, file.rows - first)
            start = file.starts[first // file.stride] if file.stride else 0
            pieces.append(Piece(_slim(file), first, count, start))
            first, room = first + count, room - count
            if not room:
                yield Shard(number, tuple(pieces))
                pieces, room, number = [], shard_size, number + 1
    if pieces:
        yield Shard(number, tuple(pieces))


def _slim(file: SourceFile) -> SourceFile:
    """A file without what only the cutting needs: shards are sent to workers."""
    return SourceFile(file.place, file.name, file.size, file.tail, file.rows)
