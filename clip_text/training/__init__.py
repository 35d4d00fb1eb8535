"""Training: seven functions of one signature, by ``transformers.Trainer``. Needs the extra `train`.

::

    train_X(start, data, recipe, folder, *, listener=None, out=None, …) -> TrainedX

============================  ==================  ===================  ========================
function                      data                recipe               ``.model`` of the result
============================  ==================  ===================  ========================
:func:`train_contrastive`     `PictureData`       list of `Stage`      `Checkpoint`
:func:`train_classifier`      `LabelData`         `ClassifierRecipe`   `Checkpoint` with the head
:func:`train_entities`        `EntityData`        `EntityRecipe`       `EntityRecognizer`
:func:`train_answers`         `AnswerData`        `AnswerRecipe`       `AnswerFinder`
:func:`train_pairs`           `PairData`           `PairRecipe`         `PairClassifier`
:func:`train_distillation`    `ParallelData`      `DistillationRecipe` text tower, or `Checkpoint`
:func:`train_masked_lm`       `TextData`          `MaskedLMRecipe`     `PreTrainedModel`
============================  ==================  ===================  ========================

``start`` is what training starts from: ``starter``, a folder, a hub name; a checkpoint that was
loaded; or a size where weights may be random. ``data`` is learnt and validated on, and has a
``read`` that takes files. ``recipe`` holds the numbers, which are checked. ``folder`` keeps the
run's state: the same call goes on where it was stopped, and another run there is refused (see
:mod:`clip_text.training.runs`). ``listener`` is told how it goes. ``out`` is the folder to write
the model to; without it ``.model`` is the caller's to save. Keywords behind these belong to a task.

Results are frozen: :class:`~clip_text.training.runs.Trained` with ``model``, ``metrics`` (its
validation by name) and ``report`` (all figures), and what a task has beside that.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from clip_text.errors import needs

with needs("clip-text[train]", "training"):
    import accelerate  # noqa: F401  (where transformers misses it, it names no extra of ours)

if TYPE_CHECKING:
    from clip_text.training.answers import AnswerRecipe, train_answers
    from clip_text.training.callbacks import Listener
    from clip_text.training.classifier import train_classifier
    from clip_text.training.classifier_steps import ClassifierRecipe
    from clip_text.training.data import (
        AnswerData,
        EntityData,
        LabelData,
        ParallelData,
        PictureData,
        TextData,
    )
    from clip_text.training.distill import train_distillation
    from clip_text.training.distillation import DistillationRecipe
    from clip_text.training.entities import EntityRecipe, train_entities
    from clip_text.training.finetune import train_contrastive
    from clip_text.training.masked_sequences import MaskedLMRecipe
    from clip_text.training.pairs import PairData, PairRecipe, train_pairs
    from clip_text.training.pretrain import train_masked_lm
    from clip_text.training.stages import Stage, read_stages

_PLACES = {
    "AnswerData": "data",
    "AnswerRecipe": "answers",
    "ClassifierRecipe": "classifier_steps",
    "DistillationRecipe": "distillation",
    "EntityData": "data",
    "EntityRecipe": "entities",
    "LabelData": "data",
    "Listener": "callbacks",
    "MaskedLMRecipe": "masked_sequences",
    "PairData": "pairs",
    "PairRecipe": "pairs",
    "ParallelData": "data",
    "PictureData": "data",
    "Stage": "stages",
    "TextData": "data",
    "read_stages": "stages",
    "train_answers": "answers",
    "train_classifier": "classifier",
    "train_contrastive": "finetune",
    "train_distillation": "distill",
    "train_entities": "entities",
    "train_masked_lm": "pretrain",
    "train_pairs": "pairs",
}
"""Modules of the names above; each is imported when it is first asked for."""

__all__ = [
    "AnswerData",
    "AnswerRecipe",
    "ClassifierRecipe",
    "DistillationRecipe",
    "EntityData",
    "EntityRecipe",
    "LabelData",
    "Listener",
    "MaskedLMRecipe",
    "PairData",
    "PairRecipe",
    "ParallelData",
    "PictureData",
    "Stage",
    "TextData",
    "read_stages",
    "train_answers",
    "train_classifier",
    "train_contrastive",
    "train_distillation",
    "train_entities",
    "train_masked_lm",
    "train_pairs",
]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(
            f"expected one of {', '.join(__all__)} of {__name__}, got {name!r}. Check the name."
        )
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
