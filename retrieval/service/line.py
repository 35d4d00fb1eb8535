"""Questions and answers between two processes over a pipe, in both directions at once."""

import itertools
import logging
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Final

from retrieval.errors import RetrievalError

__all__ = ["Line", "LineError"]

_LOG = logging.getLogger(__name__)
_THREADS: Final = 4  # a reload takes long, and must not keep figures waiting


class LineError(RetrievalError):
    """The other process has gone, does not answer, or could not do what it was asked."""


class Line:
    """One end of a pipe. Safe to use from several threads.

    Args:
        connection: The end; the line's own from now on.
        answer: Gives what is sent back for a question and what came with it; called in threads.
        on_end: Called, in a thread, when the other process has gone.
    """

    def __init__(
        self,
        connection: Connection,
        answer: Callable[[str, Any], object],
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        self._connection, self._answer, self._on_end = connection, answer, on_end
        self._sending = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[Any]] = {}
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="clip-text-line")
        self._thread = threading.Thread(target=self._listen, name="clip-text-line", daemon=True)
        self._thread.start()

    def ask(self, question: str, value: object = None, *, timeout_s: float) -> Any:  # noqa: ANN401
        """Ask the other process, and wait for its answer.

        Args:
            question: What its ``answer`` knows.
            value: What goes with it; anything that can be pickled.
            timeout_s: Seconds to wait at most.

        Raises:
            LineError: If there is no answer, or it says what went wrong.
        """
        number, given = next(self._numbers), Future[Any]()
        self._waiting[number] = given
        try:
            self._send("ask", number, question, value)
            went_well, answer = given.result(timeout_s)
        except (OSError, TimeoutError) as error:
            raise LineError(
                f"expected the other process to answer {question!r}, got nothing. "
                "The service's log may have more."
            ) from error
        finally:
            self._waiting.pop(number, None)
        if not went_well:
            raise LineError(answer)
        return answer

    def close(self) -> None:
        """Hang up, which the other end hears of, too."""
        # A pipe for both directions is a pair of sockets. What another thread reads from must not
        # be closed under it: its number may be another file's by then.
        with suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)
        if self._thread is not threading.current_thread():
            self._thread.join(1.0)  # at once, where a pipe is a pair of sockets

    def _send(self, *message: object) -> None:
        with self._sending:
            self._connection.send(message)

    def _listen(self) -> None:
        while True:
            try:
                kind, number, *rest = self._connection.recv()
            except (EOFError, OSError):
                break
            if kind == "ask":
                self._pool.submit(self._give, number, *rest)
            elif (waiting := self._waiting.get(number)) is not None:
                waiting.set_result(rest)
        with self._sending:  # first, so that who asks from now on is told so at once
            self._connection.close()
        for given in list(self._waiting.values()):
            if not given.done():  # its answer has come, and is being taken
                given.set_exception(OSError("hung up"))
        self._pool.shutdown(wait=False)
        self._on_end()

    def _give(self, number: int, question: str, value: object) -> None:
        try:
            answer = True, self._answer(question, value)
        except RetrievalError as error:
            answer = False, str(error)
        except Exception as error:  # noqa: BLE001  the other process is told
            _LOG.exception("cannot answer %r of the other process", question)
            answer = False, f"{type(error).__name__}: {error}"
        with suppress(OSError):  # it has gone meanwhile
            self._send("answer", number, *answer)
