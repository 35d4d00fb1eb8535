"""What a linear classifier makes of frozen features: of all examples, or of a few a class.

A probe tells what the image tower knows, apart from whether the texts find it.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_text.data.collection import refuse
from clip_text.errors import DataError, needs
from clip_text.evaluation.ranking import Features
from clip_text.evaluation.zero_shot import hits_at_k, mean_known, refuse_broken

STRENGTHS = tuple(10.0**power for power in range(-2, 5))
"""Inverse regularisation tried, scikit-learn's C, for unit rows."""

MOST_VALIDATION_SHOTS = 4

_ITERATIONS = 1000  # as in CLIP


@dataclass(frozen=True, slots=True)
class Examples:
    """Frozen features and their classes.

    Args:
        features: Unit rows, [n, embed_dim].
        classes: Position of each one's class, int [n].
        names: Names of all classes, for errors; may be left out.
    """

    features: Features
    classes: NDArray[np.int64]
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.classes)

    def at(self, rows: NDArray[np.int64]) -> "Examples":
        """Take some of the rows, by their positions [n]."""
        return replace(self, features=self.features[rows], classes=self.classes[rows])

    def joined(self, other: "Examples") -> "Examples":
        """Put others behind these."""
        return replace(
            self,
            features=np.concatenate([self.features, other.features]),
            classes=np.concatenate([self.classes, other.classes]),
        )

    def name(self, at: int) -> str:
        """What to call a class in an error."""
        return self.names[at] if self.names else f"class {at}"


@dataclass(frozen=True, slots=True)
class Probe:
    """A linear probe's result.

    Args:
        accuracy: Share of the test pictures put right, in [0, 1].
        mean_per_class: The same, every class counting alike.
        strength: The C that was best on the validation part.
        trained_on: Number of pictures, those of the validation part included.
        validated_on: Number of pictures that the C was chosen on.
        tested_on: Number of pictures in the test part.
    """

    accuracy: float
    mean_per_class: float
    strength: float
    trained_on: int
    validated_on: int
    tested_on: int


@dataclass(frozen=True, slots=True)
class FewShot:
    """Accuracy with so many examples a class.

    Args:
        shots: Examples of each class.
        accuracies: One for each seed, in [0, 1].
        strengths: The C chosen for each seed.
    """

    shots: int
    accuracies: tuple[float, ...]
    strengths: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean(self.accuracies))

    @property
    def std(self) -> float:
        """Sample standard deviation over the seeds; NaN for a single one."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else float("nan")


def linear_probe(
    train: Examples,
    test: Examples,
    validation: Examples | None = None,
    *,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> Probe:
    """Fit a logistic regression on frozen features, and test it on pictures it never saw.

    The regularisation is chosen on the validation part, which then joins the training part for
    the last fit. The test part has no say.

    Args:
        train: Examples of at least two classes.
        test: Examples of the same classes to measure on.
        validation: Examples of the same classes to choose the penalty on; a fifth of every class of
            ``train`` if not given.
        strengths: Inverse strengths of regularisation to choose from.
        seed: Seed of the draw of that fifth.

    Raises:
        MissingPackageError: If scikit-learn is missing.
        DataError: If rows are not finite, a part is empty, a class of a part is not in ``train``,
            or there are too few examples to hold any back.

    Source:
        Radford et al. 2021, appendix A.3, arXiv:2103.00020.
    """
    if validation is None:
        _check("train", train, None)
        train, validation = split(train, (0.8, 0.2), seed)
    _check_parts(train, validation, test)
    strength = _choose(train, validation, strengths)
    joined = train.joined(validation)
    hits = _fit_and_test(joined, test, strength)
    of_class = [hits[test.classes == one].mean() for one in np.unique(test.classes)]
    return Probe(
        accuracy=mean_known(hits),
        mean_per_class=float(np.mean(of_class)),
        strength=strength,
        trained_on=len(joined),
        validated_on=len(validation),
        tested_on=len(test),
    )


def few_shot(
    pool: Examples,
    test: Examples,
    shots: Sequence[int],
    *,
    seeds: Iterable[int] = range(3),
    strengths: Sequence[float] = STRENGTHS,
) -> list[FewShot]:
    """Fit on a few examples of each class, several times over.

    For n shots each seed draws n examples of every class to learn from, and min(n, 4) others to
    choose the regularisation by. A seed's few examples are among its more.

    Args:
        pool: What is drawn from, of at least two classes.
        test: Examples of the same classes to measure on, the same for all numbers of shots.
        shots: Examples a class, each at least 1.
        seeds: Seeds of the draws, one for each repetition.
        strengths: Inverse strengths of regularisation to choose from.

    Raises:
        MissingPackageError: If scikit-learn is missing.
        DataError: As for :func:`linear_probe`, or if a class has too few examples.
        ValueError: If a number of shots is below 1.

    Source:
        Zhou et al. 2022 (CoOp), section 4.1 and code, arXiv:2109.01134.
    """
    if not shots or min(shots) < 1:
        raise ValueError(f"expected at least 1 shot, got {list(shots)}. Name 1, 2, 4, 8, 16.")
    _check_parts(pool, test)
    most = max(shots)
    needed = most + min(most, MOST_VALIDATION_SHOTS)
    counts = np.bincount(pool.classes)
    short = [
        f"{pool.name(at)} ({counts[at]})" for at in np.unique(pool.classes) if counts[at] < needed
    ]
    refuse("the training part", f"{needed} examples a class", short, "Ask for fewer shots, or drop")
    seeds = list(seeds)
    found = []
    for number in sorted(set(shots)):
        results = [_one_draw(pool, test, number, seed, strengths) for seed in seeds]
        accuracies, chosen = zip(*results, strict=True)
        found.append(FewShot(number, accuracies, chosen))
    return found


def split(examples: Examples, shares: Sequence[float], seed: int = 0) -> list[Examples]:
    """Divide the examples of every class at random, each part getting at least one.

    Args:
        examples: Examples to divide among the parts.
        shares: Shares of the parts, in [0, 1]; the first also gets what rounding leaves.
        seed: Seed of the shuffling.

    Raises:
        DataError: If a class has fewer examples than there are parts.
    """
    parts: list[list[NDArray[np.int64]]] = [[] for _ in shares]
    short = []
    for one, rows in _shuffled(examples, seed).items():
        if len(rows) < len(shares):
            short.append(f"{examples.name(one)} ({len(rows)})")
            continue
        sizes = [max(1, round(share * len(rows))) for share in shares[1:]]
        ends = np.cumsum([0, len(rows) - sum(sizes), *sizes])
        for part, (start, end) in zip(parts, pairwise(ends), strict=True):
            part.append(rows[start:end])
    refuse("the pictures", f"at least {len(shares)} examples a class", short, "Add to or drop")
    return [examples.at(np.concatenate(part)) for part in parts]


def check_installed() -> None:
    """Say early that a package is missing.

    Raises:
        MissingPackageError: If scikit-learn is.
    """
    _sklearn("linear_model")


def _shuffled(examples: Examples, seed: int) -> dict[int, NDArray[np.int64]]:
    # a generator for each class: a class's draw does not depend on the others
    return {
        int(one): np.random.default_rng([seed, int(one)]).permutation(
            np.flatnonzero(examples.classes == one)
        )
        for one in np.unique(examples.classes)
    }


def _one_draw(
    pool: Examples, test: Examples, shots: int, seed: int, strengths: Sequence[float]
) -> tuple[float, float]:
    drawn = _shuffled(pool, seed).values()
    held = min(shots, MOST_VALIDATION_SHOTS)
    # learnt from the front and validated from the back: fewer shots are a part of more
    train = pool.at(np.concatenate([rows[:shots] for rows in drawn]))
    validation = pool.at(np.concatenate([rows[len(rows) - held :] for rows in drawn]))
    strength = _choose(train, validation, strengths)
    return mean_known(_fit_and_test(train, test, strength)), strength


def _choose(train: Examples, validation: Examples, strengths: Sequence[float]) -> float:
    """The C that is best on the validation part; of equals the smallest, the simplest model."""
    accuracy = {
        strength: mean_known(_fit_and_test(train, validation, strength))
        for strength in sorted(strengths)
    }
    return max(accuracy, key=accuracy.__getitem__)


def _fit_and_test(train: Examples, test: Examples, strength: float) -> NDArray[np.float64]:
    """For each test picture, the probability of its being put right."""
    linear_model, exceptions = _sklearn("linear_model"), _sklearn("exceptions")
    model = linear_model.LogisticRegression(C=strength, max_iter=_ITERATIONS)
    with warnings.catch_warnings():
        # a fit cut short is a classifier all the same, judged on the validation part
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        model.fit(train.features.astype(np.float64), train.classes)
    scores = model.decision_function(test.features.astype(np.float64))
    if scores.ndim == 1:  # of two classes scikit-learn scores the second alone
        scores = np.stack([-scores, scores], axis=1)
    return hits_at_k(scores, test.classes[:, None] == model.classes_, 1)


def _sklearn(module: str) -> Any:  # noqa: ANN401
    with needs("clip-text[evaluate]", "a probe", "scikit-learn"):
        return import_module(f"sklearn.{module}")


def _check_parts(train: Examples, *others: Examples) -> None:
    _check("training", train, None)
    for part in others:
        _check("validation or test", part, train)


def _check(name: str, part: Examples, train: Examples | None) -> None:
    if len(part.features) != len(part.classes):
        raise DataError(
            f"expected a class for each of {len(part.features)} rows of the {name} part, got "
            f"{len(part.classes)}. Give one a row."
        )
    if not len(part):
        raise DataError(f"expected pictures in the {name} part, got none. Add some.")
    refuse_broken(f"the {name} part", part.features)
    there = np.unique(part.classes)
    if train is None and len(there) < 2:
        raise DataError(
            f"expected at least two classes in the {name} part, got {len(there)}. Add another."
        )
    if train is not None:
        unknown = [part.name(one) for one in np.setdiff1d(there, train.classes)]
        refuse(f"the {name} part", "classes of the training part", unknown, "Drop")
