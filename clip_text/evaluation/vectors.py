"""What vectors of fewer bytes cost in recall, text to image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clip_text.data.collection import RetrievalSet
from clip_text.evaluation.measure import Encoded
from clip_text.evaluation.ranking import Features, PerQuery, best_ranks
from clip_text.evaluation.statistics import (
    RESAMPLES,
    Comparison,
    Interval,
    compare,
    groups_of,
    interval,
)
from clip_text.vectors import (
    check_dimensions,
    from_bits,
    from_int8,
    search_bits,
    to_bits,
    to_int8,
)

KS = (1, 10)
FACTORS = (4, 10)
"""How many candidates by bits are scored anew, as multiples of the deepest k."""


@dataclass(frozen=True, slots=True)
class VectorCost:
    """One form of the pictures' vectors, measured by the texts of a data set.

    Args:
        form: In words: fp32, int8, binary, …
        dimensions: How many of each row's first dimensions are kept.
        scanned: Bytes of a vector that every search reads.
        stored: Bytes of a vector in all, with what only candidates are read of.
        recall: By k, in [0, 1].
        difference: By k, this form minus fp32 of all dimensions on the same texts.
    """

    form: str
    dimensions: int
    scanned: int
    stored: int
    recall: dict[int, Interval]
    difference: dict[int, Comparison]


@dataclass(frozen=True, slots=True)
class _Form:
    """A way to keep pictures' rows and to rank them.

    Args:
        name: In words.
        scanned: Bytes of a vector that every search reads, from the number of dimensions.
        stored: Bytes of a vector in all.
        ranks: Of each text's best right picture, [texts], 1 at the top and infinite where none is
            found; from rows of texts and pictures and the right answers.
    """

    name: str
    scanned: Callable[[int], int]
    stored: Callable[[int], int]
    ranks: Callable[[Features, Features, Sequence[Sequence[int]]], PerQuery]


def _bytes_of_bits(dimensions: int) -> int:
    return -(-dimensions // 8)


def _rescored(factor: int) -> _Form:
    candidates = factor * max(KS)

    def ranks(texts: Features, images: Features, right: Sequence[Sequence[int]]) -> PerQuery:
        codes = to_int8(images)
        found = search_bits(texts, to_bits(images), codes, candidates, candidates)
        return ranks_found(*found, right)

    return _Form(
        f"binary, {candidates} re-scored by int8",
        _bytes_of_bits,
        lambda dimensions: _bytes_of_bits(dimensions) + dimensions,
        ranks,
    )


def _by_bits(texts: Features, images: Features, right: Sequence[Sequence[int]]) -> PerQuery:
    width = texts.shape[1]
    return best_ranks(from_bits(to_bits(texts), width), from_bits(to_bits(images), width), right)


def _plain(name: str, size: int, stored: Callable[[Features], Features]) -> _Form:
    return _Form(
        name,
        lambda dimensions: size * dimensions,
        lambda dimensions: size * dimensions,
        lambda texts, images, right: best_ranks(texts, stored(images), right),
    )


_FORMS = (
    _plain("fp32", 4, lambda rows: rows),
    _plain("fp16", 2, lambda rows: rows.astype(np.float16).astype(np.float32)),
    _plain("int8", 1, lambda rows: from_int8(to_int8(rows))),
    _Form("binary", _bytes_of_bits, _bytes_of_bits, _by_bits),
    _Form(
        "binary, whole queries",
        _bytes_of_bits,
        _bytes_of_bits,
        lambda texts, images, right: best_ranks(
            texts, from_bits(to_bits(images), images.shape[1]), right
        ),
    ),
    *(_rescored(factor) for factor in FACTORS),
)


def measure_vectors(
    collection: RetrievalSet,
    encoded: Encoded,
    dimensions: Sequence[int] = (),
    *,
    resamples: int = RESAMPLES,
) -> list[VectorCost]:
    """Measure each form of the pictures' vectors at each number of dimensions, text to image.

    Queries stay fp32, but for ``binary``, which compares bits with bits.

    Args:
        collection: What was encoded.
        encoded: Whole rows of it.
        dimensions: How many of the first dimensions to keep; all, half and a quarter of them if
            none is given.
        resamples: Draws behind intervals and tests.

    Returns:
        By number of dimensions in the order given, and by form from fp32 down.

    Raises:
        DimensionsError: If rows have not so many dimensions.
        ValueError: As :func:`clip_text.evaluation.retrieval`.
    """
    embed_dim = encoded.texts.shape[1]
    asked = tuple(dimensions) or tuple(
        dict.fromkeys(max(1, embed_dim // part) for part in (1, 2, 4))
    )
    for number in asked:
        check_dimensions(number, embed_dim)
    right = collection.answers
    groups = groups_of(right, len(collection.image_ids))
    whole = best_ranks(encoded.texts, encoded.images, right)
    costs = []
    for number in asked:
        cut = encoded.truncated(number)
        for form in _FORMS:
            ranks = form.ranks(cut.texts, cut.images, right)
            hits = {k: (_hits(ranks, k), _hits(whole, k)) for k in KS}
            costs.append(
                VectorCost(
                    form.name,
                    number,
                    form.scanned(number),
                    form.stored(number),
                    {k: interval(own, groups, resamples=resamples) for k, (own, _) in hits.items()},
                    {k: compare(*both, groups, resamples=resamples) for k, both in hits.items()},
                )
            )
    return costs


def ranks_found(
    scores: Features, places: NDArray[np.int64], right: Sequence[Sequence[int]]
) -> PerQuery:
    """Rank each query's best right answer among what a search found.

    Args:
        scores: Of what was found, [queries, found].
        places: Positions of it among the candidates, [queries, found].
        right: For each query, the candidates that answer it.

    Returns:
        [queries], 1 at the top; ties with wrong ones in expectation under a random order, as in
        :func:`clip_text.evaluation.retrieval`; infinite where no right answer was found.
    """
    ranks = np.full(len(right), np.inf)
    for at, answers in enumerate(right):
        is_right = np.isin(places[at], list(answers))
        if is_right.any():
            best = scores[at][is_right].max()
            tied = scores[at] == best
            wrong, own = (tied & ~is_right).sum(), (tied & is_right).sum()
            ranks[at] = 1 + (scores[at] > best).sum() + wrong / (own + 1)
    return ranks


def _hits(ranks: PerQuery, k: int) -> PerQuery:
    return (ranks <= k).astype(np.float64)
