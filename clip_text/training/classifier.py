"""Training a classification head: on the frozen tower, on a copy of it, or jointly with it."""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from clip_text.checkpoints import CONFIG_FILE, Checkpoint, load_checkpoint, save_checkpoint
from clip_text.checkpoints.export import check_exportable
from clip_text.checkpoints.heads import check_name, export_head, heads_in
from clip_text.data.labelled_texts import check_known
from clip_text.encoder import Encoder
from clip_text.errors import CheckpointError, ClipTextError
from clip_text.evaluation.classification import Scores, TemperatureFit, calibrate, decide, score
from clip_text.heads.classification import ClassificationHead, HeadConfig
from clip_text.tokenizer import Tokenizer
from clip_text.towers import TextTower
from clip_text.training.callbacks import Listener
from clip_text.training.classifier_run import ClassifierRun, figures
from clip_text.training.classifier_steps import ClassifierRecipe
from clip_text.training.data import LabelData
from clip_text.training.holding import Recall
from clip_text.training.recipe import RecipeError
from clip_text.training.runs import Trained, check_export, check_inputs, read_report, write_report
from clip_text.training.trainer import join_processes


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedClassifier(Trained[Checkpoint]):
    """What came of it; ``model`` is the old checkpoint with the head.

    With ``joint`` its text tower is the trained one.

    Args:
        head: On the checkpoint's text tower, or with a copy of its own.
        scores: Figures on the validation texts.
        calibration: Calibration on the validation texts.
        logits: Logits of the validation texts, [n, labels].
        targets: Right labels of the validation texts: [n] of labels' positions, or [n, labels] of 0
            and 1.
        retrieval_before: With ``joint``, recall by name, in [0, 1], before the first step.
        retrieval_after: The same at the end.
        finished_before: Whether nothing was left to do.
    """

    head: ClassificationHead
    scores: Scores
    calibration: TemperatureFit
    logits: NDArray[np.float32]
    targets: NDArray[np.int64]
    retrieval_before: dict[str, float]
    retrieval_after: dict[str, float]
    finished_before: bool


def train_classifier(
    start: str | Path | Checkpoint,
    data: LabelData,
    recipe: ClassifierRecipe,
    folder: str | Path,
    *,
    listener: Listener | None = None,
    out: str | Path | None = None,
    export: str | Path | None = None,
    name: str = "classifier",
    config: HeadConfig | None = None,
    backbone: tuple[TextTower, Tokenizer] | None = None,
) -> TrainedClassifier:
    """Train a classification head; the same call again goes on where it was stopped.

    Args:
        start: A checkpoint's name, or one that was loaded, whose backbone the head reads. With
            ``joint`` its text tower is trained in place.
        data: Labelled texts, and for ``joint`` pictures.
        recipe: Rates, epochs and batch sizes to train by.
        folder: Folder of the run: states, checkpoints, metrics, report.
        listener: Told how the run goes.
        out: Folder to write the checkpoint with the head to.
        export: Folder to write the head to as transformers' own class, too.
        name: Name of the head within the checkpoint; one of that name is replaced.
        config: What the head is; linear, with the tower's own pooler, if None.
        backbone: What ``copy`` copies, if not the checkpoint's: that of
            :func:`~clip_text.checkpoints.start_backbone`. Its context length is the head's.

    Raises:
        TypeError: If data or recipe are of another training.
        CheckpointError: If the start cannot be read, or ``backbone`` has another vocabulary.
        ClipTextError: If ``out`` holds other towers.
        DataError: If a validation text has a label no training text has.
        FileExistsError: If ``export`` exists before the run is at its end.
        RecipeError: If ``backbone`` is given without ``copy``.
        NonFiniteLossError: If the loss is no number any more.
    """
    check_inputs(data, LabelData, recipe, ClassifierRecipe)
    check_name(name)
    started = time.monotonic()
    checkpoint = start if isinstance(start, Checkpoint) else load_checkpoint(start)
    config = config or data.config(checkpoint.config.pooler)
    for texts in (data.train, data.validation):
        check_known(texts, config.labels, multi_label=config.multi_label)
    if backbone is not None:
        _check_backbone(backbone[1], checkpoint, recipe)
    copied = backbone[0] if backbone else checkpoint.model.text
    run = ClassifierRun(
        checkpoint, data, config, recipe, Path(folder), copied, listener or Listener(), started
    )
    place = _Place(
        run, None if out is None else Path(out), None if export is None else Path(export)
    )
    run.introduce()
    trained = _train(run, name)
    place.write(trained)
    return trained


def _train(run: ClassifierRun, name: str) -> TrainedClassifier:
    """Train the head, or load the end of a finished run; and measure it."""
    checkpoint, config = run.checkpoint, run.config
    several = config.multi_label
    recall = None
    if run.recipe.train == "joint":
        recall = Recall(run.encoder, run.data.validation.texts, run.held_pictures())
    before = recall.measure() if recall else {}
    course = run.fit()
    logits = run.logits()
    after = recall.measure() if recall else {}
    calibration = calibrate(logits, run.held_targets, multi_label=several)
    head = run.model.head.eval()
    head.temperature.fill_(calibration.temperature)
    given = decide(
        logits / calibration.temperature, multi_label=several, threshold=config.threshold
    )
    scores = score(given, run.held_targets, config.labels)
    # joint training leaves those without a backbone of their own nothing to read
    heads = (checkpoint.without_readers() if recall else checkpoint).heads
    checkpoint = replace(checkpoint, heads={**heads, name: head})
    report: dict[str, Any] = {
        "train": run.recipe.train,
        "texts": len(run.data.train),
        "validation_texts": len(run.data.validation),
        **figures(scores),
        **asdict(calibration),
        "seed": run.recipe.seed,
        "seconds": course.seconds,
        "fingerprint": Encoder(checkpoint).fingerprint,
    }
    report |= {f"before_{metric}": value for metric, value in before.items()}
    report |= {f"after_{metric}": value for metric, value in after.items()}
    report["classes"] = [asdict(of_class) for of_class in scores.classes]
    return TrainedClassifier(
        model=checkpoint,
        metrics=figures(scores),
        report=report,
        head=head,
        scores=scores,
        calibration=calibration,
        logits=logits,
        targets=run.held_targets,
        retrieval_before=before,
        retrieval_after=after,
        finished_before=course.finished_before,
    )


class _Place:
    """Where a head goes in the end.

    Args:
        run: Run that trains the head.
        out: Folder of the checkpoint, if it is to be written.
        export: Folder for transformers, if it is to be exported.
    """

    def __init__(self, run: ClassifierRun, out: Path | None, export: Path | None) -> None:
        self.run, self.out, self.export = run, out, export
        check_export(export, run.folder)
        if export:
            check_exportable(run.copied.config.model_type, run.config)
        self.heads = self._heads_there() if out else set()

    def _heads_there(self) -> set[str]:
        """Name the heads in the folder; refuse it if it holds other towers than the model's.

        Unless this run put them there, as joint training does.
        """
        out = cast(Path, self.out)
        if not (out / CONFIG_FILE).exists():
            return set()
        before = read_report(self.run.folder)
        ours = {self.run.encoder.fingerprint, before and before.get("fingerprint")}
        if Encoder(load_checkpoint(out)).fingerprint not in ours:
            raise ClipTextError(
                f"expected the towers of the model in {out}, or nothing, got others. Name another "
                f"folder, or put the head on those by -m {out}."
            )
        return _names_in(out)

    def write(self, trained: TrainedClassifier) -> None:
        """Write checkpoint, export and report; say which heads that took."""
        run = self.run
        if not join_processes().is_main_process:
            return
        if self.out:
            save_checkpoint(trained.model, self.out)
            for name in sorted(self.heads - _names_in(self.out)):
                run.listener.say(
                    f"head {name} is gone: it read the text tower as it was. Train it anew."
                )
        if self.export and not self.export.exists():
            export_head(trained.head, self.export, trained.model)
        write_report(run.folder, trained.report)


def _names_in(folder: Path) -> set[str]:
    return {place.name for place, _ in heads_in(folder)}


def _check_backbone(tokenizer: Tokenizer, checkpoint: Checkpoint, recipe: ClassifierRecipe) -> None:
    if recipe.train != "copy":
        raise RecipeError(
            f"expected to train a copy of another backbone, got {recipe.train!r}. Train copy."
        )
    own = checkpoint.tokenizer
    alike = tokenizer.backend.get_vocab() == own.backend.get_vocab()
    if not alike or tokenizer.contract != own.contract:
        raise CheckpointError(
            "expected a backbone with the vocabulary and tokeniser contract of the model it lies "
            f"beside, got {len(tokenizer.backend):,} tokens by {tokenizer.contract}, not "
            f"{len(own.backend):,} by {own.contract}. Start from one pre-trained with the model's."
        )
