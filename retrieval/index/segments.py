"""Segments: rows with their features in fp16 that never change once they are built.

A :class:`Part` is a segment less the rows that went since; an index is a list of parts.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Protocol, Self, TypeVar

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.features import Halves
from retrieval.index.scoring import NOISE, Positions, nearest_of
from retrieval.protocols import Feature, Features, Rows, Scores

__all__ = ["Allowed", "FlatSegment", "Part", "Segment"]

# So few rows are scored one by one, rather than looked for among all.
_FEW = 2048
_BLOCK = 1024  # rows
_WORTH_THREADS = 16  # queries


@dataclass(frozen=True, eq=False)
class Allowed:
    """Which rows of a segment a search may find.

    Args:
        mask: True at their positions, [n].
    """

    mask: NDArray[np.bool_]

    @cached_property
    def count(self) -> int:
        """How many they are."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def positions(self) -> Positions:
        """Where they lie, ascending."""
        return np.flatnonzero(self.mask)

    @cached_property
    def selector(self) -> faiss.IDSelector:
        """What FAISS calls them by: a bitmap."""
        # The wrapper keeps a reference to the array, whose memory the selector reads.
        bits: Any = np.packbits(self.mask, bitorder="little")
        return faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg]


class Segment(Protocol):
    """Rows that never change, and how the nearest of them are found."""

    @property
    def rows(self) -> Rows:
        """The rows, ascending, int64 [n]."""
        ...

    @property
    def halves(self) -> Halves:
        """Their features, fp16 [n, embed_dim]."""
        ...

    def nearest(
        self, queries: Features, k: int, allowed: Allowed | None
    ) -> list[tuple[Scores, Positions]]:
        """Find the nearest rows to each of some queries.

        Args:
            queries: Unit rows, [q, embed_dim].
            k: How many, from 1 to as many as are allowed.
            allowed: Which rows may be found; None for all.

        Returns:
            Of each query cosines, float32 [k], and positions, best first; equal scores come in
            the order of their positions.
        """
        ...


class FlatSegment:
    """Rows that are searched exactly: FAISS's flat index of fp16 goes over all of them.

    Args:
        rows: Ascending, int64 [n].
        halves: Their features, [n, embed_dim]; copied.
        off: How far their lengths are from 1, at most; looked up by default.
    """

    def __init__(self, rows: Rows, halves: Halves, off: float | None = None) -> None:
        self.rows = rows
        self.off = _farthest_from_1(halves) if off is None else off
        self._flat: Any = faiss.IndexScalarQuantizer(
            halves.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        codes = np.ascontiguousarray(halves).view(np.uint8).ravel()
        faiss.copy_array_to_vector(codes, self._flat.codes)
        self._flat.ntotal = len(rows)
        self._flat.is_trained = True

    @cached_property
    def halves(self) -> Halves:
        """The features, fp16 [n, embed_dim]: FAISS's own memory, looked at from here."""
        count, embed_dim = len(self.rows), int(self._flat.d)
        if count == 0:
            return np.empty((0, embed_dim), np.float16)
        codes = faiss.rev_swig_ptr(self._flat.codes.data(), count * embed_dim * 2)
        halves: Halves = codes.view(np.float16).reshape(count, embed_dim)
        return halves

    def nearest(
        self, queries: Features, k: int, allowed: Allowed | None
    ) -> list[tuple[Scores, Positions]]:
        """Find the nearest rows; see :class:`Segment`."""
        if allowed is not None and allowed.count <= _FEW:
            return [nearest_of(query, self.halves, k, allowed.positions) for query in queries]
        return [
            self._ordered(query, positions, k)
            for query, positions in zip(queries, self._candidates(queries, k, allowed), strict=True)
        ]

    def _ordered(self, query: Feature, positions: Positions, k: int) -> tuple[Scores, Positions]:
        places = np.sort(positions)
        return nearest_of(query, self.halves, k, places)

    def _candidates(self, queries: Features, k: int, allowed: Allowed | None) -> list[Positions]:
        """Fetch positions for each query that hold its k best, ties and rounding considered."""
        count = len(self.rows) if allowed is None else allowed.count
        searching: Any = faiss.SearchParameters
        params = None if allowed is None else searching(sel=allowed.selector)
        # FAISS knows nothing of lengths that rounding changed: its scores are off by as much.
        margin = NOISE + 2 * self.off
        candidates: list[Positions] = [np.empty(0, np.int64)] * len(queries)
        still_open = np.arange(len(queries))
        fetch = min(k + 16, count)
        while len(still_open):
            with _threads_for(len(still_open)):
                scores, found = self._flat.search(queries[still_open], fetch, params=params)
            settled = scores[:, -1] < scores[:, k - 1] - margin
            if fetch == count:
                settled[:] = True
            for i in np.flatnonzero(settled):
                candidates[still_open[i]] = found[i]
            still_open = still_open[~settled]
            fetch = min(2 * fetch, count)
        return candidates


@contextlib.contextmanager
def _threads_for(queries: int) -> Iterator[None]:
    """Let FAISS compute few queries on the thread that asks.

    It would wake a team of threads for them, which spin longer than they compute, and get in each
    other's way where requests come side by side.
    """
    if queries >= _WORTH_THREADS:
        yield
        return
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # of this thread alone
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _farthest_from_1(halves: Halves) -> float:
    off = 0.0
    for start in range(0, len(halves), _BLOCK):
        part = halves[start : start + _BLOCK].astype(np.float32)
        lengths = np.sqrt(np.einsum("ij,ij->i", part, part))
        off = max(off, float(np.abs(lengths - 1.0).max()))
    return off


AnySegment_co = TypeVar("AnySegment_co", bound=Segment, covariant=True)


@dataclass(frozen=True, eq=False)
class Part(Generic[AnySegment_co]):
    """A segment less the rows that are gone.

    Args:
        segment: The rows as they were built.
        alive: Which of them are still there; None for all.
    """

    segment: AnySegment_co
    alive: Allowed | None = None

    def __len__(self) -> int:
        return len(self.segment.rows) if self.alive is None else self.alive.count

    @property
    def rows(self) -> Rows:
        """The rows that are still there, ascending."""
        rows = self.segment.rows
        return rows if self.alive is None else rows[self.alive.mask]

    @property
    def halves(self) -> Halves:
        """The features of the rows that are still there."""
        halves = self.segment.halves
        return halves if self.alive is None else halves[self.alive.mask]

    def holds(self, rows: Rows) -> NDArray[np.bool_]:
        """Tell which of some rows are here, [n]."""
        positions, here = self._find(rows)
        if self.alive is not None:
            here[here] = self.alive.mask[positions[here]]
        return here

    def without(self, rows: Rows) -> Self:
        """Give the part less some rows, ascending; itself if it holds none of them."""
        positions, here = self._find(rows)
        gone = positions[here]
        if self.alive is not None:
            gone = gone[self.alive.mask[gone]]
        if len(gone) == 0:
            return self
        mask = np.ones(len(self.segment.rows), bool)
        if self.alive is not None:
            mask[:] = self.alive.mask
        mask[gone] = False
        return type(self)(self.segment, Allowed(mask))

    def among(self, rows: Rows) -> Allowed:
        """Give which rows here are among some, ascending."""
        mask = np.zeros(len(self.segment.rows), bool)
        positions, here = self._find(rows)
        mask[positions[here]] = True
        if self.alive is not None:
            mask &= self.alive.mask
        return Allowed(mask)

    def search(self, queries: Features, k: int, among: Rows | None) -> list[tuple[Scores, Rows]]:
        """Find up to k of the nearest rows to each query, best first."""
        allowed = self.alive if among is None else self.among(among)
        count = len(self.segment.rows) if allowed is None else allowed.count
        if count == 0:
            return [(np.empty(0, np.float32), np.empty(0, np.int64))] * len(queries)
        found = self.segment.nearest(queries, min(k, count), allowed)
        return [(scores, self.segment.rows[positions]) for scores, positions in found]

    def _find(self, rows: Rows) -> tuple[Positions, NDArray[np.bool_]]:
        """Find where rows would lie, [n], and which of them do."""
        held = self.segment.rows
        if len(held) == 0 or len(rows) == 0:
            return np.zeros(len(rows), np.int64), np.zeros(len(rows), bool)
        if held[-1] - held[0] + 1 == len(held):  # no gaps: nothing to look for
            positions = rows - held[0]
            here = (positions >= 0) & (positions < len(held))
        else:
            positions = np.searchsorted(held, rows)
            positions[positions == len(held)] = 0
            here = held[positions] == rows
        return positions, here
