"""How good a classifier is, and how true its probabilities are."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax

Logits = NDArray[np.floating]
Targets = NDArray[np.int64]

BINS = 15
"""Of the calibration error; Guo et al. 2017, section 2."""

_COLDEST, _HOTTEST = np.log(0.01), np.log(100)


@dataclass(frozen=True, slots=True)
class ClassScores:
    """One class, shares in [0, 1].

    Args:
        label: Name of the class.
        texts: Number of texts that have the class.
        precision: Share of the texts put in the class that have it, in [0, 1]; 0 where none was put
            in it.
        recall: Share of the texts of the class that are put in it, in [0, 1]; 0 where none has it.
        f1: Their harmonic mean; 0 where both are.
    """

    label: str
    texts: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class Scores:
    """A classifier on held-out texts.

    Args:
        accuracy: Share of texts put right; with several labels a text, of all its labels at once.
        macro_f1: Mean F1 of the classes that have texts.
        micro_f1: F1 of all decisions together; the accuracy, with one label a text.
        classes: Scores of each class by itself, in the order of the labels.
    """

    accuracy: float
    macro_f1: float
    micro_f1: float
    classes: tuple[ClassScores, ...]


@dataclass(frozen=True, slots=True)
class TemperatureFit:
    """Calibration before and after the temperature.

    Args:
        temperature: What logits are divided by, fitted on all the texts.
        nll_before: Mean negative log-likelihood at temperature 1, in nats.
        nll_after: The same at a temperature fitted on the other half of the texts.
        ece_before: Expected calibration error at temperature 1, in [0, 1].
        ece_after: The same at a temperature fitted on the other half.
    """

    temperature: float
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float


def decide(logits: Logits, *, multi_label: bool, threshold: float = 0.5) -> NDArray[np.bool_]:
    """Say which labels each text gets, bool [n, labels]; of equal logits the first one's.

    Args:
        logits: Logits of the texts, [n, labels].
        multi_label: Whether several or none are allowed.
        threshold: Probability that is enough then.
    """
    if multi_label:
        return np.asarray(probabilities(logits, multi_label=True) >= threshold)
    given = np.zeros(logits.shape, bool)
    given[np.arange(len(logits)), logits.argmax(1)] = True
    return given


def score(given: NDArray[np.bool_], targets: Targets, labels: tuple[str, ...]) -> Scores:
    """Compare decisions with the truth.

    Args:
        given: What each text was decided to have, [n, labels], as :func:`decide` gives it.
        targets: Positions [n], or 0 and 1 [n, labels].
        labels: Names of the classes.
    """
    truth = as_matrix(targets, len(labels))
    right = (given & truth).sum(0)
    put, there = given.sum(0), truth.sum(0)
    f1 = 2 * right / np.maximum(put + there, 1)
    classes = tuple(
        ClassScores(
            label,
            int(there[at]),
            float(right[at] / max(put[at], 1)),
            float(right[at] / max(there[at], 1)),
            float(f1[at]),
        )
        for at, label in enumerate(labels)
    )
    known = there > 0
    return Scores(
        accuracy=float((given == truth).all(1).mean()),
        macro_f1=float(f1[known].mean()) if known.any() else 0.0,
        micro_f1=float(2 * right.sum() / max(int(put.sum() + there.sum()), 1)),
        classes=classes,
    )


def as_matrix(targets: Targets, classes: int) -> NDArray[np.bool_]:
    """Give targets as bool [n, labels]."""
    if targets.ndim == 2:
        return targets.astype(bool)
    return np.asarray(targets[:, None] == np.arange(classes))


def probabilities(
    logits: Logits, temperature: float = 1.0, *, multi_label: bool
) -> NDArray[np.float64]:
    """Softmax, or sigmoid with several labels a text, of logits [n, labels] / temperature."""
    scaled = np.asarray(logits, np.float64) / temperature
    found: NDArray[np.float64] = expit(scaled) if multi_label else softmax(scaled, axis=1)
    return found


def negative_log_likelihood(
    logits: Logits, targets: Targets, temperature: float = 1.0, *, multi_label: bool
) -> float:
    """Mean negative log-likelihood in nats, of each text, or of each text and label."""
    scaled = np.asarray(logits, np.float64) / temperature
    if not multi_label:
        return float(-log_softmax(scaled, axis=1)[np.arange(len(targets)), targets].mean())
    signs = np.where(as_matrix(targets, logits.shape[1]), -1, 1)
    return float(np.logaddexp(0, signs * scaled).mean())


def calibration_error(
    logits: Logits, targets: Targets, temperature: float = 1.0, *, multi_label: bool
) -> float:
    """Expected calibration error over :data:`BINS` bins of equal width, in [0, 1].

    Of the likeliest label's probability, whether it is right that often; with several labels a
    text, of each label's.

    Source:
        Guo et al. 2017, equation 3, arXiv:1706.04599.
    """
    found = probabilities(logits, temperature, multi_label=multi_label)
    truth = as_matrix(targets, logits.shape[1])
    if multi_label:
        sure, right = found.ravel(), truth.ravel()
    else:
        best = found.argmax(1)
        rows = np.arange(len(found))
        sure, right = found[rows, best], truth[rows, best]
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, sure - right, BINS)
    return float(np.abs(gaps).sum() / max(len(sure), 1))


def fit_temperature(logits: Logits, targets: Targets, *, multi_label: bool) -> float:
    """Find the temperature that the texts make likeliest, between 0.01 and 100.

    One number for all labels: it changes no order of labels, so no accuracy.

    Few texts that all are right would ask for 0, and all wrong for infinity. So b = 1 / temperature
    has a gamma prior of shape 2 and rate 1, whose mode is 1: to the sum of the negative
    log-likelihoods it adds b - log(b), once, however many texts there are. Three texts right by a
    margin of 2 between two labels give 0.7, and as many wrong 4.6; among thousands it is lost.

    Source:
        Guo et al. 2017, section 4.2, arXiv:1706.04599; the prior is ours. Likelihood and prior are
        convex in b, so a bounded scalar search finds what LBFGS would.
    """
    if not len(targets):
        return 1.0

    def loss(log: float) -> float:
        fit = negative_log_likelihood(logits, targets, float(np.exp(log)), multi_label=multi_label)
        return fit + float(np.exp(-log) + log) / targets.size

    found = minimize_scalar(
        loss,
        bounds=(_COLDEST, _HOTTEST),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def calibrate(logits: Logits, targets: Targets, *, multi_label: bool) -> TemperatureFit:
    """Fit the temperature, and say what it is good for on texts it was not fitted on.

    Each half of the texts (every other one) is measured at the temperature of the other half.
    """
    halves = (slice(0, None, 2), slice(1, None, 2))
    warm = np.empty(np.shape(logits), np.float64)
    for here, there in (halves, halves[::-1]):
        fitted = fit_temperature(logits[there], targets[there], multi_label=multi_label)
        warm[here] = logits[here] / fitted
    return TemperatureFit(
        temperature=fit_temperature(logits, targets, multi_label=multi_label),
        nll_before=negative_log_likelihood(logits, targets, multi_label=multi_label),
        nll_after=negative_log_likelihood(warm, targets, multi_label=multi_label),
        ece_before=calibration_error(logits, targets, multi_label=multi_label),
        ece_after=calibration_error(warm, targets, multi_label=multi_label),
    )
