"""Fits what :mod:`retrieval.search.relevance` applies, on queries whose right pictures are known.

Pictures are taken out at random, so that half of the queries have no answer left, in collections
of several sizes. What is told of a query comes from a model that saw no query of its first picture.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from retrieval.errors import QueryError
from retrieval.protocols import Features
from retrieval.search.relevance import (
    BACKGROUND_ROWS,
    FEWEST_ROWS,
    Calibration,
    Evidence,
    Logistic,
    evidence_of,
)

__all__ = [
    "Bin",
    "Discrimination",
    "FitReport",
    "Labelled",
    "Reliability",
    "area_under_curve",
    "calibrate",
    "fit_logistic",
    "reliability",
]

HITS = 10
"""How many hits of each query are learned from."""

HIT_MODELS: tuple[tuple[str, ...], ...] = (
    ("score",),
    ("z",),
    ("score", "log_size"),
    ("z", "log_size"),
    ("score", "z", "log_size"),
    ("score", "mean", "log_size"),
    ("score", "mean", "deviation", "log_rank", "log_size"),
    ("score", "mean", "deviation", "margin", "log_rank", "log_size"),
    ("score", "log_length", "log_size"),
    ("score", "mean", "deviation", "margin", "log_rank", "log_length", "log_size"),
)
ANSWER_MODELS: tuple[tuple[str, ...], ...] = (
    ("score",),
    ("z",),
    ("score", "log_size"),
    ("z", "log_size"),
    ("score", "z", "log_size"),
    ("score", "mean", "deviation", "log_size"),
    ("score", "mean", "deviation", "margin", "log_size"),
    ("score", "log_length", "log_size"),
    ("score", "mean", "deviation", "log_length", "log_size"),
    ("score", "mean", "deviation", "margin", "log_length", "log_size"),
)
"""Evidence that is tried; what has the lowest log-loss on queries not fitted on is kept."""

_FRACTIONS = (2, 8, 32)  # a half, an eighth … of the pictures are searched
_FOLDS = 5
_FEWEST_QUERIES = 100
_REFUSED = 0.05  # of the queries with an answer
_RIDGE = 1e-4  # on weights of evidence in its own deviations
_BLOCK = 512  # queries
_BINS = 15


@dataclass(frozen=True, slots=True)
class Labelled:
    """Queries whose right pictures are known, and what they are searched among.

    Args:
        name: For people.
        queries: Unit rows, [queries, embed_dim].
        lengths: Of the queries, see :func:`~retrieval.search.relevance.length_of`, [queries].
        answers: Of each query, the places of its right pictures in ``pictures``, at least one.
        pictures: Unit rows, [pictures, embed_dim]; those after the right ones are distractors.
    """

    name: str
    queries: Features
    lengths: NDArray[np.int64]
    answers: Sequence[Sequence[int]]
    pictures: Features


@dataclass(frozen=True, slots=True)
class Bin:
    """Some of what was foretold, of nearly equal probability.

    Args:
        foretold: Mean probability.
        came_true: Share that was so.
        count: How many.
    """

    foretold: float
    came_true: float
    count: int


@dataclass(frozen=True, slots=True)
class Reliability:
    """Whether probabilities are what they say.

    Args:
        bins: As many in each, by rising probability.
        error: Expected calibration error: the mean difference of a bin, weighted by its count.
        log_loss: Mean, in nats.
        base_loss: Log-loss of saying the overall share each time.
    """

    bins: list[Bin]
    error: float
    log_loss: float
    base_loss: float


@dataclass(frozen=True, slots=True)
class Discrimination:
    """How well queries with an answer are told from those without, at one size.

    Args:
        name: The collection.
        size: How many of its pictures were searched.
        queries: How many queries, half of them with an answer.
        probability: Area under the curve of the answer's probability.
        best_hit: The same of the best hit's probability.
        cosine: The same of the best hit's cosine: of a flat cut-off.
        refused: Share of the queries without an answer that are told that nothing matches.
        wrongly_refused: Share of those with one.
    """

    name: str
    size: int
    queries: int
    probability: float
    best_hit: float
    cosine: float
    refused: float
    wrongly_refused: float


@dataclass(frozen=True, slots=True)
class FitReport:
    """What a fit came to, all of it on queries whose pictures it was not fitted on.

    Args:
        hit_losses: Log-loss of each model of hits, by its evidence.
        answer_losses: The same of answers.
        hits: Of the probabilities of hits.
        answers: Of the probabilities of answers.
        discrimination: By collection and size.
        pooled: The same over everything together, under the name ``all``, its size 0.
    """

    hit_losses: dict[str, float]
    answer_losses: dict[str, float]
    hits: Reliability
    answers: Reliability
    discrimination: list[Discrimination]
    pooled: Discrimination


@dataclass(frozen=True, slots=True)
class _Lessons:
    """Searches whose outcome is known; [searches, hits] and [searches]."""

    evidence: dict[str, NDArray[np.float64]]
    right: NDArray[np.bool_]
    answered: NDArray[np.bool_]
    groups: NDArray[np.int64]
    collections: NDArray[np.int64]
    sizes: NDArray[np.int64]


def calibrate(
    collections: Sequence[Labelled], fingerprint: str, *, seed: int = 0
) -> tuple[Calibration, FitReport]:
    """Fit the probabilities of a model's hits and answers, and measure them.

    Args:
        collections: Queries and pictures, each searched on its own.
        fingerprint: Of the model that encoded them.
        seed: Of what is taken out, and of the folds; equal seeds give equal calibrations.

    Raises:
        QueryError: If there are too few queries or pictures to learn from.
    """
    rng = np.random.default_rng(seed)
    lessons = _gather(collections, rng)
    _check_enough(lessons)
    fold_of_group = rng.integers(0, _FOLDS, int(lessons.groups.max()) + 1)
    folds = fold_of_group[lessons.groups]
    best = {name: values[:, :1] for name, values in lessons.evidence.items()}
    hit_names, hit_losses, hits = _choose(HIT_MODELS, lessons.evidence, lessons.right, folds)
    answered = lessons.answered[:, None]
    answer_names, answer_losses, answers = _choose(ANSWER_MODELS, best, answered, folds)
    nothing_below = min(
        float(np.quantile(answers[lessons.answered & (lessons.collections == number)], _REFUSED))
        for number in np.unique(lessons.collections)
    )
    calibration = Calibration(
        fingerprint=fingerprint,
        hit=fit_logistic(hit_names, lessons.evidence, lessons.right),
        answer=fit_logistic(answer_names, best, answered),
        nothing_below=nothing_below,
        fitted_on=", ".join(collection.name for collection in collections),
        queries=sum(len(collection.queries) for collection in collections),
        sizes=(int(lessons.sizes.min()), int(lessons.sizes.max())),
    )

    def told(name: str, size: int, part: NDArray[np.bool_]) -> Discrimination:
        there = lessons.answered[part]
        refused = answers[part, 0] < nothing_below
        return Discrimination(
            name,
            size,
            int(part.sum()),
            area_under_curve(answers[part, 0], there),
            area_under_curve(hits[part, 0], there),
            area_under_curve(lessons.evidence["score"][part, 0], there),
            float(refused[~there].mean()),
            float(refused[there].mean()),
        )

    each = [
        told(collection.name, size, part & (lessons.sizes == size))
        for number, collection in enumerate(collections)
        for part in [lessons.collections == number]
        for size in np.unique(lessons.sizes[part]).tolist()
    ]
    report = FitReport(
        hit_losses,
        answer_losses,
        reliability(hits.ravel(), lessons.right.ravel()),
        reliability(answers.ravel(), lessons.answered),
        each,
        told("all", 0, np.ones(len(folds), np.bool_)),
    )
    return calibration, report


def fit_logistic(names: Sequence[str], evidence: Evidence, true: NDArray[np.bool_]) -> Logistic:
    """Fit a logistic model by maximum likelihood, with a very small ridge.

    Args:
        names: Evidence to read.
        evidence: By name, [n, k].
        true: What came true, [n, k]; both must have happened.
    """
    columns = np.stack([evidence[name].ravel() for name in names], axis=1)
    came = true.ravel().astype(np.float64)
    middle, spread = columns.mean(axis=0), columns.std(axis=0)
    spread[spread < 1e-12] = 1.0
    design = np.column_stack([(columns - middle) / spread, np.ones(len(columns))])

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        log_odds = design @ weights
        error = 0.5 * (1.0 + np.tanh(0.5 * log_odds)) - came
        ridge = np.append(_RIDGE * weights[:-1], 0.0)
        value = np.mean(np.logaddexp(0.0, log_odds) - came * log_odds) + ridge @ weights / 2
        return float(value), design.T @ error / len(came) + ridge

    start = np.zeros(len(names) + 1)
    *scaled, bias = optimize.minimize(loss, start, jac=True, method="L-BFGS-B").x
    weights = np.array(scaled) / spread
    by_name = dict(zip(names, weights.tolist(), strict=True))
    return Logistic(by_name, float(bias - weights @ middle))


def reliability(
    foretold: NDArray[np.float64], came_true: NDArray[np.bool_], bins: int = _BINS
) -> Reliability:
    """Hold probabilities against what came true.

    Args:
        foretold: Probabilities, [n].
        came_true: What was so, [n].
        bins: How many, of equal count.

    Source:
        Naeini, Cooper & Hauskrecht 2015, section 3 (expected calibration error), with bins of
        equal count as in Nixon et al. 2019, arXiv:1904.01685.
    """
    parts = [
        part for part in np.array_split(np.argsort(foretold, kind="stable"), bins) if len(part)
    ]
    made = [
        Bin(float(foretold[part].mean()), float(came_true[part].mean()), len(part))
        for part in parts
    ]
    error = sum(one.count * abs(one.foretold - one.came_true) for one in made) / len(foretold)
    base = np.full(len(foretold), came_true.mean())
    return Reliability(made, error, _log_loss(foretold, came_true), _log_loss(base, came_true))


def area_under_curve(values: NDArray[np.float64], true: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: how often a true one has the higher value, ties counted half.

    Source:
        Hanley & McNeil 1982: the Mann-Whitney statistic over the number of pairs.
    """
    pairs = int(true.sum()) * int((~true).sum())
    if pairs == 0:
        return float("nan")
    return float(stats.mannwhitneyu(values[true], values[~true]).statistic) / pairs


def _log_loss(foretold: NDArray[np.float64], came_true: NDArray[np.bool_]) -> float:
    sure = np.clip(np.where(came_true, foretold, 1.0 - foretold), 1e-12, 1.0)
    return float(-np.log(sure).mean())


def _choose(
    models: Sequence[tuple[str, ...]],
    evidence: Evidence,
    true: NDArray[np.bool_],
    folds: NDArray[np.int64],
) -> tuple[tuple[str, ...], dict[str, float], NDArray[np.float64]]:
    """Keep the model with the lowest log-loss; gives what it foretold of queries it never saw."""
    losses: dict[str, float] = {}
    kept: tuple[tuple[str, ...], NDArray[np.float64]] | None = None
    for names in models:
        foretold = np.empty(true.shape)
        for fold in range(_FOLDS):
            out = folds == fold
            model = fit_logistic(names, {name: evidence[name][~out] for name in names}, true[~out])
            foretold[out] = model.probability({name: evidence[name][out] for name in names})
        loss = _log_loss(foretold.ravel(), true.ravel())
        if kept is None or loss < min(losses.values()):
            kept = names, foretold
        losses[" + ".join(names)] = loss
    assert kept is not None
    return kept[0], losses, kept[1]


def _gather(collections: Sequence[Labelled], rng: np.random.Generator) -> _Lessons:
    """Search each collection at each size, with about as many queries at every one."""
    parts: list[_Lessons] = []
    first_group = 0
    for number, collection in enumerate(collections):
        for fraction in _FRACTIONS:
            size = len(collection.pictures) // fraction
            if size < 2 * FEWEST_ROWS:
                continue
            for _ in range(fraction // 2):
                for evidence, right, answered, groups in _search(collection, size, rng):
                    same = np.full(len(groups), 1, np.int64)
                    parts.append(
                        _Lessons(
                            evidence,
                            right,
                            answered,
                            groups + first_group,
                            same * number,
                            same * size,
                        )
                    )
        first_group += len(collection.pictures)
    if not parts:
        raise QueryError(
            f"expected at least {4 * FEWEST_ROWS} pictures to calibrate on, got fewer. Give more "
            "of them."
        )
    names = parts[0].evidence
    return _Lessons(
        {name: np.concatenate([part.evidence[name] for part in parts]) for name in names},
        *(
            np.concatenate([getattr(part, field) for part in parts])
            for field in ("right", "answered", "groups", "collections", "sizes")
        ),
    )


def _search(
    collection: Labelled, size: int, rng: np.random.Generator
) -> Iterator[
    tuple[dict[str, NDArray[np.float64]], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]
]:
    """Search ``size`` pictures, the others taken out, with as many queries with as without answer.

    Yields:
        Evidence and what is right of it, [queries, hits], whether there is an answer, and groups.
    """
    kept = np.sort(rng.permutation(len(collection.pictures))[:size])
    place = np.full(len(collection.pictures), -1, np.int64)
    place[kept] = np.arange(size)
    pictures = collection.pictures[kept]
    background = pictures[rng.permutation(size)[:BACKGROUND_ROWS]]
    answers = [place[list(pictures_of)] for pictures_of in collection.answers]
    first = np.array([min(pictures_of) for pictures_of in collection.answers])
    answered = np.array([bool((places >= 0).any()) for places in answers])
    with_, without = (rng.permutation(np.flatnonzero(answered == there)) for there in (True, False))
    number = min(len(with_), len(without))
    asked = np.concatenate([with_[:number], without[:number]])
    for start in range(0, len(asked), _BLOCK):
        part = asked[start : start + _BLOCK]
        queries = collection.queries[part]
        scores = queries @ pictures.T
        order = np.argsort(-scores, axis=1, kind="stable")[:, :HITS]
        over = queries @ background.T
        best = np.take_along_axis(scores, order, axis=1)
        evidence = dict(
            evidence_of(best, over.mean(axis=1), over.std(axis=1), size, collection.lengths[part])
        )
        right = np.stack([np.isin(order[i], answers[query]) for i, query in enumerate(part)])
        yield evidence, right, answered[part], first[part]


def _check_enough(lessons: _Lessons) -> None:
    with_answer = len(np.unique(lessons.groups[lessons.answered]))
    if with_answer < _FEWEST_QUERIES or not lessons.right.any() or lessons.right.all():
        raise QueryError(
            f"expected queries of at least {_FEWEST_QUERIES} pictures or groups of pictures, some "
            f"of which are found, got {with_answer}. Give more of them, of pictures like those "
            "that are searched."
        )
