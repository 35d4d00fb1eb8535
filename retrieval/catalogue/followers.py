"""Tables that follow the pictures, changed in the same transactions as they are.

What people say of pictures, their metadata and captions, is searched by tables made of it: an
inverted table of fields, a text index. A third says which data set an item is of. Each is one entry
of FOLLOWERS. Its tables are made, and filled with the pictures that are there, when a catalogue is
next opened for writing; from then on it is told of every picture that is written. Of one that is
removed it learns by a trigger of its own, so that it is whole whichever statement deletes.
"""

import sqlite3
from collections.abc import Callable

from retrieval.catalogue.connection import one_step
from retrieval.catalogue.fields import FIELDS
from retrieval.catalogue.follower import Follower, has_follower
from retrieval.catalogue.sources import SOURCES
from retrieval.catalogue.words import WORDS
from retrieval.records import Picture

__all__ = [
    "FIELDS",
    "FOLLOWERS",
    "SOURCES",
    "WORDS",
    "Follower",
    "bring_up_to_date",
    "has_follower",
    "tell_written",
]

_PICTURES = f"SELECT row, {', '.join(Picture._fields)} FROM images ORDER BY row"  # noqa: S608


FOLLOWERS = [FIELDS, WORDS, SOURCES]


def bring_up_to_date(
    db: sqlite3.Connection, before: Callable[[sqlite3.Connection], None] | None = None
) -> None:
    """Make the tables of followers that a catalogue lacks or has of another version; one step.

    Readers have the old tables until the new ones are whole.

    Args:
        db: Open for writing, in no transaction.
        before: What belongs to the same step, and may say which tables are to be made.
    """
    if before is None and not _due(db):
        return
    with one_step(db):
        if before is not None:
            before(db)
        for follower in _due(db):
            for statement in (*follower.drop, *follower.create):
                db.execute(statement)
            if follower.written:
                for row, *values in db.execute(_PICTURES):
                    follower.written(db, row, Picture(*values))
            made = (follower.key, follower.mark)
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", made)


def tell_written(db: sqlite3.Connection, row: int, picture: Picture) -> None:
    """Tell the followers, inside a transaction, of a picture that is new or has changed."""
    for follower in FOLLOWERS:
        if follower.written:
            follower.written(db, row, picture)


def _due(db: sqlite3.Connection) -> list[Follower]:
    return [follower for follower in FOLLOWERS if not has_follower(db, follower)]
