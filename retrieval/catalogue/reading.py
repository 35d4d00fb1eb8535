"""The catalogue as everybody reads it, whoever writes meanwhile."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from retrieval.catalogue.changes import Change
from retrieval.catalogue.connection import Connection
from retrieval.catalogue.filters import Filters
from retrieval.catalogue.halves import HALF, SINGLE, StoredFeature, as_stored, decode
from retrieval.catalogue.opening import connect_reader
from retrieval.catalogue.schema import CATALOGUE_NAME
from retrieval.catalogue.sources import Sources
from retrieval.catalogue.store import check_model
from retrieval.catalogue.words import Words
from retrieval.errors import IndexMismatchError, IndexNotFoundError
from retrieval.protocols import Feature, Features, Rows
from retrieval.records import Failure, Picture, Record, bounds_under

__all__ = ["COLUMNS", "UID_BEFORE", "CatalogueReader"]

COLUMNS = ", ".join(Picture._fields)
UID_BEFORE = "uid_before_exchange"
"""Under which meta says what the catalogue's uid was while it had another model's features."""
_PAGE = 1024  # rows of text
_FEATURE_PAGE = 32768  # rows of features, 64 MiB at width 512
_TRIED = 4  # numbers of rows for each that is drawn at random

_SELECT = f"SELECT row, {COLUMNS} FROM images"  # noqa: S608  (field names, no input)
_SELECT_WITH_TEXT = (
    f"SELECT row, {COLUMNS}, text FROM images LEFT JOIN recognised USING (content_hash)"  # noqa: S608
)


class _Layout(NamedTuple):
    """Where a catalogue keeps its features.

    Args:
        table: The table of them.
        by_generation: Its index on their generation.
        dtype: What the blobs hold.
    """

    table: str
    by_generation: str
    dtype: np.dtype[np.floating]


_LAYOUTS = {
    "1": _Layout("images", "images_by_generation", SINGLE),
    "2": _Layout("features", "features_by_generation", HALF),
}


class CatalogueReader:
    """The pictures of one index folder, their features, and the files that failed.

    Safe to use from several threads: one connection behind one lock. Other processes
    may read while one writes (SQLite's write-ahead log). Catalogues of schema 1 are read as
    they are: only who writes may upgrade them.

    Args:
        connection: To a file that holds the catalogue's tables.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        """For the other modules of this room."""
        self.filters = Filters(connection)
        """Selects pictures by what is said of them, and counts what is said."""
        self.words = Words(connection)
        """Ranks pictures by the words that are said of them."""
        self._keeps_texts = False
        self.sources = Sources(connection)
        """Knows which data sets items are of."""
        self.uid = self._meta("uid")
        """Drawn at random when the catalogue is created; ties derived files to it."""
        self.fingerprint = self._meta("fingerprint")
        """Identifies the model the features came from."""
        self.embed_dim = int(self._meta("embed_dim"))
        """Width of the features."""

    @classmethod
    def open(cls, index_dir: Path) -> Self:
        """Open the catalogue for reading; works while another process writes.

        Raises:
            IndexNotFoundError: If there is none.
            CorruptIndexError: If the file is damaged or of an unknown schema version.
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
        check_model(
            self,
            fingerprint=fingerprint,
            embed_dim=embed_dim,
            elsewhere="into another index folder; clip-text index migrate moves this one",
        )

    # Pictures

    def __len__(self) -> int:
        return int(self.connection.read("SELECT count(*) FROM images")[0][0])

    def __iter__(self) -> Iterator[Record]:
        """Go through all pictures in the order of their rows."""
        last = 0
        while page := self.connection.read(
            f"{_SELECT} WHERE row > ? ORDER BY row LIMIT {_PAGE}", (last,)
        ):
            yield from map(_record, page)
            last = page[-1][0]

    @property
    def generation(self) -> int:
        """Grows by one with every transaction that changes features."""
        return int(self._meta("generation"))

    def has_moved_on_from(self, uid: str, generation: int) -> bool:
        """Tell whether it is what another state was, but for features of another model.

        Args:
            uid: Of the other state.
            generation: Of the other state.
        """
        with self.snapshot():
            is_next = self._noted(UID_BEFORE) == uid and self.generation == generation + 1
            # the exchange begins the record of removals anew
            return is_next and self._noted("removals_since") == str(self.generation)

    @property
    def precisions(self) -> tuple[str, ...]:
        """What the features are computed in, in alphabetical order; empty where nobody said."""
        stored = self._noted("precision")
        return tuple(stored.split(",")) if stored else ()

    @property
    def calibration(self) -> str | None:
        """What turns its scores into probabilities, as JSON; None where nobody fitted it."""
        return self._noted("calibration")

    @property
    def schema_version(self) -> int:
        """Of the tables as they are in the file."""
        return int(self._meta("schema_version"))

    @property
    def is_replaced(self) -> bool:
        """True if the file is gone, or another one has taken its place, or it was upgraded.

        Or if it has changed and this connection, in a folder that could not be written,
        does not see that.
        """
        return self.connection.is_replaced or self._meta("uid") != self.uid

    def find(self, path: bytes) -> Record | None:
        """Find the picture of a folder at a path, as the file system spells it."""
        sql = f"{_SELECT} WHERE path = ? AND root IS NOT NULL"
        return self._first(sql, path)

    def find_item(self, image_id: str) -> Record | None:
        """Find the picture from outside a folder that was added under an id."""
        return self._first(f"{_SELECT} WHERE image_id = ? AND root IS NULL", image_id)

    def find_id(self, image_id: str, limit: int = 10) -> list[Record]:
        """Find the pictures that an id may mean, in the order of their rows.

        Args:
            image_id: That of a picture from outside a folder, of which there is one at most; or,
                where there is none, the path of a picture below its folder, which several
                folders may have.
            limit: How many at most.
        """
        if item := self.find_item(image_id):
            return [item]
        sql = f"{_SELECT} WHERE image_id = ? AND root IS NOT NULL ORDER BY row LIMIT ?"
        return [_record(values) for values in self.connection.read(sql, (image_id, limit))]

    def find_content(self, content_hash: bytes) -> tuple[Record, StoredFeature] | None:
        """Find some picture with this content, and its feature as it is stored, [embed_dim]."""
        selected = self.connection.read(
            f"SELECT row, {COLUMNS}, feature FROM images JOIN features USING (row) "  # noqa: S608
            "WHERE content_hash = ? ORDER BY row LIMIT 1",
            (content_hash,),
        )
        if not selected:
            return None
        *values, blob = selected[0]
        return _record(tuple(values)), as_stored(blob)

    def find_all_content(self, content_hash: bytes) -> list[Record]:
        """Find all pictures of folders with this content, in the order of their rows."""
        sql = f"{_SELECT} WHERE content_hash = ? AND root IS NOT NULL ORDER BY row"
        return [_record(values) for values in self.connection.read(sql, (content_hash,))]

    def paths_of(self, content_hash: bytes) -> set[bytes]:
        """Read in which files pictures with this content are, those of items included."""
        sql = "SELECT DISTINCT path FROM images WHERE content_hash = ? AND path IS NOT NULL"
        return {path for (path,) in self.connection.read(sql, (content_hash,))}

    def records(self, rows: Iterable[int]) -> dict[int, Record]:
        """Read the pictures of these rows; rows that are gone are absent from the answer."""
        return {values[0]: _record(values) for values in self._of_rows(_SELECT, rows)}

    def present(self, rows: Iterable[int]) -> set[int]:
        """Read of which of these rows there are pictures; reads nothing else of them."""
        return {row for (row,) in self._of_rows("SELECT row FROM images", rows)}

    def records_and_texts(self, rows: Iterable[int]) -> tuple[dict[int, Record], dict[int, str]]:
        """Read the pictures of these rows, and the text that was read in them, at once.

        Returns:
            The pictures as :meth:`records` gives them, and, by row, the text of those that were
            read, empty where there was none.
        """
        if not self._keeps_texts:  # once it does, it always will
            self._keeps_texts = self.words.keeps_texts()
        if not self._keeps_texts:
            return self.records(rows), {}
        selected = self._of_rows(_SELECT_WITH_TEXT, rows)
        records = {values[0]: _record(values[:-1]) for values in selected}
        return records, {values[0]: values[-1] for values in selected if values[-1] is not None}

    def count_under(self, folder: bytes) -> int:
        """Count the pictures of folders below a folder."""
        sql = "SELECT count(*) FROM images WHERE path >= ? AND path < ? AND root IS NOT NULL"
        return int(self.connection.read(sql, bounds_under(folder))[0][0])

    def count_of(self, root: bytes | None) -> int:
        """Count the pictures that belong to an indexed folder; None: those that are of none."""
        return int(
            self.connection.read("SELECT count(*) FROM images WHERE root IS ?", (root,))[0][0]
        )

    def roots(self) -> list[bytes]:
        """Read which indexed folders pictures belong to, in byte order."""
        roots: list[bytes] = []
        sql = "SELECT root FROM images WHERE root > ? ORDER BY root LIMIT 1"
        # From one root to the next by the index: DISTINCT would look at every picture.
        while next_root := self.connection.read(sql, (roots[-1] if roots else b"",)):
            roots.append(next_root[0][0])
        return roots

    # Features

    def rows(self, since: int = 0) -> Rows:
        """Read which rows have features written after a generation, ascending, int64 [n]."""
        with self.snapshot():
            layout = self._layout()
            # Named, since SQLite would rather read the whole table than sort a few rows.
            sql = (
                f"SELECT row FROM {layout.table} INDEXED BY {layout.by_generation} "  # noqa: S608
                "WHERE generation > ? ORDER BY row"
            )
            return _rows(self.connection.read(sql, (since,)))

    def features(self, since: int = 0) -> Iterator[tuple[Rows, Features]]:
        """Read features written after a generation, in the order of their rows, page by page.

        Args:
            since: A generation; 0 gives all features.

        Yields:
            Rows, int64 [n], and their features, unit rows [n, embed_dim].
        """
        wanted = self.rows(since)
        for start in range(0, len(wanted), _FEATURE_PAGE):
            rows, features = self._features(wanted[start : start + _FEATURE_PAGE])
            if len(rows):
                yield rows, features

    def features_of(self, rows: Iterable[int]) -> dict[int, Feature]:
        """Read the unit rows, [embed_dim], of some pictures; those that are gone are absent."""
        known, features = self._features(rows)
        return dict(zip(known.tolist(), features, strict=True))

    def draw(self, number: int, seed: int = 0) -> tuple[Rows, Features]:
        """Draw pictures at random, each at most once; what it costs follows their number.

        Args:
            number: How many; all of them, where there are fewer.
            seed: Of the draw; equal seeds draw the same from the same pictures.

        Returns:
            Rows, int64 [n], and their features, unit rows [n, embed_dim].
        """
        with self.snapshot():
            drawn = np.array(self._draw(number, np.random.default_rng(seed)), np.int64)
            _, features = self._features(drawn)
        # they come ascending
        return drawn, features[np.argsort(np.argsort(drawn))]

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
        recorded = self._noted("removals_since")
        if recorded is not None and int(recorded) <= since:
            sql = "SELECT row FROM removed WHERE generation > ? ORDER BY row"
            return _rows(self.connection.read(sql, (since,)))
        # Rows count up and none is used again: whichever is absent is gone.
        drawn = self.connection.read("SELECT seq FROM sqlite_sequence WHERE name = 'images'")
        last = int(drawn[0][0]) if drawn else 0
        return np.setdiff1d(np.arange(1, last + 1, dtype=np.int64), self.rows())

    @property
    def feature_dtype(self) -> np.dtype[np.floating]:
        """What the blobs hold that :meth:`stored_features` gives."""
        return self._layout().dtype

    def stored_features(self, page: int) -> Iterator[list[tuple[int, bytes]]]:
        """Read all features just as they are stored, ``page`` rows and blobs at a time.

        To be read inside :meth:`snapshot`, as :attr:`feature_dtype` is.
        """
        layout, last = self._layout(), -(2**63)
        sql = f"SELECT row, feature FROM {layout.table} WHERE row > ? ORDER BY row LIMIT ?"  # noqa: S608
        while selected := self.connection.read(sql, (last, page)):
            yield [(row, blob) for row, blob in selected]
            last = selected[-1][0]

    def _layout(self) -> _Layout:
        # Looked up each time: a writer may upgrade the catalogue under its readers, or exchange
        # its features for those of another model.
        if (fingerprint := self._meta("fingerprint")) != self.fingerprint:
            raise IndexMismatchError(
                f"expected features of the model with fingerprint {self.fingerprint}, got those of "
                f"{fingerprint}, to which the index was moved since it was opened. Open it anew, "
                "with that model."
            )
        return _LAYOUTS[self._meta("schema_version")]

    def _features(self, rows: Iterable[int]) -> tuple[Rows, Features]:
        """Read the unit rows of some pictures, ascending; those that are gone are absent."""
        wanted, found = list(rows), []
        if wanted:
            with self.snapshot():
                layout = self._layout()
                found = self._of_rows(f"SELECT row, feature FROM {layout.table}", wanted)  # noqa: S608
        if not found:
            return np.empty(0, np.int64), np.empty((0, self.embed_dim), np.float32)
        known = np.array([row for row, _ in found], np.int64)
        return known, decode([blob for _, blob in found], layout.dtype)

    def _draw(self, number: int, rng: np.random.Generator) -> list[int]:
        """Draw numbers of rows that have features, in no order."""
        table = self._layout().table
        last = self.connection.read(f"SELECT max(row) FROM {table}")[0][0] or 0  # noqa: S608
        # Most numbers have pictures: only where many were removed, all rows are read.
        tried = (rng.choice(last, min(last, _TRIED * number), replace=False) + 1).tolist()
        known: set[int] = set()
        for start in range(0, len(tried), number):
            selected = self._of_rows(f"SELECT row FROM {table}", tried[start : start + number])  # noqa: S608
            known.update(row for (row,) in selected)
            if len(known) >= number:
                break
        else:
            if len(tried) < last:
                drawn: list[int] = rng.permutation(self.rows())[:number].tolist()
                return drawn
        return [row for row in tried if row in known][:number]

    def _of_rows(self, select: str, rows: Iterable[int]) -> list[tuple[Any, ...]]:
        """Have a statement without conditions select what there is of these rows."""
        wanted = sorted({int(row) for row in rows})
        selected: list[tuple[Any, ...]] = []
        for start in range(0, len(wanted), _PAGE):
            part = wanted[start : start + _PAGE]
            marks = ", ".join("?" * len(part))
            selected += self.connection.read(f"{select} WHERE row IN ({marks}) ORDER BY row", part)
        return selected

    # Files that failed

    def failure(self, path: bytes) -> Failure | None:
        """Read why this file was set aside; None if it was not."""
        selected = self.connection.read("SELECT * FROM failures WHERE path = ?", (path,))
        return Failure(*selected[0]) if selected else None

    def failures(self) -> list[Failure]:
        """Read all files set aside, in byte order of their paths."""
        return [
            Failure(*values)
            for values in self.connection.read("SELECT * FROM failures ORDER BY path")
        ]

    def snapshot(self) -> contextlib.AbstractContextManager[None]:
        """Let everything read inside belong to one moment, whoever writes meanwhile."""
        return self.connection.snapshot()

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _meta(self, key: str) -> str:
        value = self._noted(key)
        assert value is not None
        return value

    def _noted(self, key: str) -> str | None:
        """Read what meta says under a key that not every catalogue has."""
        stored = self.connection.read("SELECT value FROM meta WHERE key = ?", (key,))
        return str(stored[0][0]) if stored else None

    def _first(self, sql: str, value: bytes | str) -> Record | None:
        selected = self.connection.read(sql, (value,))
        return _record(selected[0]) if selected else None


def _record(values: tuple[Any, ...]) -> Record:
    return Record(values[0], Picture(*values[1:]))


def _rows(selected: list[tuple[int]]) -> Rows:
    return np.fromiter((row for (row,) in selected), np.int64, len(selected))
