"""A SQLite file spoken to from several threads: read, written, and is it still there."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from retrieval.catalogue.trouble import raise_if_damaged

__all__ = ["Connection", "one_step"]


class Connection:
    """A connection to a catalogue's file behind one lock.

    Args:
        db: The connection; closed by :meth:`close`.
        path: The file it leads to.
        is_live: True if it sees what other processes write from now on.
    """

    def __init__(self, db: sqlite3.Connection, path: Path, *, is_live: bool = True) -> None:
        self.db = db
        self._lock = threading.RLock()
        self.path = path
        """The file it leads to."""
        self._is_live = is_live
        self._identity = _identity(path, is_live=is_live)

    @property
    def is_replaced(self) -> bool:
        """True if the file is gone, or another one has taken its place.

        Or if it has changed and this connection, in a folder that could not be written,
        does not see that.
        """
        return _identity(self.path, is_live=self._is_live) != self._identity

    def read(self, sql: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """Give all rows that a statement selects.

        Raises:
            CorruptIndexError: If the file is damaged.
            StorageError: If the file cannot be read now.
        """
        with self._lock:
            try:
                return self.db.execute(sql, tuple(values)).fetchall()
            except sqlite3.DatabaseError as error:
                raise_if_damaged(self.path, error)
                raise

    def write(self, sql: str, values: Iterable[Any]) -> sqlite3.Cursor:
        """Execute a statement that changes something, inside :meth:`transaction`.

        Raises:
            RuntimeError: If no transaction has begun.
        """
        if not self.db.in_transaction:
            raise RuntimeError(
                "expected a write inside Catalogue.transaction(), got one outside. Begin one."
            )
        return self.db.execute(sql, tuple(values))

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let everything read inside belong to one moment, whoever writes meanwhile.

        Inside another one, or a transaction, it is part of that.
        """
        with self._lock:
            if self.db.in_transaction:  # of this thread: others wait for the lock
                yield
                return
            try:
                self.db.execute("BEGIN")
                yield
            finally:
                _roll_back(self.db)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Let all writes inside happen, or none.

        Raises:
            CorruptIndexError: If the file is damaged.
            StorageError: If the disk is full or failing; none has happened then.
        """
        with self._lock:
            try:
                with one_step(self.db):
                    yield
            except BaseException as error:
                raise_if_damaged(self.path, error)
                raise

    def close(self) -> None:
        """Close the file, once no other thread is reading or writing."""
        with self._lock:
            self.db.close()


@contextlib.contextmanager
def one_step(db: sqlite3.Connection) -> Iterator[None]:
    """Let all writes inside happen, or none.

    Args:
        db: Open for writing, in no transaction.
    """
    try:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("COMMIT")
    except BaseException:
        _roll_back(db)
        raise


def _roll_back(db: sqlite3.Connection) -> None:
    """End a transaction, unless what failed in it has done so, or it has not begun."""
    if db.in_transaction:
        db.execute("ROLLBACK")


def _identity(path: Path, *, is_live: bool) -> tuple[int, ...] | None:
    """Tell which file it is, and, where changes are not seen, in which state."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    state = () if is_live else (status.st_size, status.st_mtime_ns)
    return status.st_dev, status.st_ino, *state
