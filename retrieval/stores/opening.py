"""An index opened by where it is: a folder, or a server."""

import contextlib
from collections.abc import Iterator
from importlib import import_module
from typing import Protocol

from retrieval.catalogue import Catalogue, IndexLock
from retrieval.catalogue.store import Among, ReadableStore, Store
from retrieval.index import BackgroundSealer, disown_future, seal_if_due
from retrieval.protocols import Features, Rows, Scores
from retrieval.stores.address import Location, StoreAddress

__all__ = [
    "RemoteStore",
    "Sealer",
    "connect",
    "open_as_store",
    "open_for_reading",
    "open_for_writing",
]

# The class in the folder of each kind, imported when an address names it.
_KINDS = {"milvus": "MilvusStore", "postgresql": "PostgresStore"}


class RemoteStore(Store, Protocol):
    """A store that a server keeps: it finds the nearest features itself."""

    def search(self, features: Features, k: int, among: Among | None = None) -> tuple[Scores, Rows]:
        """Find the nearest rows; as :meth:`retrieval.index.engine.VectorIndex.search` does.

        Args:
            features: Unit rows to search for, [q, embed_dim].
            k: How many per query.
            among: Rows, ascending, or a selection of this store's own filters; None for all.

        Returns:
            Scores, float32 [q, m], and rows, int64 [q, m], best first; m is the most that any
            query found, and where one found fewer its scores are -2 and its rows 0 at the end.
        """
        ...

    def state(self) -> str:
        """Name what a searcher holds on to, by one cheap request.

        It is another one after the collection was swapped for another, or its calibration changed.

        Raises:
            IndexNotFoundError: If the collection is gone.
            StoreUnavailableError: If the server does not answer.
        """
        ...

    def vectors(self) -> dict[str, int | str]:
        """Tell what the server searches with, by name: its kind and version, the index it has."""
        ...

    def compact(self) -> str:
        """Have the server build its index anew; gives a line that says what was built."""
        ...

    def advise(self, features: Features, k: int = 10) -> list[tuple[str, float, float]]:
        """Measure settings of the search.

        Args:
            features: Of what is really asked, unit rows [q, embed_dim].
            k: How many hits.

        Returns:
            Of each setting its name, recall@k against exact search in [0, 1], and the
            milliseconds of a query in the middle.
        """
        ...


class Sealer(Protocol):
    """Is told how much has changed, so that vectors are sealed anew in time."""

    def note(self, changed: int) -> None:
        """Take note of pictures that came or went."""
        ...

    def wait(self) -> None:
        """Wait until what it does is done."""
        ...


class _NoSealer:
    """A server looks after its vectors itself."""

    def note(self, changed: int) -> None:
        """Do nothing."""

    def wait(self) -> None:
        """Do nothing."""


def connect(
    address: StoreAddress,
    *,
    fingerprint: str | None = None,
    embed_dim: int | None = None,
) -> RemoteStore:
    """Open a collection that a server keeps.

    Args:
        address: Where it is.
        fingerprint: Of the model, where one that is not there is to be made.
        embed_dim: Width of its features, likewise.

    Raises:
        MissingPackageError: If the server's client library is not installed.
        StoreAddressError: If there is no such database.
        StoreUnavailableError: If the server does not answer.
        StoreAccessError: If it refuses the credentials, or is too old.
        IndexNotFoundError: If there is no such collection, and none is to be made.
        IndexMismatchError: If it is of another model than the one that is named.
    """
    module = import_module(f"retrieval.stores.{address.scheme}")
    kind = getattr(module, _KINDS[address.scheme])
    opened: RemoteStore = kind.open(address, fingerprint=fingerprint, embed_dim=embed_dim)
    return opened


def open_for_reading(location: Location) -> ReadableStore:
    """Open what is there, whichever model it is of; to be closed.

    Raises:
        IndexNotFoundError: If there is no index.
        RetrievalError: As :func:`connect`.
    """
    return open_as_store(location)


def open_as_store(location: Location) -> Store:
    """Open what is there, with what only writers ask of it as well; to be closed, unwritten.

    Raises:
        IndexNotFoundError: If there is no index.
        RetrievalError: As :func:`connect`.
    """
    return connect(location) if isinstance(location, StoreAddress) else Catalogue.open(location)


@contextlib.contextmanager
def open_for_writing(
    location: Location,
    *,
    fingerprint: str | None = None,
    embed_dim: int | None = None,
    only_if_written: bool = False,
) -> Iterator[tuple[Store, Sealer]]:
    """Open an index to write to, and, at the end, seal its vectors anew where that is due.

    In a folder there is one writer at a time, which holds its lock; a server orders those that
    there are itself.

    Args:
        location: Where it is.
        fingerprint: Of the model; without it, only an index that is there is opened.
        embed_dim: Width of its features, beside ``fingerprint``.
        only_if_written: Whether sealing is left to others where nothing was written; else what
            others left unsealed, who were killed, is sealed as well.

    Yields:
        The store, and what is told of how much changes.

    Raises:
        IndexLockedError: If another process writes into the folder.
        IndexNotFoundError: If there is no index, and no model is named.
        IndexMismatchError: If it is of another model than the one that is named.
        RetrievalError: As :func:`connect`.
    """
    if isinstance(location, StoreAddress):
        with connect(location, fingerprint=fingerprint, embed_dim=embed_dim) as store:
            yield store, _NoSealer()
        return
    if fingerprint is None or embed_dim is None:
        with Catalogue.open(location) as there:  # no lock is made where there is no index
            fingerprint = fingerprint or there.fingerprint
            embed_dim = embed_dim or there.embed_dim
    with (
        IndexLock(location),
        Catalogue.create_or_open(
            location, fingerprint=fingerprint, embed_dim=embed_dim
        ) as catalogue,
    ):
        disown_future(location, catalogue)
        sealer, generation = BackgroundSealer(location), catalogue.generation
        yield catalogue, sealer
        sealer.wait()
        if catalogue.generation != generation or not only_if_written:
            seal_if_due(location, catalogue)
