"""What ``benchmarks/encode.py --device cuda`` races: big batches on one GPU, against open_clip.

Texts come as strings, pictures as decoded pixels: what a GPU waits for is another question.
"""

import statistics
import time
from collections.abc import Callable, Sequence, Sized
from functools import partial
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from encode_contenders import Rows, open_clip_model
from encode_tables import key_of
from numpy.typing import NDArray
from torch import nn
from train_contenders import Shape

from clip_text import Encoder
from clip_text.checkpoints import Checkpoint
from clip_text.runtimes.torch_runtime import to_input

Pixels = NDArray[np.uint8]
T = TypeVar("T", bound=Sized)

_COMPARED = 64
"""Texts, and pictures, of which rows are compared."""


def device_peak(device: str, side: int) -> float:
    """Measure operations a second of a bfloat16 matrix product, the best of five."""
    left, right = (torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        _wait(device)
        started = time.perf_counter()
        left @ right
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def text_contenders(
    checkpoint: Checkpoint, shape: Shape, device: str
) -> dict[str, Callable[[Sequence[str]], Rows]]:
    """Ours by torch, whole batches at once, and open_clip; each in float32 and bfloat16."""
    model, tokenizer = open_clip_model(checkpoint, shape)
    model.to(device)

    def ours(encoder: Encoder, texts: Sequence[str]) -> Rows:
        return encoder.encode_text(texts, batch_size=len(texts))

    def theirs(texts: Sequence[str], *, bf16: bool) -> Rows:
        tokens = tokenizer(list(texts)).to(device)
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
            return _rows(model.encode_text(tokens))

    return {
        **{
            f"ours, {name}": partial(ours, Encoder(checkpoint, device, name))
            for name in ("torch", "torch-bf16")
        },
        "open_clip": partial(theirs, bf16=False),
        "open_clip, bf16": partial(theirs, bf16=True),
    }


def picture_contenders(checkpoint: Checkpoint, device: str) -> dict[str, Callable[[Pixels], Rows]]:
    """Ours by torch, and open_clip's model on the same pixels; each in float32 and bfloat16."""
    model: nn.Module = checkpoint.model

    def ours(encoder: Encoder, pixels: Pixels) -> Rows:
        return encoder.runtime.image(pixels)

    def theirs(pixels: Pixels, *, bf16: bool) -> Rows:
        batch = to_input(torch.from_numpy(pixels).to(device), checkpoint.preprocessing)
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
            return _rows(model.encode_image(batch.contiguous()))

    return {
        **{
            f"ours, {name}": partial(ours, Encoder(checkpoint, device, name))
            for name in ("torch", "torch-bf16")
        },
        "open_clip": partial(theirs, bf16=False),
        "open_clip, bf16": partial(theirs, bf16=True),
    }


def _rows(features: torch.Tensor) -> Rows:
    rows: Rows = F.normalize(features.float(), dim=-1).cpu().numpy()
    return rows


def race_on(
    kind: str,
    contenders: dict[str, Callable[[T], Rows]],
    given: T,
    *,
    rounds: int,
    share_of_peak: Callable[[float], float],
) -> dict[str, float]:
    """Measure rates of one big batch, in turns; copying rows back waits for the device.

    Args:
        kind: ``texts`` or ``pictures``.
        contenders: By name; the first is compared with.
        given: The batch: texts, or pixels.
        rounds: Turns.
        share_of_peak: Of a rate.
    """
    rows = {name: encode(given)[:_COMPARED] for name, encode in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, encode in contenders.items():
            started = time.perf_counter()
            encode(given)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    first = next(iter(rows.values()))
    figures: dict[str, float] = {}
    for name, taken in medians.items():
        rate = len(given) / taken
        against = medians["open_clip, bf16" if "bf16" in name else "open_clip"]
        figures |= {
            key_of(kind, name, "per_second"): rate,
            key_of(kind, name, "of_peak"): share_of_peak(rate),
            key_of(kind, name, "over_open_clip"): against / taken,
            key_of(kind, name, "lowest_cosine"): float((first * rows[name]).sum(1).min()),
        }
    return figures
