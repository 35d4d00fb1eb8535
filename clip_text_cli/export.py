"""A model as files that run without torch: ``clip-text export``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from clip_text.names import Precision, Target
from clip_text_cli.options import AsJson
from clip_text_cli.output import err, named_bars, out, print_json

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from clip_text.data import RetrievalSet
    from clip_text.evaluation.measure import PictureEncoder


def export(
    model: Annotated[str, typer.Argument(help="starter, a folder, a file, or a hub name.")],
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    to: Annotated[Target, typer.Option(help="What is to run it.")],
    precision: Annotated[Precision, typer.Option(help="What it computes in.")] = "fp32",
    data: Annotated[
        Path | None,
        typer.Option(help="Captions and pictures: measures what the export costs in recall@10."),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Captions and pictures to calibrate OpenVINO's int8 with; the bundled gallery."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write both towers as graphs that run without torch, and check them against the model.

    What --to onnx and --to openvino write is itself a model: give the folder to --model. Where its
    rows are further from the model's than the precision allows, nothing is left of it.

    Examples:
        clip-text export starter starter-openvino --to openvino

        clip-text export ./my-model my-immich-model --to immich

        clip-text export ./my-model small --to openvino --precision int8 --calibrate train.jsonl
    """
    from clip_text.data.readers import read_retrieval_set
    from clip_text.exporting import export as run
    from clip_text.runtimes.calibration import CalibrationSet

    collection = None if data is None else read_retrieval_set(data)

    calibration = None
    if calibrate is not None:
        if (to, precision) != ("openvino", "int8"):
            raise typer.BadParameter(
                f"expected --to openvino --precision int8 with --calibrate, got {to} {precision}. "
                "Leave it out: nothing else is calibrated."
            )
        real = read_retrieval_set(calibrate)
        texts = [text.text for text in real.texts]
        calibration = CalibrationSet.drawn_from(real.name, texts, real.images)

    def recall(encoder: "PictureEncoder") -> float:
        assert collection is not None
        return recall_at_10(encoder, collection)

    report = run(
        model,
        folder,
        to,
        precision,
        calibration=calibration,
        recall=None if collection is None else recall,
        say=lambda line: (err if as_json else out).print(escape(line), soft_wrap=True),
    )
    if as_json:
        print_json(report.as_json())


def recall_at_10(encoder: "PictureEncoder", collection: "RetrievalSet") -> float:
    """Share in [0, 1] of the texts that have a right picture among their first ten."""
    from clip_text.evaluation.measure import encode_set, measure

    with named_bars() as progress:
        encoded = encode_set(encoder, collection, progress=progress)
    return float(measure(collection, encoded, (10,)).recalls()["t2i_recall@10"])
