"""Tensors of a checkpoint: into a model without losing one, and as they are written."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from clip_text.errors import CheckpointError

_EXACT = ("logit_scale", "temperature")


def load_weights(
    model: torch.nn.Module,
    weights: Mapping[str, Tensor],
    source: Path,
    problems: tuple[str, ...] = (),
    their_name: Callable[[str], str] = str,
) -> None:
    """Copy weights into a model, refusing to lose or invent a tensor.

    Args:
        model: Takes the weights.
        weights: By the model's own names.
        source: Named in the error.
        problems: What is already known to be wrong with the file.
        their_name: What the file calls a tensor of the model.

    Raises:
        CheckpointError: If a tensor is missing, extra, of another shape, or quantised, or holds
            NaN or infinity.
    """
    expected = model.state_dict()
    wrong = [*problems, *misfits(expected, weights, their_name)]
    # copied into a float they would become numbers that mean nothing: a scale is missing
    wrong += [
        f"{their_name(name)} in whole numbers ({str(tensor.dtype).removeprefix('torch.')})"
        for name, tensor in weights.items()
        if name in expected
        and expected[name].is_floating_point()
        and not tensor.is_floating_point()
    ]
    if wrong:
        raise CheckpointError(
            f"expected {len(expected)} tensors that fit each other and the config in {source}, "
            f"got: {first_few(wrong)}. "
            "Use the weights and the config of one and the same model."
        )
    check_finite(weights, source, their_name)
    model.load_state_dict(dict(weights))


def check_finite(
    weights: Mapping[str, Tensor], source: Path, their_name: Callable[[str], str] = str
) -> None:
    """Refuse weights by which every row, or some, would be no numbers.

    Args:
        weights: By name; each is read once.
        source: Named in the error.
        their_name: What the file calls a tensor of that name.

    Raises:
        CheckpointError: Naming the tensors that hold NaN or infinity.
    """
    broken = [their_name(name) for name, tensor in weights.items() if not _is_finite(tensor)]
    if broken:
        raise CheckpointError(
            f"expected finite numbers in {source}, got NaN or infinity in {first_few(broken)}. "
            "Its training may have diverged: take an earlier checkpoint, or download it again."
        )


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
        return True
    # the extremes of a tensor with NaN are NaN; unlike isfinite it makes no second tensor
    low, high = torch.aminmax(tensor.float() if tensor.itemsize == 1 else tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def misfits(
    expected: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    their_name: Callable[[str], str] = str,
) -> list[str]:
    """Say which weights are missing, extra or of another shape, a phrase each.

    Args:
        expected: A model's, by its own names.
        weights: What is to fit.
        their_name: What the file calls a tensor of the model.
    """
    wrong = [f"missing {their_name(name)}" for name in expected if name not in weights]
    wrong += [f"unknown {their_name(name)}" for name in weights if name not in expected]
    wrong += [
        f"{their_name(name)} is {list(weights[name].shape)}, not {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    return wrong


def first_few(wrong: Sequence[str]) -> str:
    """Join the first five of many phrases, each once, and count the rest."""
    wrong = list(dict.fromkeys(wrong))
    return "; ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")


def stored(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Cast weights to the type in which they are written.

    ``logit_scale`` stays fp32: one number, whose exp would be off by up to 0.2 %. So does a head's
    ``temperature``.

    Args:
        weights: By name.
        dtype: Of the floating-point ones.

    Raises:
        CheckpointError: If a finite weight is too large for the type.
    """
    out = {}
    for name, tensor in weights.items():
        exact = not tensor.is_floating_point() or name.endswith(_EXACT)
        out[name] = tensor.detach().to(tensor.dtype if exact else dtype).cpu().contiguous()
        if out[name].isinf().any() and not tensor.isinf().any():
            raise CheckpointError(
                f"expected weights below {torch.finfo(dtype).max:,.0f} to store them in 16 bits, "
                f"got {tensor.abs().max():,.0f} in {name}. Write fp32."
            )
    return out
