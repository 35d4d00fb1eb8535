"""What a table that follows the pictures says of itself; :mod:`.followers` has them all."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from retrieval.records import Picture

__all__ = ["STORED", "Follower", "has_follower"]

STORED = "SELECT value FROM meta WHERE key = ?"
"""Selects the mark of a follower by its key, where a catalogue has it."""


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
        said: Gives what the tables should say of a picture; None for nothing.
        stored: Reads what they do say of the rows from one to another, both included, by row.
        fits: Tells whether what searches look into holds what is stored.
        drop_damaged: What takes away, instead, tables so damaged that SQLite cannot drop them.
    """

    name: str
    version: int
    create: tuple[str, ...]
    drop: tuple[str, ...]
    written: Callable[[sqlite3.Connection, int, Picture], None] | None = None
    said: Callable[[sqlite3.Connection, Picture], object] = lambda _, __: None
    stored: Callable[[sqlite3.Connection, int, int], dict[int, object]] = lambda *_: {}
    fits: Callable[[sqlite3.Connection], bool] = lambda _: True
    drop_damaged: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Under which meta says which version there is."""
        return f"follower_{self.name}"

    @property
    def mark(self) -> str:
        """What meta says there of this version."""
        return str(self.version)


def has_follower(db: sqlite3.Connection, follower: Follower) -> bool:
    """Tell whether a catalogue has the tables of a follower, in its version.

    One that nobody has written to since there is that follower has them not.
    """
    return db.execute(STORED, (follower.key,)).fetchall() == [(follower.mark,)]
