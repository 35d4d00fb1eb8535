"""Which runtimes there are, and how one is made of a model's modules."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from clip_text.errors import CheckpointError, MissingPackageError
from clip_text.images import Preprocessing
from clip_text.precision import bf16_pays
from clip_text.runtimes import Runtime, TokenIds, nncf, onnx_quantization
from clip_text.runtimes.auto import AutoRuntime, Samples
from clip_text.runtimes.cache import GRAPHS, Stamp
from clip_text.runtimes.calibration import bundled_calibration
from clip_text.runtimes.graph import ImageGraph, PackedText, TextGraph, can_pack, first_position
from clip_text.runtimes.names import asked_for, computes_on, precision_of
from clip_text.runtimes.packing import Packing, Padding
from clip_text.runtimes.processor import has_bf16
from clip_text.runtimes.torch_runtime import TorchRuntime
from clip_text.storage import digest
from clip_text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import openvino
    import torch
    from open_clip import CustomTextCLIP

    from clip_text.runtimes.openvino import Precision

__all__ = ["Parts", "make_runtime", "rows_of"]

_PRECISIONS: "dict[str, Precision]" = {"openvino": "f32", "openvino-bf16": "bf16"}

Graph = TypeVar("Graph")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a runtime is made of.

    Args:
        model: Both towers, in evaluation mode on the device.
        preprocessing: Of pictures.
        tokenizer: Of texts.
        device: Where the model is.
        fingerprint: Computes the model's fingerprint, which takes a while; not that of its rows.
    """

    model: "CustomTextCLIP"
    preprocessing: Preprocessing
    tokenizer: Tokenizer
    device: "torch.device"
    fingerprint: Callable[[], str]


def rows_of(name: str, fingerprint: str) -> str:
    """Give the fingerprint of a runtime's rows: the model's, but in int8 one of its own.

    That one says what the rows depend on: the model, what it was calibrated with, and what
    quantised it. It is known before any graph is made, and the same on every machine.

    Args:
        name: One of :data:`clip_text.names.RUNTIMES`.
        fingerprint: Of the model.
    """
    if precision_of(name) != "int8":
        return fingerprint
    by: tuple[str, ...] = (onnx_quantization.quantizer(),)
    if name == "openvino-int8":
        by = (nncf.quantizer(), bundled_calibration().digest)
    return digest(fingerprint, name, GRAPHS, *by)


def make_runtime(name: str, parts: Parts) -> Runtime:
    """Make a runtime; its graphs are made when they are first needed.

    Args:
        name: One of :data:`clip_text.names.RUNTIMES`. On a GPU, ``auto`` is ``torch``.
        parts: Of the model.

    Raises:
        MissingPackageError: If its library is not installed.
        ValueError: If it computes on the CPU only, and the model is elsewhere; or if there is no
            such runtime.
    """
    import torch

    asked_for(name)
    on_cpu = parts.device.type == "cpu"
    if name == "torch" or (name == "auto" and not on_cpu):
        return TorchRuntime(parts.model, parts.preprocessing, parts.device)
    if name == "torch-bf16":
        return TorchRuntime(parts.model, parts.preprocessing, parts.device, torch.bfloat16)
    if not computes_on(name, parts.device):
        raise ValueError(
            f"expected device cpu for the runtime {name}, got {parts.device}. Pass device='cpu', "
            "or the runtime torch or torch-bf16."
        )
    makers = {
        "auto": _auto,
        "onnxruntime": _onnxruntime,
        "onnxruntime-int8": _onnxruntime_int8,
        "openvino-int8": _openvino_int8,
    }
    if name in makers:
        return makers[name](parts)
    return _openvino(parts, _OpenVinoGraphs(parts), _PRECISIONS[name])


def _auto(parts: Parts) -> Runtime:
    """Whatever is quickest of what is installed and the processor has instructions for."""
    names = ["torch"]
    if find_spec("openvino"):
        names += ["openvino", "openvino-bf16"] if has_bf16() else ["openvino"]
    else:  # beside OpenVINO neither was ever the quickest
        names += ["onnxruntime"] if find_spec("onnxruntime") and find_spec("onnx") else []
        names += ["torch-bf16"] if bf16_pays(parts.device) else []
    if names == ["torch"]:
        return make_runtime("torch", parts)
    makers = {name: partial(make_runtime, name, parts) for name in names}
    graphs = _OpenVinoGraphs(parts)  # converted once for both precisions
    for name in _PRECISIONS.keys() & makers:
        makers[name] = partial(_openvino, parts, graphs, _PRECISIONS[name])
    samples = Samples(parts.tokenizer, parts.preprocessing.size)
    return AutoRuntime(makers, samples, lambda: Stamp.here(parts.fingerprint()))


class _OpenVinoGraphs:
    """Both towers as OpenVINO's graphs, converted when they are first asked for.

    Args:
        parts: Of the model.
    """

    def __init__(self, parts: Parts) -> None:
        tower = parts.model.text
        self._parts = parts
        self.laid_out: Packing | Padding = Padding(tower.pad_id, tower.context_length)
        if can_pack(tower):
            self.laid_out = Packing(tower.pad_id, first_position(tower))

    @cached_property
    def text(self) -> "openvino.Model":
        """Over packed rows, where texts can be packed, else over token ids."""
        from clip_text.runtimes.openvino import convert

        tower = self._parts.model.text
        example = _tokens(tower.pad_id)
        if isinstance(self.laid_out, Padding):
            return convert(TextGraph(tower), {"tokens": example}, [(-1, -1)])
        inputs = {n: _tensor(array) for n, array in self.text_inputs(example.numpy()).items()}
        return convert(PackedText(tower), inputs, [(-1, -1)] * len(inputs))

    def text_inputs(self, tokens: TokenIds) -> dict[str, TokenIds]:
        """Give what the text graph takes for int64 [n, length], by name."""
        if isinstance(self.laid_out, Padding):
            return {"tokens": tokens}
        packed, _, _ = self.laid_out.pack(tokens)
        return {name: np.ascontiguousarray(array) for name, array in packed._asdict().items()}

    @cached_property
    def image(self) -> "openvino.Model":
        """Over pixels."""
        from clip_text.runtimes.openvino import convert

        pixels = _pixels(self._parts.preprocessing.size)
        graph = ImageGraph(self._parts.model, self._parts.preprocessing)
        return convert(graph, {"pixels": pixels}, [(-1, *pixels.shape[1:])])


def _openvino(parts: Parts, graphs: _OpenVinoGraphs, precision: "Precision") -> Runtime:
    from clip_text.runtimes.openvino import OpenVinoRuntime

    return OpenVinoRuntime(
        _or_say(lambda: graphs.text, "OpenVINO"),
        _or_say(lambda: graphs.image, "OpenVINO"),
        graphs.laid_out,
        precision,
        lambda: Stamp.here(parts.fingerprint()),
    )


def _openvino_int8(parts: Parts) -> Runtime:
    from clip_text.runtimes.openvino import OpenVinoRuntime

    nncf.check_installed()
    graphs = _OpenVinoGraphs(parts)

    def text() -> "openvino.Model":
        tokens = bundled_calibration().tokens(parts.tokenizer)
        return nncf.quantize(graphs.text, [graphs.text_inputs(each) for each in tokens])

    def image() -> "openvino.Model":
        pixels = bundled_calibration().pixels(parts.preprocessing)
        return nncf.quantize(graphs.image, [{"pixels": each} for each in pixels])

    return OpenVinoRuntime(
        _or_say(text, "OpenVINO in int8"),
        _or_say(image, "OpenVINO in int8"),
        graphs.laid_out,
        "i8",
        lambda: Stamp.here(rows_of("openvino-int8", parts.fingerprint())),
    )


def _onnxruntime(parts: Parts) -> Runtime:
    from clip_text.runtimes.onnxruntime import OnnxRuntime

    graphs = _OnnxGraphs(parts)
    library = "ONNX Runtime"
    return OnnxRuntime(_or_say(graphs.text, library), _or_say(graphs.image, library))


def _onnxruntime_int8(parts: Parts) -> Runtime:
    """Quantised graphs are kept: making them takes longer than loading them."""
    from clip_text.runtimes.onnxruntime import OnnxRuntime

    onnx_quantization.check_installed()
    graphs = _OnnxGraphs(parts)

    def kept(name: str, make: Callable[[], bytes]) -> bytes:
        stamp = Stamp.here(rows_of("onnxruntime-int8", parts.fingerprint()))
        graph = stamp.fetch(name)
        if graph is None:
            graph = onnx_quantization.quantize(make())
            stamp.keep(name, graph)
        return graph

    library = "ONNX Runtime in int8"
    return OnnxRuntime(
        _or_say(partial(kept, "text-i8.onnx", graphs.text), library),
        _or_say(partial(kept, "image-i8.onnx", graphs.image), library),
        "i8",
    )


class _OnnxGraphs:
    """Both towers as ONNX files, in float32.

    Args:
        parts: Of the model.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def text(self) -> bytes:
        """Over token ids."""
        from clip_text.runtimes.onnxruntime import convert

        tower = self._parts.model.text
        example = _tokens(tower.pad_id)
        return convert(TextGraph(tower), {"tokens": example}, {"tokens": {0: "n", 1: "length"}})

    def image(self) -> bytes:
        """Over pixels."""
        from clip_text.runtimes.onnxruntime import convert

        pixels = _pixels(self._parts.preprocessing.size)
        graph = ImageGraph(self._parts.model, self._parts.preprocessing)
        return convert(graph, {"pixels": pixels}, {"pixels": {0: "n"}})


def _or_say(make: Callable[[], Graph], library: str) -> Callable[[], Graph]:
    """Tell in a sentence that a library cannot run a model."""

    def call() -> Graph:
        try:
            return make()
        except MissingPackageError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise CheckpointError(
                f"expected a model that {library} can run, got: {reason}. Use the runtime torch."
            ) from error

    return call


def _tokens(pad_id: int) -> "torch.Tensor":
    """Texts to trace a graph with: three, of different lengths."""
    import torch

    word = pad_id + 1
    rows = [[word] * 5, [word] * 3 + [pad_id] * 2, [word] * 2 + [pad_id] * 3]
    return torch.tensor(rows)


def _pixels(size: int) -> "torch.Tensor":
    import torch

    return torch.zeros((2, size, size, 3), dtype=torch.uint8)


def _tensor(array: TokenIds) -> "torch.Tensor":
    import torch

    return torch.from_numpy(array.copy())
