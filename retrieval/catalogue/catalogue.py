"""What is indexed: one SQLite file that is the source of truth for an index folder.

A picture's row and its features are written in one transaction, so a process killed at
any moment loses at most the batch it was writing. Everything else in the folder, the
FAISS file included, is derived from here.
"""

import contextlib
import datetime
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from retrieval.catalogue.changes import Change
from retrieval.catalogue.connection import Connection
from retrieval.catalogue.schema import (
    CATALOGUE_NAME,
    connect_reader,
    connect_writer,
    record_removals,
)
from retrieval.errors import EncoderError, IndexMismatchError, IndexNotFoundError
from retrieval.protocols import Feature, Features, Rows
from retrieval.records import Failure, Picture, Record, bounds_under

__all__ = ["CATALOGUE_NAME", "Catalogue"]

_COLUMNS = ", ".join(Picture._fields)
_FEATURE = np.dtype("<f4")
_PAGE = 1024  # rows of text
_FEATURE_PAGE = 32768  # rows of features, 64 MiB at width 512

_SELECT = f"SELECT row, {_COLUMNS} FROM images"  # noqa: S608  (field names, no input)
_INSERT = (
    f"INSERT INTO images ({_COLUMNS}, feature, generation) "  # noqa: S608
    f"VALUES ({', '.join('?' * (len(Picture._fields) + 2))})"
)
_ASSIGN = ", ".join(f"{name} = ?" for name in Picture._fields)


class Catalogue:
    """The pictures of one index folder, their features, and the files that failed.

    Safe to use from several threads: one connection behind one lock. Other processes
    may read while one writes (SQLite's write-ahead log).

    Args:
        connection: To a file that holds the catalogue's tables.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._next_generation = 0
        self._features_changed = False
        self.uid = self._meta("uid")
        """Drawn at random when the catalogue is created; ties derived files to it."""
        self.fingerprint = self._meta("fingerprint")
        """Identifies the model the features came from."""
        self.embed_dim = int(self._meta("embed_dim"))
        """Width of the features."""

    @classmethod
    def create_or_open(cls, index_dir: Path, *, fingerprint: str, embed_dim: int) -> Self:
        """Open the catalogue for writing, creating it and its folder where absent.

        Raises:
            IndexMismatchError: If it belongs to another model; nothing is changed.
            CorruptIndexError: If the file is damaged or of another schema version.
            StorageError: If it cannot be written: a full disk, no permission.
        """
        index_dir.mkdir(parents=True, exist_ok=True)
        path = index_dir / CATALOGUE_NAME
        db = connect_writer(path, fingerprint=fingerprint, embed_dim=embed_dim)
        catalogue = cls(Connection(db, path))
        try:
            catalogue.check_model(fingerprint=fingerprint, embed_dim=embed_dim)
            record_removals(db)
        except BaseException:
            catalogue.close()
            raise
        return catalogue

    @classmethod
    def open(cls, index_dir: Path) -> Self:
        """Open the catalogue for reading; works while another process writes.

        Raises:
            IndexNotFoundError: If there is none.
            CorruptIndexError: If the file is damaged or of another schema version.
        """
        path = index_dir / CATALOGUE_NAME
        opened = connect_reader(path)
        if opened is None:
            raise IndexNotFoundError(
                f"expected an index in {index_dir}, got none. Build one with: "
                "clip-text index FOLDER"
            )
        db, is_live = opened
        return cls(Connection(db, path, is_live=is_live))

    def check_model(self, *, fingerprint: str, embed_dim: int) -> None:
        """Refuse a model other than the one the features came from.

        Raises:
            IndexMismatchError: If the fingerprint or the embed_dim differs.
        """
        remedy = "Use the model that built the index, or index into another index folder."
        if embed_dim != self.embed_dim:
            raise IndexMismatchError(
                f"expected a model of width {self.embed_dim} (the index's embed_dim), "
                f"got {embed_dim}. {remedy}"
            )
        if fingerprint != self.fingerprint:
            raise IndexMismatchError(
                f"expected the model with fingerprint {self.fingerprint}, which built the "
                f"index, got {fingerprint}. {remedy}"
            )

    # Reading

    def __len__(self) -> int:
        return int(self._connection.read("SELECT count(*) FROM images")[0][0])

    def __iter__(self) -> Iterator[Record]:
        """Go through all pictures in the order of their rows."""
        last = 0
        while page := self._connection.read(
            f"{_SELECT} WHERE row > ? ORDER BY row LIMIT {_PAGE}", (last,)
        ):
            yield from map(_record, page)
            last = page[-1][0]

    @property
    def generation(self) -> int:
        """Grows by one with every transaction that changes features."""
        return int(self._meta("generation"))

    @property
    def is_replaced(self) -> bool:
        """True if the file is gone, or another one has taken its place.

        Or if it has changed and this connection, in a folder that could not be written,
        does not see that.
        """
        return self._connection.is_replaced

    def find(self, path: bytes) -> Record | None:
        """Find the picture at a path, as the file system spells it."""
        selected = self._connection.read(f"{_SELECT} WHERE path = ?", (path,))
        return _record(selected[0]) if selected else None

    def find_content(self, content_hash: bytes) -> tuple[Record, Feature] | None:
        """Find some picture with this content, and its feature, [embed_dim]."""
        selected = self._connection.read(
            f"SELECT row, {_COLUMNS}, feature FROM images WHERE content_hash = ? "  # noqa: S608
            "ORDER BY row LIMIT 1",
            (content_hash,),
        )
        if not selected:
            return None
        *values, blob = selected[0]
        return _record(tuple(values)), _decode([blob])[0]

    def find_all_content(self, content_hash: bytes) -> list[Record]:
        """Find all pictures with this content, in the order of their rows."""
        sql = f"{_SELECT} WHERE content_hash = ? ORDER BY row"
        return [_record(values) for values in self._connection.read(sql, (content_hash,))]

    def records(self, rows: Iterable[int]) -> dict[int, Record]:
        """Read the pictures of these rows; rows that are gone are absent from the answer."""
        records: dict[int, Record] = {}
        wanted = [int(row) for row in rows]
        for start in range(0, len(wanted), _PAGE):
            part = wanted[start : start + _PAGE]
            sql = f"{_SELECT} WHERE row IN ({', '.join('?' * len(part))})"
            records |= {values[0]: _record(values) for values in self._connection.read(sql, part)}
        return records

    def rows(self, since: int = 0) -> Rows:
        """Read which rows have features written after a generation, ascending, int64 [n]."""
        # Named, since SQLite would rather read the whole table than sort a few rows.
        sql = (
            "SELECT row FROM images INDEXED BY images_by_generation WHERE generation > ? "
            "ORDER BY row"
        )
        return _rows(self._connection.read(sql, (since,)))

    def features(self, since: int = 0) -> Iterator[tuple[Rows, Features]]:
        """Read features written after a generation, in the order of their rows, page by page.

        Args:
            since: A generation; 0 gives all features.

        Yields:
            Rows, int64 [n], and their features, [n, embed_dim].
        """
        wanted = self.rows(since)
        for start in range(0, len(wanted), _FEATURE_PAGE):
            page = self._features_of(wanted[start : start + _FEATURE_PAGE].tolist())
            if page:
                rows = np.array([row for row, _ in page], np.int64)
                yield rows, _decode([blob for _, blob in page])

    @contextlib.contextmanager
    def changes(self, since: int) -> Iterator[Change]:
        """Read what happened to the features after a generation, all as of one moment.

        What it costs follows what changed. Where the catalogue kept no record of removed
        rows so far back, it reads the numbers of all rows instead.

        Args:
            since: A generation; 0 for a follower that holds nothing.

        Yields:
            What the follower has to do.
        """
        with self.snapshot():
            yield Change(
                self.generation, self._removed(since), self.rows(since), self.features(since)
            )

    def _removed(self, since: int) -> Rows:
        """Read which rows of a generation are not there now; perhaps others long gone."""
        if since == 0:
            return np.empty(0, np.int64)
        recorded = self._connection.read("SELECT value FROM meta WHERE key = 'removals_since'")
        if recorded and int(recorded[0][0]) <= since:
            sql = "SELECT row FROM removed WHERE generation > ? ORDER BY row"
            return _rows(self._connection.read(sql, (since,)))
        # Rows count up and none is used again: whichever is absent is gone.
        drawn = self._connection.read("SELECT seq FROM sqlite_sequence WHERE name = 'images'")
        last = int(drawn[0][0]) if drawn else 0
        return np.setdiff1d(np.arange(1, last + 1, dtype=np.int64), self.rows())

    def _features_of(self, rows: list[int]) -> list[tuple[int, bytes]]:
        selected: list[tuple[Any, ...]] = []
        for start in range(0, len(rows), _PAGE):
            part = rows[start : start + _PAGE]
            marks = ", ".join("?" * len(part))
            sql = f"SELECT row, feature FROM images WHERE row IN ({marks}) ORDER BY row"  # noqa: S608
            selected += self._connection.read(sql, part)
        return [(row, blob) for row, blob in selected]

    def count_under(self, folder: bytes) -> int:
        """Count the pictures below a folder."""
        sql = "SELECT count(*) FROM images WHERE path >= ? AND path < ?"
        return int(self._connection.read(sql, bounds_under(folder))[0][0])

    def roots(self) -> list[bytes]:
        """Read which indexed folders pictures belong to, in byte order."""
        roots: list[bytes] = []
        sql = "SELECT root FROM images WHERE root > ? ORDER BY root LIMIT 1"
        # From one root to the next by the index: DISTINCT would look at every picture.
        while next_root := self._connection.read(sql, (roots[-1] if roots else b"",)):
            roots.append(next_root[0][0])
        return roots

    def failure(self, path: bytes) -> Failure | None:
        """Read why this file was set aside; None if it was not."""
        selected = self._connection.read("SELECT * FROM failures WHERE path = ?", (path,))
        return Failure(*selected[0]) if selected else None

    def failures(self) -> list[Failure]:
        """Read all files set aside, in byte order of their paths."""
        return [
            Failure(*values)
            for values in self._connection.read("SELECT * FROM failures ORDER BY path")
        ]

    def snapshot(self) -> contextlib.AbstractContextManager[None]:
        """Let everything read inside belong to one moment, whoever writes meanwhile."""
        return self._connection.snapshot()

    # Writing, always inside a transaction

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Let all writes inside happen, or none; the generation grows if features changed.

        Raises:
            StorageError: If the disk is full or failing; none has happened then.
        """
        with self._connection.transaction():
            self._next_generation = self.generation + 1
            self._features_changed = False
            yield
            if self._features_changed:
                sql = "UPDATE meta SET value = ? WHERE key = 'generation'"
                self._connection.write(sql, (str(self._next_generation),))

    def add(self, picture: Picture, feature: Feature) -> int:
        """Add a picture with its features, [embed_dim]; gives its row."""
        blob = self._encode(feature)
        done = self._connection.write(_INSERT, (*picture, blob, self._next_generation))
        self._features_changed = True
        assert done.lastrowid is not None
        return done.lastrowid

    def replace(self, row: int, picture: Picture, feature: Feature) -> None:
        """Put new content in a row: the file changed."""
        blob = self._encode(feature)
        self._connection.write(
            f"UPDATE images SET {_ASSIGN}, feature = ?, generation = ? WHERE row = ?",  # noqa: S608
            (*picture, blob, self._next_generation, row),
        )
        self._features_changed = True

    def describe(self, row: int, picture: Picture) -> None:
        """Change what is known about a picture whose content is the same."""
        self._connection.write(f"UPDATE images SET {_ASSIGN} WHERE row = ?", (*picture, row))  # noqa: S608

    def remove(self, rows: Iterable[int]) -> None:
        """Forget pictures."""
        for row in rows:
            self._connection.write("DELETE FROM images WHERE row = ?", (row,))
            self._features_changed = True

    def forget_under(self, folder: bytes) -> int:
        """Forget all pictures and failures below a folder; gives how many pictures."""
        bounds = bounds_under(folder)
        self._connection.write("DELETE FROM failures WHERE path >= ? AND path < ?", bounds)
        done = self._connection.write("DELETE FROM images WHERE path >= ? AND path < ?", bounds)
        self._features_changed |= done.rowcount > 0
        return done.rowcount

    def fail(self, path: bytes, size: int | None, mtime_ns: int | None, reason: str) -> None:
        """Set a file aside; see :class:`~retrieval.records.Failure`."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        sql = "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?)"
        self._connection.write(sql, Failure(path, size, mtime_ns, reason, now))

    def forgive(self, path: bytes) -> None:
        """Forget a failure."""
        self._connection.write("DELETE FROM failures WHERE path = ?", (path,))

    def mark_seen(self, paths: Iterable[bytes]) -> None:
        """Note files as still there, for :meth:`unseen_under`; forgotten on closing."""
        for path in paths:
            self._connection.write("INSERT OR IGNORE INTO temp.seen VALUES (?)", (path,))

    def unseen_under(self, folder: bytes, table: str = "images") -> list[bytes]:
        """Read the paths below a folder that no :meth:`mark_seen` named, in byte order.

        Args:
            folder: The folder, as the file system spells it.
            table: Which paths: ``images`` or ``failures``.
        """
        assert table in {"images", "failures"}
        sql = (
            f"SELECT path FROM {table} WHERE path >= ? AND path < ? "  # noqa: S608
            "AND path NOT IN (SELECT path FROM temp.seen) ORDER BY path"
        )
        return [path for (path,) in self._connection.read(sql, bounds_under(folder))]

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _meta(self, key: str) -> str:
        return str(self._connection.read("SELECT value FROM meta WHERE key = ?", (key,))[0][0])

    def _encode(self, feature: Feature) -> bytes:
        if feature.shape != (self.embed_dim,):
            raise EncoderError(
                f"expected features of shape [{self.embed_dim}] (the index's embed_dim), "
                f"got {list(feature.shape)}. Use the model that built the index."
            )
        return feature.astype(_FEATURE).tobytes()


def _record(values: tuple[Any, ...]) -> Record:
    return Record(values[0], Picture(*values[1:]))


def _rows(selected: list[tuple[int]]) -> Rows:
    return np.fromiter((row for (row,) in selected), np.int64, len(selected))


def _decode(blobs: list[bytes]) -> Features:
    joined = np.frombuffer(b"".join(blobs), _FEATURE)
    return joined.reshape(len(blobs), -1).astype(np.float32)
