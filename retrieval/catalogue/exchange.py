"""The features of an index exchanged for those of another model, all in one transaction.

What the other model makes of the pictures is gathered beforehand, in a file of its own, whoever
writes to the index meanwhile. The pictures keep their rows and all that is said of them.
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Self

import numpy as np

from retrieval.catalogue.catalogue import Catalogue
from retrieval.catalogue.halves import HALF, StoredFeature, decode, encode
from retrieval.catalogue.reading import CatalogueReader
from retrieval.catalogue.schema import CATALOGUE_NAME
from retrieval.catalogue.trouble import is_damage, raise_if_damaged
from retrieval.errors import CorruptIndexError, IndexMismatchError, StorageError
from retrieval.protocols import Feature
from retrieval.records import Picture

__all__ = [
    "GATHERED_NAME",
    "GatheredFeatures",
    "copy_catalogue",
    "cut_features",
    "exchange_features",
    "key_of",
    "lacking",
]

GATHERED_NAME = "features.sqlite"
_KEY = "coalesce(images.content_hash, images.path)"
_TABLES = (
    "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, feature BLOB NOT NULL)",
)
_LACKING = (
    "SELECT row FROM images WHERE NOT EXISTS "  # noqa: S608  (names of ours)
    f"(SELECT 1 FROM gathered.features WHERE key = {_KEY}) ORDER BY row"
)
_GATHERED = (
    "SELECT images.row AS row, gathered.features.feature AS feature FROM images "  # noqa: S608
    f"JOIN gathered.features ON gathered.features.key = {_KEY}"
)
_CUT = "SELECT row, cut_feature(feature) AS feature FROM features"
_PAGE = 500


def key_of(picture: Picture) -> bytes | None:
    """Say under what a picture's feature is gathered: its content, or else its file.

    None for a picture of which there is nothing but the feature it came with.
    """
    return picture.path if picture.content_hash is None else picture.content_hash


class GatheredFeatures:
    """What a model makes of pictures, by their contents, in a file that a killed process leaves.

    Used by one thread; :func:`lacking` and :func:`exchange_features` read it beside that.

    Args:
        db: Open for writing.
        path: The file.
    """

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self.path = path
        """The file."""
        self.fingerprint = self._noted("fingerprint")
        """Identifies the model."""
        self.embed_dim = int(self._noted("embed_dim"))
        """Width of the features."""
        self.model = self._noted("model")
        """What people call the model."""

    @classmethod
    def open(cls, path: Path) -> Self | None:
        """Open what was begun; None where nothing was.

        Raises:
            CorruptIndexError: If the file is damaged.
            StorageError: If it cannot be read or written.
        """
        if not path.is_file():
            return None
        with _told(path):
            db = _connect(path)
            if db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None:
                db.close()  # killed before its first commit
                return None
            return cls(db, path)

    @classmethod
    def begin(cls, path: Path, *, fingerprint: str, embed_dim: int, model: str) -> Self:
        """Open what was begun, or begin.

        Args:
            path: The file, in a folder that is there.
            fingerprint: Of the model.
            embed_dim: Width of its features.
            model: What people call it.

        Raises:
            IndexMismatchError: If something was gathered of another model.
            CorruptIndexError: If the file is damaged.
            StorageError: If it cannot be read or written.
        """
        begun = cls.open(path)
        model_of = {"fingerprint": fingerprint, "embed_dim": str(embed_dim), "model": model}
        if begun is None or not len(begun):  # nothing is lost with what has come to nothing
            if begun is not None:
                begun.close()
            with _told(path):
                db = _connect(path)
                db.execute("BEGIN IMMEDIATE")
                for statement in _TABLES:
                    db.execute(statement)
                db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", model_of.items())
                db.execute("COMMIT")
                return cls(db, path)
        if (begun.fingerprint, begun.embed_dim) != (fingerprint, embed_dim):
            begun.close()
            raise IndexMismatchError(
                f"expected to go on to {begun.model} (fingerprint {begun.fingerprint}, width "
                f"{begun.embed_dim}), with which {path.parent} was begun, got {model} "
                f"({fingerprint}, width {embed_dim}). Go on with that one, or forget what was "
                "encoded: clip-text index migrate --abandon."
            )
        return begun

    def __len__(self) -> int:
        with _told(self.path):
            return int(self._db.execute("SELECT count(*) FROM features").fetchone()[0])

    def __contains__(self, key: bytes) -> bool:
        with _told(self.path):
            sql = "SELECT 1 FROM features WHERE key = ?"
            return self._db.execute(sql, (key,)).fetchone() is not None

    @property
    def precisions(self) -> set[str | None]:
        """What the features were computed in; None among them where that is not known of all."""
        stored = self._db.execute("SELECT value FROM meta WHERE key = 'precisions'").fetchone()
        return set(json.loads(stored[0])) if stored else set()

    def keep(
        self,
        features: Mapping[bytes, Feature | StoredFeature],
        precisions: Collection[str | None],
    ) -> None:
        """Keep features, each [embed_dim], by the keys that :func:`key_of` gives.

        Args:
            features: All of them, or, if it fails, none.
            precisions: What they were computed in; None where nobody said.

        Raises:
            StorageError: If the disk is full or failing.
        """
        with _told(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                known = json.dumps(sorted(self.precisions | set(precisions), key=str))
                self._db.execute("INSERT OR REPLACE INTO meta VALUES ('precisions', ?)", (known,))
                stored = [(key, encode(row, self.embed_dim)) for key, row in features.items()]
                self._db.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", stored)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _noted(self, key: str) -> str:
        return str(self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0])


def lacking(catalogue: CatalogueReader, gathered: GatheredFeatures) -> list[int]:
    """Read of which rows, ascending, no feature was gathered yet, as of one moment."""
    with _attached(catalogue, gathered):
        return [row for (row,) in catalogue.connection.read(_LACKING)]


def exchange_features(
    catalogue: Catalogue, gathered: GatheredFeatures, gone: Iterable[int] = ()
) -> None:
    """Put what was gathered in the place of all features: from then on it is the model's index.

    One transaction: whoever reads, and whatever ends it halfway, has the index as it was before or
    as it is afterwards. It needs the room of all features twice, until it has ended.

    Args:
        catalogue: Open for writing, by who holds the lock.
        gathered: Of all pictures but those that are to be forgotten.
        gone: Rows of pictures to forget in the same transaction.

    Raises:
        StorageError: If the disk is full or failing; nothing has changed then.
        ValueError: If something was not gathered; nothing has changed then.
    """
    with _attached(catalogue, gathered):
        with catalogue.transaction():
            catalogue.remove(gone)
            if left := catalogue.connection.read(_LACKING):
                raise ValueError(
                    f"expected a feature of each picture, got none of {len(left)}. Gather them."
                )
            uid = catalogue.exchange_features(
                _GATHERED,
                fingerprint=gathered.fingerprint,
                embed_dim=gathered.embed_dim,
                precisions=gathered.precisions,
            )
        catalogue.uid, catalogue.fingerprint = uid, gathered.fingerprint
        catalogue.embed_dim = gathered.embed_dim
    _shorten_log(catalogue)


def cut_features(catalogue: Catalogue, *, fingerprint: str, embed_dim: int) -> None:
    """Cut all features to their first dimensions, as unit rows again, in one transaction.

    Args:
        catalogue: Open for writing, by who holds the lock.
        fingerprint: Of the model whose rows are cut so.
        embed_dim: How many dimensions stay.

    Raises:
        StorageError: If the disk is full or failing; nothing has changed then.
    """

    def cut(blob: bytes) -> bytes:
        row = decode([blob], HALF)[0, :embed_dim]
        length = float(np.linalg.norm(row)) or 1.0  # a row of zeros stays one: verifying tells
        return (row / length).astype(HALF).tobytes()

    catalogue.connection.db.create_function("cut_feature", 1, cut, deterministic=True)
    precisions: tuple[str | None, ...] = catalogue.precisions or (None,)
    with catalogue.transaction():
        uid = catalogue.exchange_features(
            _CUT, fingerprint=fingerprint, embed_dim=embed_dim, precisions=precisions
        )
    catalogue.uid, catalogue.fingerprint, catalogue.embed_dim = uid, fingerprint, embed_dim
    _shorten_log(catalogue)


def copy_catalogue(catalogue: Catalogue, folder: Path) -> int:
    """Copy a catalogue into another folder, whole or not at all; an index of its own then.

    Args:
        catalogue: As it is now.
        folder: Where it is to be; it is not there yet.

    Returns:
        How many bytes the copy has.

    Raises:
        StorageError: If the disk is full or failing.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    place = partial / CATALOGUE_NAME
    try:
        partial.mkdir(parents=True, exist_ok=True)
        for left in partial.iterdir():  # by who was killed
            left.unlink()
        copy = sqlite3.connect(place, isolation_level=None)
        try:
            catalogue.connection.db.backup(copy)
        finally:
            copy.close()
        size = place.stat().st_size
        partial.rename(folder)
    except sqlite3.DatabaseError as error:
        raise_if_damaged(place, error)
        raise
    except OSError as error:
        raise StorageError(
            f"expected to keep the index as it is in {folder}, got: {error.strerror or error}. "
            "Free some space; nothing has changed."
        ) from error
    return size


@contextlib.contextmanager
def _attached(catalogue: CatalogueReader, gathered: GatheredFeatures) -> Iterator[None]:
    """Let the statements of a catalogue's connection read what was gathered."""
    db = catalogue.connection.db
    db.execute("ATTACH DATABASE ? AS gathered", (os.path.abspath(gathered.path),))  # noqa: PTH100
    try:
        yield
    finally:
        db.execute("DETACH DATABASE gathered")


def _shorten_log(catalogue: Catalogue) -> None:
    """Have the log, which holds all features, go back to nothing, if nobody reads from it."""
    with contextlib.suppress(sqlite3.OperationalError):
        catalogue.connection.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    # A power cut may rob it of what was encoded last, which is encoded again.
    db.execute("PRAGMA synchronous = NORMAL")
    return db


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say what is wrong with the file in our words."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            raise CorruptIndexError(
                f"expected the features of a migration in {path}, got a damaged file ({error}). "
                "Begin again, after: clip-text index migrate --abandon."
            ) from error
        raise_if_damaged(path, error)
        raise
