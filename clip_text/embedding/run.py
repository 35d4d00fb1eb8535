"""A source of pictures → shards of features in a folder; the same call again goes on."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from clip_text.embedding.manifest import Done, Facts, Folder, Manifest
from clip_text.embedding.options import BATCH_SIZE, SHARD_SIZE, Dtype, Settings, Wanted
from clip_text.embedding.shards import Shard, Source, cut
from clip_text.embedding.sources import find_source
from clip_text.embedding.work import Job, Load
from clip_text.errors import DataError

__all__ = ["Engine", "Report", "Runner", "Standing", "embed"]

Engine = Literal["local", "ray"]
"""What distributes shards over workers."""

_READERS = 4
_LISTED = 20  # pictures set aside that are named in a report
_WINDOW = 60.0  # seconds over which the rate is told


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands.

    Args:
        shards: How many are done, those of earlier runs included.
        total: How many there are.
        pictures: How many were dealt with in this run, those set aside included.
        failed: How many of these were set aside.
        pictures_per_second: Over the last minute.
    """

    shards: int
    total: int
    pictures: int
    failed: int
    pictures_per_second: float


@dataclass(slots=True)
class Report:
    """What a run came to.

    Args:
        shards: How many there are; all are done.
        done_before: How many of them earlier runs had done.
        rows: Features in all shards.
        failed: Pictures set aside in all shards.
        unreachable: How many of these might be read another time.
        encoded: Features written in this run.
        seconds: How long this run took, the loading of the model included.
        pictures_per_second: Pictures dealt with per second of this run's work on shards.
        failures: Ids or places of some of those set aside, with the reason.
    """

    shards: int = 0
    done_before: int = 0
    rows: int = 0
    failed: int = 0
    unreachable: int = 0
    encoded: int = 0
    seconds: float = 0.0
    pictures_per_second: float = 0.0
    failures: list[tuple[str, str]] = field(default_factory=list)


class Runner(Protocol):
    """What has shards embedded by workers: on this machine, or on many."""

    def describe(self, load: Load, runtime: str | None, threads: int) -> Facts:
        """Load the model where it will compute, and say what its rows depend on.

        Args:
            load: Loads it.
            runtime: What is given to ``load``.
            threads: That compute in each worker.
        """
        ...

    def run(self, job: Job, shards: Sequence[Shard]) -> Iterator[Done]:
        """Embed shards; each is given when it is done, in any order.

        Args:
            job: How.
            shards: Which are to be done.
        """
        ...


OnProgress = Callable[[Standing], None]


def embed(
    source: str,
    out: Path,
    load: Load,
    runner: Runner,
    *,
    model: str = "",
    runtime: str | None = None,
    settings: Settings | None = None,
    wanted: Wanted | None = None,
    readers: int = _READERS,
    retry_failed: bool = False,
    on_progress: OnProgress | None = None,
) -> Report:
    """Encode the pictures of a source into shards of Parquet: ids, features, what is said of them.

    An interrupted run is continued by the same call: shards that are done are not looked at again.
    What a shard holds depends on neither runner nor number of workers.

    Args:
        source: A path, a pattern or a URL; see :mod:`clip_text.embedding.sources`.
        out: Folder of the shards, new or of the same model, source and settings.
        load: Loads the model, given the name of a runtime, or None for the one that suits.
        runner: What distributes the work.
        model: What the model is called, for people.
        runtime: The one asked for; that of the folder if None.
        settings: What else the bytes depend on; as before, or usual, where not given.
        wanted: How the source is read.
        readers: Threads of each worker that fetch and decode.
        retry_failed: Do shards anew of which pictures could not be reached.
        on_progress: Called after each shard.

    Returns:
        What was done, and what was set aside.

    Raises:
        DataError: If the source cannot be read, or the folder is of another model, source or
            settings.
        StorageError: If the folder cannot be written.
        MissingPackageError: If a package is needed and not installed.
    """
    began, folder, wanted = time.monotonic(), Folder(out), wanted or Wanted()
    before = folder.read()
    chosen = _settled(settings or Settings(), before)
    found = find_source(source, wanted, folder, chosen.shard_size)
    shards = list(cut(found, chosen.shard_size))
    facts = runner.describe(load, runtime, chosen.threads)
    if before and runtime is None and facts.runtime != before.runtime:
        runtime = before.runtime.split(" ")[0]
        facts = runner.describe(load, runtime, chosen.threads)
    manifest = _manifest(model, facts, chosen, found, len(shards))
    if before is None:
        folder.begin(manifest)
    else:
        before.check(manifest, out)
    report = Report(len(shards))
    done = {shard.number: one for shard in shards if (one := folder.done(shard))}
    if retry_failed:
        for shard in shards:
            if shard.number in done and done[shard.number].unreachable:
                folder.forget(shard)
                del done[shard.number]
    report.done_before = len(done)
    left = [shard for shard in shards if shard.number not in done]
    if left:
        brief = replace(manifest, source={})
        job = Job(out.resolve(), found.reading, brief, readers, load, runtime)
        pace = _Pace(len(done), len(shards), on_progress)
        for one in runner.run(job, left):
            done[one.shard] = one
            pace.tell(one)
        report.encoded, report.pictures_per_second = pace.encoded, pace.overall
    _conclude(report, folder, shards, done)
    folder.sweep(manifest)
    report.seconds = time.monotonic() - began
    return report


class _Settled(NamedTuple):
    """Settings, each with its value."""

    shard_size: int
    batch_size: int
    dtype: Dtype
    threads: int


def _settled(asked: Settings, before: Manifest | None) -> _Settled:
    """Fill in what was not asked for: as before, or usual."""
    usual: tuple[int, int, Dtype, int] = (SHARD_SIZE, BATCH_SIZE, "float32", 1)
    if before:
        usual = (before.shard_size, before.batch_size, before.dtype, before.threads)
    return _Settled(
        asked.shard_size or usual[0],
        asked.batch_size or usual[1],
        asked.dtype or usual[2],
        asked.threads or usual[3],
    )


def _manifest(
    model: str, facts: Facts, settings: "_Settled", source: Source, shards: int
) -> Manifest:
    return Manifest(
        model=model,
        **asdict(facts),
        dtype=settings.dtype,
        batch_size=settings.batch_size,
        threads=settings.threads,
        shard_size=settings.shard_size,
        shards=shards,
        source=source.as_json(),
    )


def _conclude(
    report: Report, folder: Folder, shards: Sequence[Shard], done: dict[int, Done]
) -> None:
    lost = [shard.name for shard in shards if shard.number not in done]
    if lost:
        raise DataError(
            f"expected all {len(shards):,} shards to be done, got none of {', '.join(lost[:3])}. "
            "Run the same command again."
        )
    for shard in shards:
        one = done[shard.number]
        report.rows += one.rows
        report.failed += one.failed
        report.unreachable += one.unreachable
        if one.failed and len(report.failures) < _LISTED:
            report.failures += folder.failures(shard)
    del report.failures[_LISTED:]


class _Pace:
    """Turns done shards into a standing with a rate."""

    def __init__(self, before: int, total: int, on_progress: OnProgress | None) -> None:
        self._shards, self._total, self._tell = before, total, on_progress
        self._pictures = self._failed = 0
        self._began = time.monotonic()
        self._marks = deque([(self._began, 0)])

    @property
    def encoded(self) -> int:
        """Features written so far."""
        return self._pictures - self._failed

    @property
    def overall(self) -> float:
        """Pictures per second since the beginning."""
        return self._pictures / max(time.monotonic() - self._began, 1e-9)

    def tell(self, done: Done) -> None:
        """Take note of a shard."""
        self._shards += 1
        self._pictures += done.rows + done.failed
        self._failed += done.failed
        now = time.monotonic()
        while len(self._marks) > 1 and now - self._marks[0][0] > _WINDOW:
            self._marks.popleft()
        since, count = self._marks[0]
        self._marks.append((now, self._pictures))
        if self._tell:
            rate = (self._pictures - count) / max(now - since, 1e-9)
            self._tell(Standing(self._shards, self._total, self._pictures, self._failed, rate))
