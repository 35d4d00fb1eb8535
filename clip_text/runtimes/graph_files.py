"""Runtimes over graphs on disk, without torch: ONNX Runtime and OpenVINO.

A tower is loaded when it is first used, so that a search by words never loads the image tower.
"""

import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Lock, local
from typing import Any

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from clip_text.errors import CheckpointError, needs
from clip_text.runtimes import ExportedModel, Features, Pixels, Runtime, TokenIds
from clip_text.runtimes.exported import Manifest, Precision, Tower, read_manifest
from clip_text.tokenizer import Compat, Tokenizer

Run = Callable[[NDArray[Any]], Features]


class GraphFiles:
    """Computes both towers by graphs that are loaded on first use; many threads may call it.

    Args:
        name: Of the runtime.
        load: Makes of a graph's file what runs it.
        files: Of each tower.
    """

    def __init__(self, name: str, load: Callable[[Path], Run], files: dict[Tower, Path]) -> None:
        self.name = name
        self._load = load
        self._files = files
        self._runs: dict[Tower, Run] = {}
        self._lock = Lock()

    def text(self, tokens: TokenIds) -> Features:
        """Encode token ids; see :class:`clip_text.runtimes.Runtime`."""
        return self._tower("text")(tokens)

    def image(self, pixels: Pixels) -> Features:
        """Encode pictures; see :class:`clip_text.runtimes.Runtime`."""
        return self._tower("image")(pixels)

    def _tower(self, tower: Tower) -> Run:
        with self._lock:
            if tower not in self._runs:
                file = self._files[tower]
                try:
                    self._runs[tower] = self._load(file)
                except Exception as error:  # either library has its own kinds
                    said = " ".join(str(error).split())[:200]
                    raise CheckpointError(
                        f"expected a graph that {self.name} can run in {file}, got: {said}. Export "
                        "the model again."
                    ) from error
            return self._runs[tower]


def load_exported(
    folder: Path, context_length: int | None = None, compat: Compat | None = None
) -> ExportedModel:
    """Load an exported folder.

    Args:
        folder: As ``clip-text export`` writes it.
        context_length: Longest text in tokens; only the model's own can be had.
        compat: Its tokeniser contract; only the model's own can be had.

    Raises:
        CheckpointError: If a file is missing or damaged, or another context or contract is asked
            for.
        MissingPackageError: If the library that runs it is not installed.
    """
    manifest = read_manifest(folder)
    try:
        tokenizer = Tokenizer.from_files(folder, manifest.context_length)
    except (OSError, ValueError) as error:
        raise CheckpointError(str(error)) from error
    if tokenizer.contract != manifest.contract:
        raise CheckpointError(
            f"expected a tokenizer of contract {manifest.contract} in {folder}, got "
            f"{tokenizer.contract}. Export the model again."
        )
    asked = (context_length or manifest.context_length, compat or tokenizer.compat)
    own = (manifest.context_length, tokenizer.compat)
    if asked != own:
        raise CheckpointError(
            f"expected context_length {own[0]} and compat {own[1]!r}, those {folder} was exported "
            f"with, got {asked[0]} and {asked[1]!r}. Export the model again with others."
        )
    return ExportedModel(
        path=folder,
        tokenizer=tokenizer,
        preprocessing=manifest.preprocessing,
        embed_dim=manifest.embed_dim,
        fingerprint=manifest.fingerprint,
        logit_scale=manifest.logit_scale,
        runtime=open_graphs(folder, manifest),
    )


def open_graphs(folder: Path, manifest: Manifest) -> Runtime:
    """Make the runtime of an exported folder.

    Raises:
        MissingPackageError: If the library that runs it is not installed.
    """
    files: dict[Tower, Path] = {
        "text": folder / manifest.graph("text"),
        "image": folder / manifest.graph("image"),
    }
    if manifest.family == "onnx":
        with needs("onnxruntime", "running a model exported to ONNX"):
            import onnxruntime

        name = "onnxruntime" + _suffix(manifest.precision)
        return GraphFiles(name, partial(_load_onnx, onnxruntime), files)
    with needs("openvino", "running a model exported to OpenVINO"):
        import openvino

    load = partial(_load_openvino, openvino.Core(), manifest.precision)
    return GraphFiles("openvino" + _suffix(manifest.precision), load, files)


def _suffix(precision: Precision) -> str:
    return "" if precision == "fp32" else f"-{precision}"


def _load_onnx(onnxruntime: Any, file: Path) -> Run:  # noqa: ANN401  (it has no types)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (node,) = session.get_inputs()

    def run(rows: NDArray[Any]) -> Features:
        features: Features = session.run(None, {node.name: rows})[0]
        return features

    return run


def _load_openvino(core: Any, precision: Precision, file: Path) -> Run:  # noqa: ANN401
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    hint = "bf16" if precision == "bf16" and "BF16" in able else "f32"
    options = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    # compiled for this processor: another one that shares the folder has its own
    processor = repr((core.get_property("CPU", "FULL_DEVICE_NAME"), sorted(able)))
    digest = hashlib.blake2b(processor.encode(), digest_size=8).hexdigest()
    cache = user_cache_path("clip-text") / "openvino" / digest
    if _writable(cache):
        options["CACHE_DIR"] = str(cache)
    model = core.compile_model(str(file), "CPU", options)
    requests = local()  # one for each thread: a request computes one thing at a time

    def run(rows: NDArray[Any]) -> Features:
        if not hasattr(requests, "own"):
            requests.own = model.create_infer_request()
        (features,) = requests.own.infer({0: rows}).values()
        return np.array(features, np.float32)

    return run


def _writable(folder: Path) -> bool:
    """Say whether compiled models can be kept in a folder; a start is only slower without."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
