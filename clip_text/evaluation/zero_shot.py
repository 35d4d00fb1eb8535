"""Zero-shot classification: the class whose sentences are nearest to the picture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clip_text.data.collection import refuse
from clip_text.evaluation.classes import NamedClass, Truth, check_classes
from clip_text.evaluation.ranking import Features
from clip_text.evaluation.templates import check_templates, fill
from clip_text.progress import Progress, counted, silent
from clip_text.storage import digest, keep_array

Shares = NDArray[np.float64]

_TEXTS_AT_ONCE = 8192  # rows held while the mean of a class is formed: 32 MB at width 1,024
_CACHE_FORMAT = 1  # raise it when weights are formed otherwise
_BLOCK = 4096  # pictures


class TextEncoder(Protocol):
    """What is asked of an encoder here; :class:`clip_text.Encoder` is one."""

    @property
    def fingerprint(self) -> str:
        """Names the weights and all that a row of a text depends on."""

    def encode_text(self, texts: Sequence[str]) -> Features:
        """Unit rows, [n, embed_dim]."""


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """How well pictures were sorted. Shares are in [0, 1].

    Args:
        labels: Names of the classes, in the order of the columns.
        pictures: Number of pictures that were sorted.
        multi_label: Whether a picture may have several labels.
        hits: For each k, of each picture the probability that a right class is in the top k,
            ties in random order; NaN for a picture in no class. For intervals and paired tests.
        confusion: Pictures of class (row) that were put in class (column); a tie is put in each
            of its classes in part. None for several labels a picture.
        precision: Average precision of each class, in [0, 1]; NaN for a class without pictures.
    """

    labels: tuple[str, ...]
    pictures: int
    multi_label: bool
    hits: dict[int, Shares]
    confusion: Shares | None
    precision: Shares

    @property
    def accuracy(self) -> dict[int, float]:
        """Share of the pictures with a right class in the top k, by k."""
        return {k: mean_known(hits) for k, hits in self.hits.items()}

    @property
    def per_class(self) -> Shares:
        """Share of each class's pictures put in it, [classes]; NaN for one without pictures.

        For several labels a picture, where no one answer is right, NaN throughout.
        """
        if self.confusion is None:
            return np.full(len(self.labels), np.nan)
        of_class = self.confusion.sum(1)
        with np.errstate(invalid="ignore"):
            return np.where(of_class > 0, self.confusion.diagonal() / of_class, np.nan)

    @property
    def mean_per_class(self) -> float:
        """Accuracy with every class counting the same, those without pictures left out."""
        return mean_known(self.per_class)

    @property
    def mean_average_precision(self) -> float:
        """Average precision, averaged over the classes with pictures (mAP)."""
        return mean_known(self.precision)

    @property
    def classes_with_pictures(self) -> int:
        """How many classes the averages are over."""
        return int((~np.isnan(self.precision)).sum())


def mean_known(values: Shares) -> float:
    """Mean of what is not NaN, of values [n]; NaN if nothing is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def class_weights(
    encoder: TextEncoder,
    classes: Sequence[NamedClass],
    templates: Sequence[str],
    *,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Features:
    """Form one row for each class: the mean of all its sentences, as a unit row again.

    Args:
        encoder: Encoder of the texts that the templates make of the labels.
        classes: Each with its names; every name goes into every template.
        templates: Each with ``{}`` for the name; one that comes twice counts twice.
        cache: Folder to keep the rows in, and find them again by encoder, names and templates.
        progress: Is told how many ``classes`` are done.

    Returns:
        Unit rows, float32 [classes, embed_dim].

    Raises:
        DataError: If classes or templates are not as they should be, or the texts' rows are not
            finite or cancel out.

    Source:
        Radford et al. 2021, section 3.1.4, arXiv:2103.00020: the ensemble is over the embedding
        space, not over probabilities. Synonyms are averaged in the same way.
    """
    check_classes(classes, "the class list")
    check_templates(tuple(templates))

    def compute() -> Features:
        advance = counted("classes", len(classes), progress)
        weights = _ensemble(encoder, classes, templates, advance)
        broken = np.flatnonzero(~np.isfinite(weights).all(1)).tolist()
        names = [classes[place].label for place in broken]
        refuse("the class list", "a finite row for every class", names, "Reword")
        return weights

    if cache is None:
        return compute()
    names = [named.names for named in classes]
    key = [_CACHE_FORMAT, encoder.fingerprint, names, list(templates)]
    weights = keep_array(cache / f"{digest(key)}.npy", key, compute)
    progress("classes", len(classes), len(classes))
    return weights


def _ensemble(
    encoder: TextEncoder,
    classes: Sequence[NamedClass],
    templates: Sequence[str],
    advance: Callable[[int], None],
) -> Features:
    means: list[Features] = []
    group: list[list[str]] = []
    for number, named in enumerate(classes, 1):
        group.append([fill(template, name) for name in named.names for template in templates])
        if sum(map(len, group)) >= _TEXTS_AT_ONCE or number == len(classes):
            rows = encoder.encode_text([text for texts in group for text in texts])
            ends = np.cumsum([len(texts) for texts in group])
            means += [part.mean(0, dtype=np.float64) for part in np.split(rows, ends[:-1])]
            advance(len(group))
            group = []
    weights = np.stack(means)
    with np.errstate(invalid="ignore"):
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return weights.astype(np.float32)


def class_scores(images: Features, weights: Features) -> Features:
    """Compare every picture with every class.

    Args:
        images: Unit rows, [pictures, embed_dim].
        weights: Unit rows, [classes, embed_dim].

    Returns:
        Cosines, float32 [pictures, classes].

    Raises:
        DataError: If rows are not finite.
    """
    refuse_broken("the pictures", images)
    refuse_broken("the classes", weights)
    scores = np.empty((len(images), len(weights)), np.float32)
    # In double precision and then rounded, equal rows have equal scores wherever they stand;
    # in single precision the last bit depends on the place and on the block.
    columns = weights.T.astype(np.float64)
    for start in range(0, len(images), _BLOCK):
        scores[start : start + _BLOCK] = images[start : start + _BLOCK].astype(np.float64) @ columns
    return scores


def refuse_broken(name: str, features: NDArray[np.floating]) -> None:
    """Raise a DataError that counts the rows [n, width] with NaN or infinity, if any are."""
    broken = np.flatnonzero(~np.isfinite(features).all(1))
    refuse(name, "finite features", [f"row {at}" for at in broken], "Encode again or drop")


def hits_at_k(scores: NDArray[np.floating], truth: Truth, k: int) -> Shares:
    """Probability that a right class is among the k best, ties put in random order.

    Of w wrong and r right classes that share the best right score, with s places left for them,
    none of the right ones is placed with probability C(w, s) / C(w + r, s). One right class tied
    with w wrong ones so has s / (w + 1): a model that scores everything alike gains nothing.

    Args:
        scores: [pictures, classes], higher is better.
        truth: The right classes, [pictures, classes].
        k: Depth of the ranking, at least 1.

    Returns:
        In [0, 1], [pictures]; NaN for a picture in no class.
    """
    best = np.where(truth, scores, -np.inf).max(1, keepdims=True)
    level = scores == best
    right = (level & truth).sum(1)
    wrong = (level & ~truth).sum(1)
    places = k - (scores > best).sum(1)
    missed = np.ones(len(scores))
    for taken in range(min(k, scores.shape[1])):
        factor = np.maximum(wrong - taken, 0) / np.maximum(wrong + right - taken, 1)
        missed *= np.where(taken < places, factor, 1.0)
    return np.where(truth.any(1), 1.0 - missed, np.nan)


def confusion_matrix(scores: NDArray[np.floating], truth: Truth) -> Shares:
    """Count where the pictures of each class were put; a tie goes in equal parts to its classes.

    Args:
        scores: Score of each picture for each class, [pictures, classes].
        truth: One right class a picture, [pictures, classes].

    Returns:
        [classes, classes]: right class in rows, answer in columns; a row sums to its pictures.
    """
    counts = np.zeros((truth.shape[1], truth.shape[1]))
    for start in range(0, len(scores), _BLOCK):
        block = scores[start : start + _BLOCK]
        first = block == block.max(1, keepdims=True)
        counts += truth[start : start + _BLOCK].T.astype(np.float64) @ (
            first / first.sum(1, keepdims=True)
        )
    return counts


def average_precision(scores: NDArray[np.floating], truth: Truth) -> Shares:
    """Average precision of each class: its pictures should have its highest scores.

    The sum over thresholds of precision times the recall gained there; pictures with the same
    score pass a threshold together, so their order does not matter.

    Args:
        scores: Score of each picture for each class, [pictures, classes].
        truth: True where a picture has a class, [pictures, classes].

    Returns:
        In [0, 1], [classes]; NaN for a class without pictures.

    Source:
        ``sklearn.metrics.average_precision_score``, which this equals.
    """
    found = np.full(truth.shape[1], np.nan)
    for at, (column, right) in enumerate(zip(scores.T, truth.T, strict=True)):
        if right.any():
            order = np.argsort(-column, kind="stable")
            last = np.flatnonzero(np.append(np.diff(column[order]) != 0, True))
            true_positives = np.cumsum(right[order])[last]
            gained = np.diff(true_positives, prepend=0) / true_positives[-1]
            found[at] = (gained * true_positives / (last + 1)).sum()
    return found


def classify(
    images: Features,
    weights: Features,
    truth: Truth,
    labels: Sequence[str],
    *,
    ks: Sequence[int] = (1, 5),
    multi_label: bool = False,
) -> ZeroShot:
    """Sort pictures into classes, and measure how well that went.

    Args:
        images: Unit rows, [pictures, embed_dim].
        weights: Unit rows, as of :func:`class_weights`.
        truth: The right classes, [pictures, classes].
        labels: Names of the classes, as many as there are weights.
        ks: Depths k of the hits to count, each at least 1.
        multi_label: Whether pictures may have several labels or none.

    Raises:
        DataError: If rows are not finite, or without ``multi_label`` some picture has not exactly
            one label.
        ValueError: If the shapes do not fit, or a depth is below 1.
    """
    if truth.shape != (len(images), len(weights)) or len(labels) != len(weights):
        raise ValueError(
            f"expected truth of shape {(len(images), len(weights))} and {len(weights)} labels, "
            f"got {truth.shape} and {len(labels)}. Build it from the same pictures and classes."
        )
    if not ks or min(ks) < 1:
        raise ValueError(f"expected depths of at least 1, got {list(ks)}. Name 1 and 5.")
    if not multi_label:
        odd = [f"row {at}" for at in np.flatnonzero(truth.sum(1) != 1)]
        refuse("the pictures", "one label each", odd, "Give multi_label=True, or mend")
    scores = class_scores(images, weights)
    return ZeroShot(
        labels=tuple(labels),
        pictures=len(images),
        multi_label=multi_label,
        hits={k: hits_at_k(scores, truth, k) for k in sorted(set(ks))},
        confusion=None if multi_label else confusion_matrix(scores, truth),
        precision=average_precision(scores, truth),
    )
