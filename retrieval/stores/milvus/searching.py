"""Searches: what the server finds, in the one order that all indexes give."""

import itertools
import math
from typing import Any

import numpy as np

from retrieval.catalogue.store import Among
from retrieval.protocols import Features, Rows, Scores
from retrieval.stores.milvus.collection import LISTS, Collection, Moment
from retrieval.stores.milvus.expressions import among_rows
from retrieval.stores.milvus.filters import MilvusSelection
from retrieval.stores.milvus.server import MOST_FOUND, Hits

__all__ = ["PROBES", "Searches"]

PROBES = 32
"""Lists of each segment that a search looks into: 99.9% of the ten nearest of 100,000 are there
(recall@10, with texts as queries), 99.8% with 16."""

_FEW = 20_000  # pictures that are gone through as fast as the lists are chosen
_MORE = 16  # hits beside those asked for, to know of equals
_CLOSE = 2e-6  # cosine: what one vector's scores differ by from segment to segment
_ROWS_AT_ONCE = 10_000  # in one expression
_MOST_HITS = 200_000  # of all queries that are sent together
_NONE = np.float32(-2)


class Searches:
    """Finds the nearest pictures of a collection. Safe to use from several threads.

    Args:
        collection: Whose pictures.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._size: tuple[tuple[str, int | None], int] | None = None

    def search(
        self, features: Features, k: int, among: Among | None, embed_dim: int
    ) -> tuple[Scores, Rows]:
        """Find the nearest rows; see :class:`~retrieval.stores.opening.RemoteStore`.

        Raises:
            ValueError: If the shape does not fit, or k is below 1.
        """
        if features.ndim != 2 or features.shape[1] != embed_dim:
            raise ValueError(
                f"expected features of shape [q, {embed_dim}], got {list(features.shape)}. Use "
                "the model that built the index."
            )
        if k < 1:
            raise ValueError(f"expected k of at least 1, got {k}. Ask for one or more.")
        with self._collection.held() as moment:
            total = self._count(moment)
            there = total if among is None else min(total, len(among))
            if not there or not len(features):
                shape = (len(features), 0)
                return np.empty(shape, np.float32), np.empty(shape, np.int64)
            probes = probes_for(there, total)
            found: list[Hits] = [[] for _ in features]
            for expression in _expressions(among):
                more = self._search(moment, features, k, expression, probes)
                found = [[*before, *hits] for before, hits in zip(found, more, strict=True)]
            return _as_arrays([_ordered(hits)[:k] for hits in found])

    def trial(self, features: Features, k: int, probes: int) -> list[Hits]:
        """Search all pictures with so many lists, and nothing done to the order."""
        with self._collection.held() as moment:
            return self._collection.server.search(
                moment.name, features, k, expression="", probes=probes, since=moment.since
            )

    def _count(self, moment: Moment) -> int:
        """Count all pictures, anew after each write."""
        key = moment.name, moment.since
        if self._size is None or self._size[0] != key or moment.since is None:
            self._size = key, self._collection.count()
        return self._size[1]

    def _search(
        self, moment: Moment, features: Features, k: int, expression: str, probes: int
    ) -> list[Hits]:
        if k > MOST_FOUND - _MORE:
            return self._go_through(features, k, expression)
        limit, found = k + _MORE, []
        at_once = max(1, min(_MOST_HITS // limit, MOST_FOUND))
        for start in range(0, len(features), at_once):
            found += self._collection.server.search(
                moment.name,
                features[start : start + at_once],
                limit,
                expression=expression,
                probes=probes,
                since=moment.since,
            )
        return self._settle(found, features, k, limit, expression)

    def _settle(
        self, found: list[Hits], features: Features, k: int, limit: int, expression: str
    ) -> list[Hits]:
        """Put hits in their order; where the nearest are too close to tell, by their features."""
        close = [at for at, hits in enumerate(found) if _is_close(hits, k)]
        for at in close:
            hits = found[at]
            if len(hits) == limit and hits[k - 1][0] - hits[-1][0] < _CLOSE:
                # more are as near as the last one asked for than were found
                found[at] = self._go_through(features[at : at + 1], k, expression)[0]
        rest = sorted({row for at in close for _, row in found[at] if len(found[at]) > 0})
        stored = self._features(rest)
        for at in close:
            rows = [row for _, row in found[at] if row in stored]
            if rows:
                scores = _scores(np.stack([stored[row] for row in rows]), features[at : at + 1])[0]
                found[at] = list(zip(scores.tolist(), rows, strict=True))
        return [_ordered(hits)[: max(k, 1)] for hits in found]

    def _features(self, rows: list[int]) -> dict[int, np.ndarray[Any, Any]]:
        stored = {}
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[start : start + _ROWS_AT_ONCE]
            for entity in self._collection.entities(among_rows(part), ["row", "feature"]):
                stored[int(entity["row"])] = np.asarray(entity["feature"], np.float32)
        return stored

    def _go_through(self, features: Features, k: int, expression: str) -> list[Hits]:
        """Compare queries with every picture, here."""
        best: list[Hits] = [[] for _ in features]
        for page in self._collection.pages(expression, ["row", "feature"]):
            if not page:
                continue
            rows = [int(entity["row"]) for entity in page]
            block = np.stack([np.asarray(entity["feature"], np.float32) for entity in page])
            for at, scores in enumerate(_scores(block, features)):
                merged = [*best[at], *zip(scores.tolist(), rows, strict=True)]
                best[at] = _ordered(merged)[:k]
        return best


def probes_for(there: int, total: int) -> int:
    """Say how many lists to look into.

    A filter leaves fewer pictures in each list, and its nearest ones are farther away: the
    lists that have them are more, in proportion. Few pictures are all compared.

    Args:
        there: Pictures that are searched among.
        total: Pictures of the collection.
    """
    if there <= _FEW:
        return LISTS
    return min(LISTS, math.ceil(PROBES * total / there))


def _expressions(among: Among | None) -> list[str]:
    if among is None:
        return [""]
    if isinstance(among, MilvusSelection):
        return [among.expression]
    rows = np.asarray(among, np.int64).tolist()
    return [
        among_rows(rows[start : start + _ROWS_AT_ONCE])
        for start in range(0, len(rows), _ROWS_AT_ONCE)
    ]


def _is_close(hits: Hits, k: int) -> bool:
    scores = [score for score, _ in hits[: k + 1]]
    return any(above - below < _CLOSE for above, below in itertools.pairwise(scores))


def _scores(block: Features, features: Features) -> np.ndarray[Any, Any]:
    """Compute cosines, float32 [q, n], alike for alike rows wherever they stand."""
    wide = block.astype(np.float64)
    return np.stack([np.sum(wide * query.astype(np.float64), axis=1) for query in features]).astype(
        np.float32
    )


def _ordered(hits: Hits) -> Hits:
    return sorted(hits, key=lambda hit: (-hit[0], hit[1]))


def _as_arrays(found: list[Hits]) -> tuple[Scores, Rows]:
    width = max(map(len, found))
    scores = np.full((len(found), width), _NONE, np.float32)
    rows = np.zeros((len(found), width), np.int64)
    for at, hits in enumerate(found):
        for place, (score, row) in enumerate(hits):
            scores[at, place] = min(1.0, max(-1.0, score))
            rows[at, place] = row
    return scores, rows
