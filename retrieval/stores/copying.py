"""An index taken somewhere else: from a folder to a server, say, without a picture being read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from retrieval.catalogue.halves import is_kept
from retrieval.catalogue.store import Store
from retrieval.errors import QueryError
from retrieval.protocols import Feature
from retrieval.records import Picture, Record
from retrieval.stores.address import Location
from retrieval.stores.opening import open_as_store, open_for_writing

__all__ = ["CopyReport", "copy_index"]

_PAGE = 1024  # pictures of one transaction


@dataclass(slots=True)
class CopyReport:
    """What a copy came to.

    Args:
        pictures: How many were looked at.
        written: How many of them were not there, or otherwise.
        left_out: Texts read in pictures that the other index has no room for.
    """

    pictures: int = 0
    written: int = 0
    left_out: int = 0


def copy_index(
    source: Location,
    target: Location,
    on_progress: Callable[[int, int], None] | None = None,
) -> CopyReport:
    """Write the pictures of an index into another, with all that is known of them.

    Features go as they are stored: nothing is encoded, and no picture's file is opened. What is
    there already stays if it is the same, so a copy that was stopped is continued by the same call;
    what only the target has stays, too. Files set aside, data sets and the calibration come along.
    Words that the tokeniser was taught do not; nor does text that was read in pictures where the
    target has no text index.

    Args:
        source: The index that there is; nobody should write to it meanwhile.
        target: Where it goes; made where there is none.
        on_progress: Called with how many pictures are done, and of how many.

    Raises:
        QueryError: If both are the same.
        IndexNotFoundError: If there is no source.
        IndexMismatchError: If the target is of another model.
        RetrievalError: As :func:`~retrieval.stores.opening.open_for_writing`.
    """
    if source == target:
        raise QueryError(f"expected two places, got {source} twice. Name another target.")
    report = CopyReport()
    with (
        open_as_store(source) as held,
        open_for_writing(target, fingerprint=held.fingerprint, embed_dim=held.embed_dim) as (
            store,
            sealer,
        ),
    ):
        rows = held.rows().tolist()
        copying = _Copying(held, store, report)
        for start in range(0, len(rows), _PAGE):
            sealer.note(copying.write(rows[start : start + _PAGE]))
            if on_progress:
                on_progress(report.pictures, len(rows))
        copying.finish()
    return report


class _Copying:
    """Writes what one store has into another."""

    def __init__(self, held: Store, store: Store, report: CopyReport) -> None:
        self._held, self._store, self._report = held, store, report
        sources = held.sources
        self._owners = {row: name for name in sources.counts() for row in sources.rows(name)}

    def write(self, rows: list[int]) -> int:
        """Write some pictures in one transaction; gives how many were not there as they are."""
        held, store = self._held, self._store
        records, texts = held.records_and_texts(rows)
        features = held.features_of(rows)
        due = [record for row, record in records.items() if row in features]
        items = [one.picture.image_id for one in due if one.picture.root is None]
        store.expect_items(items)
        before = {record.row: self._find(record.picture) for record in due}
        stored = store.features_of([one.row for one in before.values() if one is not None])
        written = 0
        with store.transaction():
            if any(one is None for one in before.values()):
                for precision in held.precisions or (None,):
                    store.add_precision(precision)
            store.expect_items(items)
            for record in due:
                there = before[record.row]
                row, is_new = self._put(record, there, features[record.row], stored)
                written += is_new
                if name := self._owners.get(record.row):
                    store.sources.assign(row, name)
            self._keep(records, texts)
        self._report.pictures += len(rows)
        self._report.written += written
        return written

    def finish(self) -> None:
        """Write what is known beside the pictures."""
        with self._store.transaction():
            for failure in self._held.failures():
                self._store.fail(failure.path, failure.size, failure.mtime_ns, failure.reason)
            if self._held.calibration is not None:
                self._store.set_calibration(self._held.calibration)

    def _find(self, picture: Picture) -> Record | None:
        if picture.root is None or picture.path is None:
            return self._store.find_item(picture.image_id)
        return self._store.find(picture.path)

    def _put(
        self,
        record: Record,
        there: Record | None,
        feature: Feature,
        stored: Mapping[int, Feature],
    ) -> tuple[int, bool]:
        """Write a picture; gives its row, and whether it was not there as it is."""
        picture = record.picture
        if there is None:
            return self._store.add(picture, feature), True
        old = stored.get(there.row)
        if old is None or not is_kept(old, feature):
            self._store.replace(there.row, picture, feature)
        elif there.picture != picture:
            self._store.describe(there.row, picture)
        else:
            return there.row, False
        return there.row, True

    def _keep(self, records: Mapping[int, Record], texts: Mapping[int, str]) -> None:
        """Write what was read in pictures, once for each content."""
        read = {records[row].picture.content_hash: text for row, text in texts.items()}
        if not self._store.words.keeps_texts():
            self._report.left_out += sum(bool(text) for text in read.values())
            return
        for content_hash, text in read.items():
            if content_hash is not None:
                self._store.keep_recognised(content_hash, text)
