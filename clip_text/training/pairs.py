"""Training a head for sentence pairs, with a backbone of its own."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_text.checkpoints import Checkpoint
from clip_text.data.labelled_pairs import LabelledPairs, PairColumns, read_labelled_pairs
from clip_text.data.labelled_texts import to_learn_and_measure
from clip_text.evaluation.classification import as_matrix, calibrate
from clip_text.evaluation.zero_shot import confusion_matrix
from clip_text.heads.classification import ClassificationHead, HeadConfig
from clip_text.heads.pairs import PairClassifier
from clip_text.storage import digest
from clip_text.training.callbacks import Listener
from clip_text.training.heads_pairs import measure_pairs, pair_targets, pair_trainer
from clip_text.training.recipe import Count
from clip_text.training.runs import Trained, check_inputs
from clip_text.training.token_runs import TokenRecipe, TokenRun


@dataclass(frozen=True, slots=True)
class PairData:
    """Labelled pairs of texts.

    Args:
        train: Pairs to learn from.
        validation: Others, of the same labels.
        labels: The labels, in order.
    """

    train: LabelledPairs
    validation: LabelledPairs
    labels: tuple[str, ...]

    @classmethod
    def read(
        cls,
        data: str | Path,
        val: str | Path | None = None,
        *,
        number: int | None = None,
        seed: int = 0,
        columns: PairColumns | None = None,
    ) -> "PairData":
        """Read labelled pairs from .jsonl, .csv, .tsv or .xlsx files.

        Args:
            data: What to learn from.
            val: What to measure on; pairs are held out if None.
            number: How many; a tenth, at most 5,000, if None. The same pairs are not learnt.
            seed: Seed of the draw; an equal seed gives equal draws.
            columns: What to read of the files; columns are found by their usual names if None.

        Raises:
            DataError: If something cannot be read, there is one label only, or a pair to measure
                on has a label that is not learnt.
        """
        columns = columns or PairColumns()
        train = read_labelled_pairs(Path(data), columns)
        validation = None if val is None else read_labelled_pairs(Path(val), columns)
        return cls(
            *to_learn_and_measure(train, validation, columns.names, number, seed, multi_label=False)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRecipe(TokenRecipe):
    """The numbers of the training of a head for pairs; see :class:`TokenRecipe`.

    Args:
        epochs: Passes over the data, at most.
        patience: Epochs without a better validation after which it stops.
        batch_size: Pairs in a step.
        context_length: Tokens of both texts together, with special ones.

    Raises:
        RecipeError: If a number is out of its range.
    """

    epochs: Count = 5
    patience: Count = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedPairs(Trained[PairClassifier]):
    """What came of it: ``metrics`` has accuracy and macro F1.

    Args:
        confusion: Counts of the pairs, label in rows, answer in columns, [labels, labels]; None
            where the run was at its end before.
    """

    confusion: NDArray[np.float64] | None


def train_pairs(
    start: str | Path | Checkpoint,
    data: PairData,
    recipe: PairRecipe,
    folder: str | Path,
    *,
    listener: Listener | None = None,
    out: str | Path | None = None,
    export: str | Path | None = None,
    name: str = "pairs",
    random: bool = False,
) -> TrainedPairs:
    """Train a head for sentence pairs; the same call again goes on where it was stopped.

    Its probabilities are calibrated on the validation pairs.

    Args:
        start: Name of a checkpoint or plain encoder whose backbone the head gets a copy of; or a
            checkpoint that was loaded.
        data: Labelled pairs.
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
        FileExistsError: If ``export`` exists before the run is at its end.
        NonFiniteLossError: If the loss is no number any more.
    """
    check_inputs(data, PairData, recipe, PairRecipe)
    job = TokenRun.of(start, recipe, folder, listener, name, random, out, export)
    tower, tokenizer = job.backbone()
    run = job.begin(tower, {"pairs": _digest(data.train, data.validation)})
    config = HeadConfig(labels=data.labels, form="bert")
    head = job.new_head(lambda: ClassificationHead(config, tower.width, tower))
    classifier = PairClassifier(head, tokenizer)
    numbers = recipe.general(tower.width)
    report = run.report()
    if report is None:
        job.listener.say(
            f"{len(data.train):,} pairs to learn from, {len(data.validation):,} to measure on"
        )
    course = job.fit(
        run,
        head,
        lambda callbacks: pair_trainer(
            *(classifier, data.train, data.validation, numbers, job.folder), callbacks=callbacks
        ),
        metric="accuracy",
    )
    confusion = None
    if report is None:
        report, confusion = _measure(classifier, data)
        report |= course.figures() | {"learning_rate": numbers.learning_rate}
    head.temperature.fill_(report["temperature"])
    report = job.finish(run, classifier, report)
    metrics = {key: report[key] for key in ("accuracy", "macro_f1")}
    return TrainedPairs(model=classifier, metrics=metrics, report=report, confusion=confusion)


def _measure(
    classifier: PairClassifier, data: PairData
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Measure a head on the validation pairs: the figures by name, and the confusion."""
    logits, scores = measure_pairs(classifier, data.validation)
    targets = pair_targets(classifier, data.validation)
    calibration = calibrate(logits, targets, multi_label=False)
    report = (
        asdict(scores)
        | asdict(calibration)
        | {
            "classes": [asdict(each) for each in scores.classes],
            "train_pairs": len(data.train),
            "validation_pairs": len(data.validation),
        }
    )
    return report, confusion_matrix(logits, as_matrix(targets, len(data.labels)))


def _digest(*sets: LabelledPairs) -> str:
    return digest(*([pairs.texts, pairs.labels] for pairs in sets))
