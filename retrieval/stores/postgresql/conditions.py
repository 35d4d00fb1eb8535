"""Filters as SQL: one condition on the line ``i`` of a picture, and what stands for its ``%s``.

Every name and value of a filter goes to the server as a parameter; the conditions hold nothing but
what stands in this file. Each is true or false, never null, so that ``NOT`` means what it says.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from retrieval.filters.dates import moments_of
from retrieval.filters.tree import And, Compare, Exists, Filter, In, Leaf, Not, Or, Prefix
from retrieval.filters.values import TEXT, as_value, stored_name

__all__ = ["OWN", "Condition", "condition_of"]

Condition = tuple[str, tuple[Any, ...]]
"""SQL, and what stands for its ``%s``."""

OWN = {
    "path": "i.image_id",
    "folder": "i.folder",
    "date": "i.mtime_ns",
    "width": "i.width",
    "height": "i.height",
    "caption": "i.caption",
}
"""Where a picture's line has what every picture has beside its metadata."""

_FEW = 16  # texts of a list that are compared one by one, so that each is looked up
_INDEXED = {"path"}  # by their beginnings, as texts of metadata are


def condition_of(where: Filter, names: Mapping[str, int]) -> Condition:
    """Write a filter as a condition.

    Args:
        where: One that was checked.
        names: The number of each field of metadata that there is.
    """
    if isinstance(where, Not):
        sql, values = condition_of(where.operand, names)
        return f"NOT ({sql})", values
    if isinstance(where, And | Or):
        parts = [condition_of(operand, names) for operand in where.operands]
        word = " AND " if isinstance(where, And) else " OR "
        joined = word.join(f"({sql})" for sql, _ in parts)
        return joined, tuple(value for _, values in parts for value in values)
    return _leaf(where, names)


def _leaf(leaf: Leaf, names: Mapping[str, int]) -> Condition:
    if isinstance(leaf, Exists):
        return _existing(leaf.field, names)
    if isinstance(leaf, Compare) and leaf.op == "!=":
        has, of_has = _having(leaf.field, names)
        equal, of_equal = _leaf(Compare(leaf.field, "=", leaf.value), names)
        return f"{has} AND NOT ({equal})", (*of_has, *of_equal)
    if leaf.field == "date":
        return _date(leaf)
    return _of_own(leaf) if leaf.field in OWN else _of_metadata(leaf, names)


def _having(field: str, names: Mapping[str, int]) -> Condition:
    """Hold where there is a value of a field itself."""
    if field in OWN:
        return f"{OWN[field]} IS NOT NULL", ()
    return _stored("f.name = %s", _name(field, names))


def _existing(field: str, names: Mapping[str, int]) -> Condition:
    """Hold where there is a value of a field or of one under it."""
    if field in OWN:
        return _having(field, names)
    name = stored_name(field)
    wanted = [
        number for held, number in names.items() if held == name or held.startswith(f"{name}.")
    ]
    return _stored("f.name = ANY(%s::int[])", wanted)


def _date(leaf: Leaf) -> Condition:
    if isinstance(leaf, In):
        parts = [_date(Compare("date", "=", value)) for value in leaf.values]
        joined = " OR ".join(f"({sql})" for sql, _ in parts)
        return joined, tuple(value for _, values in parts for value in values)
    assert isinstance(leaf, Compare)
    moments = moments_of(leaf.op, leaf.value)
    condition = " AND ".join(f"i.mtime_ns {op} %s" for op, _ in moments)
    values = tuple(moment for _, moment in moments)
    return f"i.mtime_ns IS NOT NULL AND {condition}", values


def _of_own(leaf: Leaf) -> Condition:
    column = OWN[leaf.field]
    sql, values = _compared(leaf, column, TEXT, is_indexed=leaf.field in _INDEXED)
    if leaf.field in {"width", "height"}:
        sql, values = _compared(leaf, column, None)
    return f"{column} IS NOT NULL AND ({sql})", values


def _of_metadata(leaf: Leaf, names: Mapping[str, int]) -> Condition:
    """Hold where a value of a field of metadata, in the table of them, fits."""
    name = _name(leaf.field, names)
    kinds: dict[int, Leaf]
    if isinstance(leaf, Prefix):
        kinds = {TEXT: leaf}
    elif isinstance(leaf, Compare):
        kinds = {as_value(leaf.value)[0]: leaf}
    else:
        assert isinstance(leaf, In)
        by_kind: dict[int, list[Any]] = {}
        for value in leaf.values:
            by_kind.setdefault(as_value(value)[0], []).append(value)
        kinds = {kind: In(leaf.field, tuple(values)) for kind, values in by_kind.items()}
    conditions = []
    for kind, of_kind in kinds.items():
        column = "f.text" if kind == TEXT else "f.number"
        sql, values = _compared(of_kind, column, kind, is_indexed=True)
        conditions.append(_stored(f"f.name = %s AND f.kind = {kind} AND ({sql})", name, *values))
    joined = " OR ".join(sql for sql, _ in conditions)
    return joined, tuple(value for _, values in conditions for value in values)


def _compared(leaf: Leaf, column: str, kind: int | None, *, is_indexed: bool = False) -> Condition:
    """Compare a column with a leaf's values.

    Args:
        leaf: Neither ``!=`` nor :class:`~retrieval.filters.Exists`.
        column: Of texts or numbers.
        kind: TEXT for texts.
        is_indexed: There is an index of the texts' beginnings, which is to be used.
    """
    is_text = kind == TEXT
    start = f'"left"({column}, 500)'
    if isinstance(leaf, Prefix):
        sql, values = f"starts_with({column}, %s::text)", (leaf.prefix,)
        return (
            (f'{start} ^@ "left"(%s::text, 500) AND {sql}', values * 2)
            if is_indexed
            else (
                sql,
                values,
            )
        )
    if isinstance(leaf, Compare):
        value = _operand(leaf.value)
        if not is_text:
            return f"{column} {leaf.op} %s::numeric", (value,)
        sql = f"{column} {leaf.op} %s::text"
        if not is_indexed:
            return sql, (value,)
        rough = leaf.op if leaf.op == "=" else f"{leaf.op[0]}="
        return f'{start} {rough} "left"(%s::text, 500) AND {sql}', (value, value)
    assert isinstance(leaf, In)
    if is_text and is_indexed and len(leaf.values) <= _FEW:
        parts = [
            _compared(Compare(leaf.field, "=", one), column, TEXT, is_indexed=True)
            for one in leaf.values
        ]
        joined = " OR ".join(f"({sql})" for sql, _ in parts)
        return joined, tuple(value for _, values in parts for value in values)
    kinds = "text" if is_text else "numeric"
    return f"{column} = ANY(%s::{kinds}[])", ([_operand(one) for one in leaf.values],)


def _operand(value: Any) -> Any:  # noqa: ANN401
    """Give a value as PostgreSQL compares it, digit for digit."""
    kind, plain = as_value(value)
    if kind == TEXT:
        return plain
    return Decimal(plain)


def _stored(condition: str, *values: Any) -> Condition:  # noqa: ANN401
    sql = f"EXISTS (SELECT FROM {{fields}} f WHERE f.row = i.row AND {condition})"
    return sql, values


def _name(field: str, names: Mapping[str, int]) -> int:
    name = stored_name(field)
    assert name is not None
    return names[name]
