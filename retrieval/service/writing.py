"""Who writes to an index, and when: one thread, which holds the writer's lock while there is work.

Others may write as well: ``clip-text index``, and other processes of the service. So the lock is
taken when something is to be written and given back soon after the last of it, or, where there is
no end of it, for a moment every few seconds. One that others hold is waited for.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from retrieval.catalogue import CATALOGUE_NAME
from retrieval.errors import IndexLockedError, IndexNotFoundError, ItemError
from retrieval.ingest import IndexWriter
from retrieval.protocols import Encoder
from retrieval.service.batching import Batcher
from retrieval.service.measures import Measures
from retrieval.service.problems import ProblemError
from retrieval.service.settings import Settings
from retrieval.service.uploads import UPLOADS_NAME, Uploads
from retrieval.service.writes import Outcome, Write, perform, weight_of
from retrieval.stores import Location, StoreAddress

__all__ = ["Writing"]

_LOG = logging.getLogger(__name__)
_LOOKED_S: Final = 0.01  # between looks whether others hold the lock still
_MOST_HELD_S: Final = 2.0
_SWEPT_S: Final = 0.25
_GIVEN_S: Final = 0.05  # to others, who look often enough to see it
_WAITING_SHARE: Final = 4  # writes hold pictures and take longer than searches, so fewer may wait


class Writing:
    """Writes to one index what requests ask for, those that arrive together in one transaction.

    Args:
        location: Where the index is.
        encoder: Its model.
        refresh: Has searches find what was written; called after each batch, before it is answered.
        settings: Of the service.
        measures: Of the service.
    """

    def __init__(
        self,
        location: Location,
        encoder: Encoder,
        refresh: Callable[[], object],
        settings: Settings,
        measures: Measures,
    ) -> None:
        self._location, self._encoder, self._refresh = location, encoder, refresh
        self._settings = settings
        self.uploads: Final = _uploads(location, settings)
        """Keeps pictures that are sent, if anything does."""
        self.writes: Final[Batcher[Write, list[Outcome]]] = Batcher(
            self._do,
            most=settings.batch,
            waiting=max(1, settings.waiting // _WAITING_SHARE),
            patience_s=settings.timeout_s / 2,
            observe=measures.of_batches("write"),
            weigh=weight_of,
        )
        """Waited for by who asks for a write."""
        self._turn = threading.Lock()  # held by who works with the writer
        self._writer: IndexWriter | None = None
        self._opened_at = self._used_at = 0.0
        self._unswept: list[Path] | None = None
        self._ending = threading.Event()
        self._resting: threading.Thread | None = None

    def close(self) -> None:
        """Do what was accepted, and give back the lock."""
        self.writes.close()
        self._ending.set()
        resting = self._resting  # which ends, and takes itself away, meanwhile
        if resting is not None:
            resting.join()

    def _do(self, writes: list[Write]) -> Sequence[list[Outcome] | Exception]:
        with self._turn:
            writer = self._open()
            try:
                given = perform(writer, self.uploads, writes)
            finally:
                self._used_at = time.monotonic()
            if any(_is_of_writer(outcome) for outcomes in given for outcome in outcomes):
                self._close()  # the next one opens what is there then
        try:
            self._refresh()
        except Exception as error:  # noqa: BLE001  what was written is stored
            _LOG.error("cannot take over what was written: %s", error)
        return given

    def _open(self) -> IndexWriter:
        """Give the writer; where others hold the lock, wait for it.

        Raises:
            IndexLockedError: If they hold it for too long.
            IndexNotFoundError: If it is gone: what is written is not to begin another one.
            RetrievalError: If the index cannot be opened.
        """
        now = time.monotonic()
        if self._writer is not None and now - self._opened_at > _MOST_HELD_S:
            self._close()
            time.sleep(_GIVEN_S)
        deadline = now + self._settings.lock_wait_s
        while self._writer is None:
            self._check_there()
            try:
                # writing where there is no index any more would begin another one
                self._writer = IndexWriter.open(self._location, self._encoder, make=False)
            except IndexLockedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_LOOKED_S)
            else:
                self._opened_at = time.monotonic()
                if self.uploads is not None:
                    self.uploads.clear()
        if self._resting is None:
            self._resting = threading.Thread(
                target=self._rest, name="clip-text-write-rest", daemon=True
            )
            self._resting.start()
        return self._writer

    def _check_there(self) -> None:
        """Say what is to be done where there is no index in a folder any more."""
        if isinstance(self._location, StoreAddress):
            return  # whose opening says so itself
        if not (self._location / CATALOGUE_NAME).is_file():
            raise IndexNotFoundError(
                f"expected an index in {self._location}, got none any more. Index again, or mount "
                "the folder."
            )

    def _rest(self) -> None:
        """Give the lock back once nothing was written for a while."""
        while True:
            with self._turn:
                left = self._used_at + self._settings.lock_rest_s - time.monotonic()
                if left <= 0 or self._ending.is_set():
                    try:
                        self._sweep()
                    except Exception as error:  # noqa: BLE001  the lock is given back all the same
                        _LOG.error("cannot delete files that nothing refers to: %s", error)
                    self._close()
                    self._resting = None
                    return
            self._ending.wait(left)

    def _sweep(self) -> None:
        """Delete files that nothing refers to: all of them once, and a little at a time."""
        until = time.monotonic() + _SWEPT_S
        if self.uploads is None:
            return
        if self._unswept is None:
            self._unswept = self.uploads.folders()
        while self._unswept and self._writer is not None and time.monotonic() < until:
            if self._ending.is_set() or self.writes.load().waiting:
                return
            self.uploads.sweep(self._unswept.pop(), self._writer)

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.close()
        except Exception as error:  # noqa: BLE001  what was written is stored; the lock is free
            _LOG.error("cannot end writing in good order: %s", error)


def _uploads(location: Location, settings: Settings) -> Uploads | None:
    if isinstance(location, StoreAddress):
        return None if settings.uploads is None else Uploads(settings.uploads, is_shared=True)
    return Uploads(settings.uploads or location / UPLOADS_NAME)


def _is_of_writer(outcome: Outcome) -> bool:
    """Say whether it is the index that cannot be written, rather than what was asked."""
    return isinstance(outcome, Exception) and not isinstance(outcome, ProblemError | ItemError)
