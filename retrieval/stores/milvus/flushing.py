"""Sealing what was written: only sealed segments have the index that searches are tuned to.

Up to some thousand pictures that are not sealed yet the server compares one by one. Beyond that it
puts an index of its own over them, whose searches cannot be made thorough: of 100,000 pictures it
found 87% of the ten nearest, and under a filter that one in a hundred fits, 46%; sealed, 99.9% and
100%.
"""

import contextlib
import threading
import time

from retrieval.errors import RetrievalError, StorageError
from retrieval.stores.milvus.collection import Collection

__all__ = ["Flushes"]

_MANY = 4000  # pictures written since the last time
_SOME = 1000  # where nothing more is to be written
_SECONDS = 60.0
_INDEX_SECONDS = 600.0
_BETWEEN_SECONDS = 15.0


class Flushes:
    """Has the server seal what one writer wrote, beside its work.

    Args:
        collection: Where it writes.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._waiting = 0
        self._last = 0.0
        self._thread: threading.Thread | None = None

    def note(self, written: int) -> None:
        """Take note of pictures that were written; seals them, beside this, if they are many."""
        self._waiting += written
        is_due = time.monotonic() - self._last > _BETWEEN_SECONDS
        is_busy = self._thread is not None and self._thread.is_alive()
        if self._waiting >= _MANY and is_due and not is_busy:
            self._start()

    def finish(self) -> None:
        """Seal what is left, where it is much, and wait for that."""
        if self._waiting >= _SOME:
            self._join()
            self._start()
        self._join()

    def compact(self) -> str:
        """Seal everything, and wait until it is indexed.

        Raises:
            StorageError: If that takes longer than ten minutes, or fails.
        """
        self._join()
        moment, server = self._collection.look_anew(), self._collection.server
        started = time.monotonic()
        for name in (moment.notes, moment.name):
            server.flush(name, _INDEX_SECONDS)
        server.merge(moment.name)
        self._waiting = 0
        while True:
            state = server.index_state(moment.name)
            total, done = (int(state.get(key, 0)) for key in ("total_rows", "indexed_rows"))
            if done >= total and state.get("state", "Finished") == "Finished":
                break
            if time.monotonic() - started > _INDEX_SECONDS:
                raise StorageError(
                    f"expected an index within {_INDEX_SECONDS:.0f} s, got one of {done} pictures "
                    f"of {total}. It goes on; ask again later."
                )
            time.sleep(0.5)
        kind = state.get("index_type", "IVF_FLAT")
        lists = f" with {state['nlist']} lists a segment" if "nlist" in state else ""
        return f"sealed and indexed {total} pictures: {kind}{lists}"

    def _start(self) -> None:
        self._last, self._waiting = time.monotonic(), 0
        self._thread = threading.Thread(target=self._flush, name="clip-text-flush", daemon=True)
        self._thread.start()

    def _flush(self) -> None:
        # Searches are right without it, only less thorough; the server does it by itself in time.
        with contextlib.suppress(RetrievalError):
            self._collection.server.flush(self._collection.look_anew().name, _SECONDS)

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
