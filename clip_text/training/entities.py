"""Training a head that finds named entities, with a backbone of its own."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_text.checkpoints import Checkpoint
from clip_text.data.tagged_text import TaggedText, TaggedTexts
from clip_text.evaluation.entities import entity_confusion, entity_scores
from clip_text.heads.entities import EntityHead, EntityRecognizer, bio_labels
from clip_text.storage import digest
from clip_text.training.callbacks import Listener
from clip_text.training.data import EntityData
from clip_text.training.heads_tokens import count_unreachable, entity_trainer
from clip_text.training.recipe import Whole
from clip_text.training.runs import Trained, check_inputs
from clip_text.training.token_runs import TokenRecipe, TokenRun


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityRecipe(TokenRecipe):
    """The numbers of the training of a head for entities; see :class:`TokenRecipe`.

    Args:
        overlap: Tokens that windows share.

    Raises:
        RecipeError: If a number is out of its range.
    """

    overlap: Whole = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedEntities(Trained[EntityRecognizer]):
    """What came of it: ``metrics`` has precision, recall, F1, and F1 of each type.

    Args:
        confusion: Counts of the entities there are and those found, [types + none, types + none];
            None where the run was at its end before.
    """

    confusion: NDArray[np.float64] | None


def train_entities(
    start: str | Path | Checkpoint,
    data: EntityData,
    recipe: EntityRecipe,
    folder: str | Path,
    *,
    listener: Listener | None = None,
    out: str | Path | None = None,
    export: str | Path | None = None,
    name: str = "ner",
    random: bool = False,
) -> TrainedEntities:
    """Train a head for named entities; the same call again goes on where it was stopped.

    Args:
        start: Name of a checkpoint or plain encoder whose backbone the head gets a copy of; or a
            checkpoint that was loaded.
        data: Texts with entities.
        recipe: Rates, epochs and batch sizes to train by.
        folder: Folder of the run: checkpoints, metrics, report.
        listener: Told how the run goes.
        out: Folder of the checkpoint to put the head into, beside the towers there or else those
            of ``start``.
        export: Folder to write the head to as transformers' own class, too.
        name: Name of the head within the checkpoint.
        random: Whether the backbone starts from random weights: the control.

    Raises:
        TypeError: If data or recipe are of another training.
        CheckpointError: If the start cannot be read, or the name names no folder.
        ClipTextError: If the folder holds another run.
        DataError: If there is nothing to learn from.
        FileExistsError: If ``export`` exists before the run is at its end.
        NonFiniteLossError: If the loss is no number any more.
    """
    check_inputs(data, EntityData, recipe, EntityRecipe)
    job = TokenRun.of(start, recipe, folder, listener, name, random, out, export)
    tower, tokenizer = job.backbone()
    run = job.begin(tower, {"texts": _digest(data.train, data.validation)})
    types = tuple(data.train.labels)
    head = job.new_head(lambda: EntityHead(tower, len(bio_labels(types))))
    recognizer = EntityRecognizer(head, tokenizer, types, recipe.overlap)
    numbers = recipe.general(tower.width)
    report = run.report()
    if report is None:
        job.listener.say(_introduced(data))
    course = job.fit(
        run,
        head,
        lambda callbacks: entity_trainer(
            *(recognizer, data.train.texts, data.validation.texts, numbers, job.folder),
            callbacks=callbacks,
        ),
    )
    confusion = None
    if report is None:
        report, confusion = _measure(recognizer, data)
        report |= course.figures() | {"learning_rate": numbers.learning_rate}
    report = job.finish(run, recognizer, report)
    metrics = {key: report[key] for key in ("precision", "recall", "f1")}
    metrics |= {f"f1_{label}": scores["f1"] for label, scores in report["types"].items()}
    return TrainedEntities(model=recognizer, metrics=metrics, report=report, confusion=confusion)


def _introduced(data: EntityData) -> str:
    return (
        f"{len(data.train.texts):,} texts to learn from, {len(data.validation.texts):,} to measure "
        f"on; {data.train.repaired + data.validation.repaired} entities with I- without B-, read "
        "as beginnings"
    )


def _measure(
    recognizer: EntityRecognizer, data: EntityData
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Measure a head on the validation texts: the figures by name, and the confusion."""
    texts = data.validation.texts
    found = recognizer.entities([text.text for text in texts])
    truth = [text.entities for text in texts]
    overall, by_type = entity_scores(truth, found)
    report = asdict(overall) | {
        "types": {label: asdict(scores) for label, scores in by_type.items()},
        "train_texts": len(data.train.texts),
        "validation_texts": len(texts),
        "repaired": data.train.repaired + data.validation.repaired,
        "unreachable": count_unreachable(recognizer, texts),
    }
    return report, entity_confusion(truth, found, recognizer.types)


def _digest(*sets: TaggedTexts) -> str:
    def said(text: TaggedText) -> tuple[object, ...]:
        return text.text, [entity.key for entity in text.entities]

    return digest(*([said(text) for text in tagged.texts] for tagged in sets))
