"""The reader of Excel's workbooks, .xlsx: the first sheet that has anything."""

import datetime
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from clip_text.data.text_files import open_file
from clip_text.errors import DataError, needs


def workbook_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Place (``"row 3"``) and cells of each row of the first sheet that is not empty, as texts.

    Whole numbers have no ``.0``, formulas their last result, cells that are empty none.

    Raises:
        NoFileError: If there is no file that can be read.
        DataError: If it is no workbook.
        MissingPackageError: If ``openpyxl`` is not installed; the message says what to run.
    """
    with needs("clip-text[xlsx]", str(path)):
        from openpyxl import load_workbook  # noqa: PLC0415  (optional)
    with open_file(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of styles and extensions that have no text
        try:
            workbook = load_workbook(file, read_only=True, data_only=True)
            rows = _first_rows(workbook.worksheets)
        except Exception as error:  # noqa: BLE001  (damaged workbooks raise almost anything)
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"expected a workbook at {path}, got: {reason}. Save it as .xlsx again, or as csv."
            ) from None
    filled = [at for row in rows for at, cell in enumerate(row, 1) if cell is not None]
    width = max(filled, default=0)
    for number, row in enumerate(rows, 1):
        yield f"row {number}", [_text(cell) for cell in (*row, *[None] * width)[:width]]


def _first_rows(sheets: Iterable[Any]) -> list[tuple[Any, ...]]:
    for sheet in sheets:
        rows = list(sheet.iter_rows(values_only=True))
        if any(cell is not None for row in rows for cell in row):
            return rows
    return []


def _text(cell: Any) -> str:  # noqa: ANN401  (whatever a cell holds)
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        return cell.date().isoformat()
    return str(cell)
