"""What the Trainer steps where a head is learnt: numbers, batches of texts, model, trainer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import TrainerCallback

from clip_text.data.length_grouped import LengthGrouped
from clip_text.heads.classification import ClassificationHead
from clip_text.tokenizer import Tokenizer
from clip_text.towers import POOLERS, TextTower
from clip_text.training.callbacks import EarlyStop
from clip_text.training.holding import Hold
from clip_text.training.recipe import (
    BaseRecipe,
    Count,
    NotNegative,
    Positive,
    Recipe,
)
from clip_text.training.trainer import Plumbing, SampledTrainer, training_arguments

Mode = Literal["head", "copy", "joint"]


_HEAD_RATE, _TOWER_RATE, _TOWER_WIDTH = 3e-3, 3e-4, 256
_HEAD_FACTOR = 10
"""The head is new where the backbone is not: beside one it learns so many times as fast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierRecipe(BaseRecipe):
    """The numbers of a head's training, beside those of :class:`BaseRecipe`.

    Args:
        train: ``head``: the tower is frozen, its pooled states are computed once. ``copy``: a
            copy of the backbone learns too, and costs a second pass later. ``joint``: the
            tower itself learns, held by ``hold`` so that retrieval stays.
        epochs: Passes over the texts, unless validation stops rising before.
        batch_size: Texts in a step.
        learning_rate: At its peak; None for 3e-3 of a head alone, and else 3e-4 at width 256,
            falling with its square (3.3e-5 at 768, where BERT is fine-tuned). A head beside its
            backbone learns ten times as fast.
        weight_decay: Weight decay of matrices; biases and norms have none.
        balanced: Weigh classes so that all count alike.
        hold: Weight of what holds retrieval, with ``joint``; None for the usual one.
        patience: Evaluations without a rise after which training ends.
        evaluations: How often validation runs if it doesn't.

    Raises:
        RecipeError: If a number is out of range.
    """

    train: Mode = "head"
    epochs: Count = 20
    batch_size: Count = 64
    learning_rate: Positive | None = None
    weight_decay: NotNegative = 0.01
    balanced: bool = False
    hold: NotNegative | None = None
    patience: Count = 3
    evaluations: Count = 10

    def general(self, width: int, best_by: str) -> Recipe:
        """Say it as the trainers' recipe."""
        suggested = _TOWER_RATE * (_TOWER_WIDTH / width) ** 2
        suggested = _HEAD_RATE if self.train == "head" else suggested
        return Recipe(
            epochs=self.epochs,
            learning_rate=self.learning_rate or suggested,
            weight_decay=self.weight_decay,
            warmup_steps=0.06,
            best_by=best_by,
            bf16=self.bf16,
            seed=self.seed,
            evaluations=self.evaluations,
        )


class Labelled(Dataset[int]):
    """Texts as token ids or as pooled states, with targets and what their rows should stay.

    Args:
        inputs: Token ids of each text; or pooled states, [n, width].
        targets: Positions of the texts' labels, [n]; with several labels a text 0 and 1, [n,
            labels].
        tokenizer: Tokenizer that pads a batch's rows.
        hold: Adds to a batch what keeps retrieval as it is.
    """

    def __init__(
        self,
        inputs: list[list[int]] | NDArray[np.float32],
        targets: NDArray[np.int64],
        tokenizer: Tokenizer,
        hold: Hold | None = None,
    ) -> None:
        self.inputs, self.targets, self.tokenizer, self.hold = inputs, targets, tokenizer, hold

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, at: int) -> int:
        return at

    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text, [n], alike where they have become states."""
        if isinstance(self.inputs, np.ndarray):
            return np.ones(len(self.inputs), np.int64)
        return np.array([len(ids) for ids in self.inputs], np.int64)

    def given(self, at: Sequence[int]) -> Tensor:
        """Tokens [n, length] or states [n, width] of some texts."""
        if isinstance(self.inputs, np.ndarray):
            return torch.from_numpy(self.inputs[list(at)])
        return self.tokenizer.pad([self.inputs[i] for i in at])

    def collate(self, at: Sequence[int]) -> dict[str, Tensor]:
        """Stack a batch for :meth:`ClassifierModel.forward`: inputs [n, length] or [n, width]."""
        batch = {"inputs": self.given(at), "targets": torch.from_numpy(self.targets[list(at)])}
        return batch | (self.hold.batch(at) if self.hold else {})


class ClassifierModel(nn.Module):
    """A head, and the tower below it where that learns too.

    Args:
        head: Head to train, in place.
        tower: Trained in place; None where the inputs are pooled states already.
        class_weights: Weights of the classes, [labels], or None for equal ones; see
            :meth:`ClassificationHead.loss`.
        hold: What keeps the tower where it was; its ``loss`` is added.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        head: ClassificationHead,
        tower: TextTower | None = None,
        class_weights: NDArray[np.float32] | None = None,
        hold: Hold | None = None,
    ) -> None:
        super().__init__()
        self.head, self.tower = head, None if head.tower else tower
        self.hold = hold
        weights = None if class_weights is None else torch.from_numpy(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def logits(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits [n, labels], and of a tower that learns its rows [n, embed_dim] by the way."""
        if inputs.is_floating_point():
            return self.head(inputs), None
        if self.tower is None:
            assert self.head.tower is not None
            return self.head.logits(self.head.tower, inputs), None
        states, mask = self.tower.states(inputs)
        logits = self.head(self.head.pool(states, mask))
        rows = self.tower.proj(POOLERS[self.tower.pooler](states, mask)) if self.hold else None
        return logits, rows

    def forward(self, inputs: Tensor, targets: Tensor, **held: Tensor) -> dict[str, Tensor]:
        """Compute the loss, a scalar, of inputs [n, length] or [n, width] and their targets."""
        logits, rows = self.logits(inputs)
        loss = self.head.loss(logits.float(), targets, self.class_weights)
        if self.hold is not None and self.tower is not None and rows is not None:
            loss = loss + self.hold.loss(self.tower, rows, held)
        return {"loss": loss}


class ClassifierTrainer(SampledTrainer):
    """``transformers.Trainer`` with batches of like length and early stopping.

    Args:
        model: What to train.
        data: Labelled texts that it learns from.
        batch_size: Texts in a step.
        recipe: Rates, epochs and batch sizes to train by; ``best_by`` is among what ``validate``
            returns.
        patience: Validations without a better figure after which training ends; see
            :class:`EarlyStop`.
        folder: Where checkpoints and logs go; the same again resumes.
        validate: Returns metrics by name.
        callbacks: Callbacks of transformers, for a progress bar.
    """

    def __init__(  # noqa: PLR0917
        self,
        model: ClassifierModel,
        data: Labelled,
        batch_size: int,
        recipe: Recipe,
        patience: int,
        folder: Path,
        validate: Callable[[], dict[str, float]],
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.recipe = recipe
        self.sampler = LengthGrouped(data.lengths(), batch_size, recipe.seed)
        super().__init__(
            model=model,
            args=training_arguments(recipe, folder, len(self.sampler), Plumbing()),
            train_dataset=data,
            eval_dataset=[],
            data_collator=data.collate,
            callbacks=[EarlyStop(recipe.best_by, patience), *callbacks],
            validate=validate,
        )

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """No decay on norms and biases, a higher rate for a head beside its backbone."""
        model = cast(ClassifierModel, network)
        alone = model.tower is None and model.head.tower is None
        new = {
            id(each)
            for part in (model.head.dense, model.head.out)
            if part
            for each in part.parameters()
        }
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for each in model.parameters():
            if each.requires_grad:
                rate = self.recipe.learning_rate
                rate *= _HEAD_FACTOR if id(each) in new and not alone else 1
                decay = self.recipe.weight_decay if each.ndim > 1 else 0.0
                groups.setdefault((rate, decay), []).append(each)
        return [
            {"params": parameters, "lr": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ]
