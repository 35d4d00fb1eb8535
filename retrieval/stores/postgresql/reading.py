"""A collection as everybody reads it, whoever writes meanwhile."""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from retrieval.catalogue.halves import StoredFeature
from retrieval.catalogue.store import check_model
from retrieval.features import unit_rows
from retrieval.protocols import Feature, Features, Rows
from retrieval.records import Failure, Picture, Record, bounds_under
from retrieval.stores.address import StoreAddress
from retrieval.stores.postgresql.filters import PostgresFilters
from retrieval.stores.postgresql.look import Look
from retrieval.stores.postgresql.opening import Opened
from retrieval.stores.postgresql.sources import PostgresSources
from retrieval.stores.postgresql.trouble import missing
from retrieval.stores.postgresql.words import PostgresWords

__all__ = ["COLUMNS", "Reading", "hash_of", "record_of"]

COLUMNS = ", ".join(f"i.{name}" for name in Picture._fields)
_SELECT = f"SELECT i.row, {COLUMNS} FROM {{pictures}} i"  # noqa: S608  (field names, no input)
_PAGE = 1024  # rows of text
_FEATURE_PAGE = 8192
_TRIED = 4  # numbers of rows for each that is drawn at random
# Of long values an index has the beginning: what is compared with it comes along.
_UNDER = (
    "i.root IS NOT NULL AND i.path >= %s AND i.path < %s "
    "AND substr(i.path, 1, 500) >= substr(%s::bytea, 1, 500) "
    "AND substr(i.path, 1, 500) <= substr(%s::bytea, 1, 500)"
)


def hash_of(text: str) -> bytes:
    """Give what stands for a text, however long, where there may be only one of each."""
    return hashlib.blake2b(text.encode(), digest_size=20).digest()


def record_of(values: Sequence[Any]) -> Record:
    """Read a line of the pictures: row, then the fields of a picture."""
    return Record(values[0], Picture(*values[1:]))


class Reading:
    """See :class:`~retrieval.catalogue.store.ReadableStore`.

    Args:
        address: Of the collection.
        opened: It.
    """

    def __init__(self, address: StoreAddress, opened: Opened) -> None:
        self.address = address
        self.names = opened.names
        self.connections = opened.connections
        self.uid = opened.meta["uid"]
        """Drawn at random when the collection is made; another one is another index."""
        self.fingerprint = opened.meta["fingerprint"]
        """Identifies the model that the features came from."""
        self.embed_dim = int(opened.meta["embed_dim"])
        """Width of the features."""
        look = Look(self.names, self.read)
        self.filters = PostgresFilters(look, self.names, self.read)
        """Selects pictures by what is said of them, and counts what is said."""
        self.words = PostgresWords(look, self.names, self.read)
        """Ranks pictures by the words that are said of them."""
        self.sources = PostgresSources(self.names, self.read)
        """Knows which data sets items are of."""

    def read(
        self,
        template: str,
        values: Sequence[Any] = (),
        touching: str | bytes | int | None = None,  # noqa: ARG002  (for who writes)
    ) -> list[tuple[Any, ...]]:
        """Have a statement, with ``{pictures}`` for a table and the like, select.

        Args:
            template: The statement.
            values: What stands for its ``%s``.
            touching: All that the answer depends on: an id, a path or a content; the row, of an
                item's data set; None for more than that.
        """
        return self.connections.read(self.names.statement(template), values)

    def check_model(self, *, fingerprint: str, embed_dim: int) -> None:
        """Refuse a model other than the one the features came from.

        Raises:
            IndexMismatchError: If the fingerprint or the embed_dim differs.
        """
        check_model(
            self, fingerprint=fingerprint, embed_dim=embed_dim, elsewhere="into another table"
        )

    # What it says of itself

    @property
    def generation(self) -> int:
        """Another number after each transaction that changes features."""
        return int(self.noted("generation") or 0)

    @property
    def precisions(self) -> tuple[str, ...]:
        """What the features are computed in, in alphabetical order; empty where nobody said."""
        stored = self.noted("precision")
        return tuple(stored.split(",")) if stored else ()

    @property
    def calibration(self) -> str | None:
        """What turns its scores into probabilities, as JSON; None where nobody fitted it."""
        return self.noted("calibration")

    def state(self) -> str:
        """Name what a searcher holds on to; see :class:`~retrieval.stores.opening.RemoteStore`."""
        sql = "SELECT key, value FROM {meta} WHERE key IN ('uid', 'calibration')"
        said = dict(self.read(sql))
        if "uid" not in said:
            raise missing(self.address)
        calibration = hash_of(said["calibration"]).hex() if "calibration" in said else "none"
        return f"{said['uid']} {calibration}"

    @property
    def schema_version(self) -> int:
        """Of the tables as they are in the database."""
        return int(self.noted("schema_version") or 0)

    def noted(self, key: str) -> str | None:
        """Read what the collection says under a key."""
        stored = self.read("SELECT value FROM {meta} WHERE key = %s", (key,))
        return str(stored[0][0]) if stored else None

    # Pictures

    def __len__(self) -> int:
        return int(self.read("SELECT count(*) FROM {pictures}")[0][0])

    def __iter__(self) -> Iterator[Record]:
        """Go through all pictures in the order of their rows."""
        last = 0
        sql = f"{_SELECT} WHERE i.row > %s ORDER BY i.row LIMIT {_PAGE}"
        while page := self.read(sql, (last,)):
            yield from map(record_of, page)
            last = page[-1][0]

    def present(self, rows: Iterable[int]) -> set[int]:
        """Tell which of these rows have pictures."""
        sql = "SELECT row FROM {pictures} WHERE row = ANY(%s::bigint[])"
        return {row for (row,) in self.read(sql, (list(rows),))}

    def find(self, path: bytes) -> Record | None:
        """Find the picture of a folder at a path, as the file system spells it."""
        return self._first(
            "WHERE sha256(i.path) = sha256(%s::bytea) AND i.root IS NOT NULL AND i.path = %s",
            (path, path),
            path,
        )

    def find_from(self, path: bytes, limit: int) -> list[Record]:
        """Find the pictures of folders from a path on, in byte order."""
        sql = (
            f"{_SELECT} WHERE i.root IS NOT NULL AND i.path >= %s "
            "AND substr(i.path, 1, 500) >= substr(%s::bytea, 1, 500) "
            "ORDER BY substr(i.path, 1, 500), i.path LIMIT %s"
        )
        return [record_of(values) for values in self.read(sql, (path, path, limit))]

    def find_item(self, image_id: str) -> Record | None:
        """Find the picture from outside a folder that was added under an id."""
        return self._first(
            "WHERE i.id_hash = %s AND i.root IS NULL", (hash_of(image_id),), image_id
        )

    def find_items(self, image_ids: Sequence[str]) -> list[tuple[Record, str | None]]:
        """Find the pictures from outside a folder of some ids, and the data set of each."""
        sql = (
            f"SELECT i.row, {COLUMNS}, s.name FROM {{pictures}} i "  # noqa: S608
            "LEFT JOIN {source_items} o ON o.row = i.row LEFT JOIN {sources} s USING (source) "
            "WHERE i.id_hash = ANY(%s::bytea[]) AND i.root IS NULL"
        )
        found = self.read(sql, (list(map(hash_of, image_ids)),))
        return [(record_of(values[:-1]), values[-1]) for values in found]

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
        sql = f"{_SELECT} WHERE i.id_hash = %s AND i.root IS NOT NULL ORDER BY i.row LIMIT %s"
        return [record_of(values) for values in self.read(sql, (hash_of(image_id), limit))]

    def find_content(self, content_hash: bytes) -> tuple[Record, StoredFeature] | None:
        """Find some picture with this content, the first by row, and its feature as stored."""
        sql = (
            f"SELECT i.row, {COLUMNS}, v.feature FROM {{pictures}} i "  # noqa: S608
            "JOIN {features} v USING (row) WHERE i.content_hash = %s ORDER BY i.row LIMIT 1"
        )
        selected = self.read(sql, (content_hash,), content_hash)
        if not selected:
            return None
        *values, feature = selected[0]
        return record_of(values), feature

    def find_all_content(self, content_hash: bytes) -> list[Record]:
        """Find all pictures of folders with this content, in the order of their rows."""
        sql = f"{_SELECT} WHERE i.content_hash = %s AND i.root IS NOT NULL ORDER BY i.row"
        found = self.read(sql, (content_hash,), content_hash)
        return [record_of(values) for values in found]

    def paths_of(self, content_hash: bytes) -> set[bytes]:
        """Read in which files pictures with this content are, those of items included."""
        sql = "SELECT DISTINCT path FROM {pictures} WHERE content_hash = %s AND path IS NOT NULL"
        return {path for (path,) in self.read(sql, (content_hash,))}

    def records(self, rows: Iterable[int]) -> dict[int, Record]:
        """Read the pictures of these rows; rows that are gone are absent from the answer."""
        return {values[0]: record_of(values) for values in self._of_rows(_SELECT, rows)}

    def records_and_texts(self, rows: Iterable[int]) -> tuple[dict[int, Record], dict[int, str]]:
        """Read the pictures of these rows, and the text that was read in them, at once.

        It is empty of those in which there was none, and absent of those that were not read.
        """
        sql = (
            f"SELECT i.row, {COLUMNS}, r.text FROM {{pictures}} i "  # noqa: S608
            "LEFT JOIN {recognised} r USING (content_hash)"
        )
        selected = self._of_rows(sql, rows)
        records = {values[0]: record_of(values[:-1]) for values in selected}
        return records, {values[0]: values[-1] for values in selected if values[-1] is not None}

    def count_under(self, folder: bytes) -> int:
        """Count the pictures of folders below a folder."""
        low, high = bounds_under(folder)
        sql = f"SELECT count(*) FROM {{pictures}} i WHERE {_UNDER}"  # noqa: S608
        return int(self.read(sql, (low, high, low, high))[0][0])

    def count_of(self, root: bytes | None) -> int:
        """Count the pictures that belong to an indexed folder; None: those that are of none."""
        sql = "SELECT count(*) FROM {pictures} WHERE root IS NOT DISTINCT FROM %s::bytea"
        return int(self.read(sql, (root,))[0][0])

    def roots(self) -> list[bytes]:
        """Read which indexed folders pictures belong to, in byte order."""
        sql = "SELECT DISTINCT root FROM {pictures} WHERE root IS NOT NULL ORDER BY root"
        return [root for (root,) in self.read(sql)]

    def paths_under(self, folder: bytes, table: str) -> list[bytes]:
        """Read the paths below a folder of pictures of folders, or of failures, in byte order."""
        low, high = bounds_under(folder)
        if table == "images":
            sql = f"SELECT i.path FROM {{pictures}} i WHERE {_UNDER} ORDER BY i.path"  # noqa: S608
            return [path for (path,) in self.read(sql, (low, high, low, high))]
        sql = "SELECT path FROM {failures} WHERE path >= %s AND path < %s ORDER BY path"
        return [path for (path,) in self.read(sql, (low, high))]

    # Features

    def rows(self) -> Rows:
        """Read all rows, ascending, int64 [n]."""
        sql = "SELECT row FROM {features} ORDER BY row"
        return np.array([row for (row,) in self.read(sql)], np.int64)

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
            drawn = np.array(self._draw(max(1, number), np.random.default_rng(seed)), np.int64)
            _, features = self._features(drawn)
        # they come ascending
        return drawn, features[np.argsort(np.argsort(drawn))]

    def _draw(self, number: int, rng: np.random.Generator) -> list[int]:
        """Draw numbers of rows that have features, in no order."""
        last = self.read("SELECT max(row) FROM {features}")[0][0] or 0
        # Most numbers have pictures: only where many were removed, all rows are read.
        tried = (rng.choice(last, min(last, _TRIED * number), replace=False) + 1).tolist()
        known: set[int] = set()
        for start in range(0, len(tried), number):
            part = tried[start : start + number]
            known.update(row for (row,) in self._of_rows("SELECT i.row FROM {features} i", part))
            if len(known) >= number:
                break
        else:
            if len(tried) < last:
                drawn: list[int] = rng.permutation(self.rows())[:number].tolist()
                return drawn
        return [row for row in tried if row in known][:number]

    def _features(self, rows: Iterable[int]) -> tuple[Rows, Features]:
        """Read the unit rows of some pictures, ascending; those that are gone are absent."""
        sql = "SELECT i.row, i.feature FROM {features} i"
        found = self._of_rows(sql, rows, _FEATURE_PAGE)
        if not found:
            return np.empty(0, np.int64), np.empty((0, self.embed_dim), np.float32)
        known = np.array([row for row, _ in found], np.int64)
        return known, unit_rows(np.stack([feature for _, feature in found]))

    def _of_rows(
        self, select: str, rows: Iterable[int], page: int = _PAGE
    ) -> list[tuple[Any, ...]]:
        """Have a statement without conditions select what there is of these rows."""
        wanted = sorted({int(row) for row in rows})
        selected: list[tuple[Any, ...]] = []
        for start in range(0, len(wanted), page):
            part = wanted[start : start + page]
            selected += self.read(
                f"{select} WHERE i.row = ANY(%s::bigint[]) ORDER BY i.row", (part,)
            )
        return selected

    # Files that failed

    def failure(self, path: bytes) -> Failure | None:
        """Read why this file was set aside; None if it was not."""
        selected = self.read(
            "SELECT path, size, mtime_ns, reason, failed_at FROM {failures} "
            "WHERE path_hash = sha256(%s::bytea)",
            (path,),
        )
        return Failure(*selected[0]) if selected else None

    def failures(self) -> list[Failure]:
        """Read all files set aside, in byte order of their paths."""
        sql = "SELECT path, size, mtime_ns, reason, failed_at FROM {failures} ORDER BY path"
        return [Failure(*values) for values in self.read(sql)]

    def snapshot(self) -> contextlib.AbstractContextManager[None]:
        """Let everything this thread reads inside belong to one moment, whoever writes."""
        return self.connections.snapshot()

    def close(self) -> None:
        """End its connections."""
        self.connections.close()

    def _first(self, where: str, values: tuple[Any, ...], touching: str | bytes) -> Record | None:
        selected = self.read(f"{_SELECT} {where}", values, touching)
        return record_of(selected[0]) if selected else None
