"""What became of an index's features since some moment: the one feed of everything derived."""

from collections.abc import Iterator
from dataclasses import dataclass

from retrieval.protocols import Features, Rows

__all__ = ["Change"]


@dataclass(frozen=True, slots=True)
class Change:
    """What a follower does to hold what the catalogue holds: remove, then add.

    Args:
        generation: The generation that the follower holds afterwards.
        removed: Rows that are not there any more, ascending, int64 [n]; some of them may
            never have been held.
        written: Rows whose features are new or other ones, ascending, int64 [n]; those held
            before make way for them.
        features: Rows and their features, [n, embed_dim], page by page, of all of ``written``;
            to be read inside :meth:`~retrieval.catalogue.Catalogue.changes`.
    """

    generation: int
    removed: Rows
    written: Rows
    features: Iterator[tuple[Rows, Features]]
