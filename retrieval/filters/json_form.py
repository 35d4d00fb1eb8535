"""Filters as JSON, the form that programs send.

A condition on a field is ``{"field": NAME, "op": OP, "value": VALUE}``; ``op`` is one of
``= != < <= > >=``, ``in`` (its value is a list), ``startswith`` (a text) or ``exists`` (no
value). ``{"and": [...]}``, ``{"or": [...]}`` and ``{"not": {...}}`` join conditions::

    {"and": [{"field": "year", "op": ">=", "value": 2020},
             {"not": {"field": "tags", "op": "in", "value": ["海边", "雪"]}}]}
"""

from typing import Any

from retrieval.errors import QueryError
from retrieval.filters.shown import clipped, shown
from retrieval.filters.tree import (
    MAX_DEPTH,
    OPERATORS,
    And,
    Compare,
    Exists,
    Filter,
    In,
    Leaf,
    Not,
    Or,
    Prefix,
    check_size,
)

__all__ = ["OPS", "filter_as_json", "filter_from_json"]

OPS = (*OPERATORS, "in", "startswith", "exists")
"""What ``op`` may be."""

_JOINTS = ("and", "or", "not")


def filter_from_json(value: object) -> Filter:
    """Read a filter in its JSON form.

    Args:
        value: What a parser of JSON gives.

    Raises:
        QueryError: If it is none; the message says where.
    """
    where = _read(value, "where", 1)
    check_size(where)
    return where


def filter_as_json(where: Filter) -> dict[str, Any]:
    """Write a filter in its JSON form."""
    match where:
        case And():
            return {"and": [filter_as_json(operand) for operand in where.operands]}
        case Or():
            return {"or": [filter_as_json(operand) for operand in where.operands]}
        case Not():
            return {"not": filter_as_json(where.operand)}
        case _:
            return _leaf_as_json(where)


def _leaf_as_json(leaf: Leaf) -> dict[str, Any]:
    match leaf:
        case Exists():
            return {"field": leaf.field, "op": "exists"}
        case Compare():
            return {"field": leaf.field, "op": leaf.op, "value": leaf.value}
        case In():
            return {"field": leaf.field, "op": "in", "value": list(leaf.values)}
        case Prefix():
            return {"field": leaf.field, "op": "startswith", "value": leaf.prefix}


def _read(value: object, at: str, depth: int) -> Filter:
    if depth > MAX_DEPTH:
        raise QueryError(
            f"expected a filter of at most {MAX_DEPTH} conditions in one another, got more. "
            "Write it flatter."
        )
    if not isinstance(value, dict):
        raise _refuse(f"a condition in {at}", value, 'Send {"field": …, "op": …, "value": …}')
    joint = next((name for name in _JOINTS if name in value), None)
    if joint is None:
        return _read_leaf(value, at)
    if len(value) > 1:
        raise _refuse(f"{joint} alone in {at}", _other(value, joint), "Put conditions in one and")
    below = value[joint]
    if joint == "not":
        return Not(_read(below, f"{at}.not", depth + 1))
    if not isinstance(below, list) or not below:
        raise _refuse(f"a list of conditions in {at}.{joint}", below, "Give one or more")
    operands = tuple(
        _read(each, f"{at}.{joint}[{number}]", depth + 1) for number, each in enumerate(below)
    )
    return And(operands) if joint == "and" else Or(operands)


def _read_leaf(value: dict[str, Any], at: str) -> Filter:
    field, op = value.get("field"), value.get("op")
    if not isinstance(field, str):
        raise _refuse(f"the name of a field in {at}.field", field, "Name one as a text")
    if op not in OPS:
        raise _refuse(f"one of {' '.join(OPS)} in {at}.op", op, "Use one of them")
    wanted = {"field", "op"} if op == "exists" else {"field", "op", "value"}
    for key in wanted.symmetric_difference(value):
        if key in wanted:
            raise _refuse(
                f"a value in {at}.value", None, f"Say what {clipped(field)} is compared with"
            )
        raise _refuse(f"only {', '.join(sorted(wanted))} in {at}", str(key), "Leave it out")
    if op == "exists":
        return Exists(field)
    operand = value["value"]
    if op == "in":
        if not isinstance(operand, list):
            raise _refuse(f"a list in {at}.value", operand, "Use = for a single value")
        return In(field, tuple(operand))
    return Prefix(field, operand) if op == "startswith" else Compare(field, op, operand)


def _other(value: dict[str, Any], joint: str) -> str:
    return next(str(key) for key in value if key != joint)


def _refuse(expected: str, got: object, remedy: str) -> QueryError:
    said = "nothing" if got is None else shown(got)
    return QueryError(f"expected {expected}, got {said}. {remedy}.")
