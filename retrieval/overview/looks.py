"""Whether pictures look alike in their pixels: what their features cannot tell from a likeness."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.pictures import tiny_pixels
from retrieval.protocols import Scores

__all__ = ["LEAST_CORRELATION", "SIDE", "Looks", "read_looks"]

LEAST_CORRELATION = 0.9
"""Correlation of tiny pictures from which they look alike; docs/looking.md has the figures."""

SIDE = 8
"""Squares across a tiny picture."""

_PAGE = 256  # files
_FLAT = 2.0  # levels of 255: what varies less is one colour, in which noise would be compared


class Looks:
    """Pictures of 8 × 8 pixels, and which of them look alike: brightness and contrast aside.

    Args:
        pixels: RGB, uint8 [n, 8, 8, 3].
        is_seen: False where a picture cannot be shown, [n].
    """

    def __init__(self, pixels: NDArray[np.uint8], is_seen: NDArray[np.bool_]) -> None:
        self._pixels = pixels.reshape(len(pixels), -1)
        self._is_seen = is_seen

    def correlations(self, one: int, others: NDArray[np.int64]) -> Scores:
        """Correlate the pixels of a picture with those of others.

        Args:
            one: Its position.
            others: Theirs, [n].

        Returns:
            In [-1, 1], float32 [n]; NaN where either cannot be shown, and of two of one colour
            each, which have nothing to compare.
        """
        first, rest = self._centred(np.array([one]))[0], self._centred(others)
        deviations = np.linalg.norm(rest, axis=1) * np.linalg.norm(first)
        flat = _FLAT * self._pixels.shape[1] ** 0.5
        are_flat = (np.linalg.norm(rest, axis=1) < flat) & bool(np.linalg.norm(first) < flat)
        correlations: Scores = (rest @ first) / np.where(deviations > 0.0, deviations, 1.0)
        correlations[are_flat | ~self._is_seen[others] | ~self._is_seen[one]] = np.nan
        return correlations

    def _centred(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        pixels = self._pixels[places].astype(np.float32)
        centred: NDArray[np.float32] = pixels - pixels.mean(axis=1, keepdims=True)
        return centred


def read_looks(
    paths: Sequence[Path | None], on_progress: Callable[[int, int], None] | None = None
) -> Looks:
    """Read pictures small, several side by side.

    Args:
        paths: Their files; None for one without.
        on_progress: Told how many are read, and of how many.
    """
    pixels = np.zeros((len(paths), SIDE, SIDE, 3), np.uint8)
    is_seen = np.zeros(len(paths), np.bool_)
    with ThreadPoolExecutor() as readers:
        for start in range(0, len(paths), _PAGE):  # a page waits at a time, not all of them
            page = readers.map(_read, paths[start : start + _PAGE])
            for i, seen in enumerate(page, start):
                if seen is not None:
                    pixels[i], is_seen[i] = seen, True
            if on_progress is not None:
                on_progress(min(start + _PAGE, len(paths)), len(paths))
    return Looks(pixels, is_seen)


def _read(path: Path | None) -> NDArray[np.uint8] | None:
    return None if path is None else tiny_pixels(path, SIDE)
