"""Train a head that finds named entities: ``clip-text train ner``.

python scripts/train_ner.py train.json --val dev.json --out my-model
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from clip_text_cli.drawing.curves import CURVES, draw_course
from clip_text_cli.options import AsJson, HeadName, LearningRate, Model, Random
from clip_text_cli.output import out, print_json
from clip_text_cli.train.runs import best_step, drawn, is_main, listening, run_folder, tell

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFUSION = "confusion.png"
PICTURES = (("curves", CURVES), ("confusion matrix", CONFUSION))
NONE = "none"


def command(
    data: Annotated[
        Path, typer.Argument(help="Texts with entities: .jsonl, or CoNLL's unit and tag a line.")
    ],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the model; see below.")],
    val: Annotated[
        Path | None, typer.Option(help="What to measure on; a tenth is held out if not given.")
    ] = None,
    model: Model = "starter",
    random: Random = False,
    name: HeadName = "ner",
    texts: Annotated[
        int | None, typer.Option(min=1, help="Learn from so many texts, drawn at random.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="At most.")] = 10,
    patience: Annotated[int, typer.Option(min=1, help="Epochs to wait for a better F1.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows in a step.")] = 32,
    learning_rate: LearningRate = None,
    context_length: Annotated[
        int, typer.Option(min=8, help="Tokens in a window; at most the model's positions.")
    ] = 128,
    overlap: Annotated[int, typer.Option(min=0, help="Tokens that windows share.")] = 16,
    seed: Annotated[int, typer.Option(help="Of weights, draws and dropout.")] = 0,
    export: Annotated[
        Path | None, typer.Option(help="Write a plain AutoModelForTokenClassification here, too.")
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            "--run", "--run-dir", help="Folder of the run's state; OUT.run/ner if not given."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a head for named entities with a backbone of its own, by F1 on validation texts.

    OUT becomes a checkpoint with the towers of the model and `heads/ner` beside them; where OUT
    holds a checkpoint already, the head is put beside its towers. The same command again goes on
    where it stopped. An I- without B- begins an entity, as seqeval reads it, and is counted.

    Examples:
        clip-text train ner train.json --val dev.json --out my-model

        clip-text train ner msra.txt --texts 4000 --out my-model -m hfl/chinese-roberta-wwm-ext
    """
    from clip_text.training import EntityData, EntityRecipe, train_entities

    recipe = EntityRecipe(
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        learning_rate=learning_rate,
        context_length=context_length,
        overlap=overlap,
        seed=seed,
    )
    lessons = EntityData.read(data, val, texts=texts, seed=seed)
    folder = run_folder(out_dir, run_dir, "ner", name)
    with listening() as listener:
        trained = train_entities(
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
    if trained.confusion is not None:
        _draw_confusion(trained.confusion, trained.model.types, trained.metrics["f1"], folder)
    if as_json:
        print_json(trained.report)
    else:
        _tell(trained.report, folder)


def _draw_confusion(
    counts: "NDArray[np.float64]", types: Sequence[str], f1: float, folder: Path
) -> None:
    from clip_text_cli.drawing.confusion import draw_confusion

    if find_spec("matplotlib") is not None:
        title = f"F1 {f1:.1%}; shares of the entities there are, by type"
        draw_confusion(counts, [*types, NONE], folder / CONFUSION, title=title, of="entities")


def _tell(report: dict[str, Any], folder: Path) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("type", "precision", "recall", "F1", "entities"):
        table.add_column(column, justify="left" if column == "type" else "right")
    for label, scores in [*report["types"].items(), ("all", report)]:
        figures = [f"{100 * scores[key]:.1f}" for key in ("precision", "recall", "f1")]
        table.add_row(escape(label), *figures, f"{scores['support']:,}")
    out.print(table)
    lines = [
        best_step(report),
        f"{report['unreachable']} entities begin or end within a token, so that no labels spell "
        "them",
        report["head"],
        *drawn(folder, PICTURES),
    ]
    tell(lines)
