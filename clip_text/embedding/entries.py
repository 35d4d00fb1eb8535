"""The pictures of a shard, one after the other, as they are read from where they lie."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from clip_text.data.captions import CAPTION_COLUMNS, IMAGE_COLUMNS, Record, texts_of, without
from clip_text.data.cells import arrow, holds_text, plain_values, texts_in, values_of
from clip_text.data.collection import Problem
from clip_text.data.described import Described, what_is_said
from clip_text.data.rows import IMAGE_ID, PictureColumns, choose_columns, other_columns
from clip_text.data.tables import find_columns
from clip_text.data.webdataset import stream_tar
from clip_text.embedding.places import join, open_place, read_place
from clip_text.embedding.shards import Piece, Reading, Shard
from clip_text.errors import DataError

__all__ = ["Entry", "entries_of"]

_PICTURES = 64  # of a table that are read at a time

Load = Callable[[], Path | bytes]


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture that is to be encoded, or what was to be one.

    Args:
        image_id: The source's own id; empty where none is to be had.
        place: Where it is, for people: ``"train-0003.parquet, row 7"``.
        load: Gives its file, or what would be in it; called once, by any thread.
        reason: Why there is none; empty if there may be one.
        path: Its file or URL, where it has one of its own.
        caption: What it shows, in words.
        metadata: What else is said of it, as JSON has it.
    """

    image_id: str
    place: str
    load: Load | None
    reason: str = ""
    path: str | None = None
    caption: str | None = None
    metadata: str = "{}"


def entries_of(reading: Reading, shard: Shard) -> Iterator[Entry]:
    """Go through the pictures of a shard, in the order of the source.

    Raises:
        DataError: If a file of it cannot be read any more.
        OSError: As the file system has it.
    """
    read = {"parquet": _rows, "webdataset": _samples, "listing": _lines}[reading.format]
    for piece in shard.pieces:
        yield from read(reading, piece)


def _entry(image_id: str, place: str, load: Load, path: str | None, said: Described) -> Entry:
    """Make an entry, or one that says why what is said of it cannot be kept."""
    caption, others = what_is_said(said)
    try:
        metadata = json.dumps(others, ensure_ascii=False, allow_nan=False)
        for text in (image_id, caption or "", metadata, path or ""):
            text.encode()
    except UnicodeEncodeError as error:
        got = error.object[error.start : error.end]
        return Entry(ascii(image_id)[1:-1], place, None, f"expected Unicode, got {got!a}.")
    except (ValueError, TypeError) as error:
        return Entry(image_id, place, None, f"expected what JSON can hold, got: {error}.")
    if not image_id:
        return Entry("", place, None, "expected an id, got an empty one.")
    return Entry(image_id, place, load, "", path, caption, metadata)


# Tars


def _samples(reading: Reading, piece: Piece) -> Iterator[Entry]:
    file, kinds, odd = piece.file, reading.kinds, list[Problem]()
    prefix = f"{file.name}/" if reading.has_several else ""
    with open_place(file.place) as tar:
        samples = stream_tar(tar, file.place, kinds, odd)
        while True:
            try:
                one = next(samples, None)
            except DataError as error:  # what is whole of it was given
                yield Entry("", file.place, None, str(error))
                return
            if one is None:
                return
            if isinstance(one, Problem):
                yield Entry("", ", ".join(one.offenders), None, one.message)
                continue
            record, data = one
            said = _described(prefix + record.image, record)
            yield _entry(said.image_id, record.where, partial(_same, data), None, said)


def _described(image_id: str, record: Record) -> Described:
    said = Described(image_id)
    said.add(record.captions, record.others or {})
    return said


def _same(data: bytes) -> bytes:
    return data


# Lines


def _lines(reading: Reading, piece: Piece) -> Iterator[Entry]:
    assert piece.count is not None
    as_objects = piece.file.place.split("?")[0].lower().endswith(".jsonl")
    with open_place(piece.file.place) as file:
        file.seek(piece.start)
        for number, line in enumerate(islice(file, piece.count), piece.first + 1):
            place = f"{piece.file.name}, line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError:
                reason = "expected UTF-8, got other bytes. Save the file as UTF-8."
                yield Entry("", place, None, reason)
                continue
            if not text or (not as_objects and text.startswith("#")):
                continue
            try:
                said = _listed(reading, text, place) if as_objects else Described(text)
            except DataError as error:
                yield Entry("", place, None, str(error))
                continue
            where = join(reading.folder, said.image_id)
            yield _entry(said.image_id, place, partial(read_place, where), where, said)


def _listed(reading: Reading, text: str, place: str) -> Described:
    """The picture that a line names, and what it says of it."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise DataError(f"expected JSON in {place}, got: {error}. Mend the line.") from error
    if not isinstance(found, dict):
        raise DataError(f"expected an object in {place}, got {text[:40]}. Mend the line.")
    fields = (reading.image_field,) if reading.image_field else IMAGE_COLUMNS
    image = next(iter(find_columns(fields, found)), fields[0])
    name = found.get(image)
    if not isinstance(name, str) or not name:
        raise DataError(
            f"expected the name of a picture in field {image!r} of {place}, got {name!r}. "
            "Mend the line."
        )
    usual = find_columns(CAPTION_COLUMNS, found)[:1]
    by_kind = {kind: kind for kind in reading.kinds or ()} or dict(zip([""], usual, strict=False))
    texts = {kind: texts_of(field, found.get(field), place) for kind, field in by_kind.items()}
    said = Described(name)
    said.add(texts, without(found, image, *by_kind.values()))
    return said


# Rows


@dataclass(slots=True)
class _Table:
    """The columns of a Parquet file; see :class:`clip_text.data.rows.Typed`."""

    source: str
    types: dict[str, Any]


def _rows(reading: Reading, piece: Piece) -> Iterator[Entry]:
    pa = arrow()
    import pyarrow.parquet as pq  # noqa: PLC0415  (optional)

    file = piece.file
    assert piece.count is not None
    try:
        with open_place(file.place) as opened, pq.ParquetFile(opened, pre_buffer=False) as parquet:
            schema = parquet.schema_arrow
            table = _Table(file.place, dict(zip(schema.names, schema.types, strict=True)))
            columns = choose_columns(table, reading.kinds, reading.image_field, whole=True)
            named = _id_column(table, columns, reading.id_field)
            for row, batch in _batches(parquet, piece, _wanted(table, columns, named)):
                yield from _row_entries(reading, piece, columns, named, (row, batch))
    except pa.ArrowException as error:
        raise DataError(
            f"expected a Parquet file that can be read at {file.place}, got: "
            f"{' '.join(str(error).split())[:200]}. Download or write it again."
        ) from error


def _id_column(table: _Table, columns: PictureColumns, asked: str | None) -> str | None:
    """The column of ids; None where paths are them, or rows have none."""
    if asked is None:
        return IMAGE_ID if columns.has_ids else None
    kind = table.types.get(asked)
    if kind is None or not (holds_text(kind) or arrow().types.is_integer(kind)):
        raise DataError(
            f"expected a column {asked} of texts or whole numbers in {table.source}, got "
            f"{'none' if kind is None else kind}. The columns there are: {', '.join(table.types)}."
        )
    return asked


def _wanted(table: _Table, columns: PictureColumns, named: str | None) -> list[str]:
    first = [columns.picture, *columns.texts, *([named] if named else [])]
    others = other_columns(table, first)
    columns.others[:] = others  # type: ignore[index]  # a list where all is wanted
    return list(dict.fromkeys([*first, *others]))


def _batches(parquet: Any, piece: Piece, columns: Sequence[str]) -> Iterator[tuple[int, Any]]:  # noqa: ANN401
    """Number of the first row, and table, of a few rows at a time, of the row groups needed."""
    assert piece.count is not None
    end, at, groups, start = piece.first + piece.count, 0, [], None
    for number in range(parquet.metadata.num_row_groups):
        size = parquet.metadata.row_group(number).num_rows
        if at < end and at + size > piece.first:
            groups.append(number)
            start = at if start is None else start
        at += size
    at = start or 0
    parts = parquet.iter_batches(
        _PICTURES, row_groups=groups, columns=list(columns), use_threads=False
    )
    for part in parts:
        first, last = max(piece.first, at), min(end, at + part.num_rows)
        if first < last:
            whole = arrow().Table.from_batches([part])
            yield first, whole.slice(first - at, last - first)
        at += part.num_rows
        if at >= end:
            return


def _row_entries(
    reading: Reading,
    piece: Piece,
    columns: PictureColumns,
    named: str | None,
    part: tuple[int, Any],
) -> Iterator[Entry]:
    start, table = part
    cells = table.column(columns.picture)
    paths = values_of(cells) if columns.form == "path" else None
    ids = values_of(table.column(named)) if named else [None] * table.num_rows
    said = {kind: values_of(table.column(name)) for kind, name in columns.captions.items()}
    others = plain_values(table, columns.others or [])
    for at in range(table.num_rows):
        place = f"{piece.file.name}, row {start + at}"
        try:
            texts = {
                kind: texts_in(said[kind][at], name, place)
                for kind, name in columns.captions.items()
            }
            load, path = _picture(reading, columns, paths[at] if paths else cells[at], place)
        except DataError as error:
            yield Entry("", place, None, str(error))
            continue
        if named and not isinstance(ids[at], str | int):
            reason = f"expected an id in column {named!r}, got none in UTF-8. Mend the row."
            yield Entry("", place, None, reason)
            continue
        usual = path[0] if path else f"{piece.file.name}#{start + at}"
        one = Described(str(ids[at]) if named else usual)
        one.add(texts, others[at])
        yield _entry(one.image_id, place, load, path[1] if path else None, one)


def _picture(
    reading: Reading,
    columns: PictureColumns,
    cell: Any,  # noqa: ANN401
    place: str,
) -> tuple[Load, tuple[str, str] | None]:
    """What gives a row's picture; and its name and place, where it is a file of its own."""
    if columns.form == "path":
        name = cell
        if not isinstance(name, str) or not name:
            raise DataError(
                f"expected a path in column {columns.picture!r} of {place}, got none. "
                "Mend or drop the row."
            )
        where = join(reading.folder, name)
        return partial(read_place, where), (name, where)
    return partial(_content, reading, columns.picture, cell, place), None


def _content(reading: Reading, column: str, cell: Any, place: str) -> Path | bytes:  # noqa: ANN401
    """The picture in a cell, or the file that it names; taken out in the thread that decodes."""
    value = cell.as_py()
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
        if data is None and path:
            return read_place(join(reading.folder, path))
        value = data
    if not isinstance(value, bytes):
        raise DataError(
            f"expected a picture in column {column!r} of {place}, got none. Mend or drop the row."
        )
    return value
