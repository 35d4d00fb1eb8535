"""Pictures of an index read again from their files and encoded by another model."""

import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from retrieval.catalogue.exchange import GatheredFeatures, key_of
from retrieval.features import check_encoded
from retrieval.ingest.batches import Threads
from retrieval.ingest.examine import EXHAUSTED, check_at_rest, hash_file, reason_of
from retrieval.ingest.report import Pace
from retrieval.precision import precision_of
from retrieval.protocols import Encoder, Pixels
from retrieval.records import Picture, Record, kept_mtime

__all__ = ["Reencoding", "Tally"]

_NO_FILE = "it came without a file, from a data set or as bytes"
_NO_PICTURE = "it came as a finished feature, without a picture"
_CHANGED = "its file is another picture by now"


@dataclass(slots=True)
class Tally:
    """How far it is; see :class:`~retrieval.ingest.report.Counts`.

    Args:
        encoded: Pictures that the model has read.
        known: Pictures whose content it had read before, or another index had the feature of.
        failed: Pictures that could not be read.
    """

    encoded: int = 0
    known: int = 0
    failed: int = 0

    @property
    def done(self) -> int:
        """Pictures dealt with."""
        return self.encoded + self.known + self.failed


@dataclass(slots=True)
class Reencoding:
    """Reads pictures by threads ahead of the model, and gathers what that makes of them.

    Args:
        encoder: The model.
        gathered: Gets its features, batch by batch.
        threads: How many pictures are read ahead, and encoded at once.
        pace: Is told where it stands after each batch.
        tally: Is kept.
        failed: Of each row that could not be read, its picture and why; on one line.
    """

    encoder: Encoder
    gathered: GatheredFeatures
    threads: Threads
    pace: Pace
    tally: Tally = field(default_factory=Tally)
    failed: dict[int, tuple[Picture, str]] = field(default_factory=dict)

    def go_through(self, records: Iterable[Record]) -> None:
        """Encode pictures of which nothing was gathered yet.

        Raises:
            EncoderError: If the encoder returns anything but finite unit rows.
            StorageError: If the disk is full; what was gathered before stays.
            MemoryError: And other signs that the machine, not a picture, is in trouble.
        """
        # an encoder that has yet to choose how it computes times that: no thread beside it
        precision = precision_of(self.encoder, "image")
        batch: dict[bytes, Pixels] = {}
        self.pace.tell(self.tally)
        with ThreadPoolExecutor(self.threads.number, "clip-text-decode") as pool:
            try:
                for record, read in self._ahead(records, pool, batch):
                    if isinstance(read, str):
                        self.tally.failed += record.row not in self.failed
                        self.failed[record.row] = record.picture, read
                    elif read is not None:
                        key = key_of(record.picture)
                        assert key is not None
                        self.tally.known += key in batch
                        batch[key] = read
                    else:
                        self.tally.known += 1
                    if len(batch) >= self.threads.batch_size:
                        self._encode(batch, precision)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        self._encode(batch, precision)

    def _ahead(
        self, records: Iterable[Record], pool: ThreadPoolExecutor, batch: dict[bytes, Pixels]
    ) -> Iterator[tuple[Record, Pixels | str | None]]:
        """Read pictures with threads and yield them in order: pixels, or why there are none.

        None where the content is there already.
        """
        pending: deque[tuple[Record, Future[Pixels | str] | str | None]] = deque()
        limit = self.threads.batch_size + 2 * self.threads.number

        def next_read() -> tuple[Record, Pixels | str | None]:
            record, read = pending.popleft()
            return record, read.result() if isinstance(read, Future) else read

        for record in records:
            picture = record.picture
            key = key_of(picture)
            if key is None or picture.path is None:
                pending.append((record, _NO_PICTURE if key is None else _NO_FILE))
            elif key in batch or key in self.gathered:
                pending.append((record, None))
            else:
                pending.append((record, pool.submit(_read, picture, self.encoder)))
            if len(pending) >= limit:
                yield next_read()
        while pending:
            yield next_read()

    def _encode(self, batch: dict[bytes, Pixels], precision: str | None) -> None:
        if batch:
            rows = self.encoder.encode_pixels(list(batch.values()))
            remedy = "The encoder is at fault; nothing of this batch was kept."
            check_encoded(rows, len(batch), self.gathered.embed_dim, remedy)
            self.gathered.keep(dict(zip(batch, rows, strict=True)), [precision])
            self.tally.encoded += len(batch)
            batch.clear()
        self.pace.tell(self.tally)


def _read(picture: Picture, encoder: Encoder) -> Pixels | str:
    """Decode the file of a picture, if it still has its content; else say why not."""
    assert picture.path is not None
    path = Path(os.fsdecode(picture.path))
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return _CHANGED
        if picture.content_hash is not None and (
            status.st_size != picture.size or hash_file(path) != picture.content_hash
        ):
            return _CHANGED
        pixels = encoder.load_pixels(path)
        check_at_rest(path, status.st_size, kept_mtime(status))
    except (OSError, ValueError, ImportError) as error:
        if getattr(error, "errno", None) in EXHAUSTED:
            raise
        return reason_of(error)
    return pixels
