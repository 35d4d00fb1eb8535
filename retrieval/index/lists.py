"""Inverted lists of FAISS over a sealed segment: near rows are looked for in the nearest lists.

What FAISS finds are candidates: it compares codes, which are shorter than the features. They are
scored and ordered here, from the features.
"""

from typing import Any
from weakref import WeakKeyDictionary

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.features import Halves
from retrieval.index.recipes import Recipe
from retrieval.index.scoring import Positions, nearest_of
from retrieval.index.segments import Allowed
from retrieval.protocols import Feature, Features, Rows, Scores

__all__ = ["ListsSegment"]

# So few rows are scored one by one, rather than looked for in lists.
_FEW = 4096
# Candidates for each hit that is asked for.
_CANDIDATES_PER_HIT = 4
# From this share of all rows on, going over them is no slower than choosing.
_MOST_CANDIDATES = 0.25


class ListsSegment:
    """Rows in the inverted lists of a FAISS index, numbered there by their positions.

    Args:
        rows: Ascending, int64 [n].
        halves: Their features, [n, embed_dim]; mapped from a file.
        lists: An ``IndexIVF`` over the same rows, by inner product.
        recipe: How many lists to look into, and how many candidates to score.
    """

    def __init__(self, rows: Rows, halves: Halves, lists: faiss.IndexIVF, recipe: Recipe) -> None:
        self.rows = rows
        self.halves = halves
        untyped: Any = lists
        self._lists = untyped
        self._recipe = recipe
        self._list_of: NDArray[np.int32] | None = None
        self._counted: WeakKeyDictionary[Allowed, NDArray[np.int64]] = WeakKeyDictionary()
        sizes = [self._lists.invlists.list_size(i) for i in range(self._lists.nlist)]
        self._sizes = np.array(sizes, np.int64)
        self._centres: Features = self._lists.quantizer.reconstruct_n(0, self._lists.nlist)

    def nearest(
        self, queries: Features, k: int, allowed: Allowed | None
    ) -> list[tuple[Scores, Positions]]:
        """Find the nearest rows; see :class:`~retrieval.index.segments.Segment`.

        Among few allowed rows the answer is exact. Else it may miss some, and holds k all the
        same: lists are looked into, nearest first, until they hold enough allowed rows. Lists
        that hold none cost nothing, so that a filter which goes along with a few lists has them
        all looked into.
        """
        count = len(self.rows) if allowed is None else allowed.count
        candidates = max(self._recipe.candidates, _CANDIDATES_PER_HIT * k)
        if count <= _FEW or candidates > _MOST_CANDIDATES * count:
            places = None if allowed is None else allowed.positions
            return [nearest_of(query, self.halves, k, places) for query in queries]
        sizes = self._sizes if allowed is None else self._counts(allowed)
        return [self._nearest_to(query, k, candidates, sizes, allowed) for query in queries]

    def _nearest_to(
        self,
        query: Feature,
        k: int,
        candidates: int,
        sizes: NDArray[np.int64],
        allowed: Allowed | None,
    ) -> tuple[Scores, Positions]:
        nearness = self._centres @ query
        lists = self._choose(np.argsort(-nearness), sizes, candidates)
        found = self._look_into(query, lists, nearness[lists], candidates, allowed)
        return nearest_of(query, self.halves, k, np.sort(found))

    def _choose(
        self, near: NDArray[np.int64], sizes: NDArray[np.int64], candidates: int
    ) -> NDArray[np.int64]:
        """Choose which lists to look into.

        Args:
            near: All lists, the nearest to the query first.
            sizes: How many allowed rows each list holds.
            candidates: How many rows to find.
        """
        near = near[sizes[near] > 0]
        held = np.cumsum(sizes[near])
        share = held[-1] / len(self.rows)
        # Among fewer rows the nearest lie farther from the query, in more lists.
        rows = self._recipe.probes * len(self.rows) / self._lists.nlist * share**0.5
        lists = np.searchsorted(held, max(rows, 2 * candidates)) + 1
        return near[: max(self._recipe.probes, lists)]

    def _look_into(
        self,
        query: Feature,
        lists: NDArray[np.int64],
        nearness: Scores,
        candidates: int,
        allowed: Allowed | None,
    ) -> Positions:
        """Let FAISS find the best rows of some lists by their codes."""
        queries = np.ascontiguousarray(query[None])
        scores = np.empty((1, candidates), np.float32)
        found = np.empty((1, candidates), np.int64)
        searching: Any = faiss.SearchParametersIVF
        params = searching(nprobe=len(lists), sel=None if allowed is None else allowed.selector)
        # The wrapper in Python takes no parameters here, hence the call below it.
        self._lists.search_preassigned_c(
            *(1, faiss.swig_ptr(queries), candidates, faiss.swig_ptr(lists)),
            *(faiss.swig_ptr(nearness), faiss.swig_ptr(scores), faiss.swig_ptr(found)),
            *(False, params),
        )
        return found[found >= 0]

    def _counts(self, allowed: Allowed) -> NDArray[np.int64]:
        """Count the allowed rows in each list, once for what is asked for again."""
        counts = self._counted.get(allowed)
        if counts is None:
            counts = self._counted[allowed] = self._count(allowed)
        return counts

    def _count(self, allowed: Allowed) -> NDArray[np.int64]:
        if self._list_of is None:
            list_of = np.empty(len(self.rows), np.int32)
            for number, size in enumerate(self._sizes.tolist()):
                if size:
                    ids = self._lists.invlists.get_ids(number)
                    list_of[faiss.rev_swig_ptr(ids, size)] = number
            self._list_of = list_of
        counts = np.bincount(self._list_of[allowed.mask], minlength=self._lists.nlist)
        return counts.astype(np.int64, copy=False)
