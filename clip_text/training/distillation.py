"""Text-only distillation: a text tower learns to give a teacher's rows, from parallel sentences.

What a sentence says in another language should lie where the teacher puts it in its own (Reimers &
Gurevych 2020, arXiv:2004.09813). If the teacher is the text side of a CLIP, the new tower then
finds that CLIP's pictures without having seen one (Carlsson et al. 2022, Multilingual-CLIP).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from clip_text.evaluation import retrieval
from clip_text.lengths import by_length
from clip_text.losses import cosine_distillation, multi_positive_contrastive, taught_rows
from clip_text.storage import keep_json
from clip_text.towers import POOLERS, Pooler, TextTower
from clip_text.training.lessons import Lessons, draw_languages
from clip_text.training.recipe import (
    BaseRecipe,
    Count,
    NotNegative,
    Positive,
    RecipeError,
    Share,
    Whole,
)
from clip_text.training.trainer import SampledTrainer, common_arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationRecipe(BaseRecipe):
    """The numbers of a distillation, beside those of :class:`BaseRecipe`.

    Args:
        epochs: Passes over the sentences.
        batch_size: Sentences in a step.
        learning_rate: Learning rate at the peak, after the warm-up.
        weight_decay: On matrices; norms and biases get none.
        warmup_steps: Steps of linear warm-up; cosine decay follows.
        contrastive: Weight of the in-batch contrast with the teacher's rows beside the cosine
            loss, 0 for none. It teaches to tell sentences apart that the teacher does, and is
            worth much where sentences are few (docs/distillation.md).
        logit_scale: Factor on the cosines of that contrast.
        token_dropout: Share of the tokens the tower does not get to see in training.
        weights: How often to draw each language; see :func:`draw_languages`.
        trial_steps: Steps each pooler gets where validation chooses it.
        evaluations: How often validation runs.

    Raises:
        RecipeError: If a number is out of its range.
    """

    epochs: Count = 10
    batch_size: Count = 256
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.05
    warmup_steps: Whole = 60
    contrastive: NotNegative = 0.1
    logit_scale: Positive = 20.0
    token_dropout: Share = 0.1
    weights: Mapping[str, float] | None = None
    trial_steps: Count = 100
    evaluations: Count = 10

    def check(self) -> None:
        """Refuse a language that is never drawn."""
        for language, weight in (self.weights or {}).items():
            if not 0 < weight < math.inf:
                raise RecipeError(
                    f"expected the weight of {language} to be a number above 0, got {weight!r}. "
                    "Correct the recipe."
                )


class DistillationModel(nn.Module):
    """What the Trainer steps: a text tower on a batch, to a loss.

    Args:
        tower: Text tower to train, in place.
        teacher_dim: Width of the teacher's rows. A tower of another embed_dim gets a linear layer
            ``to_teacher`` on top, which :meth:`fold` makes a part of its projection.
        recipe: Its ``contrastive``, ``logit_scale`` and ``token_dropout`` count here.

    Raises:
        ValueError: If the widths differ and the projection is not linear.
    """

    def __init__(self, tower: TextTower, teacher_dim: int, recipe: DistillationRecipe) -> None:
        super().__init__()
        self.tower, self.recipe = tower, recipe
        self.to_teacher: nn.Linear | None = None
        if tower.output_dim != teacher_dim:
            if tower.projection not in ("linear", "none"):
                raise ValueError(
                    f"expected a tower of embed_dim {teacher_dim} (the teacher's), or one with a "
                    f"linear projection to extend, got {tower.output_dim} and projection "
                    f"{tower.projection!r}. Build the tower with embed_dim={teacher_dim}."
                )
            self.to_teacher = nn.Linear(tower.output_dim, teacher_dim, bias=False)

    def encode(self, tokens: Tensor) -> Tensor:
        """Encode token ids [n, length] into the teacher's space, [n, width], not normalised."""
        features = self.tower(tokens)
        return cast(Tensor, features if self.to_teacher is None else self.to_teacher(features))

    def forward(self, tokens: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """Compute the loss of one batch.

        Args:
            tokens: Token ids, padded at the end, [n, length].
            teacher: The teacher's rows for the texts, [n, width]; zeros where it is silent.

        Returns:
            ``loss``, and its parts detached: ``distillation`` and, if asked for, ``contrastive``.
        """
        if self.training and self.recipe.token_dropout:
            dropped = torch.rand(tokens.shape, device=tokens.device) < self.recipe.token_dropout
            dropped[:, 0] = False  # something has to stay
            tokens = tokens.masked_fill(dropped, self.tower.pad_id)
        features = self.encode(tokens).float()
        distillation = cosine_distillation(features, teacher)
        out = {"loss": distillation, "distillation": distillation.detach()}
        known = taught_rows(teacher)
        if self.recipe.contrastive and known.any():
            contrastive = self._contrast(features[known], teacher[known])
            out["loss"] = distillation + self.recipe.contrastive * contrastive
            out["contrastive"] = contrastive.detach()
        return out

    def _contrast(self, features: Tensor, teacher: Tensor) -> Tensor:
        # where one sentence has several translations their rows are equal, and so are the logits of
        # these: which of them counts as the right one changes neither loss nor gradient
        own = torch.eye(len(teacher), dtype=torch.bool, device=teacher.device)
        scale = torch.tensor(self.recipe.logit_scale, device=features.device)
        return multi_positive_contrastive(features, teacher, own, scale)

    def fold(self) -> TextTower:
        """Give the tower with ``to_teacher`` in its projection: rows in the teacher's space."""
        if self.to_teacher is not None:
            with torch.no_grad():
                weight = self.to_teacher.weight.clone()
                if isinstance(self.tower.proj, nn.Linear):
                    weight = weight @ self.tower.proj.weight
                projection = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
                projection.weight.copy_(weight)
            self.tower.proj, self.tower.projection = projection, "linear"
            self.tower.output_dim, self.to_teacher = projection.out_features, None
        return self.tower


@dataclass(frozen=True, slots=True)
class Examination:
    """Held-out sentences that look for the teacher's row of their translation.

    Args:
        lessons: The sentences; the right answer to one is its own row, among those of all.
        originals: What the rows are of: equal ones are right answers to each other's sentences,
            and so are those of sentences that the tower reads the same.
        ks: Depths k of recall@k, each 1 or more.
    """

    lessons: Lessons
    originals: Sequence[str]
    ks: tuple[int, ...] = (1, 5, 10)

    @torch.inference_mode()
    def measure(self, model: DistillationModel, batch_size: int = 256) -> dict[str, float]:
        """Recall@k by name, in [0, 1]: the mean of the languages, and each if there are several.

        Raises:
            DataError: If the tower gives a row that is not finite.
        """
        device = next(model.parameters()).device
        token_ids = self.lessons.token_ids
        rows = np.empty((len(token_ids), self.lessons.rows.shape[1]), np.float32)
        for batch in by_length([len(ids) for ids in token_ids], batch_size):
            tokens = self.lessons.tokenizer.pad([token_ids[text] for text in batch]).to(device)
            features = nn.functional.normalize(model.encode(tokens).float(), dim=-1)
            rows[batch] = features.cpu().numpy()
        by_language = {
            language: retrieval(
                rows[list(at)], self.lessons.rows, self._answers(at), self.ks
            ).recall
            for language, at in self.lessons.places.items()
        }
        metrics = {
            f"recall@{k}": float(np.mean([recall[k] for recall in by_language.values()]))
            for k in self.ks
        }
        if len(by_language) > 1:
            for language, recall in by_language.items():
                metrics |= {f"{language}_recall@{k}": recall[k] for k in self.ks}
        return metrics

    def _answers(self, places: range) -> list[list[int]]:
        """Give the right rows for the sentences of a language; equal sentences share theirs."""
        originals: defaultdict[str, set[int]] = defaultdict(set)
        for row, text in enumerate(self.originals):
            originals[text].add(row)
        shared: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
        sentences = [tuple(self.lessons.token_ids[at]) for at in places]
        for sentence, text in zip(sentences, self.originals, strict=True):
            shared[sentence] |= originals[text]
        return [sorted(shared[sentence]) for sentence in sentences]


class DistillationTrainer(SampledTrainer):
    """``transformers.Trainer`` with our batches, parameter groups and recall@1 as validation.

    Args:
        model: What to train.
        lessons: Sentences and teacher's rows that it learns.
        examination: What says which checkpoint is best.
        recipe: Rates, epochs and batch sizes to train by.
        folder: Where checkpoints and logs go; the same again resumes.
        callbacks: Callbacks of transformers, for a progress bar.
    """

    def __init__(  # noqa: PLR0917
        self,
        model: DistillationModel,
        lessons: Lessons,
        examination: Examination,
        recipe: DistillationRecipe,
        folder: Path,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.sampler = draw_languages(lessons, recipe.batch_size, recipe.weights, seed=recipe.seed)
        self.recipe = recipe
        super().__init__(
            model=model,
            args=_arguments(recipe, folder, len(self.sampler) * recipe.epochs),
            train_dataset=lessons,
            eval_dataset=[],
            data_collator=lessons.collate,
            callbacks=list(callbacks),
            validate=lambda: examination.measure(model),
        )

    def trial(self) -> dict[str, float]:
        """Train the first ``trial_steps`` steps only, and validate there; :meth:`fit` goes on.

        Returns:
            Metrics by name. They are kept in ``trial.json``, so that a trial runs once.
        """
        file = Path(cast(str, self.args.output_dir)) / "trial.json"
        # the rest that it depends on is the run's, whose settings the folder holds
        return keep_json(file, {"steps": self.recipe.trial_steps}, self._try)

    def _try(self) -> dict[str, float]:
        stop = _Stop(self.recipe.trial_steps)
        self.add_callback(stop)
        self.fit()
        self.remove_callback(stop)
        return stop.metrics


@dataclass
class _Stop(TrainerCallback):
    """Ends training at a step, validated and saved."""

    step: int
    metrics: dict[str, float] = field(default_factory=dict)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Called by the Trainer."""
        del args, kwargs
        if state.global_step >= min(self.step, state.max_steps):
            control.should_evaluate = control.should_save = control.should_training_stop = True

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Called by the Trainer."""
        del args, state, control
        measured = kwargs["metrics"].items()
        self.metrics = {name.removeprefix("eval_"): value for name, value in measured}


def choose_pooler(
    make: Callable[[Pooler], DistillationTrainer],
) -> tuple[Pooler, dict[str, dict[str, float]]]:
    """Give every pooler a trial and keep the one that finds most.

    What the winner learnt is not lost, as it goes on from there: the choice costs the trials of
    the others, two times ``trial_steps``. So short a trial tells which pooler is ahead early on.

    Args:
        make: Makes a fresh trainer of a pooler, every time from the same start, with a folder of
            its own.

    Returns:
        The best pooler by recall@1, and what each one reached.
    """
    found = {pooler: make(cast(Pooler, pooler)).trial() for pooler in POOLERS}
    return cast(Pooler, max(found, key=lambda name: found[name]["recall@1"])), found


def _arguments(recipe: DistillationRecipe, folder: Path, steps: int) -> TrainingArguments:
    return common_arguments(
        recipe,
        folder,
        max(1, steps // recipe.evaluations),
        "recall@1",
        adam_beta2=0.98,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup_steps,
    )
