"""Tables that follow the pictures, changed in the same transactions as they are.

What people say of pictures, their metadata and captions, is searched by tables made of it: an
inverted table of fields, a text index. Each is one entry of FOLLOWERS. Its tables are made, and
filled with the pictures that are there, when a catalogue is next opened for writing; from then on
it is told of every picture that is written. Of one that is removed it learns by a trigger of its
own, so that it is whole whichever statement deletes.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from retrieval.catalogue import fields, words
from retrieval.records import Picture

__all__ = [
    "FIELDS",
    "FOLLOWERS",
    "WORDS",
    "Follower",
    "bring_up_to_date",
    "has_follower",
    "tell_written",
]

_PICTURES = f"SELECT row, {', '.join(Picture._fields)} FROM images ORDER BY row"  # noqa: S608


@dataclass(frozen=True, slots=True)
class Follower:
    """Tables made of what the pictures' rows in ``images`` say.

    Args:
        name: What it is known by in meta.
        version: Another one than the stored version has it dropped and made again.
        create: Statements that make its tables, indexes and triggers; among them one that runs
            ``AFTER DELETE ON images``.
        drop: Statements that take away what any version of it made, ``IF EXISTS``.
        written: Stores what is said of a picture that is new or has changed, given the connection
            inside the transaction, the picture's row and the picture. None where triggers do it;
            ``create`` then fills the tables, too.
    """

    name: str
    version: int
    create: tuple[str, ...]
    drop: tuple[str, ...]
    written: Callable[[sqlite3.Connection, int, Picture], None] | None = None

    @property
    def key(self) -> str:
        """Under which meta says which version there is."""
        return f"follower_{self.name}"


FIELDS = Follower("fields", 1, fields.CREATE, fields.DROP, fields.written)
WORDS = Follower(words.NAME, words.VERSION, words.CREATE, words.DROP, words.written)
FOLLOWERS = [FIELDS, WORDS]


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
    db.execute("BEGIN IMMEDIATE")
    try:
        if before is not None:
            before(db)
        for follower in _due(db):
            for statement in (*follower.drop, *follower.create):
                db.execute(statement)
            if follower.written:
                for row, *values in db.execute(_PICTURES):
                    follower.written(db, row, Picture(*values))
            made: tuple[Any, ...] = (follower.key, str(follower.version))
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", made)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def has_follower(db: sqlite3.Connection, follower: Follower) -> bool:
    """Tell whether a catalogue has the tables of a follower, in its version.

    One that nobody has written to since there is that follower has them not.
    """
    stored = db.execute("SELECT value FROM meta WHERE key = ?", (follower.key,)).fetchone()
    return stored is not None and stored[0] == str(follower.version)


def tell_written(db: sqlite3.Connection, row: int, picture: Picture) -> None:
    """Tell the followers, inside a transaction, of a picture that is new or has changed."""
    for follower in FOLLOWERS:
        if follower.written:
            follower.written(db, row, picture)


def _due(db: sqlite3.Connection) -> list[Follower]:
    return [follower for follower in FOLLOWERS if not has_follower(db, follower)]
