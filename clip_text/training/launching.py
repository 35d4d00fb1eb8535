"""What a launcher such as ``torchrun`` says to our processes, and what does not go with them."""

import os
from datetime import timedelta

from clip_text.errors import ClipTextError

WAIT = "CLIP_TEXT_WAIT_HOURS"
"""Variable with the hours that processes wait for each other at most."""

_A_WEEK = 7 * 24.0
_IN_PARTS = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")


def check_whole_weights() -> None:
    """Refuse a launcher's setting by which each process would hold a part of the weights.

    Raises:
        ClipTextError: If FSDP or DeepSpeed is asked for, which our losses and measurements, run
            on whole weights, do not go with.
    """
    for name in _IN_PARTS:
        if os.environ.get(name, "false").lower() == "true":
            raise ClipTextError(
                f"expected processes that hold whole weights, got {name}=true. Launch with DDP "
                "(torchrun, or accelerate's multi-GPU); for memory, see docs/training.md: "
                "--shard-optimizer, --micro-batch, gradient_checkpointing."
            )


def longest_wait() -> timedelta:
    """Say how long processes wait for each other: one may encode all pictures, the others for it.

    Raises:
        ClipTextError: If the variable says no number of hours.
    """
    said = os.environ.get(WAIT) or _A_WEEK
    try:
        hours = float(said)
        if not 0 < hours < 24 * 366:
            raise ValueError
    except ValueError:
        raise ClipTextError(
            f"expected hours above 0 in {WAIT}, got {said!r}. Correct it, or leave it out."
        ) from None
    return timedelta(hours=hours)


def restart_warning() -> str | None:
    """Say what keeps restarts on several hosts from working, as this launch was made; or None."""
    several = int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE", "False") == "True"
    if not (several and restarts and shared):
        return None
    return (
        "warning: processes of several hosts that are started again may wait for each other for "
        "ever. Set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun (docs/training.md)"
    )
