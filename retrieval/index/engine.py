"""What an engine of vectors does, whichever library does it."""

from pathlib import Path
from typing import Protocol, Self, TypeVar

from retrieval.protocols import Features, Rows, Scores

__all__ = ["AnyIndex", "VectorIndex"]


class VectorIndex(Protocol):
    """Holds features by row and finds the nearest ones.

    Scores are cosines in [-1, 1] (features are unit rows), best first; equal scores come
    in the order of their rows.
    """

    @property
    def embed_dim(self) -> int:
        """Width of the features."""
        ...

    @property
    def rows(self) -> Rows:
        """The rows held, in any order, int64 [n]."""
        ...

    def __len__(self) -> int: ...

    def add(self, rows: Rows, features: Features) -> None:
        """Add unit rows [n, embed_dim] under new numbers [n].

        Raises:
            ValueError: If the shapes do not fit, or a row is held already.
        """
        ...

    def remove(self, rows: Rows) -> None:
        """Remove rows [n]; those not held are ignored."""
        ...

    def search(self, features: Features, k: int) -> tuple[Scores, Rows]:
        """Find the nearest rows.

        Args:
            features: Unit rows to search for, [q, embed_dim].
            k: How many per query; more than the index holds gives all of it.

        Returns:
            Scores, float32 [q, min(k, n)], and rows, int64 of the same shape.

        Raises:
            ValueError: If the shape does not fit, or k is below 1.
        """
        ...

    def copy(self) -> Self:
        """Make an independent index with the same content."""
        ...

    def save(self, path: Path, stamp: str) -> None:
        """Write the index to a file in one step, with a stamp saying what it was built from."""
        ...

    @classmethod
    def load(cls, path: Path) -> tuple[Self, str]:
        """Read an index and its stamp.

        Raises:
            FileNotFoundError: If there is no file.
            CorruptIndexError: If the file is damaged or of another format.
        """
        ...


AnyIndex = TypeVar("AnyIndex", bound=VectorIndex)
