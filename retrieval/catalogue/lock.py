"""One writer per index folder: a lock the operating system drops when its holder dies."""

from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from retrieval.errors import IndexLockedError, StorageError

__all__ = ["IndexLock"]

LOCK_NAME = "writer.lock"


class IndexLock:
    """Held while indexing; a run that finds it held ends at once."""

    def __init__(self, index_dir: Path) -> None:
        self._index_dir = index_dir
        # Not of one thread: a writer may be opened by one and closed by another.
        self._lock = FileLock(index_dir / LOCK_NAME, blocking=False, thread_local=False)

    def __enter__(self) -> Self:
        """Take the lock at once or not at all.

        Raises:
            IndexLockedError: If another process, or another run in this one, holds it.
            StorageError: If the folder cannot be made or written.
        """
        try:
            self._index_dir.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise IndexLockedError(
                f"expected to be the only process indexing into {self._index_dir}, got "
                "another one at work. Wait until it ends, or index into another folder."
            ) from error
        except OSError as error:
            raise StorageError(
                f"expected a folder to write an index to, got {self._index_dir}: "
                f"{error.strerror or error}. Make it writable, free some space, or name another."
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
