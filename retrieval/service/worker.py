"""One of several processes that answer: what it does, and how it hears of the others."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from multiprocessing.connection import Connection
from typing import Any, Final

from retrieval.errors import RetrievalError
from retrieval.service.app import Served, create_app
from retrieval.service.asked import Search
from retrieval.service.batching import OverloadedError
from retrieval.service.given import Addresses
from retrieval.service.line import Line, LineError
from retrieval.service.messages.search import SearchRequest
from retrieval.service.problems import ProblemError, as_problem
from retrieval.service.server import Behind, Server
from retrieval.service.service import Service
from retrieval.service.settings import Settings

__all__ = ["FIGURES_S", "RELOAD_S", "Opened", "Plan", "opened_of", "work"]

_LOG = logging.getLogger(__name__)
# Seconds that an answer of another process is waited for.
RELOAD_S: Final = 600.0
FIGURES_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Opened:
    """What is said of an index when the service begins.

    Args:
        name: Of the collection.
        total: How many pictures it has.
        runtime: What computes its queries.
        notes: What is worth knowing of its answers.
    """

    name: str
    total: int
    runtime: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What each worker does; can be pickled.

    Args:
        open_indexes: Opens them, each time anew.
        settings: How the service behaves.
        behind: The proxy in front of it.
    """

    open_indexes: Callable[[], Sequence[Served]]
    settings: Settings
    behind: Behind


def opened_of(served: Iterable[Served]) -> list[Opened]:
    """Say what was opened."""
    return [
        Opened(each.name, len(each.searcher), each.runtime, tuple(each.searcher.notes()))
        for each in served
    ]


def work(
    plan: Plan, sockets: list[socket.socket], connection: Connection, slot: int, size: int
) -> None:
    """Be a worker: open the indexes, answer until told to end.

    Args:
        plan: What to do.
        sockets: Where to listen.
        connection: The pipe to the supervisor.
        slot: Which of the workers this is, from 0.
        size: How many they are.
    """
    # Ctrl-C and a closed terminal are heard by all; the supervisor says what to do.
    for name in ("SIGINT", "SIGHUP"):
        if (number := getattr(signal, name, None)) is not None:
            signal.signal(number, signal.SIG_IGN)
    server: Server | None = None

    def answer(question: str, value: Any) -> object:  # noqa: ANN401  (of the question's kind)
        if server is None:
            raise LineError("expected a worker at work, got one that begins. Ask again.")
        return _answer(server, question, value)

    def end_alone() -> None:
        """Nobody looks after this process any more."""
        if server is None:
            os._exit(1)
        server.handle_exit(signal.SIGTERM, None)

    line = Line(connection, answer, end_alone)
    try:
        served = plan.open_indexes()
    except Exception as error:
        if not isinstance(error, RetrievalError):
            _LOG.exception("worker %d cannot begin", slot)
        line.ask("failed", str(error) or type(error).__name__, timeout_s=FIGURES_S)
        raise SystemExit(1) from error
    crew = _Crew(line, slot, size, plan.settings.timeout_s)
    app = create_app(*served, settings=plan.settings, reopen=plan.open_indexes, crew=crew)
    opened = opened_of(served)
    server = Server(
        app,
        plan.settings,
        plan.behind,
        on_started=lambda: threading.Thread(
            target=line.ask, args=("ready", opened), kwargs={"timeout_s": FIGURES_S}, daemon=True
        ).start(),
        by_hand=False,
    )
    # It may come before uvicorn listens for it, which raises it again, when done, for this handler.
    signal.signal(signal.SIGTERM, server.handle_exit)
    server.run(sockets)


def _answer(server: Server, question: str, value: Any) -> object:  # noqa: ANN401
    if question == "go on":
        return go_on(server, *value)
    if question == "alive":
        return server.within(_is_alive(server.service, value), value)
    if question == "metrics":
        return list(server.service.measures.registry.collect())
    server.within(server.service.reload(), RELOAD_S)
    return None


async def _is_alive(service: Service, patience_s: float) -> None:
    """Answer, from the event loop, that it turns; refuse where a search hangs.

    Raises:
        LineError: If a batch of searches has been at work for longer than that.
    """
    for collection in service.collections.values():
        if collection.searches.oldest_s() > patience_s:
            raise LineError(
                f"expected searches of {collection.name!r} within {patience_s:g} seconds, got "
                "some that take longer."
            )


def go_on(
    server: Server, body: str, collection: str | None, prefix: str
) -> tuple[str, bytes | float | tuple[int, str, str, Mapping[str, str] | None]]:
    """Answer a search for a further page in the place of another worker.

    Args:
        server: This worker's; called in another thread than its own.
        body: The search, in JSON.
        collection: The name that was asked for.
        prefix: Of the application.

    Returns:
        What it comes to, and that: an answer, a problem, or that too many wait, and for how long.
    """

    async def answer() -> bytes:
        search = Search(
            SearchRequest.model_validate_json(body),
            Addresses(prefix, collection),
            time.perf_counter(),
        )
        return await server.service.collection(collection).searches(search)

    try:
        return "answer", server.within(answer(), server.service.settings.timeout_s)
    except OverloadedError as error:
        return "overloaded", error.retry_after_s
    except (ProblemError, RetrievalError) as error:
        problem = as_problem(error)
        if problem is None:
            raise
        return "problem", (int(problem.status), problem.kind, str(problem), problem.headers)


class _Crew:
    """The other workers, by way of the supervisor."""

    def __init__(self, line: Line, slot: int, size: int, timeout_s: float) -> None:
        self._line, self.slot, self.size, self._timeout_s = line, slot, size, timeout_s

    def go_on(self, slot: int, body: str, collection: str | None, prefix: str) -> bytes:
        """Ask another one for a further page."""
        asked = slot, body, collection, prefix
        try:
            kind, given = self._line.ask("go on", asked, timeout_s=self._timeout_s)
        except LineError as error:
            raise ProblemError(
                HTTPStatus.GONE,
                "page_gone",
                "expected the page of a recent answer, got one of a process that is gone. "
                "Ask the query again with paged.",
            ) from error
        if kind == "problem":
            raise ProblemError(*given)
        if kind == "overloaded":
            raise OverloadedError(given)
        page: bytes = given
        return page

    def metrics(self) -> bytes:
        """Ask for the figures of all."""
        figures: bytes = self._line.ask("metrics", timeout_s=2 * FIGURES_S)
        return figures

    def reload(self) -> None:
        """Ask that all open their indexes anew."""
        self._line.ask("reload", timeout_s=RELOAD_S)
