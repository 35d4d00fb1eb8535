"""What the cells of Arrow tables hold, and how they are read into Python's own values."""

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from clip_text.errors import DataError, needs

_NO_UTF_8 = object()


def arrow() -> ModuleType:
    """Import pyarrow.

    Raises:
        MissingPackageError: If it is not installed.
    """
    with needs("clip-text[data]", "Parquet files"):
        import pyarrow  # noqa: PLC0415  (optional)
    module: ModuleType = pyarrow
    return module


def holds_text(kind: Any) -> bool:  # noqa: ANN401
    """Say whether a column holds texts."""
    types = arrow().types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return any(
        getattr(types, f"is_{name}")(kind) for name in ("string", "large_string", "string_view")
    )


def holds_bytes(kind: Any) -> bool:  # noqa: ANN401
    """Say whether a column holds bytes."""
    types = arrow().types
    return any(
        getattr(types, f"is_{name}")(kind) for name in ("binary", "large_binary", "binary_view")
    )


def is_list(kind: Any) -> bool:  # noqa: ANN401
    """Say whether a column holds lists."""
    types = arrow().types
    return any(
        getattr(types, f"is_{name}")(kind) for name in ("list", "large_list", "fixed_size_list")
    )


def holds_features(kind: Any) -> bool:  # noqa: ANN401
    """Say whether a column holds lists of real numbers."""
    return is_list(kind) and bool(arrow().types.is_floating(kind.value_type))


def holds_plain(kind: Any) -> bool:  # noqa: ANN401
    """Say whether JSON can hold what a column holds; lists of real numbers are features."""
    types = arrow().types
    if is_list(kind):
        inner = kind.value_type
        return not (holds_features(kind) or is_list(inner)) and holds_plain(inner)
    plain = ("integer", "floating", "boolean", "decimal", "timestamp", "date", "time")
    return holds_text(kind) or any(getattr(types, f"is_{name}")(kind) for name in plain)


def plain_values(table: Any, columns: Sequence[str]) -> list[dict[str, Any]]:  # noqa: ANN401
    """Read what JSON can hold of some columns, row by row; nothing of empty cells.

    Times are written out; what is no number (NaN), or no UTF-8, is an empty cell.
    """
    rows: list[dict[str, Any]] = [{} for _ in range(table.num_rows)]
    for name in columns:
        for row, value in zip(rows, values_of(_written_out(table.column(name))), strict=True):
            is_number = not isinstance(value, float) or math.isfinite(value)
            if value not in (None, [], "") and value is not _NO_UTF_8 and is_number:
                row[name] = value
    return rows


def _written_out(column: Any) -> Any:  # noqa: ANN401
    """Times as texts and decimal numbers as floating ones, in lists, too."""
    pa = arrow()
    inner = column.type.value_type if is_list(column.type) else column.type
    if pa.types.is_decimal(inner):
        target = pa.float64()
    elif any(getattr(pa.types, f"is_{name}")(inner) for name in ("timestamp", "date", "time")):
        target = pa.string()
    else:
        return column
    return column.cast(pa.list_(target) if is_list(column.type) else target)


def values_of(values: Any) -> list[Any]:  # noqa: ANN401
    """Read a column; what is no UTF-8 stands as something that is neither text nor bytes."""
    try:
        return values.to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError:  # which does not say where
        return [_value(one) for one in values]


def _value(scalar: Any) -> object:  # noqa: ANN401
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return _NO_UTF_8


def texts_in(value: object, column: str, place: str) -> list[str]:
    """Read the texts in a cell: one, a list of them, or nothing; bytes count as UTF-8.

    Raises:
        DataError: If they are not in UTF-8.
    """
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
