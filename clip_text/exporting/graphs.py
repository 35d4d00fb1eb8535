"""Towers as files of ONNX and OpenVINO."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from clip_text.errors import CheckpointError, needs
from clip_text.runtimes import onnxruntime, openvino

_LARGEST = 2_000_000_000  # bytes; protobuf, of which ONNX files are made, ends at two GiB


def write_onnx(tower: nn.Module, example: Mapping[str, Tensor], file: Path) -> None:
    """Write a tower as an ONNX file.

    Args:
        tower: Takes one tensor and gives rows.
        example: An input of two rows, by its name; tokens [n, length], or pixels or a picture of
            four axes. The first axis will be free, of tokens both.
        file: File to write, ending in ``.onnx``.

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
    file.write_bytes(onnxruntime.convert(tower, example, axes))


def write_openvino(tower: nn.Module, example: Mapping[str, Tensor], file: Path) -> None:
    """Write a tower as OpenVINO's ``.xml``, with its weights in a ``.bin`` beside it.

    Args:
        tower: Takes one tensor and gives rows.
        example: An input of two rows, by its name; tokens [n, length], or pixels or a picture of
            four axes.
        file: Ends in ``.xml``.

    Raises:
        MissingPackageError: If openvino is not installed.
    """
    with needs("clip-text[openvino]", "exporting to OpenVINO"):
        from openvino import save_model  # noqa: PLC0415  (few need it)

    shapes = [
        (-1, -1) if tensor.ndim == 2 else (-1, *tensor.shape[1:]) for tensor in example.values()
    ]
    save_model(openvino.convert(tower, example, shapes), file, compress_to_fp16=False)
