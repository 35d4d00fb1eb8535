"""Records of Arrow tables: what the readers of Parquet and of Hugging Face's datasets share.

===============  ================================================================================
column           what it holds
===============  ================================================================================
picture          a file's bytes, Hugging Face's struct of ``bytes`` and ``path``, or a path
captions         a text, or a list of texts; bytes count as UTF-8
``image_id``     optional: rows of one id are one picture, which is the first one's
``negatives``    optional: a text or a list, captions that look right for the picture and are wrong
===============  ================================================================================

Rows count from 0, as in pandas and in datasets.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from clip_text.data.captions import CAPTION_COLUMNS, IMAGE_COLUMNS, NEGATIVES, Record
from clip_text.data.cells import (
    arrow,
    holds_bytes,
    holds_plain,
    holds_text,
    is_list,
    plain_values,
    texts_in,
    values_of,
)
from clip_text.data.collection import Problem, entry
from clip_text.data.tables import find_columns
from clip_text.errors import DataError
from clip_text.images import ImageSource

IMAGE_ID = "image_id"

PICTURE_COLUMNS = ("image", "img", "jpg", "png", "image_bytes", *IMAGE_COLUMNS[1:])
"""Where pictures are looked for in a table that can hold them itself."""

BATCH = 4096
"""Rows that are read at a time, where they are gone through in order."""

_PICTURES = 64  # that are read at a time


class Typed(Protocol):
    """A table whose columns are known.

    Args:
        source: Where it lies, for errors.
    """

    source: str

    @property
    def types(self) -> Mapping[str, Any]:
        """Arrow's type of each column."""
        ...


class Rows(Typed, Protocol):
    """A table that is read column by column, and its pictures one by one."""

    def batches(self, columns: Sequence[str], size: int = BATCH) -> Iterator[tuple[int, Any]]:
        """Number of the first row, and table, of at most so many rows at a time.

        Of a struct ``image`` the name ``image.path`` asks for one field: where that is as cheap,
        the whole struct may come instead.
        """
        ...

    def place(self, row: int) -> str:
        """Say where a row is, for errors: ``"train.parquet, row 3"``."""
        ...

    def name(self, row: int) -> str:
        """Name the picture of a row that has no name of its own: ``"train.parquet#3"``."""
        ...

    def picture(self, column: str, row: int) -> object:
        """Read one value. Safe to call from many threads at once."""
        ...


def read_rows(
    rows: Rows,
    folder: Path,
    kinds: Sequence[str] | None,
    image_field: str | None,
    problems: list[Problem] | None = None,
    *,
    whole: bool = False,
) -> tuple[list[Record], Mapping[str, ImageSource] | Path]:
    """Read what a table says of its pictures.

    Args:
        rows: The table.
        folder: What paths of pictures are relative to.
        kinds: Columns of captions; the first there is of CAPTION_COLUMNS if not given.
        image_field: Column of pictures; the first there is of :data:`PICTURE_COLUMNS` if not
            given.
        problems: A list to be told of bad rows, instead of an error at the first of them.
        whole: Read the other columns of texts, numbers, truth values, times and lists of these,
            too, and tables without captions.

    Returns:
        Records, and their pictures by id, read when they are asked for; or the folder, where
        the column holds paths.

    Raises:
        DataError: If a column is not there or of another type, or a row has no picture or text
            that is no UTF-8; it names file and row.
    """
    columns = choose_columns(rows, kinds, image_field, whole=whole)
    found = list(_records(rows, columns, problems))
    if columns.form != "path" and not columns.has_ids:
        names = [record.image for _, record in found]
        if not all(names) or len(set(names)) < len(names):
            found = [(row, replace(record, image=rows.name(row))) for row, record in found]
    records = [record for _, record in found]
    if columns.form == "path":
        return records, folder
    first: dict[str, int] = {}
    for row, record in found:
        first.setdefault(record.image, row)
    return records, RowImages(rows, columns.picture, first, folder)


class PictureColumns(NamedTuple):
    """What to read: columns of captions by kind, all columns of text, and how pictures lie.

    And columns of other things, where the whole of a row is wanted.
    """

    picture: str
    form: Literal["path", "bytes", "struct"]
    captions: dict[str, str]
    texts: list[str]
    has_ids: bool
    others: list[str] | None


def choose_columns(
    rows: Typed, kinds: Sequence[str] | None, image_field: str | None, *, whole: bool
) -> PictureColumns:
    """Choose what to read of a table of pictures; the arguments are :func:`read_rows`'s.

    Raises:
        DataError: If a column is not there or of another type.
    """
    picture = _column(rows, (image_field,) if image_field else PICTURE_COLUMNS)
    form = _form(rows, picture)
    captions = choose_captions(rows, kinds, whole=whole)
    texts = [*captions.values(), *([NEGATIVES] if NEGATIVES in rows.types else [])]
    for column in texts:
        _check_text(rows, column)
    has_ids = form != "path" and IMAGE_ID in rows.types
    named = [picture, *texts, *([IMAGE_ID] if has_ids else [])]
    return PictureColumns(
        picture, form, captions, texts, has_ids, other_columns(rows, named) if whole else None
    )


def choose_captions(rows: Typed, kinds: Sequence[str] | None, *, whole: bool) -> dict[str, str]:
    """Choose the columns of captions, by kind.

    Args:
        rows: The table.
        kinds: Their names; the first there is of CAPTION_COLUMNS if not given.
        whole: Accept that there is none then.

    Raises:
        DataError: If a column is not there.
    """
    if kinds:
        return {kind: _column(rows, (kind,)) for kind in kinds}
    if whole and not find_columns(CAPTION_COLUMNS, rows.types):
        return {}
    return {"": _column(rows, CAPTION_COLUMNS)}


def other_columns(rows: Typed, named: Sequence[str]) -> list[str]:
    """Name the columns that hold what JSON can, but for some that are read already."""
    return [name for name, kind in rows.types.items() if name not in named and holds_plain(kind)]


def _records(
    rows: Rows, columns: PictureColumns, problems: list[Problem] | None
) -> Iterator[tuple[int, Record]]:
    """Row and record of each row; the record's id is empty where the picture has no name."""
    named_by = IMAGE_ID if columns.has_ids else columns.picture
    field = "path" if columns.form == "struct" and not columns.has_ids else None
    named = columns.has_ids or columns.form != "bytes"
    wanted = [*columns.texts, *([f"{named_by}.{field}" if field else named_by] if named else [])]
    wanted += columns.others or []
    # where there is nothing beside the pictures, they are gone through to be counted
    parts = rows.batches(wanted) if wanted else rows.batches([columns.picture], _PICTURES)
    for start, table in parts:
        cells = {column: _values(table, column) for column in columns.texts}
        others = None if columns.others is None else plain_values(table, columns.others)
        names = _values(table, named_by, field) if named else [""] * table.num_rows
        for at, name in enumerate(names):
            place, record = rows.place(start + at), None
            with entry(problems, place):
                texts = {column: texts_in(cells[column][at], column, place) for column in cells}
                if name is None and not field:
                    raise DataError(
                        f"expected a value in column {named_by!r} of {place}, got none. "
                        "Mend or drop the row."
                    )
                captions = {kind: texts[column] for kind, column in columns.captions.items()}
                wrong = texts.get(NEGATIVES, [])
                other = others[at] if others else None
                record = Record("" if name is None else str(name), captions, place, wrong, other)
            if record is not None:
                yield start + at, record


class RowImages(Mapping[str, ImageSource]):
    """Pictures of a table by id; keeps their rows, and reads each when it is asked for.

    Args:
        rows: The table.
        column: Name of the column of pictures.
        row: Row of each picture, by its id.
        folder: What paths are relative to, where a row has a path and no bytes.
    """

    def __init__(self, rows: Rows, column: str, row: Mapping[str, int], folder: Path) -> None:
        self._rows, self._column, self._row, self._folder = rows, column, row, folder

    def __len__(self) -> int:
        return len(self._row)

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __contains__(self, image_id: object) -> bool:  # the mixin's would read the picture
        return image_id in self._row

    def __getitem__(self, image_id: str) -> ImageSource:
        row = self._row[image_id]
        return self._picture(self._rows.picture(self._column, row), row)

    def in_order(self) -> Iterator[tuple[str, Callable[[], ImageSource]]]:
        """Go through all pictures as the table has them, a few in memory at a time.

        Yields:
            Id of a picture, and what gives it, for any thread.
        """
        ids = {row: image_id for image_id, row in self._row.items()}
        for start, table in self._rows.batches([self._column], _PICTURES):
            for row, cell in enumerate(table.column(self._column), start):
                if row in ids:
                    yield ids[row], partial(self._cell, cell, row)

    def _cell(self, cell: Any, row: int) -> ImageSource:  # noqa: ANN401
        return self._picture(cell.as_py(), row)

    def _picture(self, value: object, row: int) -> ImageSource:
        if isinstance(value, dict):
            data, path = value.get("bytes"), value.get("path")
            value = self._folder / os.fspath(path) if data is None and path else data
        if not isinstance(value, bytes | Path):
            raise DataError(
                f"expected a picture in column {self._column!r} of {self._rows.place(row)}, "
                "got none. Mend or drop the row."
            )
        return value


def _column(rows: Typed, names: Sequence[str]) -> str:
    found = next(iter(find_columns(names, rows.types)), None)
    if found is None:
        raise DataError(
            f"expected a column {' or '.join(names)} in {rows.source}, got none. "
            f"The columns there are: {', '.join(rows.types) or 'none'}."
        )
    return found


def _form(rows: Typed, column: str) -> Literal["path", "bytes", "struct"]:
    types, kind = arrow().types, rows.types[column]
    if holds_text(kind):
        return "path"
    if holds_bytes(kind):
        return "bytes"
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return "struct" if kind.get_field_index("path") >= 0 else "bytes"
    raise DataError(
        f"expected pictures (bytes, a struct of bytes and path, or paths) in column {column!r} of "
        f"{rows.source}, got the type {kind}. Name the column of pictures: image_field."
    )


def _check_text(rows: Typed, column: str) -> None:
    types, kind = arrow().types, rows.types[column]
    if is_list(kind):
        kind = kind.value_type
    if not (holds_text(kind) or holds_bytes(kind) or types.is_null(kind)):
        raise DataError(
            f"expected texts or lists of texts in column {column!r} of {rows.source}, got the "
            f"type {rows.types[column]}. The columns there are: {', '.join(rows.types)}."
        )


def _values(table: Any, column: str, field: str | None = None) -> list[Any]:  # noqa: ANN401
    import pyarrow.compute as pc  # noqa: PLC0415  (optional)

    values = table.column(column)
    if field is not None and arrow().types.is_struct(values.type):
        values = pc.struct_field(values, field)
    return values_of(values)
