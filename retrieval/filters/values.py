"""The values that a picture's fields have, in the one form in which all are compared."""

import json
import math
import sys
from collections import defaultdict
from typing import Any

from retrieval.filters.tree import OWN_FIELDS, Scalar

__all__ = [
    "BOOLEAN",
    "KINDS",
    "NULL",
    "NUMBER",
    "TEXT",
    "Value",
    "as_scalar",
    "as_value",
    "shown_name",
    "stored_name",
    "values_of",
]

NULL, BOOLEAN, NUMBER, TEXT = range(4)
KINDS = ("null", "true and false", "numbers", "texts")
"""What the values of each kind are called."""

Value = tuple[int, int | float | str]
"""Kind and value: only values of one kind are compared. Null and false are 0, true is 1."""

_METADATA = "metadata."


def stored_name(field: str) -> str | None:
    """Give the key of the metadata that a field's name means; None for an own field."""
    if field in OWN_FIELDS:
        return None
    return field.removeprefix(_METADATA)


def shown_name(stored: str) -> str:
    """Give the name by which filters ask for a key of the metadata."""
    hides = stored in OWN_FIELDS or stored.startswith(_METADATA)
    return f"{_METADATA}{stored}" if hides else stored


def as_value(scalar: Scalar) -> Value:
    """Bring a value into the form in which it is compared.

    Integers beyond 64 bits are floats, those beyond floats the outermost one.
    """
    if scalar is None:
        return NULL, 0
    if isinstance(scalar, bool):
        return BOOLEAN, int(scalar)
    if isinstance(scalar, str):
        return TEXT, scalar
    if isinstance(scalar, int) and not -(2**63) <= scalar < 2**63:
        try:
            return NUMBER, float(scalar)
        except OverflowError:
            most = sys.float_info.max  # not infinity: JSON and the scales of maps have none
            return NUMBER, most if scalar > 0 else -most
    return NUMBER, scalar


def as_scalar(kind: int, value: float | str) -> Scalar:
    """Give a value as JSON has it."""
    if kind == NULL:
        return None
    return bool(value) if kind == BOOLEAN else value


def values_of(metadata: str) -> dict[str, set[Value]]:
    """Read what values each field of a picture's metadata has.

    Keys of objects in one another are joined by dots. An array's elements are values of the field
    that the array stands under, its objects' fields likewise. Empty arrays and objects, NaN and
    infinite numbers are no value.

    Args:
        metadata: JSON text of one object; anything else has no fields.

    Returns:
        The values by the name of their field.
    """
    try:
        parsed = json.loads(metadata)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(parsed, dict):
        return {}
    fields: defaultdict[str, set[Value]] = defaultdict(set)
    waiting: list[tuple[str, Any]] = list(parsed.items())
    while waiting:  # no recursion: metadata may be as deep as JSON may be
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{name}.{key}", below) for key, below in value.items()]
        elif isinstance(value, list):
            waiting += [(name, element) for element in value]
        elif not isinstance(value, float) or math.isfinite(value):
            scalar = _storable(value) if isinstance(value, str) else value
            fields[_storable(name)].add(as_value(scalar))
    return dict(fields)


def _storable(text: str) -> str:
    """Put a mark for each half of a surrogate pair, which no database takes."""
    return text.encode("utf-8", "replace").decode()
