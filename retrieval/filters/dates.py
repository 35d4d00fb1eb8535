"""Dates in filters: a text in ISO 8601 names a span of time, as long as it is vague."""

import calendar
import datetime
import re

from retrieval.errors import QueryError
from retrieval.filters.shown import shown

__all__ = ["interval_of", "moments_of"]

_FORM = re.compile(
    r"(?P<year>\d{4})(-(?P<month>\d\d)(-(?P<day>\d\d)"
    r"(T(?P<hour>\d\d)(:(?P<minute>\d\d)(:(?P<second>\d\d)([.,](?P<fraction>\d{1,9}))?)?)?"
    r"(?P<zone>Z|[+-]\d\d(:?\d\d)?)?)?)?)?",
    re.ASCII,
)
_SECOND = 1_000_000_000  # nanoseconds
_DAY_SECONDS = 86_400
_EPOCH = datetime.date(1970, 1, 1).toordinal()
_FIRST, _LAST = -(2**63), 2**63 - 1  # what the catalogue can store: the years 1677 to 2262


def interval_of(value: object) -> tuple[int, int]:
    """Tell when the span of time begins and ends that a date names.

    Args:
        value: ISO 8601 from the year down to fractions of a second, as ``2024``, ``2024-05`` or
            ``2024-05-01T10:30+08:00``; UTC where it names no zone. A year may be a number.

    Returns:
        Its first nanosecond since 1970 in UTC, and the first one after it.

    Raises:
        QueryError: If it is no date.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        text = f"{value:04}"
    else:
        text = value if isinstance(value, str) else ""
    match = _FORM.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        start, length = _span(match)
    except ValueError as error:
        raise QueryError(
            f"expected a date in ISO 8601, got {shown(value)}. Write it as 2024, 2024-05, "
            "2024-05-01 or 2024-05-01T10:30."
        ) from error
    return _clip(start), _clip(start + length)


def moments_of(op: str, value: object) -> tuple[tuple[str, int], ...]:
    """Write a comparison with a date as comparisons with moments, all of which must hold.

    A moment is after a span of time only where it is after all of it.

    Args:
        op: ``=``, ``<``, ``<=``, ``>`` or ``>=``.
        value: As :func:`interval_of` takes it.

    Returns:
        Operators, and nanoseconds since 1970 in UTC.

    Raises:
        QueryError: If it is no date.
    """
    start, end = interval_of(value)
    return {
        "=": ((">=", start), ("<", end)),
        "<": (("<", start),),
        "<=": (("<", end),),
        ">": ((">=", end),),
        ">=": ((">=", start),),
    }[op]


def _span(match: re.Match[str]) -> tuple[int, int]:
    """Give start and length in nanoseconds; ValueError for a day or an hour that is none."""
    year, month, day = (int(match[name] or 1) for name in ("year", "month", "day"))
    hour, minute, second = (int(match[name] or 0) for name in ("hour", "minute", "second"))
    datetime.time(hour, minute, second)
    seconds = (datetime.date(year, month, day).toordinal() - _EPOCH) * _DAY_SECONDS
    seconds += hour * 3600 + minute * 60 + second - _offset(match["zone"])
    fraction = match["fraction"]
    if fraction is not None:
        length = 10 ** (9 - len(fraction))
        return seconds * _SECOND + int(fraction) * length, length
    if match["second"] is not None:
        length = 1
    elif match["minute"] is not None:
        length = 60
    elif match["hour"] is not None:
        length = 3600
    elif match["day"] is not None:
        length = _DAY_SECONDS
    elif match["month"] is not None:
        length = calendar.monthrange(year, month)[1] * _DAY_SECONDS
    else:
        length = (366 if calendar.isleap(year) else 365) * _DAY_SECONDS
    return seconds * _SECOND, length * _SECOND


def _offset(zone: str | None) -> int:
    """Give the seconds that a zone is ahead of UTC."""
    if zone is None or zone == "Z":
        return 0
    hours, minutes = int(zone[1:3]), int(zone[3:].lstrip(":") or 0)
    datetime.time(hours, minutes)
    return (hours * 3600 + minutes * 60) * (-1 if zone[0] == "-" else 1)


def _clip(nanoseconds: int) -> int:
    return min(max(nanoseconds, _FIRST), _LAST)
