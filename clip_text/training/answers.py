"""Training a head that finds answers in passages, with a backbone of its own."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clip_text.checkpoints import Checkpoint
from clip_text.data.questions import Question, Questions
from clip_text.heads.answers import AnswerFinder, AnswerHead
from clip_text.storage import digest
from clip_text.training.callbacks import Listener
from clip_text.training.data import AnswerData
from clip_text.training.heads_answers import (
    Lessons,
    answer_lessons,
    answer_trainer,
    find_best,
    fit_threshold,
)
from clip_text.training.recipe import Count, Whole
from clip_text.training.runs import Trained, check_inputs
from clip_text.training.token_runs import TokenRecipe, TokenRun, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRecipe(TokenRecipe):
    """The numbers of the training of a head for answers; see :class:`TokenRecipe`.

    Args:
        epochs: Passes over the data, at most.
        patience: Epochs without a better validation after which it stops.
        context_length: Tokens in a window, the question's among them.
        overlap: Tokens that windows share; half of one at most.
        longest: Tokens in an answer, at most.

    Raises:
        RecipeError: If a number is out of its range.
    """

    epochs: Count = 5
    patience: Count = 2
    context_length: Window = 384
    overlap: Whole = 128
    longest: Count = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedAnswers(Trained[AnswerFinder]):
    """What came of it: ``metrics`` has F1 and EM, with the threshold that the finder keeps."""


def train_answers(
    start: str | Path | Checkpoint,
    data: AnswerData,
    recipe: AnswerRecipe,
    folder: str | Path,
    *,
    listener: Listener | None = None,
    out: str | Path | None = None,
    export: str | Path | None = None,
    name: str = "qa",
    random: bool = False,
) -> TrainedAnswers:
    """Train a head for answers; the same call again goes on where it was stopped.

    Args:
        start: Name of a checkpoint or plain encoder whose backbone the head gets a copy of; or a
            checkpoint that was loaded.
        data: Questions about passages.
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
        DataError: If there is no window with an answer to learn from.
        FileExistsError: If ``export`` exists before the run is at its end.
        NonFiniteLossError: If the loss is no number any more.
    """
    check_inputs(data, AnswerData, recipe, AnswerRecipe)
    job = TokenRun.of(start, recipe, folder, listener, name, random, out, export)
    tower, tokenizer = job.backbone()
    run = job.begin(tower, {"questions": _digest(data.train, data.validation)})
    head = job.new_head(lambda: AnswerHead(tower, 2))
    finder = AnswerFinder(head, tokenizer, recipe.overlap, recipe.longest)
    numbers = recipe.general(tower.width)
    report = run.report()
    lessons = answer_lessons(finder, data.train.questions)
    if report is None:
        job.listener.say(_introduced(data, lessons, tokenizer.context_length))
    course = job.fit(
        run,
        head,
        lambda callbacks: answer_trainer(
            *(finder, lessons, data.validation.questions, numbers, job.folder),
            callbacks=callbacks,
        ),
    )
    if report is None:
        report = _measure(finder, data, lessons)
        report |= course.figures() | {"learning_rate": numbers.learning_rate}
    finder = finder.with_threshold(report["threshold"])
    report = job.finish(run, finder, report)
    metrics = {key: report[key] for key in ("f1", "em")}
    return TrainedAnswers(model=finder, metrics=metrics, report=report)


def _introduced(data: AnswerData, lessons: Lessons, context_length: int) -> str:
    return (
        f"{len(data.train.questions):,} questions to learn from in {len(lessons.examples):,} "
        f"windows of {context_length} tokens, {len(data.validation.questions):,} to measure on; "
        f"{lessons.too_long} answers fit in no window, {lessons.lost} are not in their passage"
    )


def _measure(finder: AnswerFinder, data: AnswerData, lessons: Lessons) -> dict[str, Any]:
    """Choose the threshold on the validation questions, and give the figures by name."""
    questions = data.validation.questions
    threshold, scores = fit_threshold(questions, find_best(finder, questions))
    return asdict(scores) | {
        "threshold": threshold,
        "train_questions": len(data.train.questions),
        "windows": len(lessons.examples),
        "too_long": lessons.too_long,
        "lost": lessons.lost,
        "moved": data.train.moved + data.validation.moved,
        "left_out": data.train.left_out + data.validation.left_out,
    }


def _digest(*sets: Questions) -> str:
    def said(question: Question) -> tuple[object, ...]:
        return question.question, question.passage, question.answers, question.starts

    return digest(*([said(question) for question in asked.questions] for asked in sets))
