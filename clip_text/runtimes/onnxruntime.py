"""ONNX Runtime: the graphs as ONNX, in float32 or int8."""

import io
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from clip_text.errors import needs
from clip_text.runtimes import Features, Pixels, TokenIds
from clip_text.runtimes.processor import available_cores

if TYPE_CHECKING:
    import onnxruntime
    from torch import Tensor, nn

__all__ = ["OPSET", "OnnxRuntime", "convert"]

OPSET = 17
"""Of ONNX's operators, in graphs that are made to be run at once."""


class OnnxRuntime:
    """Runs a text and an image graph; each is loaded when it is first called.

    Args:
        text: Gives the text graph over token ids: the bytes of an ONNX file, or its path.
        image: Gives the image graph.
        precision: What matrix products are computed in, as the graphs say.

    Raises:
        MissingPackageError: If onnxruntime is not installed.
    """

    def __init__(
        self,
        text: "Callable[[], bytes | Path]",
        image: "Callable[[], bytes | Path]",
        precision: Literal["f32", "i8"] = "f32",
    ) -> None:
        with needs("clip-text[onnxruntime]", "this runtime"):
            import onnxruntime  # noqa: F401
        self.name = "onnxruntime" if precision == "f32" else "onnxruntime-int8"
        self._text, self._image = _Session(text), _Session(image)

    def text(self, tokens: TokenIds) -> Features:
        """Encode token ids; see :class:`clip_text.runtimes.Runtime`."""
        return self._text(tokens)

    def image(self, pixels: Pixels) -> Features:
        """Encode pictures; see :class:`clip_text.runtimes.Runtime`."""
        return self._image(pixels)


class _Session:
    """A graph that is loaded at its first call; many threads may call it at once."""

    def __init__(self, make: "Callable[[], bytes | Path]") -> None:
        self._make = make
        self._lock = threading.Lock()
        self._session: onnxruntime.InferenceSession | None = None

    def __call__(self, array: NDArray[Any]) -> Features:
        with self._lock:
            if self._session is None:
                self._session = self._load()
        name = self._session.get_inputs()[0].name
        features: Features = self._session.run(None, {name: np.ascontiguousarray(array)})[0]
        return features

    def _load(self) -> "onnxruntime.InferenceSession":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = available_cores()
        options.inter_op_num_threads = 1
        # threads that spin between calls take the cores from whoever prepares the next batch
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return onnxruntime.InferenceSession(
            self._make(), options, providers=["CPUExecutionProvider"]
        )


def convert(
    module: "nn.Module", example: "Mapping[str, Tensor]", axes: Mapping[str, Mapping[int, str]]
) -> bytes:
    """Convert a module of :mod:`clip_text.runtimes.graph`.

    Args:
        module: In evaluation mode.
        example: Its inputs, by name in order, of at least two rows each.
        axes: Of each input, the axes that may have any size, and their names.

    Returns:
        An ONNX file; its inputs have the names of ``example``, its output is called ``features``.

    Raises:
        MissingPackageError: If onnx is not installed.
    """
    with needs("clip-text[onnxruntime]", "this runtime"):
        import onnx  # noqa: F401
    import torch

    from clip_text.runtimes.graph import traceable

    file = io.BytesIO()
    with traceable():
        torch.onnx.export(
            module.eval(),
            tuple(example.values()),
            file,  # type: ignore[arg-type]
            input_names=list(example),
            output_names=["features"],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,  # the other exporter takes ten times as long: 5 s for two layers
        )
    return file.getvalue()
