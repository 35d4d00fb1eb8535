"""Several unit rows as one."""

from collections.abc import Sequence

import numpy as np

from retrieval.errors import QueryError
from retrieval.protocols import Feature, Features

__all__ = ["combine"]

# A sum this short beside what was summed is left over from rounding: an equal text encoded in
# another batch differs in the sixth digit, and more in bfloat16.
_CANCELLED = 1e-2


def combine(rows: Features, weights: Sequence[float]) -> Feature:
    """Sum unit rows by weight, and make a unit row of that.

    Args:
        rows: Unit rows, [n, embed_dim].
        weights: One for each, finite and not 0.

    Returns:
        A unit row, [embed_dim]; a single row of positive weight as it is.

    Raises:
        QueryError: If next to nothing remains.
    """
    if len(rows) == 1 and weights[0] > 0:
        row: Feature = rows[0]
        return row
    # The largest becomes 1, so that no weight is too large or too small to be summed.
    scaled = np.asarray(weights, np.float64) / max(map(abs, weights))
    total = scaled @ rows.astype(np.float64)
    length = float(np.linalg.norm(total))
    if length <= _CANCELLED * float(np.abs(scaled).sum()):
        raise QueryError(
            "expected texts and pictures that come to something together, got some that cancel "
            "one another. Change the weights, or leave out what is on both sides."
        )
    unit: Feature = (total / length).astype(np.float32)
    return unit
