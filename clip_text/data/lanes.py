"""Which shards a process and its workers read in an epoch: each few, one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clip_text.errors import DataError

MIXED = 4
"""Shards of a lane whose pictures are mixed: more mix better, and are open at a time."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """How the shards of an epoch are dealt out.

    A batch is cut into as many parts as there are ranks, and each worker of a rank makes every
    so-manieth batch: a lane is what one worker of one rank reads. What is drawn follows from these
    numbers, not from how many processes there really are, so that one process with the same
    numbers learns the same batches.

    Args:
        shards: Of each picture, the number of the file it lies in.
        ranks: Parts of a batch; the processes that train.
        workers: Workers of each that read, 1 where the process itself does.

    Raises:
        DataError: If there are fewer shards than lanes.
    """

    shards: Sequence[int]
    ranks: int
    workers: int = 1

    def __post_init__(self) -> None:
        files, lanes = len(set(self.shards)), self.ranks * self.workers
        if files < lanes:
            raise DataError(
                f"expected at least {lanes} shards to deal to {self.ranks} ranks with "
                f"{self.workers} workers, got {files}. Write the data in more of them."
            )

    def of_batch(self, number: int, per_batch: int) -> list[tuple[int, int]]:
        """Say which lanes a batch is from, and how many pictures of each, in order.

        Args:
            number: Of the batch in its epoch, from 0.
            per_batch: Pictures in it.
        """
        worker = number % self.workers
        ends = [per_batch * rank // self.ranks for rank in range(self.ranks + 1)]
        return [
            (rank * self.workers + worker, ends[rank + 1] - ends[rank])
            for rank in range(self.ranks)
        ]

    def deal(self, rng: np.random.Generator) -> list[list[int]]:
        """Deal all shards out, the next to the lane that has the fewest pictures.

        Args:
            rng: Decides the order of the shards.

        Returns:
            Of each lane its shards, in the order in which they are read.
        """
        numbers, counts = np.unique(self.shards, return_counts=True)
        lanes: list[list[int]] = [[] for _ in range(self.ranks * self.workers)]
        held = [0] * len(lanes)
        for at in rng.permutation(len(numbers)).tolist():
            lane = held.index(min(held))
            lanes[lane].append(int(numbers[at]))
            held[lane] += int(counts[at])
        return lanes

    def pictures(self, lane: Sequence[int], rng: np.random.Generator) -> list[int]:
        """Put a lane's pictures in an order: those of :data:`MIXED` shards are mixed.

        Args:
            lane: Its shards.
            rng: Decides the order.
        """
        shards = np.asarray(self.shards)
        order: list[int] = []
        for first in range(0, len(lane), MIXED):
            inside = np.flatnonzero(np.isin(shards, lane[first : first + MIXED]))
            order += rng.permutation(inside).tolist()
        return order
