"""Files that appear whole or not at all, and what is computed once and kept in them.

:func:`keep` is the one way to keep what took long to compute: a file or a folder that is made
once for a key, and made anew for another key, or when it is damaged. :func:`keep_array` and
:func:`keep_json` are its front doors.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from clip_text.errors import ClipTextError, StorageError

__all__ = [
    "STAMP",
    "check_new",
    "check_writable",
    "digest",
    "disk_trouble",
    "keep",
    "keep_array",
    "keep_json",
    "nearest",
    "partial_file",
    "partial_folder",
    "write_json",
]

T = TypeVar("T")
Scalar = TypeVar("Scalar", bound=np.generic)

STAMP = "kept.json"
"""What a kept folder's stamp is called; that of a kept ``file.npy`` is ``file.npy.kept.json``."""

_STALE = 24 * 3600.0
"""Seconds; what was left half-written and has not grown for so long is of a process that died."""
_BLOCKS, _BLOCK = 64, 1 << 16
"""How many blocks of a large file its digest looks at, and how many bytes one has."""

_TROUBLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})

# What libraries raise for a write that failed: the number, in Rust's words (safetensors,
# tokenizers); else just that it failed (torch, numpy).
_BY_NUMBER = re.compile(r"\(os error (\d+)\)")
_BY_WORDS = re.compile(
    r"inline_container\.cc|PytorchStreamWriter|iostream error|write\(\): fd \d+ failed"
    r"|\d+ requested and \d+ written"
)


def disk_trouble(error: BaseException) -> str | None:
    """Say what the disk had against writing, if that is what an error means.

    A full disk is an OSError in Python, but libraries have their own ways to say it: torch
    raises a RuntimeError about a position, safetensors and tokenizers quote the system's number.

    Args:
        error: Anything that was raised; what it was raised from or beside counts as well.

    Returns:
        The system's words, such as ``No space left on device``; None for any other error.
    """
    words = None
    link: BaseException | None = error
    while link is not None:
        number = link.errno if isinstance(link, OSError) else None
        if number is None and (quoted := _BY_NUMBER.search(str(link))):
            number = int(quoted[1])
        if number in _TROUBLE:
            return os.strerror(number)
        if isinstance(link, RuntimeError | OSError) and _BY_WORDS.search(str(link)):
            words = "the file could not be written whole"
        link = link.__cause__ or link.__context__
    return words


@contextmanager
def _naming(place: Path) -> Iterator[None]:
    """Have an error of the disk name what was to be written."""
    try:
        yield
    except ClipTextError:  # told already
        raise
    except Exception as error:
        reason = disk_trouble(error)
        if reason is None:
            raise
        raise StorageError(
            f"expected to write {place}, got: {reason}. Free some space, or write to another disk."
        ) from error


@contextmanager
def _partial(place: Path, *, folder: bool = False) -> Iterator[Path]:
    """Give an empty file or folder beside a place, that no other process has; it never stays."""
    own = place.with_name(f"{place.name}.{uuid.uuid4().hex[:12]}.partial")
    _remove_stale(place)
    try:
        with _naming(place):
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                own.mkdir() if folder else own.touch()
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                raise StorageError(
                    f"expected to write {place}, got: {error.strerror}. "
                    "Name a folder that can be written."
                ) from error
            yield own
    finally:
        _remove(own)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _remove_stale(place: Path) -> None:
    """Remove what processes that were killed had begun to write for a place."""
    for partial in place.parent.glob(f"{escape(place.name)}.*partial"):
        with suppress(OSError):  # another process removes it, too
            touched = max(path.stat().st_mtime for path in [partial, *partial.rglob("*")])
            if time.time() - touched > _STALE:
                _remove(partial)


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """Write a folder that appears only when it is complete.

    Gives an empty folder beside ``folder`` and renames it at the end; after an error, a full disk
    say, nothing of it stays, and what a killed process left goes after a day. Where ``folder``
    exists, each file is replaced whole, and others there stay.

    Raises:
        StorageError: If the disk is full or failing, or the place cannot be written.
    """
    with _partial(folder, folder=True) as partial:
        yield partial
        if folder.exists():
            for file in sorted(path for path in partial.rglob("*") if path.is_file()):
                target = folder / file.relative_to(partial)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
        else:
            partial.rename(folder)


@contextmanager
def partial_file(file: Path) -> Iterator[Path]:
    """Write a file that appears only when it is complete; an older one stays whole until then.

    Gives an empty file beside ``file``; processes that write the same one don't disturb each
    other, and what a killed process left goes after a day.

    Raises:
        StorageError: If the disk is full or failing, or the place cannot be written.
    """
    with _partial(file) as partial:
        yield partial
        partial.replace(file)


def digest(*parts: object) -> str:
    """Name contents by a digest, 32 hexadecimal digits: a picture, a list of texts, a setting.

    Args:
        parts: In their order, each bytes or anything that JSON has; tuples count as lists, the
            order of a mapping's keys does not matter, and text may hold what is no valid Unicode.
            The same letters cut otherwise into parts have another digest, as have a number and
            its text.

    Raises:
        TypeError: If a part is nothing that JSON has.
    """
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        total.update(b"%d %d " % (isinstance(part, bytes), len(content)))
        total.update(content)
    return total.hexdigest()


def keep(
    place: Path,
    key: object,
    make: Callable[[Path], None],
    read: Callable[[Path], T],
    *,
    folder: bool = False,
) -> T:
    """Read what was made for the same key before, or make it and keep it.

    A stamp beside the file (in the folder, if it is one) holds the key and a digest of the
    content. Content without its stamp, or that is not what the stamp says, is not trusted but
    made anew: a file cut short, changed or put there by hand. Of a file larger than 4 MB the
    digest looks at 64 blocks and the size. Processes that ask for the same at once each make it,
    and use what the first of them to end has made.

    Args:
        place: The file or folder; it appears whole or not at all.
        key: Everything the result depends on, as JSON has it.
        make: Writes the empty file, or into the empty folder, at the path that it is given.
        read: Reads the result from such a path. What it refuses by a ValueError, EOFError or
            OSError is made anew.
        folder: Whether ``place`` is a folder. Files that are put there later are not looked at.

    Returns:
        What ``read`` gives.

    Raises:
        StorageError: If nothing was kept and the place cannot be written; this is found out
            before anything is made. Or if another process keeps something else there.
    """
    stamp = place / STAMP if folder else place.with_name(f"{place.name}.{STAMP}")
    asked = json.loads(json.dumps(key))
    _remove_stale(place)
    if _is_kept(place, stamp, asked):
        with suppress(OSError, ValueError, EOFError):
            return read(place)
    for _ in range(2):  # another process may have put something of another key there just now
        with _partial(place, folder=folder) as own:
            make(own)
            if not _is_kept(place, stamp, asked):  # else it may be in use already
                put = _put_folder if folder else _put_file
                put(own, place, stamp, asked)
        if _is_kept(place, stamp, asked):
            return read(place)
    raise StorageError(
        f"expected {place} to stay as it was written, got something else there. "
        "Let one process at a time use the folder, or name another."
    )


def keep_array(
    file: Path, key: object, compute: Callable[[], NDArray[Scalar]], *, mapped: bool = False
) -> NDArray[Scalar]:
    """Read an array that was computed for the same key, or compute and keep it; see :func:`keep`.

    Args:
        file: A ``.npy``.
        key: Everything the array depends on, as JSON has it.
        compute: Gives the array, of any shape.
        mapped: Map the file into memory, to be read only, rather than read it; the array must
            have a number in it then.
    """

    def make(partial: Path) -> None:
        array = compute()
        with partial.open("wb") as out:
            np.save(out, array, allow_pickle=False)

    def read(path: Path) -> NDArray[Scalar]:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        return cast(NDArray[Scalar], array)

    return keep(file, key, make, read)


def keep_json(file: Path, key: object, compute: Callable[[], T]) -> T:
    """Read a value that was computed for the same key, or compute and keep it; see :func:`keep`.

    Args:
        file: A ``.json``.
        key: Everything the value depends on, as JSON has it.
        compute: Gives the value, which JSON must have; what it gives comes back as JSON reads it,
            a tuple as a list.
    """
    return keep(
        file,
        key,
        lambda partial: write_json(partial, compute()),
        lambda path: cast(T, json.loads(path.read_text(encoding="utf-8"))),
    )


def _is_kept(place: Path, stamp: Path, key: object) -> bool:
    try:
        told = json.loads(stamp.read_text(encoding="utf-8"))
        content = {name: _content_digest(place / name) for name in told["content"]}
        return bool(told["key"] == key and content and told["content"] == content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # absent or damaged: both are mended by making it


def _put_file(own: Path, place: Path, stamp: Path, key: object) -> None:
    with partial_file(stamp) as file:
        write_json(file, {"key": key, "content": {".": _content_digest(own)}})
        own.replace(place)


def _put_folder(own: Path, place: Path, stamp: Path, key: object) -> None:
    files = sorted(path for path in own.rglob("*") if path.is_file())
    content = {path.relative_to(own).as_posix(): _content_digest(path) for path in files}
    write_json(own / STAMP, {"key": key, "content": content})
    try:
        own.rename(place)
    except OSError:
        if _is_kept(place, stamp, key):  # another process was first, just now
            return
        with _partial(place, folder=True) as old:
            place.rename(old / "old")
            own.rename(place)


def _content_digest(file: Path) -> str:
    """Digest of a file's size and content, of a large one's at evenly spaced blocks."""
    content = hashlib.blake2b(digest_size=16)
    with file.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        content.update(size.to_bytes(8, "little"))
        last = max(0, size - _BLOCK)
        whole = size <= _BLOCKS * _BLOCK
        starts = range(0, size, _BLOCK) if whole else (last * at // 63 for at in range(_BLOCKS))
        for start in starts:
            stream.seek(start)
            content.update(stream.read(_BLOCK))
    return content.hexdigest()


def check_new(folder: Path) -> None:
    """Refuse a folder that exists.

    Raises:
        FileExistsError: If it does.
    """
    if folder.exists():
        raise FileExistsError(f"expected a new folder, got {folder}. Name another one.")


def check_writable(file: Path) -> None:
    """Refuse early a file that could not be written after a long run.

    Args:
        file: Where something is to be written; its folder may have to be made.

    Raises:
        StorageError: If a folder is there, or no file can be made or written there.
    """
    if file.is_dir():
        raise StorageError(f"expected a file to write at {file}, got a folder. Name a file in it.")
    there = nearest(file)
    if there != file and not there.is_dir():
        raise StorageError(f"expected a folder at {there}, got a file. Name another folder.")
    if not os.access(there, os.W_OK):
        raise StorageError(f"expected to write {file}, got no right to. Name another folder.")


def nearest(path: Path) -> Path:
    """Give a path itself if there is something, else the nearest of what it is to lie in."""
    return next(one for one in (path, *path.absolute().parents) if os.access(one, os.F_OK))


def write_json(path: Path, value: object) -> None:
    """Write JSON in ASCII, indented: open_clip reads it without naming an encoding."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
