"""What one line of the catalogue holds."""

import json
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "Failure",
    "Picture",
    "Record",
    "bounds_under",
    "breaks_text",
    "displayed",
    "displayed_id",
    "displayed_text",
    "is_gone",
    "kept_mtime",
    "read_metadata",
]

_SEPARATOR = os.fsencode(os.sep)
# Characters that would break a line, a terminal or the order of the text around them.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
_MOST_NS = 2**63 - 1  # what a catalogue's column holds
_UNSAFE = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Picture(NamedTuple):
    """One picture without its features; the fields are the catalogue's columns.

    A picture of a folder has root, path, size, mtime_ns and content_hash. One that was added from
    elsewhere has no root; of the others it has what was given.

    Args:
        root: The indexed folder that it belongs to, as the file system spells it (``os.fsencode``);
            None for a picture that is of none.
        path: The file, absolute, as the file system spells it; any bytes but NUL. None for a
            picture without a file.
        image_id: Path below the root, with ``/``, safe to print; several folders may have the
            same. The caller's own id, which no other such picture has, where there is no root.
        size: Bytes of the file.
        mtime_ns: Modification time of the file, in nanoseconds since 1970.
        content_hash: BLAKE2b of the file's bytes.
        width: Pixels across, as shown, after EXIF rotation; None where unknown.
        height: Pixels down, as shown, after EXIF rotation; None where unknown.
        caption: What ``metadata.jsonl`` says the picture shows; None if it says nothing.
        metadata: The other keys of its line in ``metadata.jsonl``, as JSON text of one object.
    """

    root: bytes | None
    path: bytes | None
    image_id: str
    size: int | None
    mtime_ns: int | None
    content_hash: bytes | None
    width: int | None
    height: int | None
    caption: str | None
    metadata: str


@dataclass(frozen=True, slots=True)
class Record:
    """A picture and the row it has in the index."""

    row: int
    picture: Picture

    @property
    def path(self) -> Path | None:
        """The file as a path, None without one; surrogates stand for bytes that are no UTF-8."""
        path = self.picture.path
        return None if path is None else Path(os.fsdecode(path))

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata, parsed."""
        return read_metadata(self.picture.metadata)


class Failure(NamedTuple):
    """A file that was set aside.

    Args:
        path: The file, as the file system spells it.
        size: Bytes of the file when it failed; None where it could not be read at all, which may
            heal without a change of the file, so it is tried again on every run.
        mtime_ns: Modification time when it failed, in nanoseconds; None where size is.
        reason: Why it was set aside, on one line.
        failed_at: When it was set aside: UTC, ISO 8601.
    """

    path: bytes
    size: int | None
    mtime_ns: int | None
    reason: str
    failed_at: str


def bounds_under(folder: bytes) -> tuple[bytes, bytes]:
    """Bound all paths below a folder: ``low <= path < high`` in byte order."""
    low = folder if folder.endswith(_SEPARATOR) else folder + _SEPARATOR
    return low, low[:-1] + bytes([low[-1] + 1])


def displayed(path: bytes) -> str:
    r"""Spell a path so that it is safe to print: one line, valid Unicode, no two alike.

    Control characters, line ends, bytes that are no UTF-8 and the backslash itself are
    written as Python would escape them (``\n``, ``\xff``, ``\\``).
    """
    return displayed_text(os.fsdecode(path))


def displayed_text(text: str) -> str:
    """Spell any text so that it is safe to print, as :func:`displayed` does a path."""
    return "".join(_escape(char) if _is_unsafe(char) else char for char in text)


def displayed_id(root: bytes, path: bytes) -> str:
    """Spell the path below the indexed folder, with ``/`` between its parts, safe to print."""
    below = path[len(root) :].lstrip(_SEPARATOR)
    return "/".join(displayed(part) for part in below.split(_SEPARATOR))


def is_gone(path: Path | bytes | None) -> bool:
    """Say whether there is no such file any more; a picture without one misses none.

    What is out of reach is not thereby gone.
    """
    if path is None:
        return False
    try:
        os.stat(path)  # noqa: PTH116  (as the file system spells it)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def kept_mtime(status: os.stat_result) -> int:
    """Give a file's modification time as catalogues keep it, in nanoseconds since 1970.

    One before 1677 or after 2262, as broken clocks and cameras set it, becomes the nearest that 64
    bits hold.
    """
    return max(-_MOST_NS, min(status.st_mtime_ns, _MOST_NS))


def read_metadata(text: str) -> dict[str, Any]:
    """Parse stored metadata.

    Earlier versions stored numbers too large for a float as ``Infinity``, which JSON has no word
    for: they are null.
    """
    parsed: dict[str, Any] = json.loads(text, parse_constant=lambda _: None)
    return parsed


def breaks_text(char: str) -> bool:
    """Say whether a character would break a line, a terminal or the order of the text around it."""
    return char in _UNSAFE or unicodedata.category(char) in _UNSAFE_CATEGORIES


def _is_unsafe(char: str) -> bool:
    return char == "\\" or breaks_text(char)


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # os.fsdecode's stand-ins for single bytes
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")
