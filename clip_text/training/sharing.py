"""AdamW whose means lie with one process each, not with all of them (ZeRO's first stage)."""

from typing import Any

import torch
from torch.distributed.optim import ZeroRedundancyOptimizer


class SharedAdamW(ZeroRedundancyOptimizer):
    """AdamW that keeps, and steps, in each process a part of the parameters, and then tells all.

    What is learnt is what plain AdamW learns. Of 16 bytes a parameter in float32 (weight, gradient,
    two means) the 8 of the means are divided by the number of processes.

    Args:
        groups: Groups of parameters, as :class:`torch.optim.AdamW` takes them.
        numbers: Rates of all groups, by AdamW's names.

    Source:
        Rajbhandari et al. 2020, ZeRO, section 5.1, arXiv:1910.02054; torch's own implementation.
    """

    def __init__(self, groups: list[dict[str, Any]], **numbers: Any) -> None:  # noqa: ANN401
        super().__init__(groups, optimizer_class=torch.optim.AdamW, **numbers)

    def state_dict(self) -> dict[str, Any]:
        """Give the state of all processes, or nothing before :meth:`gather` was called."""
        # accelerate asks once, before there is any state
        return super().state_dict() if self._all_state_dicts else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take this process's part of a state; an empty one changes nothing."""
        if state_dict:
            super().load_state_dict(state_dict)

    def gather(self) -> None:
        """Bring the state of all processes to the first; all of them call it."""
        self.consolidate_state_dict(to=0)

    def forget(self) -> None:
        """Let go of the state of the other processes."""
        self._all_state_dicts: list[dict[str, Any]] = []
