"""What a run through many files asks for, read ahead: one question each would take too long.

What is read ahead may be some seconds old, as far as other writers go; what this one writes is
taken over at once.
"""

import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from retrieval.records import Record
from retrieval.stores.milvus.collection import Collection
from retrieval.stores.milvus.expressions import all_of, among_rows
from retrieval.stores.milvus.keys import hash_of, row_of
from retrieval.stores.milvus.pending import Pending
from retrieval.stores.milvus.schema import (
    FAILURE,
    RECORD_FIELDS,
    Stored,
    as_record,
    note_row,
    path_hash,
)
from retrieval.stores.milvus.server import MOST_FOUND

__all__ = ["Lookups", "folder_of"]

_SECONDS = 10.0
_MOST_FOLDERS = 16
_MOST_EXPECTED = 4096
_ROWS_AT_ONCE = 2000


def folder_of(path: bytes) -> bytes:
    """Give what stands before a path's last separator."""
    return path.rpartition(b"/")[0]


class Lookups:
    """Reads ahead for one writer; used by its thread alone.

    Args:
        collection: To read from.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        # by hash; None for folders with more pictures than one answer holds
        self._folders: OrderedDict[int, tuple[float, dict[bytes, Stored] | None]] = OrderedDict()
        self._failures: tuple[float, set[int]] | None = None
        self._expected: set[int] = set()
        self._holders: dict[int, Record | None] = {}
        self._items: dict[str, list[Stored]] = {}
        self._rows: dict[int, Stored] = {}  # of these
        self._items_at = 0.0

    def expect_items(self, image_ids: Sequence[str]) -> None:
        """Read the items of these ids, for the transaction at work, or for some seconds."""
        self.forget_items()
        self._items_at = time.monotonic()
        by_hash: dict[int, list[str]] = {}
        for image_id in image_ids:
            by_hash.setdefault(hash_of(image_id.encode()), []).append(image_id)
            self._items[image_id] = []
        hashes = sorted(by_hash)
        for start in range(0, len(hashes), _ROWS_AT_ONCE):
            part = ", ".join(map(str, hashes[start : start + _ROWS_AT_ONCE]))
            condition = all_of(f"id_hash in [{part}]", "root_hash == 0")
            for entity in self._collection.entities(condition, RECORD_FIELDS):
                stored = as_record(entity)
                name = stored.record.picture.image_id
                if name in self._items and stored.record.picture.root is None:
                    self._items[name].append(stored)
                    self._rows[stored.record.row] = stored
        for image_id in image_ids:
            if not self._items[image_id]:
                self.expect(row_of(None, None, image_id))

    def item(self, image_id: str) -> list[Stored] | None:
        """Give the items of an id that was expected; None of one that was not."""
        is_fresh = time.monotonic() - self._items_at < _SECONDS
        return self._items.get(image_id) if is_fresh else None

    def stored(self, row: int) -> Stored | None:
        """Give an item that was expected by its row; None of one that was not."""
        return self._rows.get(row) if time.monotonic() - self._items_at < _SECONDS else None

    def forget_items(self) -> None:
        """Forget what was read of items that were expected."""
        self._items.clear()
        self._rows.clear()

    def find(self, path: bytes) -> list[Stored]:
        """Find the picture of a folder at a path, with the others beside it."""
        key = path_hash(folder_of(path))
        kept = self._folders.get(key)
        if kept is None or kept[0] < time.monotonic() - _SECONDS:
            kept = self._folders[key] = time.monotonic(), self._read_folder(key)
        self._folders.move_to_end(key)
        while len(self._folders) > _MOST_FOLDERS:
            self._folders.popitem(last=False)
        if kept[1] is None:
            condition = all_of(f"path_hash == {path_hash(path)}", "root_hash != 0")
            stored = map(as_record, self._collection.entities(condition, RECORD_FIELDS))
            found = [one for one in stored if one.record.picture.path == path]
        else:
            found = [kept[1][path]] if path in kept[1] else []
        if not found:
            self.expect(row_of(b"", path, ""))
        return found

    def may_have_failed(self, path: bytes) -> bool:
        """Tell whether a file may have been set aside; seldom of one that was not."""
        if self._failures is None or self._failures[0] < time.monotonic() - _SECONDS:
            notes = self._collection.notes(f"kind == {FAILURE}", ["row"])
            self._failures = time.monotonic(), {int(note["row"]) for note in notes}
        return note_row(FAILURE, path) in self._failures[1]

    def expect(self, row: int) -> None:
        """Note that a picture may soon be added to a row."""
        if len(self._expected) < _MOST_EXPECTED:
            self._expected.add(row)

    def holder(self, row: int) -> Record | None:
        """Tell which picture has a row; None if none has."""
        if row not in self._holders:
            asked = self._expected | {row}
            self._expected = set()
            self._holders.update(dict.fromkeys(asked))
            for entity in self._collection.entities(among_rows(sorted(asked)), RECORD_FIELDS):
                record = as_record(entity).record
                self._holders[record.row] = record
        return self._holders[row]

    def start(self) -> None:
        """Forget, at the beginning of a transaction, who has which row."""
        self._holders.clear()
        self.forget_items()

    def take_over(self, written: Pending) -> None:
        """Take over what was written."""
        self._holders.clear()
        self.forget_items()
        gone = written.removed | written.drafts.keys()
        for _, there in self._folders.values():
            if there is not None:
                for path in [path for path, one in there.items() if one.record.row in gone]:
                    del there[path]
        for row, draft in written.drafts.items():
            picture = draft.picture
            if picture.root is not None and picture.path is not None:
                _, there = self._folders.get(path_hash(folder_of(picture.path)), (0.0, None))
                if there is not None:
                    there[picture.path] = Stored(Record(row, picture), draft.source)
        if self._failures is not None:
            for path, failure in written.failures.items():
                note = note_row(FAILURE, path)
                (self._failures[1].discard if failure is None else self._failures[1].add)(note)

    def forget(self) -> None:
        """Forget all that was read ahead."""
        self._folders.clear()
        self._failures = None
        self._holders.clear()
        self.forget_items()

    def _read_folder(self, key: int) -> dict[bytes, Stored] | None:
        condition = all_of(f"folder_hash == {key}", "root_hash != 0")
        moment = self._collection.look()
        server, name, since = self._collection.server, moment.name, moment.since
        if server.count(name, condition, since) >= MOST_FOUND:
            return None
        entities: Iterable[dict[str, object]] = self._collection.entities(condition, RECORD_FIELDS)
        stored = map(as_record, entities)
        return {one.record.picture.path or b"": one for one in stored}
