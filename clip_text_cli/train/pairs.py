"""Train a head that tells pairs of texts apart: ``clip-text train pairs``.

python scripts/train_pairs.py lcqmc/train.tsv --val lcqmc/dev.tsv --out my-model
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from clip_text_cli.drawing.curves import CURVES, draw_course
from clip_text_cli.options import AsJson, HeadName, LearningRate, Model, Random
from clip_text_cli.output import out, print_json
from clip_text_cli.train.runs import (
    best_step,
    drawn,
    is_main,
    label_names,
    listening,
    run_folder,
    tell,
)

if TYPE_CHECKING:
    from clip_text.training.pairs import TrainedPairs

CONFUSION = "confusion.png"
PICTURES = (("curves", CURVES), ("confusion matrix", CONFUSION))


def command(
    data: Annotated[
        Path, typer.Argument(help="Labelled pairs: .jsonl, .csv, or .tsv with or without header.")
    ],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the model; see below.")],
    val: Annotated[
        Path | None, typer.Option(help="What to measure on; a tenth is held out if not given.")
    ] = None,
    hold_out: Annotated[
        int | None, typer.Option(min=1, help="Hold out so many pairs; a tenth, at most 5,000.")
    ] = None,
    model: Model = "starter",
    random: Random = False,
    name: HeadName = "pairs",
    first: Annotated[str | None, typer.Option(help="Column of the first text.")] = None,
    second: Annotated[str | None, typer.Option(help="Column of the second text.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the label.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="File of label names, one a line, for labels in numbers.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="At most.")] = 5,
    patience: Annotated[int, typer.Option(min=1, help="Epochs to wait for a rise.")] = 2,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs in a step.")] = 32,
    learning_rate: LearningRate = None,
    context_length: Annotated[
        int, typer.Option(min=8, help="Tokens of both texts; at most the model's positions.")
    ] = 128,
    seed: Annotated[int, typer.Option(help="Of hold-out, weights, draws and dropout.")] = 0,
    export: Annotated[
        Path | None,
        typer.Option(help="Write a plain AutoModelForSequenceClassification here, too."),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            "--run", "--run-dir", help="Folder of the run's state; OUT.run/pairs if not given."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a head for sentence pairs with a backbone of its own, by accuracy on validation pairs.

    Are two queries the same? `Encoder.from_pretrained(OUT).classify_pairs([(…, …)])` says so, with
    calibrated probabilities. OUT becomes a checkpoint with the towers of the model and
    `heads/pairs` beside them; where OUT holds a checkpoint already, the head is put beside its
    towers. The same command again goes on where it stopped.

    Examples:
        clip-text train pairs lcqmc/train.tsv --val lcqmc/dev.tsv --out my-model

        clip-text train pairs afqmc.json --labels names.txt --out my-model
        -m hfl/chinese-roberta-wwm-ext
    """
    from clip_text.data.labelled_pairs import PairColumns
    from clip_text.training import PairData, PairRecipe, train_pairs

    recipe = PairRecipe(
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        learning_rate=learning_rate,
        context_length=context_length,
        seed=seed,
    )
    columns = PairColumns(first, second, label, label_names(labels))
    data_read = PairData.read(data, val, number=hold_out, seed=seed, columns=columns)
    folder = run_folder(out_dir, run_dir, "pairs", name)
    with listening() as listener:
        trained = train_pairs(
            *(model, data_read, recipe, folder),
            listener=listener,
            out=out_dir,
            export=export,
            name=name,
            random=random,
        )
    if not is_main():
        return
    draw_course(folder, "accuracy", folder / CURVES)
    _draw_confusion(trained, folder / CONFUSION)
    if as_json:
        print_json(trained.report)
    else:
        _tell(trained.report, folder)


def _draw_confusion(trained: "TrainedPairs", file: Path) -> None:
    from clip_text_cli.drawing.confusion import draw_confusion

    if trained.confusion is not None and find_spec("matplotlib") is not None:
        title = f"accuracy {trained.metrics['accuracy']:.1%}; shares of the pairs, by label"
        draw_confusion(
            trained.confusion, trained.model.head.config.labels, file, title=title, of="pairs"
        )


def _tell(report: dict[str, Any], folder: Path) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("label", "pairs", "precision", "recall", "F1"):
        table.add_column(column, justify="left" if column == "label" else "right")
    for scores in report["classes"]:
        shares = [f"{100 * scores[key]:.1f}" for key in ("precision", "recall", "f1")]
        table.add_row(escape(scores["label"]), f"{scores['texts']:,}", *shares)
    out.print(table)
    lines = [
        f"accuracy {report['accuracy']:.2%}, macro F1 {report['macro_f1']:.2%} on "
        f"{report['validation_pairs']:,} pairs, learnt from {report['train_pairs']:,}",
        best_step(report),
        f"calibration error {report['ece_before']:.2%}, {report['ece_after']:.2%} at temperature "
        f"{report['temperature']:.3f} (measured on pairs it was not fitted on)",
        report["head"],
        *drawn(folder, PICTURES),
    ]
    tell(lines)
