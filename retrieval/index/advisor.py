"""Which recipe suits these features and these queries: each is built, and searched with them."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import faiss
import numpy as np

from retrieval.features import Halves
from retrieval.index.lists import ListsSegment
from retrieval.index.recipes import EXACT, Recipe, build_lists, factories
from retrieval.index.scoring import Positions
from retrieval.index.segments import FlatSegment, Segment
from retrieval.protocols import Features

__all__ = ["Trial", "best_of", "try_recipes"]

_PROBES = (8, 16, 32, 64, 128, 256)
_K = 10


@dataclass(frozen=True, slots=True)
class Trial:
    """What a recipe came to.

    Args:
        recipe: What was tried.
        recall: Recall@10 against going over all rows, in [0, 1].
        p50_ms: Of ten queries, five take no longer; by the clock, one at a time.
        p95_ms: Of twenty queries, nineteen take no longer.
        memory: Bytes in memory, the mapped features not among them.
        build_seconds: To build it.
    """

    recipe: Recipe
    recall: float
    p50_ms: float
    p95_ms: float
    memory: int
    build_seconds: float


def try_recipes(
    halves: Halves, queries: Features, on_trial: Callable[[Trial], None] | None = None
) -> list[Trial]:
    """Build the recipes that suit so many rows, and search each ever more thoroughly.

    Args:
        halves: All features, [n, embed_dim], n at least 1.
        queries: Of what is really asked, unit rows [q, embed_dim]. Pictures would not do in the
            place of texts: they lie where pictures lie, and are found more easily.
        on_trial: Told of each as it ends.

    Returns:
        Each recipe from the least thorough to the one that misses nothing.
    """
    rows = np.arange(len(halves), dtype=np.int64)
    started = time.perf_counter()
    flat = FlatSegment(rows, halves)
    built = time.perf_counter() - started
    truth, times = _search(flat, queries)
    trials = [Trial(EXACT, 1.0, *_middle(times), halves.nbytes, built)]
    if on_trial:
        on_trial(trials[0])
    for trial in _of_lists(rows, halves, queries, truth):
        trials.append(trial)
        if on_trial:
            on_trial(trial)
    return trials


def best_of(trials: Sequence[Trial], recall: float, memory: int | None = None) -> Trial | None:
    """Give the quickest that misses no more, and takes no more memory, than allowed.

    Args:
        trials: What is there to choose from.
        recall: The least recall@10.
        memory: The most bytes; None for any.
    """
    enough = [
        trial
        for trial in trials
        if trial.recall >= recall and (memory is None or trial.memory <= memory)
    ]
    return min(enough, key=lambda trial: trial.p50_ms, default=None)


def _of_lists(
    rows: Positions, halves: Halves, queries: Features, truth: list[Positions]
) -> Iterator[Trial]:
    for factory, candidates in factories(*halves.shape):
        started = time.perf_counter()
        lists = build_lists(Recipe(factory), halves)
        built = time.perf_counter() - started
        memory = len(faiss.serialize_index(lists))
        for probes in (*[probes for probes in _PROBES if probes < lists.nlist], lists.nlist):
            recipe = Recipe(factory, probes, candidates)
            found, times = _search(ListsSegment(rows, halves, lists, recipe), queries)
            shares = [
                len(np.intersect1d(some, best)) / len(best)
                for some, best in zip(found, truth, strict=True)
            ]
            recall = float(np.mean(shares))
            yield Trial(recipe, recall, *_middle(times), memory, built)
            if recall == 1.0:
                break


def _search(segment: Segment, queries: Features) -> tuple[list[Positions], list[float]]:
    """Search for each query alone, as requests come; gives what was found, and seconds."""
    k = min(_K, len(segment.rows))
    found, times = [], []
    segment.nearest(queries[:1], k, None)
    for i in range(len(queries)):
        started = time.perf_counter()
        ((_, positions),) = segment.nearest(queries[i : i + 1], k, None)
        times.append(time.perf_counter() - started)
        found.append(positions)
    return found, times


def _middle(times: list[float]) -> tuple[float, float]:
    p50, p95 = np.percentile(times, [50, 95]) * 1e3
    return float(p50), float(p95)
