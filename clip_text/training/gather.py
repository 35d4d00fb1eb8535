"""Features of all processes, with gradient."""

from typing import Any

import torch
from torch import Tensor, distributed


def world() -> tuple[int, int]:
    """Rank of this process and how many there are; (0, 1) without ``torch.distributed``."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def gather_rows(local: Tensor) -> Tensor:
    """Stack the rows of all processes in the order of their ranks; gradients find their way back.

    A process receives the sum of what all processes' losses ask of its rows. Where every process
    computes the whole loss, or its own share times the number of processes, and the parameters'
    gradients are averaged over processes as DDP does, that is the gradient of one process with
    the whole batch.

    Args:
        local: [rows, ...]; the number of rows may differ between processes.

    Returns:
        [rows of all processes, ...].
    """
    if world()[1] == 1:
        return local
    rows: Tensor = _Gather.apply(local)
    return rows


def largest(number: int, device: torch.device) -> int:
    """Give every process the largest of their numbers.

    Args:
        number: Number that this process has.
        device: Where the processes exchange tensors: NCCL takes none of a CPU.
    """
    return int(gather_rows(torch.tensor([number], device=device)).max())


def of_first(number: int, device: torch.device) -> int:
    """Give every process the number that the first one has.

    What lies on a disk is asked by one process alone: two that ask while a third writes, or that
    reach a disk of several hosts through caches of their own, may be told different things, and
    would then wait for each other in different places.

    Args:
        number: Number that this process has.
        device: Where the processes exchange tensors, as of :func:`largest`.
    """
    return int(gather_rows(torch.tensor([number], device=device))[0])


class _Gather(torch.autograd.Function):
    """all_gather whose backward sums over processes; torch's own wants equal shapes."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:  # noqa: ANN401
        rank, size = world()
        counts = [torch.zeros(1, dtype=torch.int64, device=local.device) for _ in range(size)]
        distributed.all_gather(counts, torch.tensor([len(local)], device=local.device))
        lengths = [int(count) for count in counts]
        padded = local.new_zeros((max(lengths), *local.shape[1:]))
        padded[: len(local)] = local
        parts = [torch.empty_like(padded) for _ in range(size)]
        distributed.all_gather(parts, padded)
        ctx.start, ctx.length = sum(lengths[:rank]), len(local)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401
        whole = gradients[0].contiguous().clone()
        distributed.all_reduce(whole)
        return whole[ctx.start : ctx.start + ctx.length]
