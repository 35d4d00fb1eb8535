"""The service as a process, or several: bound to a port, ended by a signal."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from retrieval.search import Searcher
from retrieval.service.app import Served, create_app
from retrieval.service.hosts import for_host, is_loopback
from retrieval.service.listening import address_of, listen
from retrieval.service.server import Behind, Server, terminal_is_gone
from retrieval.service.settings import DEFAULTS, Settings
from retrieval.service.supervisor import Supervisor
from retrieval.service.worker import Opened, Plan, opened_of

__all__ = ["Behind", "Opened", "serve", "serve_opened"]


def serve(
    *served: Served | Searcher,
    settings: Settings = DEFAULTS,
    host: str = "127.0.0.1",
    port: int = 8000,
    on_listening: Callable[[str], object] | None = None,
) -> None:
    """Answer searches over HTTP until interrupted (Ctrl-C, SIGTERM).

    Args:
        served: The indexes; see :func:`~retrieval.service.app.create_app`.
        settings: How the service behaves.
        host: The address to listen on. Without ``settings.keys``, anybody who reaches it can
            see every indexed picture.
        port: The TCP port; 0 takes a free one.
        on_listening: Called with the service's URL once it can be reached; by default that is
            logged.

    Raises:
        MissingPackageError: If uvicorn is not installed.
        AddressError: If host and port cannot be listened at.
        KeyFileError: If the file of keys cannot be read.
    """
    settings = for_host(settings, host)
    server = Server(create_app(*served, settings=settings), settings)
    sockets = listen(host, port)
    _warn_of_open_doors(settings, host)
    (on_listening or _log_listening)(address_of(sockets[0], host))
    with _ended_by_signals(server, "SIGINT", "SIGTERM", "SIGHUP"):
        server.run(sockets)


def serve_opened(
    open_indexes: Callable[[], Sequence[Served]],
    *,
    settings: Settings = DEFAULTS,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    behind: Behind | None = None,
    on_listening: Callable[[str, list[Opened]], object] | None = None,
) -> None:
    """Answer searches over HTTP until interrupted, from indexes that can be opened anew meanwhile.

    SIGHUP, and POST /v1/admin/reload, open them anew; no request fails by that.

    Args:
        open_indexes: Opens them, owned by the service; called in each process, and again for each
            reload. With several workers it is pickled.
        settings: How the service behaves.
        host: The address to listen on.
        port: The TCP port; 0 takes a free one.
        workers: How many processes answer.
        behind: The proxy in front of it.
        on_listening: Called with the service's URL and what is served, once it can be reached.

    Raises:
        MissingPackageError: If uvicorn is not installed.
        AddressError: If host and port cannot be listened at.
        WorkerError: If a worker cannot begin.
        Exception: What ``open_indexes`` raises, with one worker.
    """

    def tell(opened: list[Opened]) -> None:
        _warn_of_open_doors(settings, host)
        if on_listening is None:
            _log_listening(address)
        else:
            on_listening(address, opened)

    settings = for_host(settings, host)
    if workers > 1:
        sockets = listen(host, port)
        address = address_of(sockets[0], host)
        plan = Plan(open_indexes, settings, behind or Behind())
        Supervisor(plan, sockets, workers).run(tell)
        return
    with _hang_ups_noted() as hang_ups:
        served = open_indexes()
        app = create_app(*served, settings=settings, reopen=open_indexes)
        server = Server(
            app, settings, behind, on_started=lambda: server.reload_soon() if hang_ups else None
        )
        sockets = listen(host, port)
        address = address_of(sockets[0], host)
        tell(opened_of(served))
        with _ended_by_signals(server, "SIGINT", "SIGTERM"):
            server.run(sockets)


def _warn_of_open_doors(settings: Settings, host: str) -> None:
    if settings.keys is None and not is_loopback(host):
        logging.getLogger("uvicorn.error").warning(
            "there are no keys: everybody who reaches %s has the scope %s; see clip-text keys",
            *(host, settings.without_keys),
        )


def _log_listening(address: str) -> None:
    # uvicorn shows its own log, and is silent about sockets that it is given.
    logging.getLogger("uvicorn.error").info("clip-text running on %s (Ctrl-C ends it)", address)


@contextmanager
def _ended_by_signals(server: Server, *names: str) -> Iterator[None]:
    """Let a server that a signal ends in good order return to its caller.

    uvicorn raises the signal again when it is done, for the handlers from before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears of signals, and may change handlers
        return

    def end(_signal: int, _frame: object) -> None:
        server.should_exit = True

    numbers = [getattr(signal, name, None) for name in names]
    before = {number: signal.signal(number, end) for number in numbers if number is not None}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _hang_ups_noted() -> Iterator[list[int]]:
    """Note each SIGHUP that comes before there is a server that hears it: it would end the process.

    That the terminal was closed ends it all the same.
    """
    noted: list[int] = []
    hang_up = getattr(signal, "SIGHUP", None)  # Windows has none
    if hang_up is None or threading.current_thread() is not threading.main_thread():
        yield noted
        return
    had_terminal = not terminal_is_gone()

    def note(number: int, _frame: object) -> None:
        if had_terminal and terminal_is_gone():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        noted.append(number)

    before = signal.signal(hang_up, note)
    try:
        yield noted
    finally:
        signal.signal(hang_up, before)
