"""The one promise every feature keeps: finite unit rows of one width."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import EncoderError, RetrievalError
from retrieval.protocols import Features, Rows

__all__ = ["Halves", "as_halves", "check_encoded", "check_unit_rows", "unit_rows", "widened"]

Halves = NDArray[np.float16]
"""Features as they are kept in files: their fp16 roundings, [n, embed_dim]."""

_TOLERANCE = 1e-3
_BLOCK = 4096  # rows
_HALF_BITS = np.int32(-0x70002000)  # 0x8fffe000: the sign, and what was moved, without its copies
_EXPONENT_OFF = np.float32(2.0**112)


def widened(halves: Halves) -> Features:
    """Turn features from fp16 into float32, exactly, four times as fast as numpy does.

    Their bits are moved to where float32 has them, which leaves the exponent off by a constant.

    Args:
        halves: Finite, [n, embed_dim].
    """
    bits = halves.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= _HALF_BITS
    wide = bits.view(np.float32)
    wide *= _EXPONENT_OFF
    return wide


def unit_rows(halves: Halves) -> Features:
    """Give the features that kept ones stand for: lengthened or cut to 1 in float32.

    Rounding to fp16 takes a row of width 512 about 1e-5 off its length. Rounding what this gives
    comes to the same halves again, so that whoever keeps features twice loses nothing more.

    Args:
        halves: Unit rows that were rounded to fp16, [n, embed_dim].

    Returns:
        Unit rows, [n, embed_dim]; a row of zeros stays one.
    """
    rows = widened(halves)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        # Summed row by row: what a row becomes must not depend on the rows beside it.
        lengths = np.sqrt(np.square(block, dtype=np.float64).sum(axis=1))
        lengths[lengths == 0.0] = 1.0  # damaged; verifying tells of it
        block /= lengths[:, None].astype(np.float32)
    return rows


def as_halves(pages: Iterable[tuple[Rows, Features]], count: int, embed_dim: int) -> Halves:
    """Gather pages of features into one array in fp16.

    Args:
        pages: Rows and their features, [n, embed_dim].
        count: How many there are of all pages, at least.
        embed_dim: Width of the features.

    Returns:
        Features, [n of all pages, embed_dim].
    """
    halves, filled = np.empty((count, embed_dim), np.float16), 0
    for _, page in pages:
        halves[filled : filled + len(page)] = page
        filled += len(page)
    return halves[:filled]


def check_unit_rows(
    features: Features, embed_dim: int, error: type[RetrievalError], remedy: str
) -> None:
    """Refuse features whose inner products would not be cosines.

    Args:
        features: Should be unit rows, [n, embed_dim].
        embed_dim: The width of the index.
        error: What to raise: whose mistake it would be.
        remedy: Last sentence of the message: what to do.

    Raises:
        RetrievalError: As ``error``, if the shape differs, a value is not finite, or a
            row's length is off 1 by more than 1e-3.
    """
    if not isinstance(features, np.ndarray) or features.ndim != 2:
        got = f"shape {list(features.shape)}" if isinstance(features, np.ndarray) else "no array"
        raise error(f"expected features of shape [n, {embed_dim}], got {got}. {remedy}")
    if features.shape[1] != embed_dim:
        raise error(
            f"expected vectors of width {embed_dim} (the index's embed_dim), got "
            f"{features.shape[1]}. {remedy}"
        )
    lengths = np.linalg.norm(features.astype(np.float64), axis=1)
    off = ~(np.abs(lengths - 1.0) <= _TOLERANCE)  # NaN is off, too
    if off.any():
        first = int(np.flatnonzero(off)[0])
        raise error(f"expected unit rows, got length {lengths[first]:.4g} in row {first}. {remedy}")


def check_encoded(
    features: Features, count: int, embed_dim: int, remedy: str, what: str = "features"
) -> None:
    """Refuse what an encoder gave, unless it is one unit row for each thing it was given.

    Args:
        features: Should be unit rows, [count, embed_dim].
        count: How many things it was given.
        embed_dim: The width of the index.
        remedy: Last sentence of the message: what to do.
        what: What the rows are called in the message.

    Raises:
        EncoderError: As for :func:`check_unit_rows`, or if there are more or fewer rows.
    """
    check_unit_rows(features, embed_dim, EncoderError, remedy)
    if len(features) != count:
        raise EncoderError(f"expected {count} {what}, got {len(features)}. {remedy}")
