"""An index that grows and shrinks at the cost of what changed, over files that never change.

Three kinds of things make it up: a *sealed* segment, built from the catalogue at one generation
and mapped from files; a *tail* of what came since, in memory and searched exactly; and
*tombstones*, which rows of either are gone. Copies share the segments.
"""

from typing import Self

import numpy as np

from retrieval.catalogue.changes import Change
from retrieval.index.scoring import best_first
from retrieval.index.segments import FlatSegment, Part, Segment
from retrieval.protocols import Features, Rows, Scores

__all__ = ["SegmentedIndex"]


class SegmentedIndex:
    """A sealed segment, the tail and tombstones, searched as one.

    Features are held in fp16: each stands for the unit row that its rounding gives, in the
    sealed segment and in the tail alike, so that sealing moves no score.

    Args:
        embed_dim: Width of the features.
        sealed: What the index starts from; nothing by default.
        origin: Names the files that ``sealed`` comes from; "" without it.
        passed_over: Names files that it might have come from, were they of use.
    """

    def __init__(
        self,
        embed_dim: int,
        sealed: Segment | None = None,
        origin: str = "",
        *,
        passed_over: str = "",
    ) -> None:
        self._embed_dim = embed_dim
        self._sealed: Part[Segment] = Part(sealed or _empty(embed_dim))
        self._tail: tuple[Part[FlatSegment], ...] = ()
        self.origin = origin
        self.passed_over = passed_over

    @property
    def embed_dim(self) -> int:
        """Width of the features."""
        return self._embed_dim

    @property
    def rows(self) -> Rows:
        """The rows held, in any order, int64 [n]."""
        return np.concatenate([part.rows for part in self._parts])

    @property
    def sealed(self) -> int:
        """How many rows the sealed segment was built with, those that are gone included."""
        return len(self._sealed.segment.rows)

    @property
    def tail(self) -> int:
        """How many rows are held in memory, since they came after the sealed segment."""
        return sum(map(len, self._tail))

    @property
    def tombstones(self) -> int:
        """How many rows of the sealed segment are gone, or have other features now."""
        return self.sealed - len(self._sealed)

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    @property
    def _parts(self) -> tuple[Part[Segment], ...]:
        return (self._sealed, *self._tail)

    def add(self, rows: Rows, features: Features) -> None:
        """Add unit rows [n, embed_dim] under new numbers, int64 [n].

        Raises:
            ValueError: If the shapes do not fit, or a row is held already.
        """
        self._check_width(features)
        if rows.shape != features.shape[:1]:
            raise ValueError(
                f"expected {len(features)} rows, one per feature, got shape {list(rows.shape)}."
            )
        if not len(rows):
            return
        order = np.argsort(rows)
        ascending = np.ascontiguousarray(rows[order], np.int64)
        is_twice = (ascending[1:] == ascending[:-1]).any()
        if is_twice or any(part.holds(ascending).any() for part in self._parts):
            raise ValueError(
                "expected rows the index does not hold yet, got some twice. Remove them first."
            )
        added = Part(FlatSegment(ascending, features[order].astype(np.float16)))
        self._tail = _settled((*self._tail, added))

    def remove(self, rows: Rows) -> None:
        """Remove rows [n]; those not held are ignored."""
        if len(rows):
            gone = np.unique(rows)
            self._sealed = self._sealed.without(gone)
            self._tail = tuple(left for part in self._tail if len(left := part.without(gone)))

    def apply(self, change: Change) -> None:
        """Take over what became of a catalogue's features; see :class:`VectorIndex`."""
        self.remove(np.concatenate([change.removed, change.written]))
        for rows, features in change.features:
            self.add(rows, features)

    def search(self, features: Features, k: int, among: Rows | None = None) -> tuple[Scores, Rows]:
        """Find the nearest rows; see :class:`VectorIndex`.

        Exact where no sealed segment is approximate. Whatever is found is scored from its
        features, so that scores are right even where a better row was missed.
        """
        self._check_width(features)
        if k < 1:
            raise ValueError(f"expected k of at least 1, got {k}.")
        queries = np.ascontiguousarray(features, np.float32)
        found = [part.search(queries, k, among) for part in self._parts if len(part)]
        most = sum(len(of_part[0][0]) for of_part in found) if len(queries) else len(self)
        k = min(k, most)
        scores = np.empty((len(queries), k), np.float32)
        rows = np.empty((len(queries), k), np.int64)
        for i in range(len(queries)):
            every = np.concatenate([of_part[i][0] for of_part in found] or [scores[i]])
            their_rows = np.concatenate([of_part[i][1] for of_part in found] or [rows[i]])
            best = best_first(every, their_rows)[:k]
            scores[i], rows[i] = every[best], their_rows[best]
        return scores, rows

    def copy(self) -> Self:
        """Make an independent index with the same content; what it is made of is shared."""
        twin = type(self)(self._embed_dim, passed_over=self.passed_over)
        twin._sealed, twin._tail, twin.origin = self._sealed, self._tail, self.origin
        return twin

    def _check_width(self, features: Features) -> None:
        if features.ndim != 2 or features.shape[1] != self._embed_dim:
            raise ValueError(
                f"expected vectors of width {self._embed_dim} (the index's embed_dim), got "
                f"shape {list(features.shape)}. Use the model that built the index."
            )


def _empty(embed_dim: int) -> Segment:
    return FlatSegment(np.empty(0, np.int64), np.empty((0, embed_dim), np.float16))


def _settled(tail: tuple[Part[FlatSegment], ...]) -> tuple[Part[FlatSegment], ...]:
    """Merge the last parts while they are of a size, so that the tail stays a few parts.

    Each row is copied at most once for each doubling of what came with it.
    """
    while len(tail) > 1 and len(tail[-2]) < 2 * len(tail[-1]):
        *before, first, second = tail
        rows = np.concatenate([first.rows, second.rows])
        order = np.argsort(rows, kind="stable")
        halves = np.concatenate([first.halves, second.halves])
        if (order[:-1] > order[1:]).any():
            rows, halves = rows[order], halves[order]
        off = max(first.segment.off, second.segment.off)
        tail = (*before, Part(FlatSegment(rows, halves, off)))
    return tail
