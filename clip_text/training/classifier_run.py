"""One run of a classification head's training: what is learnt, of what, and how it is measured."""

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import TrainerState

from clip_text.checkpoints import Checkpoint
from clip_text.data.collection import RetrievalSet
from clip_text.data.identity import collection_digest
from clip_text.data.labelled_texts import LabelledTexts, without
from clip_text.encoder import Encoder
from clip_text.evaluation.classification import Scores, decide, score
from clip_text.features import module_digest
from clip_text.heads.classification import (
    ClassificationHead,
    HeadConfig,
    balanced_weights,
    targets_of,
)
from clip_text.heads.standalone import bare_tower
from clip_text.lengths import by_length
from clip_text.storage import digest
from clip_text.towers import TextTower
from clip_text.training.callbacks import Listener, step_line
from clip_text.training.classifier_steps import (
    ClassifierModel,
    ClassifierRecipe,
    ClassifierTrainer,
    Labelled,
)
from clip_text.training.data import LabelData
from clip_text.training.holding import PICTURE_WEIGHT, ROW_WEIGHT, Hold, HoldPictures, HoldRows
from clip_text.training.runs import Course, Run
from clip_text.training.states import kept_rows, picture_rows, pooled_states


class ClassifierRun:
    """One run: what is learnt, of what, and how it is measured."""

    def __init__(  # noqa: PLR0917
        self,
        checkpoint: Checkpoint,
        data: LabelData,
        config: HeadConfig,
        recipe: ClassifierRecipe,
        folder: Path,
        copied: TextTower,
        listener: Listener,
        started: float,
    ) -> None:
        self.encoder = Encoder(checkpoint)
        self.checkpoint, self.data, self.config = checkpoint, data, config
        self.recipe, self.folder, self.started = recipe, folder, started
        self.listener, self.progress = listener, listener.progress
        self.tower: TextTower = checkpoint.model.text
        self.targets = targets_of(data.train.labels, config)
        self.held_targets = targets_of(data.validation.labels, config)
        self.copied = copied
        self.start = module_digest(self.copied)
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            head = ClassificationHead(config, self.copied.width, self._copy())
        weights = balanced_weights(self.targets, config) if recipe.balanced else None
        self.hold = self._hold() if recipe.train == "joint" else None
        learns = self.tower if recipe.train == "joint" else None
        self.model = ClassifierModel(head, learns, weights, self.hold).to(self.encoder.device)
        self.learnt = self._labelled("train", data.train, self.targets, self.hold)
        self.held = self._labelled("held", data.validation, self.held_targets)

    def introduce(self) -> None:
        """Say which texts are measured on though they are learnt, and which are cut."""
        known = len(self.data.train) - len(without(self.data.train, self.data.validation))
        if known:
            self.listener.say(f"{known:,} of the texts to learn are in the validation texts, too")
        length = self.copied.context_length
        ids = self.checkpoint.tokenizer.token_ids(self.data.train.texts, length + 1)
        cut = sum(len(row) > length for row in ids)
        if cut:
            self.listener.say(
                f"{cut:,} of {len(ids):,} texts are longer than {length} tokens, and are cut there"
            )

    def _copy(self) -> TextTower | None:
        if self.recipe.train != "copy":
            return None
        source = self.copied
        config = copy.deepcopy(source.config)
        tower = bare_tower(config, source.context_length, self.config.pooler)
        tower.transformer.load_state_dict(source.transformer.state_dict())
        return tower

    def held_pictures(self) -> tuple[RetrievalSet, NDArray[np.float32]] | None:
        """Pictures to measure recall on and their rows [images, embed_dim], if there are any."""
        pictures = self.data.held_pictures
        if pictures is None:
            return None
        name = "held-pictures"
        return pictures, picture_rows(self.encoder, pictures, name, self.folder, self.progress)

    def _hold(self) -> Hold:
        pictures, weight = self.data.pictures, self.recipe.hold
        if pictures is None:
            rows = self.encoder.encode_text(self.data.train.texts)
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
        key = [self.start, cut, _digest(texts), tokenizer.contract, self.config.pooler]
        states = kept_rows(
            self.folder / f"states-{name}.npy",
            key,
            lambda: pooled_states(
                *(self.encoder, self.model.head, texts.texts), f"states ({name})", self.progress
            ),
        )
        return Labelled(states, targets, tokenizer)

    def fit(self) -> Course:
        """Train, or load the end of a finished run."""
        best_by = "micro_f1" if self.config.multi_label else "accuracy"
        general = self.recipe.general(self.copied.width, best_by)
        place = self.folder / self.recipe.train
        data = (_digest(self.data.train), _digest(self.data.validation))
        shown = self.data.pictures
        made_by = (
            *(self.start, self.copied.context_length, data, self.config, self.recipe),
            shown and collection_digest(shown),
        )

        def train() -> TrainerState:
            trainer = ClassifierTrainer(
                self.model,
                self.learnt,
                self.recipe.batch_size,
                general,
                self.recipe.patience,
                place,
                self._validate,
                self.listener.heard("steps", step_line(_told)),
            )
            trainer.fit()
            return trainer.state

        # it holds what of the tower learns; elsewhere the frozen tower is as it was
        run = Run(place, {"made by": repr(made_by)}, anew=True)
        course = run.fit(self.model, train, started=self.started)
        self.model.to(self.encoder.device).eval()
        return course

    def _validate(self) -> dict[str, float]:
        several = self.config.multi_label
        logits = self.logits()
        given = decide(logits, multi_label=several, threshold=self.config.threshold)
        return figures(score(given, self.held_targets, self.config.labels))

    @torch.inference_mode()
    def logits(self) -> NDArray[np.float32]:
        """Compute the logits of the validation texts, [n, labels]."""
        lengths = self.held.lengths()
        out = np.empty((len(lengths), len(self.config.labels)), np.float32)
        for batch in by_length(lengths, 256):
            inputs: Tensor = self.held.given(batch).to(self.encoder.device)
            out[batch] = self.model.logits(inputs)[0].float().cpu().numpy()
        return out


def figures(scores: Scores) -> dict[str, float]:
    """Give what a validation is known by, shares in [0, 1]."""
    return {
        "accuracy": scores.accuracy,
        "macro_f1": scores.macro_f1,
        "micro_f1": scores.micro_f1,
    }


def _told(metrics: Mapping[str, float]) -> str:
    return f"accuracy {metrics['accuracy']:.1%}, macro F1 {metrics['macro_f1']:.1%}"


def _digest(texts: LabelledTexts) -> str:
    return digest(texts.texts, texts.labels)
