"""The reader of csv and tsv files."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from clip_text.data.captions import CAPTION_COLUMNS, IMAGE_COLUMNS, NEGATIVES, Record, utf8_lines
from clip_text.data.collection import Problem, entry
from clip_text.errors import DataError


def table_records(
    path: Path,
    kinds: Sequence[str] | None,
    image_field: str | None,
    problems: list[Problem] | None = None,
) -> list[Record]:
    """Read a csv or tsv file with a header, quoted as Python's csv module and pandas do it.

    Args:
        path: One row for each caption; a picture may have several, one after the other or not.
        kinds: Columns that hold captions; the first there is of :data:`CAPTION_COLUMNS` if not
            given. Of several columns some may be empty in a row. A column ``negatives`` may
            hold one caption that looks right and is wrong.
        image_field: Column of the file name; one of :data:`IMAGE_COLUMNS` if not given.
        problems: A list to be told of bad rows, instead of an error at the first of them.

    Raises:
        DataError: If the header lacks a column or has one twice, a row has another number of
            fields or no file name, or quotes don't match.
    """
    records: list[Record] = []
    dialect = "excel-tab" if path.suffix.lower() == ".tsv" else "excel"
    lines = utf8_lines(path, newline="", problems=problems)
    rows = csv.reader((line for _, line in lines), dialect, strict=True)
    try:
        header = [column.strip() for column in next(rows, [])]
        image_at = _column(path, header, (image_field,) if image_field else IMAGE_COLUMNS)
        columns = (
            {kind: _column(path, header, (kind,)) for kind in kinds}
            if kinds
            else {"": _column(path, header, CAPTION_COLUMNS)}
        )
        wrong_at = header.index(NEGATIVES) if NEGATIVES in header else None
        start = rows.line_num + 1
        for row in rows:
            place, start = f"line {start}", rows.line_num + 1
            if row:
                with entry(problems, place):
                    _check_row(path, place, row, header, image_at)
                    records.append(_record(row, place, image_at, columns, wrong_at))
    except csv.Error as error:
        with entry(problems, f"line {rows.line_num}"):
            raise DataError(
                f"expected a table in {path}, got a broken line {rows.line_num}: {error}. Mend it."
            ) from None
    return records


def _record(
    row: Sequence[str],
    place: str,
    image_at: int,
    columns: Mapping[str, int],
    wrong_at: int | None,
) -> Record:
    captions = {kind: [row[at]] for kind, at in columns.items() if row[at].strip()}
    # a row of nothing but blanks is told as a caption without words
    captions = captions or {kind: [""] for kind in columns}
    wrong = [row[wrong_at]] if wrong_at is not None and row[wrong_at].strip() else []
    return Record(row[image_at].strip(), captions, place, wrong)


def _column(path: Path, header: Sequence[str], names: Sequence[str]) -> int:
    found = [name for name in names if name in header]
    if not found or header.count(found[0]) > 1:
        number = f"{header.count(found[0])} of that name" if found else "none"
        raise DataError(
            f"expected one column {' or '.join(names)} in the header of {path}, got {number}. "
            f"The columns there are: {', '.join(header) or 'none'}."
        )
    return header.index(found[0])


def _check_row(
    path: Path, place: str, row: Sequence[str], header: Sequence[str], image_at: int
) -> None:
    if len(row) != len(header):
        raise DataError(
            f"expected {len(header)} fields in {path}, {place}, as in the header, "
            f"got {len(row)}. Quote what holds the separator."
        )
    if not row[image_at].strip():
        raise DataError(
            f"expected a file name in column {header[image_at]!r} of {path}, {place}, got none. "
            "Mend the line."
        )
