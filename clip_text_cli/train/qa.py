"""Train a head that finds answers in passages: ``clip-text train qa``.

python scripts/train_qa.py trial.json --val dev.json --mend --out my-model
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from clip_text_cli.drawing.curves import CURVES, draw_course
from clip_text_cli.options import AsJson, HeadName, LearningRate, Model, Random
from clip_text_cli.output import print_json
from clip_text_cli.train.runs import best_step, drawn, is_main, listening, run_folder, tell

PICTURES = (("curves", CURVES),)


def command(
    data: Annotated[Path, typer.Argument(help="Questions about passages, in SQuAD's format.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the model; see below.")],
    val: Annotated[
        Path | None,
        typer.Option(help="What to measure on; a tenth of the passages is held out if not given."),
    ] = None,
    model: Model = "starter",
    random: Random = False,
    name: HeadName = "qa",
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
    learning_rate: LearningRate = None,
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
        typer.Option(
            "--run", "--run-dir", help="Folder of the run's state; OUT.run/qa if not given."
        ),
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
    from clip_text.training import AnswerData, AnswerRecipe, train_answers

    recipe = AnswerRecipe(
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        learning_rate=learning_rate,
        context_length=context_length,
        overlap=overlap,
        longest=longest,
        seed=seed,
    )
    lessons = AnswerData.read(data, val, mend=mend, val_questions=val_questions, seed=seed)
    folder = run_folder(out_dir, run_dir, "qa", name)
    with listening() as listener:
        trained = train_answers(
            *(model, lessons, recipe, folder),
            listener=listener,
            out=out_dir,
            export=export,
            name=name,
            random=random,
        )
    if not is_main():
        return
    draw_course(folder, "f1", folder / CURVES)
    if as_json:
        print_json(trained.report)
    else:
        _tell(trained.report, folder)


def _tell(report: dict[str, Any], folder: Path) -> None:
    threshold = report["threshold"]
    lines = [
        f"EM {100 * report['em']:.1f}  F1 {100 * report['f1']:.1f}  ({report['questions']:,} "
        f"questions, {100 * report['no_answer']:.1f}% of them given no answer)",
        "always answers: no question was without an answer, or giving none never paid"
        if threshold is None
        else f"no answer below a score of {threshold:.2f}",
        best_step(report),
        report["head"],
        *drawn(folder, PICTURES),
    ]
    tell(lines)
