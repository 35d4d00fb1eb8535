"""The one reader of tables with a header: csv, tsv and Excel's .xlsx.

The separator is what the header shows: a comma, a semicolon (Excel where the comma is decimal), or
a tab. csv is quoted as Python's csv module, pandas and Excel do it. In a file with tabs quotation
marks are text, unless the file shows that they quote: see :func:`_quotes_by_tabs`.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from clip_text.data.collection import ROWS_OVER_LINES, Problem, entry
from clip_text.data.text_files import text_lines
from clip_text.data.workbooks import workbook_rows
from clip_text.errors import DataError

TABLES = (".csv", ".tsv", ".xlsx")
"""Endings of tables; Excel's "Unicode text" is a table with tabs, and a .txt: :func:`is_table`."""

SEPARATORS = {"\t": "a tab", ",": "a comma", ";": "a semicolon"}

_NAMED = re.compile(r"sep=(.)\s*", re.IGNORECASE)  # a first line that Excel takes
_PROPER = re.compile(r'"(?:[^"]|"")*"')


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table.

    Args:
        place: For errors: ``"line 3"``, where it begins, or ``"row 3"`` of a workbook.
        fields: Texts of the row's cells.
    """

    place: str
    fields: list[str]


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose header was read.

    Args:
        path: The file.
        header: Names of its columns, without blanks around them.
        rows: Those that are not blank, each with as many fields as the header; read as they are
            asked for.
    """

    path: Path
    header: list[str]
    rows: Iterator[Row]

    def records(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Place of each row, and its fields by column."""
        for row in self.rows:
            yield row.place, dict(zip(self.header, row.fields, strict=True))


def is_table(path: Path) -> bool:
    """Say whether a file is a table by its ending, or a .txt whose first line has tabs."""
    if path.suffix.lower() != ".txt":
        return path.suffix.lower() in TABLES
    return "\t" in next((line for _, line in text_lines(path, problems=[])), "")


def find_columns(names: Sequence[str], there: Iterable[str]) -> list[str]:
    """Find which of some names, in their order, columns or fields have: as spelt, or in any case.

    Args:
        names: Names to look for, the one preferred first.
        there: Names of the columns or fields that there are.

    Returns:
        The first name's columns if there are any, or else the second's, and so on; several if
        they differ by case alone and none is spelt as asked.
    """
    listed = list(there)
    for name in names:
        if name in listed:
            return [name]
    for name in names:
        if found := [one for one in listed if one.casefold() == name.casefold()]:
            return found
    return []


def read_table(path: Path, problems: list[Problem] | None = None) -> Table:
    """Read a table's header, and its rows as they are asked for.

    Args:
        path: The file.
        problems: A list to be told of bad rows, instead of an error at the first of them, and of
            rows that go over several lines.

    Raises:
        NoFileError: If there is no file that can be read.
        DataError: If there is no header. And while rows are asked for: if a row has another number
            of fields, or quotes don't match; it names the line.
        MissingPackageError: If ``openpyxl`` is needed and not installed.
    """
    separator, rows = _rows(path, problems)
    header = [name.strip() for name in next(rows, Row("", [])).fields]
    if not any(header):
        raise DataError(
            f"expected columns in the header of {path}, got none: it is empty. Check the file."
        )
    return Table(path, header, _checked(path, header, separator, rows, problems))


def table_rows(path: Path) -> Iterator[Row]:
    """Rows of a table from the first on, for one that may have no header.

    Raises:
        NoFileError: If there is no file that can be read.
        DataError: While rows are asked for: if quotes don't match.
    """
    return _rows(path, None)[1]


def _checked(
    path: Path,
    header: Sequence[str],
    separator: str,
    rows: Iterator[Row],
    problems: list[Problem] | None,
) -> Iterator[Row]:
    for row in rows:
        if len(row.fields) == len(header):
            yield row
            continue
        with entry(problems, row.place):
            raise DataError(
                f"expected {len(header)} fields in {path}, {row.place}, as in the header, "
                f"got {len(row.fields)}. Quote what holds the separator"
                f"{f' ({SEPARATORS.get(separator, separator)})' if separator else ''}."
            )


def _rows(path: Path, problems: list[Problem] | None) -> tuple[str, Iterator[Row]]:
    """The separator, and the rows that are not blank."""
    if path.suffix.lower() == ".xlsx":
        cells = (Row(place, fields) for place, fields in workbook_rows(path))
        return "", (row for row in cells if any(field.strip() for field in row.fields))
    lines = text_lines(path, newline="", problems=problems)
    first = next(lines, (1, ""))
    if named := _NAMED.fullmatch(first[1]):
        separator = named[1]
    else:
        separator = _separator(path, first[1])
        lines = chain([first], lines)
    quoted = separator != "\t" or _quotes_by_tabs(path)
    rows = _parsed(path, lines, separator, problems) if quoted else _split(lines)
    return separator, (row for row in rows if any(field.strip() for field in row.fields))


def _separator(path: Path, header: str) -> str:
    """Which separator a header has most of, outside of quotes; the ending's own if it has none."""
    bare = re.sub(r'"[^"]*"', "", header)
    usual = "," if path.suffix.lower() == ".csv" else "\t"
    if usual == "\t" and usual in bare:
        return usual
    return max((usual, *SEPARATORS), key=bare.count)


def _split(lines: Iterator[tuple[int, str]]) -> Iterator[Row]:
    for number, line in lines:
        yield Row(f"line {number}", line.rstrip("\r\n").split("\t"))


def _parsed(
    path: Path,
    lines: Iterator[tuple[int, str]],
    separator: str,
    problems: list[Problem] | None,
) -> Iterator[Row]:
    number = 0

    def texts() -> Iterator[str]:
        nonlocal number
        for number, line in lines:  # noqa: B007  (told to the rows)
            yield line

    rows = csv.reader(texts(), delimiter=separator, strict=True)
    while True:
        begun = number
        fields: list[str] | None = []  # a broken row that was told of counts as a blank one
        with entry(problems, f"line {begun + 1}"):
            try:
                fields = next(rows, None)
            except csv.Error as error:
                open_quote = "unexpected end" in str(error)
                raise DataError(
                    f"expected a table in {path}, got a broken line "
                    f"{begun + 1 if open_quote else number}: {error}. "
                    'Mend it: a quotation mark that is text is written "" in a quoted field.'
                ) from None
        if fields is None:
            return
        place = f"line {begun + 1}"
        if problems is not None and any("\n" in x or "\r" in x for x in fields):
            what = f"{place} to {number}"
            message = f"{path}: a row over several lines, {what}"
            problems.append(Problem(ROWS_OVER_LINES, message, (what,)))
        yield Row(place, fields)


def _quotes_by_tabs(path: Path) -> bool:
    """Say whether quotation marks in a file with tabs quote.

    They do if every field with a quotation mark is quoted properly: begins and ends with one, and
    doubles those within. One field that doubles them is proof enough, and what is not so is then
    broken. Without such proof, a mark that opens a field and does not close it may be text, or
    begin a field that goes on in the next line: whichever reading leaves fewer rows with another
    number of fields than the header counts; a file whose lines are all whole has no rows over
    several.
    """
    odd, broken, width = False, 0, 0
    for _, line in text_lines(path, newline="", problems=[]):
        fields = line.rstrip("\r\n").split("\t")
        width = width or len(fields)
        broken += fields != [""] and len(fields) != width
        for field in fields if '"' in line else ():
            if _PROPER.fullmatch(field):
                if '""' in field[1:-1]:
                    return True
            else:
                odd |= '"' in field
    return not odd or (broken > 0 and _broken_if_quoted(path, width) < broken)


def _broken_if_quoted(path: Path, width: int) -> float:
    """Count rows of another width than the header's, if quotes are read as csv has them."""
    lines = (line for _, line in text_lines(path, newline="", problems=[]))
    rows = csv.reader(lines, "excel-tab", strict=True)
    try:
        return sum(len(row) not in (0, width) for row in rows)
    except csv.Error:
        return float("inf")
