"""What becomes of hits once they are found: near-duplicates folded, the rest made diverse."""

from collections.abc import Callable, Iterable
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from retrieval.protocols import Feature, Features, Scores
from retrieval.search.hits import Place
from retrieval.search.query import MAX_RANKED, Query

__all__ = ["DIVERSIFIED", "LISTED", "diversify", "fold", "rank"]

DIVERSIFIED = 200
"""Of so many of the best hits maximal marginal relevance changes the order, whatever is asked."""

# So that what a hit folds is found with it, however few hits are asked for.
_LEAST_FOLDED = 100

_WIDER = 4
# A query whose every hit folds into the first would read all features of a large index: a second of
# the processor's time for these.
_MOST_CANDIDATES = 16_384

LISTED = 4 * MAX_RANKED
"""Of so many of the best hits those that are folded are listed; of the others they are left out."""

_PAGE = 4096  # hits whose features are looked at together


def rank(
    query: Query,
    find: Callable[[int], list[Place]],
    features_of: Callable[[Iterable[int]], dict[int, Feature]],
) -> list[Place]:
    """Find the hits of a query that folds or diversifies, and pass over the first.

    What it gives for an offset goes on where a smaller one ends: neither the folding of a hit nor
    its place depends on how many are asked for. It looks on until as many are shown as are asked
    for, to 16,384 hits at least.

    Args:
        query: What is asked.
        find: Gives the best so many hits, best first; fewer only if there are no more.
        features_of: Reads the unit rows of pictures by row; of those that are gone it has none.

    Returns:
        At most ``query.top_k`` hits.
    """
    wanted = query.offset + query.top_k
    needed = max(wanted, DIVERSIFIED) if query.diversity else wanted
    candidates = needed if query.fold is None else max(2 * needed, _LEAST_FOLDED)
    most = max(_MOST_CANDIDATES, _WIDER * needed)
    while True:
        found = find(candidates)
        shown, rows = _shown(found, features_of, query.fold, needed)
        if len(shown) >= needed or len(found) < candidates or candidates >= most:
            break
        candidates = min(candidates * _WIDER, most)
    if query.diversity and shown:
        first, rest = shown[:DIVERSIFIED], shown[DIVERSIFIED:]
        scores = np.array([hit.score for hit in first], np.float32)
        order = diversify(scores, rows[: len(first)], query.diversity)
        shown = [*(first[place] for place in order), *rest]
    page = shown[query.offset : wanted]
    return [hit._replace(rank=place) for place, hit in enumerate(page, start=query.offset + 1)]


def fold(features: Features, at: float) -> NDArray[np.int64]:
    """Fold each row into the first one before it that is as near as that and is not folded itself.

    Args:
        features: Unit rows, best first, [n, embed_dim].
        at: Cosine from which rows are near-duplicates.

    Returns:
        Of each row the place of the one that it is folded into, or its own, int64 [n].
    """
    into = np.arange(len(features), dtype=np.int64)
    kept = np.empty_like(features)
    places: list[int] = []
    for place, feature in enumerate(features):
        near = np.flatnonzero(kept[: len(places)] @ feature >= at)
        if near.size:
            into[place] = places[int(near[0])]
        else:
            kept[len(places)] = feature
            places.append(place)
    return into


def diversify(scores: Scores, features: Features, diversity: float) -> list[int]:
    """Order hits by maximal marginal relevance.

    The next hit is the one with the highest (1 - diversity) · score - diversity · likeness, its
    likeness being its largest cosine to a hit before it. Of equal ones the first is taken.

    Args:
        scores: Cosines to the query, [n].
        features: Unit rows of the pictures, [n, embed_dim].
        diversity: In [0, 1); 0 gives the order of the scores.

    Returns:
        Places in the new order.

    Source:
        Carbonell & Goldstein 1998, equation 1, with λ = 1 - diversity.
    """
    gain = (1.0 - diversity) * scores.astype(np.float64)
    likeness = np.zeros(len(scores))
    left = np.ones(len(scores), np.bool_)
    order: list[int] = []
    for _ in range(len(scores)):
        place = int(np.argmax(np.where(left, gain - diversity * likeness, -np.inf)))
        cosines = (features @ features[place]).astype(np.float64)
        # before the first one there is nothing to be like; afterwards it may be below 0
        likeness = np.maximum(likeness, cosines) if order else cosines
        left[place] = False
        order.append(place)
    return order


def _shown(
    hits: list[Place],
    features_of: Callable[[Iterable[int]], dict[int, Feature]],
    at: float | None,
    needed: int,
) -> tuple[list[Place], Features]:
    """Fold hits, or none: those that are left, and their unit rows.

    Of what stands behind the first :data:`LISTED`, no more is looked at than is needed.
    """
    shown, features = _with_features(hits[:LISTED], features_of)
    if at is not None:
        into = fold(features, at)
        shown = _folded(shown, into)
        features = features[into == np.arange(len(into))]
    for start in range(LISTED, len(hits), _PAGE):
        if len(shown) >= needed:
            break
        more, rows = _with_features(hits[start : start + _PAGE], features_of)
        if not more:
            continue
        if at is not None and shown:
            is_new = (rows @ features.T).max(axis=1) < at
            more, rows = list(compress(more, is_new)), rows[is_new]
        if at is not None:
            is_first = fold(rows, at) == np.arange(len(rows))
            more, rows = list(compress(more, is_first)), rows[is_first]
        features = np.concatenate([features, rows]) if shown else rows
        shown += more
    return shown, features


def _with_features(
    hits: list[Place], features_of: Callable[[Iterable[int]], dict[int, Feature]]
) -> tuple[list[Place], Features]:
    """Read the unit rows of hits, and leave out those that are gone."""
    known = features_of([hit.row for hit in hits])
    there = [hit for hit in hits if hit.row in known]
    if not there:
        return [], np.empty((0, 0), np.float32)
    return there, np.stack([known[hit.row] for hit in there])


def _folded(hits: list[Place], into: NDArray[np.int64]) -> list[Place]:
    """Put hits under those that they are folded into."""
    under: dict[int, list[Place]] = {}
    for place, of in enumerate(into.tolist()):
        members = under.setdefault(of, [])
        if place != of:
            members.append(hits[place])
    return [hits[of]._replace(folded=tuple(members)) for of, members in under.items()]
