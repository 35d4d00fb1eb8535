"""OpenVINO: the graphs compiled for this processor, in float32, bfloat16 or int8."""

import logging
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from clip_text.errors import StorageError, needs
from clip_text.runtimes import Features, Pixels, TokenIds
from clip_text.runtimes.cache import Stamp
from clip_text.runtimes.packing import Packing, Padding, unpack
from clip_text.runtimes.processor import available_cores
from clip_text.storage import disk_trouble

if TYPE_CHECKING:
    import openvino
    from torch import Tensor, nn

__all__ = ["OpenVinoRuntime", "convert", "read"]

_log = logging.getLogger(__name__)

Precision = Literal["f32", "bf16", "i8"]

_NAMES: dict[Precision, str] = {
    "f32": "openvino",
    "bf16": "openvino-bf16",
    "i8": "openvino-int8",
}

_PICTURES_AT_ONCE = 8
"""What lies between two layers fits into the processor's caches then; see docs/benchmarks.md."""

_STEM = 2
"""The convolutions next to the pixels, on which bfloat16 costs most and saves least."""


class OpenVinoRuntime:
    """Runs a text and an image graph; each is compiled when it is first called.

    Args:
        text: Makes the text graph: over token ids, or over packed rows.
        image: Makes the image graph.
        laid_out: How texts become what the text graph takes: packed rows, or token ids.
        precision: What matrix products are computed in; ``i8`` says that the graphs are quantised,
            and what is not is computed in float32.
        stamp: Makes the stamp under which compiled graphs are kept on disk; if None they are not.

    Raises:
        MissingPackageError: If openvino is not installed.
    """

    def __init__(
        self,
        text: "Callable[[], openvino.Model]",
        image: "Callable[[], openvino.Model]",
        laid_out: Packing | Padding,
        precision: Precision = "f32",
        stamp: Callable[[], Stamp] | None = None,
    ) -> None:
        with needs("clip-text[openvino]", "this runtime"):
            import openvino  # noqa: F401
        self.name = _NAMES[precision]
        self._laid_out = laid_out
        self._text = _Compiled(text, precision, stamp, f"text-{precision}.blob")
        self._image = _Compiled(
            (lambda: _with_exact_stem(image())) if precision == "bf16" else image,
            precision,
            stamp,
            f"image-{precision}.blob",
        )

    def text(self, tokens: TokenIds) -> Features:
        """Encode token ids; see :class:`clip_text.runtimes.Runtime`."""
        if isinstance(self._laid_out, Padding):
            parts = self._laid_out.parts(tokens)
            rows = [self._text([padded])[: len(places)] for places, padded in parts]
            order = np.concatenate([places for places, _ in parts])
            in_order: Features = np.concatenate(rows)[np.argsort(order)]
            return in_order
        packed, row_of, place_of = self._laid_out.pack(tokens)
        return unpack(self._text(packed), row_of, place_of)

    def image(self, pixels: Pixels) -> Features:
        """Encode pictures, a few at a time; see :class:`clip_text.runtimes.Runtime`."""
        few = range(0, max(len(pixels), 1), _PICTURES_AT_ONCE)
        parts = [self._image([pixels[start : start + _PICTURES_AT_ONCE]]) for start in few]
        return np.concatenate(parts) if len(parts) != 1 else parts[0]


class _Compiled:
    """A graph that is compiled, or read from the cache, at its first call.

    One call computes at a time, with all cores: callers wait for each other.
    """

    def __init__(
        self,
        make: "Callable[[], openvino.Model]",
        precision: Precision,
        stamp: Callable[[], Stamp] | None,
        name: str,
    ) -> None:
        self._make, self._make_stamp, self._name = make, stamp, name
        self._settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": available_cores(),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # several processes would wait for the same cores
        }
        self._lock = threading.Lock()
        self._request: openvino.InferRequest | None = None

    def __call__(self, inputs: Sequence[NDArray[Any]]) -> Features:
        with self._lock:
            if self._request is None:
                self._request = self._compile().create_infer_request()
            return _infer(self._request, inputs)

    def _compile(self) -> "openvino.CompiledModel":
        """Read the compiled graph of an equal stamp, or compile and keep it."""
        core = the_core()
        stamp = self._make_stamp() if self._make_stamp else None
        kept = stamp.fetch(self._name) if stamp else None
        if kept:
            try:
                return core.import_model(kept, "CPU", self._settings)
            except RuntimeError as error:
                _log.debug("%s was compiled anew: %s", self._name, error)
        compiled = core.compile_model(self._make(), "CPU", self._settings)
        # read back, it shares no memory with modules whose weights may be trained on
        blob = _as_bytes(compiled.export_model())
        if stamp:
            stamp.keep(self._name, blob)
        return core.import_model(blob, "CPU", self._settings)


def _infer(request: "openvino.InferRequest", inputs: Sequence[NDArray[Any]]) -> Features:
    """Run a graph once, on the memory of the arrays given; the result is a copy.

    ``InferRequest.infer(arrays)`` does the same, but looks up each input's name, shape and type in
    Python beforehand: a tenth of the CPU's time of one of the starter's queries.
    """
    import openvino

    arrays = [np.ascontiguousarray(array) for array in inputs]
    for place, array in enumerate(arrays):
        request.set_input_tensor(place, openvino.Tensor(array, shared_memory=True))
    request.start_async()
    request.wait()
    return np.array(request.get_output_tensor(0).data)


@cache
def the_core() -> "openvino.Core":
    """Give OpenVINO's one Core of this process, which lasts as long as the process does.

    The CPU's plug-in gives the thread a stack for signals, and frees it with its Core. With
    several that come and go a thread is left with a stack that is freed, and dies of a
    segmentation fault at its next signal, Ctrl-C say.

    Raises:
        ImportError: If openvino is not installed.
    """
    import openvino

    return openvino.Core()


def _as_bytes(exported: Any) -> bytes:  # noqa: ANN401  (bytes or a stream, by the version)
    return exported if isinstance(exported, bytes) else bytes(exported.getvalue())


def read(file: Path) -> "openvino.Model":
    """Read a graph from an ``.xml`` file, with its weights in the ``.bin`` beside it.

    Raises:
        MissingPackageError: If openvino is not installed.
        RuntimeError: If the file is none.
    """
    with needs("clip-text[openvino]", "this model"):
        return the_core().read_model(file)


def _with_exact_stem(model: "openvino.Model") -> "openvino.Model":
    """Have the first convolutions stay in float32 where all else is computed in bfloat16.

    Nearly all that bfloat16 takes from the cosine of a convolutional tower is lost there. OpenVINO
    leaves a layer its precision if its ``rt_info`` says ``precise``, which can be written into a
    graph's XML only.

    Returns:
        A graph with the weights of the one given; that one itself if it has hardly a convolution.

    Raises:
        StorageError: If the graph finds no room in the folder for temporary files.
    """
    import openvino

    if sum("Convolution" in op.get_type_name() for op in model.get_ops()) <= _STEM:
        return model
    try:
        graph, weights = _written(model)
    except (OSError, RuntimeError) as error:
        raise StorageError(
            f"expected room for a graph in {tempfile.tempdir or 'a folder for temporary files'}, "
            f"got: {disk_trouble(error) or error}. Free some, or set TMPDIR."
        ) from error
    layers = graph.findall("./layers/layer")
    places = [i for i, layer in enumerate(layers) if "Convolution" in layer.get("type", "")]
    for layer in layers[: places[_STEM]]:
        if layer.get("type") not in {"Const", "Parameter"}:
            said = layer.find("rt_info")
            if said is None:
                said = ElementTree.Element("rt_info")
                layer.insert(0 if layer.find("data") is None else 1, said)
            ElementTree.SubElement(said, "attribute", name="precise", version="0")
    text = ElementTree.tostring(graph.getroot(), encoding="unicode")
    return the_core().read_model(text, openvino.Tensor(weights))


def _written(
    model: "openvino.Model",
) -> "tuple[ElementTree.ElementTree[ElementTree.Element], NDArray[np.uint8]]":
    """Write a graph to a file that does not stay, and give its XML and its weights as bytes."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "graph.xml")
        openvino.serialize(model, file)
        graph = ElementTree.parse(file)  # noqa: S314  (written by the line above)
        return graph, np.fromfile(file.with_suffix(".bin"), np.uint8)


def convert(
    module: "nn.Module",
    example: "Mapping[str, Tensor]",
    shapes: Sequence[Sequence[int]],
) -> "openvino.Model":
    """Convert a module of :mod:`clip_text.runtimes.graph`; the weights are shared.

    Args:
        module: In evaluation mode.
        example: Its inputs, by name in order, of at least two rows each.
        shapes: Of the inputs, -1 where any size will do.

    Returns:
        The graph; its inputs have the names of ``example``, its output is called ``features``.
    """
    import openvino
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    from clip_text.runtimes.graph import traceable

    inputs = tuple(example.values())
    with traceable():
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            module.eval(), inputs, check_trace=False
        )
        # openvino.convert_model does the same in 10 s instead of 1 s, and reports its use home
        decoder = TorchScriptPythonDecoder(torch.jit.freeze(traced), example_input=inputs)
        front_end = FrontEndManager().load_by_framework("pytorch")
        loaded = front_end.load(decoder)
        types = {torch.int64: openvino.Type.i64, torch.uint8: openvino.Type.u8}
        for place, tensor, shape in zip(loaded.get_inputs(), inputs, shapes, strict=True):
            loaded.set_partial_shape(place, openvino.PartialShape(list(shape)))
            loaded.set_element_type(place, types[tensor.dtype])
        model = front_end.convert(loaded)
    for port, name in zip(model.inputs, example, strict=True):
        port.get_tensor().set_names({name})
    model.outputs[0].get_tensor().set_names({"features"})
    return model
