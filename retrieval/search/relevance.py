"""How likely a hit is right: scores, and where they lie among a query's scores over a background.

evidence of a query's hits → two logistic models: of each hit, that it is right; of the whole
answer, that the index holds a right picture at all. :mod:`retrieval.search.calibrating` fits them.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from retrieval.catalogue.store import ReadableStore
from retrieval.errors import CorruptIndexError, IndexMismatchError
from retrieval.protocols import Features
from retrieval.stores import Location, open_for_writing

__all__ = [
    "BACKGROUND_ROWS",
    "FEWEST_ROWS",
    "Calibration",
    "Judge",
    "Logistic",
    "calibration_of",
    "evidence_of",
    "length_of",
    "store_calibration",
]

BACKGROUND_ROWS = 1000
"""How many pictures, drawn at random, a query's scores are compared with."""

FEWEST_ROWS = 20
"""Of an index with fewer pictures nothing is said: so few scores have no spread to speak of."""

_FORMAT = "clip-text-relevance-1"
_LEAST_DEVIATION = 1e-6  # of cosines
_CHARACTERS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"
_PIECE = re.compile(rf"[{_CHARACTERS}]|[^\W_{_CHARACTERS}]+")

Evidence = Mapping[str, NDArray[np.float64]]
"""By its name, what speaks for and against each hit, [queries, hits]."""


def evidence_of(
    scores: NDArray[np.floating],
    mean: NDArray[np.floating],
    deviation: NDArray[np.floating],
    size: int,
    lengths: Sequence[int],
) -> Evidence:
    """Gather what the models read, of hits that stand best first.

    Args:
        scores: Cosines of each query's hits, [queries, hits].
        mean: Mean cosine of each query over the background, [queries].
        deviation: Standard deviation of the same, [queries].
        size: How many pictures were searched.
        lengths: Of the queries, see :func:`length_of`.

    Returns:
        ``score``; ``z``, the score in deviations above the background's mean; ``mean`` and
        ``deviation`` themselves; ``margin``, how far it lies above the best other hit, a cosine;
        ``log_rank``, ``log_size`` and ``log_length``, natural logarithms.
    """
    scores = np.asarray(scores, np.float64)
    means = np.broadcast_to(np.asarray(mean, np.float64)[:, None], scores.shape)
    wide = np.maximum(np.asarray(deviation, np.float64), _LEAST_DEVIATION)
    deviations = np.broadcast_to(wide[:, None], scores.shape)
    others = np.broadcast_to(scores[:, :1], scores.shape).copy()
    others[:, :1] = scores[:, 1:2] if scores.shape[1] > 1 else means[:, :1]
    ranks = np.broadcast_to(np.arange(1, scores.shape[1] + 1), scores.shape)
    return {
        "score": scores,
        "z": (scores - means) / deviations,
        "mean": means,
        "deviation": deviations,
        "margin": scores - others,
        "log_rank": np.log(ranks),
        "log_size": np.full(scores.shape, math.log(size)),
        "log_length": np.broadcast_to(
            np.log(np.maximum(np.asarray(lengths, np.float64), 1.0))[:, None], scores.shape
        ),
    }


def length_of(text: str) -> int:
    """Count the characters of Chinese, Japanese and Korean, and the words of other languages."""
    return len(_PIECE.findall(text))


@dataclass(frozen=True, slots=True)
class Logistic:
    """A probability out of evidence: the logistic function of a weighted sum.

    Args:
        weights: By the name of the evidence, in log-odds for each of its units.
        bias: Log-odds where all evidence is 0.
    """

    weights: dict[str, float]
    bias: float

    def probability(self, evidence: Evidence) -> NDArray[np.float64]:
        """Give the probability of each hit, in [0, 1], in the shape of the evidence."""
        shape = next(iter(evidence.values())).shape
        log_odds = np.full(shape, self.bias)
        for name, weight in self.weights.items():
            log_odds = log_odds + weight * evidence[name]
        # through tanh, which does not overflow
        probabilities: NDArray[np.float64] = 0.5 * (1.0 + np.tanh(0.5 * log_odds))
        return probabilities


@dataclass(frozen=True, slots=True)
class Calibration:
    """What turns a model's scores into probabilities.

    Args:
        fingerprint: Of the model whose scores these are.
        hit: Probability that a hit is right, for each hit.
        answer: Probability that a right picture is in the index at all, from the best hit.
        nothing_below: Of that probability; below it, nothing matches. At most one in twenty of
            the queries with an answer lies there, in each of the collections it was fitted on.
        fitted_on: The data, for people.
        queries: How many queries those are.
        sizes: The fewest and the most pictures that were searched.
    """

    fingerprint: str
    hit: Logistic
    answer: Logistic
    nothing_below: float
    fitted_on: str
    queries: int
    sizes: tuple[int, int]

    def check_model(self, fingerprint: str) -> None:
        """Refuse another model than the one whose scores it reads.

        Raises:
            IndexMismatchError: If the fingerprint differs.
        """
        if fingerprint != self.fingerprint:
            raise IndexMismatchError(
                f"expected a calibration of the model with fingerprint {fingerprint}, got one of "
                f"{self.fingerprint}. Calibrate with this model: clip-text index calibrate DATA."
            )

    def to_json(self) -> str:
        """Write it as JSON of one object; :meth:`from_json` reads it."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, ensure_ascii=False, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            CorruptIndexError: If it is anything else.
        """
        try:
            stored = json.loads(text)
            if stored.pop("format") != _FORMAT:
                raise ValueError
            low, high = map(int, stored["sizes"])
            models = {name: _logistic(stored[name]) for name in ("hit", "answer")}
            return cls(**{**stored, **models, "sizes": (low, high)})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptIndexError(
                f"expected a calibration of format {_FORMAT}, got {text[:40]!r}. Calibrate again: "
                "clip-text index calibrate DATA."
            ) from error


def _logistic(stored: dict[str, object]) -> Logistic:
    (weights, bias), known = (stored["weights"], stored["bias"]), set(_NAMES)
    if not isinstance(weights, dict) or not known.issuperset(weights):
        raise ValueError
    numbers = {name: float(weight) for name, weight in weights.items()}
    model = Logistic(numbers, float(bias))  # type: ignore[arg-type]
    if not all(map(math.isfinite, (model.bias, *numbers.values()))):
        raise ValueError
    return model


_NAMES = tuple(evidence_of(np.zeros((1, 1)), np.zeros(1), np.ones(1), 1, [1]))


@dataclass(frozen=True, slots=True)
class Judge:
    """Says how likely hits are right in one state of an index; never changed.

    Args:
        calibration: Of the model that built the index.
        background: Features of pictures drawn from the index at random, [n, embed_dim].
    """

    calibration: Calibration
    background: Features

    @classmethod
    def of(cls, catalogue: ReadableStore, calibration: Calibration | None) -> Self | None:
        """Draw a background, the same each time from the same pictures.

        Returns:
            The judge; None without a calibration, or of fewer than :data:`FEWEST_ROWS` pictures.
        """
        if calibration is None:
            return None
        _, background = catalogue.draw(BACKGROUND_ROWS)
        return cls(calibration, background) if len(background) >= FEWEST_ROWS else None

    def judge(
        self, queries: Features, texts: Sequence[str], scores: Sequence[Sequence[float]], size: int
    ) -> list[tuple[list[float], float]]:
        """Give the probabilities of queries' hits.

        Args:
            queries: Their unit rows, [n, embed_dim].
            texts: The queries themselves.
            scores: Of each one's hits, at least one, best first.
            size: How many pictures were searched.

        Returns:
            Of each query the probability of each hit that it is right, and that the index holds a
            right picture at all.
        """
        # one by one: a product of matrices wakes the threads of BLAS, which spin for long
        over = np.stack([self.background @ query for query in queries])
        means, deviations = over.mean(axis=1), over.std(axis=1)
        lengths = [length_of(text) for text in texts]
        told: list[tuple[list[float], float]] = [([], 0.0)] * len(texts)
        for count in set(map(len, scores)):
            places = [place for place, own in enumerate(scores) if len(own) == count]
            evidence = evidence_of(
                np.array([scores[place] for place in places]),
                *(means[places], deviations[places], size),
                [lengths[place] for place in places],
            )
            hits = self.calibration.hit.probability(evidence).tolist()
            answers = self.calibration.answer.probability(evidence)[:, 0].tolist()
            for place, of_hits, of_answer in zip(places, hits, answers, strict=True):
                told[place] = of_hits, of_answer
        return told


def calibration_of(catalogue: ReadableStore) -> Calibration | None:
    """Give an index's own calibration, or the one that is shipped for its model, if any.

    Raises:
        CorruptIndexError: If its own cannot be read.
        IndexMismatchError: If its own is of another model.
    """
    text = catalogue.calibration
    if text is None:
        return _shipped().get(catalogue.fingerprint)
    own = Calibration.from_json(text)
    own.check_model(catalogue.fingerprint)
    return own


def store_calibration(index_dir: Location, calibration: Calibration | None) -> None:
    """Keep a calibration with an index, in one transaction; None takes its own away.

    Raises:
        IndexNotFoundError: If there is no index.
        IndexMismatchError: If it is of another model than the one that built the index.
        IndexLockedError: If another process is writing to the index.
    """
    with open_for_writing(index_dir) as (catalogue, _):
        if calibration is not None:
            calibration.check_model(catalogue.fingerprint)
        with catalogue.transaction():
            catalogue.set_calibration(None if calibration is None else calibration.to_json())


@cache
def _shipped() -> dict[str, Calibration]:
    """Read the calibrations that come with the package, by their models' fingerprints."""
    folder = Path(__file__).parent / "calibrations"
    read = [
        Calibration.from_json(file.read_text(encoding="utf-8")) for file in folder.glob("*.json")
    ]
    return {calibration.fingerprint: calibration for calibration in read}
