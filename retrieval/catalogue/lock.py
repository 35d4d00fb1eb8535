"""One writer per index folder: a lock the operating system drops when its holder dies."""

from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from retrieval.errors import IndexLockedError

__all__ = ["IndexLock"]

LOCK_NAME = "writer.lock"


class IndexLock:
    """Held while indexing; a run that finds it held ends at once."""

    def __init__(self, index_dir: Path) -> None:
        self._index_dir = index_dir
        self._lock = FileLock(index_dir / LOCK_NAME, blocking=False)

    def __enter__(self) -> Self:
        """Take the lock at once or not at all.

        Raises:
            IndexLockedError: If another process, or another run in this one, holds it.
        """
        self._index_dir.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise IndexLockedError(
                f"expected to be the only process indexing into {self._index_dir}, got "
                "another one at work. Wait until it ends, or index into another folder."
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
