"""The pictures of a collection, as everybody reads them."""

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from retrieval.catalogue.halves import StoredFeature
from retrieval.catalogue.store import Among, check_model
from retrieval.catalogue.words import Worded
from retrieval.errors import QueryError
from retrieval.features import unit_rows
from retrieval.protocols import Feature, Features, Rows, Scores
from retrieval.records import Record, bounds_under
from retrieval.stores.address import StoreAddress
from retrieval.stores.milvus.collection import Collection
from retrieval.stores.milvus.expressions import all_of, among_rows
from retrieval.stores.milvus.filters import MilvusFilters
from retrieval.stores.milvus.keys import ROWS_END, hash_of, row_of
from retrieval.stores.milvus.lookups import Lookups
from retrieval.stores.milvus.pending import Pending
from retrieval.stores.milvus.schema import RECORD_FIELDS, Stored, as_record, path_hash
from retrieval.stores.milvus.searching import Searches

__all__ = ["MilvusReader"]

_ROWS_AT_ONCE = 2000
_IN_FOLDER = "root_hash != 0"
_NO_FOLDER = "root_hash == 0"
_ALL_FIELDS = [*RECORD_FIELDS, "feature"]


class _NoWords:
    """A collection has no text index."""

    def __init__(self, address: StoreAddress) -> None:
        self._address = address

    def rank(self, text: str, limit: int, among: Among | None = None) -> Worded:  # noqa: ARG002
        """Refuse to rank: there is nothing to rank by.

        Raises:
            QueryError: Always.
        """
        raise self.refusal("Search without words (no --hybrid)")

    def keeps_texts(self) -> bool:
        """Say that there is no room for what was read in pictures."""
        return False

    def unread(self, folder: bytes) -> list[tuple[bytes, bytes]]:  # noqa: ARG002
        """Refuse to name what was not read: there is nowhere to keep it.

        Raises:
            QueryError: Always.
        """
        raise self.refusal("Index without reading texts (no --ocr)")

    def refusal(self, remedy: str) -> QueryError:
        """Say that there is no text index, and what to do."""
        return QueryError(
            f"expected an index with a text index, got {self._address}: indexes on Milvus have "
            f"none. {remedy}, or keep the index in a folder or in PostgreSQL."
        )


class MilvusReader:
    """The pictures of one index. Safe to use from several threads.

    Args:
        collection: Where they are.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._lookups = Lookups(collection)
        self._searches = Searches(collection)
        self.filters = MilvusFilters(collection)
        """Selects pictures by what is said of them, and counts what is said."""
        self.words = _NoWords(collection.address)
        """Refuses to rank by words."""

    def _now_pending(self) -> Pending | None:
        """Give what the transaction of this thread is to write; None outside of one."""
        return None

    # What the index says of itself

    @property
    def uid(self) -> str:
        """Drawn at random when the collection was made."""
        return self._collection.look().said["uid"]

    @property
    def fingerprint(self) -> str:
        """Identifies the model that the features came from."""
        return self._collection.look().said["fingerprint"]

    @property
    def embed_dim(self) -> int:
        """Width of the features."""
        return int(self._collection.look().said["embed_dim"])

    @property
    def generation(self) -> int:
        """Grows with every transaction: the server's time of the last, below 2**53."""
        said = self._collection.look().said.items()
        times = [int(text) for key, text in said if key.startswith("written.")]
        last = max(times, default=0)
        # milliseconds stand above 18 bits that count within one
        return (last >> 18 << 8) + min(last & 0x3FFFF, 0xFF)

    @property
    def precisions(self) -> tuple[str, ...]:
        """What the features are computed in, in alphabetical order; empty where nobody said."""
        stored = self._said("precisions")
        return tuple(stored.split(",")) if stored else ()

    @property
    def calibration(self) -> str | None:
        """What turns its scores into probabilities, as JSON; None where nobody fitted it."""
        return self._said("calibration")

    def _said(self, key: str) -> str | None:
        pending = self._now_pending()
        if pending is not None and key in pending.said:
            return pending.said[key] or None
        return self._collection.look().said.get(key) or None

    def check_model(self, *, fingerprint: str, embed_dim: int) -> None:
        """Refuse a model other than the one the features came from.

        Raises:
            IndexMismatchError: If the fingerprint or the embed_dim differs.
        """
        check_model(
            self, fingerprint=fingerprint, embed_dim=embed_dim, elsewhere="under another name"
        )

    @property
    def schema_version(self) -> int:
        """Of the collection."""
        return int(self._said("schema") or 0)

    def vectors(self) -> dict[str, int | str]:
        """Tell what vectors are searched with."""
        moment, server = self._collection.look_anew(), self._collection.server
        state = server.index_state(moment.name)
        told: dict[str, int | str] = {"engine": f"Milvus {server.version}", "state": "served"}
        for key in ("index_type", "nlist", "indexed_rows", "total_rows"):
            if key in state:
                told[key] = str(state[key])
        return told

    def state(self) -> str:
        """Name the state that a searcher holds on to; see RemoteStore."""
        moment = self._collection.look_anew()
        calibration = moment.said.get("calibration", "")
        return f"{moment.said['uid']} {hash_of(calibration.encode())}"

    # Pictures

    def __len__(self) -> int:
        pending = self._now_pending()
        if not pending:
            return self._collection.count()
        touched = sorted(pending.removed | pending.drafts.keys())
        others = self._collection.count()
        for start in range(0, len(touched), _ROWS_AT_ONCE):
            others -= self._collection.count(among_rows(touched[start : start + _ROWS_AT_ONCE]))
        return others + len(pending.drafts)

    def __iter__(self) -> Iterator[Record]:
        """Go through all pictures in the order of their rows."""
        for page in self._collection.pages("", RECORD_FIELDS):
            yield from (as_record(entity).record for entity in page)

    def present(self, rows: Iterable[int]) -> set[int]:
        """Tell which of these rows have pictures."""
        return {one.record.row for one in self._fetch(rows)}

    def records(self, rows: Iterable[int]) -> dict[int, Record]:
        """Read the pictures of these rows; rows that are gone are absent from the answer."""
        return {stored.record.row: stored.record for stored in self._fetch(rows)}

    def records_and_texts(self, rows: Iterable[int]) -> tuple[dict[int, Record], dict[int, str]]:
        """Read the pictures of these rows; no text is kept that was read in them."""
        return self.records(rows), {}

    def find_id(self, image_id: str, limit: int = 10) -> list[Record]:
        """Find the pictures that an id may mean, in the order of their rows.

        Args:
            image_id: That of a picture from outside a folder; or, where there is none, the path
                of a picture below its folder, which several folders may have.
            limit: How many at most.
        """
        stored = self._asked(
            f"id_hash == {hash_of(image_id.encode())}",
            lambda record: record.picture.image_id == image_id,
        )
        records = [one.record for one in stored]
        items = [record for record in records if record.picture.root is None]
        return items[:1] or records[:limit]

    def find(self, path: bytes) -> Record | None:
        """Find the picture of a folder at a path, as the file system spells it.

        What others wrote in the last ten seconds may be missing.
        """
        stored = self._over(
            self._lookups.find(path),
            lambda record: record.picture.root is not None and record.picture.path == path,
        )
        return stored[0].record if stored else None

    def find_item(self, image_id: str) -> Record | None:
        """Find the picture from outside a folder that was added under an id."""

        def is_asked(record: Record) -> bool:
            return record.picture.image_id == image_id and record.picture.root is None

        ahead = self._lookups.item(image_id)
        if ahead is not None:
            pending = self._now_pending()
            stored = ahead
            if pending is not None:
                stored = pending.over(ahead, is_asked, pending.rows_of(image_id))
            return stored[0].record if stored else None
        condition = all_of(f"id_hash == {hash_of(image_id.encode())}", _NO_FOLDER)
        stored = self._asked(condition, is_asked)
        if not stored:
            self._lookups.expect(row_of(None, None, image_id))
        return stored[0].record if stored else None

    def find_content(self, content_hash: bytes) -> tuple[Record, StoredFeature] | None:
        """Find some picture with this content, and its feature as it is stored, [embed_dim]."""
        stored = self._asked(
            f"content_hash == {hash_of(content_hash)}",
            lambda record: record.picture.content_hash == content_hash,
            _ALL_FIELDS,
        )
        for one in stored:
            feature = one.feature
            if feature is not None:
                return one.record, feature
        return None

    def find_all_content(self, content_hash: bytes) -> list[Record]:
        """Find all pictures of folders with this content, in the order of their rows."""
        stored = self._asked(
            all_of(f"content_hash == {hash_of(content_hash)}", _IN_FOLDER),
            lambda record: (
                record.picture.content_hash == content_hash and record.picture.root is not None
            ),
        )
        return [one.record for one in stored]

    def paths_of(self, content_hash: bytes) -> set[bytes]:
        """Read in which files pictures with this content are, those of items included."""
        stored = self._asked(
            f"content_hash == {hash_of(content_hash)}",
            lambda record: record.picture.content_hash == content_hash,
        )
        return {one.record.picture.path for one in stored if one.record.picture.path is not None}

    def count_under(self, folder: bytes) -> int:
        """Count the pictures of folders below a folder."""
        if self._now_pending():
            return len(self._under(folder))
        return self._collection.count(_below(folder))

    def count_of(self, root: bytes | None) -> int:
        """Count the pictures that belong to an indexed folder; None: those that are of none."""
        if self._now_pending():
            return len(self._of_root(root))
        return self._collection.count(f"root_hash == {path_hash(root)}")

    def roots(self) -> list[bytes]:
        """Read which indexed folders pictures belong to, in byte order."""
        roots: dict[bytes, int] = {}
        with self._collection.held():
            while True:
                known = [_IN_FOLDER, *(f"root_hash != {number}" for number in roots.values())]
                row = self._collection.some(all_of(*known))
                if row is None:
                    break
                (stored,) = map(
                    as_record, self._collection.entities(f"row == {row}", RECORD_FIELDS)
                )
                root = stored.record.picture.root or b""
                roots[root] = path_hash(root)
            pending = self._now_pending()
            if pending:
                new = {draft.picture.root for draft in pending.drafts.values()} - {None}
                asked = {*roots, *(root for root in new if root is not None)}
                return sorted(root for root in asked if self.count_of(root))
        return sorted(roots)

    def _under(self, folder: bytes) -> list[Stored]:
        """Read all pictures of folders below a folder."""
        low, high = bounds_under(folder)
        return self._asked(
            _below(folder),
            lambda record: (
                record.picture.root is not None and low <= (record.picture.path or b"") < high
            ),
        )

    def _of_root(self, root: bytes | None) -> list[Stored]:
        return self._asked(
            f"root_hash == {path_hash(root)}", lambda record: record.picture.root == root
        )

    def _asked(
        self,
        expression: str,
        is_asked: Callable[[Record], bool],
        fields: list[str] = RECORD_FIELDS,
    ) -> list[Stored]:
        """Read what an expression finds, as far as it was asked for: hashes may be equal."""
        stored = map(as_record, self._collection.entities(expression, fields))
        return self._over([one for one in stored if is_asked(one.record)], is_asked)

    def _over(self, stored: list[Stored], is_asked: Callable[[Record], bool]) -> list[Stored]:
        pending = self._now_pending()
        return pending.over(stored, is_asked) if pending is not None else stored

    def _fetch(self, rows: Iterable[int], fields: list[str] = RECORD_FIELDS) -> list[Stored]:
        asked, found = {int(row) for row in rows}, list[Stored]()
        wanted, pending = sorted(asked), self._now_pending()
        if pending is not None and fields is RECORD_FIELDS:
            known = {row: one for row in wanted if (one := self._lookups.stored(row))}
            found += known.values()
            wanted = [row for row in wanted if row not in known and not pending.is_new(row)]
        with self._collection.held():
            for start in range(0, len(wanted), _ROWS_AT_ONCE):
                part = wanted[start : start + _ROWS_AT_ONCE]
                found += map(as_record, self._collection.entities(among_rows(part), fields))
        return found if pending is None else pending.over(found, lambda _: True, asked)

    # Features

    def rows(self) -> Rows:
        """Read all rows, ascending, int64 [n]."""
        pages = self._collection.pages("", ["row"])
        return np.array([int(entity["row"]) for page in pages for entity in page], np.int64)

    def features_of(self, rows: Iterable[int]) -> dict[int, Feature]:
        """Read the unit rows, [embed_dim], of some pictures; those that are gone are absent."""
        return {
            stored.record.row: unit_rows(stored.feature[None])[0]
            for stored in self._fetch(rows, _ALL_FIELDS)
            if stored.feature is not None
        }

    def draw(self, number: int, seed: int = 0) -> tuple[Rows, Features]:
        """Draw pictures at random, each at most once; what it costs follows their number.

        Args:
            number: How many; all of them, where there are fewer.
            seed: Of the draw; equal seeds draw the same from the same pictures.

        Returns:
            Rows, int64 [n], and their features, unit rows [n, embed_dim].
        """
        rng = random.Random(seed)  # noqa: S311  (no secret)
        with self._collection.held():
            rows = self._draw(number, self._collection.count(), rng)
            rng.shuffle(rows)
            features = self.features_of(rows[:number])
        there = [row for row in rows[:number] if row in features]
        drawn = np.empty((len(there), self.embed_dim), np.float32)
        for at, row in enumerate(there):
            drawn[at] = features[row]
        return np.array(there, np.int64), drawn

    def _draw(self, number: int, total: int, rng: random.Random) -> list[int]:
        """Draw rows: those of some stretch of all numbers, since rows are hashes."""
        if number >= total:
            return [int(row) for row in self.rows()]
        start = rng.randrange(ROWS_END)
        length = min(ROWS_END, int(ROWS_END * (number / total) * 1.2) + 1)
        rows: list[int] = []
        taken = 0
        while len(rows) < number and taken < ROWS_END:
            length = min(length, ROWS_END - taken)
            first = (start + taken) % ROWS_END
            # what goes beyond the last number goes on at the first
            for start_at in (first, first - ROWS_END):
                low, high = max(start_at, 0), min(start_at + length, ROWS_END)
                if low < high:
                    found = self._collection.between(low, high, "", ["row"])
                    rows += [int(entity["row"]) for entity in found]
            taken += length
        return rows

    def search(self, features: Features, k: int, among: Among | None = None) -> tuple[Scores, Rows]:
        """Find the nearest rows; see RemoteStore.

        Raises:
            ValueError: If the shape does not fit, or k is below 1.
        """
        return self._searches.search(features, k, among, self.embed_dim)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let what is read inside be of one collection, and see all that came before it.

        What others write meanwhile may be seen, too: Milvus keeps no picture of a moment.
        """
        with self._collection.held():
            yield

    def close(self) -> None:
        """End the connection."""
        self._collection.server.close()


def _below(folder: bytes) -> str:
    """Hold of the pictures of folders below a folder."""
    low, high = bounds_under(folder)
    place = 'picture["path"]'
    return all_of(_IN_FOLDER, f'{place} >= "{low.hex()}"', f'{place} < "{high.hex()}"')
