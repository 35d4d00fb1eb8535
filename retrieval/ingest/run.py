"""A folder of pictures → features → catalogue and index; the same call again resumes.

Files are looked at in one fixed order. Those that need reading are hashed and decoded by
threads ahead of the encoder, at most a few batches ahead; outcomes are taken in order, so
rows do not depend on which thread was faster. Each batch becomes one transaction.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from retrieval.catalogue import Catalogue, IndexLock, StoredFeature
from retrieval.features import check_encoded
from retrieval.index import BackgroundSealer, disown_future, seal_if_due
from retrieval.ingest.annotations import Annotations
from retrieval.ingest.examine import Examined, Examiner, Verdict
from retrieval.ingest.folders import (
    MovedPictures,
    check_not_lost,
    check_there,
    forget_folder,
    is_gone,
    owner_of,
    prune_or_tell,
)
from retrieval.ingest.report import IngestReport, OnProgress, Pace, Progress
from retrieval.ingest.walk import Walk
from retrieval.precision import as_note, precision_of
from retrieval.protocols import Encoder, Feature, Pixels
from retrieval.records import Picture, bounds_under, displayed, displayed_id

__all__ = ["IngestReport", "OnProgress", "Progress", "index_folder"]

# A transaction is due after this many files even if the model had nothing to read.
_MOST_PENDING = 1024
_MOST_WORKERS = 8


def index_folder(
    folder: Path,
    index_dir: Path,
    encoder: Encoder,
    *,
    batch_size: int = 64,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
    allow_empty: bool = False,
    retry_failed: bool = False,
    follow_directory_links: bool = False,
    prune: bool = False,
) -> IngestReport:
    """Bring an index to the present state of a folder.

    Only what is new or changed is read; only content never seen before is encoded. An
    interrupted run is continued by the same call. Several folders may share an index. A
    picture whose file was moved keeps its row. One in an indexed folder that lies in
    another indexed folder belongs to the outer one.

    Args:
        folder: Folder of the pictures, in any depth; with ``metadata.jsonl`` for captions.
        index_dir: Where the index is or shall be; may lie inside the folder.
        encoder: Turns pictures into features.
        batch_size: Pictures per call of the encoder and per transaction.
        workers: Threads that read and decode; by default one per core, at most 8.
        on_progress: Called after each batch with where the run stands.
        allow_empty: Accept that a folder which had pictures has none any more, or is gone.
        retry_failed: Try again files that failed before and have not changed since.
        follow_directory_links: Enter links to folders, each folder once.
        prune: Forget the pictures of all indexed folders that are gone; else they are kept
            and told of, since a drive may just not be mounted.

    Returns:
        What was done, and which files failed.

    Raises:
        FolderError: If there is no such folder, it cannot be read, or it had pictures and
            has none now (not mounted?).
        IndexLockedError: If another process is indexing into ``index_dir``.
        IndexMismatchError: If the index was built by another model.
        EncoderError: If the encoder returns anything but finite unit rows.
    """
    if batch_size < 1 or (workers is not None and workers < 1):
        raise ValueError(
            f"expected batch_size and workers of at least 1, got {batch_size} and {workers}."
        )
    root = os.fsencode(os.path.realpath(folder))
    check_there(folder, root, index_dir, may_be_gone=allow_empty or prune)
    threads = workers or min(_MOST_WORKERS, os.cpu_count() or 1)
    with (
        IndexLock(index_dir),
        Catalogue.create_or_open(
            index_dir, fingerprint=encoder.fingerprint, embed_dim=encoder.embed_dim
        ) as catalogue,
    ):
        started = time.monotonic()
        disown_future(index_dir, catalogue)
        if is_gone(root):
            report = IngestReport(removed=forget_folder(root, catalogue))
        else:
            walk = Walk(root, excluded=index_dir, follow_directory_links=follow_directory_links)
            annotations = Annotations(owner_of(root, catalogue), root)
            total = annotations.survey(walk)
            check_not_lost(root, walk, total, catalogue, allow_empty=allow_empty)
            if total:
                # an encoder that has yet to choose how it computes times that: no thread beside it
                precision_of(encoder, "image")
            sealer = BackgroundSealer(index_dir)
            pace = Pace(total, on_progress)
            run = _Run(root, catalogue, encoder, annotations, pace, sealer=sealer)
            examiner = Examiner(catalogue, encoder.load_pixels, retry_failed=retry_failed)
            run.go_through(walk, examiner, batch_size, threads)
            report = run.report
            sealer.wait()
        prune_or_tell(catalogue, report, prune=prune)
        report.total = len(catalogue)
        report.seconds = time.monotonic() - started
        seal_if_due(index_dir, catalogue)
    return report


def _ahead(
    walk: Walk, examiner: Examiner, pool: ThreadPoolExecutor, limit: int
) -> Iterator[Examined]:
    """Examine files with threads, at most ``limit`` ahead, and yield them in order."""
    pending: deque[Future[Examined] | Examined] = deque()

    def next_examined() -> Examined:
        first = pending.popleft()
        return first if isinstance(first, Examined) else first.result()

    for path in walk:
        examined = examiner.glance(path)
        needs_reading = examined.verdict is Verdict.UNREAD
        pending.append(pool.submit(examiner.read, examined) if needs_reading else examined)
        if len(pending) >= limit:
            yield next_examined()
    while pending:
        yield next_examined()


@dataclass(frozen=True, slots=True)
class _Due:
    """A file whose outcome the next transaction stores.

    Args:
        examined: What was found out about it.
        feature: Its row as it is stored, [embed_dim], if some picture with this content had one
            already.
        is_copy: The content is known from another file, or from one before it in the batch.
        shown_size: Width and height in pixels after EXIF rotation, where known.
    """

    examined: Examined
    feature: StoredFeature | None
    is_copy: bool
    shown_size: tuple[int | None, int | None]


class _Run:
    """One run over one folder: gathers outcomes, stores them batch by batch, counts."""

    def __init__(
        self,
        root: bytes,
        catalogue: Catalogue,
        encoder: Encoder,
        annotations: Annotations,
        pace: Pace,
        *,
        sealer: BackgroundSealer,
    ) -> None:
        self._root = root
        self._owner = annotations.top
        self._catalogue = catalogue
        self._encoder = encoder
        self._annotations = annotations
        self._pace = pace
        self._sealer = sealer
        self._moved = MovedPictures(catalogue)
        self._adopted: Counter[bytes] = Counter()  # by the folder that pictures belonged to
        self._due: list[_Due] = []
        self._to_encode: dict[bytes, Pixels] = {}  # by content hash, in order
        self._told_precision = False
        self.report = IngestReport()

    def go_through(self, walk: Walk, examiner: Examiner, batch_size: int, threads: int) -> None:
        """Take over all pictures of the folder, and forget those that are gone."""
        self._pace.tell(self.report)
        with ThreadPoolExecutor(threads, "clip-text-decode") as pool:
            try:
                for examined in _ahead(walk, examiner, pool, batch_size + 2 * threads):
                    self.take(examined, examiner)
                    if self.is_due(batch_size):
                        self.commit()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        self.commit()
        self.finish(walk)

    def is_due(self, batch_size: int) -> bool:
        """Tell whether it is time to commit."""
        return len(self._to_encode) >= batch_size or len(self._due) >= _MOST_PENDING

    def take(self, examined: Examined, examiner: Examiner) -> None:
        """Accept the next file's outcome."""
        feature, is_copy = None, False
        shown_size: tuple[int | None, int | None] = examined.shown_size or (None, None)
        if examined.verdict in {Verdict.KNOWN, Verdict.DECODED}:
            # Judged anew, now that all files before this one are settled: which thread
            # read what when must not decide what is stored.
            known = self._catalogue.find_content(examined.content_hash)
            in_batch = examined.content_hash in self._to_encode
            if known:
                record, feature = known
                shown_size = (record.picture.width, record.picture.height)
            elif not in_batch and examined.verdict is Verdict.KNOWN:
                # The file it was known from has changed since.
                self.take(examiner.read(examined), examiner)
                return
            is_copy = bool(known) or in_batch
            if not is_copy:
                assert examined.pixels is not None
                self._to_encode[examined.content_hash] = examined.pixels
            examined = replace(examined, pixels=None)
        self._due.append(_Due(examined, feature, is_copy, shown_size))

    def commit(self) -> None:
        """Encode what is new, and store the batch in one transaction."""
        features = self._encode()
        with self._catalogue.transaction():
            if features:
                self._note_precision()
            for due in self._due:
                if due.examined.verdict in {Verdict.BROKEN, Verdict.UNREADABLE}:
                    self._set_aside(due.examined)
                else:
                    self._store(due, features)
            self._catalogue.mark_seen(due.examined.path for due in self._due)
        self._sealer.note(sum(due.examined.verdict is not Verdict.SAME for due in self._due))
        self._due.clear()
        self._to_encode.clear()
        self._pace.tell(self.report)

    def finish(self, walk: Walk) -> None:
        """Forget what is gone, and complete the report."""
        out_of_reach = [*(path for path, _ in walk.unreadable), *walk.links]
        kept = [bounds_under(path) for path in out_of_reach]

        def is_gone(path: bytes) -> bool:
            return not any(low <= path < high for low, high in kept)

        with self._catalogue.transaction():
            for path in filter(is_gone, self._catalogue.unseen_under(self._root)):
                record = self._catalogue.find(path)
                assert record is not None
                self._catalogue.remove([record.row])
                self.report.removed += 1
            for path in filter(is_gone, self._catalogue.unseen_under(self._root, "failures")):
                self._catalogue.forgive(path)
        for path, reason in walk.unreadable:
            note = f"cannot read folder {displayed(path)}: {reason}. What is indexed below stays."
            self.report.notes.append(note)
        self._tell_links(walk.links)
        self._tell_owner()
        self.report.notes += self._annotations.notes
        self.report.ignored = walk.ignored

    def _tell_links(self, links: list[bytes]) -> None:
        folders = [link for link in links if os.path.isdir(link)]  # noqa: PTH112  (bytes)
        if folders:
            self.report.notes.append(
                f"{len(folders)} links to folders were not entered, as {displayed(folders[0])}. "
                "--follow-links enters them. What is indexed below stays."
            )
        for link in links:
            if link not in folders and (count := self._catalogue.count_under(link)):
                self.report.notes.append(
                    f"{displayed(link)} leads to a folder that is gone; its {count} pictures stay "
                    "in the index. Is it mounted? If it is gone for good, remove the link."
                )

    def _tell_owner(self) -> None:
        owner = displayed(self._owner)
        if self._owner != self._root:
            self.report.notes.append(
                f"{displayed(self._root)} lies in {owner}, which is indexed: its pictures belong "
                "there, and their ids are paths below it."
            )
        for root, count in sorted(self._adopted.items()):
            self.report.notes.append(
                f"{count} pictures of {displayed(root)}, which was indexed by itself, belong to "
                f"{owner} now: their ids are paths below it."
            )

    def _note_precision(self) -> None:
        """Have the catalogue remember what pictures are computed in, and tell if that differs."""
        precision = precision_of(self._encoder, "image")
        note = as_note(self._catalogue.precisions, precision, what="new pictures")
        self._catalogue.add_precision(precision)
        if note and not self._told_precision:
            self.report.notes.append(note)
            self._told_precision = True

    def _encode(self) -> dict[bytes, Feature]:
        if not self._to_encode:
            return {}
        rows = self._encoder.encode_pixels(list(self._to_encode.values()))
        remedy = "The encoder is at fault; nothing of this batch was stored."
        check_encoded(rows, len(self._to_encode), self._catalogue.embed_dim, remedy)
        self.report.encoded += len(rows)
        return dict(zip(self._to_encode, rows, strict=True))

    def _set_aside(self, examined: Examined) -> None:
        state = (examined.size, examined.mtime_ns, examined.reason)
        before = self._catalogue.failure(examined.path)
        if before is None or before[1:4] != state:
            self._catalogue.fail(examined.path, *state)
        # What cannot be read may still be the picture that was indexed.
        if examined.record and examined.verdict is Verdict.BROKEN:
            self._catalogue.remove([examined.record.row])
        self.report.failed += 1
        self.report.failures.append((Path(os.fsdecode(examined.path)), examined.reason))

    def _store(self, due: _Due, features: dict[bytes, Feature]) -> None:
        examined, report = due.examined, self.report
        self._catalogue.forgive(examined.path)
        picture = self._picture(due)
        if examined.verdict is Verdict.SAME:
            self._describe(examined, picture)
            return
        if due.is_copy and self._move(examined, picture):
            return
        feature: Feature | StoredFeature = (
            features[examined.content_hash] if due.feature is None else due.feature
        )
        if examined.record:
            self._catalogue.replace(examined.record.row, picture, feature)
        else:
            self._catalogue.add(picture, feature)
        report.duplicates += due.is_copy
        report.updated += examined.record is not None and not due.is_copy
        report.added += examined.record is None and not due.is_copy

    def _move(self, examined: Examined, picture: Picture) -> bool:
        """Give a picture that has lost its file its new place, if it is this one."""
        lost = self._moved.claim(examined.content_hash, picture.image_id)
        if lost is None:
            return False
        if examined.record:  # another picture lay where this one has been moved to
            self._catalogue.remove([examined.record.row])
        self._catalogue.describe(lost.row, picture)
        self.report.moved += 1
        return True

    def _describe(self, examined: Examined, picture: Picture) -> None:
        assert examined.record is not None
        before = examined.record.picture
        if before.root is not None and picture.root != before.root:
            self._adopted[before.root] += 1
        if picture != before:
            self._catalogue.describe(examined.record.row, picture)
        # A new time alone is bookkeeping, no change of the picture.
        touched = before._replace(size=picture.size, mtime_ns=picture.mtime_ns)
        self.report.updated += picture != touched
        self.report.unchanged += picture == touched

    def _picture(self, due: _Due) -> Picture:
        examined = due.examined
        annotation = self._annotations.find(examined.path)
        assert examined.size is not None
        assert examined.mtime_ns is not None
        width, height = due.shown_size
        if examined.verdict is Verdict.SAME:
            assert examined.record is not None
            width, height = examined.record.picture.width, examined.record.picture.height
        return Picture(
            root=self._owner,
            path=examined.path,
            image_id=displayed_id(self._owner, examined.path),
            size=examined.size,
            mtime_ns=examined.mtime_ns,
            content_hash=examined.content_hash,
            width=width,
            height=height,
            caption=annotation.caption,
            metadata=annotation.metadata,
        )
