"""Towers as files of ONNX and OpenVINO."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from clip_text.errors import CheckpointError, needs
from clip_text.runtimes import nncf, onnx_quantization, onnxruntime, openvino

Inputs = Mapping[str, NDArray[Any]]

_LARGEST = 2_000_000_000  # bytes; protobuf, of which ONNX files are made, ends at two GiB


def write_onnx(
    tower: nn.Module,
    example: Mapping[str, Tensor],
    file: Path,
    *,
    int8: bool = False,
) -> None:
    """Write a tower as an ONNX file.

    Args:
        tower: Takes one tensor and gives rows.
        example: An input of two rows, by its name; tokens [n, length], or pixels or a picture of
            four axes. The first axis will be free, of tokens both.
        file: File to write, ending in ``.onnx``.
        int8: Whether to quantise its matrix products.

    Raises:
        CheckpointError: If its weights are too many for one file.
        MissingPackageError: If onnx or onnxruntime is not installed.
    """
    with needs("clip-text[onnxruntime]", "exporting to ONNX"):
        import onnx  # noqa: F401, PLC0415  (few need it)
        import onnxruntime as runtime  # noqa: F401, PLC0415  (what is written is run)

    weights = sum(tensor.nbytes for tensor in tower.state_dict().values())
    if weights > _LARGEST:
        raise CheckpointError(
            f"expected a tower of at most {_LARGEST / 1e9:g} GB, all that an ONNX file holds, got "
            f"{weights / 1e9:.1f} GB. Export to openvino."
        )
    axes = {
        name: {0: "n", 1: "length"} if tensor.ndim == 2 else {0: "n"}
        for name, tensor in example.items()
    }
    graph = onnxruntime.convert(tower, example, axes)
    file.write_bytes(onnx_quantization.quantize(graph) if int8 else graph)


def write_openvino(
    tower: nn.Module,
    example: Mapping[str, Tensor],
    file: Path,
    samples: Sequence[Inputs] | None = None,
) -> None:
    """Write a tower as OpenVINO's ``.xml``, with its weights in a ``.bin`` beside it.

    Args:
        tower: Takes one tensor and gives rows.
        example: An input of two rows, by its name; tokens [n, length], or pixels or a picture of
            four axes.
        file: Ends in ``.xml``.
        samples: Real inputs to quantise the tower by; if None it stays in float32.

    Raises:
        MissingPackageError: If openvino, or nncf to quantise, is not installed.
    """
    with needs("clip-text[openvino]", "exporting to OpenVINO"):
        from openvino import save_model  # noqa: PLC0415  (few need it)

    shapes = [
        (-1, -1) if tensor.ndim == 2 else (-1, *tensor.shape[1:]) for tensor in example.values()
    ]
    graph = openvino.convert(tower, example, shapes)
    save_model(nncf.quantize(graph, samples) if samples else graph, file, compress_to_fp16=False)
