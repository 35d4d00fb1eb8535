"""What is indexed: one SQLite file that is the source of truth for an index folder.

A picture's row and its features are written in one transaction, so a process killed at
any moment, or a machine that loses its power, loses at most the batch that was being written.
Everything else in the folder, the FAISS file included, is derived from here.
"""

import contextlib
import datetime
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from retrieval.catalogue.connection import Connection
from retrieval.catalogue.followers import tell_written
from retrieval.catalogue.halves import StoredFeature, encode
from retrieval.catalogue.opening import connect_writer, prepare_for_writing
from retrieval.catalogue.reading import COLUMNS, UID_BEFORE, CatalogueReader
from retrieval.catalogue.schema import CATALOGUE_NAME
from retrieval.catalogue.words import store_words
from retrieval.errors import RetrievalError, StorageError
from retrieval.protocols import Feature
from retrieval.records import Failure, Picture, bounds_under

__all__ = ["CATALOGUE_NAME", "Catalogue"]

_INSERT = f"INSERT INTO images ({COLUMNS}) VALUES ({', '.join('?' * len(Picture._fields))})"  # noqa: S608
_ASSIGN = ", ".join(f"{name} = ?" for name in Picture._fields)
_STORE = "INSERT OR REPLACE INTO features (row, feature, generation) VALUES (?, ?, ?)"


class Catalogue(CatalogueReader):
    """What :class:`~retrieval.catalogue.reading.CatalogueReader` reads, and how it is written.

    All writing is done inside :meth:`transaction`.

    Args:
        connection: To a file that holds the catalogue's tables.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._next_generation = 0
        self._features_changed = False

    @classmethod
    def create_or_open(cls, index_dir: Path, *, fingerprint: str, embed_dim: int) -> Self:
        """Open the catalogue for writing, creating it and its folder where absent.

        One of an older schema is upgraded in place; nothing of it is encoded anew.

        Raises:
            IndexMismatchError: If it belongs to another model; nothing is changed.
            CorruptIndexError: If the file is damaged or of an unknown schema version.
            StorageError: If it cannot be written: a full disk, no permission.
        """
        index_dir.mkdir(parents=True, exist_ok=True)
        path = index_dir / CATALOGUE_NAME
        db = connect_writer(path, fingerprint=fingerprint, embed_dim=embed_dim)
        try:
            cls(Connection(db, path)).check_model(fingerprint=fingerprint, embed_dim=embed_dim)
            prepare_for_writing(db, path)
            return cls(Connection(db, path))
        except BaseException:
            db.close()
            raise

    @classmethod
    def open_for_writing(cls, index_dir: Path) -> Self:
        """Open a catalogue that is there for writing, whichever model it belongs to.

        Raises:
            IndexNotFoundError: If there is none.
            CorruptIndexError: If the file is damaged or of an unknown schema version.
            StorageError: If it cannot be written: a full disk, no permission.
        """
        with cls.open(index_dir) as there:
            fingerprint, embed_dim = there.fingerprint, there.embed_dim
        return cls.create_or_open(index_dir, fingerprint=fingerprint, embed_dim=embed_dim)

    def renew_uid(self) -> None:
        """Draw a new ``uid``: all that was derived from the catalogue is made anew."""
        with self.connection.transaction():
            uid = uuid.uuid4().hex
            self.connection.write("UPDATE meta SET value = ? WHERE key = 'uid'", (uid,))
        self.uid = uid

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Let all writes inside happen, or none; the generation grows if features changed.

        When it has ended, what was written is on the disk, and survives a power cut.

        Raises:
            StorageError: If the disk is full or failing, or the file was deleted or replaced since
                it was opened; none has happened then.
        """
        with self.connection.transaction():
            self._next_generation = self.generation + 1
            self._features_changed = False
            yield
            if self._is_displaced():  # what is written to it is gone with the connection
                raise StorageError(
                    f"expected to write to the catalogue in {self.connection.path}, got none or "
                    "another in its place. Open the index anew; nothing of this call was stored."
                )
            if self._features_changed:
                sql = "UPDATE meta SET value = ? WHERE key = 'generation'"
                self.connection.write(sql, (str(self._next_generation),))

    def _is_displaced(self) -> bool:
        """Tell, inside a transaction, whether others find no file, or another one, in its place."""
        if not self.connection.is_replaced:
            return False
        try:
            # Some file systems number a file anew while it is open.
            with type(self).open(self.connection.path.parent) as there:
                state = there.uid, there.generation + 1
        except RetrievalError:
            return True
        return state != (self.uid, self._next_generation)

    def add_precision(self, precision: str | None) -> None:
        """Note what features that are about to be stored were computed in; None if unknown.

        It stays unknown where features are stored already of which nobody said it.
        """
        others = self.precisions if self.connection.read("SELECT 1 FROM images LIMIT 1") else None
        if others == ():
            return
        known = ",".join(sorted({*(others or ()), precision})) if precision else None
        self._note("precision", known)

    def set_calibration(self, text: str | None) -> None:
        """Keep what turns scores into probabilities, as JSON; None forgets it."""
        self._note("calibration", text)

    def _note(self, key: str, value: str | None) -> None:
        """Have meta say something under a key, or nothing."""
        self.connection.write("DELETE FROM meta WHERE key = ?", (key,))
        if value is not None:
            self.connection.write("INSERT INTO meta VALUES (?, ?)", (key, value))

    # Pictures

    def add(self, picture: Picture, feature: Feature | StoredFeature) -> int:
        """Add a picture with its features, [embed_dim]; gives its row."""
        blob = encode(feature, self.embed_dim)
        row = self.connection.write(_INSERT, picture).lastrowid
        assert row is not None
        self._store(row, blob)
        tell_written(self.connection.db, row, picture)
        return row

    def expect_items(self, image_ids: Sequence[str]) -> None:
        """Do nothing: each is found as quickly alone."""

    def replace(self, row: int, picture: Picture, feature: Feature | StoredFeature) -> None:
        """Put new content in a row: the file changed."""
        blob = encode(feature, self.embed_dim)
        self.describe(row, picture)
        self._store(row, blob)

    def describe(self, row: int, picture: Picture) -> None:
        """Change what is known about a picture whose content is the same."""
        self.connection.write(f"UPDATE images SET {_ASSIGN} WHERE row = ?", (*picture, row))  # noqa: S608
        tell_written(self.connection.db, row, picture)

    def keep_recognised(self, content_hash: bytes, text: str) -> None:
        """Store the text that stands in the pictures of a content; empty where there is none."""
        sql = "INSERT OR REPLACE INTO recognised VALUES (?, ?)"
        self.connection.write(sql, (content_hash, text))
        sql = f"SELECT row, {COLUMNS} FROM images WHERE content_hash = ?"  # noqa: S608
        for row, *values in self.connection.read(sql, (content_hash,)):
            store_words(self.connection.db, row, Picture(*values))

    def remove(self, rows: Iterable[int]) -> None:
        """Forget pictures."""
        for row in rows:
            self.connection.write("DELETE FROM images WHERE row = ?", (row,))
            self._features_changed = True

    def forget_under(self, folder: bytes) -> int:
        """Forget all pictures of folders, and failures, below a folder; gives how many pictures."""
        bounds = bounds_under(folder)
        self.connection.write("DELETE FROM failures WHERE path >= ? AND path < ?", bounds)
        sql = "DELETE FROM images WHERE path >= ? AND path < ? AND root IS NOT NULL"
        done = self.connection.write(sql, bounds)
        self._features_changed |= done.rowcount > 0
        return done.rowcount

    def forget_root(self, root: bytes) -> int:
        """Forget all pictures of an indexed folder, and failures below it; gives how many."""
        bounds = bounds_under(root)
        self.connection.write("DELETE FROM failures WHERE path >= ? AND path < ?", bounds)
        done = self.connection.write("DELETE FROM images WHERE root = ?", (root,))
        self._features_changed |= done.rowcount > 0
        return done.rowcount

    def exchange_features(
        self, select: str, *, fingerprint: str, embed_dim: int, precisions: Collection[str | None]
    ) -> str:
        """Put features of another model in the place of all that there are.

        What fits only the model before is forgotten: the calibration, the record of what changed.

        Args:
            select: Selects ``row`` and ``feature``, as it is stored, of each picture.
            fingerprint: Of the other model.
            embed_dim: Width of its features.
            precisions: What they were computed in; None among them where that is not known.

        Returns:
            The new ``uid``. Attributes of this object are the caller's to set, when the
            transaction has ended.
        """
        generation, uid = self._next_generation, uuid.uuid4().hex
        columns = "(row, feature, generation)"
        self.connection.write(
            f"INSERT OR REPLACE INTO features {columns} SELECT row, feature, ? FROM ({select})",  # noqa: S608
            (generation,),
        )
        self.connection.write("DELETE FROM features WHERE generation <> ?", (generation,))
        self.connection.write("DELETE FROM removed", ())
        known = sorted(precision for precision in precisions if precision is not None)
        is_known = known and None not in precisions
        for key, value in {
            "fingerprint": fingerprint,
            "embed_dim": str(embed_dim),
            "uid": uid,
            UID_BEFORE: self.uid,
            "removals_since": str(generation),
            "precision": ",".join(known) if is_known else None,
            "calibration": None,
        }.items():
            self._note(key, value)
        self._features_changed = True
        return uid

    def _store(self, row: int, blob: bytes) -> None:
        self.connection.write(_STORE, (row, blob, self._next_generation))
        self._features_changed = True

    # Files that failed

    def fail(self, path: bytes, size: int | None, mtime_ns: int | None, reason: str) -> None:
        """Set a file aside; see :class:`~retrieval.records.Failure`."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        sql = "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?)"
        self.connection.write(sql, Failure(path, size, mtime_ns, reason, now))

    def forgive(self, path: bytes) -> None:
        """Forget a failure."""
        self.connection.write("DELETE FROM failures WHERE path = ?", (path,))

    # What a walk has seen

    def mark_seen(self, paths: Iterable[bytes]) -> None:
        """Note files as still there, for :meth:`unseen_under`; forgotten on closing."""
        for path in paths:
            self.connection.write("INSERT OR IGNORE INTO temp.seen VALUES (?)", (path,))

    def unseen_under(self, folder: bytes, table: str = "images") -> list[bytes]:
        """Read the paths below a folder that no :meth:`mark_seen` named, in byte order.

        Args:
            folder: The folder, as the file system spells it.
            table: Which paths: ``images``, those of folders, or ``failures``.
        """
        of_folders = {"images": "AND root IS NOT NULL ", "failures": ""}[table]
        sql = (
            f"SELECT path FROM {table} WHERE path >= ? AND path < ? {of_folders}"  # noqa: S608
            "AND path NOT IN (SELECT path FROM temp.seen) ORDER BY path"
        )
        return [path for (path,) in self.connection.read(sql, bounds_under(folder))]
