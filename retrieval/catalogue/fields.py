"""The inverted table of fields: which pictures have which value of which key of their metadata.

One line for each value of each field of each picture, in the order (name, kind, value, row), so
that a condition on a field reads one stretch of it: the rows of a value stand together, and so do
those of a range or of texts with one beginning. What every picture has beside its metadata is read
from ``images`` by an index for each.
"""

import dataclasses
import sqlite3
from collections import defaultdict

from retrieval.catalogue.follower import Follower, has_follower
from retrieval.filters.values import values_of
from retrieval.records import Picture

__all__ = ["FIELDS", "FOLDER", "has_fields"]

_UP_TO_LAST = "rtrim(image_id, replace(image_id, '/', ''))"  # what is no / is taken from the end
FOLDER = f"substr({_UP_TO_LAST}, 1, length({_UP_TO_LAST}) - 1)"
"""What stands before the last / of an image_id, in SQL."""

_CREATE = (
    "CREATE TABLE field_names (name INTEGER PRIMARY KEY, field TEXT NOT NULL UNIQUE)",
    # value has no type of its own: 1 and 1.0 are equal in it, and "1" is another value.
    """CREATE TABLE fields (
        name INTEGER NOT NULL,
        kind INTEGER NOT NULL,
        value NOT NULL,
        row INTEGER NOT NULL,
        PRIMARY KEY (name, kind, value, row)
    ) WITHOUT ROWID""",
    "CREATE INDEX fields_by_row ON fields (row)",
    """CREATE TRIGGER fields_removed AFTER DELETE ON images BEGIN
        DELETE FROM fields WHERE row = old.row;
    END""",
    "CREATE INDEX fields_path ON images (image_id)",
    f"CREATE INDEX fields_folder ON images ({FOLDER})",
    "CREATE INDEX fields_date ON images (mtime_ns)",
    "CREATE INDEX fields_width ON images (width)",
    "CREATE INDEX fields_height ON images (height)",
    "CREATE INDEX fields_caption ON images (caption)",
)

_DROP = (
    "DROP TRIGGER IF EXISTS fields_removed",
    "DROP TABLE IF EXISTS fields",
    "DROP TABLE IF EXISTS field_names",
    *(
        f"DROP INDEX IF EXISTS fields_{own}"
        for own in ("path", "folder", "date", "width", "height", "caption")
    ),
)

_NAME = "SELECT name FROM field_names WHERE field = ?"
_NEW_NAME = "INSERT INTO field_names (field) VALUES (?)"


def _written(db: sqlite3.Connection, row: int, picture: Picture) -> None:
    """Store the fields of a picture that is new or has changed.

    Args:
        db: Inside the transaction that writes the picture.
        row: The picture's.
        picture: As it is now.
    """
    db.execute("DELETE FROM fields WHERE row = ?", (row,))
    lines: list[tuple[int | None, int, float | str, int]] = []
    for field, values in values_of(picture.metadata).items():
        known = db.execute(_NAME, (field,)).fetchone()
        name = known[0] if known else db.execute(_NEW_NAME, (field,)).lastrowid
        lines += [(name, kind, value, row) for kind, value in values]
    db.executemany("INSERT INTO fields VALUES (?, ?, ?, ?)", lines)


def _said(_db: sqlite3.Connection, picture: Picture) -> object:
    """Give the lines that a picture should have, as :func:`_stored` reads them."""
    return {
        (field, *value) for field, values in values_of(picture.metadata).items() for value in values
    } or None


def _stored(db: sqlite3.Connection, first: int, last: int) -> dict[int, object]:
    sql = (
        "SELECT row, field, kind, value FROM fields LEFT JOIN field_names USING (name) "
        "WHERE row BETWEEN ? AND ?"
    )
    stored: defaultdict[int, set[tuple[object, ...]]] = defaultdict(set)
    for row, *line in db.execute(sql, (first, last)):
        stored[row].add(tuple(line))
    return dict(stored)


FIELDS = Follower("fields", 2, _CREATE, _DROP, _written, _said, _stored)

# Its index of folders took off all the / that are last. What reads the others is quick with it.
_BEFORE = dataclasses.replace(FIELDS, version=1)


def has_fields(db: sqlite3.Connection) -> bool:
    """Tell whether a catalogue has the table of fields, as it is made now or was made before."""
    return has_follower(db, FIELDS) or has_follower(db, _BEFORE)
