"""SQLite's errors in our words."""

import re
import shlex
import sqlite3
from pathlib import Path

from retrieval.errors import CorruptIndexError, StorageError

__all__ = ["is_damage", "primary_code", "raise_if_damaged"]

# What FTS5 has lost of its own tables, SQLite tells in words only.
_OF_WORDS = re.compile(
    r"no such table: (main\.)?words|no such fts5 table|vtable constructor failed"
    r"|invalid fts5 file format|^SQL logic error$"
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
    repair = f"clip-text index verify --repair --index {shlex.quote(str(path.parent))}"
    if _is_of_words(error):
        raise CorruptIndexError(
            f"expected a sound text index in {path}, got a damaged one ({error}). Make it again, "
            f"without encoding anything: {repair}"
        ) from error
    if is_damage(error):
        # the text index says no more than that either, where words are looked up
        first = f"Try {repair} first; else d" if _is_corrupt(error) else "D"
        raise CorruptIndexError(
            f"expected a catalogue in {path}, got a damaged or foreign file ({error}). "
            f"{first}elete the index folder and index again."
        ) from error
    if remedy := _REMEDIES.get(primary_code(error)):
        raise StorageError(
            f"expected to read and write {path}, got: {error}. {remedy}; what was stored before "
            "stays."
        ) from error


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Tell whether an error means that a file is no sound catalogue."""
    is_foreign = primary_code(error) == sqlite3.SQLITE_NOTADB or "no such table" in str(error)
    return is_foreign or _is_corrupt(error) or _is_of_words(error)


def _is_corrupt(error: sqlite3.DatabaseError) -> bool:
    return primary_code(error) == sqlite3.SQLITE_CORRUPT


def _is_of_words(error: sqlite3.DatabaseError) -> bool:
    """Tell whether an error means that the text index is not sound, whatever the rest is."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code == sqlite3.SQLITE_CORRUPT_VTAB or _OF_WORDS.search(str(error)) is not None


def primary_code(error: sqlite3.Error) -> int:
    """Give SQLite's kind of error; 0 for those of the Python module itself, which carry none."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF
