"""Write a model's towers as graphs, and prove that they are still the same model."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from clip_text.checkpoints import load_checkpoint, resolve
from clip_text.encoder import Encoder
from clip_text.errors import CheckpointError
from clip_text.exporting import immich
from clip_text.exporting.card import CARD_FILE, card
from clip_text.exporting.graphs import write_onnx, write_openvino
from clip_text.exporting.parity import ExportParity, compare_shapes, pictures, token_rows
from clip_text.exporting.report import REPORT_FILE, ExportReport
from clip_text.model_info import tower_facts
from clip_text.names import Precision, Target
from clip_text.runtimes import Pixels, TokenIds
from clip_text.runtimes.calibration import CalibrationSet, bundled_calibration
from clip_text.runtimes.exported import (
    Family,
    Manifest,
    Tower,
    is_exported,
    read_manifest,
    stored_files,
    write_manifest,
)
from clip_text.runtimes.graph import ImageGraph, TextGraph
from clip_text.runtimes.onnxruntime import OPSET
from clip_text.runtimes.processor import has_bf16
from clip_text.storage import check_new, partial_folder, write_json

Say = Callable[[str], None]
Recall = Callable[[Encoder | immich.ImmichModel], float]

PRECISIONS: dict[Target, tuple[Precision, ...]] = {
    "onnx": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
    "immich": ("fp32", "int8"),
}
"""What each target can compute in."""

_INPUTS: dict[Tower, str] = {"text": "tokens", "image": "pixels"}


def export(
    model: str | Path,
    folder: Path,
    to: Target,
    precision: Precision = "fp32",
    *,
    calibration: CalibrationSet | None = None,
    recall: Recall | None = None,
    say: Say = lambda _: None,
) -> ExportReport:
    """Write both towers as graphs that run without torch, and compare them with the model.

    Projection, unit length and, but for Immich, mean and deviation of pixels are inside the graphs;
    the number of rows and the length of texts are free.

    Args:
        model: ``"starter"``, a folder, a file or a hub name.
        folder: Created with its parents; must not exist yet.
        to: ``onnx`` or ``openvino``, folders that ``Encoder.from_pretrained`` loads, or ``immich``.
        precision: What the exported model computes in.
        calibration: What int8 by OpenVINO is calibrated with; the bundled gallery if not given.
        recall: Measures recall@10 of an encoder, before and after.
        say: Gets a line at a time.

    Raises:
        CheckpointError: If the model cannot be read or exported, the target cannot compute in the
            precision, or the written rows are further from the model's than the precision allows;
            nothing is left of it then.
        FileExistsError: If the folder exists.
        MissingPackageError: If a package that writes or runs the graphs is not installed.
    """
    begun = time.monotonic()
    _check(model, folder, to, precision)
    int8 = precision == "int8"
    calibrated = int8 and to == "openvino"  # others measure ranges as they run
    samples = (calibration or bundled_calibration()) if calibrated else None
    source, name = Encoder(load_checkpoint(model), "cpu"), _name_of(model)
    if to == "immich":
        immich.check_immich(source.checkpoint)
    with partial_folder(folder) as partial:
        if to == "immich":
            _write_immich(source, partial, int8=int8)
        else:
            made_with = _write_graphs(source, partial, to, precision, samples)
            _describe(source, partial, to, precision, {"model": name, **made_with})
        exported = _load(partial, to)
        parity = _compare(source, exported, precision)
        for line in (str(folder), *parity.lines()):
            say(line)
        if not parity.holds:
            raise CheckpointError(
                f"expected rows of {to} {precision} within the bound above, got others, and kept "
                "nothing. Export in fp32; if that fails, too, use the model as it is."
            )
        if to != "immich" and not parity.same_rows:
            _give_own_fingerprint(partial)
        recalls = {} if recall is None else _recalls(source, exported, partial, recall)
        taken = time.monotonic() - begun
        told = samples.described if samples else None
        report = ExportReport(name, to, parity, recalls, taken, told)
        for line in report.recall_lines():
            say(line)
        write_json(partial / REPORT_FILE, report.as_json())
        text = card(source, resolve(model), report, folder.name)
        (partial / CARD_FILE).write_text(text, encoding="utf-8")
    return report


def _check(model: str | Path, folder: Path, to: Target, precision: Precision) -> None:
    check_new(folder)
    if precision not in PRECISIONS[to]:
        raise CheckpointError(
            f"expected precision {' or '.join(PRECISIONS[to])} for {to}, got {precision!r}. "
            "Choose another, or another target."
        )
    if precision == "bf16" and not has_bf16():
        raise CheckpointError(
            "expected a processor with bfloat16 instructions, to measure what is written, got one "
            "without. Export in fp32, or on another machine."
        )
    if is_exported(Path(model).expanduser()):
        raise CheckpointError(
            f"expected a model with its weights, got {model}, which was exported. Export the model "
            "it was made from."
        )


def _name_of(model: str | Path) -> str:
    path = Path(model).expanduser()
    return path.resolve().name if path.exists() else str(model)


def _load(folder: Path, to: Target) -> Encoder | immich.ImmichModel:
    return immich.ImmichModel(folder) if to == "immich" else Encoder.from_pretrained(folder)


def _write_graphs(
    source: Encoder, folder: Path, to: Family, precision: Precision, samples: CalibrationSet | None
) -> dict[str, str]:
    """Write both towers; give the versions of what did it."""
    graphs: dict[Tower, nn.Module] = {
        "text": TextGraph(source.model.text),
        "image": ImageGraph(source.model, source.preprocessing),
    }
    for tower, graph in graphs.items():
        inputs = {_INPUTS[tower]: _example(source, tower)}
        if to == "onnx":
            write_onnx(graph, inputs, folder / f"{tower}.onnx", int8=precision == "int8")
        else:
            real = _real_inputs(source, tower, samples) if samples else None
            write_openvino(graph, inputs, folder / f"{tower}.xml", real)
    made_with = ["clip-text", "torch", "onnx" if to == "onnx" else "openvino"]
    if precision == "int8":
        made_with.append("onnxruntime" if to == "onnx" else "nncf")
    return {package: version(package) for package in made_with}


def _describe(
    source: Encoder, folder: Path, to: Family, precision: Precision, made_from: dict[str, str]
) -> None:
    """Make of graphs a model that :func:`clip_text.runtimes.exported.load_exported` reads."""
    source.tokenizer.save_files(folder)
    manifest = Manifest(
        family=to,
        precision=precision,
        fingerprint=source.fingerprint,
        embed_dim=source.embed_dim,
        context_length=source.context_length,
        pad_id=source.tokenizer.pad_id,
        logit_scale=source.logit_scale,
        contract=source.tokenizer.contract,
        preprocessing=source.preprocessing,
        made_from=made_from,
        opset=OPSET if to == "onnx" else None,
        towers=tower_facts(source.checkpoint),
        files=stored_files(folder),
    )
    write_manifest(folder, manifest)


def _write_immich(source: Encoder, folder: Path, *, int8: bool) -> None:
    width = immich.immich_width(source.embed_dim)
    (folder / "textual").mkdir()
    (folder / "visual").mkdir()
    text = immich.Widened(TextGraph(source.model.text), width)
    tokens = _example(source, "text").to(torch.int32)
    write_onnx(text, {"text": tokens}, folder / "textual" / "model.onnx", int8=int8)
    image = immich.Widened(immich.Normalised(source.model.visual), width)
    pixels = source.to_input(_example(source, "image").numpy()).contiguous()
    write_onnx(image, {"image": pixels}, folder / "visual" / "model.onnx", int8=int8)
    immich.write_parts(source.checkpoint, folder)


def _real_inputs(
    source: Encoder, tower: Tower, samples: CalibrationSet
) -> list[dict[str, TokenIds | Pixels]]:
    """Give what a tower is calibrated with, a text or picture at a time."""
    real: Sequence[TokenIds | Pixels] = (
        samples.tokens(source.tokenizer)
        if tower == "text"
        else samples.pixels(source.preprocessing)
    )
    return [{_INPUTS[tower]: each} for each in real]


def _example(source: Encoder, tower: Tower) -> torch.Tensor:
    """Give an input of two rows."""
    if tower == "text":
        length = min(7, source.context_length)
        return torch.from_numpy(token_rows(source.tokenizer, 2, length))
    return torch.from_numpy(pictures(2, source.preprocessing.size))


def _compare(
    source: Encoder, exported: Encoder | immich.ImmichModel, precision: Precision
) -> ExportParity:
    runs = exported.runtime if isinstance(exported, Encoder) else exported
    return compare_shapes(
        source.tokenizer,
        source.preprocessing.size,
        (source.runtime.text, runs.text),
        (source.runtime.image, runs.image),
        precision,
    )


def _give_own_fingerprint(folder: Path) -> None:
    """Have an index of the source refuse rows that are too far from its own."""
    manifest = read_manifest(folder)
    digests = [stored.blake2b for stored in manifest.files.values()]
    said = repr((manifest.fingerprint, manifest.precision, digests)).encode()
    own = hashlib.blake2b(said, digest_size=16).hexdigest()
    write_manifest(folder, replace(manifest, fingerprint=own))


def _recalls(
    source: Encoder, exported: Encoder | immich.ImmichModel, folder: Path, recall: Recall
) -> dict[str, float]:
    recalls = {"source": recall(source), "exported": recall(exported)}
    if isinstance(exported, immich.ImmichModel):
        older = immich.ImmichModel(folder, "shortest")
        recalls["exported, in versions of Immich that crop pictures"] = recall(older)
    return recalls
