"""Tables that follow the pictures, changed in the same transactions as they are.

What people say of pictures, their metadata and captions, is searched by tables made of it: an
inverted table of fields, a text index. A third says which data set an item is of. Each is one entry
of FOLLOWERS. Its tables are made, and filled with the pictures that are there, when a catalogue is
next opened for writing; from then on it is told of every picture that is written. Of one that is
removed it learns by a trigger of its own, so that it is whole whichever statement deletes.
"""

import sqlite3
from collections.abc import Iterable

from retrieval.catalogue.connection import Connection, one_step
from retrieval.catalogue.fields import FIELDS
from retrieval.catalogue.follower import Follower, has_follower
from retrieval.catalogue.sources import SOURCES
from retrieval.catalogue.trouble import is_damage
from retrieval.catalogue.words import WORDS
from retrieval.records import Picture

__all__ = [
    "FIELDS",
    "FOLLOWERS",
    "SOURCES",
    "WORDS",
    "Follower",
    "bring_up_to_date",
    "differing",
    "has_follower",
    "remake",
    "tell_written",
]

_PICTURES = f"SELECT row, {', '.join(Picture._fields)} FROM images"  # noqa: S608
_PAGE = 1024  # pictures
_LAST_ROW = 2**63 - 1


FOLLOWERS = [FIELDS, WORDS, SOURCES]


def bring_up_to_date(db: sqlite3.Connection) -> None:
    """Make the tables of followers that a catalogue lacks or has of another version; one step.

    Readers have the old tables until the new ones are whole.

    Args:
        db: Open for writing, in no transaction.
    """
    if not _due(db):
        return
    with one_step(db):
        for follower in _due(db):
            _make(db, follower)


def remake(db: sqlite3.Connection, followers: Iterable[Follower]) -> None:
    """Make the tables of followers anew, inside a transaction."""
    for follower in followers:
        _make(db, follower)


def _make(db: sqlite3.Connection, follower: Follower) -> None:
    _drop(db, follower)
    for statement in follower.create:
        db.execute(statement)
    if follower.written:
        for row, *values in db.execute(f"{_PICTURES} ORDER BY row"):
            follower.written(db, row, Picture(*values))
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (follower.key, follower.mark))


def _drop(db: sqlite3.Connection, follower: Follower) -> None:
    try:
        for statement in follower.drop:
            db.execute(statement)
    except sqlite3.DatabaseError as error:
        if not follower.drop_damaged or not is_damage(error):
            raise
        for statement in follower.drop_damaged:
            db.execute(statement)


def differing(connection: Connection, follower: Follower) -> list[int]:
    """Compare what the tables of a follower say with what the pictures say.

    Args:
        connection: Inside a snapshot, or under the writer's lock.
        follower: One that the catalogue has.

    Returns:
        Rows of which something else is said, ascending; those of no picture among them.
    """
    off: list[int] = []
    last = -_LAST_ROW
    while True:
        sql = f"{_PICTURES} WHERE row > ? ORDER BY row LIMIT {_PAGE}"
        page = {row: Picture(*values) for row, *values in connection.read(sql, (last,))}
        first, last = last + 1, max(page, default=_LAST_ROW)
        stored = follower.stored(connection.db, first, last)
        off += sorted(
            row
            for row in stored.keys() | page.keys()
            if row not in page or stored.get(row) != follower.said(connection.db, page[row])
        )
        if not page:
            return off


def tell_written(db: sqlite3.Connection, row: int, picture: Picture) -> None:
    """Tell the followers, inside a transaction, of a picture that is new or has changed."""
    for follower in FOLLOWERS:
        if follower.written:
            follower.written(db, row, picture)


def _due(db: sqlite3.Connection) -> list[Follower]:
    return [follower for follower in FOLLOWERS if not has_follower(db, follower)]
