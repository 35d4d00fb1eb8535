"""A classification head: the pooled state of a text tower's backbone to probabilities of labels.

tokens → backbone → pooler ┬→ projection → unit row      (the text tower)
                           └→ [dense, tanh] → dropout → linear → logits / temperature
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, NamedTuple, Self, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from clip_text.towers import POOLERS, Pooler, TextTower

Form = Literal["linear", "bert"]
Probabilities = NDArray[np.float64]

_INIT_STD = 0.02  # BERT's


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """What a classification head is.

    Args:
        labels: Names, in the order of the logits; all different, at least two (one is enough
            with ``multi_label``).
        multi_label: Whether a text may have several labels, or none.
        pooler: How token states become the head's input: ``cls``, ``mean`` or ``max``. Only
            ``cls`` can be exported to transformers.
        form: ``linear``, or ``bert``: a dense layer and tanh first, as BERT's own pooler has it.
        dropout: Share of the input dropped in training.
        threshold: Probability from which on a label is given to a text, with ``multi_label``.

    Raises:
        ValueError: If something of it is out of range.
    """

    labels: tuple[str, ...]
    multi_label: bool = False
    pooler: Pooler = "cls"
    form: Form = "linear"
    dropout: float = 0.1
    threshold: float = 0.5

    def __post_init__(self) -> None:
        least = 1 if self.multi_label else 2
        if len(self.labels) < least or len(set(self.labels)) < len(self.labels):
            raise ValueError(
                f"expected at least {least} different labels, got {list(self.labels)[:5]}. "
                "Name each class once."
            )
        for name, value, among in (
            ("pooler", self.pooler, tuple(POOLERS)),
            ("form", self.form, get_args(Form)),
        ):
            if value not in among:
                raise ValueError(
                    f"expected {name} {' or '.join(among)}, got {value!r}. Choose one of them."
                )
        if not 0 <= self.dropout < 1 or not 0 < self.threshold < 1:
            raise ValueError(
                "expected a dropout below 1 and a threshold between 0 and 1, "
                f"got {self.dropout} and {self.threshold}. Correct them."
            )


class LabelProbability(NamedTuple):
    """A label and its calibrated probability, in [0, 1]."""

    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Classification:
    """What a head says of one text.

    Args:
        ranked: Labels with their probabilities, the likeliest first: all, or the top k.
        chosen: The likeliest label alone; of a multi-label head all from its threshold on, which
            may be none.
    """

    ranked: tuple[LabelProbability, ...]
    chosen: tuple[str, ...]

    @property
    def label(self) -> str:
        """The likeliest label."""
        return self.ranked[0].label

    @property
    def probability(self) -> float:
        """Of the likeliest label."""
        return self.ranked[0].probability


class ClassificationHead(nn.Module):
    """Pooled states to logits; with a backbone of its own if that was fine-tuned as a copy.

    Args:
        config: Settings of the head: its labels, and how it reads and decides.
        width: Width of the backbone's token states.
        tower: A text tower of its own, whose projection is ``none``; without one the head reads
            the states of the tower it lies beside.
    """

    task: ClassVar[str] = "classification"

    temperature: Tensor

    def __init__(self, config: HeadConfig, width: int, tower: TextTower | None = None) -> None:
        super().__init__()
        self.config, self.width, self.tower = config, width, tower
        self.dense = nn.Linear(width, width) if config.form == "bert" else None
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(width, len(config.labels))
        for layer in (self.dense, self.out):
            if layer is not None:
                nn.init.normal_(layer.weight, std=_INIT_STD)
                nn.init.zeros_(layer.bias)
        self.register_buffer("temperature", torch.ones(()))

    @property
    def module(self) -> nn.Module:
        """Hold all weights: this is it."""
        return self

    def about(self) -> dict[str, Any]:
        """Say what it takes to build the head, but for task, backbone and context: JSON."""
        return {**asdict(self.config), "width": self.width}

    @classmethod
    def build(cls, about: Mapping[str, Any], tower: TextTower | None) -> Self:
        """Make a head of random weights.

        Args:
            about: Settings of the head, as :meth:`about` wrote them.
            tower: Its own, if it has one.

        Raises:
            KeyError: If something is missing from ``about``.
            ValueError: If something is out of range.
        """
        known = {each.name: about[each.name] for each in fields(HeadConfig)}
        labels = tuple(str(label) for label in known.pop("labels"))
        return cls(HeadConfig(labels=labels, **known), int(about["width"]), tower)

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """Pool last hidden states [n, length, width] as this head asks for; [n, width]."""
        return POOLERS[self.config.pooler](states, mask)

    def forward(self, pooled: Tensor) -> Tensor:
        """Compute logits [n, labels] of pooled states [n, width]; not yet calibrated."""
        if self.dense is not None:
            pooled = torch.tanh(self.dense(pooled))
        return cast(Tensor, self.out(self.dropout(pooled)))

    def logits(self, tower: TextTower, tokens: Tensor) -> Tensor:
        """Run a backbone, the head's own if it has one, and the head; [n, length] → [n, labels]."""
        return cast(Tensor, self(self.pool(*(self.tower or tower).states(tokens))))

    def probabilities(self, logits: Tensor) -> Probabilities:
        """Calibrated probabilities [n, labels]: softmax, or sigmoid with several labels a text."""
        scaled = logits.cpu().double() / self.temperature.cpu().double()
        found = torch.sigmoid(scaled) if self.config.multi_label else torch.softmax(scaled, -1)
        return np.asarray(found.numpy(), np.float64)

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Cross-entropy; binary, averaged over labels, with several labels a text.

        Args:
            logits: Logits of the texts, [n, labels].
            targets: Position of the label, int64 [n]; with ``multi_label`` 0 and 1, [n, labels].
            weights: Weights of the classes, [labels]: the mean over texts is weighted by that of
                each text's class. With ``multi_label`` the weight of a text that has the label.

        Returns:
            A scalar.
        """
        if self.config.multi_label:
            return binary_cross_entropy_with_logits(
                logits, targets.to(logits.dtype), pos_weight=weights
            )
        return cross_entropy(logits, targets, weight=weights)


def rank(
    probabilities: Probabilities, config: HeadConfig, top_k: int | None = None
) -> list[Classification]:
    """Sort the labels of each text by probability; equal ones stay in the labels' order.

    Args:
        probabilities: Probability of each label for each text, [n, labels], in [0, 1].
        config: Settings of the head: its labels, and whether a text has several.
        top_k: How many labels to give; all if None.

    Raises:
        ValueError: If ``top_k`` is below 1.
    """
    if top_k is not None and top_k < 1:
        raise ValueError(f"expected top_k of at least 1, got {top_k}. Leave it out for all labels.")
    order = np.argsort(-probabilities, axis=1, kind="stable")
    found = []
    for row, places in zip(probabilities, order, strict=True):
        ranked = [LabelProbability(config.labels[at], float(row[at])) for at in places]
        chosen = ranked[:1]
        if config.multi_label:
            chosen = [one for one in ranked if one.probability >= config.threshold]
        found.append(Classification(tuple(ranked[:top_k]), tuple(one.label for one in chosen)))
    return found


def balanced_weights(targets: NDArray[np.int64], config: HeadConfig) -> NDArray[np.float32]:
    """Weights that make every class count alike.

    Args:
        targets: Positions of the texts' labels, [n]; with ``multi_label`` 0 and 1, [n, labels].
        config: Settings of the head: its labels, and whether a text has several.

    Returns:
        ``n / (classes * texts of the class)``, scikit-learn's ``balanced``; with ``multi_label``
        ``texts without the label / texts with it``. A class without texts counts as having one.
    """
    if config.multi_label:
        having = np.maximum(targets.sum(0), 1)
        return np.asarray((len(targets) - targets.sum(0)) / having, np.float32)
    counts = np.maximum(np.bincount(targets, minlength=len(config.labels)), 1)
    return np.asarray(len(targets) / (len(config.labels) * counts), np.float32)


def targets_of(labels: Sequence[Sequence[str]], config: HeadConfig) -> NDArray[np.int64]:
    """Turn label names into targets: positions [n], or 0 and 1 [n, labels] with ``multi_label``.

    Raises:
        KeyError: If a label is not the head's.
    """
    places = {label: at for at, label in enumerate(config.labels)}
    if not config.multi_label:
        return np.array([places[one] for (one,) in labels], np.int64)
    found = np.zeros((len(labels), len(config.labels)), np.int64)
    for row, of_text in zip(found, labels, strict=True):
        row[[places[one] for one in of_text]] = 1
    return found
