"""NNCF: OpenVINO's graphs with their matrix products and convolutions in int8."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from clip_text.errors import needs
from clip_text.runtimes.calibration import GROUPS
from clip_text.runtimes.processor import saturates_int8

if TYPE_CHECKING:
    import openvino

__all__ = ["check_installed", "quantize", "quantizer"]

Inputs = Mapping[str, NDArray[Any]]

_NO_REPORTS = "NNCF_CI"
_EXTRA = "clip-text[quantize]"
_PURPOSE = "int8 by OpenVINO"
_GROUPED = "GroupConvolution"
_WEIGHTED = ("Convolution", _GROUPED, "MatMul")


def check_installed() -> None:
    """Say at once, without the seconds its import takes, that NNCF is missing.

    Raises:
        MissingPackageError: If it is.
    """
    if find_spec("nncf") is None:
        with needs(_EXTRA, _PURPOSE):
            raise ModuleNotFoundError(name="nncf")


def quantize(model: "openvino.Model", samples: Sequence[Inputs]) -> "openvino.Model":
    """Quantise a tower's graph after its training: weights by channel, activations by tensor.

    In float stay, as cosines decided: the first convolution with what lies before it (mean and
    deviation of pixels), convolutions of more than :data:`GROUPS` groups, sums of residual
    branches, and what lies behind the last product (the row's length); embeddings, LayerNorm and
    softmax, where a graph has any. Where products of int8 may overflow, weights take half of their
    range.

    Args:
        model: Of :func:`clip_text.runtimes.openvino.convert`; it is left as it is.
        samples: Its inputs, by name, of real texts or pictures.

    Returns:
        A graph of the same inputs and output.

    Raises:
        MissingPackageError: If nncf is not installed.
    """
    with needs(_EXTRA, _PURPOSE), _silent():
        import nncf
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            OverflowFix,
        )
    from openvino._offline_transformations import apply_moc_transformations

    graph = model.clone()
    # folds batch norms, and gives constant biases, which NNCF corrects
    apply_moc_transformations(graph, cf=True)
    attends = any(node.get_type_name() == "ScaledDotProductAttention" for node in graph.get_ops())
    fix = OverflowFix.ENABLE if saturates_int8() else OverflowFix.FIRST_LAYER
    with _silent():
        return nncf.quantize(
            graph,
            nncf.Dataset(list(samples)),
            subset_size=len(samples),
            model_type=nncf.ModelType.TRANSFORMER if attends else None,
            ignored_scope=nncf.IgnoredScope(names=_in_float(graph), validate=False),
            advanced_parameters=AdvancedQuantizationParameters(overflow_fix=fix),
        )


def quantizer() -> str:
    """Name what quantises, with its version: another one gives other rows."""
    return f"nncf {version('nncf')}{', half the range' if saturates_int8() else ''}"


def _in_float(graph: "openvino.Model") -> list[str]:
    """Name the nodes that stay in float."""
    nodes = graph.get_ordered_ops()
    types = [node.get_type_name() for node in nodes]
    first = types.index("Convolution") if "Convolution" in types else -1
    last = max((place for place, kind in enumerate(types) if kind in _WEIGHTED), default=-1)
    return [
        node.get_friendly_name()
        for place, node in enumerate(nodes)
        if place <= first or place > last or _is_residual(node) or _is_grouped_widely(node)
    ]


def _is_grouped_widely(node: "openvino.Node") -> bool:
    """Say whether a node is a convolution of more than :data:`GROUPS` groups."""
    grouped = node.get_type_name() == _GROUPED
    return grouped and int(node.input(1).get_partial_shape()[0].get_length()) > GROUPS


def _is_residual(node: "openvino.Node") -> bool:
    """Say whether a node adds two computed things."""
    sources = [each.get_source_output().get_node().get_type_name() for each in node.inputs()]
    return node.get_type_name() == "Add" and "Constant" not in sources


@contextmanager
def _silent() -> Iterator[None]:
    """Keep NNCF from drawing bars, logging, and reporting its use to Intel."""
    from rich import get_console

    loggers = [logging.getLogger(name) for name in ("nncf", "torch.utils.cpp_extension")]
    levels, console = [each.level for each in loggers], get_console()
    was_quiet, reports = console.quiet, os.environ.get(_NO_REPORTS)
    os.environ[_NO_REPORTS] = "1"
    console.quiet = True
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        console.quiet = was_quiet
        if reports is None:
            del os.environ[_NO_REPORTS]
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
