"""A folder of pictures → features → catalogue and index; the same call again resumes."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from retrieval.catalogue import StoredFeature
from retrieval.catalogue.store import Store
from retrieval.ingest.annotations import Annotations
from retrieval.ingest.batches import Batches, Due, Threads, run
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
from retrieval.protocols import Encoder, Feature
from retrieval.records import Picture, bounds_under, displayed, displayed_id
from retrieval.stores import Location, StoreAddress
from retrieval.stores.opening import Sealer

__all__ = ["IngestReport", "OnProgress", "Progress", "index_folder"]


def index_folder(
    folder: Path,
    index_dir: Location,
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
        index_dir: Where the index is or shall be, a folder or on a server; may lie inside the
            folder.
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
    threads = Threads(batch_size, workers)
    root = os.fsencode(os.path.realpath(folder))
    excluded = None if isinstance(index_dir, StoreAddress) else index_dir
    check_there(folder, root, index_dir, may_be_gone=allow_empty or prune)

    def work(catalogue: Store, sealer: Sealer) -> IngestReport:
        if is_gone(root):
            report = IngestReport(removed=forget_folder(root, catalogue))
        else:
            walk = Walk(root, excluded=excluded, follow_directory_links=follow_directory_links)
            annotations = Annotations(owner_of(root, catalogue), root)
            total = annotations.survey(walk)
            check_not_lost(root, walk, total, catalogue, allow_empty=allow_empty)
            examiner = Examiner(catalogue, retry_failed=retry_failed)
            intake = _Folder(root, catalogue, annotations)
            report, pace = intake.report, Pace(total, on_progress)
            batches = Batches(intake, catalogue, encoder, report=report, pace=pace, sealer=sealer)
            batches.go_through(map(examiner.glance, walk), threads)
            intake.finish(walk)
        prune_or_tell(catalogue, report, prune=prune)
        return report

    return run(index_dir, encoder, work)


class _Folder:
    """One folder, as an intake: what is stored of its pictures, and what is counted."""

    def __init__(self, root: bytes, catalogue: Store, annotations: Annotations) -> None:
        self._root = root
        self._owner = annotations.top
        self._catalogue = catalogue
        self._annotations = annotations
        self._moved = MovedPictures(catalogue)
        self._adopted: Counter[bytes] = Counter()  # by the folder that pictures belonged to
        self.report = IngestReport()

    def expect(self, due: Sequence[Due[bytes]]) -> None:
        """Do nothing: what is known of files is read ahead folder by folder."""

    def store(self, due: Due[bytes], feature: Feature | StoredFeature | None) -> None:
        """Store a picture, in its row where it has one."""
        examined, report = due.examined, self.report
        self._catalogue.forgive(examined.subject)
        self._catalogue.mark_seen([examined.subject])
        picture = self._picture(due)
        if examined.verdict is Verdict.SAME:
            self._describe(examined, picture)
            return
        if due.is_copy and self._move(examined, picture):
            return
        assert feature is not None
        if examined.record:
            self._catalogue.replace(examined.record.row, picture, feature)
        else:
            self._catalogue.add(picture, feature)
        report.duplicates += due.is_copy
        report.updated += examined.record is not None and not due.is_copy
        report.added += examined.record is None and not due.is_copy

    def set_aside(self, examined: Examined[bytes]) -> None:
        """Note a file that cannot be used; what is broken is no picture any more."""
        path = examined.subject
        self._catalogue.mark_seen([path])
        state = (examined.size, examined.mtime_ns, examined.reason)
        before = self._catalogue.failure(path)
        if before is None or before[1:4] != state:
            self._catalogue.fail(path, *state)
        # What cannot be read may still be the picture that was indexed.
        if examined.record and examined.verdict is Verdict.BROKEN:
            self._catalogue.remove([examined.record.row])
        self.report.failed += 1
        self.report.failures.append((Path(os.fsdecode(path)), examined.reason))

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

    def _move(self, examined: Examined[bytes], picture: Picture) -> bool:
        """Give a picture that has lost its file its new place, if it is this one."""
        lost = self._moved.claim(examined.content_hash, picture.image_id)
        if lost is None:
            return False
        if examined.record:  # another picture lay where this one has been moved to
            self._catalogue.remove([examined.record.row])
        self._catalogue.describe(lost.row, picture)
        self.report.moved += 1
        return True

    def _describe(self, examined: Examined[bytes], picture: Picture) -> None:
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

    def _picture(self, due: Due[bytes]) -> Picture:
        examined = due.examined
        annotation = self._annotations.find(examined.subject)
        assert examined.size is not None
        assert examined.mtime_ns is not None
        width, height = due.shown_size
        if examined.verdict is Verdict.SAME:
            assert examined.record is not None
            width, height = examined.record.picture.width, examined.record.picture.height
        return Picture(
            root=self._owner,
            path=examined.subject,
            image_id=displayed_id(self._owner, examined.subject),
            size=examined.size,
            mtime_ns=examined.mtime_ns,
            content_hash=examined.content_hash,
            width=width,
            height=height,
            caption=annotation.caption,
            metadata=annotation.metadata,
        )
