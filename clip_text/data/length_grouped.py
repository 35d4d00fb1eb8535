"""Batches of examples of like length: the one sampler of all training over texts."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

__all__ = ["LengthGrouped", "Places"]

Places = NDArray[np.int64]
"""Positions of examples in their data set, int64 [n]."""

_CHUNK = 16
"""Batches that are sorted by length together: longer chunks pad less, and mix less."""


class LengthGrouped(Sampler[list[int]]):
    """Batches of examples of like length in another order every epoch.

    transformers' own ``group_by_length`` draws by the global random state, so a run resumed within
    an epoch would draw other batches, and gives an epoch's batches from long to short. Here all
    depends on (seed, epoch) alone, and batches are shuffled. The order of an epoch is held in
    memory, 8 bytes for each example.

    Args:
        lengths: Tokens of each example.
        batch_size: Examples in a batch.
        seed: Seed of all draws; an equal seed gives equal draws.
        draw: Chooses the examples that an epoch shows, equally many each time, some of them twice
            or not at all; each example once if not given.
        drop_last: Leave a rest that is too small for a batch to another epoch; else the last
            batch may be smaller. A rest that is all there is makes a batch in any case.
    """

    def __init__(
        self,
        lengths: Sequence[int] | NDArray[np.integer],
        batch_size: int,
        seed: int = 0,
        draw: Callable[[np.random.Generator], Places] | None = None,
        *,
        drop_last: bool = False,
    ) -> None:
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0
        self._lengths = np.asarray(lengths)
        self._draw = draw or (lambda rng: rng.permutation(len(self._lengths)))
        shown = len(self._draw(np.random.default_rng(seed))) if draw else len(self._lengths)
        whole = shown // batch_size
        self._shown = whole * batch_size if drop_last and whole else shown

    def set_epoch(self, epoch: int) -> None:
        """Choose which epoch the next iteration draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self._shown / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(self._draw(rng))[: self._shown]
        for start in range(0, len(order), _CHUNK * self.batch_size):
            chunk = order[start : start + _CHUNK * self.batch_size]
            chunk[:] = chunk[np.argsort(self._lengths[chunk], kind="stable")]
        for start in rng.permutation(np.arange(0, len(order), self.batch_size)):
            yield order[start : start + self.batch_size].tolist()
