"""Pictures drawn small: the ones drawn last are kept."""

import threading
from collections import OrderedDict


class ThumbnailCache:
    """The thumbnails used last, as many as fit into a number of bytes. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = 0
        self._entries: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """Give the thumbnail under a key, which then counts as used last; None if there is none."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: str, thumbnail: bytes) -> None:
        """Keep a thumbnail and drop the ones used longest ago that no longer fit."""
        with self._lock:
            self._held += len(thumbnail) - len(self._entries.pop(key, b""))
            self._entries[key] = thumbnail
            while self._held > self._max_bytes:
                _, dropped = self._entries.popitem(last=False)
                self._held -= len(dropped)
