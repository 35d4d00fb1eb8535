"""Requests that arrive together are worked on together, and no more of them than can be."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from retrieval.errors import RetrievalError

__all__ = ["Batcher", "Load", "OverloadedError"]

Asked = TypeVar("Asked")
Given = TypeVar("Given")

_WEIGHT = 0.2  # of the newest batch, in the mean time that one takes


class OverloadedError(RetrievalError):
    """More wait already than can be worked on soon.

    Args:
        retry_after_s: Seconds after which those that wait now have had their turn.
    """

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(
            "expected fewer requests at once, got more than can be answered soon. Try again "
            "in a moment."
        )
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a batcher is.

    Args:
        waiting: Requests that wait for their turn.
        at_work: Requests that are being worked on.
        each_s: Seconds that one request, or one text of it, has taken lately.
    """

    waiting: int
    at_work: int
    each_s: float


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Asked, Given]):
    asked: Asked
    weight: int
    given: "asyncio.Future[Given]"
    loop: asyncio.AbstractEventLoop
    since: float


class Batcher(Generic[Asked, Given]):
    """Works on what is asked in batches, in threads beside the event loop.

    Nobody waits for a batch to fill: a thread that is free takes all that wait, so that a lone
    request is worked on at once, and those that come while others are worked on go together. The
    batches grow with the load by themselves.

    Args:
        work: Gives, for what is asked, in its order, what is given, or the error of each.
        most: Size of a batch at most, in what ``weigh`` counts.
        waiting: How many may wait.
        patience_s: Seconds that one may have to wait, by how long others have taken lately.
        threads: How many batches are worked on at the same time.
        observe: Told of each batch: its size, the seconds that its requests waited, and those that
            it took. Called in the threads.
        weigh: Says how much of a batch one takes, such as its number of texts; 1 if not given.
    """

    def __init__(
        self,
        work: Callable[[list[Asked]], Sequence[Given | Exception]],
        *,
        most: int,
        waiting: int,
        patience_s: float,
        threads: int = 1,
        observe: Callable[[int, list[float], float], object] | None = None,
        weigh: Callable[[Asked], int] | None = None,
    ) -> None:
        self._work, self._observe, self._weigh = work, observe, weigh
        self._most, self._most_waiting, self._patience_s = most, waiting, patience_s
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="clip-text-batch")
        self._queue: deque[_Waiting[Asked, Given]] = deque()
        self._lock = threading.Lock()
        self._running = self._at_work = self._weight = 0
        self._each_s = 0.0
        self._began: dict[int, float] = {}  # by its thread, when the batch at work began

    def load(self) -> Load:
        """Say how busy it is."""
        return Load(len(self._queue), self._at_work, self._each_s)

    def oldest_s(self) -> float:
        """Say for how many seconds the batch has been at work that began first; 0 for none."""
        began = min(self._began.copy().values(), default=None)
        return 0.0 if began is None else time.monotonic() - began

    def check(self) -> None:
        """Refuse what would have to wait too long; costs next to nothing.

        Raises:
            OverloadedError: If it would.
        """
        waiting, weight = len(self._queue), self._weight
        wait_s = weight * self._each_s
        # a full batch may always wait: what comes at once is not yet too much
        if waiting >= self._most_waiting or (weight >= self._most and wait_s > self._patience_s):
            raise OverloadedError(wait_s)

    async def __call__(self, asked: Asked) -> Given:
        """Wait for what is given for what is asked; see :meth:`submit`."""
        return await self.submit(asked)

    def submit(self, asked: Asked) -> "asyncio.Future[Given]":
        """Ask, on an event loop, for what will be given; what is cancelled is not worked for.

        Raises:
            OverloadedError: If too many wait already.
        """
        self.check()
        return self.go_on(asked)

    def go_on(self, asked: Asked) -> "asyncio.Future[Given]":
        """Ask as above, however many wait: for the next part of what was accepted already."""
        loop = asyncio.get_running_loop()
        weight = self._weigh(asked) if self._weigh else 1
        one: _Waiting[Asked, Given] = _Waiting(
            asked, weight, loop.create_future(), loop, time.monotonic()
        )
        with self._lock:
            self._queue.append(one)
            self._weight += weight
            starts = self._running < self._threads
            self._running += starts
        if starts:
            self._pool.submit(self._run)
        return one.given

    def close(self) -> None:
        """End the threads, once all that waits has been worked on."""
        self._pool.shutdown(wait=True)

    def _run(self) -> None:
        while batch := self._next():
            self._do(batch)

    def _next(self) -> list[_Waiting[Asked, Given]]:
        """Take those whose turn it is; none ends the thread's run."""
        with self._lock:
            batch: list[_Waiting[Asked, Given]] = []
            room = self._most
            # one that is more than a batch is a batch of its own
            while self._queue and (self._queue[0].weight <= room or not batch):
                one = self._queue.popleft()
                self._weight -= one.weight
                if not one.given.cancelled():
                    batch.append(one)
                    room -= one.weight
            self._at_work += len(batch)
            self._running -= not batch
            return batch

    def _do(self, batch: list[_Waiting[Asked, Given]]) -> None:
        started = self._began[threading.get_ident()] = time.monotonic()
        given: list[tuple[_Waiting[Asked, Given], Given | Exception]]
        try:
            given = list(zip(batch, self._work([one.asked for one in batch]), strict=True))
        except Exception as error:  # noqa: BLE001  each who waits is told
            given = [(one, error) for one in batch]
        finally:
            del self._began[threading.get_ident()]
        took = time.monotonic() - started
        size = sum(one.weight for one in batch)
        with self._lock:
            self._at_work -= len(batch)
            each = took / size / self._threads
            self._each_s += _WEIGHT * (each - self._each_s) if self._each_s else each
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Given], object]]] = {}
        for one, result in given:
            by_loop.setdefault(one.loop, []).append((one.given, result))
        for loop, results in by_loop.items():
            with suppress(RuntimeError):  # closed: nobody waits there any more
                loop.call_soon_threadsafe(_deliver, results)
        if self._observe is not None:
            self._observe(size, [started - one.since for one in batch], took)


def _deliver(results: list[tuple["asyncio.Future[Given]", object]]) -> None:
    for future, result in results:
        if future.done():  # cancelled
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # it is no error
