"""ONNX Runtime's own quantisation: ONNX files with products or convolutions in int8."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

from clip_text.errors import needs
from clip_text.runtimes.calibration import GROUPS

__all__ = ["check_installed", "quantize", "quantizer"]

Inputs = Mapping[str, NDArray[Any]]


def check_installed() -> None:
    """Say that a package is missing.

    Raises:
        MissingPackageError: If onnx or onnxruntime is.
    """
    with needs("clip-text[onnxruntime]", "int8 by ONNX Runtime"):
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401


def quantizer() -> str:
    """Name what quantises, with its version: another one gives other rows."""
    return f"onnxruntime {version('onnxruntime')}"


def quantize(graph: bytes, samples: Sequence[Inputs]) -> bytes:
    """Quantise a tower after its training, weights by channel.

    Of a transformer the matrix products are quantised, with ranges of activations that are measured
    as it runs, so that ``samples`` have no part in it. Of a tower of convolutions these are, but
    for the first and those of more than :data:`GROUPS` groups, with ranges that the samples had.

    Args:
        graph: An ONNX file of :func:`clip_text.runtimes.onnxruntime.convert`.
        samples: Its inputs, by name, of real texts or pictures.

    Returns:
        An ONNX file of the same inputs and output.

    Raises:
        MissingPackageError: If onnx or onnxruntime is not installed.
    """
    check_installed()
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory() as folder, _silent():
        whole, prepared, out = (Path(folder) / f"{name}.onnx" for name in ("whole", "ready", "out"))
        whole.write_bytes(graph)
        quant_pre_process(whole, prepared, skip_symbolic_shape=True)  # that needs sympy
        nodes = onnx.load(prepared).graph.node
        convolutions = [node for node in nodes if node.op_type == "Conv"]
        if len(convolutions) > sum(node.op_type == "MatMul" for node in nodes):
            quantize_static(
                prepared,
                out,
                _Reader(samples),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=[
                    node.name
                    for place, node in enumerate(convolutions)
                    if place == 0 or _groups(node) > GROUPS
                ],
            )
        else:
            quantize_dynamic(prepared, out, per_channel=True, op_types_to_quantize=["MatMul"])
        return out.read_bytes()


class _Reader:
    """Hands samples to the calibration, which asks until there is None."""

    def __init__(self, samples: Sequence[Inputs]) -> None:
        self._samples = iter(samples)

    def get_next(self) -> Inputs | None:
        """Give the next one."""
        return next(self._samples, None)


def _groups(node: Any) -> int:  # noqa: ANN401  (onnx has no types)
    return next((int(each.i) for each in node.attribute if each.name == "group"), 1)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep it from advising the root logger to prepare what was prepared."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
