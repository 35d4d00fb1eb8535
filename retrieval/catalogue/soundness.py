"""Whether a catalogue's file is sound: SQLite's own check, rows that hang together, features."""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from retrieval.catalogue.catalogue import Catalogue
from retrieval.catalogue.connection import Connection
from retrieval.catalogue.followers import FOLLOWERS, Follower, differing, has_follower, remake
from retrieval.catalogue.trouble import is_damage
from retrieval.catalogue.words import forget_unreadable_settings
from retrieval.errors import CorruptIndexError

__all__ = ["Problem", "check_catalogue", "mend_catalogue"]

_MOST_MESSAGES = 5
_MOST_ROWS = 5
_PAGE = 4096  # rows
_TOLERANCE = 1e-3

_ORPHANS = "SELECT row FROM features WHERE row NOT IN (SELECT row FROM images)"
_FEATURELESS = "SELECT row FROM images WHERE row NOT IN (SELECT row FROM features)"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about an index that is not as it should be.

    Args:
        kind: What it is about: ``catalogue`` or ``vectors``.
        what: What is wrong, on one line.
        remedy: What mends it.
        is_derived: True if it concerns what is rebuilt from the rest, so that nothing is lost.
    """

    kind: str
    what: str
    remedy: str
    is_derived: bool = False


def check_catalogue(catalogue: Catalogue) -> list[Problem]:
    """Look for damage; reads the whole file.

    Returns:
        What is wrong; empty if the catalogue is sound.
    """
    connection = catalogue.connection
    messages = [message for (message,) in connection.read("PRAGMA integrity_check")]
    if messages != ["ok"]:
        told = "; ".join(" ".join(message.split()) for message in messages[:_MOST_MESSAGES])
        return [
            Problem(
                "catalogue",
                f"SQLite finds damage: {told}",
                "Repairing rebuilds SQLite's own indexes; if that is not enough, put the file "
                "back from a copy, or delete the index folder and index again.",
            )
        ]
    problems = []
    if catalogue.schema_version > 1:
        if orphans := _rows(connection, _ORPHANS):
            what = f"{len(orphans)} features belong to no picture ({_some(orphans)})"
            problems.append(Problem("catalogue", what, "Repairing deletes them.", True))
        if featureless := _rows(connection, _FEATURELESS):
            what = f"{len(featureless)} pictures have no feature ({_some(featureless)})"
            problems.append(Problem("catalogue", what, _FORGET))
    if broken := [row for row, _ in _broken_features(catalogue)]:
        what = f"{len(broken)} features are no unit rows of width {catalogue.embed_dim}"
        problems.append(Problem("catalogue", f"{what} ({_some(broken)})", _FORGET))
    for follower in FOLLOWERS:
        if difference := _difference(connection, follower):
            problems.append(Problem("catalogue", difference, "Repairing makes it again.", True))
    return problems


_FORGET = "Repairing forgets them: index their folders again, and add again the items among them."


def mend_catalogue(catalogue: Catalogue) -> list[str]:
    """Repair what can be repaired without the pictures; what cannot be searched is forgotten.

    Args:
        catalogue: Open for writing, under the writer's lock.

    Returns:
        What was done, a line each; the ids of pictures that were forgotten among it.
    """
    connection, done = catalogue.connection, []
    if connection.read("PRAGMA integrity_check") != [("ok",)]:
        try:
            with catalogue.transaction():
                connection.write("REINDEX", ())
            done.append("rebuilt SQLite's own indexes")
        except (sqlite3.DatabaseError, CorruptIndexError):
            return done
    unsound = [follower for follower in FOLLOWERS if _difference(connection, follower)]
    if unsound:  # before anything is deleted: that deletes from them, too
        with catalogue.transaction():
            forget_unreadable_settings(connection.db)
            remake(connection.db, unsound)
        done += [f"made the table of {follower.name} again" for follower in unsound]
    with catalogue.transaction():
        orphans = _rows(connection, _ORPHANS)
        for row in orphans:
            connection.write("DELETE FROM features WHERE row = ?", (row,))
        lost = {*_rows(connection, _FEATURELESS), *(row for row, _ in _broken_features(catalogue))}
        records = catalogue.records(sorted(lost))
        catalogue.remove(records)
    if orphans:
        done.append(f"deleted {len(orphans)} features of no picture")
    done += [f"forgot {record.picture.image_id}" for record in records.values()]
    return done


def _broken_features(catalogue: Catalogue) -> Iterator[tuple[int, bytes]]:
    """Find features of a wrong width, and those that are no unit rows."""
    dtype, width = catalogue.feature_dtype, catalogue.embed_dim
    for page in catalogue.stored_features(_PAGE):
        fitting = [(row, blob) for row, blob in page if len(blob) == width * dtype.itemsize]
        yield from (pair for pair in page if len(pair[1]) != width * dtype.itemsize)
        rows = np.frombuffer(b"".join(blob for _, blob in fitting), dtype)
        lengths = np.linalg.norm(rows.reshape(len(fitting), width).astype(np.float64), axis=1)
        for index in np.flatnonzero(~(np.abs(lengths - 1) <= _TOLERANCE)):  # NaN is off, too
            yield fitting[index]


def _difference(connection: Connection, follower: Follower) -> str | None:
    """Tell in what the tables of a follower differ from the pictures; None if in nothing."""
    if not has_follower(connection.db, follower):
        return None  # it is made by who writes next
    try:
        if off := differing(connection, follower):
            return f"the table of {follower.name} is wrong about {len(off)} pictures ({_some(off)})"
        is_sound = follower.fits(connection.db)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        is_sound = False
    except CorruptIndexError:
        is_sound = False
    return None if is_sound else f"the table of {follower.name} is damaged"


def _rows(connection: Connection, sql: str) -> list[int]:
    return [row for (row,) in connection.read(f"{sql} ORDER BY row")]


def _some(rows: Iterable[int]) -> str:
    numbers = [str(row) for row in rows]
    more = ", …" if len(numbers) > _MOST_ROWS else ""
    return f"row {', '.join(numbers[:_MOST_ROWS])}{more}"
