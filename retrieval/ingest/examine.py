"""What has become of one file, or of another picture, since the catalogue last saw it."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

from retrieval.catalogue.store import Store
from retrieval.pictures import shown_size
from retrieval.protocols import Feature, Pixels
from retrieval.records import Record, kept_mtime

__all__ = [
    "EXHAUSTED",
    "Examined",
    "Examiner",
    "Verdict",
    "check_at_rest",
    "hash_bytes",
    "hash_file",
    "hash_stream",
    "look_at_file",
    "read_content",
    "reason_of",
]

T = TypeVar("T")

_blake2b = partial(hashlib.blake2b, digest_size=20)
_MOST_REASON = 300  # characters
_PIECE = 1 << 20

# The machine's trouble, not the file's: the run must stop, and nothing be set aside.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC})

# There is nothing behind the name any more.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Verdict(Enum):
    """What is to be done about a picture."""

    UNREAD = auto()
    """New, or its size or time differ: it has to be read."""
    SAME = auto()
    """The catalogue has this content for this picture."""
    KNOWN = auto()
    """The catalogue has this content for another one."""
    DECODED = auto()
    """The content is new."""
    GIVEN = auto()
    """Its feature came with it."""
    BROKEN = auto()
    """There is no picture. Read again when the file changes."""
    UNREADABLE = auto()
    """There may be a picture out of reach. Tried again in every run."""


@dataclass(frozen=True, slots=True)
class Examined(Generic[T]):
    """One picture and what was found out about it.

    Args:
        subject: The file, as the file system spells it; or what else was looked at.
        verdict: What is to be done about it.
        record: What the catalogue holds for it.
        load: Gives its file, or what would be in that, as long as it may have to be read.
        size: Bytes of the content; of a file taken before that was read, like ``mtime_ns``: one
            that changes meanwhile then counts as changed in the next run. None if unknown.
        mtime_ns: Modification time in nanoseconds; None if unknown.
        content_hash: BLAKE2b of the content, 20 bytes; empty if it was not read.
        pixels: The picture at the model's input size, if it was decoded.
        shown_size: Width and height in pixels after EXIF rotation, if decoded and known.
        feature: Its unit row, [embed_dim], if it came with one.
        reason: Why it failed, on one line; empty if it did not.
    """

    subject: T
    verdict: Verdict
    record: Record | None
    load: Callable[[], Path | bytes] | None = None
    size: int | None = None
    mtime_ns: int | None = None
    content_hash: bytes = b""
    pixels: Pixels | None = None
    shown_size: tuple[int, int] | None = None
    feature: Feature | None = None
    reason: str = ""


class Examiner:
    """Looks at files on behalf of one run.

    Args:
        catalogue: What is known about files from earlier runs.
        retry_failed: Read files again that failed and have not changed.
    """

    def __init__(self, catalogue: Store, *, retry_failed: bool) -> None:
        self._catalogue = catalogue
        self._retry_failed = retry_failed

    def glance(self, path: bytes) -> Examined[bytes]:
        """Judge a file without opening it, as far as that goes."""
        file = Path(os.fsdecode(path))
        unread = Examined(path, Verdict.UNREAD, self._catalogue.find(path), lambda: file)
        seen = look_at_file(unread, path)
        if seen.verdict is not Verdict.UNREAD or self._retry_failed:
            return seen
        failure = self._catalogue.failure(path)
        if failure and (failure.size, failure.mtime_ns) == (seen.size, seen.mtime_ns):
            return replace(seen, verdict=Verdict.BROKEN, reason=failure.reason)
        return seen


def look_at_file(seen: Examined[T], path: bytes, gone: Verdict = Verdict.BROKEN) -> Examined[T]:
    """Judge a picture by what the file system says of its file.

    Args:
        seen: The picture, and what the catalogue holds for it.
        path: Its file.
        gone: What it is to count as where there is nothing.
    """
    try:
        status = os.stat(path)  # noqa: PTH116  (bytes)
    except OSError as error:
        verdict = gone if error.errno in _GONE else Verdict.UNREADABLE
        if error.errno == errno.ENOENT and os.path.islink(path):  # noqa: PTH114  (bytes)
            verdict = Verdict.UNREADABLE  # what it leads to may be on a drive that is not mounted
        return replace(seen, verdict=verdict, reason=reason_of(error))
    except ValueError as error:  # a path with NUL in it
        return replace(seen, verdict=gone, reason=reason_of(error))
    seen = replace(seen, size=status.st_size, mtime_ns=kept_mtime(status))
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "another")
        return replace(seen, verdict=Verdict.BROKEN, reason=f"expected a file, got {kind}.")
    before = seen.record.picture if seen.record else None
    if before and (before.path, before.size, before.mtime_ns) == (path, seen.size, seen.mtime_ns):
        known = before.content_hash or b""
        return replace(seen, verdict=Verdict.SAME, content_hash=known)
    return seen


def read_content(
    seen: Examined[T], catalogue: Store, load_pixels: Callable[[Path | bytes], Pixels]
) -> Examined[T]:
    """Hash what is in a picture's file and, if it is new, decode it. Safe with threads.

    Args:
        seen: The picture, as it was judged without reading it.
        catalogue: What is known from earlier runs.
        load_pixels: The encoder's decoder.

    Raises:
        MemoryError: And other signs that the machine, not the picture, is in trouble.
    """
    assert seen.load is not None
    try:
        content = seen.load()
        if isinstance(content, Path):
            status = content.stat()  # a while after the glance
            seen = replace(seen, size=status.st_size, mtime_ns=kept_mtime(status))
            hashed = replace(seen, content_hash=hash_file(content))
        else:
            hashed = replace(seen, content_hash=hash_bytes(content), size=len(content))
        if seen.record and seen.record.picture.content_hash == hashed.content_hash:
            return replace(hashed, verdict=Verdict.SAME)
        if catalogue.find_content(hashed.content_hash):
            return replace(hashed, verdict=Verdict.KNOWN)
        pixels = load_pixels(content)
        if isinstance(content, Path):
            check_at_rest(content, seen.size, seen.mtime_ns)
    except ImportError as error:
        # Without its size and time, it is tried again: the package may be there then.
        unknown = replace(seen, size=None, mtime_ns=None)
        return replace(unknown, verdict=Verdict.UNREADABLE, reason=reason_of(error))
    except ValueError as error:
        return replace(seen, verdict=Verdict.BROKEN, reason=reason_of(error))
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise
        # Without its size and time, it is tried again: permissions change neither.
        unknown = replace(seen, size=None, mtime_ns=None)
        return replace(unknown, verdict=Verdict.UNREADABLE, reason=reason_of(error))
    return replace(hashed, verdict=Verdict.DECODED, pixels=pixels, shown_size=shown_size(content))


def check_at_rest(path: Path, size: int | None, mtime_ns: int | None) -> None:
    """Refuse a file that was written between its hash and its pixels.

    They may be of two contents then, and whatever has the first would be given the feature of the
    second.

    Args:
        path: The file, read by now.
        size: Bytes before it was read.
        mtime_ns: Modification time before it was read, as :func:`kept_mtime` gives it.

    Raises:
        OSError: If it has another size or time now, or is gone.
    """
    status = path.stat()
    if (status.st_size, kept_mtime(status)) != (size, mtime_ns):
        raise OSError("It was written while it was read.")


def hash_bytes(data: bytes) -> bytes:
    """Hash what is in a file; see :func:`hash_file`."""
    return _blake2b(data).digest()


def hash_file(path: Path) -> bytes:
    """Hash a file: BLAKE2b, 20 bytes.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        return hash_stream(file)


def hash_stream(file: BinaryIO) -> bytes:
    """Hash what is left of an open file; see :func:`hash_file`."""
    digest = _blake2b()
    while piece := file.read(_PIECE):
        digest.update(piece)
    return digest.digest()


def reason_of(error: Exception) -> str:
    """Say why on one line, without the path, which stands beside it anyway."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:_MOST_REASON] or type(error).__name__
