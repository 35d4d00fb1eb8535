"""Sort labelled pictures into classes by their names: ``clip-text evaluate zero-shot``."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from platformdirs import user_cache_path

from clip_text.errors import DataError
from clip_text.evaluation.classes import NamedClass, named_classes, read_classes, truth_matrix
from clip_text.evaluation.labelled import Labelled, read_labelled
from clip_text.evaluation.probe import Examples, check_installed, few_shot, linear_probe, split
from clip_text.evaluation.ranking import Features
from clip_text.evaluation.templates import SETS, read_templates
from clip_text.evaluation.zero_shot import class_weights, classify
from clip_text.progress import Progress
from clip_text_cli.drawing.figure import check_drawable
from clip_text_cli.evaluate.zero_shot_report import Evaluation, as_json, as_tables
from clip_text_cli.options import AsJson, Model, Runtime, TrustRemoteCode, numbers
from clip_text_cli.output import err, named_bars, out, print_json

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from clip_text.loading import AnyEncoder

DEFAULT_CACHE = user_cache_path("clip-text") / "class-weights"

_PARTS = (0.6, 0.2, 0.2)  # to learn from, to choose by, to test on, where --train is not given


@dataclass(frozen=True, slots=True)
class Probing:
    """What to learn from examples.

    Args:
        full: Whether to fit on all of them.
        shots: Numbers of examples a class to fit on.
        seeds: How many draws for each.
        train: To learn from; parts of the evaluated pictures if not given.
    """

    full: bool = False
    shots: tuple[int, ...] = ()
    seeds: int = 3
    train: Labelled | None = None


def evaluate_zero_shot(
    encoder: "AnyEncoder",
    pictures: Labelled,
    classes: Sequence[NamedClass] | None = None,
    templates: Sequence[str] = SETS["original"],
    *,
    ks: Sequence[int] = (1, 5),
    probing: Probing | None = None,
    cache: Path | None = None,
    batch_size: int = 64,
) -> Evaluation:
    """Classify pictures by class names in sentences, and by classifiers learnt from examples.

    Args:
        encoder: The model.
        pictures: Pictures to sort, with their labels.
        classes: With their names; called by the labels in the data if not given.
        templates: Sentences with ``{}``.
        ks: Depths k of the hits to count, each at least 1.
        probing: What to learn from examples.
        cache: Folder for the rows of the classes.
        batch_size: Pictures per forward pass.

    Raises:
        DataError: If labels and classes do not match, a picture cannot be read, or there are too
            few examples for what is asked.
        ClipTextError: If a package is missing.
    """
    probing = probing or Probing()
    learns = probing.full or bool(probing.shots)
    taught = probing.train if learns else None
    if classes is None:
        classes = _classes_of([pictures, taught] if taught else [pictures])
    # what does not match is told before the long part begins
    truth = truth_matrix(pictures.labels, classes, pictures.name)
    train_truth = truth_matrix(taught.labels, classes, taught.name) if taught else None
    if learns:
        check_installed()
        _refuse_several([pictures, taught] if taught else [pictures])
    with named_bars() as progress:
        weights = class_weights(encoder, classes, templates, cache=cache, progress=progress)
        rows = _encode(encoder, pictures.paths, batch_size, progress)
        train_rows = _encode(encoder, taught.paths, batch_size, progress) if taught else None
    labels = tuple(one.label for one in classes)
    several = pictures.multi_label
    result = Evaluation(
        classify(rows, weights, truth, labels, ks=ks, multi_label=several),
        {one.label: one.names[0] for one in classes},
        len(templates),
    )
    if not learns:
        return result
    test = Examples(rows, truth.argmax(1), labels)
    if train_rows is None or train_truth is None:
        return _learnt(result, probing, *split(test, _PARTS))
    train = Examples(train_rows, train_truth.argmax(1), labels)
    return _learnt(result, probing, train, None, test)


def _classes_of(parts: Sequence[Labelled]) -> list[NamedClass]:
    return named_classes(
        sorted({label for part in parts for labels in part.labels for label in labels})
    )


def _refuse_several(parts: Sequence[Labelled]) -> None:
    for part in parts:
        if part.multi_label:
            raise DataError(
                f"expected one label a picture to fit on, got several in {part.name}. "
                "Leave --probe and --shots out."
            )


def _learnt(
    evaluation: Evaluation,
    probing: Probing,
    train: Examples,
    validation: Examples | None,
    test: Examples,
) -> Evaluation:
    probe = linear_probe(train, test, validation) if probing.full else None
    # the few draw their own validation part
    pool = train.joined(validation) if validation else train
    seeds = range(probing.seeds)
    shots = few_shot(pool, test, probing.shots, seeds=seeds) if probing.shots else []
    return replace(evaluation, probe=probe, shots=tuple(shots))


def _encode(
    encoder: "AnyEncoder", paths: Sequence[Path], batch_size: int, progress: Progress
) -> Features:
    from clip_text.evaluation.measure import encode_images

    return encode_images(encoder, paths, paths, batch_size=batch_size, progress=progress)[0]


def _draw(evaluation: Evaluation, file: Path) -> None:
    from clip_text_cli.drawing.confusion import draw_confusion

    result = evaluation.zero_shot
    if result.confusion is None:
        raise DataError(
            "expected one label a picture for a confusion picture, got several. "
            "Leave --confusion out."
        )
    top = result.accuracy.get(1, float("nan"))
    draw_confusion(
        result.confusion,
        [(evaluation.names or {}).get(label, label) for label in result.labels],
        file,
        title=f"top-1 {top:.1%} of {result.pictures:,} pictures",
        of="pictures",
    )


def command(
    data: Annotated[
        Path, typer.Argument(help="Folder with a sub-folder a class, or a jsonl file of labels.")
    ],
    classes: Annotated[
        Path | None,
        typer.Option(help="Class names, one a line: name|synonym, or label, a tab, name|synonym."),
    ] = None,
    templates: Annotated[
        str, typer.Option(help=f"Sentences: a file, or {', '.join(SETS)}.")
    ] = "original",
    images: Annotated[
        Path | None, typer.Option(help="Folder of a jsonl file's pictures; its own by default.")
    ] = None,
    label_field: Annotated[str, typer.Option(help="Field of a jsonl file.")] = "label",
    top_k: Annotated[str, typer.Option("--top-k", "-k", help="Depths, like 1,5.")] = "1,5",
    confusion: Annotated[
        Path | None, typer.Option(help="Also draw which class is taken for which (png, pdf, …).")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Also fit a classifier on the picture's features.")
    ] = False,
    shots: Annotated[
        str, typer.Option(help="Also fit on so few examples a class, like 1,2,4.")
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Draws for each number of shots.")] = 3,
    train: Annotated[
        Path | None,
        typer.Option(help="What to fit on, like DATA; three fifths of DATA by default."),
    ] = None,
    cache: Annotated[
        Path, typer.Option(help="Folder that keeps the rows of class names.", show_default=False)
    ] = DEFAULT_CACHE,
    model: Model = "starter",
    runtime: Runtime = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json_: AsJson = False,
) -> None:
    """Sort pictures into classes by the classes' names: accuracy, mAP, which is taken for which.

    A class is the mean of its names in all the sentences. Ties count in part: a model that
    scores all classes alike is as good as chance.

    Examples:
        clip-text evaluate zero-shot animals/ --classes names.txt --confusion confusion.png

        clip-text evaluate zero-shot test/ --train train/ --probe --shots 1,2,4,8,16
    """
    from clip_text_cli import wiring

    depths, few = numbers(top_k) or (1, 5), numbers(shots)
    if train is not None and not (probe or few):
        raise typer.BadParameter("--train needs something to fit. Add --probe or --shots.")
    pictures = read_labelled(data, images, label_field)
    if confusion is not None:  # before the long part
        check_drawable(confusion)
        if pictures.multi_label:
            raise DataError(
                "expected one label a picture for --confusion, got several. Leave it out."
            )
    taught = read_labelled(train, images, label_field) if train is not None else None
    evaluation = evaluate_zero_shot(
        wiring.load_encoder(model, runtime=runtime, trust_remote_code=trust_remote_code),
        pictures,
        read_classes(classes) if classes is not None else None,
        read_templates(templates),
        ks=depths,
        probing=Probing(probe, few, seeds, taught),
        cache=cache,
    )
    if confusion is not None:
        _draw(evaluation, confusion)
    if as_json_:
        print_json(as_json(evaluation))
        return
    for table in as_tables(evaluation):
        out.print(table)
    if confusion is not None:
        err.print(f"drawn in {confusion}")
