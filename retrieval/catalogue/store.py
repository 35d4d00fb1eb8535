"""What ingest and search ask of a catalogue, whoever keeps it: SQLite here, or a server elsewhere.

:class:`~retrieval.catalogue.catalogue.Catalogue` is one; the stores of :mod:`retrieval.stores` are
the others. All keep the same pictures in the same way, so that what is written above them knows
none of them.
"""

from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self

from retrieval.catalogue.filters import Facet, Field
from retrieval.catalogue.halves import StoredFeature
from retrieval.catalogue.words import Worded
from retrieval.errors import IndexMismatchError
from retrieval.filters import Filter
from retrieval.protocols import Feature, Features, Rows
from retrieval.records import Failure, Picture, Record

__all__ = [
    "Among",
    "ReadableStore",
    "Selection",
    "Store",
    "StoreFilters",
    "StoreSources",
    "check_model",
]


class Selection(Sized, Protocol):
    """The pictures that a filter holds of, as their store knows them; its length counts them.

    A catalogue gives their rows themselves; a server, what it makes of the filter.
    """

    def tolist(self) -> list[int]:
        """Read their rows, ascending."""
        ...


Among = Any
"""Where to look: :data:`~retrieval.protocols.Rows`, or the :class:`Selection` that a store's own
filters gave. Both have a length."""


class StoreFilters(Protocol):
    """See :class:`~retrieval.catalogue.filters.Filters`, whose meaning and errors all share."""

    def rows(self, where: Filter) -> Among:
        """Select the pictures that a filter holds of.

        Raises:
            QueryError: If the filter is too large, no picture has a field that it names, or a
                field has no values of the kind that it is compared with.
        """
        ...

    def facets(self, field: str, where: Filter | None = None, limit: int = 20) -> list[Facet]:
        """Count how many pictures have each value of a field; the commonest come first."""
        ...

    def fields(self, where: Filter | None = None) -> list[Field]:
        """Tell which fields of metadata there are, in the order of their names."""
        ...

    def check(self, field: str) -> None:
        """Refuse a field that no picture has."""
        ...


class StoreWords(Protocol):
    """See :class:`~retrieval.catalogue.words.Words`."""

    def rank(self, text: str, limit: int, among: Among | None = None) -> Worded:
        """Find the pictures of which the words of a text are said.

        Raises:
            QueryError: If the store has no text index.
        """
        ...

    def keeps_texts(self) -> bool:
        """Tell whether the store has room for what was read in pictures."""
        ...

    def unread(self, folder: bytes) -> list[tuple[bytes, bytes]]:
        """Name contents below a folder of which nobody has said what text stands in them.

        Returns:
            Of each its hash and the path of a file that has it, in the order of the paths.

        Raises:
            QueryError: If the store has no text index.
        """
        ...


class StoreSources(Protocol):
    """See :class:`~retrieval.catalogue.sources.Sources`."""

    def counts(self) -> dict[str, int]:
        """Count the items of each data set, in the order of the names."""
        ...

    def of(self, row: int) -> str | None:
        """Name the data set that an item is of; None if it is of none."""
        ...

    def rows(self, name: str) -> list[int]:
        """Read the rows of a data set's items, ascending."""
        ...

    def assign(self, row: int, name: str) -> None:
        """Note, inside a transaction, that an item is of a data set, and was seen there."""
        ...

    def is_seen(self, row: int) -> bool:
        """Say whether :meth:`assign` named an item since the store was opened."""
        ...

    def unseen(self, name: str) -> list[int]:
        """Read the rows of a data set's items that no :meth:`assign` named, ascending."""
        ...


class ReadableStore(Protocol):
    """The pictures of one index, as searches read them. Safe to use from several threads."""

    @property
    def uid(self) -> str:
        """Drawn at random when the store is made; another one is another index."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies the model that the features came from."""
        ...

    @property
    def embed_dim(self) -> int:
        """Width of the features."""
        ...

    @property
    def generation(self) -> int:
        """Another number after each change of features."""
        ...

    @property
    def precisions(self) -> tuple[str, ...]:
        """What the features are computed in; empty where nobody said."""
        ...

    @property
    def calibration(self) -> str | None:
        """What turns scores into probabilities, as JSON."""
        ...

    @property
    def filters(self) -> StoreFilters:
        """Selects pictures by what is said of them, and counts what is said."""
        ...

    @property
    def words(self) -> StoreWords:
        """Ranks pictures by the words that are said of them."""
        ...

    def check_model(self, *, fingerprint: str, embed_dim: int) -> None:
        """Refuse another model, as the function :func:`check_model` does."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Record]:
        """Go through all pictures in the order of their rows."""
        ...

    def records(self, rows: Iterable[int]) -> dict[int, Record]:
        """Read the pictures of these rows; those that are gone are absent."""
        ...

    def present(self, rows: Iterable[int]) -> set[int]:
        """Tell which of these rows have pictures."""
        ...

    def records_and_texts(self, rows: Iterable[int]) -> tuple[dict[int, Record], dict[int, str]]:
        """Read the pictures of these rows, and the text that was read in them, perhaps empty."""
        ...

    def rows(self) -> Rows:
        """Read all rows, ascending, int64 [n]."""
        ...

    def features_of(self, rows: Iterable[int]) -> dict[int, Feature]:
        """Read the unit rows, [embed_dim], of some pictures; those that are gone are absent."""
        ...

    def draw(self, number: int, seed: int = 0) -> tuple[Rows, Features]:
        """Draw pictures at random, each at most once."""
        ...

    def find_id(self, image_id: str, limit: int = 10) -> list[Record]:
        """Find the pictures that an id may mean: the item; else those of folders."""
        ...

    def snapshot(self) -> AbstractContextManager[None]:
        """Let what is read inside belong to one moment, where the store can."""
        ...

    def close(self) -> None:
        """Release what it holds."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Store(ReadableStore, Protocol):
    """The pictures of one index, as they are written: inside :meth:`transaction`.

    Reads inside a transaction see what was written in it.
    """

    @property
    def schema_version(self) -> int:
        """Of the tables as they are stored."""
        ...

    @property
    def sources(self) -> StoreSources:
        """Knows which data sets items are of."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """Let all writes inside happen, or none; when it has ended, they are kept for good."""
        ...

    def add_precision(self, precision: str | None) -> None:
        """Note what features that are about to be stored were computed in; None if unknown."""
        ...

    def set_calibration(self, text: str | None) -> None:
        """Keep what turns scores into probabilities, as JSON; None forgets it."""
        ...

    def add(self, picture: Picture, feature: Feature | StoredFeature) -> int:
        """Add a picture with its features, [embed_dim]; gives its row."""
        ...

    def replace(self, row: int, picture: Picture, feature: Feature | StoredFeature) -> None:
        """Put new content in a row."""
        ...

    def describe(self, row: int, picture: Picture) -> None:
        """Change what is known about a picture whose content is the same."""
        ...

    def keep_recognised(self, content_hash: bytes, text: str) -> None:
        """Store the text that stands in the pictures of a content; empty where there is none.

        Raises:
            QueryError: If the store has no text index.
        """
        ...

    def remove(self, rows: Iterable[int]) -> None:
        """Forget pictures."""
        ...

    def forget_under(self, folder: bytes) -> int:
        """Forget all pictures of folders, and failures, below a folder; gives how many pictures."""
        ...

    def forget_root(self, root: bytes) -> int:
        """Forget all pictures of an indexed folder, and failures below it; gives how many."""
        ...

    def find(self, path: bytes) -> Record | None:
        """Find the picture of a folder at a path."""
        ...

    def find_item(self, image_id: str) -> Record | None:
        """Find the picture from outside a folder that was added under an id."""
        ...

    def expect_items(self, image_ids: Sequence[str]) -> None:
        """Take note that :meth:`find_item`, and whose they are, will soon be asked of these.

        Outside a transaction, what others write meanwhile may be missed then.
        """
        ...

    def find_content(self, content_hash: bytes) -> tuple[Record, StoredFeature] | None:
        """Find some picture with this content, the first by row, and its feature as stored."""
        ...

    def find_all_content(self, content_hash: bytes) -> list[Record]:
        """Find all pictures of folders with this content, in the order of their rows."""
        ...

    def paths_of(self, content_hash: bytes) -> set[bytes]:
        """Read in which files pictures with this content are, those of items included."""
        ...

    def count_under(self, folder: bytes) -> int:
        """Count the pictures of folders below a folder."""
        ...

    def count_of(self, root: bytes | None) -> int:
        """Count the pictures of an indexed folder; None: those that are of none."""
        ...

    def roots(self) -> list[bytes]:
        """Read which indexed folders pictures belong to, in byte order."""
        ...

    def failure(self, path: bytes) -> Failure | None:
        """Read why a file was set aside; None if it was not."""
        ...

    def failures(self) -> list[Failure]:
        """Read all files set aside, in byte order of their paths."""
        ...

    def fail(self, path: bytes, size: int | None, mtime_ns: int | None, reason: str) -> None:
        """Set a file aside."""
        ...

    def forgive(self, path: bytes) -> None:
        """Forget a failure."""
        ...

    def mark_seen(self, paths: Iterable[bytes]) -> None:
        """Note files as still there, for :meth:`unseen_under`; forgotten on closing."""
        ...

    def unseen_under(self, folder: bytes, table: str = "images") -> list[bytes]:
        """Read the paths below a folder that no :meth:`mark_seen` named, in byte order.

        Args:
            folder: As the file system spells it.
            table: Which paths: ``images``, those of folders, or ``failures``.
        """
        ...


class _OfModel(Protocol):
    @property
    def fingerprint(self) -> str: ...

    @property
    def embed_dim(self) -> int: ...


def check_model(held: _OfModel, *, fingerprint: str, embed_dim: int, elsewhere: str) -> None:
    """Refuse a model other than the one that features came from.

    Args:
        held: The index.
        fingerprint: Of the model.
        embed_dim: Width of its features.
        elsewhere: Where another index may be, as ``into another index folder``.

    Raises:
        IndexMismatchError: If the fingerprint or the embed_dim differs.
    """
    remedy = f"Use the model that built the index, or index {elsewhere}."
    if embed_dim != held.embed_dim:
        raise IndexMismatchError(
            f"expected a model of width {held.embed_dim} (the index's embed_dim), "
            f"got {embed_dim}. {remedy}"
        )
    if fingerprint != held.fingerprint:
        raise IndexMismatchError(
            f"expected the model with fingerprint {held.fingerprint}, which built the "
            f"index, got {fingerprint}. {remedy}"
        )
