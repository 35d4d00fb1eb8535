"""How sure a figure is: intervals by resampling, and a paired test of two models.

Captions of one picture stand or fall together, so what is drawn anew is not the caption but the
group: all texts and pictures that answer each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from clip_text.evaluation.ranking import PerQuery

RESAMPLES = 2000
_BATCH = 100  # resamples held in memory at a time


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its confidence interval, in the unit of the values.

    Args:
        value: The mean over all queries.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same queries.

    Args:
        difference: Mean of the first minus mean of the second, with its interval.
        p_value: Probability of a difference at least as large, either way, if the models were
            interchangeable.
    """

    difference: Interval
    p_value: float


def groups_of(answers: Sequence[Sequence[int]], candidates: int) -> NDArray[np.int64]:
    """Number the groups of queries that share a right answer, directly or through others; [n].

    Args:
        answers: For each query its right answers.
        candidates: How many candidates there are.
    """
    rows = np.repeat(np.arange(len(answers)), [len(each) for each in answers])
    columns = np.array([one for each in answers for one in each], np.int64) + len(answers)
    size = len(answers) + candidates
    graph = csr_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(size, size))
    _, labels = connected_components(graph, directed=False)
    return np.asarray(labels[: len(answers)], np.int64)


def interval(
    values: PerQuery,
    groups: NDArray[np.int64] | None = None,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the mean, by the cluster bootstrap.

    Args:
        values: One per query, [n].
        groups: The group of each query, [n]; without, each query is its own.
        level: Coverage asked for.
        resamples: How often the groups are drawn anew.
        seed: Seed of the draws; an equal seed gives equal draws.

    Returns:
        The mean and its interval; NaN ends where there are fewer than two groups.

    Source:
        Efron & Tibshirani 1993, chapters 8 and 13; Field & Welsh 2007, section 3, for clusters.
    """
    sums, counts = _by_group(values, groups)
    mean = float(np.mean(values)) if len(values) else float("nan")
    if len(sums) < 2:
        return Interval(mean, float("nan"), float("nan"))
    if np.ptp(sums / counts) == 0:  # nothing varies: scipy would warn
        return Interval(mean, mean, mean)
    found = stats.bootstrap(
        (sums, counts),
        lambda total, number, axis: total.sum(axis) / number.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=_BATCH,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return Interval(
        mean, float(found.confidence_interval.low), float(found.confidence_interval.high)
    )


def compare(
    first: PerQuery,
    second: PerQuery,
    groups: NDArray[np.int64] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two models on the same queries: a paired permutation test over groups.

    Args:
        first: One value per query, [n].
        second: The other model's, for the same queries in the same order.
        groups: The group of each query, [n].
        resamples: Number of permutations, and of resamples of the interval.
        seed: Seed of the permutations and of the resamples.

    Raises:
        ValueError: If the models were not asked the same number of queries.

    Source:
        Smucker, Allan & Carterette 2007, section 3.1 (randomisation test).
    """
    if len(first) != len(second):
        raise ValueError(
            f"expected both models on the same queries, got {len(first)} and {len(second)}. "
            "Measure both on one data set."
        )
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    sums, _ = _by_group(difference, groups)
    if len(sums) < 2 or not sums.any():
        return Comparison(interval(difference, groups, resamples=resamples, seed=seed), 1.0)
    test = stats.permutation_test(
        (sums,),
        lambda total, axis: total.sum(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples - 1,
        batch=_BATCH,
        rng=np.random.default_rng(seed),
    )
    found = interval(difference, groups, resamples=resamples, seed=seed)
    return Comparison(found, float(test.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct the p-values of several comparisons, so that chance alone is rarely told as a find.

    Args:
        p_values: Of each comparison of one family, such as several models against one.

    Returns:
        For each, in order, the lowest level at which it is still significant when the chance of
        one wrong find or more among all of them is held to that level; at most 1.

    Source:
        Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    out = [0.0] * len(p_values)
    so_far = 0.0
    for turn, at in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        so_far = max(so_far, min(1.0, (len(p_values) - turn) * p_values[at]))
        out[at] = so_far
    return out


def _by_group(
    values: PerQuery, groups: NDArray[np.int64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and number of the values of each group."""
    values = np.asarray(values, np.float64)
    if groups is None:
        return values, np.ones(len(values))
    _, number = np.unique(groups, return_inverse=True)
    return np.bincount(number, values).astype(np.float64), np.bincount(number).astype(np.float64)
