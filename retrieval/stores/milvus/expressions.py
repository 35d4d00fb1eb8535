"""Filters in the server's own language.

What stands in an expression is a name from this package, a whole number, or letters of hex in
quotes: nothing that anybody writes gets into one as it is.
"""

import math
from collections.abc import Callable, Iterable, Sequence

from retrieval.filters.dates import interval_of
from retrieval.filters.tree import And, Compare, Exists, Filter, In, Leaf, Not, Or, Prefix
from retrieval.filters.values import TEXT, Value, as_value, stored_name
from retrieval.stores.milvus.keys import LONGEST_TEXT, field_key, value_key
from retrieval.stores.milvus.schema import (
    HAVE,
    KIND_LETTERS,
    MANY,
    MOST_LISTED,
    NO_NUMBER,
    OWN,
    own_key,
)

__all__ = [
    "ALL",
    "NONE",
    "Evaluate",
    "all_of",
    "among_rows",
    "any_of",
    "expression_of",
    "has_field",
    "has_kind",
]

ALL, NONE = "row >= 0", "row < 0"
"""Hold of every picture, and of none."""

Evaluate = Callable[[Leaf, str], Iterable[int]]
"""Leaf, expression → the rows of those pictures, among the ones that the expression holds of, that
the leaf holds of."""

_FIRST, _LAST = NO_NUMBER + 1, 2**63 - 1  # that a column may have
_COLUMNS = {"date": "mtime_ns", "width": "width", "height": "height"}


def expression_of(where: Filter, evaluate: Evaluate) -> str:
    """Write a filter.

    Args:
        where: One that has been checked.
        evaluate: Called for the few conditions that the server cannot decide.
    """
    match where:
        case And():
            return all_of(*(expression_of(operand, evaluate) for operand in where.operands))
        case Or():
            return any_of(*(expression_of(operand, evaluate) for operand in where.operands))
        case Not():
            return f"not ({expression_of(where.operand, evaluate)})"
        case _ if where.field in _COLUMNS:
            return _of_column(where)
        case _:
            return _of_texts(where, evaluate)


def all_of(*conditions: str) -> str:
    """Join conditions that must all hold; all pictures, where there is none."""
    return _joined(conditions, "and") if conditions else ALL


def any_of(*conditions: str) -> str:
    """Join conditions of which one must hold; no picture, where there is none."""
    return _joined(conditions, "or") if conditions else NONE


def _joined(conditions: Sequence[str], word: str) -> str:
    """Join as a tree that is no deeper than it must be: the server goes down it, call by call."""
    if len(conditions) == 1:
        return conditions[0]
    half = len(conditions) // 2
    return f"({_joined(conditions[:half], word)}) {word} ({_joined(conditions[half:], word)})"


def among_rows(rows: Iterable[int], column: str = "row") -> str:
    """Hold of these rows, or of these values of another column of numbers."""
    return f"{column} in [{','.join(map(str, rows))}]"


def has_kind(field: str, kind: int) -> str:
    """Hold of the pictures with a value of a kind in a field of their metadata."""
    return f'exists said["{KIND_LETTERS[kind]}{field_key(stored_name(field) or "")}"]'


def has_field(field: str) -> str:
    """Hold of the pictures with a value of a field itself."""
    if field in _COLUMNS:
        return f"{_COLUMNS[field]} != {NO_NUMBER}"
    name = stored_name(field)
    if name is None:
        return f'exists said["{KIND_LETTERS[TEXT]}{own_key(field)}"]'
    return _holds(OWN, [field_key(name)])


def _of_column(leaf: Leaf) -> str:
    """Write a condition on a column of whole numbers."""
    column = _COLUMNS[leaf.field]
    match leaf:
        case In():
            each = [_bounds(Compare(leaf.field, "=", value)) for value in leaf.values]
            return any_of(*(_between(column, *bounds) for bounds in _merged(each)))
        case Compare(op="!="):
            equal = _of_column(Compare(leaf.field, "=", leaf.value))
            return f"{column} != {NO_NUMBER} and not ({equal})"
        case Compare():
            return _between(column, *_bounds(leaf))
        case _:
            return has_field(leaf.field)


def _bounds(leaf: Compare) -> tuple[int, int]:
    """Give the first whole number that a comparison holds of, and the first after all of them."""
    if leaf.field == "date":
        start, end = interval_of(leaf.value)
    else:
        _, number = as_value(leaf.value)
        assert not isinstance(number, str)
        start, end = math.ceil(number), math.floor(number) + 1  # empty for what is not whole
    return {
        "=": (start, end),
        "<": (_FIRST, start),
        "<=": (_FIRST, end),
        ">": (end, _LAST + 1),
        ">=": (start, _LAST + 1),
    }[leaf.op]


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join spans that touch; ascending."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _between(column: str, start: int, end: int) -> str:
    start, last = max(start, _FIRST), min(end - 1, _LAST)
    return f"{column} >= {start} and {column} <= {last}" if start <= last else NONE


def _of_texts(leaf: Leaf, evaluate: Evaluate) -> str:
    """Write a condition on what ``said`` has: metadata, path, folder and caption."""
    name = stored_name(leaf.field)
    key = own_key(leaf.field) if name is None else field_key(name)
    match leaf:
        case Exists():
            return has_field(leaf.field) if name is None else _holds(HAVE, [key])
        case In():
            by_kind: dict[int, list[str]] = {}
            for value in map(as_value, leaf.values):
                by_kind.setdefault(value[0], []).append(value_key(value))
            return any_of(
                *(_holds(KIND_LETTERS[kind] + key, keys) for kind, keys in by_kind.items())
            )
        case Prefix():
            return _begins(leaf, key, evaluate)
        case Compare():
            return _compares(leaf, key, evaluate)


def _compares(leaf: Compare, key: str, evaluate: Evaluate) -> str:
    value = as_value(leaf.value)
    list_key = KIND_LETTERS[value[0]] + key
    if leaf.op == "=":
        return _holds(list_key, [value_key(value)])
    has = has_field(leaf.field)
    if leaf.op == "!=":
        return f"({has}) and not ({_holds(list_key, [value_key(value)])})"
    if _is_long(value):
        return among_rows(evaluate(leaf, has))
    # some value is below this one if the least is; and likewise above
    place = (
        f'said["{list_key}"][0]'
        if leaf.op in {"<", "<="}
        else f'said["{list_key[0].upper()}{key}"]'
    )
    return f'(exists said["{list_key}"]) and ({place} {leaf.op} "{value_key(value)}")'


def _begins(leaf: Prefix, key: str, evaluate: Evaluate) -> str:
    """Look at the first texts of each list; where there are more, at the pictures themselves."""
    has = f'exists said["{KIND_LETTERS[TEXT]}{key}"]'
    if not leaf.prefix:
        return has
    if _is_long(as_value(leaf.prefix)):
        return among_rows(evaluate(leaf, has))
    begin = value_key((TEXT, leaf.prefix))
    places = range(1 if stored_name(leaf.field) is None else MOST_LISTED)
    listed = any_of(*(f'said["{KIND_LETTERS[TEXT]}{key}"][{at}] like "{begin}%"' for at in places))
    condition = f"({has}) and ({listed})"
    if stored_name(leaf.field) is None:
        return condition
    rest = list(evaluate(leaf, _holds(MANY, [key])))
    return any_of(condition, among_rows(rest)) if rest else condition


def _holds(list_key: str, keys: list[str]) -> str:
    """Hold where a list of ``said`` has one of these; nowhere, where there is no list."""
    quoted = ",".join(f'"{key}"' for key in dict.fromkeys(keys))
    has = f'(exists said["{list_key}"]) and '
    if len(keys) == 1:
        return f'{has}(json_contains(said["{list_key}"], {quoted}))'
    return f'{has}(json_contains_any(said["{list_key}"], [{quoted}]))'


def _is_long(value: Value) -> bool:
    kind, text = value
    return kind == TEXT and len(str(text).encode()) > LONGEST_TEXT
