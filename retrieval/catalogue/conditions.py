"""Conditions on one field as SQL: parameterised statements, and what a catalogue can be asked.

Every name and value of a filter goes to SQLite as a parameter; the statements hold nothing but
what stands in this file.
"""

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from retrieval.catalogue.fields import FOLDER
from retrieval.errors import QueryError
from retrieval.filters.dates import moments_of
from retrieval.filters.shown import clipped, shown
from retrieval.filters.tree import OWN_FIELDS, Compare, Exists, In, Leaf, Prefix, Scalar
from retrieval.filters.values import KINDS, NULL, TEXT, as_value, stored_name

__all__ = ["ALL", "COLUMNS", "Statement", "check_field", "check_leaf", "having", "statements_of"]

COLUMNS = {
    "path": "image_id",
    "folder": FOLDER,
    "date": "mtime_ns",
    "width": "width",
    "height": "height",
    "caption": "caption",
}
"""Where ``images`` has what every picture has beside its metadata."""

_LIST_PAGE = 500  # values of a list, or names, in one statement
_NAMES_SHOWN = 8
_BEFORE_SURROGATES, _AFTER_SURROGATES, _LAST_CHARACTER = 0xD7FF, 0xE000, 0x10FFFF


_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Statement:
    """Selects rows, as one text of numbers with commas between them."""

    sql: str
    values: tuple[float | str, ...] = ()


ALL = Statement("SELECT group_concat(row) FROM images")
"""Selects every picture."""


def having(field: str, names: Mapping[str, int]) -> Statement:
    """Select the pictures that have a value of a field itself."""
    if field in COLUMNS:
        return _own(f"{COLUMNS[field]} IS NOT NULL")
    return _stored("name = ?", _name(field, names))


def statements_of(leaf: Leaf, names: Mapping[str, int]) -> Iterator[Statement]:
    """Write a condition, one of ``!=`` excepted, as statements: it holds of what one selects.

    Args:
        leaf: The condition.
        names: The number of each field of metadata that there is.
    """
    match leaf:
        case Exists():
            yield from _existing(leaf.field, names)
        case Compare(field="date"):
            moments = moments_of(leaf.op, leaf.value)
            condition = " AND ".join(f"mtime_ns {op} ?" for op, _ in moments)
            yield _own(condition, *(moment for _, moment in moments))
        case In(field="date"):
            for value in leaf.values:
                yield from statements_of(Compare("date", "=", value), names)
        case Compare():
            yield _compared(leaf.field, f"{{}} {leaf.op} ?", names, *as_value(leaf.value))
        case Prefix():
            end = _end_of(leaf.prefix)
            condition = "{} >= ?" if end is None else "{} >= ? AND {} < ?"
            bounds = (leaf.prefix,) if end is None else (leaf.prefix, end)
            yield _compared(leaf.field, condition, names, TEXT, *bounds)
        case In():
            yield from _listed(leaf, names)


def check_leaf(leaf: Leaf, known: Mapping[str, Collection[int]]) -> None:
    """Refuse a condition that no picture can be asked about.

    Args:
        leaf: The condition.
        known: The kinds of the values of each field of metadata that there is.

    Raises:
        QueryError: If no picture has the field, or it has no values of the kind it is compared
            with.
    """
    name = stored_name(leaf.field)
    if name is None:
        return
    if isinstance(leaf, Exists):
        if not any(field == name or field.startswith(f"{name}.") for field in known):
            raise _unknown(leaf.field, known)
        return
    check_field(leaf.field, known)
    values = leaf.values if isinstance(leaf, In) else (_operand(leaf),)
    for value in values:
        kind = as_value(value)[0]
        if kind != NULL and kind not in known[name]:
            are = " or ".join(KINDS[held] for held in sorted(known[name]))
            raise QueryError(
                f"expected {are} for {clipped(leaf.field)}, as its values are, got {shown(value)}. "
                "Compare it with a value of that kind."
            )


def check_field(field: str, known: Mapping[str, Collection[int]]) -> None:
    """Refuse a field that no picture has a value of.

    Raises:
        QueryError: If so; the message names similar fields, or those that there are.
    """
    name = stored_name(field)
    if name is not None and name not in known:
        raise _unknown(field, known)


def _operand(leaf: Compare | Prefix) -> Scalar:
    return leaf.value if isinstance(leaf, Compare) else leaf.prefix


def _existing(field: str, names: Mapping[str, int]) -> Iterator[Statement]:
    """Select the pictures that have a value of a field or of one under it."""
    if field in COLUMNS:
        yield having(field, names)
        return
    name = stored_name(field)
    wanted = [
        number for held, number in names.items() if held == name or held.startswith(f"{name}.")
    ]
    for page in _pages(wanted):
        yield _stored(f"name IN ({_marks(page)})", *page)


def _listed(leaf: In, names: Mapping[str, int]) -> Iterator[Statement]:
    by_kind: dict[int, list[float | str]] = {}
    for kind, value in map(as_value, leaf.values):
        by_kind.setdefault(kind, []).append(value)
    for kind, values in by_kind.items():
        for page in _pages(values):
            yield _compared(leaf.field, f"{{}} IN ({_marks(page)})", names, kind, *page)


def _compared(
    field: str, condition: str, names: Mapping[str, int], kind: int, *values: float | str
) -> Statement:
    """Select by a condition whose ``{}`` stands for the value of a field."""
    if field in COLUMNS:
        return _own(condition.replace("{}", COLUMNS[field]), *values)
    condition = condition.replace("{}", "value")
    return _stored(f"name = ? AND kind = ? AND {condition}", _name(field, names), kind, *values)


def _own(condition: str, *values: float | str) -> Statement:
    return Statement(f"SELECT group_concat(row) FROM images WHERE {condition}", values)  # noqa: S608


def _stored(condition: str, *values: float | str) -> Statement:
    return Statement(f"SELECT group_concat(row) FROM fields WHERE {condition}", values)  # noqa: S608


def _name(field: str, names: Mapping[str, int]) -> int:
    name = stored_name(field)
    assert name is not None
    return names[name]


def _pages(values: list[_Value]) -> Iterator[list[_Value]]:
    for start in range(0, len(values), _LIST_PAGE):
        yield values[start : start + _LIST_PAGE]


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _end_of(prefix: str) -> str | None:
    """Give the first text after all that start with this one, in SQLite's order; None if none."""
    start = prefix.rstrip(chr(_LAST_CHARACTER))
    if not start:
        return None
    code = ord(start[-1])
    return start[:-1] + chr(_AFTER_SURROGATES if code == _BEFORE_SURROGATES else code + 1)


def _unknown(field: str, known: Collection[str]) -> QueryError:
    name = stored_name(field) or field
    under = sorted(held for held in known if held.startswith(f"{name}."))[:_NAMES_SHOWN]
    if similar := under or difflib.get_close_matches(name, [*known, *OWN_FIELDS]):
        remedy = f"Did you mean {' or '.join(map(clipped, dict.fromkeys(similar)))}?"
    else:
        there = [*sorted(known), *OWN_FIELDS]
        more = f" and {len(there) - _NAMES_SHOWN} more" if len(there) > _NAMES_SHOWN else ""
        remedy = f"There are {', '.join(map(clipped, there[:_NAMES_SHOWN]))}{more}."
    return QueryError(f"expected a field that some picture has, got {clipped(field)}. {remedy}")
