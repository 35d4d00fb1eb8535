"""What an index on a server is, and whether it is sound; of one in a folder, see there."""

from collections.abc import Iterator

import numpy as np

from retrieval.catalogue.soundness import Problem
from retrieval.catalogue.store import Store
from retrieval.index import IndexInfo, Verification
from retrieval.index import describe as describe_folder
from retrieval.index import verify as verify_folder
from retrieval.protocols import Features, Rows
from retrieval.records import Record
from retrieval.stores.address import Location, StoreAddress
from retrieval.stores.opening import connect

__all__ = ["describe", "verify"]

_PAGE = 1024
_LENGTH_OFF = 1e-2  # of a unit row that went through 16 bits
_NAMED = 3


def describe(location: Location) -> IndexInfo:
    """Tell what an index holds; see :func:`retrieval.index.describe`.

    Raises:
        RetrievalError: As :func:`~retrieval.stores.opening.connect`, or as for a folder.
    """
    if not isinstance(location, StoreAddress):
        return describe_folder(location)
    with connect(location) as store:
        return IndexInfo.of(store, store.vectors(), {})


def verify(location: Location, *, repair: bool = False) -> Verification:
    """Check an index; see :func:`retrieval.index.verify`.

    The server answers for its files. Of what is in them it is checked that each picture has a
    sound feature, and that no two are called alike.

    Args:
        location: Where it is.
        repair: Forget pictures without a sound feature, and of several of one id all but the last.

    Raises:
        RetrievalError: As :func:`~retrieval.stores.opening.connect`, or as for a folder.
    """
    if not isinstance(location, StoreAddress):
        return verify_folder(location, repair=repair)
    with connect(location) as store:
        unsound, again = _unsound(store), _again(store)
        verification = Verification(_problems(store, unsound, again))
        if repair and (unsound or again):
            with store.transaction():
                store.remove([*unsound, *again])
            gone = len(unsound) + len(again)
            verification.repaired.append(f"forgot {gone:,} pictures; index them again")
            verification.problems = _problems(store, _unsound(store), _again(store))
    return verification


def _problems(store: Store, unsound: list[int], again: list[int]) -> list[Problem]:
    told = []
    remedy = "Repairing forgets them; index them again then."
    if unsound:
        what = f"{len(unsound):,} pictures have no sound feature, as {_some(store, unsound)}"
        told.append(Problem("catalogue", what, remedy))
    if again:
        what = f"{len(again):,} pictures have the ids of others, as {_some(store, again)}"
        told.append(Problem("catalogue", what, remedy))
    return told


def _some(store: Store, rows: list[int]) -> str:
    records = store.records(rows[:_NAMED]).values()
    return ", ".join(repr(record.picture.image_id) for record in records)


def _unsound(store: Store) -> list[int]:
    """Find the pictures whose feature is none, or no finite unit row."""
    found: list[int] = []
    for rows, features in _pages(store):
        lengths = np.linalg.norm(features, axis=1)
        is_off = ~(np.abs(lengths - 1) <= _LENGTH_OFF)  # what is no number is off, too
        found += rows[is_off].tolist()
    return found


def _again(store: Store) -> list[int]:
    """Find the pictures that another has the id of: all but the newest row."""
    newest: dict[tuple[bytes | None, str], int] = {}
    found = []
    for record in store:  # in the order of their rows
        if (earlier := newest.get(_key(record))) is not None:
            found.append(earlier)
        newest[_key(record)] = record.row
    return found


def _key(record: Record) -> tuple[bytes | None, str]:
    picture = record.picture
    return (None, picture.image_id) if picture.root is None else (picture.path, "")


def _pages(store: Store) -> Iterator[tuple[Rows, Features]]:
    """Read the features of all pictures, page by page; zeros where there is none."""
    every = store.rows()
    for start in range(0, len(every), _PAGE):
        rows = every[start : start + _PAGE]
        found = store.features_of(rows.tolist())
        none = np.zeros(store.embed_dim, np.float32)
        yield rows, np.stack([found.get(row, none) for row in rows.tolist()])
