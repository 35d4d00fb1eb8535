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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, Protocol

from clip_text.data.captions import CAPTION_COLUMNS, IMAGE_COLUMNS, NEGATIVES, Record
from clip_text.data.collection import Problem, entry
from clip_text.data.tables import find_columns
from clip_text.errors import DataError, needs
from clip_text.images import ImageSource

IMAGE_ID = "image_id"

PICTURE_COLUMNS = ("image", "img", "jpg", "png", "image_bytes", *IMAGE_COLUMNS[1:])
"""Where pictures are looked for in a table that can hold them itself."""

_NO_UTF_8 = object()


class Rows(Protocol):
    """A table that is read column by column, and its pictures one by one.

    Args:
        source: Where it lies, for errors.
    """

    source: str

    @property
    def types(self) -> Mapping[str, Any]:
        """Arrow's type of each column."""
        ...

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, Any]]:
        """Number of the first row, and table, of a part at a time.

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


def arrow() -> ModuleType:
    """Import pyarrow.

    Raises:
        MissingPackageError: If it is not installed.
    """
    with needs("clip-text[data]", "Parquet files"):
        import pyarrow  # noqa: PLC0415  (optional)
    module: ModuleType = pyarrow
    return module


def read_rows(
    rows: Rows,
    folder: Path,
    kinds: Sequence[str] | None,
    image_field: str | None,
    problems: list[Problem] | None = None,
) -> tuple[list[Record], Mapping[str, ImageSource] | Path]:
    """Read what a table says of its pictures.

    Args:
        rows: The table.
        folder: What paths of pictures are relative to.
        kinds: Columns of captions; the first there is of CAPTION_COLUMNS if not given.
        image_field: Column of pictures; the first there is of :data:`PICTURE_COLUMNS` if not
            given.
        problems: A list to be told of bad rows, instead of an error at the first of them.

    Returns:
        Records, and their pictures by id, read when they are asked for; or the folder, where
        the column holds paths.

    Raises:
        DataError: If a column is not there or of another type, or a row has no picture or text
            that is no UTF-8; it names file and row.
    """
    columns = _choose(rows, kinds, image_field)
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


class _Columns(NamedTuple):
    """What to read: columns of captions by kind, all columns of text, and how pictures lie."""

    picture: str
    form: Literal["path", "bytes", "struct"]
    captions: dict[str, str]
    texts: list[str]
    has_ids: bool


def _choose(rows: Rows, kinds: Sequence[str] | None, image_field: str | None) -> _Columns:
    picture = _column(rows, (image_field,) if image_field else PICTURE_COLUMNS)
    form = _form(rows, picture)
    captions = (
        {kind: _column(rows, (kind,)) for kind in kinds}
        if kinds
        else {"": _column(rows, CAPTION_COLUMNS)}
    )
    texts = [*captions.values(), *([NEGATIVES] if NEGATIVES in rows.types else [])]
    for column in texts:
        _check_text(rows, column)
    return _Columns(picture, form, captions, texts, form != "path" and IMAGE_ID in rows.types)


def _records(
    rows: Rows, columns: _Columns, problems: list[Problem] | None
) -> Iterator[tuple[int, Record]]:
    """Row and record of each row; the record's id is empty where the picture has no name."""
    named_by = IMAGE_ID if columns.has_ids else columns.picture
    field = "path" if columns.form == "struct" and not columns.has_ids else None
    named = columns.has_ids or columns.form != "bytes"
    wanted = [*columns.texts, *([f"{named_by}.{field}" if field else named_by] if named else [])]
    for start, table in rows.batches(wanted):
        cells = {column: _values(table, column) for column in columns.texts}
        names = _values(table, named_by, field) if named else [""] * table.num_rows
        for at, name in enumerate(names):
            place, record = rows.place(start + at), None
            with entry(problems, place):
                texts = {column: _texts(cells[column][at], column, place) for column in cells}
                if name is None and not field:
                    raise DataError(
                        f"expected a value in column {named_by!r} of {place}, got none. "
                        "Mend or drop the row."
                    )
                captions = {kind: texts[column] for kind, column in columns.captions.items()}
                wrong = texts.get(NEGATIVES, [])
                record = Record("" if name is None else str(name), captions, place, wrong)
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
        value = self._rows.picture(self._column, row)
        if isinstance(value, dict):
            data, path = value.get("bytes"), value.get("path")
            value = self._folder / os.fspath(path) if data is None and path else data
        if not isinstance(value, bytes | Path):
            raise DataError(
                f"expected a picture in column {self._column!r} of {self._rows.place(row)}, "
                "got none. Mend or drop the row."
            )
        return value


def _column(rows: Rows, names: Sequence[str]) -> str:
    found = next(iter(find_columns(names, rows.types)), None)
    if found is None:
        raise DataError(
            f"expected a column {' or '.join(names)} in {rows.source}, got none. "
            f"The columns there are: {', '.join(rows.types) or 'none'}."
        )
    return found


def _form(rows: Rows, column: str) -> Literal["path", "bytes", "struct"]:
    types, kind = arrow().types, rows.types[column]
    if _is_text(kind):
        return "path"
    if _is_binary(kind):
        return "bytes"
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return "struct" if kind.get_field_index("path") >= 0 else "bytes"
    raise DataError(
        f"expected pictures (bytes, a struct of bytes and path, or paths) in column {column!r} of "
        f"{rows.source}, got the type {kind}. Name the column of pictures: image_field."
    )


def _check_text(rows: Rows, column: str) -> None:
    types, kind = arrow().types, rows.types[column]
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind = kind.value_type
    if not (_is_text(kind) or _is_binary(kind) or types.is_null(kind)):
        raise DataError(
            f"expected texts or lists of texts in column {column!r} of {rows.source}, got the "
            f"type {rows.types[column]}. The columns there are: {', '.join(rows.types)}."
        )


def _is_text(kind: Any) -> bool:  # noqa: ANN401
    types = arrow().types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return any(
        getattr(types, f"is_{name}")(kind) for name in ("string", "large_string", "string_view")
    )


def _is_binary(kind: Any) -> bool:  # noqa: ANN401
    types = arrow().types
    return any(
        getattr(types, f"is_{name}")(kind) for name in ("binary", "large_binary", "binary_view")
    )


def _values(table: Any, column: str, field: str | None = None) -> list[Any]:  # noqa: ANN401
    import pyarrow.compute as pc  # noqa: PLC0415  (optional)

    values = table.column(column)
    if field is not None and arrow().types.is_struct(values.type):
        values = pc.struct_field(values, field)
    try:
        return values.to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError:  # which does not say where
        return [_value(one) for one in values]


def _value(scalar: Any) -> object:  # noqa: ANN401
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return _NO_UTF_8


def _texts(value: object, column: str, place: str) -> list[str]:
    texts = [] if value is None else value if isinstance(value, list) else [value]
    try:
        return [
            one.decode("utf-8") if isinstance(one, bytes) else _known_text(one)
            for one in texts
            if one is not None
        ]
    except UnicodeDecodeError:
        raise DataError(
            f"expected UTF-8 in column {column!r} of {place}, got other bytes. Convert the text."
        ) from None


def _known_text(value: object) -> str:
    if not isinstance(value, str):  # types are checked before, so it is _NO_UTF_8
        raise UnicodeDecodeError("utf-8", b"", 0, 0, "")
    return value
