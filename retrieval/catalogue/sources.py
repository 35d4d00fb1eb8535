"""Which data set each item came from, so that one of them can be looked through for what is gone.

Items that a program added one by one are of none.
"""

import sqlite3

from retrieval.catalogue.connection import Connection
from retrieval.catalogue.follower import Follower, has_follower

__all__ = ["SOURCES", "Sources"]

_CREATE = (
    # Nothing else says it: the tables are kept whatever version there was, unlike derived ones.
    "CREATE TABLE IF NOT EXISTS sources (source INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    """CREATE TABLE IF NOT EXISTS source_items (
        row INTEGER PRIMARY KEY,
        source INTEGER NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS source_items_by_source ON source_items (source)",
    """CREATE TRIGGER source_items_removed AFTER DELETE ON images BEGIN
        DELETE FROM source_items WHERE row = old.row;
    END""",
)

_DROP = ("DROP TRIGGER IF EXISTS source_items_removed",)


def _is_there(db: sqlite3.Connection) -> bool:
    """Look into both tables: where one is gone SQLite raises."""
    db.execute("SELECT name, row FROM sources JOIN source_items USING (source) LIMIT 1")
    return True


SOURCES = Follower("sources", 1, _CREATE, _DROP, fits=_is_there)


class Sources:
    """The data sets whose pictures are items of a catalogue, by name.

    Args:
        connection: To the catalogue's file.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def counts(self) -> dict[str, int]:
        """Count the items of each data set, by its name, in the order of the names."""
        if not has_follower(self._connection.db, SOURCES):
            return {}
        sql = (
            "SELECT name, count(*) FROM sources JOIN source_items USING (source) "
            "GROUP BY source ORDER BY name"
        )
        return dict(self._connection.read(sql))

    def of(self, row: int) -> str | None:
        """Name the data set that an item is of; None if it is of none."""
        sql = "SELECT name FROM source_items JOIN sources USING (source) WHERE row = ?"
        selected = self._connection.read(sql, (row,))
        return str(selected[0][0]) if selected else None

    def rows(self, name: str) -> list[int]:
        """Read the rows of a data set's items, ascending."""
        sql = "SELECT row FROM source_items JOIN sources USING (source) WHERE name = ? ORDER BY row"
        return [row for (row,) in self._connection.read(sql, (name,))]

    def assign(self, row: int, name: str) -> None:
        """Note, inside a transaction, that an item is of a data set, and that it was seen there."""
        self._connection.write("INSERT OR IGNORE INTO sources (name) VALUES (?)", (name,))
        sql = (
            "INSERT OR REPLACE INTO source_items SELECT ?, source FROM sources WHERE name = ? "
            "AND source IS NOT (SELECT source FROM source_items WHERE row = ?)"
        )
        self._connection.write(sql, (row, name, row))
        self._connection.write("INSERT OR IGNORE INTO temp.seen_rows VALUES (?)", (row,))

    def is_seen(self, row: int) -> bool:
        """Say whether :meth:`assign` named an item since the catalogue was opened."""
        sql = "SELECT 1 FROM temp.seen_rows WHERE row = ?"
        return bool(self._connection.read(sql, (row,)))

    def unseen(self, name: str) -> list[int]:
        """Read the rows of a data set's items that no :meth:`assign` named, ascending."""
        sql = (
            "SELECT row FROM source_items JOIN sources USING (source) WHERE name = ? "
            "AND row NOT IN (SELECT row FROM temp.seen_rows) ORDER BY row"
        )
        return [row for (row,) in self._connection.read(sql, (name,))]
