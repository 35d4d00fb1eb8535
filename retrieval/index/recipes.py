"""How a sealed segment is built and searched, chosen by how many rows there are."""

import math
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from retrieval.features import Halves

__all__ = ["EXACT", "Recipe", "build_lists", "choose_recipe", "factories"]

_EXACT_UP_TO = 50_000
# Lists that a query looks into: this share of them, and no fewer than so many.
_PROBED = 0.2
_LEAST_PROBES = 64
_LEAST_FOR_CODES = 1000
_PAGE = 16_384  # rows added at a time
# Of each list so many rows teach the centres. A quarter of them took half of the time, and put what
# is nearest into six times as many lists.
_LESSONS_PER_LIST = 256
_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a sealed segment is built, and how hard it is looked through.

    Args:
        factory: FAISS's description of an inverted file, as ``IVF2000,PQ256x4fs``; "exact" for
            none, which goes over all rows.
        probes: How many lists a query looks into.
        candidates: How many of the rows found there are scored from their features.
    """

    factory: str
    probes: int = 0
    candidates: int = 0

    @property
    def is_exact(self) -> bool:
        """True if nothing is ever missed."""
        return self.factory == "exact"

    @property
    def lists(self) -> int:
        """How many lists it has; 0 if it is exact."""
        return 0 if self.is_exact else int(self.factory.removeprefix("IVF").partition(",")[0])


EXACT = Recipe("exact")


def choose_recipe(count: int, embed_dim: int) -> Recipe:
    """Choose by how many rows there are; docs/benchmarks.md has the figures.

    Args:
        count: Rows.
        embed_dim: Width of the features.
    """
    if count <= _EXACT_UP_TO:
        return EXACT
    factory, candidates = factories(count, embed_dim)[0]
    lists = Recipe(factory).lists
    return Recipe(factory, max(_LEAST_PROBES, round(_PROBED * lists)), candidates)


def factories(count: int, embed_dim: int) -> list[tuple[str, int]]:
    """Name the inverted files that suit so many rows, the best first.

    Args:
        count: Rows, at least 1.
        embed_dim: Width of the features.

    Returns:
        FAISS's description of each, and how many candidates it takes. Codes of four bits for two
        values are an eighth of fp16, and right in the rough; fp16 is right up to rounding.
    """
    lists = min(count, math.isqrt(4 * count))
    fine = (f"IVF{lists},SQfp16", 32)
    # Codes are learnt from rows, and take pairs of values.
    suits_codes = embed_dim % 2 == 0 and count >= _LEAST_FOR_CODES
    return [(f"IVF{lists},PQ{embed_dim // 2}x4fs", 300), fine] if suits_codes else [fine]


def build_lists(
    recipe: Recipe, halves: Halves, seed: int = 0, *, keep_scores: bool = False
) -> faiss.IndexIVF:
    """Build the inverted file of a recipe that is not exact.

    What all features have in common, the cone in which a model's pictures lie, is taken from them
    beforehand: it adds the same to each score of a query, and would be most of what centres tell.

    Args:
        recipe: Names it.
        halves: Features, [n, embed_dim], of at least as many rows as it has lists.
        seed: Decides which rows teach the centres.
        keep_scores: Take nothing from the features, so that the file's scores are cosines.

    Returns:
        A FAISS index of n vectors, numbered by their positions.
    """
    count, embed_dim = halves.shape
    lists: Any = faiss.index_factory(embed_dim, recipe.factory, faiss.METRIC_INNER_PRODUCT)
    lists.cp.max_points_per_centroid = _LESSONS_PER_LIST
    lists.cp.niter = _ROUNDS
    for learner in (lists, getattr(lists, "pq", None)):
        if learner is not None:  # few rows are no reason for a warning on stderr
            learner.cp.min_points_per_centroid = 1
    wanted = min(count, max(_LESSONS_PER_LIST * lists.nlist, _PAGE))
    lessons = np.sort(np.random.default_rng(seed).choice(count, wanted, replace=False))
    taught = np.empty((wanted, embed_dim), np.float32)
    for start in range(0, wanted, _PAGE):  # at once, they would stand here in fp16, too
        taught[start : start + _PAGE] = halves[lessons[start : start + _PAGE]]
    common = np.zeros(embed_dim, np.float32) if keep_scores else taught.mean(axis=0)
    taught -= common  # in place: of a million rows they are a gigabyte
    lists.train(taught)
    del taught
    for start in range(0, count, _PAGE):
        lists.add(halves[start : start + _PAGE].astype(np.float32) - common)
    built: faiss.IndexIVF = lists
    return built
