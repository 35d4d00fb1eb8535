"""Retrieval measured the CLIP way: recall@k in both directions, several right answers allowed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Recall@k of one direction.

    Args:
        recall: Share of queries, in [0, 1], with a right answer in the top k, by k.
        median_rank: Rank of the best right answer of the median query; 1 is best.
        queries: How many queries were asked.
        candidates: How many items each was asked over.
    """

    recall: dict[int, float]
    median_rank: float
    queries: int
    candidates: int


def best_ranks(
    queries: Features, candidates: Features, right: Sequence[Iterable[int]], block: int = 1024
) -> NDArray[np.float64]:
    """Rank of each query's best right answer, 1 at the top.

    Ties don't favour the model: a right answer that shares its score with t wrong candidates
    gets the middle rank among them, the expectation under a random order.

    Args:
        queries: Unit rows [n, embed_dim].
        candidates: Unit rows [m, embed_dim].
        right: For each query, the candidates that answer it; at least one.
        block: Queries scored at a time: memory is block x m floats.

    Returns:
        Ranks in [1, m], float64 [n].

    Raises:
        ValueError: If a query has no right answer, one points outside, or features aren't finite.
    """
    if len(right) != len(queries):
        raise ValueError(
            f"expected right answers for {len(queries)} queries, got {len(right)}. "
            "Give one list per query."
        )
    for name, features in (("query", queries), ("candidate", candidates)):
        broken = int((~np.isfinite(features).all(1)).sum())
        if broken:
            raise ValueError(
                f"expected finite {name} features, got {broken} rows with NaN or infinity. "
                "Encode them again."
            )
    ranks = np.empty(len(queries), np.float64)
    for start in range(0, len(queries), block):
        scores = queries[start : start + block] @ candidates.T
        for at, row in enumerate(scores, start):
            answers = np.unique(np.fromiter(right[at], np.int64))
            if not len(answers) or answers[0] < 0 or answers[-1] >= len(candidates):
                raise ValueError(
                    f"expected right answers in 0..{len(candidates) - 1} for query {at}, "
                    f"got {answers.tolist()}. Drop the query or mend its answers."
                )
            best = row[answers].max()
            above = int((row > best).sum())
            equals = int((row == best).sum())
            right_equals = int((row[answers] == best).sum())
            wrong_equals = equals - right_equals
            # the first of r right ones among r + w tied places, in expectation
            ranks[at] = above + 1 + wrong_equals / (right_equals + 1)
    return ranks


def recall_at_k(ranks: NDArray[np.float64], k: int) -> float:
    """Share of queries whose best right answer is in the top k, in [0, 1].

    Source:
        The CLIP sense of recall@k (hit rate in information retrieval); Radford et al. 2021.
    """
    return float((ranks <= k).mean()) if len(ranks) else float("nan")


def retrieval(
    queries: Features,
    candidates: Features,
    right: Sequence[Iterable[int]],
    ks: Sequence[int] = (1, 5, 10),
) -> Retrieval:
    """Measure one direction; arguments as in :func:`best_ranks`."""
    ranks = best_ranks(queries, candidates, right)
    return Retrieval(
        recall={k: recall_at_k(ranks, k) for k in ks},
        median_rank=float(np.median(ranks)) if len(ranks) else float("nan"),
        queries=len(queries),
        candidates=len(candidates),
    )
