"""The one way of pictures into an index: read ahead by threads, encoded and stored by batches.

Pictures are taken in one fixed order. Those that need reading are hashed and decoded by threads
ahead of the encoder, at most a few batches ahead; outcomes are taken in order, so rows do not
depend on which thread was faster. Each batch becomes one transaction. Where pictures come from,
and what is stored of them, an :class:`Intake` knows.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from retrieval.catalogue import StoredFeature
from retrieval.catalogue.store import Store
from retrieval.features import check_encoded
from retrieval.ingest.examine import Examined, Verdict, read_content
from retrieval.ingest.report import IngestReport, Pace
from retrieval.precision import as_note, precision_of
from retrieval.protocols import Encoder, Feature, Pixels
from retrieval.stores import Location, open_for_writing
from retrieval.stores.opening import Sealer

__all__ = ["Batches", "Due", "Intake", "Threads", "run"]

T = TypeVar("T")

# A transaction is due after this many pictures even if the model had nothing to read.
_MOST_PENDING = 1024
_MOST_WORKERS = 8


def run(
    index_dir: Location, encoder: Encoder, work: Callable[[Store, Sealer], IngestReport]
) -> IngestReport:
    """Do something to an index as its one writer, and have its vectors follow.

    Args:
        index_dir: Where the index is or shall be.
        encoder: Whose features it has.
        work: Does it, given the catalogue and what seals meanwhile, and tells of it.

    Returns:
        What ``work`` gave, completed by what holds at the end.

    Raises:
        IndexLockedError: If another process is writing to ``index_dir``.
        IndexMismatchError: If the index was built by another model.
    """
    with open_for_writing(
        index_dir, fingerprint=encoder.fingerprint, embed_dim=encoder.embed_dim
    ) as (catalogue, sealer):
        started = time.monotonic()
        report = work(catalogue, sealer)
        sealer.wait()
        report.total = len(catalogue)
        report.seconds = time.monotonic() - started
    return report


@dataclass(frozen=True, slots=True)
class Due(Generic[T]):
    """A picture whose outcome the next transaction stores.

    Args:
        examined: What was found out about it.
        feature: Its row as it is stored, [embed_dim], if some picture with this content had one
            already.
        is_copy: The content is known from another one, or from one before it in the batch.
        shown_size: Width and height in pixels after EXIF rotation, where known.
    """

    examined: Examined[T]
    feature: StoredFeature | None
    is_copy: bool
    shown_size: tuple[int | None, int | None]


class Intake(Protocol[T]):
    """What becomes of the outcomes of pictures: called inside a transaction, for each in order."""

    def expect(self, due: Sequence[Due[T]]) -> None:
        """Take note of what comes next, before the first of it is stored."""
        ...

    def store(self, due: Due[T], feature: Feature | StoredFeature | None) -> None:
        """Store a picture, and count it.

        Args:
            due: What was found out about it.
            feature: Its row, [embed_dim]; None where the catalogue has it already.
        """
        ...

    def set_aside(self, examined: Examined[T]) -> None:
        """Note a picture that cannot be used, and count it."""
        ...


@dataclass(frozen=True, slots=True)
class Threads:
    """How a run works.

    Args:
        batch_size: Pictures per call of the encoder and per transaction.
        workers: Threads that read and decode; one per core, at most 8, if None.
    """

    batch_size: int = 64
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.workers is not None and self.workers < 1):
            raise ValueError(
                "expected batch_size and workers of at least 1, got "
                f"{self.batch_size} and {self.workers}."
            )

    @property
    def number(self) -> int:
        """How many threads there are."""
        return self.workers or min(_MOST_WORKERS, os.cpu_count() or 1)


class Batches(Generic[T]):
    """One run: gathers outcomes, has them encoded and stored batch by batch.

    Args:
        intake: Where the pictures come from.
        catalogue: Open for writing.
        encoder: Turns pictures into features.
        report: Is told what the model has read, and whether its precision differs.
        pace: Is told where the run stands after each batch.
        sealer: Is told how much has changed.
    """

    def __init__(
        self,
        intake: Intake[T],
        catalogue: Store,
        encoder: Encoder,
        *,
        report: IngestReport,
        pace: Pace,
        sealer: Sealer,
    ) -> None:
        self._intake = intake
        self._catalogue = catalogue
        self._encoder = encoder
        self._report = report
        self._pace = pace
        self._sealer = sealer
        self._due: list[Due[T]] = []
        self._to_encode: dict[bytes, Pixels] = {}  # by content hash, in order
        self._told_precision = False

    def go_through(self, seen: Iterable[Examined[T]], threads: Threads) -> None:
        """Take over all pictures.

        Args:
            seen: Each as a glance has it; gone through on this thread.
            threads: How many are read ahead.
        """
        self._pace.tell(self._report)
        with ThreadPoolExecutor(threads.number, "clip-text-decode") as pool:
            try:
                limit = threads.batch_size + 2 * threads.number
                for examined in self._ahead(seen, pool, limit):
                    self._take(examined)
                    is_full = len(self._to_encode) >= threads.batch_size
                    if is_full or len(self._due) >= _MOST_PENDING:
                        self._commit()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        self._commit()

    def _ahead(
        self, seen: Iterable[Examined[T]], pool: ThreadPoolExecutor, limit: int
    ) -> Iterator[Examined[T]]:
        """Read pictures with threads, at most ``limit`` ahead, and yield them in order."""
        pending: deque[Future[Examined[T]] | Examined[T]] = deque()

        def next_examined() -> Examined[T]:
            first = pending.popleft()
            return first if isinstance(first, Examined) else first.result()

        has_chosen = False
        for examined in seen:
            needs_reading = examined.verdict is Verdict.UNREAD
            if needs_reading and not has_chosen:
                # an encoder that has yet to choose how it computes times that: no thread beside it
                precision_of(self._encoder, "image")
                has_chosen = True
            pending.append(pool.submit(self._read, examined) if needs_reading else examined)
            if len(pending) >= limit:
                yield next_examined()
        while pending:
            yield next_examined()

    def _read(self, seen: Examined[T]) -> Examined[T]:
        return read_content(seen, self._catalogue, self._encoder.load_pixels)

    def _take(self, examined: Examined[T]) -> None:
        """Accept the next picture's outcome."""
        feature, is_copy = None, False
        shown_size: tuple[int | None, int | None] = examined.shown_size or (None, None)
        if examined.verdict in {Verdict.KNOWN, Verdict.DECODED}:
            # Judged anew, now that all pictures before this one are settled: which thread
            # read what when must not decide what is stored.
            known = self._catalogue.find_content(examined.content_hash)
            in_batch = examined.content_hash in self._to_encode
            if known:
                record, feature = known
                shown_size = (record.picture.width, record.picture.height)
            elif not in_batch and examined.verdict is Verdict.KNOWN:
                # The picture it was known from has changed since.
                self._take(self._read(examined))
                return
            is_copy = bool(known) or in_batch
            if not is_copy:
                assert examined.pixels is not None
                self._to_encode[examined.content_hash] = examined.pixels
        done = replace(examined, pixels=None, load=None)
        self._due.append(Due(done, feature, is_copy, shown_size))

    def _commit(self) -> None:
        """Encode what is new, and store the batch in one transaction."""
        features = self._encode()
        with self._catalogue.transaction():
            if features:
                self._note_precision()
            if any(due.examined.verdict is Verdict.GIVEN for due in self._due):
                self._catalogue.add_precision(None)  # nobody says of those
            self._intake.expect(self._due)
            for due in self._due:
                examined = due.examined
                if examined.verdict in {Verdict.BROKEN, Verdict.UNREADABLE}:
                    self._intake.set_aside(examined)
                elif examined.verdict is Verdict.GIVEN:
                    self._intake.store(due, examined.feature)
                else:
                    encoded = features.get(examined.content_hash)
                    self._intake.store(due, encoded if due.feature is None else due.feature)
        self._sealer.note(sum(due.examined.verdict is not Verdict.SAME for due in self._due))
        self._due.clear()
        self._to_encode.clear()
        self._pace.tell(self._report)

    def _encode(self) -> dict[bytes, Feature]:
        if not self._to_encode:
            return {}
        rows = self._encoder.encode_pixels(list(self._to_encode.values()))
        remedy = "The encoder is at fault; nothing of this batch was stored."
        check_encoded(rows, len(self._to_encode), self._catalogue.embed_dim, remedy)
        self._report.encoded += len(rows)
        return dict(zip(self._to_encode, rows, strict=True))

    def _note_precision(self) -> None:
        """Have the catalogue remember what pictures are computed in, and tell if that differs."""
        precision = precision_of(self._encoder, "image")
        note = as_note(self._catalogue.precisions, precision, what="new pictures")
        self._catalogue.add_precision(precision)
        if note and not self._told_precision:
            self._report.notes.append(note)
            self._told_precision = True
