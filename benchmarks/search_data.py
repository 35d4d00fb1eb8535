"""Vectors that lie as a CLIP model's do: pictures in one cone, texts in another beside it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Vectors", "cross_modal"]

CONE = 0.75  # length of what all pictures have in common, beside what sets them apart
CLUSTER = 0.8  # of what sets pictures apart, how much they share with those of their cluster
CAPTION = 0.8  # of what sets texts apart, how much they share with their picture
BLOCK = 50_000


@dataclass(frozen=True, slots=True)
class Vectors:
    """Pictures, their clusters, and queries.

    Args:
        pictures: Unit rows, [n, width].
        clusters: The cluster of each picture, [n].
        texts: Unit rows, each beside the picture that it describes, [q, width].
    """

    pictures: NDArray[np.float32]
    clusters: NDArray[np.int64]
    texts: NDArray[np.float32]


def cross_modal(count: int, width: int = 512, queries: int = 200, seed: int = 0) -> Vectors:
    """Draw pictures around cluster centres, and texts off their cone.

    Directions differ in how much they vary, as eigenvalues of real features do (a power law), and
    texts are shifted by another mean than pictures are: the modality gap. A text is nearest to
    some pictures by what is left of it without that shift.

    Args:
        count: Pictures.
        width: Of all rows.
        queries: Texts.
        seed: The same draws the same.
    """
    rng = np.random.default_rng(seed)
    spread = (1 / np.sqrt(1 + np.arange(width) / 20)).astype(np.float32)
    spread /= np.linalg.norm(spread)
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0].astype(np.float32)
    means = _unit(rng.standard_normal((2, width)).astype(np.float32))
    centres = rng.standard_normal((max(2, count // 100), width)).astype(np.float32) * spread
    clusters = rng.integers(0, len(centres), count)
    own = np.sqrt(1 - CLUSTER**2)
    described = rng.choice(count, queries, replace=False)
    pictures = np.empty((count, width), np.float32)
    texts = np.empty((queries, width), np.float32)
    for start in range(0, count, BLOCK):
        part = slice(start, min(count, start + BLOCK))
        noise = rng.standard_normal((part.stop - start, width)).astype(np.float32) * spread
        apart = CLUSTER * centres[clusters[part]] + own * noise
        pictures[part] = _unit(CONE * means[0] + apart @ turn)
        here = np.flatnonzero((described >= start) & (described < part.stop))
        fresh = rng.standard_normal((len(here), width)).astype(np.float32) * spread
        meant = CAPTION * apart[described[here] - start] + np.sqrt(1 - CAPTION**2) * fresh
        texts[here] = _unit(CONE * means[1] + meant @ turn)
    return Vectors(pictures, clusters, texts)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
