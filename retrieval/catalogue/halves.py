"""Features as the catalogue stores them: in half precision, and back to unit rows."""

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import EncoderError
from retrieval.features import unit_rows
from retrieval.protocols import Feature, Features

__all__ = [
    "HALF",
    "SINGLE",
    "StoredFeature",
    "as_stored",
    "decode",
    "encode",
    "is_kept",
    "to_halves",
]

HALF = np.dtype("<f2")
SINGLE = np.dtype("<f4")
"""What catalogues of schema 1 stored; rows of it are unit rows as they are."""

_LAST_DIGIT = 1.1e-3  # of a half, 2**-10 of it at most, and what setting the length right adds
_NOTHING = 1e-6

StoredFeature = NDArray[np.float16]
"""One row in the very digits that are stored, float16 [embed_dim]; stored again it is the same."""


def encode(feature: Feature | StoredFeature, embed_dim: int) -> bytes:
    """Turn a feature, [embed_dim], into what is stored of it.

    Raises:
        EncoderError: If its shape is another one.
    """
    if feature.shape != (embed_dim,):
        raise EncoderError(
            f"expected features of shape [{embed_dim}] (the index's embed_dim), "
            f"got {list(feature.shape)}. Use the model that built the index."
        )
    return feature.astype(HALF).tobytes()


def decode(blobs: list[bytes], dtype: np.dtype[np.floating]) -> Features:
    """Turn what is stored into unit rows, [n, embed_dim].

    Rounding to halves leaves lengths off 1 by up to 2e-4; they are set right in float32. What a
    row becomes does not depend on the rows beside it, so equal rows stay equal.

    Args:
        blobs: As stored, all of one width.
        dtype: What they hold: HALF, or SINGLE from schema 1.
    """
    rows = np.frombuffer(b"".join(blobs), dtype).reshape(len(blobs), -1)
    return unit_rows(rows) if dtype == HALF else rows.astype(np.float32)


def is_kept(stored: Feature, feature: Feature) -> bool:
    """Say whether a unit row, [embed_dim], that a store gives back is what it keeps of a feature.

    A server may keep the unit row of the halves, in which the last digit of some is another one.
    """
    blob = encode(feature, len(stored))
    if encode(stored, len(stored)) == blob:
        return True
    return bool(np.allclose(stored, decode([blob], HALF)[0], rtol=_LAST_DIGIT, atol=_NOTHING))


def as_stored(blob: bytes) -> StoredFeature:
    """Give the row that a blob holds, [embed_dim], digit for digit."""
    return np.frombuffer(blob, HALF)


def to_halves(blob: bytes) -> bytes:
    """Turn a row of schema 1 into one of today."""
    return np.frombuffer(blob, SINGLE).astype(HALF).tobytes()
