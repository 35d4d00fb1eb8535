"""A filter as a small tree: what must hold of a picture for a search to consider it.

A tree of plain values and no strings of any query language: the catalogue compiles it to SQL, a
server engine may compile it to what it understands, :func:`~retrieval.filters.matches` says what
it means.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from retrieval.errors import QueryError
from retrieval.filters.dates import interval_of
from retrieval.filters.shown import clipped, shown

__all__ = [
    "MAX_CONDITIONS",
    "MAX_DEPTH",
    "MAX_VALUES",
    "OPERATORS",
    "OWN_FIELDS",
    "And",
    "Compare",
    "Exists",
    "Filter",
    "In",
    "Leaf",
    "Not",
    "Operator",
    "Or",
    "Prefix",
    "Scalar",
    "check_size",
    "leaves_of",
]

Scalar = str | int | float | bool | None
"""A value of metadata that is neither an array nor an object, as JSON has it."""

Operator = Literal["=", "!=", "<", "<=", ">", ">="]
"""How a value is compared with those of a field."""

OPERATORS: tuple[Operator, ...] = get_args(Operator)

OWN_FIELDS: dict[str, type] = {
    "path": str,
    "folder": str,
    "date": str,
    "width": float,
    "height": float,
    "caption": str,
}
"""What every picture has beside its metadata, and the type of its values: ``path`` is the
``image_id``, ``folder`` what stands before its last ``/``, ``date`` the file's modification in
UTC; width and height are in pixels. A key of the metadata with such a name is asked for with
``metadata.`` before it."""

MAX_DEPTH = 32
"""How deep conditions may stand in one another."""
MAX_CONDITIONS = 1_000
"""How many conditions a filter may have, those that join others counted as well."""
MAX_VALUES = 10_000
"""How many values all lists of a filter may have together."""


@dataclass(frozen=True, slots=True)
class Compare:
    """A value of the field stands so to this one.

    A field has all values that its key leads to, those in arrays included. ``!=`` holds where
    there are values and none equals this one; the other operators hold where one value does. A
    number never equals or exceeds a text.

    Args:
        field: A key of the metadata, with dots into nested objects, or one of ``OWN_FIELDS``.
        op: One of ``= != < <= > >=``.
        value: For ``date``, a moment or a span of time in ISO 8601 (``2024``, ``2024-05``,
            ``2024-05-01T10:30``), in UTC unless it says otherwise.

    Raises:
        QueryError: If the value is of a type that the field or the operator cannot have.
    """

    field: str
    op: Operator
    value: Scalar

    def __post_init__(self) -> None:
        _check_field(self.field)
        if self.op not in OPERATORS:
            raise QueryError(
                f"expected one of {' '.join(OPERATORS)} for {clipped(self.field)}, got "
                f"{shown(self.op)}. Use one of them."
            )
        _check_value(self.field, self.value)
        is_ordered = isinstance(self.value, str | int | float) and not isinstance(self.value, bool)
        if self.op not in {"=", "!="} and not is_ordered:
            raise QueryError(
                f"expected a number or a text after {clipped(self.field)} {self.op}, got "
                f"{shown(self.value)}. Compare it with = or !=."
            )


@dataclass(frozen=True, slots=True)
class In:
    """A value of the field is one of these.

    Args:
        field: As for :class:`Compare`.
        values: At least one; as for :class:`Compare`.

    Raises:
        QueryError: If there is none, or one is of a type that the field cannot have.
    """

    field: str
    values: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        _check_field(self.field)
        if not isinstance(self.values, tuple) or not self.values:
            raise QueryError(
                f"expected one value or more for {clipped(self.field)} in, got none. List some."
            )
        for value in self.values:
            _check_value(self.field, value)


@dataclass(frozen=True, slots=True)
class Prefix:
    """A value of the field is a text that starts with this one.

    Args:
        field: As for :class:`Compare`.
        prefix: Letter for letter; the empty one fits every text.

    Raises:
        QueryError: If it is no text, or the field has none.
    """

    field: str
    prefix: str

    def __post_init__(self) -> None:
        _check_field(self.field)
        if not isinstance(self.prefix, str) or self.field == "date":
            remedy = f"Ask for {clipped(self.field)} = …"
            raise QueryError(
                f"expected a text that values of {clipped(self.field)} start with, got "
                f"{shown(self.prefix)}. {remedy}."
            )
        _check_value(self.field, self.prefix)


@dataclass(frozen=True, slots=True)
class Exists:
    """The field has a value, or an object under it has; null is one, an empty list has none."""

    field: str

    def __post_init__(self) -> None:
        _check_field(self.field)


@dataclass(frozen=True, slots=True)
class Not:
    """The other one does not hold, for whatever reason."""

    operand: "Filter"

    def __post_init__(self) -> None:
        _check_operands("not", (self.operand,))


@dataclass(frozen=True, slots=True)
class And:
    """All of these hold; at least one."""

    operands: tuple["Filter", ...]

    def __post_init__(self) -> None:
        _check_operands("and", self.operands)


@dataclass(frozen=True, slots=True)
class Or:
    """One of these holds; at least one."""

    operands: tuple["Filter", ...]

    def __post_init__(self) -> None:
        _check_operands("or", self.operands)


Leaf = Compare | In | Prefix | Exists
"""A condition on one field."""

Filter = And | Or | Not | Leaf
"""What must hold of a picture."""


def check_counting(where: "Filter | None", limit: int) -> None:
    """Refuse to count values for a filter that is too large, or fewer than one of them.

    Raises:
        QueryError: If so.
    """
    if limit < 1:
        raise QueryError(f"expected a limit of at least 1, got {limit}. Ask for one or more.")
    if where is not None:
        check_size(where)


def check_size(where: Filter) -> None:
    """Refuse a filter that is too deep or too large to be worked on; not itself recursive.

    Raises:
        QueryError: If it is deeper than 32, or has more than 1,000 conditions or 10,000 values.
    """
    values = 0
    for conditions, (node, depth) in enumerate(_walk(where), start=1):
        values += len(node.values) if isinstance(node, In) else 1
        if depth > MAX_DEPTH:
            raise QueryError(
                f"expected a filter of at most {MAX_DEPTH} conditions in one another, got more. "
                "Write it flatter."
            )
        if conditions > MAX_CONDITIONS or values > MAX_VALUES:
            raise QueryError(
                f"expected a filter of at most {MAX_CONDITIONS} conditions and {MAX_VALUES} "
                "values, got more. Ask for less at once; a list (in) may stand for many =."
            )


def leaves_of(where: Filter) -> Iterator[Leaf]:
    """Go through the conditions on single fields."""
    for node, _ in _walk(where):
        if isinstance(node, Leaf):
            yield node


def _walk(where: Filter) -> Iterator[tuple[Filter, int]]:
    """Go through all conditions, with how deep they stand, from 1."""
    waiting: list[tuple[Filter, int]] = [(where, 1)]
    while waiting:
        node, depth = waiting.pop()
        yield node, depth
        if isinstance(node, Not):
            waiting.append((node.operand, depth + 1))
        elif isinstance(node, And | Or):
            waiting += [(operand, depth + 1) for operand in reversed(node.operands)]


def _check_field(field: object) -> None:
    if not isinstance(field, str) or not _is_text(field):
        raise QueryError(f"expected the name of a field, got {shown(field)}. Name one as a text.")


def _check_operands(name: str, operands: object) -> None:
    if not isinstance(operands, tuple) or not operands:
        raise QueryError(f"expected one condition or more for {name}, got none. Give some.")
    for operand in operands:
        if not isinstance(operand, Filter):
            raise QueryError(
                f"expected conditions for {name}, got {shown(operand)}. Build them from "
                "retrieval.filters."
            )


def _check_value(field: str, value: object) -> None:
    """Refuse what no value of a field can be."""
    if not isinstance(value, Scalar) or (isinstance(value, str) and not _is_text(value)):
        raise QueryError(
            f"expected a number, a text, true, false or null for {clipped(field)}, got "
            f"{shown(value)}. Several values go into a list (in)."
        )
    if isinstance(value, int | float) and not _is_finite(value):
        raise QueryError(
            f"expected a finite number for {clipped(field)}, got {shown(value)}. Name another."
        )
    own = OWN_FIELDS.get(field)
    if own is None:
        return
    if field == "date":
        interval_of(value)
    elif own is str and not isinstance(value, str):
        raise QueryError(
            f"expected a text for {clipped(field)}, got {shown(value)}. Put it in quotes."
        )
    elif own is float and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise QueryError(
            f"expected a number for {clipped(field)}, got {shown(value)}. Give its pixels."
        )


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer that no float comes near
        return False


def _is_text(text: str) -> bool:
    """Tell whether a text can be stored at all: half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
