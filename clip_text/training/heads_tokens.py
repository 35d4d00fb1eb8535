"""Training of the heads over token states: entities and answers, with all of their backbone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainingArguments

from clip_text.data.length_grouped import LengthGrouped
from clip_text.data.tagged_text import TaggedText
from clip_text.errors import DataError
from clip_text.evaluation.entities import entity_scores
from clip_text.heads.entities import (
    IGNORED,
    EntityRecognizer,
    bio_labels,
    tag_tokens,
    unreachable,
)
from clip_text.training.callbacks import EarlyStop
from clip_text.training.recipe import BaseRecipe, Count, NotNegative, Positive, Share
from clip_text.training.trainer import SampledTrainer, common_arguments

Places = NDArray[np.int64]
Example = tuple[list[int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRecipe(BaseRecipe):
    """The numbers of a head's training, beside those of :class:`BaseRecipe`.

    Args:
        epochs: Passes over the data, at most.
        patience: Epochs without a better validation after which it stops.
        batch_size: Windows in a step.
        learning_rate: Learning rate at the peak, after the warm-up.
        weight_decay: On matrices; norms and biases get none.
        warmup: Share of all steps of linear warm-up; linear decay follows.

    Raises:
        RecipeError: If a number is out of its range.
    """

    epochs: Count = 10
    patience: Count = 3
    batch_size: Count = 32
    learning_rate: Positive = 5e-4
    weight_decay: NotNegative = 0.01
    warmup: Share = 0.1


def suggested_rate(width: int) -> float:
    """Suggest a learning rate: 3e-5 for a BERT base, as its authors; more for smaller ones."""
    return 3e-5 if width >= 768 else 1e-4 if width >= 512 else 5e-4


class Examples(Dataset[Example]):
    """Rows of whole numbers that belong together, the first one token ids.

    Args:
        rows: Rows of whole numbers of each example, as many rows for all.
        collate: Stacks some into a batch.
    """

    def __init__(
        self, rows: Sequence[Example], collate: Callable[[Sequence[Example]], dict[str, Tensor]]
    ) -> None:
        self.rows, self.collate = rows, collate

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> Example:
        return self.rows[at]


class HeadTrainer(SampledTrainer):
    """``transformers.Trainer`` with our batches and early stopping; it ends with the best weights.

    Args:
        model: What to train, in place.
        examples: Examples that the head learns from.
        sampler: Which of them an epoch shows.
        recipe: Rates, epochs and batch sizes to train by.
        folder: Where checkpoints and logs go; the same again resumes.
        validate: Metrics by name, once an epoch.
        best_by: Metric by which the best checkpoint is chosen.
        callbacks: Callbacks of transformers, for a progress bar.
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Examples,
        sampler: LengthGrouped,
        recipe: HeadRecipe,
        folder: Path,
        *,
        validate: Callable[[], dict[str, float]],
        best_by: str,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.sampler, self.recipe = sampler, recipe
        super().__init__(
            model=model,
            args=_arguments(recipe, folder, len(sampler), best_by),
            train_dataset=examples,
            eval_dataset=[],
            data_collator=examples.collate,
            callbacks=[*callbacks, EarlyStop(best_by, recipe.patience)],
            validate=validate,
        )


def entity_examples(recognizer: EntityRecognizer, texts: Sequence[TaggedText]) -> Examples:
    """Make windows with labels of texts; each token is learnt in the window that owns it.

    Raises:
        DataError: If no text has a word.
    """
    places = {label: at for at, label in enumerate(bio_labels(recognizer.types))}
    tokenizer = recognizer.tokenizer
    rows: list[Example] = []
    for text, aligned in zip(texts, tokenizer.align([each.text for each in texts]), strict=True):
        tags = tag_tokens(aligned.spans, text.entities)
        for window in recognizer.windows(aligned) if aligned.ids else ():
            first, behind = window.owned
            labels = [
                places[tags[at]] if first <= at < behind else IGNORED
                for at in range(window.start, window.end)
            ]
            framed = tokenizer.frame([-1])
            around = framed.index(-1), len(framed) - 1 - framed.index(-1)
            ids = tokenizer.frame(aligned.ids[window.start : window.end])
            rows.append((ids, [IGNORED] * around[0] + labels + [IGNORED] * around[1]))
    if not rows:
        raise DataError("expected texts with words to learn from, got none. Check the file.")

    def collate(batch: Sequence[Example]) -> dict[str, Tensor]:
        tokens = tokenizer.pad([ids for ids, _ in batch])
        labels = torch.full_like(tokens, IGNORED)
        for at, (_, row) in enumerate(batch):
            labels[at, : len(row)] = torch.tensor(row)
        return {"tokens": tokens, "labels": labels}

    return Examples(rows, collate)


def measure_entities(recognizer: EntityRecognizer, texts: Sequence[TaggedText]) -> dict[str, float]:
    """Precision, recall and F1 of the entities found in texts, and F1 of each type."""
    found = recognizer.entities([text.text for text in texts])
    overall, by_type = entity_scores([text.entities for text in texts], found)
    metrics = {"precision": overall.precision, "recall": overall.recall, "f1": overall.f1}
    return metrics | {f"f1_{label}": scores.f1 for label, scores in by_type.items()}


def count_unreachable(recognizer: EntityRecognizer, texts: Sequence[TaggedText]) -> int:
    """Count the entities of texts whose characters no tokens spell."""
    aligned = recognizer.tokenizer.align([text.text for text in texts])
    return sum(
        unreachable(each, text.text, text.entities)
        for each, text in zip(aligned, texts, strict=True)
    )


def entity_trainer(
    recognizer: EntityRecognizer,
    train: Sequence[TaggedText],
    validation: Sequence[TaggedText],
    recipe: HeadRecipe,
    folder: Path,
    *,
    callbacks: Sequence[TrainerCallback] = (),
) -> HeadTrainer:
    """Make what trains a recognizer's head and backbone by F1 on validation texts."""
    examples = entity_examples(recognizer, train)
    lengths = [len(ids) for ids, _ in examples.rows]
    return HeadTrainer(
        recognizer.head,
        examples,
        LengthGrouped(lengths, recipe.batch_size, recipe.seed),
        recipe,
        folder,
        validate=lambda: measure_entities(recognizer, validation),
        best_by="f1",
        callbacks=callbacks,
    )


def _arguments(
    recipe: HeadRecipe, folder: Path, epoch_steps: int, best_by: str
) -> TrainingArguments:
    return common_arguments(
        recipe,
        folder,
        epoch_steps,
        best_by,
        lr_scheduler_type="linear",
        warmup_steps=round(recipe.warmup * recipe.epochs * epoch_steps),
    )
