"""The one promise every feature keeps: finite unit rows of one width."""

import numpy as np

from retrieval.errors import RetrievalError
from retrieval.protocols import Features

__all__ = ["check_unit_rows"]

_TOLERANCE = 1e-3


def check_unit_rows(
    features: Features, embed_dim: int, error: type[RetrievalError], remedy: str
) -> None:
    """Refuse features whose inner products would not be cosines.

    Args:
        features: Should be unit rows, [n, embed_dim].
        embed_dim: The width of the index.
        error: What to raise: whose mistake it would be.
        remedy: Last sentence of the message: what to do.

    Raises:
        RetrievalError: As ``error``, if the shape differs, a value is not finite, or a
            row's length is off 1 by more than 1e-3.
    """
    if not isinstance(features, np.ndarray) or features.ndim != 2:
        got = f"shape {list(features.shape)}" if isinstance(features, np.ndarray) else "no array"
        raise error(f"expected features of shape [n, {embed_dim}], got {got}. {remedy}")
    if features.shape[1] != embed_dim:
        raise error(
            f"expected vectors of width {embed_dim} (the index's embed_dim), got "
            f"{features.shape[1]}. {remedy}"
        )
    lengths = np.linalg.norm(features.astype(np.float64), axis=1)
    off = ~(np.abs(lengths - 1.0) <= _TOLERANCE)  # NaN is off, too
    if off.any():
        first = int(np.flatnonzero(off)[0])
        raise error(f"expected unit rows, got length {lengths[first]:.4g} in row {first}. {remedy}")
