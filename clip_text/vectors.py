"""Unit rows in fewer bytes: shorter ones, int8, and sign bits whose candidates are scored anew.

A row of 256 dimensions takes 1,024 bytes in fp32, 256 in int8, 32 as sign bits; of its first 64
dimensions, a quarter of that. ``clip-text evaluate vectors`` measures what each costs in recall.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_text.errors import DimensionsError

__all__ = ["check_dimensions", "from_bits", "from_int8", "search_bits", "to_bits", "to_int8",
           "truncate"]  # fmt: skip

Features = NDArray[np.float32]
Codes = NDArray[np.int8]
Bits = NDArray[np.uint8]

_LARGEST = 127
"""Of a code: -128 is left out, so that a row and its negative have opposite codes."""


def check_dimensions(dimensions: int, embed_dim: int) -> None:
    """Refuse a number of dimensions that rows do not have.

    Args:
        dimensions: How many are asked for.
        embed_dim: How many rows have.

    Raises:
        DimensionsError: If it is below 1, above ``embed_dim``, or no whole number.
    """
    whole = isinstance(dimensions, int | np.integer) and not isinstance(dimensions, bool)
    if not whole or not 1 <= dimensions <= embed_dim:
        raise DimensionsError(
            f"expected dimensions from 1 to {embed_dim} (the width of its rows), got "
            f"{dimensions!r}. Ask for a whole number in that range, or leave it out."
        )


def truncate(features: Features, dimensions: int) -> Features:
    """Cut rows to their first dimensions, and make them unit rows again.

    Args:
        features: [n, embed_dim].
        dimensions: How many to keep; all of them gives the rows as they are.

    Returns:
        Unit rows, float32 [n, dimensions].

    Raises:
        DimensionsError: If there are not so many.
        ValueError: If nothing of a row is left: all it has lies behind.

    Source:
        Kusupati et al. 2022, section 3 (arXiv:2205.13147), who also train rows for it.
    """
    check_dimensions(dimensions, features.shape[1])
    if dimensions == features.shape[1]:
        return features
    prefix = np.asarray(features[:, :dimensions], np.float32)
    return _unit(prefix, f"something in the first {dimensions} dimensions of each row")


def to_int8(features: Features) -> Codes:
    """Round each row to 255 steps between its own largest magnitude and the negative of that.

    A scale for each row needs no collection to be measured beforehand, and a unit row's need not
    be kept: :func:`from_int8` makes it unit again. Scales for each dimension are no better
    (docs/vectors.md), and those taken from a sample cut off what comes later.

    Args:
        features: Finite rows, [n, width], none of them zero.

    Returns:
        int8 [n, width], in [-127, 127], the largest of each row ±127; a byte a dimension.

    Raises:
        ValueError: If a row is zero or not finite.
    """
    largest = np.abs(features).max(1, keepdims=True, initial=0)
    _check_rows(largest, "finite rows that are not zero")
    codes: Codes = np.rint(features * (_LARGEST / largest)).astype(np.int8)
    return codes


def from_int8(codes: Codes) -> Features:
    """Give the unit rows that codes stand for.

    Args:
        codes: int8 [n, width] of :func:`to_int8`.

    Returns:
        Unit rows, float32 [n, width]; each element is off by at most half a step, 1/254 of the
        row's largest magnitude, before the row is made unit.

    Raises:
        ValueError: If a row is zero.
    """
    return _unit(codes.astype(np.float32), "codes that are not all zero in each row")


def to_bits(features: Features) -> Bits:
    """Keep of each element whether it is above zero.

    Args:
        features: [n, width].

    Returns:
        uint8 [n, width / 8 rounded up], the first dimension in the highest bit of the first byte
        (as :func:`numpy.packbits` has it); bits beyond the width are 0.
    """
    return np.packbits(np.asarray(features) > 0, axis=1)


def from_bits(bits: Bits, width: int) -> Features:
    """Give the unit rows that sign bits stand for: ±1/√width.

    The cosine of two of them is 1 - 2h / width, h the number of bits that differ.

    Args:
        bits: uint8 [n, width / 8 rounded up] of :func:`to_bits`.
        width: Of the rows they were made of.

    Returns:
        Unit rows, float32 [n, width].
    """
    signs = np.unpackbits(bits, axis=1, count=width).astype(np.float32) * 2 - 1
    return signs / np.float32(np.sqrt(width))


def search_bits(
    queries: Features, bits: Bits, rows: NDArray[Any], k: int, candidates: int
) -> tuple[Features, NDArray[np.int64]]:
    """Find the rows nearest to queries: candidates by their bits, their order by better rows.

    The bits of all rows are read for each query, and of the better rows only the candidates':
    these may lie in a memory map. Of rows as many bits away as the last candidate, the ones
    that FAISS meets first are taken.

    Args:
        queries: Unit rows, float32 [n, width].
        bits: uint8 [m, width / 8 rounded up] of :func:`to_bits`.
        rows: The same rows for scoring anew, [m, width]: int8 codes of :func:`to_int8`, or unit
            rows of any floating type.
        k: How many to find for each query.
        candidates: How many to score anew; all m of them give the order of exact search.

    Returns:
        Scores, cosines in [-1, 1] (higher is better) to ``rows`` as they are stored, and
        positions in ``rows``, both [n, min(k, m)], best first; of equal scores the earlier row.

    Raises:
        ValueError: If k is below 1, there are fewer candidates than that, or shapes differ.
    """
    import faiss  # noqa: PLC0415  (what only shortens rows need not load it)

    _check_search(queries, bits, rows, k, candidates)
    number = min(candidates, len(rows))
    if not len(queries) or not number:
        nothing = (len(queries), min(k, number))
        return np.empty(nothing, np.float32), np.empty(nothing, np.int64)
    index = faiss.IndexBinaryFlat(8 * bits.shape[1])
    index.add(np.ascontiguousarray(bits))
    _, found = index.search(to_bits(queries), number)
    places = np.sort(found, axis=1)  # so that of equal scores the earlier row comes first
    scores = np.empty(places.shape, np.float32)
    for at, (query, own) in enumerate(zip(queries, places, strict=True)):
        chosen = rows[own]
        unit = from_int8(chosen) if chosen.dtype == np.int8 else chosen
        # float64, as exact search has it: equal rows have equal scores wherever they stand
        scores[at] = np.einsum("ij,j->i", unit.astype(np.float64), query.astype(np.float64))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1)


def _check_search(
    queries: Features, bits: Bits, rows: NDArray[Any], k: int, candidates: int
) -> None:
    if not 1 <= k <= candidates:
        raise ValueError(
            f"expected k from 1 to the number of candidates, {candidates}, got {k}. "
            "Score more candidates anew, or ask for fewer rows."
        )
    width = queries.shape[1]
    expected = ((len(rows), -(-width // 8)), (len(rows), width))
    if (bits.shape, rows.shape) != expected:
        raise ValueError(
            f"expected bits and rows of shapes {expected[0]} and {expected[1]} for queries of "
            f"width {width}, got {bits.shape} and {rows.shape}. Make all three by one model at "
            "one number of dimensions."
        )


def _unit(rows: Features, expected: str) -> Features:
    """Give each row the length 1."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    _check_rows(lengths, expected)
    unit: Features = rows / lengths
    return unit


def _check_rows(sizes: Features, expected: str) -> None:
    bad = np.flatnonzero(~((sizes > 0) & (sizes < np.inf)))  # NaN is bad, too
    if len(bad):
        raise ValueError(
            f"expected {expected}, got {len(bad):,} others, the first at row {bad[0]}. "
            "Encode them again."
        )
