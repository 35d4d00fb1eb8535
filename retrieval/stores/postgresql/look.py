"""What is known of a collection until somebody writes: kept, and read anew after that."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from retrieval.stores.postgresql.names import Names

__all__ = ["Known", "Look", "Read"]

Read = Callable[..., list[tuple[Any, ...]]]
"""Has a statement select; see :meth:`~retrieval.stores.postgresql.reading.Reading.read`."""

_KINDS = """
    SELECT n.field, n.name, k.kind FROM {field_names} n, (VALUES (0), (1), (2)) k (kind)
    WHERE EXISTS (SELECT FROM {fields} f WHERE f.name = n.name AND f.kind = k.kind AND f.kind < 3)
    UNION ALL
    SELECT n.field, n.name, 3 FROM {field_names} n
    WHERE EXISTS (SELECT FROM {fields} f WHERE f.name = n.name AND f.kind = 3)
"""
_MOST_COUNTS = 1024


@dataclass(slots=True)
class Known:
    """What holds of one version of a collection.

    Args:
        kinds: Of the values of each field of metadata.
        names: The number of each such field.
        counts: How many pictures filters hold of that were counted.
        words: How many pictures there are, and how many words are said of all; None if not
            counted yet.
    """

    kinds: dict[str, set[int]] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    counts: dict[tuple[str, Sequence[Any]], int] = field(default_factory=dict)
    words: tuple[int, int] | None = None

    def keep(self, key: tuple[str, Sequence[Any]], count: int) -> None:
        """Keep a count."""
        if len(self.counts) >= _MOST_COUNTS:
            self.counts.clear()
        self.counts[key] = count


class Look:
    """Sees whether anything was written since. Safe to use from several threads.

    Args:
        names: The collection's tables.
        read: Has a statement select.
    """

    def __init__(self, names: Names, read: Read) -> None:
        self._names = names
        self._read = read
        self._lock = threading.Lock()
        self._version: tuple[str, str] | None = None
        self._known = Known()

    def __call__(self) -> Known:
        """Give what holds now."""
        said: dict[str, str] = dict(
            self._read("SELECT key, value FROM {meta} WHERE key IN ('uid', 'version')")
        )
        version = said.get("uid", ""), said.get("version", "")
        with self._lock:
            if version == self._version:
                return self._known
        known = Known()
        for name, number, kind in self._read(_KINDS):
            known.kinds.setdefault(name, set()).add(kind)
            known.names[name] = number
        with self._lock:
            self._version, self._known = version, known
        return known
