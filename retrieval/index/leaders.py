"""Leaders among features: each row follows a row that it is near to, and no leader is near another.

The next best row that follows none becomes a leader. Unlike the components of a graph, what
follows one leader is near *it*: a chain of pictures, each near the next, does not become one group.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.features import Halves, unit_rows
from retrieval.index.recipes import Recipe, build_lists
from retrieval.index.scoring import NOISE, Positions
from retrieval.protocols import Scores

__all__ = ["Agrees", "Leaders", "find_leaders"]

Agrees = Callable[[int, Positions, Scores], NDArray[np.bool_]]
"""Says of a row, and of rows with these cosines to it, which of them may follow it, [n]."""

_EXACT_UP_TO = 20_000
# Rows this near to each other nearly always share one of their nearest lists.
_PROBES = 8
_MOST_QUERIES = 1024
# What one search may find at most, were all rows near each other: 12 bytes each.
_MOST_FOUND = 1 << 25
_BLOCK = 16_384  # rows


class Leaders(NamedTuple):
    """Which row each row follows.

    Args:
        leader: Positions, int64 [n]; a leader follows itself.
        cosine: To the leader, float32 [n].
        near: True where any other row is near, [n]: a row may be near to one that follows another.
    """

    leader: Positions
    cosine: Scores
    near: NDArray[np.bool_]


def find_leaders(
    halves: Halves,
    order: Positions,
    at: float,
    on_progress: Callable[[int, int], None] | None = None,
    agrees: Agrees | None = None,
) -> Leaders:
    """Find leaders, and of each other row the nearest of those that come before it in order.

    Equal rows are looked at once, and rows that follow one already ask for nothing, so that a
    million of the same cost no more than they hold. Up to 20,000 rows all pairs are compared;
    beyond, those of which one lies in one of the 8 lists, of 2√n, that are nearest to the other.

    Args:
        halves: Unit rows in fp16, [n, embed_dim].
        order: All positions, those first that had rather lead, int64 [n].
        at: Cosine from which rows are near, above 0; from 1 on only equal rows are.
        on_progress: Told how many different rows are done, and of how many.
        agrees: Is asked whether rows that are near, and not equal, may follow one; all by default.

    Returns:
        Leaders, up to rounding (1e-5).

    Source:
        Hartigan 1975, Clustering Algorithms, chapter 3 (leader algorithm).
    """
    distinct, of = _distinct(halves, order)
    if at > 1.0 - NOISE or len(distinct) < 2:
        follows = np.arange(len(distinct))
        near = np.zeros(len(distinct), np.bool_)
    else:
        asked = None if agrees is None else _of_distinct(agrees, distinct)
        follows, near = _follow(halves[distinct], at, on_progress or _untold, asked)
    leader = distinct[follows[of]]
    twice = np.bincount(of, minlength=len(distinct)) > 1
    return Leaders(leader, _cosines(halves, leader), (near | twice)[of])


def _of_distinct(agrees: Agrees, distinct: Positions) -> Agrees:
    return lambda row, mates, cosines: agrees(int(distinct[row]), distinct[mates], cosines)


def _untold(done: int, total: int) -> None:
    """Stand for nobody who wants to know."""


def _distinct(halves: Halves, order: Positions) -> tuple[Positions, Positions]:
    """Number different rows by where they come first in an order.

    Returns:
        Position of each different row, int64 [m], and of every row which of these it is, [n].
    """
    number: dict[bytes, int] = {}
    first: list[int] = []
    of = np.empty(len(halves), np.int64)
    for position in order.tolist():
        digest = blake2b(halves[position].tobytes(), digest_size=16).digest()
        of[position] = known = number.setdefault(digest, len(first))
        if known == len(first):
            first.append(position)
    return np.array(first, np.int64), of


def _follow(
    halves: Halves, at: float, tell: Callable[[int, int], None], agrees: Agrees | None
) -> tuple[Positions, NDArray[np.bool_]]:
    """Find the leaders of different rows, those first that had rather lead.

    Returns:
        Of each row the position of its leader, int64 [n], and whether any row is near, [n].
    """
    count = len(halves)
    index = _searchable(halves)
    leader = np.arange(count)
    nearest = np.full(count, -np.inf, np.float32)
    near = np.zeros(count, np.bool_)
    batch, start = max(1, min(_MOST_QUERIES, _MOST_FOUND // count)), 0
    while start < count:
        asking = start + np.flatnonzero(leader[start:] == np.arange(start, count))[:batch]
        if not len(asking):
            break
        limits, scores, found = index.range_search(unit_rows(halves[asking]), at - NOISE)
        for i in np.flatnonzero(np.diff(limits.astype(np.int64)) > 1).tolist():
            row, part = int(asking[i]), slice(int(limits[i]), int(limits[i + 1]))
            near[row] = True
            if leader[row] != row:  # it follows one of this batch
                continue
            later = found[part] > row
            mates, cosines = found[part][later], scores[part][later]
            if agrees is not None and len(mates):
                may = agrees(row, mates, cosines)
                mates, cosines = mates[may], cosines[may]
            nearer = cosines > nearest[mates]
            leader[mates[nearer]], nearest[mates[nearer]] = row, cosines[nearer]
            near[mates] = True
        start = int(asking[-1]) + 1
        tell(start, count)
    return leader, near


def _searchable(halves: Halves) -> Any:  # noqa: ANN401  (FAISS's classes have no common type)
    """Make what finds all rows that are near to a row."""
    count, embed_dim = halves.shape
    if count <= _EXACT_UP_TO:
        flat: Any = faiss.IndexFlatIP(embed_dim)
        flat.add(unit_rows(halves))
        return flat
    recipe = Recipe(f"IVF{int((4 * count) ** 0.5)},SQfp16")
    lists: Any = build_lists(recipe, halves, keep_scores=True)
    lists.nprobe = _PROBES
    return lists


def _cosines(halves: Halves, leader: Positions) -> Scores:
    """Score each row beside its leader, float32 [n]; those that lead have 1."""
    cosines = np.ones(len(leader), np.float32)
    followers = np.flatnonzero(leader != np.arange(len(leader)))
    for start in range(0, len(followers), _BLOCK):
        rows = followers[start : start + _BLOCK]
        ours, theirs = unit_rows(halves[rows]), unit_rows(halves[leader[rows]])
        cosines[rows] = np.einsum("ij,ij->i", ours, theirs, dtype=np.float64)
    return cosines.clip(-1.0, 1.0)
