"""The catalogue's tables, as they are today."""

import sqlite3
import uuid
from pathlib import Path

from retrieval.catalogue.connection import one_step
from retrieval.errors import CorruptIndexError

__all__ = [
    "CATALOGUE_NAME",
    "PICTURE_TABLES",
    "REMOVED_TABLE",
    "SCHEMA_VERSION",
    "create",
    "is_blank",
    "stored_version",
]

CATALOGUE_NAME = "catalogue.sqlite"
SCHEMA_VERSION = 2
_OLDEST_VERSION = 1

PICTURE_TABLES = (
    # row is never used again (AUTOINCREMENT): it is the picture's id in the vector index.
    # Pictures of a folder have root and path. Those from elsewhere have no root; their image_id
    # is the caller's own, and they have a path only if one was given.
    """CREATE TABLE images (
        row INTEGER PRIMARY KEY AUTOINCREMENT,
        root BLOB,
        path BLOB,
        image_id TEXT NOT NULL,
        size INTEGER,
        mtime_ns INTEGER,
        content_hash BLOB,
        width INTEGER,
        height INTEGER,
        caption TEXT,
        metadata TEXT NOT NULL,
        CHECK (root IS NULL OR path IS NOT NULL)
    )""",
    "CREATE UNIQUE INDEX images_by_path ON images (path) WHERE root IS NOT NULL",
    "CREATE UNIQUE INDEX images_by_own_id ON images (image_id) WHERE root IS NULL",
    "CREATE INDEX images_by_id ON images (image_id) WHERE root IS NOT NULL",
    "CREATE INDEX images_by_hash ON images (content_hash)",
    "CREATE INDEX images_by_root ON images (root)",
    # A table of its own, so that reading captions goes over no vectors. feature is float16,
    # little-endian, [embed_dim]; generation is that of the transaction which wrote it.
    """CREATE TABLE features (
        row INTEGER PRIMARY KEY,
        feature BLOB NOT NULL,
        generation INTEGER NOT NULL
    )""",
    "CREATE INDEX features_by_generation ON features (generation)",
    # A trigger, so that features and the record of removals are whole whichever code deletes.
    # The generation is that of the transaction at work, which meta learns at its end.
    """CREATE TRIGGER images_removed AFTER DELETE ON images BEGIN
        DELETE FROM features WHERE row = old.row;
        INSERT INTO removed SELECT value + 1, old.row FROM meta WHERE key = 'generation';
    END""",
)
REMOVED_TABLE = """CREATE TABLE IF NOT EXISTS removed (
    generation INTEGER NOT NULL,
    row INTEGER NOT NULL,
    PRIMARY KEY (generation, row)
) WITHOUT ROWID"""
_OTHER_TABLES = (
    """CREATE TABLE failures (
        path BLOB PRIMARY KEY,
        size INTEGER,
        mtime_ns INTEGER,
        reason TEXT NOT NULL,
        failed_at TEXT NOT NULL
    ) WITHOUT ROWID""",
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)


def is_blank(db: sqlite3.Connection) -> bool:
    """Tell whether a file has no tables at all."""
    return db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def create(db: sqlite3.Connection, fingerprint: str, embed_dim: int) -> None:
    """Make the tables of an empty file, in one transaction."""
    meta = {
        "schema_version": str(SCHEMA_VERSION),
        "uid": uuid.uuid4().hex,
        "fingerprint": fingerprint,
        "embed_dim": str(embed_dim),
        "generation": "0",
        "removals_since": "0",
    }
    with one_step(db):
        for statement in (REMOVED_TABLE, *_OTHER_TABLES, *PICTURE_TABLES):
            db.execute(statement)
        db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())


def stored_version(db: sqlite3.Connection, path: Path) -> int:
    """Read which schema a catalogue is of.

    Raises:
        CorruptIndexError: If it is none that this version of the package reads.
    """
    stored = db.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    text = stored[0] if stored else "none"
    version = int(text) if str(text).isdecimal() else 0
    if version > SCHEMA_VERSION:
        raise CorruptIndexError(
            f"expected a catalogue of schema version {_OLDEST_VERSION} to {SCHEMA_VERSION} in "
            f"{path}, got {version}, which a newer clip-text wrote. Update clip-text "
            "(pip install -U clip-text), or use another index folder; nothing was changed."
        )
    if version < _OLDEST_VERSION:
        raise CorruptIndexError(
            f"expected a catalogue of schema version {_OLDEST_VERSION} to {SCHEMA_VERSION} in "
            f"{path}, got {text}. Delete the index folder and index again."
        )
    return version
