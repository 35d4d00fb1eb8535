"""Which runtimes there are, and how one is made of a model's modules."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

from clip_text.errors import CheckpointError, MissingPackageError
from clip_text.images import Preprocessing
from clip_text.precision import bf16_pays
from clip_text.runtimes import Runtime, TokenIds
from clip_text.runtimes.auto import AutoRuntime, Samples
from clip_text.runtimes.cache import Stamp
from clip_text.runtimes.graph import ImageGraph, PackedText, TextGraph, can_pack, first_position
from clip_text.runtimes.names import RUNTIMES, RuntimeName, asked_for, computes_on
from clip_text.runtimes.packing import Packing
from clip_text.runtimes.processor import has_bf16
from clip_text.runtimes.torch_runtime import TorchRuntime
from clip_text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import openvino
    import torch
    from open_clip import CustomTextCLIP

    from clip_text.runtimes.openvino import Precision

__all__ = ["RUNTIMES", "Parts", "RuntimeName", "asked_for", "make_runtime"]

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
        fingerprint: Computes the model's fingerprint, which takes a while.
    """

    model: "CustomTextCLIP"
    preprocessing: Preprocessing
    tokenizer: Tokenizer
    device: "torch.device"
    fingerprint: Callable[[], str]


def make_runtime(name: str, parts: Parts) -> Runtime:
    """Make a runtime; its graphs are made when they are first needed.

    Args:
        name: One of :data:`RUNTIMES`. On a GPU, ``auto`` is ``torch``.
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
    if name == "auto":
        return _auto(parts)
    if name == "onnxruntime":
        return _onnxruntime(parts)
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
        self.packing = Packing(tower.pad_id, first_position(tower)) if can_pack(tower) else None

    @cached_property
    def text(self) -> "openvino.Model":
        """Over packed rows, where there is a packing, else over token ids."""
        from clip_text.runtimes.openvino import convert

        tower = self._parts.model.text
        example = _tokens(tower.pad_id)
        if self.packing is None:
            return convert(TextGraph(tower), {"tokens": example}, [(-1, -1)])
        packed, _, _ = self.packing.pack(example.numpy())
        inputs = {name: _tensor(array) for name, array in packed._asdict().items()}
        return convert(PackedText(tower), inputs, [(-1, -1)] * len(inputs))

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
        precision,
        graphs.packing,
        lambda: Stamp.here(parts.fingerprint()),
    )


def _onnxruntime(parts: Parts) -> Runtime:
    from clip_text.runtimes.onnxruntime import OnnxRuntime, convert

    tower = parts.model.text

    def text() -> bytes:
        example = _tokens(tower.pad_id)
        return convert(TextGraph(tower), {"tokens": example}, {"tokens": {0: "n", 1: "length"}})

    def image() -> bytes:
        pixels = _pixels(parts.preprocessing.size)
        graph = ImageGraph(parts.model, parts.preprocessing)
        return convert(graph, {"pixels": pixels}, {"pixels": {0: "n"}})

    return OnnxRuntime(_or_say(text, "ONNX Runtime"), _or_say(image, "ONNX Runtime"))


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
