"""What an engine of vectors does, whichever library does it."""

from typing import Protocol, Self, TypeVar

from retrieval.catalogue.changes import Change
from retrieval.catalogue.store import Among
from retrieval.protocols import Features, Rows, Scores

__all__ = ["AnyIndex", "LocalIndex", "Searchable", "VectorIndex"]


class Searchable(Protocol):
    """Finds the nearest of the features that it holds by row.

    Scores are cosines in [-1, 1] (features are unit rows), best first; equal scores come
    in the order of their rows.
    """

    @property
    def embed_dim(self) -> int:
        """Width of the features."""
        ...

    def __len__(self) -> int: ...

    def search(self, features: Features, k: int, among: Among | None = None) -> tuple[Scores, Rows]:
        """Find the nearest rows.

        Args:
            features: Unit rows to search for, [q, embed_dim].
            k: How many per query; more than the index holds gives all of it.
            among: Look among these rows only, ascending and each once, int64 [m]; rows that the
                index does not hold are passed over. Where a server holds them, what its filters
                selected, too. All rows by default.

        Returns:
            Scores, float32 [q, min(k, n)], and rows, int64 of the same shape; n counts the rows
            held, or of those the ones in ``among``.

        Raises:
            ValueError: If the shape does not fit, or k is below 1.
        """
        ...


class VectorIndex(Searchable, Protocol):
    """Holds features by row, and follows a catalogue."""

    def apply(self, change: Change) -> None:
        """Take over what became of a catalogue's features: rows that are gone, rows that are new.

        Args:
            change: Since the generation that the index holds; its features are unit rows
                [n, embed_dim].

        Raises:
            ValueError: If the features do not fit.
        """
        ...


class LocalIndex(VectorIndex, Protocol):
    """An engine within this process, whose state can be kept while another goes on."""

    def copy(self) -> Self:
        """Make an independent index with the same content, at a cost that its size hardly moves."""
        ...


AnyIndex = TypeVar("AnyIndex", bound=VectorIndex)
