"""Two ways to search joined: by features, and by the words that are said of pictures.

Each gives a list, best first. What counts is a picture's place in the two, since their scores have
no scale in common: reciprocal rank fusion (Cormack, Clarke & Büttcher 2009, "Reciprocal Rank
Fusion outperforms Condorcet and individual Rank Learning Methods", SIGIR).

Where only some pictures have a caption, each that shares a word with the query would be placed
before all that have none, by that alone. So a picture's place by words counts as much as of the
query is said of it, and not at all below two thirds; docs/hybrid.md has the figures.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.catalogue.words import Worded
from retrieval.errors import QueryError
from retrieval.protocols import Rows

__all__ = ["DEPTH", "Blend", "blend_of", "join"]

DEPTH = 100
"""How long the two lists are: always the same, so that a hit's place does not depend on how many
are asked for."""


@dataclass(frozen=True, slots=True)
class Blend:
    """How the two lists are joined.

    A picture gets ``1 / (k + rank)`` points of the list by features, and ``words * share /
    (k + rank)`` of the list by words, where its share in [0, 1] says how much of the query is
    said of it.

    Args:
        words: Weight of the list by words; 0 leaves the one by features alone.
        k: How little the first places stand out.
        least_share: Pictures with a smaller share are not in the list by words.

    Raises:
        QueryError: If the weight or k is below 0 or not finite, or the share outside [0, 1].
    """

    words: float = 1.0
    k: float = 60.0
    least_share: float = 2 / 3

    def __post_init__(self) -> None:
        if not (0 <= self.words < np.inf and 0 <= self.k < np.inf and 0 <= self.least_share <= 1):
            raise QueryError(
                f"expected words and k of at least 0 and a least_share of 0 to 1, got {self}. "
                "Leave them out for the usual ones."
            )


def blend_of(hybrid: bool | Blend) -> Blend | None:
    """Give what an option ``hybrid`` asks for; None for features alone."""
    if isinstance(hybrid, Blend):
        return hybrid
    return Blend() if hybrid else None


def join(near: Sequence[int] | Rows, worded: Worded, blend: Blend) -> list[int]:
    """Join two lists by reciprocal rank.

    Args:
        near: Rows in the order of their features, the nearest first.
        worded: The same by words.
        blend: How.

    Returns:
        All rows of both lists that count, the best first; equals by their place among the
        words, then among the nearest: a picture of which all of the query is said, a number or a
        name, comes before the nearest of which nothing is.
    """
    points: dict[int, float] = {}
    counted = worded.shares >= blend.least_share
    if blend.words:
        said = zip(worded.rows[counted].tolist(), worded.shares[counted].tolist(), strict=True)
        for rank, (row, share) in enumerate(said, start=1):
            points[row] = blend.words * share / (blend.k + rank)
    for rank, row in enumerate(near, start=1):
        points[int(row)] = points.get(int(row), 0.0) + 1 / (blend.k + rank)
    # sorted is stable, and they stand in the order of their places
    return [row for row, _ in sorted(points.items(), key=operator.itemgetter(1), reverse=True)]
