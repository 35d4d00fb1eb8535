"""A data set of pictures → items of an index; the same call again brings it up to date."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from retrieval.catalogue import StoredFeature
from retrieval.catalogue.halves import is_kept
from retrieval.catalogue.store import Store
from retrieval.errors import ItemError
from retrieval.ingest.batches import Batches, Due, Threads, run
from retrieval.ingest.examine import Examined, Verdict, look_at_file, reason_of
from retrieval.ingest.items import Item, check_feature, item_picture
from retrieval.ingest.report import IngestReport, OnProgress, Pace
from retrieval.protocols import Encoder, Feature
from retrieval.records import Picture, Record, displayed_text
from retrieval.stores import Location
from retrieval.stores.opening import Sealer

__all__ = ["Unreadable", "index_items"]

_AT_ONCE = 128  # finished features that are looked at before the first of them goes on


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A part of a data set that cannot be read; it stands where its items would.

    Args:
        place: Which one it is, for people: ``"line 3"``, or an id.
        reason: Why, on one line.
    """

    place: str
    reason: str


def index_items(
    items: Iterable[Item | Unreadable],
    index_dir: Location,
    encoder: Encoder,
    *,
    source: str,
    total: int | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
    prune: bool = False,
    allow_empty: bool = False,
) -> IngestReport:
    """Bring an index to the present state of a data set, whose pictures are items of the index.

    Only content never seen before is encoded; a finished feature is stored as it is. An
    interrupted run is continued by the same call. Items go through one by one: as long as their
    ``data`` is a function, or they have a path, no more of them is in memory than is worked on.

    Args:
        items: The whole data set, in an order that stays; ids differ. What is not an item was
            to be one, and is told of as failed.
        index_dir: Where the index is or shall be, a folder or on a server; folders and other data
            sets may be in it, too.
        encoder: Turns pictures into features; where all items have one, it only says of which
            model they are.
        source: Name of the data set, the same in every run: it says what items are its own.
        total: How many items there are, for ``on_progress``.
        batch_size: Pictures per call of the encoder and per transaction.
        workers: Threads that read and decode; by default one per core, at most 8.
        on_progress: Called after each batch with where the run stands.
        prune: Forget items of the data set that are not in it any more; else they are kept and
            told of. Where parts of it cannot be read, nothing is forgotten.
        allow_empty: Accept that a data set which had items has none any more.

    Returns:
        What was done, and which items failed: those whose picture or feature is none, whose id
        came before, or is that of another picture which is no item of this data set.

    Raises:
        ItemError: If the data set had items and has none now.
        IndexLockedError: If another process is writing to ``index_dir``.
        IndexMismatchError: If the index was built by another model.
        EncoderError: If the encoder returns anything but finite unit rows.
    """
    threads = Threads(batch_size, workers)

    def work(catalogue: Store, sealer: Sealer) -> IngestReport:
        intake = _DataSet(displayed_text(source), catalogue)
        report, pace = intake.report, Pace(total or 0, on_progress)
        batches = Batches(intake, catalogue, encoder, report=report, pace=pace, sealer=sealer)
        batches.go_through(intake.glances(items), threads)
        intake.finish(prune=prune, allow_empty=allow_empty)
        return report

    return run(index_dir, encoder, work)


@dataclass(frozen=True, slots=True)
class _Subject:
    """An item that is looked at.

    Args:
        name: What it is called, safe to print.
        picture: What is stored of it as far as it says so itself; None if it cannot be stored.
        has_data: Whether it brings what is in its file.
    """

    name: str
    picture: Picture | None = None
    has_data: bool = False


class _DataSet:
    """One data set, as an intake: what is stored of its items, and what is counted."""

    def __init__(self, name: str, catalogue: Store) -> None:
        self._name = name
        self._catalogue = catalogue
        self._width = catalogue.embed_dim
        self._is_whole = True
        self._broken: set[int] = set()  # rows of items that were no picture
        self.report = IngestReport()

    def glances(self, items: Iterable[Item | Unreadable]) -> Iterator[Examined[_Subject]]:
        """Judge items without reading their pictures, as far as that goes.

        What is stored of them is asked for together: a server answers one question for many items
        about as fast as for one.
        """
        for some in _together(map(self._take, items)):
            ids = [one.subject.picture.image_id for one in some if one.subject.picture]
            self._catalogue.expect_items(ids)
            records = {image_id: self._catalogue.find_item(image_id) for image_id in ids}
            rows = {
                record.row
                for one in some
                if one.feature is not None and (record := _stored_of(one, records))
            }
            stored = self._catalogue.features_of(rows) if rows else {}
            for one in some:
                yield self._glance(one, records, stored)

    def expect(self, due: Sequence[Due[_Subject]]) -> None:
        """Have what is stored of these items read at once."""
        pictures = [one.examined.subject.picture for one in due]
        self._catalogue.expect_items([one.image_id for one in pictures if one is not None])

    def _take(self, item: Item | Unreadable) -> Examined[_Subject]:
        """Take an item as it says itself; what cannot be one is broken."""
        if isinstance(item, Unreadable):
            self._is_whole = False
            subject = _Subject(displayed_text(item.place))
            return Examined(subject, Verdict.BROKEN, None, reason=item.reason)
        name, feature = displayed_text(str(item.id)), None
        try:
            picture = item_picture(item)
            if item.feature is not None:
                feature = check_feature(item.feature, item.id, self._width)
        except ItemError as error:
            self._is_whole = False  # which picture of the index it is, is not known
            return Examined(_Subject(name), Verdict.BROKEN, None, reason=reason_of(error))
        subject = _Subject(name, picture, has_data=item.data is not None)
        return Examined(subject, Verdict.UNREAD, None, item.load(), feature=feature)

    def _glance(
        self,
        taken: Examined[_Subject],
        records: Mapping[str, Record | None],
        stored: Mapping[int, Feature],
    ) -> Examined[_Subject]:
        """Judge an item by what is stored of it."""
        picture = taken.subject.picture
        if picture is None:
            return taken
        record = records[picture.image_id]
        seen = replace(taken, record=record)
        if taken.feature is not None:
            is_stored = record is not None and self._is_stored(stored.get(record.row), taken)
            return replace(seen, verdict=Verdict.SAME if is_stored else Verdict.GIVEN)
        if taken.load is None:
            reason = "expected a path, data or a feature, got none."
            return replace(seen, verdict=Verdict.BROKEN, reason=reason)
        if not taken.subject.has_data:
            assert picture.path is not None
            # one that is not there may be on a drive that is not mounted
            return look_at_file(seen, picture.path, gone=Verdict.UNREADABLE)
        return seen

    def store(self, due: Due[_Subject], feature: Feature | StoredFeature | None) -> None:
        """Store an item, in its row where it has one."""
        examined, report = due.examined, self.report
        picture = _picture(due)
        before = self._catalogue.find_item(picture.image_id)
        if reason := self._refusal(examined, before):
            self._fail(examined.subject, reason)
            return
        if before is None:
            assert feature is not None
            row = self._catalogue.add(picture, feature)
            report.added += not due.is_copy
        else:
            row = before.row
            if examined.verdict is Verdict.SAME:
                self._describe(before, picture)
            else:
                assert feature is not None
                self._catalogue.replace(row, picture, feature)
                report.updated += not due.is_copy
        report.duplicates += due.is_copy
        self._catalogue.sources.assign(row, self._name)

    def set_aside(self, examined: Examined[_Subject]) -> None:
        """Note an item that cannot be used; what is broken is no picture any more."""
        record = examined.record
        if record and self._catalogue.sources.of(record.row) == self._name:
            if examined.verdict is Verdict.UNREADABLE:
                self._catalogue.sources.assign(record.row, self._name)
            else:  # another item of that id may come yet
                self._broken.add(record.row)
        self._fail(examined.subject, examined.reason)

    def finish(self, *, prune: bool, allow_empty: bool) -> None:
        """Forget what is gone, or tell of it."""
        gone = self._catalogue.sources.unseen(self._name)
        if broken := self._broken.intersection(gone):
            with self._catalogue.transaction():
                self._catalogue.remove(sorted(broken))
            gone = [row for row in gone if row not in broken]
        if gone and not self.report.done and not allow_empty:
            raise ItemError(
                f"expected pictures in {self._name}, of which {len(gone)} are in the index, got "
                "none. To forget them, index with prune and allow_empty, or: clip-text index "
                "remove --source."
            )
        if gone and prune and self._is_whole:
            with self._catalogue.transaction():
                self._catalogue.remove(gone)
            self.report.removed += len(gone)
        elif gone:
            told = f"{len(gone)} pictures in the index are not in {self._name} any more"
            way = "They stay: not all of it could be read." if prune else "--prune forgets them."
            self.report.notes.append(f"{told}. {way}")

    def _refusal(self, examined: Examined[_Subject], before: Record | None) -> str:
        """Say why an item must not be stored under its id; empty if it may."""
        again = "expected ids that differ, got one again. The first one counts."
        if before is None:
            # one that was the same as what is gone since came a second time
            return again if examined.verdict is Verdict.SAME else ""
        if self._catalogue.sources.is_seen(before.row):
            return again
        owner = self._catalogue.sources.of(before.row)
        if owner == self._name or examined.verdict is Verdict.SAME:
            return ""
        whose = f"of {owner}" if owner else "that is of no data set"
        return (
            f"expected an id of its own, got that of another picture {whose}. Index with --prefix, "
            "or remove that one."
        )

    def _describe(self, before: Record, picture: Picture) -> None:
        if picture != before.picture:
            self._catalogue.describe(before.row, picture)
        # A new time alone is bookkeeping, no change of the picture.
        touched = before.picture._replace(size=picture.size, mtime_ns=picture.mtime_ns)
        is_same = picture == touched and self._catalogue.sources.of(before.row) == self._name
        self.report.updated += not is_same
        self.report.unchanged += is_same

    def _is_stored(self, stored: Feature | None, taken: Examined[_Subject]) -> bool:
        if stored is None or taken.feature is None:
            return False
        return is_kept(stored, taken.feature)

    def _fail(self, subject: _Subject, reason: str) -> None:
        self.report.failed += 1
        self.report.failures.append((subject.name, reason))


def _together(taken: Iterable[Examined[_Subject]]) -> Iterator[list[Examined[_Subject]]]:
    """Put finished features that follow each other together; pictures, which are large, are not."""
    waiting: list[Examined[_Subject]] = []
    for one in taken:
        waiting.append(one)
        if one.feature is None or len(waiting) >= _AT_ONCE:
            yield waiting
            waiting = []
    yield waiting


def _stored_of(taken: Examined[_Subject], records: Mapping[str, Record | None]) -> Record | None:
    picture = taken.subject.picture
    return None if picture is None else records[picture.image_id]


def _picture(due: Due[_Subject]) -> Picture:
    """What is stored of an item."""
    examined = due.examined
    picture = examined.subject.picture
    assert picture is not None
    width, height = due.shown_size
    picture = picture._replace(
        size=examined.size,
        mtime_ns=examined.mtime_ns,
        content_hash=examined.content_hash or None,
        width=width,
        height=height,
    )
    if examined.verdict is not Verdict.SAME:
        return picture
    assert examined.record is not None
    before = examined.record.picture
    picture = picture._replace(width=before.width, height=before.height)
    if examined.feature is None:
        return picture
    known = (before.size, before.mtime_ns, before.content_hash)
    return picture._replace(size=known[0], mtime_ns=known[1], content_hash=known[2])
