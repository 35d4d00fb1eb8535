"""Train a head that finds answers in passages: ``clip-text train qa``.

python scripts/train_qa.py trial.json --val dev.json --mend --out my-model
"""

import hashlib
import random as random_module
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from clip_text_cli.drawing.curves import CURVES, draw_course
from clip_text_cli.options import AsJson, Model
from clip_text_cli.output import err, out, print_json
from clip_text_cli.runs import HeadRun, check_numbers, fit, place_towers

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from clip_text.data.questions import Question, Questions
    from clip_text.tokenizer import Tokenizer
    from clip_text.towers import TextTower

HELD_OUT = 0.1
PICTURES = (("curves", CURVES),)


def command(
    data: Annotated[Path, typer.Argument(help="Questions about passages, in SQuAD's format.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the model; see below.")],
    val: Annotated[
        Path | None,
        typer.Option(help="What to measure on; a tenth of the passages is held out if not given."),
    ] = None,
    model: Model = "starter",
    random: Annotated[
        bool, typer.Option("--random", help="The model's shape with random weights: the control.")
    ] = False,
    name: Annotated[str, typer.Option(help="Of the head.")] = "qa",
    mend: Annotated[
        bool,
        typer.Option(
            "--mend",
            help="Move answers that are not at their place, leave out questions without words.",
        ),
    ] = False,
    val_questions: Annotated[
        int | None, typer.Option(min=1, help="Measure on so many, drawn at random.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="At most.")] = 5,
    patience: Annotated[int, typer.Option(min=1, help="Epochs to wait for a better F1.")] = 2,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows in a step.")] = 32,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", "--lr", help="Suggested if not given.")
    ] = None,
    context_length: Annotated[
        int, typer.Option(min=16, help="Tokens in a window; at most the model's positions.")
    ] = 384,
    overlap: Annotated[
        int, typer.Option(min=0, help="Tokens that windows share; half of one at most.")
    ] = 128,
    longest: Annotated[int, typer.Option(min=1, help="Tokens in an answer, at most.")] = 64,
    seed: Annotated[int, typer.Option(help="Of weights, draws and dropout.")] = 0,
    export: Annotated[
        Path | None, typer.Option(help="Write a plain AutoModelForQuestionAnswering here, too.")
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option("--run", help="Folder of the run's state; OUT.run/qa if not given."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a head for answers with a backbone of its own, by F1 on validation questions.

    EM and F1 are those of CMRC 2018's evaluation. Where validation has questions without an answer,
    the score below which none is given is chosen there, and kept with the head. OUT becomes a
    checkpoint with the towers of the model and `heads/qa` beside them; where OUT holds a checkpoint
    already, the head is put beside its towers. The same command again goes on where it stopped.

    Examples:
        clip-text train qa train.json --val dev.json --out my-model

        clip-text train qa cmrc2018_train.json --mend --out my-model
        -m hfl/chinese-roberta-wwm-ext
    """
    from clip_text.checkpoints import load_answers, start_backbone
    from clip_text.checkpoints.heads import check_name

    check_name(name)
    check_numbers(
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        seed=seed,
        learning_rate=learning_rate,
    )
    train, validation = _read(data, val, val_questions, seed, mend=mend)
    start = start_backbone(model, context_length, random=random, seed=seed)
    settings = {"random": random, "questions": _digest(train, validation), "epochs": epochs}
    settings |= {
        "patience": patience,
        "batch_size": batch_size,
        "seed": seed,
        "overlap": overlap,
        "longest": longest,
    }
    settings |= {"learning_rate": learning_rate, "context_length": context_length}
    job = HeadRun("qa", name, model, out_dir, run_dir, settings)
    report = job.report(
        start[0],
        export,
        lambda: _run(train, validation, start, job),
        lambda: load_answers(job.place),
    )
    if as_json:
        print_json(report)
        return
    _tell(report, job.folder)


def _run(
    train: "Questions",
    validation: "Questions",
    start: "tuple[TextTower, Tokenizer]",
    job: HeadRun,
) -> dict[str, Any]:
    import torch

    from clip_text.checkpoints.heads import save_heads
    from clip_text.heads.answers import AnswerFinder, AnswerHead
    from clip_text.training.heads_answers import (
        answer_lessons,
        answer_trainer,
        find_best,
        fit_threshold,
    )

    settings, folder = job.settings, job.folder
    tower, tokenizer = start
    recipe = job.recipe(tower.width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["seed"])
        head = AnswerHead(tower, 2)
    finder = AnswerFinder(head, tokenizer, settings["overlap"], settings["longest"])
    lessons = answer_lessons(finder, train.questions)
    counts = {
        "train_questions": len(train.questions),
        "windows": len(lessons.examples),
        "too_long": lessons.too_long,
        "lost": lessons.lost,
        "moved": train.moved + validation.moved,
        "left_out": train.left_out + validation.left_out,
    }
    err.print(
        f"{counts['train_questions']:,} questions to learn from in {counts['windows']:,} windows "
        f"of {tokenizer.context_length} tokens, {len(validation.questions):,} to measure on; "
        f"{lessons.too_long} answers fit in no window, {lessons.lost} are not in their passage",
        soft_wrap=True,
    )
    report = fit(
        lambda callbacks: answer_trainer(
            finder, lessons, validation.questions, recipe, folder, callbacks=callbacks
        ),
        "f1",
    )
    best = find_best(finder, validation.questions)
    threshold, scores = fit_threshold(validation.questions, best)
    place_towers(job.model, job.out, alone=settings["random"])
    save_heads({job.name: finder.with_threshold(threshold)}, job.out)
    draw_course(folder, "f1", folder / CURVES)
    figures = asdict(scores) | {"threshold": threshold, "learning_rate": recipe.learning_rate}
    return {**figures, **counts, **report, "head": str(job.place)}


def _read(
    data: Path, val: Path | None, number: int | None, seed: int, *, mend: bool
) -> "tuple[Questions, Questions]":
    from clip_text.data.questions import Questions, read_questions
    from clip_text.errors import DataError

    draw = random_module.Random(seed)  # noqa: S311  (nothing secret)
    train = read_questions(data, mend=mend)
    if val is None:
        passages = list(dict.fromkeys(each.passage for each in train.questions))
        if len(passages) < 2:
            raise DataError(
                f"expected several passages in {data}, to hold some out, got {len(passages)}. "
                "Give validation questions by --val."
            )
        held = set(draw.sample(passages, max(1, round(HELD_OUT * len(passages)))))
        validation = Questions([each for each in train.questions if each.passage in held])
        learnt = [each for each in train.questions if each.passage not in held]
        train = Questions(learnt, train.moved, train.lost, train.left_out)
    else:
        validation = read_questions(val, mend=mend)
    if number is not None and number < len(validation.questions):
        kept = draw.sample(validation.questions, number)
        validation = Questions(kept, validation.moved, validation.lost, validation.left_out)
    return train, validation


def _digest(*sets: "Questions") -> str:
    def said(one: "Question") -> tuple[object, ...]:
        return one.question, one.passage, one.answers, one.starts

    texts = repr([[said(one) for one in each.questions] for each in sets])
    return hashlib.blake2b(texts.encode("utf-8", "replace"), digest_size=16).hexdigest()


def _tell(report: dict[str, Any], folder: Path) -> None:
    threshold = report["threshold"]
    lines = [
        f"EM {100 * report['em']:.1f}  F1 {100 * report['f1']:.1f}  ({report['questions']:,} "
        f"questions, {100 * report['no_answer']:.1f}% of them given no answer)",
        "always answers: no question was without an answer, or giving none never paid"
        if threshold is None
        else f"no answer below a score of {threshold:.2f}",
        f"best at step {report['best_step']:,} of {report['steps']:,}, "
        f"{report['seconds'] / 60:.1f} minutes",
        report["head"],
        *(f"{name}: {folder / file}" for name, file in PICTURES if (folder / file).is_file()),
    ]
    for line in lines:
        out.print(escape(line), soft_wrap=True)
