"""What a run of indexing says: while it goes on, and at its end."""

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from retrieval.records import displayed

__all__ = [
    "Counts",
    "IngestReport",
    "OnProgress",
    "Pace",
    "Progress",
    "failure_lines",
    "failure_name",
]

_WINDOW_SECONDS = 20.0
_MOST_LISTED = 20  # lines
_MOST_ALIKE = 5  # files that failed for one reason and have a line each


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands.

    Args:
        done: Files dealt with and stored so far, failures included.
        total: Files to deal with in this run.
        encoded: Pictures the model has read so far.
        failed: Files set aside so far.
        seconds: Seconds since the run began.
        images_per_second: Files stored per second, over the last 20 seconds.
        seconds_left: Seconds until the end at that rate; None as long as it is unknown.
    """

    done: int
    total: int
    encoded: int
    failed: int
    seconds: float
    images_per_second: float
    seconds_left: float | None


OnProgress = Callable[[Progress], None]
"""Called on the thread that indexes, after each batch; what it raises ends the run."""


@dataclass(slots=True)
class IngestReport:
    """What a run did; added + updated + unchanged + duplicates + moved + failed is all files.

    Args:
        added: New pictures the model has read.
        updated: Known pictures with new content, caption, metadata or place.
        unchanged: Known pictures left as they were.
        duplicates: Files whose content was known from elsewhere, where it still is, so that
            the model did not have to read them.
        moved: Known pictures found at another place, and no longer at the one before; each
            keeps its row and features.
        removed: Pictures forgotten because their files are gone.
        failed: How many files were set aside.
        ignored: Files that are no pictures, and links to folders.
        encoded: Pictures the model has read.
        total: Pictures in the index now, those of other folders included.
        seconds: How many seconds the run took.
        failures: Paths of the files set aside, or of items their ids, safe to print, each with
            the reason on one line.
        notes: Other things worth knowing: bad lines of ``metadata.jsonl``, folders that
            could not be read or are gone.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    duplicates: int = 0
    moved: int = 0
    removed: int = 0
    failed: int = 0
    ignored: int = 0
    encoded: int = 0
    total: int = 0
    seconds: float = 0.0
    failures: list[tuple[Path | str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Files dealt with."""
        known = self.updated + self.unchanged + self.duplicates + self.moved
        return self.added + known + self.failed

    @property
    def images_per_second(self) -> float:
        """Files dealt with per second of the whole run."""
        return self.done / self.seconds if self.seconds > 0.0 else 0.0

    def lines(self) -> list[str]:
        """Write the report for people, line by line."""
        counts = [
            (self.added, "added"),
            (self.updated, "updated"),
            (self.moved, "moved"),
            (self.duplicates, "known from elsewhere"),
            (self.unchanged, "unchanged"),
            (self.removed, "removed"),
            (self.failed, "failed"),
            (self.ignored, "ignored"),
        ]
        told = [f"{count} {name}" for count, name in counts if count] or ["nothing to do"]
        rate = f"{self.seconds:.1f} s, {self.images_per_second:.1f} images/s"
        lines = [f"{self.total} pictures in the index: {', '.join(told)} ({rate})"]
        told = failure_lines(self.failures, "failed")
        return lines + told + [f"  note: {note}" for note in self.notes]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def failure_lines(failures: Sequence[tuple[Path | str, str]], what: str) -> list[str]:
    """Write a line for each picture that something is wrong with, but one for many alike.

    Args:
        failures: Of each its path or id, and the reason.
        what: Has become of them, in a word.
    """
    alike: dict[str, list[Path | str]] = {}
    for path, reason in failures:
        alike.setdefault(reason, []).append(path)
    told: list[str] = []
    for reason, paths in alike.items():
        names = [failure_name(path) for path in paths]
        if len(names) > _MOST_ALIKE:
            names = [f"{names[0]} and {len(names) - 1:,} more"]
        told += [f"  {what}: {name}: {reason}" for name in names]
    if len(told) > _MOST_LISTED:
        rest = f"  and {len(told) - _MOST_LISTED} more lines like these"
        told = [*told[:_MOST_LISTED], rest]
    return told


def failure_name(failed: Path | str) -> str:
    """Spell what failed so that it is safe to print: a path, or an id that is so already."""
    return failed if isinstance(failed, str) else displayed(os.fsencode(failed))


class Counts(Protocol):
    """How far a run has come, as :class:`Progress` has it."""

    @property
    def done(self) -> int:
        """Pictures dealt with."""
        ...

    @property
    def encoded(self) -> int:
        """Pictures the model has read."""
        ...

    @property
    def failed(self) -> int:
        """Pictures set aside."""
        ...


class Pace:
    """Turns a run's counts into progress with a rate and the time left."""

    def __init__(self, total: int, on_progress: OnProgress | None) -> None:
        self._total = total
        self._tell = on_progress
        self._started = time.monotonic()
        self._marks = deque([(self._started, 0)])

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._started

    def tell(self, report: Counts) -> None:
        """Pass on where the run stands."""
        if self._tell is None:
            return
        now, done = time.monotonic(), report.done
        while len(self._marks) > 1 and now - self._marks[0][0] > _WINDOW_SECONDS:
            self._marks.popleft()
        since, before = self._marks[0]
        rate = (done - before) / max(now - since, 1e-9)
        self._marks.append((now, done))
        # A file may come or go between the count and the walk.
        total = max(self._total, done)
        left = (total - done) / rate if rate > 0.0 else None
        self._tell(
            Progress(done, total, report.encoded, report.failed, now - self._started, rate, left)
        )
