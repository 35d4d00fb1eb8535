"""Pictures read ahead of who asks for them one by one, in an order that can be guessed.

A run over a folder asks for each file, path by path; one over a data set for each id, and says
before of which. A request to the server for each would take longer than all else.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable

from retrieval.records import Record

__all__ = ["ItemsAhead", "PathsAhead"]

_LARGEST = 1024
_SECONDS = 10.0  # what was read before is asked for again: others may have written


class PathsAhead:
    """Pictures of folders by their path. Safe to use from several threads.

    Args:
        find: Finds one.
        find_from: Finds so many from a path on, in byte order.
    """

    def __init__(
        self,
        find: Callable[[bytes], Record | None],
        find_from: Callable[[bytes, int], list[Record]],
    ) -> None:
        self._find = find
        self._find_from = find_from
        self._lock = threading.Lock()
        self._paths: list[bytes] = []
        self._records: list[Record] = []
        self._low, self._high = b"", b""  # all pictures from one to the other, both included, or
        self._is_end = False  # from the first one on
        self._read_at = -_SECONDS
        self._last = b""
        self._size = 1

    def get(self, path: bytes) -> Record | None:
        """Find the picture at a path."""
        with self._lock:
            is_fresh = time.monotonic() - self._read_at < _SECONDS
            if not (is_fresh and self._low <= path and (self._is_end or path <= self._high)):
                # a page more as long as what is asked for ascends
                self._size = min(2 * self._size, _LARGEST) if path > self._last else 1
                self._last = path
                if self._size == 1:
                    return self._find(path)
                self._read(path)
            self._last = path
            place = bisect_left(self._paths, path)
            is_there = place < len(self._paths) and self._paths[place] == path
            return self._records[place] if is_there else None

    def forget(self) -> None:
        """Forget what was read: it was written since."""
        with self._lock:
            self._read_at = -_SECONDS

    def _read(self, path: bytes) -> None:
        self._read_at = time.monotonic()
        self._records = self._find_from(path, self._size)
        self._paths = [record.picture.path or b"" for record in self._records]
        self._low, self._high = path, self._paths[-1] if self._paths else path
        self._is_end = len(self._records) < self._size


class ItemsAhead:
    """Items that were expected, and whose they are, by their ids. Used by one thread at a time."""

    def __init__(self) -> None:
        self._records: dict[str, Record | None] = {}
        self._owners: dict[int, str | None] = {}
        self._read_at = -_SECONDS

    def take(self, image_ids: Iterable[str], found: Iterable[tuple[Record, str | None]]) -> None:
        """Take what was read of these ids: items, and of which data set each is."""
        self._records = dict.fromkeys(image_ids)
        self._owners = {}
        for record, owner in found:
            self._records[record.picture.image_id] = record
            self._owners[record.row] = owner
        self._read_at = time.monotonic()

    def knows(self, key: str | int) -> bool:
        """Say whether the item of an id, or the data set of a row, was read and still is so."""
        is_fresh = time.monotonic() - self._read_at < _SECONDS
        return is_fresh and key in (self._records if isinstance(key, str) else self._owners)

    def item(self, image_id: str) -> Record | None:
        """Give the item of an id that is known."""
        return self._records[image_id]

    def owner(self, row: int) -> str | None:
        """Name the data set of an item that is known; None if it is of none."""
        return self._owners[row]

    def drop(self, image_id: str) -> None:
        """Forget what was read of an id: it is written to."""
        self._records.pop(image_id, None)

    def drop_owner(self, row: int) -> None:
        """Forget of which data set an item was."""
        self._owners.pop(row, None)

    def forget(self) -> None:
        """Forget all that was read."""
        self._records, self._owners = {}, {}
