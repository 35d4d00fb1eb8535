"""Train a classification head on a text tower: ``clip-text train classifier``.

python scripts/train_classifier.py train.tsv --val dev.tsv --out my-model
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from clip_text_cli.options import AsJson, LearningRate, Model, listed
from clip_text_cli.output import out, print_json
from clip_text_cli.train.runs import is_main, label_names, listening, run_folder, tell

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from clip_text.checkpoints import Checkpoint
    from clip_text.tokenizer import Tokenizer
    from clip_text.towers import TextTower
    from clip_text.training.classifier import TrainedClassifier

CONFUSION = "confusion.png"
EPOCHS = {"head": 30, "copy": 4, "joint": 4}
BATCH = {"head": 256, "copy": 64, "joint": 64}


def command(
    data: Annotated[Path, typer.Argument(help="Labelled texts: .jsonl, .csv, .tsv or .xlsx.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the model to write.")],
    val: Annotated[Path | None, typer.Option(help="Labelled texts to measure on.")] = None,
    hold_out: Annotated[
        int | None,
        typer.Option(min=1, help="Without --val: texts to hold out; a tenth if not given."),
    ] = None,
    train: Annotated[
        Literal["head", "copy", "joint"],
        typer.Option(help="head: tower frozen. copy: of its backbone. joint: the tower itself."),
    ] = "head",
    model: Model = "starter",
    start: Annotated[
        str | None,
        typer.Option(help="What copy copies, if not the model's backbone: of train mlm, say."),
    ] = None,
    context_length: Annotated[
        int | None, typer.Option(min=3, help="Tokens that copy reads; the model's if not given.")
    ] = None,
    random: Annotated[
        bool, typer.Option("--random", help="The copy starts from random weights: the control.")
    ] = False,
    name: Annotated[str, typer.Option(help="Of the head within the model.")] = "classifier",
    text: Annotated[str | None, typer.Option(help="Column of the text.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the label.")] = None,
    separator: Annotated[
        str | None, typer.Option(help="Between several labels of a text, such as ','.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="File of label names, one a line, for labels in numbers.")
    ] = None,
    pooler: Annotated[
        Literal["auto", "cls", "mean", "max"],
        typer.Option(help="auto: the tower's own. Only cls can be exported."),
    ] = "auto",
    form: Annotated[
        Literal["linear", "bert"], typer.Option(help="bert: a dense layer and tanh first.")
    ] = "linear",
    balanced: Annotated[bool, typer.Option(help="Weigh classes to count alike.")] = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Texts in a step; 256 for a head alone, else 64.")
    ] = None,
    learning_rate: LearningRate = None,
    dropout: Annotated[float, typer.Option(min=0, max=0.9, help="Before the head.")] = 0.1,
    patience: Annotated[
        int, typer.Option(min=1, help="Validations without a rise that end training.")
    ] = 3,
    evaluations: Annotated[int, typer.Option(min=1, help="How often to validate.")] = 10,
    seed: Annotated[int, typer.Option(help="Of hold-out, weights, draws and dropout.")] = 0,
    pictures: Annotated[
        str | None, typer.Option(help="Pictures with captions (docs/data.md), for joint.")
    ] = None,
    val_pictures: Annotated[
        str | None, typer.Option(help="Others, to measure recall on before and after joint.")
    ] = None,
    kinds: Annotated[str, typer.Option(help="Which captions, such as zh,zh_mt.")] = "",
    hold: Annotated[
        float | None, typer.Option(min=0, help="Weight of what holds retrieval, for joint.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Folder for transformers' AutoModelFor… to write, too.")
    ] = None,
    confusion: Annotated[
        Path | None, typer.Option(help="Picture of the confusion matrix; in the run's folder.")
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            "--run", "--run-dir", help="Folder of the run's state; OUT.run/classifier if not given."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a classification head; the same command again goes on where it stopped.

    The head is saved beside the towers in OUT: `Encoder.from_pretrained(OUT).classify([…])`, and
    `.encode_and_classify([…])` for search vectors and labels by one pass. Columns are found by
    their usual names; a .tsv may also be `text<TAB>label` without a header. Probabilities are
    calibrated on the validation texts.

    Examples:
        clip-text train classifier reviews.csv --out my-model

        clip-text train classifier tnews.tsv --hold-out 5000 --train copy --pooler cls
        --out my-model --export for-transformers

        clip-text train classifier reviews.csv --train copy --start field/model
        --context-length 256 --out my-model

        clip-text train classifier queries.jsonl --val val.jsonl --train joint
        --pictures photos.jsonl --val-pictures val-photos.jsonl --out my-model
    """
    from clip_text.checkpoints import load_checkpoint
    from clip_text.data.labelled_texts import Columns
    from clip_text.training import ClassifierRecipe, LabelData, train_classifier

    recipe = ClassifierRecipe(
        train=train,
        epochs=epochs or EPOCHS[train],
        batch_size=batch_size or BATCH[train],
        learning_rate=learning_rate,
        balanced=balanced,
        hold=hold,
        patience=patience,
        evaluations=evaluations,
        seed=seed,
    )
    columns = Columns(text, label, separator, label_names(labels))
    lessons = LabelData.read(data, val, number=hold_out, seed=seed, columns=columns)
    if train == "joint":
        lessons = lessons.with_pictures(pictures, val_pictures, kinds=listed(kinds))
    elif pictures or val_pictures:
        raise typer.BadParameter(
            f"expected pictures for --train joint only, got --train {train}. Leave them out."
        )
    checkpoint = load_checkpoint(model)
    copied = _backbone(train, start, checkpoint, context_length, random=random, seed=seed)
    pooler = checkpoint.config.pooler if pooler == "auto" else pooler
    folder = run_folder(out_dir, run_dir, "classifier", name)
    _check_drawable(confusion)
    with listening() as listener:
        trained = train_classifier(
            *(checkpoint, lessons, recipe, folder),
            listener=listener,
            out=out_dir,
            export=export,
            name=name,
            config=lessons.config(pooler, form=form, dropout=dropout),
            backbone=copied,
        )
    if not is_main():
        return
    picture = _draw(trained, confusion or folder / CONFUSION)
    if as_json:
        print_json(trained.report)
    else:
        _tell(trained, picture, out_dir)


def _backbone(
    train: str,
    start: str | None,
    checkpoint: "Checkpoint",
    context_length: int | None,
    *,
    random: bool,
    seed: int,
) -> "tuple[TextTower, Tokenizer] | None":
    """Load what a copy starts from, if it is not the model's backbone as it is."""
    if start is None and context_length is None and not random:
        return None
    if train != "copy":
        raise typer.BadParameter(
            "expected --start, --context-length and --random for --train copy only, "
            f"got --train {train}. Leave them out."
        )
    from clip_text.checkpoints import start_backbone
    from clip_text.checkpoints.parts import check_positions

    length = context_length or checkpoint.config.context_length
    backbone = start_backbone(start or checkpoint, length, random=random, seed=seed)
    check_positions(backbone[0].config, length, Path(start or "the model"))
    return backbone


def _check_drawable(picture: Path | None) -> None:
    if picture:
        from clip_text_cli.drawing.figure import check_drawable

        check_drawable(picture)


def _draw(trained: "TrainedClassifier", file: Path) -> Path | None:
    """Draw the confusion matrix, if there is one and something to draw with."""
    if trained.targets.ndim > 1 or find_spec("matplotlib") is None:
        return None
    from clip_text.evaluation.classification import as_matrix
    from clip_text.evaluation.zero_shot import confusion_matrix
    from clip_text_cli.drawing.confusion import draw_confusion

    labels = trained.head.config.labels
    truth = as_matrix(trained.targets, len(labels))
    draw_confusion(
        confusion_matrix(trained.logits, truth),
        labels,
        file,
        title=f"accuracy {trained.scores.accuracy:.1%} of {len(truth):,} texts",
        of="texts",
    )
    return file


def _tell(trained: "TrainedClassifier", picture: Path | None, out_dir: Path) -> None:
    report = trained.report
    table = Table(box=None, pad_edge=False)
    for column in ("class", "texts", "precision", "recall", "F1"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for one in trained.scores.classes:
        shares = [f"{100 * share:.1f}" for share in (one.precision, one.recall, one.f1)]
        table.add_row(escape(one.label), f"{one.texts:,}", *shares)
    out.print(table)
    lines = [
        f"accuracy {report['accuracy']:.2%}, macro F1 {report['macro_f1']:.2%} on "
        f"{report['validation_texts']:,} texts, learnt from {report['texts']:,} "
        f"in {report['seconds']:,.0f} s (seed {report['seed']})",
        f"calibration error {report['ece_before']:.2%}, {report['ece_after']:.2%} at temperature "
        f"{report['temperature']:.3f} (measured on texts it was not fitted on)",
    ]
    for name, before in trained.retrieval_before.items():
        after = trained.retrieval_after[name]
        lines.append(
            f"{name} {before:.2%} before, {after:.2%} after ({100 * (after - before):+.2f})"
        )
    lines += [f"confusion matrix: {picture}"] if picture else []
    lines.append(f"{out_dir}: Encoder.from_pretrained({str(out_dir)!r}).classify([…])")
    tell(lines)
