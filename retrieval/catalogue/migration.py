"""Catalogues of an older schema, made what they would be today."""

import contextlib
import sqlite3
import uuid
from pathlib import Path

from retrieval.catalogue.connection import one_step
from retrieval.catalogue.halves import to_halves
from retrieval.catalogue.schema import (
    PICTURE_TABLES,
    REMOVED_TABLE,
    SCHEMA_VERSION,
    stored_version,
)

__all__ = ["upgrade"]

_COPY = (
    "INSERT INTO images SELECT row, root, path, image_id, size, mtime_ns, content_hash, width, "
    "height, caption, metadata FROM images_1 ORDER BY row",
    "INSERT INTO features SELECT row, to_halves(feature), generation FROM images_1 ORDER BY row",
    # The numbers of rows that were last and are gone must not come back.
    "DELETE FROM sqlite_sequence WHERE name = 'images'",
    "INSERT INTO sqlite_sequence SELECT 'images', seq FROM sqlite_sequence WHERE name = 'images_1'",
    "DROP TABLE images_1",
)


def upgrade(db: sqlite3.Connection, path: Path) -> None:
    """Bring a catalogue to today's schema, in place and in one transaction; features are kept.

    Whatever ends it halfway, a full disk or a kill, leaves the catalogue as it was.

    Args:
        db: Open for writing, in no transaction.
        path: The file it leads to.

    Raises:
        CorruptIndexError: If the schema is none that is known.
    """
    if stored_version(db, path) == SCHEMA_VERSION:
        return
    db.create_function("to_halves", 1, to_halves, deterministic=True)
    # Some builds of SQLite write zeros over what is freed: here, all that there was.
    db.execute("PRAGMA secure_delete = OFF")
    with one_step(db):
        # Without the writer's lock, another process may have done it meanwhile.
        if stored_version(db, path) == 1:
            _from_1(db)
    # Seven tenths of the file are free now. Where the copy that this makes finds no room, they
    # are left for what will be stored.
    with contextlib.suppress(sqlite3.OperationalError):
        db.execute("VACUUM")


def _from_1(db: sqlite3.Connection) -> None:
    """Features in halves, in a table of their own; pictures that are of no folder."""
    db.execute("DROP TRIGGER IF EXISTS images_removed")
    for name in ("images_by_hash", "images_by_generation", "images_by_root"):
        db.execute(f"DROP INDEX IF EXISTS {name}")
    db.execute("ALTER TABLE images RENAME TO images_1")
    for statement in (REMOVED_TABLE, *PICTURE_TABLES, *_COPY):
        db.execute(statement)
    # The first ones kept no record of removals.
    db.execute(
        "INSERT OR IGNORE INTO meta SELECT 'removals_since', value FROM meta "
        "WHERE key = 'generation'"
    )
    # What was derived holds the features of before, in more digits: to all that follows,
    # searchers at work included, it is another catalogue.
    meta = {"schema_version": str(SCHEMA_VERSION), "uid": uuid.uuid4().hex}
    for key, value in meta.items():
        db.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))
