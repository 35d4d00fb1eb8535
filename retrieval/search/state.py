"""What searches read, and which of its rows are nearest to features: no picture is looked at."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.catalogue.store import Among, ReadableStore
from retrieval.filters import Filter
from retrieval.index.engine import Searchable
from retrieval.protocols import Features, Rows
from retrieval.search.relevance import Calibration, Judge

__all__ = ["Nearest", "State", "matching", "nearest_rows", "present", "searched"]

# Where pictures that a search found were removed meanwhile, it looks further down by this
# factor, and no further than so many candidates.
_WIDER = 4
_MOST_CANDIDATES = 16_384


@dataclass(frozen=True, slots=True)
class State:
    """What one search reads; replaced as a whole, never changed.

    Args:
        catalogue: Has the pictures.
        index: Their vectors, as of the generation.
        generation: Of the catalogue.
        calibration: Gives hits their probabilities.
        judge: Does it.
        is_live: Whether rows are of pictures that are there at the moment of the search, as those
            of a server are.
    """

    catalogue: ReadableStore
    index: Searchable
    generation: int
    calibration: Calibration | None = None
    judge: Judge | None = None
    is_live: bool = False


class Nearest(NamedTuple):
    """The rows nearest to one feature, best first.

    Args:
        scores: Their cosines in [-1, 1].
        rows: Their numbers.
    """

    scores: list[float]
    rows: list[int]


def matching(state: State, where: Filter | None) -> Among | None:
    """Select what a filter holds of; None without one."""
    return None if where is None else state.catalogue.filters.rows(where)


def searched(state: State, among: Among | None) -> int:
    """Count the pictures that are searched."""
    count = len(state.index)
    return count if among is None else min(len(among), count)


def nearest_rows(
    state: State, features: Features, top_k: int, among: Among | None
) -> list[Nearest]:
    """Find the rows nearest to each of some features whose pictures are still there.

    Args:
        state: What is searched.
        features: Unit rows, [n, embed_dim].
        top_k: How many at most for each.
        among: Looks at these rows only; None for all.
    """
    found = _look_up(state, features, top_k, among)
    if state.is_live or all(len(each.rows) == top_k for each in found):
        return found  # how many there are takes a server time to count
    most = searched(state, among)
    wanted, candidates = min(top_k, most), top_k
    most = min(most, max(_MOST_CANDIDATES, top_k))
    while candidates < most:
        short = [i for i, each in enumerate(found) if len(each.rows) < wanted]
        if not short:
            break
        candidates = min(candidates * _WIDER, most)
        wider = _look_up(state, features[short], candidates, among)
        for i, each in zip(short, wider, strict=True):
            found[i] = Nearest(each.scores[:top_k], each.rows[:top_k])
    return found


def present(state: State, rows: Rows) -> NDArray[np.bool_]:
    """Tell of which rows of the index pictures are still there, in the shape of the rows."""
    if state.is_live:
        return rows > 0  # where a query found fewer than others, zeros stand at its end
    if state.catalogue.generation == state.generation:  # nothing was removed since
        return np.ones(rows.shape, np.bool_)
    there = state.catalogue.present(rows.ravel().tolist())
    flags = np.fromiter((row in there for row in rows.ravel().tolist()), np.bool_, rows.size)
    return flags.reshape(rows.shape)


def _look_up(state: State, features: Features, k: int, among: Among | None) -> list[Nearest]:
    """Find which of the k rows nearest to each feature have pictures that are still there."""
    scores, rows = state.index.search(features, k, among)
    is_there = present(state, rows)
    if is_there.all():
        return list(map(Nearest, scores.tolist(), rows.tolist()))
    return [
        Nearest(own_scores[kept].tolist(), own_rows[kept].tolist())
        for own_scores, own_rows, kept in zip(scores, rows, is_there, strict=True)
    ]
