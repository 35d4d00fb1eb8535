"""One writer per index folder: a lock the operating system drops when its holder dies."""

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from retrieval.errors import IndexLockedError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["IndexLock"]

LOCK_NAME = "writer.lock"


class IndexLock:
    """Held while indexing; the file stays, since deleting it would race with the next holder."""

    def __init__(self, index_dir: Path) -> None:
        self._path = index_dir / LOCK_NAME
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        """Take the lock at once or not at all.

        Raises:
            IndexLockedError: If another process, or another run in this one, holds it.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor)
        except OSError as error:
            os.close(descriptor)
            msg = (
                f"expected to be the only process indexing into {self._path.parent}, got "
                "another one at work. Wait until it ends, or index into another folder."
            )
            raise IndexLockedError(msg) from error
        self._descriptor = descriptor
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)  # closing unlocks, on every system
            self._descriptor = None


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
