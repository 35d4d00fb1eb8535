"""Sealing beside a writer that goes on: what it has written is quick to search before it ends."""

import logging
import threading
from pathlib import Path

import faiss

from retrieval.catalogue import Catalogue
from retrieval.errors import RetrievalError
from retrieval.index.lifecycle import seal_if_due

__all__ = ["BackgroundSealer"]

_LOG = logging.getLogger(__name__)
# So many writes are worth a look whether sealing is due.
_WORTH_A_LOOK = 10_000
# While an index grows it is sealed less often than at the end: all sealings together take about
# five times the last one then.
_GROWING_SHARE = 0.25


class BackgroundSealer:
    """Seals an index in a thread of its own, on one core, whenever its writer has written much.

    Args:
        index_dir: Folder of the index.
    """

    def __init__(self, index_dir: Path) -> None:
        self._index_dir = index_dir
        self._written = 0
        self._thread: threading.Thread | None = None

    def note(self, written: int) -> None:
        """Take note of so many pictures written or removed; returns at once."""
        self._written += written
        is_at_work = self._thread is not None and self._thread.is_alive()
        if self._written < _WORTH_A_LOOK or is_at_work:
            return
        self._written = 0
        # A daemon: who is stopped does not wait for it. What it leaves then is swept later.
        thread = threading.Thread(target=self._seal, name="clip-text-seal", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # there is none to be had; what was written is stored
            _LOG.warning("cannot seal the vectors in %s: %s", self._index_dir, error)
            return
        self._thread = thread

    def wait(self) -> None:
        """Wait until nothing is at work."""
        if self._thread is not None:
            self._thread.join()

    def _seal(self) -> None:
        faiss.omp_set_num_threads(1)  # of this thread: the others go on encoding
        try:
            with Catalogue.open(self._index_dir) as catalogue:
                seal_if_due(self._index_dir, catalogue, share=_GROWING_SHARE)
        except (RetrievalError, OSError) as error:  # the writer goes on, and seals at its end
            _LOG.warning("cannot seal the vectors in %s: %s", self._index_dir, error)
