"""The catalogue's tables, and how its file is opened for writing and for reading."""

import sqlite3
import uuid
from pathlib import Path

from retrieval.errors import CorruptIndexError, StorageError

__all__ = [
    "CATALOGUE_NAME",
    "connect_reader",
    "connect_writer",
    "raise_if_damaged",
    "record_removals",
]

CATALOGUE_NAME = "catalogue.sqlite"
SCHEMA_VERSION = "1"
_BUSY_SECONDS = 30.0

# Not in the first catalogues of this schema version: added to them when they are written to.
_ROOT_INDEX = "CREATE INDEX IF NOT EXISTS images_by_root ON images (root)"

_TABLES = (
    # row is never used again (AUTOINCREMENT): it is the picture's id in the vector index.
    # feature is float32, little-endian, [embed_dim]; generation is that of the
    # transaction which wrote the feature.
    """CREATE TABLE images (
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
    )""",
    "CREATE INDEX images_by_hash ON images (content_hash)",
    "CREATE INDEX images_by_generation ON images (generation)",
    _ROOT_INDEX,
    """CREATE TABLE failures (
        path BLOB PRIMARY KEY,
        size INTEGER,
        mtime_ns INTEGER,
        reason TEXT NOT NULL,
        failed_at TEXT NOT NULL
    ) WITHOUT ROWID""",
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)
# Catalogues written before there was this record have none until somebody writes to them
# again. A trigger keeps it, so that it is whole whichever version of this package deletes.
# The generation is that of the transaction at work, which meta learns at its end.
_REMOVALS = (
    """CREATE TABLE removed (
        generation INTEGER NOT NULL,
        row INTEGER NOT NULL,
        PRIMARY KEY (generation, row)
    ) WITHOUT ROWID""",
    """CREATE TRIGGER images_removed AFTER DELETE ON images BEGIN
        INSERT INTO removed SELECT value + 1, old.row FROM meta WHERE key = 'generation';
    END""",
)


def connect_writer(path: Path, *, fingerprint: str, embed_dim: int) -> sqlite3.Connection:
    """Open the catalogue's file for writing; create the tables where there are none.

    Raises:
        CorruptIndexError: If the file is damaged or of another schema version.
        StorageError: If it cannot be written: a full disk, no permission.
    """
    try:
        db = _connect(path)
    except sqlite3.Error as error:
        raise_if_damaged(path, error)
        raise
    try:
        if _is_blank(db):
            _create(db, fingerprint, embed_dim)
        _check_version(db, path)
        db.execute(_ROOT_INDEX)
        # A killed process loses nothing with NORMAL; a power cut may lose the last
        # batches, but never half of one.
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("CREATE TEMP TABLE seen (path BLOB PRIMARY KEY) WITHOUT ROWID")
    except BaseException as error:
        db.close()
        raise_if_damaged(path, error)
        raise
    return db


def connect_reader(path: Path) -> tuple[sqlite3.Connection, bool] | None:
    """Open the catalogue's file for reading; None if there is no catalogue.

    Returns:
        The connection, and whether it sees what is written from now on.

    Raises:
        CorruptIndexError: If the file is damaged or of another schema version.
        StorageError: If it cannot be read now, as on a disk without room for SQLite's own files.
    """
    if not path.is_file():
        return None
    uri = path.resolve().as_uri()
    try:
        try:
            db, is_live = _read(f"{uri}?mode=ro", path), True
        except sqlite3.OperationalError as error:
            # The log needs a side file even to read. In a folder that cannot be written,
            # where nobody can be indexing either, SQLite reads the plain file instead.
            if _primary_code(error) not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
                raise
            db, is_live = _read(f"{uri}?immutable=1", path), False
    except sqlite3.Error as error:
        raise_if_damaged(path, error)
        raise
    return (db, is_live) if db else None


def _read(uri: str, path: Path) -> sqlite3.Connection | None:
    db = _connect(uri)
    try:
        # A process killed before its first commit leaves a file without tables.
        if _is_blank(db):
            db.close()
            return None
        _check_version(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _connect(target: str | Path) -> sqlite3.Connection:
    return sqlite3.connect(
        target,
        timeout=_BUSY_SECONDS,
        isolation_level=None,  # transactions begin where the code says so
        check_same_thread=False,  # Catalogue has a lock
        uri=isinstance(target, str),
    )


def _is_blank(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def record_removals(db: sqlite3.Connection) -> None:
    """Have a catalogue note, from now on, which rows are removed in which generation."""
    if db.execute("SELECT 1 FROM meta WHERE key = 'removals_since'").fetchone():
        return
    db.execute("BEGIN IMMEDIATE")
    for statement in _REMOVALS:
        db.execute(statement)
    sql = "INSERT INTO meta SELECT 'removals_since', value FROM meta WHERE key = 'generation'"
    db.execute(sql)
    db.execute("COMMIT")


def _create(db: sqlite3.Connection, fingerprint: str, embed_dim: int) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("BEGIN IMMEDIATE")
    for statement in (*_TABLES, *_REMOVALS):
        db.execute(statement)
    meta = {
        "schema_version": SCHEMA_VERSION,
        "uid": uuid.uuid4().hex,
        "fingerprint": fingerprint,
        "embed_dim": str(embed_dim),
        "generation": "0",
        "removals_since": "0",
    }
    db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    db.execute("COMMIT")


def _check_version(db: sqlite3.Connection, path: Path) -> None:
    stored = db.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    version = stored[0] if stored else "none"
    if version != SCHEMA_VERSION:
        raise CorruptIndexError(
            f"expected schema version {SCHEMA_VERSION} in {path}, got {version}. "
            "Index the folder anew with this version of clip-text."
        )


_REMEDIES = {
    sqlite3.SQLITE_FULL: "Free some space on its disk, or in the folder for temporary files",
    sqlite3.SQLITE_IOERR: "See whether its disk is full or failing",
    sqlite3.SQLITE_READONLY: "Make the file and its folder writable",
    sqlite3.SQLITE_CANTOPEN: "Make the file and its folder writable, and see whether it is full",
    sqlite3.SQLITE_BUSY: "See whether another program has it open",
    sqlite3.SQLITE_LOCKED: "See whether another program has it open",
    sqlite3.SQLITE_NOMEM: "Free some memory",
}


def raise_if_damaged(path: Path, error: BaseException) -> None:
    """Turn SQLite's words for a catalogue that is not sound, or out of reach, into ours.

    Raises:
        CorruptIndexError: If the file is no sound catalogue.
        StorageError: If the disk is full or failing, or the file cannot be written or is in use.
            If the error means neither, nothing happens.
    """
    if not isinstance(error, sqlite3.DatabaseError):
        return
    damage = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
    if _primary_code(error) in damage or "no such table" in str(error):
        raise CorruptIndexError(
            f"expected a catalogue in {path}, got a damaged or foreign file ({error}). "
            "Delete the index folder and index again."
        ) from error
    if remedy := _REMEDIES.get(_primary_code(error)):
        raise StorageError(
            f"expected to read and write {path}, got: {error}. {remedy}; what was stored before "
            "stays."
        ) from error


def _primary_code(error: sqlite3.Error) -> int:
    """Give SQLite's kind of error; 0 for those of the Python module itself, which carry none."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF
