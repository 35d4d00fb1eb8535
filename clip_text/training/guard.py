"""A guard against ending below the start: the weights on the way from there, each measured.

Fine-tuning on few pictures often ends below zero-shot. The straight line between the weights
before and after usually has better models than either end (WiSE-FT); the start itself is on it,
so what is kept is never worse on validation than what was there before.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]
Metrics = dict[str, float]

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Mixture:
    """Weights between the start and the end of training.

    Args:
        share: Share of the fine-tuned weights: 0 is the start, 1 the end.
        metrics: Metrics on the validation part, by name.
        kept: On what must not get worse; empty where nothing was given.
    """

    share: float
    metrics: Metrics
    kept: Metrics


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copy a model's weights, to come back to."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def load_mixture(model: nn.Module, start: State, end: State, share: float) -> None:
    """Load ``(1 - share) * start + share * end``; both ends exactly.

    Source:
        Wortsman et al. 2021, WiSE-FT, arXiv:2109.01903.
    """
    if share in (0.0, 1.0):
        model.load_state_dict(end if share else start)
        return
    mixed = {
        name: torch.lerp(start[name].float(), tensor.float(), share).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in end.items()
    }
    model.load_state_dict(mixed)


def measure_mixtures(
    model: nn.Module,
    start: State,
    end: State,
    validate: Callable[[], Metrics],
    *,
    keep: Callable[[], Metrics] | None = None,
    shares: Sequence[float] = SHARES,
    on_mixture: Callable[[Mixture], None] = lambda _: None,
) -> list[Mixture]:
    """Measure the line from start to end; the model is left somewhere on it.

    Args:
        model: Model that is given each mixture's weights.
        start: Weights before training.
        end: Weights after training, by name.
        validate: Measures the metrics on the validation part.
        keep: Metrics on something that must not get worse.
        shares: Shares of the fine-tuned weights to measure, in [0, 1].
        on_mixture: Called with each as it is measured.
    """
    found = []
    for share in shares:
        load_mixture(model, start, end, share)
        found.append(Mixture(share, validate(), keep() if keep else {}))
        on_mixture(found[-1])
    return found


def best_mixture(mixtures: Sequence[Mixture], best_by: str) -> Mixture:
    """Choose the best on validation; of equals the one nearest to the start."""
    return max(mixtures, key=lambda mixture: (mixture.metrics[best_by], -mixture.share))
