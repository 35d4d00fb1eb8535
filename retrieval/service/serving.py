"""The service as a process: bound to a port, ended by a signal."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from retrieval.search import Searcher
from retrieval.service import missing_package
from retrieval.service.app import Served, create_app
from retrieval.service.hosts import for_host, is_loopback
from retrieval.service.listening import address_of, listen
from retrieval.service.settings import DEFAULTS, Settings

if TYPE_CHECKING:
    import uvicorn


__all__ = ["serve"]


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
    try:
        import uvicorn  # noqa: PLC0415  an optional part, needed only here

        from retrieval.service.protocol import server_options  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise missing_package(error) from error
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(*served, settings=for_host(settings, host)),
            timeout_graceful_shutdown=5,
            **server_options(settings),
        )
    )
    sockets = listen(host, port)
    (on_listening or _log_listening)(address_of(sockets[0], host))
    if settings.keys is None and not is_loopback(host):
        logging.getLogger("uvicorn.error").warning(
            "there are no keys: everybody who reaches %s may do all that the service can", host
        )
    with _ended_by_signals(server):
        server.run(sockets)


def _log_listening(address: str) -> None:
    # uvicorn shows its own log, and is silent about sockets that it is given.
    logging.getLogger("uvicorn.error").info("clip-text running on %s (Ctrl-C ends it)", address)


@contextmanager
def _ended_by_signals(server: "uvicorn.Server") -> Iterator[None]:
    """Let a server that a signal ends in good order return to its caller.

    uvicorn raises the signal again when it is done, for the handlers from before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears of signals, and may change handlers
        return

    def end(_signal: int, _frame: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
