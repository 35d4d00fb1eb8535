"""Pictures drawn small: the ones drawn last are kept."""

import threading
from contextlib import suppress

from cachetools import LRUCache


class ThumbnailCache:
    """The thumbnails used last, as many as fit into a number of bytes. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._kept: LRUCache[str, bytes] = LRUCache(max_bytes, getsizeof=len)
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """Give the thumbnail under a key, which then counts as used last; None if there is none."""
        with self._lock:
            return self._kept.get(key)

    def put(self, key: str, thumbnail: bytes) -> None:
        """Keep a thumbnail and drop the ones used longest ago that no longer fit."""
        with self._lock, suppress(ValueError):  # one that is too large for all of the room
            self._kept[key] = thumbnail
