"""Train a classification head on a text tower: ``clip-text train classifier``.

python scripts/train_classifier.py train.tsv --val dev.tsv --out my-model
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from clip_text_cli.options import AsJson, Model
from clip_text_cli.output import err, named_bars, out, print_json
from clip_text_cli.runs import check_export, finished, run_folder, step_bar, write_report

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from transformers import TrainerCallback

    from clip_text.checkpoints import Checkpoint
    from clip_text.data import RetrievalSet
    from clip_text.data.labelled_texts import Columns
    from clip_text.heads.classification import HeadConfig
    from clip_text.tokenizer import Tokenizer
    from clip_text.towers import TextTower
    from clip_text.training.classifier import ClassifierRecipe, Lessons, Trained

MOST_HELD_OUT = 5000
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
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", "--lr", help="Suggested if not given.")
    ] = None,
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
        typer.Option("--run", help="Folder of the run's state; OUT.run/classifier if not given."),
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
    from clip_text.checkpoints import load_checkpoint, save_checkpoint
    from clip_text.checkpoints.export import check_exportable
    from clip_text.checkpoints.heads import export_head
    from clip_text.data.labelled_texts import Columns
    from clip_text.training.classifier import ClassifierRecipe

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
    columns = Columns(text, label, separator, _names(labels))
    lessons, several = _read(data, val, hold_out, seed, columns)
    lessons = _with_pictures(lessons, train, pictures, val_pictures, kinds)
    checkpoint = load_checkpoint(model)
    copied = _start(train, start, checkpoint, context_length, random=random, seed=seed)
    pooler = checkpoint.config.pooler if pooler == "auto" else pooler
    config = _config(lessons, columns, several, pooler=pooler, form=form, dropout=dropout)
    folder = run_folder(out_dir, run_dir, "classifier", name)
    before = finished(folder)
    check_export(export, before)
    if export:
        backbone = copied[0].config if copied else checkpoint.config.backbone
        check_exportable(backbone.model_type, config)
    there = _heads_there(out_dir, checkpoint, before)
    if confusion:
        from clip_text_cli.drawing.figure import check_drawable

        check_drawable(confusion)
    _say_what_is_cut(lessons, checkpoint, copied)
    with listening() as (callback, progress):
        from clip_text.training.classifier import train_classifier

        trained = train_classifier(
            checkpoint,
            lessons,
            config,
            recipe,
            folder,
            name=name,
            start=copied,
            callbacks=[callback],
            progress=progress,
        )
    save_checkpoint(trained.checkpoint, out_dir)
    _say_what_is_gone(there, out_dir)
    if export and not export.exists():
        export_head(trained.head, export, trained.checkpoint)
    report = as_report(trained, lessons, recipe)
    if before and trained.finished_before:
        report["seconds"] = before["seconds"]
    write_report(folder, report)
    picture = _draw(trained, confusion or folder / CONFUSION)
    if as_json:
        print_json(report)
    else:
        _tell(report, trained, picture, out_dir)


def _names(file: Path | None) -> tuple[str, ...]:
    if file is None:
        return ()
    from clip_text.data.text_files import read_entries
    from clip_text.errors import DataError

    names = tuple(read_entries(file))
    if not names:
        raise DataError(f"expected names of labels in {file}, got none. Write one a line.")
    return names


def _read(
    data: Path, val: Path | None, number: int | None, seed: int, columns: "Columns"
) -> "tuple[Lessons, bool]":
    from clip_text.data.labelled_texts import (
        hold_out,
        is_multi_label,
        labels_of,
        read_labelled_texts,
        without,
    )
    from clip_text.training.classifier import Lessons

    texts = read_labelled_texts(data, columns)
    several = is_multi_label(columns, texts)
    labels_of(texts, multi_label=several)  # one class alone is refused before it is split
    if val is not None:
        held = read_labelled_texts(val, columns)
        known = len(texts) - len(without(texts, held))
        if known:
            err.print(f"{known:,} of the texts to learn are in {val}, too", soft_wrap=True)
        return Lessons(texts, held), several
    number = number or min(MOST_HELD_OUT, max(1, len(texts) // 10))
    learnt, held = hold_out(texts, number, seed)
    return Lessons(without(learnt, held), held), several


def _config(
    lessons: "Lessons",
    columns: "Columns",
    several: bool,
    **form: Any,  # noqa: ANN401
) -> "HeadConfig":
    from clip_text.data.labelled_texts import check_known, labels_of
    from clip_text.heads.classification import HeadConfig

    labels = columns.names or labels_of(lessons.train, multi_label=several)
    check_known(lessons.validation, labels, multi_label=several)
    return HeadConfig(labels=labels, multi_label=several, **form)


def _with_pictures(
    lessons: "Lessons", train: str, pictures: str | None, val: str | None, kinds: str
) -> "Lessons":
    from dataclasses import replace

    from clip_text.data.readers import read_retrieval_set
    from clip_text.data.splits import held_out
    from clip_text_cli.options import listed

    if train != "joint":
        if pictures or val:
            raise typer.BadParameter(
                f"expected pictures for --train joint only, got --train {train}. Leave them out."
            )
        return lessons

    def read(place: str) -> "RetrievalSet":
        return read_retrieval_set(place, kinds=listed(kinds))

    learnt = read(pictures) if pictures else None
    held = read(val) if val else None
    if learnt and not held:
        number = min(1000, max(1, len(learnt.image_ids) // 10))
        learnt, held = held_out(learnt, number)
    return replace(lessons, pictures=learnt, held_pictures=held)


def _start(
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
    found = start_backbone(start or checkpoint, length, random=random, seed=seed)
    check_positions(found[0].config, length, Path(start or "the model"))
    return found


def _heads_there(out: Path, checkpoint: "Checkpoint", before: dict[str, Any] | None) -> set[str]:
    """Name the heads in OUT; refuse it if it holds other towers than the model's.

    Unless this run put them there, as joint training does.
    """
    from clip_text import Encoder
    from clip_text.checkpoints import CONFIG_FILE, load_checkpoint
    from clip_text.errors import ClipTextError

    if not (out / CONFIG_FILE).exists():
        return set()
    ours = {Encoder(checkpoint).fingerprint, before and before.get("fingerprint")}
    if Encoder(load_checkpoint(out)).fingerprint not in ours:
        raise ClipTextError(
            f"expected the towers of the model in {out}, or nothing, got others. Name another "
            f"folder, or put the head on those by -m {out}."
        )
    return _names_in(out)


def _names_in(out: Path) -> set[str]:
    from clip_text.checkpoints.heads import heads_in

    return {place.name for place, _ in heads_in(out)}


def _say_what_is_gone(before: set[str], out: Path) -> None:
    for name in sorted(before - _names_in(out)):
        err.print(f"head {name} is gone: it read the text tower as it was. Train it anew.")


def _say_what_is_cut(
    lessons: "Lessons", checkpoint: "Checkpoint", copied: "tuple[TextTower, Tokenizer] | None"
) -> None:
    length = copied[0].context_length if copied else checkpoint.config.context_length
    ids = checkpoint.tokenizer.token_ids(lessons.train.texts, length + 1)
    cut = sum(len(row) > length for row in ids)
    if cut:
        err.print(
            f"{cut:,} of {len(ids):,} texts are longer than {length} tokens, and are cut there",
            soft_wrap=True,
        )


@contextmanager
def listening() -> Iterator[tuple["TrainerCallback", Any]]:
    """Bars of steps and of what is encoded, and a line a validation.

    Yields:
        A callback of transformers, and what to tell of what is encoded.
    """

    def said(metrics: Mapping[str, float]) -> str:
        return f"accuracy {metrics['accuracy']:.1%}, macro F1 {metrics['macro_f1']:.1%}"

    with named_bars() as progress, step_bar(said) as steps:
        yield steps, progress


def as_report(trained: "Trained", lessons: "Lessons", recipe: "ClassifierRecipe") -> dict[str, Any]:
    """Give the figures by name, shares in [0, 1]."""
    from dataclasses import asdict

    from clip_text import Encoder

    scores, calibration = trained.scores, trained.calibration
    report: dict[str, Any] = {
        "train": recipe.train,
        "texts": len(lessons.train),
        "validation_texts": len(lessons.validation),
        "accuracy": scores.accuracy,
        "macro_f1": scores.macro_f1,
        "micro_f1": scores.micro_f1,
        **asdict(calibration),
        "seed": recipe.seed,
        "seconds": round(trained.seconds, 1),
        "fingerprint": Encoder(trained.checkpoint).fingerprint,
    }
    report |= {f"before_{name}": value for name, value in trained.retrieval_before.items()}
    report |= {f"after_{name}": value for name, value in trained.retrieval_after.items()}
    return report | {"classes": [asdict(one) for one in scores.classes]}


def _draw(trained: "Trained", file: Path) -> Path | None:
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


def _tell(report: dict[str, Any], trained: "Trained", picture: Path | None, out_dir: Path) -> None:
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
    for line in lines:
        out.print(escape(line), soft_wrap=True)
