"""Shards embedded on this machine: in this process, or by several, each with a model of its own."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from clip_text.embedding.manifest import Done, Facts
from clip_text.embedding.shards import Shard
from clip_text.embedding.work import Job, Load, Worker
from clip_text.errors import ClipTextError

__all__ = ["Local"]


class Local:
    """Workers of this machine; a :class:`~clip_text.embedding.run.Runner`.

    Args:
        workers: How many processes; one per GPU, or as many as the cores allow, if None.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._asked = workers
        self._own: Worker | None = None
        self._gpus = 0

    def describe(self, load: Load, runtime: str | None, threads: int) -> Facts:
        """Load the model here; see :class:`~clip_text.embedding.run.Runner`."""
        self._own = None  # before another takes as much memory
        self._own = Worker(load, runtime, threads)
        self._gpus = self._own.gpus
        return self._own.facts

    def run(self, job: Job, shards: Sequence[Shard]) -> Iterator[Done]:
        """Embed shards; each is given when it is done.

        Raises:
            ClipTextError: If a worker dies, or has another model.
        """
        usual = self._gpus or max(1, _cores() // job.manifest.threads)
        workers = min(self._asked or usual, len(shards))
        own, self._own = self._own, None
        if workers == 1:
            assert own is not None
            for shard in shards:
                yield own.embed(job, shard)
            return
        del own  # each worker has its own
        yield from _by_processes(job, shards, workers, self._gpus)


def _cores() -> int:
    """Cores of this process: its threads are set by now, and say nothing of them."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _by_processes(job: Job, shards: Sequence[Shard], workers: int, gpus: int) -> Iterator[Done]:
    context = multiprocessing.get_context("spawn")  # a fork would share what libraries have set up
    turns = context.SimpleQueue()
    for turn in range(workers):
        turns.put(turn)
    waiting = iter(shards)
    with _pool(context, workers, (job, turns, gpus)) as pool:
        running: set[Future[Done]] = set()
        try:
            while True:
                for shard in waiting:
                    running.add(pool.submit(_work, shard))
                    if len(running) > workers:  # one waits, so that none is idle
                        break
                if not running:
                    return
                ready, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ready:
                    yield future.result()
        except BrokenProcessPool as error:
            raise ClipTextError(
                f"expected {workers} workers to the end, got one that died: the memory may be too "
                "small for as many. The same command goes on; --workers asks for fewer."
            ) from error


@contextmanager
def _pool(context: Any, workers: int, arguments: tuple[Any, ...]) -> Iterator[ProcessPoolExecutor]:  # noqa: ANN401
    """Give a pool that is ended at once where this process is stopped or fails."""
    pool = ProcessPoolExecutor(workers, context, _begin, arguments)
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.kill()  # nothing of a shard in the midst stays
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()


_state: dict[str, Any] = {}
"""Of a worker: its job, and its model or why there is none."""


def _begin(job: Job, turns: Any, gpus: int) -> None:  # noqa: ANN401
    """Set a worker up: its device, its threads, its model."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    turn = turns.get()
    if gpus:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = seen.split(",") if seen else [str(number) for number in range(gpus)]
        os.environ["CUDA_VISIBLE_DEVICES"] = names[turn % len(names)]
    _state["job"] = job
    try:
        _state["worker"] = Worker(job.load, job.runtime, job.manifest.threads)
    except Exception as error:  # noqa: BLE001  (told by the first shard: a pool hides it)
        _state["error"] = error


def _end_with_parent() -> None:
    """End where the process that started this one was killed: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(shard: Shard) -> Done:
    if "error" in _state:
        raise _state["error"]
    done: Done = _state["worker"].embed(_state["job"], shard)
    return done
