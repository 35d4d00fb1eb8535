"""Towers as graphs: torch modules to files of ONNX and OpenVINO."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from clip_text.errors import needs

_LARGE = 1_500_000_000  # bytes; protobuf, of which ONNX files are made, ends at two GiB


def trace(tower: nn.Module, example: Tensor, longest: int | None) -> ExportedProgram:
    """Record what a tower computes, whatever the number of rows.

    Args:
        tower: Takes one tensor and gives rows.
        example: An input of at least two rows.
        longest: The longest second dimension, in tokens; None where only the first one varies.
    """
    free = {0: Dim("batch", min=1, max=1 << 16)}
    if longest is not None:
        free[1] = Dim("length", min=2, max=longest)
    return torch.export.export(tower.eval(), (example,), dynamic_shapes=(free,))


def write_onnx(program: ExportedProgram, file: Path, names: tuple[str, str]) -> int:
    """Write a tower as an ONNX file; weights of gigabytes go into a second file beside it.

    Args:
        program: As :func:`trace` gives it.
        file: Where to write.
        names: Of input and output.

    Returns:
        The opset, the version of ONNX's operators that the file needs.

    Raises:
        MissingPackageError: If the packages that write ONNX are not installed.
    """
    with needs("clip-text[export]", "writing ONNX"):
        import onnx  # noqa: PLC0415  (few need it)
        import onnxscript  # noqa: F401, PLC0415  (torch needs it)

    weights = sum(tensor.nbytes for tensor in program.state_dict.values())
    with _quiet():
        torch.onnx.export(
            program,
            f=file,
            input_names=names[:1],
            output_names=names[1:],
            dynamo=True,
            external_data=weights > _LARGE,
            verbose=False,
        )
    return int(onnx.load(file, load_external_data=False).opset_import[0].version)


def write_openvino(program: ExportedProgram, file: Path, shape: Sequence[int]) -> None:
    """Write a tower as OpenVINO's ``.xml``, with its weights in a ``.bin`` beside it.

    Args:
        program: As :func:`trace` gives it.
        file: Ends in ``.xml``.
        shape: Of the input; -1 where it is free.

    Raises:
        MissingPackageError: If OpenVINO is not installed.
    """
    with needs("openvino", "writing OpenVINO's models"):
        import openvino  # noqa: PLC0415  (few need it)

    with _quiet():
        graph = openvino.convert_model(program)
    graph.reshape(openvino.PartialShape(list(shape)))
    openvino.save_model(graph, file, compress_to_fp16=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the writers from logging what they do not fold, which is no news."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
