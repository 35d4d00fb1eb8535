"""Training a classification head: on the frozen tower, on a copy of it, or jointly with it."""

import copy
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import TrainerCallback

from clip_text.checkpoints import Checkpoint
from clip_text.checkpoints.heads import check_name
from clip_text.data.collection import RetrievalSet
from clip_text.data.identity import collection_digest
from clip_text.data.labelled_texts import LabelledTexts, check_known
from clip_text.encoder import Encoder
from clip_text.errors import CheckpointError
from clip_text.evaluation.classification import Calibration, Scores, calibrate, decide, score
from clip_text.features import module_digest
from clip_text.heads.classification import (
    ClassificationHead,
    HeadConfig,
    balanced_weights,
    own_tower,
    targets_of,
)
from clip_text.progress import counted
from clip_text.tokenizer import Tokenizer
from clip_text.towers import TextTower
from clip_text.training.classifier_steps import ClassifierModel, ClassifierTrainer, Labelled, Mode
from clip_text.training.holding import (
    PICTURE_WEIGHT,
    ROW_WEIGHT,
    Hold,
    HoldPictures,
    HoldRows,
    Recall,
)
from clip_text.training.recipe import (
    Count,
    NotNegative,
    Positive,
    Recipe,
    RecipeError,
    Seed,
    check_fields,
)
from clip_text.training.stages import run_stage
from clip_text.training.states import kept, picture_rows, pooled_states

_HEAD_RATE, _TOWER_RATE, _TOWER_WIDTH = 3e-3, 3e-4, 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierRecipe:
    """The numbers of a head's training.

    Args:
        train: ``head``: the tower is frozen, its pooled states are computed once. ``copy``: a
            copy of the backbone learns too, and costs a second pass later. ``joint``: the
            tower itself learns, held by ``hold`` so that retrieval stays.
        epochs: Passes over the texts, unless validation stops rising before.
        batch_size: Texts in a step.
        learning_rate: At its peak; None for 3e-3 of a head alone, and else 3e-4 at width 256,
            falling with its square (3.3e-5 at 768, where BERT is fine-tuned). A head beside its
            backbone learns ten times as fast.
        weight_decay: On matrices.
        balanced: Weigh classes so that all count alike.
        hold: Weight of what holds retrieval, with ``joint``; None for the usual one.
        patience: Evaluations without a rise after which training ends.
        evaluations: How often validation runs if it doesn't.
        bf16: Compute in bfloat16 where it is faster.
        seed: Of weights, draws and dropout.

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
    bf16: bool = True
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_fields(self)

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


@dataclass(frozen=True, slots=True)
class Lessons:
    """What is learnt from and measured on.

    Args:
        train: Labelled texts.
        validation: Others, of the same labels.
        pictures: With captions, for ``joint``.
        held_pictures: With captions, to measure recall on before and after ``joint``.
    """

    train: LabelledTexts
    validation: LabelledTexts
    pictures: RetrievalSet | None = None
    held_pictures: RetrievalSet | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of it.

    Args:
        checkpoint: The old one with the head; with ``joint`` its text tower is the trained one.
        head: On the checkpoint's text tower, or with a copy of its own.
        scores: On the validation texts.
        calibration: On the same.
        logits: Of the validation texts, [n, labels].
        targets: Of the validation texts.
        retrieval_before: With ``joint``, recall by name, in [0, 1], before the first step.
        retrieval_after: The same at the end.
        seconds: Of training, reading the tower's states included.
        finished_before: Whether nothing was left to do.
    """

    checkpoint: Checkpoint
    head: ClassificationHead
    scores: Scores
    calibration: Calibration
    logits: NDArray[np.float32]
    targets: NDArray[np.int64]
    seconds: float
    finished_before: bool = False
    retrieval_before: dict[str, float] = field(default_factory=dict)
    retrieval_after: dict[str, float] = field(default_factory=dict)


def train_classifier(
    checkpoint: Checkpoint,
    lessons: Lessons,
    config: HeadConfig,
    recipe: ClassifierRecipe,
    folder: Path,
    *,
    name: str = "classifier",
    start: tuple[TextTower, Tokenizer] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Trained:
    """Train a head; the same call again goes on where it was stopped.

    Args:
        checkpoint: Whose backbone the head reads. With ``joint`` its text tower is trained in
            place.
        lessons: Texts.
        config: What the head is.
        recipe: The numbers.
        folder: Of the run: states, checkpoints, metrics.
        name: Of the head within the checkpoint; one of that name is replaced.
        start: What ``copy`` copies, if not the checkpoint's backbone: that of
            :func:`~clip_text.heads.token_heads.start_backbone`. Its context length is the head's.
        callbacks: Of transformers, for a bar of steps.
        progress: Told the texts or pictures encoded: what, how many, of how many.

    Raises:
        CheckpointError: If ``start`` has another vocabulary than the checkpoint.
        DataError: If a validation text has a label no training text has.
        RecipeError: If a number is out of range, or ``start`` is given without ``copy``.
        NonFiniteLossError: If the loss is no number any more.
    """
    check_name(name)
    for texts in (lessons.train, lessons.validation):
        check_known(texts, config.labels, multi_label=config.multi_label)
    started = time.monotonic()
    if start is not None:
        _check_start(start[1], checkpoint, recipe)
    copied = start[0] if start else checkpoint.model.text
    run = _Run(checkpoint, lessons, config, recipe, folder, copied, progress)
    joint = recipe.train == "joint"
    recall = Recall(run.encoder, lessons.validation.texts, run.held_pictures()) if joint else None
    before = recall.measure() if recall else {}
    logits = run.fit(callbacks)
    after = recall.measure() if recall else {}
    several = config.multi_label
    calibration = calibrate(logits, run.held_targets, multi_label=several)
    head = run.model.head.eval()
    head.temperature.fill_(calibration.temperature)
    given = decide(
        logits / calibration.temperature, multi_label=several, threshold=config.threshold
    )
    # the others read a backbone that is no more
    heads = (checkpoint.without_readers() if joint else checkpoint).heads
    # these have backbones of their own
    others = {known: one for known, one in checkpoint.token_heads.items() if known != name}
    return Trained(
        checkpoint=replace(checkpoint, heads={**heads, name: head}, token_heads=others),
        head=head,
        scores=score(given, run.held_targets, config.labels),
        calibration=calibration,
        logits=logits,
        targets=run.held_targets,
        seconds=time.monotonic() - started,
        finished_before=run.finished_before,
        retrieval_before=before,
        retrieval_after=after,
    )


class _Run:
    """One run: what is learnt, of what, and how it is measured."""

    def __init__(  # noqa: PLR0917
        self,
        checkpoint: Checkpoint,
        lessons: Lessons,
        config: HeadConfig,
        recipe: ClassifierRecipe,
        folder: Path,
        copied: TextTower,
        progress: Callable[[str, int, int], None],
    ) -> None:
        self.encoder = Encoder(checkpoint)
        self.checkpoint, self.lessons, self.config = checkpoint, lessons, config
        self.recipe, self.folder, self.progress = recipe, folder, progress
        self.tower: TextTower = checkpoint.model.text
        self.targets = targets_of(lessons.train.labels, config)
        self.held_targets = targets_of(lessons.validation.labels, config)
        self.copied = copied
        self.start = module_digest(self.copied)
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            head = ClassificationHead(config, self.copied.width, self._copy())
        weights = balanced_weights(self.targets, config) if recipe.balanced else None
        self.hold = self._hold() if recipe.train == "joint" else None
        learns = self.tower if recipe.train == "joint" else None
        self.model = ClassifierModel(head, learns, weights, self.hold).to(self.encoder.device)
        self.learnt = self._labelled("train", lessons.train, self.targets, self.hold)
        self.held = self._labelled("held", lessons.validation, self.held_targets)

    def _copy(self) -> TextTower | None:
        if self.recipe.train != "copy":
            return None
        source = self.copied
        config = copy.deepcopy(source.config)
        tower = own_tower(config, source.width, self.config, source.context_length)
        tower.transformer.load_state_dict(source.transformer.state_dict())
        return tower

    def held_pictures(self) -> tuple[RetrievalSet, NDArray[np.float32]] | None:
        """Pictures to measure recall on and their vectors, if there are any."""
        pictures = self.lessons.held_pictures
        if pictures is None:
            return None
        name = "held-pictures"
        return pictures, picture_rows(self.encoder, pictures, name, self.folder, self.progress)

    def _hold(self) -> Hold:
        pictures, weight = self.lessons.pictures, self.recipe.hold
        if pictures is None:
            rows = self.encoder.encode_text(self.lessons.train.texts)
            return HoldRows(rows, ROW_WEIGHT if weight is None else weight)
        return HoldPictures(
            pictures,
            picture_rows(self.encoder, pictures, "pictures", self.folder, self.progress),
            self.checkpoint.tokenizer,
            self.encoder.logit_scale,
            seed=self.recipe.seed,
            weight=PICTURE_WEIGHT if weight is None else weight,
        )

    def _labelled(
        self,
        name: str,
        texts: LabelledTexts,
        targets: NDArray[np.int64],
        hold: Hold | None = None,
    ) -> Labelled:
        tokenizer, cut = self.checkpoint.tokenizer, self.copied.context_length
        if self.recipe.train != "head":
            return Labelled(tokenizer.token_ids(texts.texts, cut), targets, tokenizer, hold)
        key = repr((self.start, cut, _digest(texts), tokenizer.contract, self.config.pooler))
        advance = counted(f"states ({name})", len(texts), self.progress)
        states = kept(
            self.folder / f"states-{name}.npy",
            key,
            lambda: pooled_states(self.encoder, self.model.head, texts.texts, advance),
        )
        return Labelled(states, targets, tokenizer)

    def fit(self, callbacks: Sequence[TrainerCallback]) -> NDArray[np.float32]:
        """Train, or load the end of a finished run; logits of the validation texts."""
        best_by = "micro_f1" if self.config.multi_label else "accuracy"
        general = self.recipe.general(self.copied.width, best_by)
        place = self.folder / self.recipe.train
        data = (_digest(self.lessons.train), _digest(self.lessons.validation))
        shown = self.lessons.pictures
        made_by = (
            *(self.start, self.copied.context_length, data, self.config, self.recipe),
            shown and collection_digest(shown),
        )
        # it holds what of the tower learns; elsewhere the frozen tower is as it was
        self.finished_before = not run_stage(
            self.model,
            place,
            repr(made_by),
            lambda: ClassifierTrainer(
                self.model,
                self.learnt,
                self.recipe.batch_size,
                general,
                self.recipe.patience,
                place,
                self._validate,
                callbacks,
            ).fit(),
        )
        self.model.to(self.encoder.device).eval()
        return self._logits()

    def _validate(self) -> dict[str, float]:
        several = self.config.multi_label
        logits = self._logits()
        given = decide(logits, multi_label=several, threshold=self.config.threshold)
        found = score(given, self.held_targets, self.config.labels)
        metrics = {"accuracy": found.accuracy, "macro_f1": found.macro_f1}
        return metrics | {"micro_f1": found.micro_f1}

    @torch.inference_mode()
    def _logits(self) -> NDArray[np.float32]:
        lengths = self.held.lengths()
        order = np.argsort(lengths, kind="stable")
        out = np.empty((len(order), len(self.config.labels)), np.float32)
        for start in range(0, len(order), 256):
            at = order[start : start + 256]
            inputs: Tensor = self.held.given(at.tolist()).to(self.encoder.device)
            out[at] = self.model.logits(inputs)[0].float().cpu().numpy()
        return out


def _check_start(start: Tokenizer, checkpoint: Checkpoint, recipe: ClassifierRecipe) -> None:
    if recipe.train != "copy":
        raise RecipeError(
            f"expected to train a copy of another backbone, got {recipe.train!r}. Train copy."
        )
    own = checkpoint.tokenizer
    alike = start.backend.get_vocab() == own.backend.get_vocab()
    if not alike or start.contract != own.contract:
        raise CheckpointError(
            "expected a backbone with the vocabulary and tokeniser contract of the model it lies "
            f"beside, got {len(start.backend):,} tokens by {start.contract}, not "
            f"{len(own.backend):,} by {own.contract}. Start from one pre-trained with the model's."
        )


def _digest(texts: LabelledTexts) -> str:
    content = json.dumps([texts.texts, texts.labels]).encode()
    return hashlib.blake2b(content, digest_size=16).hexdigest()
