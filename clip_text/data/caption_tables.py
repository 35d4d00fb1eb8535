"""The reader of captions in tables: csv, tsv and Excel's .xlsx."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from clip_text.data.captions import CAPTION_COLUMNS, IMAGE_COLUMNS, NEGATIVES, Record
from clip_text.data.collection import Problem, entry
from clip_text.data.tables import Row, Table, find_columns, read_table
from clip_text.errors import DataError
from clip_text.images import EXTENSIONS

_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,14})?")
_SWALLOWED = re.compile(
    rf"[\r\n][^\r\n,;\t]+(?:{'|'.join(map(re.escape, sorted(EXTENSIONS)))})[,;\t]", re.IGNORECASE
)
"""Within a caption, a line that begins with a picture's name and a separator: a row of its own."""


def table_records(
    path: Path,
    kinds: Sequence[str] | None,
    image_field: str | None,
    problems: list[Problem] | None = None,
    *,
    whole: bool = False,
) -> list[Record]:
    """Read a table with a header; see :mod:`clip_text.data.tables`.

    Args:
        path: One row for each caption; a picture may have several, one after the other or not.
        kinds: Columns that hold captions; the first there is of CAPTION_COLUMNS if not given. Of
            several columns some may be empty in a row. A column ``negatives`` may hold one caption
            that looks right and is wrong.
        image_field: Column of the file name; one of IMAGE_COLUMNS if not given.
        problems: A list to be told of bad rows, instead of an error at the first of them.
        whole: Read the other columns, too, plain numbers as numbers, and rows or tables without
            a caption.

    Raises:
        NoFileError: If there is no file that can be read.
        DataError: If the header lacks a column or has one twice, a row has another number of
            fields or no file name, or quotes don't match.
    """
    records: list[Record] = []
    table = read_table(path, problems)
    image_at = _column(table, (image_field,) if image_field else IMAGE_COLUMNS)
    captions = {kind: _column(table, (kind,)) for kind in kinds or ()}
    if not kinds and not (whole and not find_columns(CAPTION_COLUMNS, table.header)):
        captions[""] = _column(table, CAPTION_COLUMNS)
    wrong = find_columns((NEGATIVES,), table.header)
    wrong_at = table.header.index(wrong[0]) if wrong else None
    told = {image_at, wrong_at, *captions.values()}
    others = {name: at for at, name in enumerate(table.header) if name and at not in told}
    columns = _Columns(image_at, captions, wrong_at, others if whole else None)
    for row in table.rows:
        with entry(problems, row.place):
            _check_row(path, row, table.header[image_at], image_at)
            records.append(_record(row, columns))
    return records


class _Columns(NamedTuple):
    """Where what stands: numbers of columns."""

    image: int
    captions: Mapping[str, int]
    negatives: int | None
    others: Mapping[str, int] | None


def _record(row: Row, columns: _Columns) -> Record:
    fields, others = row.fields, None
    captions = {kind: [fields[at]] for kind, at in columns.captions.items() if fields[at].strip()}
    if columns.others is None:
        # a row of nothing but blanks is told as a caption without words
        captions = captions or {kind: [""] for kind in columns.captions}
    else:
        there = ((name, fields[at].strip()) for name, at in columns.others.items())
        others = {name: _value(text) for name, text in there if text}
    wrong_at = columns.negatives
    wrong = [fields[wrong_at]] if wrong_at is not None and fields[wrong_at].strip() else []
    return Record(fields[columns.image].strip(), captions, row.place, wrong, others)


def _value(text: str) -> str | int | float:
    """Take for a number what is written as JSON writes one; 007 and 1,5 are texts."""
    if not _NUMBER.fullmatch(text):
        return text
    return float(text) if "." in text else int(text)


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
