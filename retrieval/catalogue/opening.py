"""How a catalogue's file is opened, for writing and for reading."""

import sqlite3
from pathlib import Path

from retrieval.catalogue.followers import bring_up_to_date
from retrieval.catalogue.migration import upgrade
from retrieval.catalogue.schema import create, is_blank, stored_version
from retrieval.catalogue.trouble import primary_code, raise_if_damaged

__all__ = ["connect_reader", "connect_writer", "prepare_for_writing"]

_BUSY_SECONDS = 30.0


def connect_writer(path: Path, *, fingerprint: str, embed_dim: int) -> sqlite3.Connection:
    """Open the catalogue's file for writing; create the tables where there are none.

    A catalogue of before is left as it is: see :func:`prepare_for_writing`.

    Raises:
        CorruptIndexError: If the file is damaged or of an unknown schema version.
        StorageError: If it cannot be written: a full disk, no permission.
    """
    try:
        db = _connect(path)
    except sqlite3.Error as error:
        raise_if_damaged(path, error)
        raise
    try:
        is_new = is_blank(db)
        if not is_new:
            stored_version(db, path)  # before anything of it is changed
        # Readers and the writer go on side by side. A file remembers it, but for some copies.
        db.execute("PRAGMA journal_mode = WAL")
        if is_new:
            create(db, fingerprint, embed_dim)
        # What has been acknowledged is to survive a power cut, not just the death of the
        # process: the log is on the disk when a transaction ends. On a Mac, fsync alone leaves
        # it in the drive's own memory.
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA fullfsync = ON")
        db.execute("CREATE TEMP TABLE seen (path BLOB PRIMARY KEY) WITHOUT ROWID")
        db.execute("CREATE TEMP TABLE seen_rows (row INTEGER PRIMARY KEY)")
    except BaseException as error:
        db.close()
        raise_if_damaged(path, error)
        raise
    return db


def prepare_for_writing(db: sqlite3.Connection, path: Path) -> None:
    """Bring a catalogue that is to be written to to today's schema, with all its tables.

    Raises:
        CorruptIndexError: If the file is damaged.
        StorageError: If the disk is full or failing; the catalogue is as it was then.
    """
    try:
        upgrade(db, path)
        bring_up_to_date(db)
    except sqlite3.Error as error:
        raise_if_damaged(path, error)
        raise


def connect_reader(path: Path) -> tuple[sqlite3.Connection, bool] | None:
    """Open the catalogue's file for reading; None if there is no catalogue.

    Returns:
        The connection, and whether it sees what is written from now on.

    Raises:
        CorruptIndexError: If the file is damaged or of an unknown schema version.
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
            # where nobody can be indexing either, SQLite reads the plain file instead: unless
            # there is a log, as a killed process leaves it, which has what was stored last.
            unwritable = primary_code(error) in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
            if not unwritable or _has_log(path):
                raise
            db, is_live = _read(f"{uri}?immutable=1", path), False
    except sqlite3.Error as error:
        raise_if_damaged(path, error)
        raise
    return (db, is_live) if db else None


def _has_log(path: Path) -> bool:
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size > 0
    except OSError:
        return False


def _read(uri: str, path: Path) -> sqlite3.Connection | None:
    db = _connect(uri)
    try:
        # A process killed before its first commit leaves a file without tables.
        if is_blank(db):
            db.close()
            return None
        stored_version(db, path)
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
