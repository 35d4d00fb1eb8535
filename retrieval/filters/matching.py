"""What a filter means: the reference that every engine's answer is held against."""

import operator
from collections.abc import Callable
from typing import Any

from retrieval.filters.dates import interval_of
from retrieval.filters.tree import (
    And,
    Compare,
    Exists,
    Filter,
    In,
    Leaf,
    Not,
    Or,
    Prefix,
    Scalar,
    check_size,
)
from retrieval.filters.values import TEXT, Value, as_value, stored_name, values_of
from retrieval.records import Picture, Record

__all__ = ["FieldsOf", "matches"]

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def matches(where: Filter, record: Record) -> bool:
    """Say whether a filter holds of a picture. A field that it has not got is no error here.

    Raises:
        QueryError: If the filter is too deep or too large.
    """
    check_size(where)
    return FieldsOf(record.picture).satisfy(where)


class FieldsOf:
    """The fields of one picture."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self.metadata = values_of(picture.metadata)
        """The values of each field of its metadata."""

    def satisfy(self, where: Filter) -> bool:
        """Say whether a filter, one that has been checked, holds."""
        match where:
            case And():
                return all(self.satisfy(operand) for operand in where.operands)
            case Or():
                return any(self.satisfy(operand) for operand in where.operands)
            case Not():
                return not self.satisfy(where.operand)
            case _:
                return self._satisfy_leaf(where)

    def _satisfy_leaf(self, where: Leaf) -> bool:
        match where:
            case Exists():
                return self._has(where.field)
            case Compare():
                return self._compares(where)
            case In():
                return any(
                    self._compares(Compare(where.field, "=", value)) for value in where.values
                )
            case Prefix():
                return any(
                    kind == TEXT and str(value).startswith(where.prefix)
                    for kind, value in self.values(where.field)
                )

    def _has(self, field: str) -> bool:
        name = stored_name(field)
        if name is None:
            return bool(self.values(field))
        return any(held == name or held.startswith(f"{name}.") for held in self.metadata)

    def _compares(self, where: Compare) -> bool:
        values = self.values(where.field)
        if where.field == "date":
            return any(_compares_date(value, where) for _, value in values)
        wanted = as_value(where.value)
        if where.op == "=":
            return wanted in values
        if where.op == "!=":
            return bool(values) and wanted not in values
        compare = _ORDERS[where.op]
        return any(kind == wanted[0] and compare(value, wanted[1]) for kind, value in values)

    def values(self, field: str) -> set[Value]:
        """Give the values of a field, an own one or one of the metadata."""
        name = stored_name(field)
        if name is not None:
            return self.metadata.get(name, set())
        image_id = self._picture.image_id
        own: dict[str, Scalar] = {
            "path": image_id,
            "folder": image_id.rpartition("/")[0],
            "date": self._picture.mtime_ns,
            "width": self._picture.width,
            "height": self._picture.height,
            "caption": self._picture.caption,
        }
        value = own[field]
        return set() if value is None else {as_value(value)}


def _compares_date(mtime_ns: float | str, where: Compare) -> bool:
    """Compare a moment with a span: it is after one only where it is after all of it."""
    start, end = interval_of(where.value)
    assert isinstance(mtime_ns, int)
    return {
        "=": start <= mtime_ns < end,
        "!=": not start <= mtime_ns < end,
        "<": mtime_ns < start,
        "<=": mtime_ns < end,
        ">": mtime_ns >= end,
        ">=": mtime_ns >= start,
    }[where.op]
