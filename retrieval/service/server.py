"""uvicorn's server, ended in two steps, and told by a signal to open its indexes anew."""

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, TypeVar, cast

from fastapi import FastAPI

from retrieval.errors import needs
from retrieval.service.service import Service
from retrieval.service.settings import DEFAULTS, Settings

with needs("serve", "the search service"):
    import uvicorn

    from retrieval.service.protocol import server_options

__all__ = ["Behind", "Server", "terminal_is_gone"]

Given = TypeVar("Given")

_LOG = logging.getLogger(__name__)
_SIGHUP: Final = getattr(signal, "SIGHUP", None)  # Windows has none


@dataclass(frozen=True, slots=True)
class Behind:
    """The proxy in front of a service.

    Args:
        root_path: Path under which it has the service; it takes that off before it passes requests
            on.
        trusted: Addresses whose word on a caller's address counts; ``*`` for all.
    """

    root_path: str = ""
    trusted: tuple[str, ...] = ("127.0.0.1", "::1")


class Server(uvicorn.Server):
    """Serves one application in this process.

    Args:
        app: What :func:`~retrieval.service.app.create_app` gives.
        settings: Of the service.
        behind: The proxy in front of it.
        on_started: Called once requests are answered.
        by_hand: Whether Ctrl-C ends it; a worker is ended by its supervisor alone.
    """

    def __init__(
        self,
        app: FastAPI,
        settings: Settings = DEFAULTS,
        behind: Behind | None = None,
        *,
        on_started: Callable[[], object] = lambda: None,
        by_hand: bool = True,
    ) -> None:
        behind = behind or Behind()
        super().__init__(
            uvicorn.Config(
                app,
                **server_options(settings),
                root_path=behind.root_path,
                forwarded_allow_ips=list(behind.trusted),
                # uvicorn counts whole seconds
                timeout_graceful_shutdown=max(1, round(settings.shutdown_s)),
            )
        )
        self.service = cast(Service, app.state.service)
        self._drain_s = settings.drain_s
        self._on_started, self._by_hand = on_started, by_hand
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ends_at: float | None = None
        self._reload_wanted = False
        self._had_terminal = not terminal_is_gone()
        self._reloads: set[asyncio.Task[None]] = set()

    async def startup(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  (uvicorn's)
        """Begin, and tell."""
        self._loop = asyncio.get_running_loop()
        # what the imports and the models made is no garbage: no later collection looks at it
        gc.collect()
        gc.freeze()
        # the threads that compute and the event loop wait for one another: ten times as briefly
        sys.setswitchinterval(0.0005)
        await super().startup(*args, **kwargs)
        if _SIGHUP is not None and threading.current_thread() is threading.main_thread():
            signal.signal(_SIGHUP, self._on_hang_up if self._by_hand else signal.SIG_IGN)
        self._on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End when a signal says so; at once if it comes again."""
        if sig == signal.SIGINT and not self._by_hand:
            return
        if self.service.ending or not self._drain_s:
            self.service.ending = True
            super().handle_exit(sig, frame)
        else:
            self.drain()

    def drain(self) -> None:
        """Go on for a while as a service that ends, so that a proxy looks elsewhere; then end."""
        self.service.ending = True
        self._ends_at = time.monotonic() + self._drain_s

    async def on_tick(self, counter: int) -> bool:
        """Do, ten times a second, what signals have asked for."""
        if self._ends_at is not None and time.monotonic() >= self._ends_at:
            self.should_exit = True
        if self._reload_wanted:
            self._reload_wanted = False
            task = asyncio.ensure_future(self._reload())
            self._reloads.add(task)
            task.add_done_callback(self._reloads.discard)
        return await super().on_tick(counter)

    def reload_soon(self) -> None:
        """Open the indexes anew within a moment; may be called by a signal's handler."""
        self._reload_wanted = True

    def within(self, work: Coroutine[Any, Any, Given], timeout_s: float) -> Given:
        """Do some work in the server's event loop; for another thread than that one's.

        Raises:
            Exception: What the work raises.
            TimeoutError: If it takes longer.
        """
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    async def _reload(self) -> None:
        if not self.service.can_reload:
            _LOG.error("cannot reload: the service was handed its indexes open")
            return
        try:
            await self.service.reload()
        except Exception as error:  # noqa: BLE001  the service goes on as before
            _LOG.error("cannot reload: %s", error)

    def _on_hang_up(self, number: int, frame: FrameType | None) -> None:
        if self._had_terminal and terminal_is_gone():
            self.handle_exit(number, frame)
        else:
            self.reload_soon()


def terminal_is_gone() -> bool:
    """Say whether the process has no terminal: SIGHUP says first of all that it was closed."""
    with suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        return False
    return True
