"""The reader of captions in tables: csv, tsv and Excel's .xlsx."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from clip_text.data.captions import CAPTION_COLUMNS, IMAGE_COLUMNS, NEGATIVES, Record
from clip_text.data.collection import Problem, entry
from clip_text.data.tables import Row, Table, find_columns, read_table
from clip_text.errors import DataError
from clip_text.images import EXTENSIONS

_SWALLOWED = re.compile(
    rf"[\r\n][^\r\n,;\t]+(?:{'|'.join(map(re.escape, sorted(EXTENSIONS)))})[,;\t]", re.IGNORECASE
)
"""Within a caption, a line that begins with a picture's name and a separator: a row of its own."""


def table_records(
    path: Path,
    kinds: Sequence[str] | None,
    image_field: str | None,
    problems: list[Problem] | None = None,
) -> list[Record]:
    """Read a table with a header; see :mod:`clip_text.data.tables`.

    Args:
        path: One row for each caption; a picture may have several, one after the other or not.
        kinds: Columns that hold captions; the first there is of CAPTION_COLUMNS if not given. Of
            several columns some may be empty in a row. A column ``negatives`` may hold one caption
            that looks right and is wrong.
        image_field: Column of the file name; one of IMAGE_COLUMNS if not given.
        problems: A list to be told of bad rows, instead of an error at the first of them.

    Raises:
        NoFileError: If there is no file that can be read.
        DataError: If the header lacks a column or has one twice, a row has another number of
            fields or no file name, or quotes don't match.
    """
    records: list[Record] = []
    table = read_table(path, problems)
    image_at = _column(table, (image_field,) if image_field else IMAGE_COLUMNS)
    columns = (
        {kind: _column(table, (kind,)) for kind in kinds}
        if kinds
        else {"": _column(table, CAPTION_COLUMNS)}
    )
    wrong = find_columns((NEGATIVES,), table.header)
    wrong_at = table.header.index(wrong[0]) if wrong else None
    for row in table.rows:
        with entry(problems, row.place):
            _check_row(path, row, table.header[image_at], image_at)
            records.append(_record(row, image_at, columns, wrong_at))
    return records


def _record(row: Row, image_at: int, columns: Mapping[str, int], wrong_at: int | None) -> Record:
    fields = row.fields
    captions = {kind: [fields[at]] for kind, at in columns.items() if fields[at].strip()}
    # a row of nothing but blanks is told as a caption without words
    captions = captions or {kind: [""] for kind in columns}
    wrong = [fields[wrong_at]] if wrong_at is not None and fields[wrong_at].strip() else []
    return Record(fields[image_at].strip(), captions, row.place, wrong)


def _column(table: Table, names: Sequence[str]) -> int:
    found = find_columns(names, table.header)
    number = sum(table.header.count(name) for name in found)
    if number != 1:
        raise DataError(
            f"expected one column {' or '.join(names)} in the header of {table.path}, "
            f"got {f'{number} of that name' if number else 'none'}. "
            f"The columns there are: {', '.join(table.header)}."
        )
    return table.header.index(found[0])


def _check_row(path: Path, row: Row, column: str, image_at: int) -> None:
    if not row.fields[image_at].strip():
        raise DataError(
            f"expected a file name in column {column!r} of {path}, {row.place}, got none. "
            "Mend the line."
        )
    if any(_SWALLOWED.search(field) for field in row.fields):
        raise DataError(
            f"expected a quotation mark that is closed in its field in {path}, {row.place}, got "
            'one that swallows the rows behind it. Write a mark that is text as "", in a quoted '
            "field."
        )
