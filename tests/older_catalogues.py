"""Catalogues as earlier versions of the package wrote them, for tests of what reads them."""

import sqlite3
from pathlib import Path

from retrieval.catalogue import CATALOGUE_NAME
from retrieval.catalogue.followers import FOLLOWERS
from retrieval.catalogue.halves import HALF, decode

_PICTURES = (
    "row, root, path, image_id, size, mtime_ns, content_hash, width, height, caption, metadata"
)

# What commit 3286393 made; e8fc9dc made the rest, too.
_FIRST = """
    CREATE TABLE images (
        row INTEGER PRIMARY KEY AUTOINCREMENT,
        root BLOB NOT NULL,
        path BLOB NOT NULL UNIQUE,
        image_id TEXT NOT NULL,
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        content_hash BLOB NOT NULL,
        width INTEGER,
        height INTEGER,
        caption TEXT,
        metadata TEXT NOT NULL,
        feature BLOB NOT NULL,
        generation INTEGER NOT NULL
    );
    CREATE INDEX images_by_hash ON images (content_hash);
    CREATE INDEX images_by_generation ON images (generation);
"""
_LAST = """
    CREATE INDEX images_by_root ON images (root);
    CREATE TRIGGER images_removed AFTER DELETE ON images BEGIN
        INSERT INTO removed SELECT value + 1, old.row FROM meta WHERE key = 'generation';
    END;
"""
_NO_RECORD = "DROP TABLE removed; DELETE FROM meta WHERE key = 'removals_since';"
_APART = """
    DROP TRIGGER images_removed;
    DROP INDEX images_by_hash;
    DROP INDEX images_by_root;
    ALTER TABLE images RENAME TO images_2;
"""
_BACK = f"""
    INSERT INTO images SELECT {_PICTURES}, single(feature), generation
        FROM images_2 JOIN features USING (row);
    DELETE FROM sqlite_sequence WHERE name = 'images';
    INSERT INTO sqlite_sequence
        SELECT 'images', seq FROM sqlite_sequence WHERE name = 'images_2';
    DROP TABLE images_2;
    DROP TABLE features;
    UPDATE meta SET value = '1' WHERE key = 'schema_version';
"""


def without_followers(database: sqlite3.Connection) -> None:
    """Take away the tables that follow the pictures: there were none at first."""
    for follower in FOLLOWERS:
        for statement in follower.drop:
            database.execute(statement)
        database.execute("DELETE FROM meta WHERE key = ?", (follower.key,))
    database.commit()


def as_schema_1(index_dir: Path, *, removals: bool = True) -> None:
    """Rewrite a catalogue of today into the one that schema 1 would be, of the same features.

    Args:
        index_dir: Its folder; its pictures are all of folders.
        removals: False for the first ones, which kept no record of removed rows.
    """
    database = sqlite3.connect(index_dir / CATALOGUE_NAME)
    database.create_function("single", 1, lambda blob: decode([blob], HALF).tobytes())
    end = _LAST if removals else _NO_RECORD
    without_followers(database)
    database.executescript(f"BEGIN; {_APART} {_FIRST} {_BACK} {end} COMMIT;")
    database.close()
