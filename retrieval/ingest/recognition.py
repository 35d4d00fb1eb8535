"""Text that stands in pictures: read once for each content, and searched like captions."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from retrieval.catalogue.store import Store
from retrieval.ingest.examine import EXHAUSTED, hash_file, reason_of
from retrieval.protocols import TextReader
from retrieval.stores import Location, open_for_writing

__all__ = ["RecognitionReport", "recognise_texts"]

_BATCH_SECONDS = 5.0
_BATCH = 64


@dataclass(slots=True)
class RecognitionReport:
    """What a run of reading came to.

    Args:
        read: Pictures that were read now.
        with_text: In how many of them stood some.
        failed: How many could not be read.
        seconds: How many seconds it took.
        failures: Paths of those that could not be read, each with its reason on one line; they
            are tried again in every run.
    """

    read: int = 0
    with_text: int = 0
    failed: int = 0
    seconds: float = 0.0
    failures: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def images_per_second(self) -> float:
        """Pictures read per second."""
        return self.read / self.seconds if self.seconds > 0.0 else 0.0

    def line(self) -> str:
        """Write the report on one line."""
        failed = f", {self.failed} failed" if self.failed else ""
        rate = f"{self.seconds:.1f} s, {self.images_per_second:.1f} images/s"
        return f"{self.read} pictures read, {self.with_text} with text{failed} ({rate})"


def recognise_texts(
    folder: Path,
    index_dir: Location,
    reader: TextReader,
    on_progress: Callable[[int, int], None] | None = None,
) -> RecognitionReport:
    """Read the text in the indexed pictures below a folder that nobody has read yet.

    What was read is stored every few seconds, so a run that ends early, for whatever reason, is
    continued by the same call.

    Args:
        folder: A folder whose pictures are in the index.
        index_dir: Where the index is, a folder or on a server.
        reader: What reads.
        on_progress: Called after each picture with how many are done, and of how many.

    Raises:
        IndexNotFoundError: If there is no index.
        IndexLockedError: If another process is writing to it.
        QueryError: If it has no text index, as on Milvus.
    """
    report, started = RecognitionReport(), time.monotonic()
    root = os.fsencode(os.path.realpath(folder))
    with open_for_writing(index_dir, only_if_written=True) as (catalogue, _):
        due = catalogue.words.unread(root)
        batch: list[tuple[bytes, str]] = []
        stored = time.monotonic()
        try:
            for number, (content_hash, text) in enumerate(_read(due, reader, report), start=1):
                if text is not None:
                    batch.append((content_hash, text))
                if len(batch) >= _BATCH or time.monotonic() - stored > _BATCH_SECONDS:
                    _store(catalogue, batch)
                    stored = time.monotonic()
                if on_progress:
                    on_progress(number, len(due))
        finally:  # Ctrl-C, say: what was read is kept
            _store(catalogue, batch)
    report.seconds = time.monotonic() - started
    return report


def _read(
    due: list[tuple[bytes, bytes]], reader: TextReader, report: RecognitionReport
) -> Iterator[tuple[bytes, str | None]]:
    """Read pictures one by one; None where it could not be done."""
    for content_hash, name in due:
        path = Path(os.fsdecode(name))
        try:
            # A file that has changed since is another picture: the next run will know it.
            text = reader(path) if hash_file(path) == content_hash else None
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) in EXHAUSTED:
                raise
            report.failed += 1
            report.failures.append((path, reason_of(error)))
            text = None
        report.read += text is not None
        report.with_text += bool(text)
        yield content_hash, text


def _store(catalogue: Store, batch: list[tuple[bytes, str]]) -> None:
    if batch:
        with catalogue.transaction():
            for content_hash, text in batch:
                catalogue.keep_recognised(content_hash, text)
        batch.clear()
