"""How far models agree where nobody has said what is right: the hits that they have in common."""

import numpy as np
from numpy.typing import NDArray

from clip_text.evaluation.ranking import Features, PerQuery

__all__ = ["Places", "nearest", "rank_spread", "shared_hits"]

Places = NDArray[np.int64]

_AT_ONCE = 1 << 24  # scores held in memory


def nearest(queries: Features, candidates: Features, k: int) -> tuple[Features, Places]:
    """Find the candidates nearest to each query by scoring all of them.

    Args:
        queries: Unit rows [n, embed_dim].
        candidates: Unit rows [m, embed_dim]; a row of NaN is never found.
        k: How many to find for each query, at least 1.

    Returns:
        Scores, cosines in [-1, 1], and positions of candidates, both [n, min(k, sound ones)], best
        first; of equal scores the earlier one.

    Raises:
        ValueError: If k is below 1.
    """
    if k < 1:
        raise ValueError(f"expected k of at least 1, got {k}. Ask for more.")
    sound = np.flatnonzero(np.isfinite(candidates).all(1))
    rows = candidates[sound].astype(np.float64)
    k = min(k, len(sound))
    scores = np.empty((len(queries), k), np.float32)
    places = np.empty((len(queries), k), np.int64)
    block = max(1, _AT_ONCE // max(1, len(sound)))
    for start in range(0, len(queries), block):
        # rounded, so that a twin elsewhere has the same score
        tile = (queries[start : start + block].astype(np.float64) @ rows.T).astype(np.float32)
        for at, row in enumerate(tile, start):
            best = _best(row, k)
            scores[at], places[at] = row[best], sound[best]
    return scores, places


def _best(scores: Features, k: int) -> NDArray[np.intp]:
    """Positions of the k highest scores, best first, equal ones in their order."""
    least = np.partition(scores, len(scores) - k)[len(scores) - k] if k else np.inf
    among = np.flatnonzero(scores >= least)  # more than k, where scores are equal
    return among[np.argsort(-scores[among], kind="stable")[:k]]


def shared_hits(first: Places, second: Places) -> PerQuery:
    """Share of hits that two models have in common, in [0, 1], whatever their order; [n].

    Args:
        first: Positions of one model's hits, [n, k], those of a query all different.
        second: The other model's, for the same queries over the same candidates.

    Raises:
        ValueError: If the shapes differ.

    Source:
        The overlap at depth k of Webber, Moffat & Zobel 2010, section 2.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"expected hits of the same queries and as many, got {list(first.shape)} and "
            f"{list(second.shape)}. Search the same candidates for the same queries."
        )
    common = [len(np.intersect1d(a, b)) for a, b in zip(first, second, strict=True)]
    shares: PerQuery = np.array(common, np.float64) / max(1, first.shape[1])
    return shares


def rank_spread(ranks: NDArray[np.float64]) -> PerQuery:
    """Say how far apart models rank the right answer of each query.

    From rank 1 to 10 is as far as from 100 to 1,000: people look at the first ranks.

    Args:
        ranks: Of each query's best right answer, [models, n], 1 at the top.

    Returns:
        The decadic logarithm of the worst rank over the best, [n]; 0 where all models agree.
    """
    spread: PerQuery = np.log10(ranks.max(0)) - np.log10(ranks.min(0))
    return spread
