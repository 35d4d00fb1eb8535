"""Cosines of rows that are kept in fp16: roughly, to choose by, and exactly, to order by."""

import numpy as np
from numpy.typing import NDArray

from retrieval.features import Halves, unit_rows, widened
from retrieval.protocols import Feature, Scores

__all__ = ["NOISE", "Positions", "best_first", "cosines", "nearest_of"]

Positions = NDArray[np.int64]
"""Places of rows within a segment, from 0, int64 [n]."""

# Sums in float32 come out in an order that depends on the library, the batch and a row's place,
# so equal rows may differ in the last bits. Rows closer than this may be out of order.
NOISE = 1e-5
_BLOCK = 1024  # rows; 2 MiB in float32 at width 512, which the caches hold


def cosines(query: Feature, halves: Halves) -> Scores:
    """Score rows in float64, so that equal rows get equal scores wherever they lie.

    Args:
        query: A unit row, [embed_dim].
        halves: Rows in fp16, [n, embed_dim].

    Returns:
        Cosines in [-1, 1], float32 [n].
    """
    wide = query.astype(np.float64)
    scores = np.empty(len(halves), np.float32)
    for start in range(0, len(halves), _BLOCK):
        part = slice(start, start + _BLOCK)
        # Not a product of matrices: their sums depend on how many rows there are.
        scores[part] = (unit_rows(halves[part]) * wide).sum(axis=1)
    return scores.clip(-1.0, 1.0)


def nearest_of(
    query: Feature, halves: Halves, k: int, positions: Positions | None = None
) -> tuple[Scores, Positions]:
    """Find the k nearest of some rows by scoring all of them.

    Args:
        query: A unit row, [embed_dim].
        halves: Rows in fp16, [n, embed_dim].
        k: How many.
        positions: Which of the rows, ascending; all by default.

    Returns:
        Cosines, float32 [min(k, n)], and positions, best first, equal ones in their order.
    """
    count = len(halves) if positions is None else len(positions)
    if count > 2 * k + 32:
        rough = _rough(query, halves, positions)
        least = np.partition(rough, count - k)[count - k] - NOISE
        chosen = np.flatnonzero(rough >= least)
    else:
        chosen = np.arange(count)
    places = chosen if positions is None else positions[chosen]
    scores = cosines(query, halves[places])
    order = best_first(scores, places)[:k]
    return scores[order], places[order]


def best_first(scores: Scores, rows: Positions) -> NDArray[np.intp]:
    """Order by score, best first, and by row where scores are equal."""
    return np.lexsort((rows, -scores))


def _rough(query: Feature, halves: Halves, positions: Positions | None) -> Scores:
    """Score rows in float32, a block at a time; off by less than NOISE / 2."""
    count = len(halves) if positions is None else len(positions)
    scores = np.empty(count, np.float32)
    for start in range(0, count, _BLOCK):
        part = slice(start, start + _BLOCK)
        rows = halves[part] if positions is None else halves[positions[part]]
        single = widened(rows)
        lengths = np.sqrt(np.einsum("ij,ij->i", single, single))
        scores[part] = (single @ query) / np.where(lengths > 0, lengths, 1.0)
    return scores
