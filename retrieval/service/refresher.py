"""What other processes index is taken over beside the requests, which never wait for it."""

import logging
import threading
import weakref
from typing import Final

from retrieval.errors import RetrievalError
from retrieval.search import Searcher

__all__ = ["Refresher"]

_LOG = logging.getLogger(__name__)
_INTERVAL_S: Final = 0.5


class _Standing:
    """How the last look at the index went."""

    def __init__(self) -> None:
        self.failure: Exception | None = None


class Refresher:
    """Looks every half second, in a thread of its own, whether the index has changed.

    Looking takes a fraction of a millisecond; what has changed is taken over at once, or,
    where that takes long, as often as :meth:`~retrieval.search.Searcher.refresh` allows.
    The thread ends with :meth:`stop`, or when nothing refers to the refresher any more.
    """

    def __init__(self, searcher: Searcher, interval_s: float = _INTERVAL_S) -> None:
        self._searcher = searcher
        self._interval_s = interval_s
        self._standing = _Standing()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def start(self) -> None:
        """Begin to look; does nothing where it has begun."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=_look,
                    args=(self._searcher, self._stopped, self._standing, self._interval_s),
                    name="clip-text-refresh",
                    daemon=True,
                )
                weakref.finalize(self, self._stopped.set)
                self._thread.start()

    def stop(self) -> None:
        """End the thread, once a refresh at work is done."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def check(self) -> None:
        """Refuse to search an index that is not the one the searcher was opened on any more.

        Raises:
            RetrievalError: What the last look at the index found wrong with it.
        """
        failure = self._standing.failure
        if isinstance(failure, RetrievalError):
            raise type(failure)(*failure.args) from failure


def _look(
    searcher: Searcher, stopped: threading.Event, standing: _Standing, interval_s: float
) -> None:
    while not stopped.is_set():
        try:
            searcher.refresh()
            standing.failure = None
        except Exception as error:  # noqa: BLE001  a thread that dies leaves the service stale
            if repr(error) != repr(standing.failure):  # it is tried again twice a second
                _LOG.error("cannot take over what was indexed: %s", error)
            standing.failure = error
        stopped.wait(interval_s)
