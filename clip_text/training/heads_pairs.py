"""Training of the head for sentence pairs, with all of its backbone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import TrainerCallback

from clip_text.data.labelled_pairs import LabelledPairs
from clip_text.data.length_grouped import LengthGrouped
from clip_text.evaluation.classification import Scores, decide, score
from clip_text.heads.classification import ClassificationHead, targets_of
from clip_text.heads.pairs import PairClassifier, pair_logits
from clip_text.training.heads_tokens import Example, Examples, HeadRecipe, HeadTrainer


class PairModel(nn.Module):
    """A head for pairs as the Trainer steps it.

    Args:
        head: Trained in place, with its backbone.
    """

    def __init__(self, head: ClassificationHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, tokens: Tensor, kinds: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Run backbone and head.

        Args:
            tokens: Token ids, [n, length].
            kinds: Token types, [n, length].
            targets: Position of each pair's label, [n].

        Returns:
            ``logits`` [n, labels], and ``loss``, their mean cross-entropy.
        """
        logits = pair_logits(self.head, tokens, kinds)
        return {"logits": logits, "loss": self.head.loss(logits.float(), targets)}


def pair_examples(classifier: PairClassifier, pairs: LabelledPairs) -> Examples:
    """Make rows of tokens with targets of pairs.

    Raises:
        KeyError: If a label is not the head's.
    """
    targets = pair_targets(classifier, pairs)
    rows: list[Example] = [
        (ids, kinds, [int(target)])
        for (ids, kinds), target in zip(classifier.rows(pairs.texts), targets, strict=True)
    ]

    def collate(batch: Sequence[Example]) -> dict[str, Tensor]:
        tokens, kinds = classifier.batch([(ids, kinds) for ids, kinds, _ in batch])
        goals = torch.tensor([target for _, _, (target,) in batch])
        return {"tokens": tokens, "kinds": kinds, "targets": goals}

    return Examples(rows, collate)


def pair_targets(classifier: PairClassifier, pairs: LabelledPairs) -> NDArray[np.int64]:
    """Give the position of each pair's label, [n].

    Raises:
        KeyError: If a label is not the head's.
    """
    return targets_of(pairs.labels, classifier.head.config)


def measure_pairs(
    classifier: PairClassifier, pairs: LabelledPairs
) -> tuple[NDArray[np.float32], Scores]:
    """Compute the logits of pairs, [n, labels], and how good the likeliest labels are."""
    logits = classifier.logits(pairs.texts).numpy()
    given = decide(logits, multi_label=False)
    targets = pair_targets(classifier, pairs)
    return logits, score(given, targets, classifier.head.config.labels)


def pair_trainer(
    classifier: PairClassifier,
    train: LabelledPairs,
    validation: LabelledPairs,
    recipe: HeadRecipe,
    folder: Path,
    *,
    callbacks: Sequence[TrainerCallback] = (),
) -> HeadTrainer:
    """Make what trains a classifier's head and backbone by accuracy on validation pairs."""

    def validate() -> dict[str, float]:
        _, scores = measure_pairs(classifier, validation)
        return {"accuracy": scores.accuracy, "macro_f1": scores.macro_f1}

    examples = pair_examples(classifier, train)
    return HeadTrainer(
        PairModel(classifier.head),
        examples,
        LengthGrouped([len(row[0]) for row in examples.rows], recipe.batch_size, recipe.seed),
        recipe,
        folder,
        validate=validate,
        best_by="accuracy",
        callbacks=callbacks,
    )
