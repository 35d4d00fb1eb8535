"""A running mean of the weights, kept beside them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Average(nn.Module):
    """Exponential moving average of what learns, held as buffers, so checkpoints carry it.

    Early on the mean follows faster, as (1 + step) / (10 + step): it forgets the start.

    Args:
        model: Whose parameters to follow; those that don't learn are left out.
        decay: Share of the old mean that stays at each step, in (0, 1).

    Source:
        Polyak & Juditsky 1992; the warm-up is TensorFlow's ``ExponentialMovingAverage``.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        for at, parameter in enumerate(_learning(model)):
            self.register_buffer(f"mean_{at}", parameter.detach().clone().float())

    def _means(self) -> list[Tensor]:
        return list(self.buffers())

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the mean towards the weights after ``step`` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for mean, parameter in zip(self._means(), _learning(model), strict=True):
            mean.lerp_(parameter.float(), 1 - decay)

    @torch.no_grad()
    def load_into(self, model: nn.Module) -> None:
        """Put the mean in the weights' place."""
        for mean, parameter in zip(self._means(), _learning(model), strict=True):
            parameter.copy_(mean)

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Put the mean in the weights' place while the context lasts."""
        kept = [parameter.detach().clone() for parameter in _learning(model)]
        self.load_into(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, weights in zip(_learning(model), kept, strict=True):
                    parameter.copy_(weights)

    def callback(self) -> TrainerCallback:
        """What makes a Trainer update the mean after every step."""
        return _Update(self)


def _learning(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


class _Update(TrainerCallback):
    def __init__(self, average: Average) -> None:
        self._average = average

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Called by the Trainer."""
        del args, control
        self._average.update(kwargs["model"], state.global_step)
