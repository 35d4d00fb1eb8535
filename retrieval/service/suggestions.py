"""What is said of the pictures, as somebody types it: from its beginning or inside, or in pinyin.

Each text has up to three spellings: itself, its pinyin, and the first letters of that. All stand in
one string of bytes, and where a spelling may be begun to be typed (at a character of Chinese, at a
word of others, at a syllable of pinyin) is a suffix of it. The suffixes are sorted, so that what
was typed is found by bisection: those that begin with it stand together.
"""

import contextlib
import functools
import logging
import re
import threading
import time
import unicodedata
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from retrieval.catalogue import CATALOGUE_NAME, Catalogue
from retrieval.catalogue.sayings import Saying, read_sayings, sayings_of
from retrieval.stores import Location, open_for_reading

__all__ = ["Spellings", "Suggestions"]

_LOG = logging.getLogger(__name__)

_HAN: Final = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")
# Words of alphabets stay whole; everything else is a unit for each character.
_UNIT: Final = re.compile(r"[0-9a-z\u00df-\u024f\u0370-\u052f\uac00-\ud7af]+|.", re.DOTALL)
_APART: Final = re.compile(r"[\s'’]+")  # people type hong se, and xi'an
_CHARACTERS: Final = 48  # of a text that can be typed to find it
_SORTED: Final = 16  # bytes: what begins with as many equal ones stands in no order
_INSIDE: Final = np.uint32(1 << 31)
_FEW: Final = 4096
_TEXTS_AT_ONCE: Final = 64  # are spelt between two rests, in which requests have their turn
_REST_S: Final = 0.001
_WORDS_KEPT: Final = 16_384
_LOOKED_S: Final = 1.0  # between looks at whether the index has changed
_BUILT_SHARE: Final = 9.0  # of the time that building takes, nothing is built thereafter


class Spellings:
    """Texts that can be found by what they begin with, or have inside, in one of their spellings.

    Takes some 30 bytes for each character that can be typed, at most 48 of each text.

    Args:
        texts: In the order in which they are to be suggested.
        rest: Called now and then while it is built.
    """

    def __init__(self, texts: Sequence[str], rest: Callable[[], object] = lambda: None) -> None:
        blob, places, codes = bytearray(), array("I"), array("I")
        for number, text in enumerate(texts):
            if number % _TEXTS_AT_ONCE == 0:
                rest()
            for units in _spellings(_folded(text)[:_CHARACTERS]):
                inside = 0
                at = len(blob)
                encoded = [unit.encode("utf-8", "surrogatepass") for unit in units]
                starts = accumulate(map(len, encoded), initial=at)
                for unit, start in zip(units, starts, strict=False):
                    if unit[0].isalnum() or (unit.strip() and not inside):
                        places.append(start)
                        codes.append(number | inside)
                        inside = int(_INSIDE)
                blob += b"".join(encoded) + b"\0"
        rest()
        blob += bytes(_SORTED + 4 * _CHARACTERS)
        self._blob = bytes(blob)
        self._bytes = np.frombuffer(self._blob, np.uint8)
        unsorted = np.frombuffer(places, np.uint32)
        windows = np.lib.stride_tricks.sliding_window_view(self._bytes, _SORTED)
        keys = np.ascontiguousarray(windows[unsorted]).view(">u8").astype(np.uint64)
        order = np.lexsort((keys[:, 1], keys[:, 0])) if len(keys) else np.empty(0, np.int64)
        self._places = unsorted[order]
        self._codes: NDArray[np.uint32] = np.frombuffer(codes, np.uint32)[order]

    def __call__(self, typed: str, limit: int) -> list[int]:
        """Find texts: first those that begin with what was typed, then those that have it inside.

        Args:
            typed: By itself, in pinyin or in the first letters of that.
            limit: How many at most.

        Returns:
            Their numbers, in the order in which they are to be suggested.
        """
        folded = _folded(typed)
        needles = dict.fromkeys(
            needle.encode("utf-8", "surrogatepass")
            for needle in (folded, _APART.sub("", folded))
            if needle
        )
        found = np.concatenate([np.empty(0, np.uint32), *map(self._codes_of, needles)])
        best = _smallest(found, limit)
        numbers = dict.fromkeys((best & ~_INSIDE).tolist())
        return list(numbers)[:limit]

    def _codes_of(self, needle: bytes) -> NDArray[np.uint32]:
        blob, places, size = self._blob, self._places, min(len(needle), _SORTED)

        def key(number: int) -> bytes:
            start = places[number]
            return blob[start : start + size]

        everything = range(len(places))
        first = bisect_left(everything, needle[:size], key=key)
        last = bisect_right(everything, needle[:size], first, key=key)
        codes = self._codes[first:last]
        if len(needle) > _SORTED:
            rest = np.arange(_SORTED, min(len(needle), _SORTED + 3 * _CHARACTERS))
            seen = self._bytes[places[first:last, None].astype(np.int64) + rest]
            codes = codes[(seen == np.frombuffer(needle, np.uint8)[rest]).all(1)]
        return codes


def _smallest(codes: NDArray[np.uint32], limit: int) -> NDArray[np.uint32]:
    """Give the smallest codes in their order, each once, of at least ``limit`` texts if so many."""
    if len(codes) > _FEW:
        # of one text there are few, a beginning and what is inside: more is nearly never needed
        few = np.unique(np.partition(codes, _FEW)[:_FEW])
        if len(few) >= 2 * limit:
            return few
    return np.unique(codes)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower().strip()


def _spellings(folded: str) -> Iterable[list[str]]:
    """Give the spellings of a text, each in its units."""
    yield _UNIT.findall(folded)
    if _HAN.search(folded) and (spell := _pinyin()) and (syllables := spell(folded)):
        yield syllables
        if len(syllables) > 1:
            yield [syllable[0] for syllable in syllables]


@functools.cache
def _pinyin() -> Callable[[str], list[str]] | None:
    """Give what spells Chinese in syllables; None where pypinyin is not installed."""
    try:
        from pypinyin import lazy_pinyin  # noqa: PLC0415  an optional part
        from pypinyin.seg.simpleseg import seg  # noqa: PLC0415
    except ModuleNotFoundError:
        return None

    @functools.lru_cache(_WORDS_KEPT)
    def spell(word: str) -> list[str]:
        letters = ("".join(filter(str.isalnum, unit)) for unit in lazy_pinyin([word]))
        return [each for each in letters if each and not _HAN.match(each)]

    # by itself it spells the same words anew in every text, which takes several times as long
    return lambda text: [syllable for word in seg(text) for syllable in spell(word)]


class _Built:
    """The suggestions of one state of an index."""

    def __init__(self, said: list[Saying], rest: Callable[[], object]) -> None:
        self.said = said
        self.spellings = Spellings([one.text for one in said], rest)


class _EndingError(Exception):
    """The service ends: nobody waits for what is being built."""


class Suggestions:
    """Suggests what is said of an index's pictures, as the index is now or was a moment ago.

    What it suggests from is built in a thread, first when somebody first asks, and then, while
    others ask, when the index has changed: a tenth of the time at most. Safe in several threads.

    Args:
        location: Where the index is; without it, nothing is suggested.
        most: How many texts to suggest from at most.
        size: Tells how many pictures there are; of an index on a server, that it has changed.
    """

    def __init__(self, location: Location | None, most: int, size: Callable[[], int] = int) -> None:
        self._location, self._most, self._size = location, most, size
        self._built: _Built | None = None
        self._state: object = None
        self._rest_until = 0.0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._first, self._ending = threading.Event(), threading.Event()

    @property
    def is_ready(self) -> bool:
        """True if there is something to suggest from, or never will be."""
        return self._first.is_set() or self._location is None or not self._most

    def __call__(self, typed: str, limit: int) -> list[Saying]:
        """Suggest what completes what was typed; nothing while it is built for the first time.

        Args:
            typed: What was typed so far.
            limit: How many at most.
        """
        built = self._built
        if built is None:
            return []
        return [built.said[number] for number in built.spellings(typed, limit)]

    def follow(self) -> None:
        """Begin to take over what was said since, if anything was; costs next to nothing."""
        if self._location is None or not self._most or time.monotonic() < self._rest_until:
            return
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            state = _state(self._location) if isinstance(self._location, Path) else self._size()
            if state == self._state:
                self._rest_until = time.monotonic() + _LOOKED_S
                return
            arguments = (self._location, state)
            self._thread = threading.Thread(
                target=self._build, args=arguments, name="clip-text-suggestions", daemon=True
            )
            self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait until there is something to suggest from; tell whether there is."""
        return self._first.wait(seconds)

    def close(self) -> None:
        """End the thread, whatever it has built so far."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    def _build(self, location: Location, state: object) -> None:
        began = time.monotonic()
        try:
            if isinstance(location, Path):
                with Catalogue.open(location) as catalogue:
                    said = read_sayings(catalogue.connection, self._most)
            else:
                with open_for_reading(location) as store:
                    said = sayings_of(store, self._most)
            self._built = _Built(said, self._rest)
            self._state = state
        except _EndingError:
            return
        except Exception as error:  # noqa: BLE001  what was suggested goes on being suggested
            _LOG.warning("cannot read what to suggest: %s", error)
        finally:
            now = time.monotonic()
            self._rest_until = now + max(_LOOKED_S, _BUILT_SHARE * (now - began))
            self._first.set()

    def _rest(self) -> None:
        """Let requests have their turn."""
        if self._ending.wait(_REST_S):
            raise _EndingError


def _state(index_dir: Path) -> object:
    """Tell one state of a catalogue's file from others, without opening it."""
    states = []
    for name in (CATALOGUE_NAME, f"{CATALOGUE_NAME}-wal"):
        with contextlib.suppress(OSError):
            status = (index_dir / name).stat()
            states.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(states)
