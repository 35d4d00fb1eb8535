"""An index that a Milvus server keeps, and how it is written."""

import contextlib
import datetime
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from retrieval.catalogue.halves import StoredFeature
from retrieval.errors import StorageError
from retrieval.features import unit_rows
from retrieval.protocols import Feature, Features
from retrieval.records import Failure, Picture, bounds_under
from retrieval.stores.address import StoreAddress
from retrieval.stores.milvus.collection import LISTS, Collection
from retrieval.stores.milvus.expressions import all_of, among_rows
from retrieval.stores.milvus.flushing import Flushes
from retrieval.stores.milvus.keys import row_of
from retrieval.stores.milvus.pending import Draft, Pending
from retrieval.stores.milvus.reading import MilvusReader
from retrieval.stores.milvus.schema import (
    FAILURE,
    RECORD_FIELDS,
    Stored,
    as_failure,
    as_feature,
    entity_of,
    note_of_failure,
    note_of_nothing,
    note_of_source,
    note_row,
)
from retrieval.stores.milvus.searching import PROBES
from retrieval.stores.milvus.server import Server
from retrieval.stores.milvus.sources import MilvusSources

if TYPE_CHECKING:
    from retrieval.stores.opening import RemoteStore

__all__ = ["MilvusStore"]

_MOST_ATTEMPTS = 64
_ROWS_AT_ONCE = 2000
_BATCH_BYTES = 4 << 20  # of features, in one message to the server
_TRIED = (4, 8, 16, PROBES, 64, 128, LISTS)


class MilvusStore(MilvusReader):
    """What :class:`~retrieval.stores.milvus.reading.MilvusReader` reads, and how it is written.

    Several may write at once, from several machines: one picture that all of them add comes to
    one row. Of two changes of one picture the later one stays.

    Args:
        collection: Where the pictures are.
    """

    def __init__(self, collection: Collection) -> None:
        super().__init__(collection)
        self._writing = threading.RLock()
        self._pending: Pending | None = None
        self._writer = 0  # the thread whose transaction is at work
        self._seen: set[bytes] = set()
        self._flushes = Flushes(collection)
        self.sources = MilvusSources(collection, self._now_pending, self._assign, self._fetch)
        """Knows which data sets items are of."""

    @classmethod
    def open(
        cls,
        address: StoreAddress,
        *,
        fingerprint: str | None = None,
        embed_dim: int | None = None,
    ) -> Self:
        """Open a collection; where a model is named, one that is not there is made.

        Args:
            address: Where it is.
            fingerprint: Of the model.
            embed_dim: Width of its features.

        Raises:
            IndexNotFoundError: If there is none, and no model is named.
            IndexMismatchError: If it is of another model.
            CorruptIndexError: If it is none of ours, or a newer version's.
            StoreAddressError: If the server has no such database.
            StoreUnavailableError: If it does not answer.
            StoreAccessError: If it refuses the credentials, or is too old.
        """
        server = Server(address)
        try:
            collection = Collection(server, address)
            if fingerprint is None or embed_dim is None:
                collection.look()
                return cls(collection)
            collection.make(fingerprint, embed_dim)
            store = cls(collection)
            store.check_model(fingerprint=fingerprint, embed_dim=embed_dim)
            return store
        except BaseException:
            server.close()
            raise

    def _now_pending(self) -> Pending | None:
        return self._pending if self._writer == threading.get_ident() else None

    # Transactions

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Let all writes inside happen once it ends; none, if it is left by an error.

        When it has ended, the server has acknowledged all, and whoever reads from then on, from
        anywhere, finds it. Milvus itself has no transactions: where the server fails while it
        takes what was written here, the pictures that came to it by then stay, each of them whole,
        and the same call again completes them.

        Raises:
            ItemError: If more is said of a picture than the server holds; nothing has happened.
            StoreUnavailableError: If the server does not answer.
            StorageError: If it fails otherwise.
        """
        with self._writing:
            assert self._pending is None
            pending = Pending()
            with self._collection.held():
                self._pending, self._writer = pending, threading.get_ident()
                self._lookups.start()
                try:
                    yield
                finally:
                    self._pending, self._writer = None, 0
            if pending:
                self._commit(pending)

    def _commit(self, pending: Pending) -> None:
        # What was read ahead is right again only when all of this is done.
        moment = self._collection.look_anew()
        server, written = self._collection.server, 0
        entities = self._entities(pending)
        notes = [note_of_failure(one) for one in pending.failures.values() if one is not None]
        notes += [note_of_source(name) for name in sorted(pending.sources)]
        healed = [note_row(FAILURE, path) for path, one in pending.failures.items() if one is None]
        try:
            # What is new comes before what goes: a picture that moves is never nowhere.
            at_once = max(1, _BATCH_BYTES // (4 * int(moment.said["embed_dim"])))
            for start in range(0, len(entities), at_once):
                written = server.upsert(moment.name, entities[start : start + at_once])
            for part in _parts(sorted(pending.removed)):
                server.delete(moment.name, among_rows(part))
            for part in _parts(healed):
                server.delete(moment.notes, among_rows(part))
            if pending.removed or healed:  # 2.3 does not tell at what time it removed something
                notes.append(note_of_nothing())
            for part in _parts(notes):
                written = server.upsert(moment.notes, part)
            self._collection.publish(moment, written, pending.said)
        except BaseException:
            self._lookups.forget()
            raise
        self._lookups.take_over(pending)
        self._flushes.note(len(entities))

    def _entities(self, pending: Pending) -> list[dict[str, Any]]:
        """Write drafts as entities, with what stays of those that are stored."""
        asked = [
            row
            for row, draft in pending.drafts.items()
            if draft.feature is None or not (draft.is_new or draft.has_source)
        ]
        stored = self._fetch(asked, [*RECORD_FIELDS, "feature"])
        there = {one.record.row: one for one in stored}
        entities = []
        for row, draft in pending.drafts.items():
            before = there.get(row)
            if not draft.has_source and before is not None:
                draft.source = before.source
            feature = draft.feature
            if feature is None and before is not None and before.feature is not None:
                feature = unit_rows(before.feature[None])[0]
            if feature is not None:  # else another writer has removed it
                entities.append(entity_of(row, draft.picture, feature, draft.source))
        return entities

    def _write(self) -> Pending:
        pending = self._now_pending()
        assert pending is not None, "expected a transaction around what is written"
        return pending

    # What the index says of itself

    def add_precision(self, precision: str | None) -> None:
        """Note what features that are about to be stored were computed in; None if unknown.

        It stays unknown where features are stored already of which nobody said it.
        """
        pending = self._write()
        known = self.precisions
        if not known and len(self):
            return
        both = ",".join(sorted({*known, precision})) if precision else ""
        if both != ",".join(known):
            pending.said["precisions"] = both

    def set_calibration(self, text: str | None) -> None:
        """Keep what turns scores into probabilities, as JSON; None forgets it."""
        self._write().said["calibration"] = text or ""

    # Pictures

    def add(self, picture: Picture, feature: Feature | StoredFeature) -> int:
        """Add a picture with its features, [embed_dim]; gives its row.

        Raises:
            EncoderError: If the feature is of another width.
        """
        pending = self._write()
        unit = as_feature(feature, self.embed_dim)
        row, is_new = self._free_row(picture, pending)
        pending.removed.discard(row)
        pending.draft(row, Draft(picture, unit, is_new))
        return row

    def expect_items(self, image_ids: Sequence[str]) -> None:
        """Read which pictures have these ids, by few questions instead of one each."""
        self._lookups.expect_items(image_ids)

    def replace(self, row: int, picture: Picture, feature: Feature | StoredFeature) -> None:
        """Put new content in a row: the file changed."""
        unit = as_feature(feature, self.embed_dim)
        self._redraft(row, picture, unit)

    def describe(self, row: int, picture: Picture) -> None:
        """Change what is known about a picture whose content is the same."""
        self._redraft(row, picture, None)

    def keep_recognised(self, content_hash: bytes, text: str) -> None:  # noqa: ARG002
        """Refuse to store the text that stands in pictures.

        Raises:
            QueryError: Always.
        """
        raise self.words.refusal("Index without reading texts (no --ocr)")

    def remove(self, rows: Iterable[int]) -> None:
        """Forget pictures."""
        pending = self._write()
        for row in rows:
            pending.drafts.pop(row, None)
            pending.removed.add(row)

    def forget_under(self, folder: bytes) -> int:
        """Forget all pictures of folders, and failures, below a folder; gives how many pictures."""
        self._forgive_under(folder)
        gone = [one.record.row for one in self._under(folder)]
        self.remove(gone)
        return len(gone)

    def forget_root(self, root: bytes) -> int:
        """Forget all pictures of an indexed folder, and failures below it; gives how many."""
        self._forgive_under(root)
        gone = [one.record.row for one in self._of_root(root)]
        self.remove(gone)
        return len(gone)

    def _redraft(self, row: int, picture: Picture, unit: Feature | None) -> None:
        pending = self._write()
        if row in pending.removed:
            return
        before = pending.drafts.get(row)
        if before is None:
            pending.draft(row, Draft(picture, unit, is_new=False))
        else:
            before.picture = picture
            before.feature = before.feature if unit is None else unit

    def _assign(self, stored: Stored, source: str) -> None:
        pending, record = self._write(), stored.record
        if (draft := pending.drafts.get(record.row)) is None:
            draft = Draft(record.picture, None, is_new=False)
            pending.draft(record.row, draft)
        draft.source, draft.has_source = source, True

    def _free_row(self, picture: Picture, pending: Pending) -> tuple[int, bool]:
        """Find a row for a new picture; tells, too, whether nothing is stored in it."""
        identity = _identity(picture)
        for attempt in range(_MOST_ATTEMPTS):
            row = row_of(picture.root, picture.path, picture.image_id, attempt)
            draft = pending.drafts.get(row)
            holder = self._lookups.holder(row)
            has = draft.picture if draft else holder.picture if holder else None
            if row in pending.removed or has is None or _identity(has) == identity:
                return row, holder is None
        raise StorageError(
            f"expected a free row within {_MOST_ATTEMPTS} attempts, got none. Index again under "
            "another name."
        )

    # Files that failed

    def failure(self, path: bytes) -> Failure | None:
        """Read why a file was set aside; None if it was not."""
        pending = self._now_pending()
        if pending is not None and path in pending.failures:
            return pending.failures[path]
        if not self._lookups.may_have_failed(path):
            return None
        expression = among_rows([note_row(FAILURE, path)])
        found = map(as_failure, self._collection.notes(expression, ["row", "content"]))
        return next((failure for failure in found if failure.path == path), None)

    def failures(self) -> list[Failure]:
        """Read all files set aside, in byte order of their paths."""
        return self._failures_where(f"kind == {FAILURE}", b"", None)

    def fail(self, path: bytes, size: int | None, mtime_ns: int | None, reason: str) -> None:
        """Set a file aside; see :class:`~retrieval.records.Failure`."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._write().failures[path] = Failure(path, size, mtime_ns, reason, now)

    def forgive(self, path: bytes) -> None:
        """Forget a failure."""
        pending = self._write()
        if path in pending.failures or self._lookups.may_have_failed(path):
            pending.failures[path] = None

    def _forgive_under(self, folder: bytes) -> None:
        pending = self._write()
        for failure in self._failures_under(folder):
            pending.failures[failure.path] = None

    def _failures_under(self, folder: bytes) -> list[Failure]:
        low, high = bounds_under(folder)
        place = 'content["path"]'
        bounds = (f'{place} >= "{low.hex()}"', f'{place} < "{high.hex()}"')
        return self._failures_where(all_of(f"kind == {FAILURE}", *bounds), low, high)

    def _failures_where(self, expression: str, low: bytes, high: bytes | None) -> list[Failure]:
        notes = self._collection.notes(expression, ["row", "content"])
        found = {failure.path: failure for failure in map(as_failure, notes)}
        pending = self._now_pending()
        for path, failure in (pending.failures if pending else {}).items():
            found.pop(path, None)
            if failure is not None and low <= path and (high is None or path < high):
                found[path] = failure
        return [found[path] for path in sorted(found)]

    # What a walk has seen

    def mark_seen(self, paths: Iterable[bytes]) -> None:
        """Note files as still there, for :meth:`unseen_under`; forgotten on closing."""
        self._seen.update(paths)

    def unseen_under(self, folder: bytes, table: str = "images") -> list[bytes]:
        """Read the paths below a folder that no :meth:`mark_seen` named, in byte order.

        Args:
            folder: The folder, as the file system spells it.
            table: Which paths: ``images``, those of folders, or ``failures``.
        """
        if table == "failures":
            paths = [failure.path for failure in self._failures_under(folder)]
        else:
            paths = [one.record.picture.path or b"" for one in self._under(folder)]
        return sorted(path for path in paths if path not in self._seen)

    # Looking after it

    def swap(self, other: str) -> None:
        """Let this index and another of the same server change places, under their names.

        Args:
            other: The name of the other, as in its address.

        Raises:
            IndexNotFoundError: If there is no such index.
        """
        with self._writing:
            self._collection.swap(other)
            self._lookups.forget()

    def compact(self) -> str:
        """Have all that was written be sealed and indexed; says what came of it."""
        return self._flushes.compact()

    def advise(self, features: Features, k: int = 10) -> list[tuple[str, float, float]]:
        """Search with more and more lists, and compare what is found with all there is.

        Args:
            features: Of what is really asked, unit rows [q, embed_dim].
            k: How many are to be found.

        Returns:
            Of each setting its name, its recall in [0, 1] and the milliseconds of a search.
        """
        truth = [{row for _, row in hits} for hits in self._each(features, k, LISTS)[0]]
        trials = []
        for probes in dict.fromkeys(_TRIED):
            found, seconds = self._each(features, k, probes)
            shares = [
                len(best & {row for _, row in hits}) / max(1, len(best))
                for best, hits in zip(truth, found, strict=True)
            ]
            name = f"IVF_FLAT, nprobe {probes} of {LISTS}" + (" (default)" * (probes == PROBES))
            trials.append((name, float(np.mean(shares)), seconds * 1000))
        return trials

    def _each(
        self, features: Features, k: int, probes: int
    ) -> tuple[list[list[tuple[float, int]]], float]:
        found, times = [], []
        for feature in features:
            started = time.perf_counter()
            found += self._searches.trial(feature[None], k, probes)
            times.append(time.perf_counter() - started)
        return found, float(np.median(times))

    def close(self) -> None:
        """Have what this one wrote be indexed, where it is much, and end the connection."""
        self._flushes.finish()
        super().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _identity(picture: Picture) -> tuple[bool, bytes | str | None]:
    """Give what a picture is known by: its file in a folder, else its id."""
    in_folder = picture.root is not None
    return in_folder, picture.path if in_folder else picture.image_id


def _parts(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), _ROWS_AT_ONCE):
        yield items[start : start + _ROWS_AT_ONCE]


def _is_a_store(store: MilvusStore) -> "RemoteStore":
    return store  # for the type checker: it has all that is asked of one
