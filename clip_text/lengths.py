"""Texts of like length together, so that little padding is computed."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["by_length", "check_batch_size"]


def check_batch_size(batch_size: int) -> None:
    """Refuse a batch of nothing.

    Raises:
        ValueError: If ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"expected a batch_size of at least 1, got {batch_size}. Leave it out.")


def by_length(lengths: Sequence[int] | NDArray[np.integer], batch_size: int) -> Iterator[list[int]]:
    """Divide texts into batches of like length, from short to long.

    Each position is in one batch, so that results are put back by ``out[batch] = …``. Texts of
    equal length stay in their order.

    Args:
        lengths: Tokens (or characters) of each text, [n].
        batch_size: Texts in a batch, at least 1; the last may have fewer.

    Yields:
        Positions in ``lengths``.

    Raises:
        ValueError: If ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"expected a batch_size of at least 1, got {batch_size}. Raise it.")
    order: list[int] = np.argsort(np.asarray(lengths), kind="stable").tolist()
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
