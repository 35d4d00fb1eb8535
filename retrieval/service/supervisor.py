"""Several processes that answer at one address, and the one that looks after them.

Each opens the indexes for itself; what is mapped of them is in memory once. The supervisor holds
the sockets, answers nothing itself, and loads no model. It starts the workers by ``spawn``: a fork
would copy threads' locks that nobody gives back.
"""

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any, Final

from prometheus_client import Metric, generate_latest

from retrieval.errors import RetrievalError
from retrieval.service.line import Line, LineError
from retrieval.service.server import terminal_is_gone
from retrieval.service.worker import FIGURES_S, RELOAD_S, Opened, Plan, work

__all__ = ["Supervisor", "WorkerError"]

_LOG = logging.getLogger(__name__)
_SPAWN: Final = multiprocessing.get_context("spawn")
_LOOKED_S: Final = 0.2  # between looks for signals
_QUICK_S: Final = 30.0  # who dies earlier than this is started again with a pause
_LONGEST_PAUSE_S: Final = 30.0
_LOOKS: Final = 4  # whether a worker is at work, in the time after which it counts as hung
_THREADS_VARIABLE: Final = "OMP_NUM_THREADS"


class WorkerError(RetrievalError):
    """A worker could not begin."""


@dataclass(slots=True, eq=False)
class _Worker:
    process: SpawnProcess
    line: Line
    since: float = field(default_factory=time.monotonic)
    ready: threading.Event = field(default_factory=threading.Event)
    opened: list[Opened] = field(default_factory=list)
    failure: str | None = None


class Supervisor:
    """Keeps a number of workers at work until a signal ends them.

    Args:
        plan: What each does.
        sockets: Where they listen; closed by the supervisor at the end.
        workers: How many.
    """

    def __init__(self, plan: Plan, sockets: Sequence[socket.socket], workers: int) -> None:
        self._plan, self._sockets, self._number = plan, sockets, workers
        self._workers: list[_Worker] = []
        self._ending = threading.Event()
        self._reload_wanted = False
        self._reloading = threading.Lock()
        self._deaths = 0  # in a row, each soon after the start
        self._start_at: dict[int, float] = {}

    def run(self, on_started: Callable[[list[Opened]], object]) -> None:
        """Start the workers, start those again that die, and end them when a signal says so.

        Args:
            on_started: Called once all are ready.

        Raises:
            WorkerError: If one cannot begin: what it says.
        """
        with self._signals(), _divided_threads(self._number):
            try:
                # The first alone: what is wrong is told once, what is made at first use made once.
                for count in (1, self._number):
                    while len(self._workers) < count:
                        self._workers.append(self._start(len(self._workers)))
                    self._await_ready()
                if not self._ending.is_set():
                    on_started(self._workers[0].opened)
                while not self._ending.is_set():
                    self._watch()
            finally:
                self._end()

    def reload(self) -> None:
        """Let each worker open its indexes anew, one after the other.

        Raises:
            LineError: If one cannot; those after it have not begun, and it goes on as before.
        """
        with self._reloading:
            for slot in range(self._number):
                worker = self._workers[slot]
                if self._comes_to_answer(worker):
                    worker.line.ask("reload", timeout_s=RELOAD_S)

    def _comes_to_answer(self, worker: _Worker) -> bool:
        """Wait for one that begins; False if it dies: who is started again opens what is there."""
        until = time.monotonic() + RELOAD_S
        while not worker.ready.wait(_LOOKED_S):
            if not worker.process.is_alive() or self._ending.is_set():
                return False
            if time.monotonic() > until:
                break
        return worker.process.is_alive()

    def metrics(self) -> bytes:
        """Write the figures of all workers in Prometheus' text format, each under its number."""
        families: dict[str, Metric] = {}
        until = time.monotonic() + FIGURES_S  # for all: who asked waits no longer
        for slot, worker in enumerate(self._workers):
            left_s = max(_LOOKED_S, until - time.monotonic())
            try:
                figures = worker.line.ask("metrics", timeout_s=left_s)
            except LineError:  # it has died, or not begun: its series end
                continue
            for family in figures:
                merged = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    labels = {**sample.labels, "worker": str(slot)}
                    merged.add_sample(sample.name, labels, sample.value)
        return generate_latest(_Families(list(families.values())))

    def _start(self, slot: int) -> _Worker:
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(
            target=work,
            args=(self._plan, list(self._sockets), theirs, slot, self._number),
            name=f"clip-text-worker-{slot}",
        )
        process.start()
        theirs.close()  # so that its end is heard of
        worker: _Worker

        def answer(question: str, value: Any) -> object:  # noqa: ANN401  (of the question's kind)
            if question == "ready":
                worker.opened = value
                worker.ready.set()
                return None
            if question == "failed":
                worker.failure = value
                return None
            if question == "go on":
                patience_s = self._plan.settings.timeout_s
                return self._workers[value[0]].line.ask("go on", value[1:], timeout_s=patience_s)
            return {"metrics": self.metrics, "reload": self.reload}[question]()

        started = threading.Event()

        def answer_once_known(question: str, value: Any) -> object:  # noqa: ANN401
            started.wait()
            return answer(question, value)

        worker = _Worker(process, Line(ours, answer_once_known))
        started.set()
        threading.Thread(target=self._feel_pulse, args=(worker,), daemon=True).start()
        return worker

    def _feel_pulse(self, worker: _Worker) -> None:
        """Ask a worker, as long as it lives, whether it is at work; kill one that does not say so.

        It is started again like one that died.
        """
        settings = self._plan.settings
        patience_s = max(settings.hung_s, 2 * settings.timeout_s)
        ended = worker.process.sentinel
        while not (self._ending.is_set() or wait([ended], timeout=patience_s / _LOOKS)):
            if not worker.ready.is_set():
                continue
            try:
                worker.line.ask("alive", patience_s, timeout_s=patience_s)
            except LineError as error:
                if self._ending.is_set() or wait([ended], timeout=_LOOKED_S):
                    return
                _LOG.error("worker process %s is ended: it hangs. %s", worker.process.pid, error)
                worker.process.kill()
                return

    def _await_ready(self) -> None:
        for worker in self._workers:
            while not worker.ready.wait(_LOOKED_S):
                if self._ending.is_set():
                    return
                if not worker.process.is_alive():
                    raise WorkerError(worker.failure or _died(worker))

    def _watch(self) -> None:
        """Wait a moment; start those again that have died, and reload if that is wanted."""
        wait([each.process.sentinel for each in self._workers], timeout=_LOOKED_S)
        if self._reload_wanted:
            self._reload_wanted = False
            threading.Thread(target=self._reload_told, daemon=True).start()
        for slot, worker in enumerate(self._workers):
            if self._ending.is_set():
                return
            if worker.process.is_alive():
                continue
            now = time.monotonic()
            if slot not in self._start_at:
                self._start_at[slot] = now + self._pause(worker, now)
                _LOG.error("%s It is started again.", worker.failure or _died(worker))
                worker.line.close()
            if now >= self._start_at[slot]:
                del self._start_at[slot]
                self._workers[slot] = self._start(slot)
            else:
                self._ending.wait(_LOOKED_S)

    def _pause(self, worker: _Worker, now: float) -> float:
        """Give the seconds until one that died is started again: more if that goes on."""
        lasted = worker.ready.is_set() and now - worker.since > _QUICK_S
        self._deaths = 0 if lasted else self._deaths + 1
        return 0.0 if self._deaths < 2 else min(_LONGEST_PAUSE_S, 2.0 ** (self._deaths - 2))

    def _reload_told(self) -> None:
        try:
            self.reload()
        except RetrievalError as error:
            _LOG.error("cannot reload: %s", error)

    def _end(self) -> None:
        settings = self._plan.settings
        for one in self._sockets:
            one.close()
        for worker in self._workers:
            if worker.process.is_alive():
                worker.process.terminate()
        # what a worker itself takes at most, and a little
        until = time.monotonic() + settings.drain_s + settings.shutdown_s + 5.0
        for worker in self._workers:
            worker.process.join(max(0.1, until - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.line.close()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        had_terminal = not terminal_is_gone()

        def end(_number: int, _frame: FrameType | None) -> None:
            self._ending.set()

        def hang_up(number: int, frame: FrameType | None) -> None:
            if had_terminal and terminal_is_gone():
                end(number, frame)
            else:
                self._reload_wanted = True

        wanted: dict[str, Any] = {"SIGINT": end, "SIGTERM": end, "SIGHUP": hang_up}
        numbers = {name: getattr(signal, name, None) for name in wanted}
        before = {
            number: signal.signal(number, wanted[name])
            for name, number in numbers.items()
            if number is not None
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Families:
    """Figures that were collected, as prometheus_client writes them."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        """Give them."""
        return self._families


@contextmanager
def _divided_threads(workers: int) -> Iterator[None]:
    """Let each worker compute with its part of the cores, unless the environment says otherwise."""
    if _THREADS_VARIABLE in os.environ:
        yield
        return
    affinity = getattr(os, "sched_getaffinity", None)  # not everywhere
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    os.environ[_THREADS_VARIABLE] = str(max(1, cores // workers))
    try:
        yield
    finally:
        del os.environ[_THREADS_VARIABLE]


def _died(worker: _Worker) -> str:
    return (
        f"expected a worker at work, got one that died (process {worker.process.pid}, exit code "
        f"{worker.process.exitcode})."
    )
