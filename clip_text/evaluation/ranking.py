"""Ranks of right answers, and what is told of them; several right answers allowed.

A text may describe several pictures and a picture have several texts. Queries and candidates are
compared tile by tile, so neither has to fit in memory with the other: arrays may be memory maps.

Scores are computed in float64 and rounded to float32, so that equal features have equal scores
wherever they stand: a BLAS gives the same product a different last bit in another tile.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]
PerQuery = NDArray[np.float64]

_FEW_ANSWERS = 8  # up to here comparing with each is cheaper than sorting


@dataclass(frozen=True, slots=True)
class Retrieval:
    """One direction, measured: per query, and its summary.

    Ties don't favour the model. A right answer that shares its score with wrong candidates gets
    the rank it has in expectation under a random order; what a model would get with every tie
    decided against it is told beside.

    Args:
        ranks: Rank of each query's best right answer, 1 at the top, ties in expectation.
        pessimistic_ranks: The same with ties against the model.
        ndcg_per_query: By k, in [0, 1]: the expectation under a random order of ties.
        ks: The ks of recall and nDCG.
        candidates: How many items each query was asked over.
    """

    ranks: PerQuery
    pessimistic_ranks: PerQuery
    ndcg_per_query: dict[int, PerQuery]
    ks: tuple[int, ...]
    candidates: int

    @property
    def queries(self) -> int:
        """How many queries were asked."""
        return len(self.ranks)

    @property
    def recall(self) -> dict[int, float]:
        """By k: share of queries, in [0, 1], with a right answer in the top k."""
        return {k: recall_at_k(self.ranks, k) for k in self.ks}

    @property
    def pessimistic_recall(self) -> dict[int, float]:
        """The same with every tie decided against the model."""
        return {k: recall_at_k(self.pessimistic_ranks, k) for k in self.ks}

    @property
    def median_rank(self) -> float:
        """Rank of the best right answer of the median query; 1 is best."""
        return float(np.median(self.ranks)) if self.queries else float("nan")

    @property
    def reciprocal_ranks(self) -> PerQuery:
        """One over the rank of each query's best right answer."""
        return 1 / self.ranks

    @property
    def mrr(self) -> float:
        """Mean reciprocal rank, in (0, 1].

        Source:
            Voorhees 1999, "The TREC-8 question answering track report", section 3.
        """
        return _mean(self.reciprocal_ranks)

    @property
    def ndcg(self) -> dict[int, float]:
        """By k: normalised discounted cumulative gain with gain 1 for a right answer, in [0, 1].

        Source:
            Järvelin & Kekäläinen 2002, section 2.2, with the discount 1 / log2(1 + rank); tied
            places share their discounts as in McSherry & Najork 2008, section 2.6.
        """
        return {k: _mean(values) for k, values in self.ndcg_per_query.items()}


def recall_at_k(ranks: PerQuery, k: int) -> float:
    """Share of queries whose best right answer is in the top k, in [0, 1].

    Source:
        The CLIP sense of recall@k (hit rate in information retrieval); Radford et al. 2021.
    """
    return _mean(ranks <= k)


def best_ranks(
    queries: Features, candidates: Features, right: Sequence[Iterable[int]], block: int = 1024
) -> PerQuery:
    """Rank [queries] of each one's best right answer, 1 at the top; see :func:`retrieval`."""
    return retrieval(queries, candidates, right, block=block).ranks


def retrieval(  # noqa: PLR0917
    queries: Features,
    candidates: Features,
    right: Sequence[Iterable[int]],
    ks: Sequence[int] = (1, 5, 10),
    block: int = 1024,
    candidate_block: int = 8192,
) -> Retrieval:
    """Measure one direction.

    Args:
        queries: Unit rows [n, embed_dim]; may be a memory map.
        candidates: Unit rows [m, embed_dim]; may be a memory map.
        right: For each query, the candidates that answer it; at least one.
        ks: The ks of recall and nDCG, each at least 1.
        block: Queries scored at a time.
        candidate_block: Candidates scored at a time: memory is block x candidate_block scores of
            12 bytes, whatever n and m are. The result depends on neither.

    Raises:
        ValueError: If a query has no right answer, one points outside, features aren't finite or
            of different widths, or a k is below 1.
    """
    _check(queries, candidates, right, ks)
    pairs = _Pairs.of(right, len(candidates))
    scores = np.empty(len(pairs.query), np.float32)
    above = np.zeros(len(pairs.query), np.int64)
    equal = np.zeros(len(pairs.query), np.int64)
    for first in range(0, len(queries), block):
        rows = queries[first : first + block].astype(np.float64)
        here = slice(*np.searchsorted(pairs.query, [first, first + len(rows)]))
        row, answer = pairs.query[here] - first, pairs.answer[here]
        # exact enough that a twin of the answer elsewhere has the same float32
        scores[here] = np.einsum("ij,ij->i", rows[row], candidates[answer].astype(np.float64))
        for start in range(0, len(candidates), candidate_block):
            columns = candidates[start : start + candidate_block].astype(np.float64)
            tile = (rows @ columns.T).astype(np.float32)
            inside = (answer >= start) & (answer < start + len(columns))
            tile[row[inside], answer[inside] - start] = -np.inf  # only wrong ones are counted
            more, same = _count(tile, row, scores[here])
            above[here] += more
            equal[here] += same
    return _summary(pairs, scores, above, equal, tuple(ks), len(candidates))


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Every (query, right answer), ordered by query; ``starts`` has the first of each query."""

    query: NDArray[np.int64]
    answer: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, right: Sequence[Iterable[int]], candidates: int) -> "_Pairs":
        answers = []
        for at, each in enumerate(right):
            found = np.unique(np.fromiter(each, np.int64))
            if not len(found) or found[0] < 0 or found[-1] >= candidates:
                raise ValueError(
                    f"expected right answers in 0..{candidates - 1} for query {at}, "
                    f"got {found.tolist()}. Drop the query or mend its answers."
                )
            answers.append(found)
        sizes = np.array([len(found) for found in answers], np.int64)
        answer = np.concatenate(answers) if answers else np.empty(0, np.int64)
        starts = np.cumsum(sizes) - sizes
        return cls(np.repeat(np.arange(len(answers)), sizes), answer, starts)


def _count(
    tile: NDArray[np.float32], row: NDArray[np.int64], thresholds: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each (row, threshold): how many entries of the row are above it, and how many equal."""
    above = np.empty(len(row), np.int64)
    equal = np.empty(len(row), np.int64)
    place = np.arange(len(row)) - np.searchsorted(row, row)  # which answer of its query
    few = place < _FEW_ANSWERS
    for slot in range(int(place[few].max()) + 1 if len(row) else 0):
        at = np.flatnonzero(place == slot)
        # most queries have as many answers as the others: no copy of the tile then
        part = tile if len(at) == len(tile) else tile[row[at]]
        above[at] = (part > thresholds[at, None]).sum(1)
        equal[at] = (part == thresholds[at, None]).sum(1)
    many = np.flatnonzero(~few)
    for one in np.unique(row[many]):
        at = many[row[many] == one]
        ordered = np.sort(tile[one])
        high = np.searchsorted(ordered, thresholds[at], "right")
        above[at] = tile.shape[1] - high
        equal[at] = high - np.searchsorted(ordered, thresholds[at], "left")
    return above, equal


def _summary(  # noqa: PLR0917
    pairs: _Pairs,
    scores: NDArray[np.float32],
    wrong_above: NDArray[np.int64],
    wrong_equal: NDArray[np.int64],
    ks: tuple[int, ...],
    candidates: int,
) -> Retrieval:
    if not len(pairs.starts):
        nothing = np.empty(0)
        return Retrieval(nothing, nothing, dict.fromkeys(ks, nothing), ks, candidates)
    # right answers of a query, best first, in groups of equal score
    order = np.lexsort((-scores, pairs.query))
    query, score = pairs.query[order], scores[order]
    above, equal = wrong_above[order], wrong_equal[order]
    new = np.r_[True, (query[1:] != query[:-1]) | (score[1:] != score[:-1])]
    group = np.cumsum(new) - 1
    first = np.flatnonzero(new)
    right_equal = np.diff(np.r_[first, len(query)])[group]
    right_above = first[group] - pairs.starts[query]
    best = pairs.starts
    # the first of r right ones among r + w tied places, in expectation
    expected: PerQuery = above[best] + 1 + equal[best] / (right_equal[best] + 1)
    ndcg = {}
    tied = equal + right_equal
    top = above + right_above
    sizes = np.diff(np.r_[pairs.starts, len(query)])
    for k in ks:
        discounts = np.r_[0, np.cumsum(1 / np.log2(np.arange(2, min(k, candidates) + 2)))]
        last = len(discounts) - 1
        gain = discounts[np.minimum(top + tied, last)] - discounts[np.minimum(top, last)]
        gained = np.add.reduceat(gain / tied, pairs.starts)
        ndcg[k] = gained / discounts[np.minimum(sizes, last)]
    pessimistic: PerQuery = (above + equal + 1)[best].astype(np.float64)
    return Retrieval(expected, pessimistic, ndcg, ks, candidates)


def _check(
    queries: Features, candidates: Features, right: Sequence[Iterable[int]], ks: Sequence[int]
) -> None:
    if len(right) != len(queries):
        raise ValueError(
            f"expected right answers for {len(queries)} queries, got {len(right)}. "
            "Give one list per query."
        )
    if queries.shape[1:] != candidates.shape[1:]:
        raise ValueError(
            f"expected queries as wide as the candidates ({candidates.shape[1:]}), got "
            f"{queries.shape[1:]}. Encode both with one model."
        )
    if min(ks, default=1) < 1:
        raise ValueError(f"expected every k to be at least 1, got {min(ks)}. Leave it out.")
    for name, features in (("query", queries), ("candidate", candidates)):
        broken = np.concatenate(
            [np.flatnonzero(~np.isfinite(features[at : at + 8192]).all(1)) + at
             for at in range(0, len(features), 8192)] or [np.empty(0, np.int64)]
        )  # fmt: skip
        if len(broken):
            first = ", ".join(map(str, broken[:3]))
            raise ValueError(
                f"expected finite {name} features, got {len(broken):,} rows with NaN or infinity, "
                f"the first at {first}. Encode them again."
            )


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
