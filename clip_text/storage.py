"""Files that appear whole or not at all, and what is computed once and kept in them."""

import errno
import glob
import hashlib
import json
import logging
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from clip_text.errors import ClipTextError, StorageError

__all__ = [
    "check_new",
    "digest",
    "disk_trouble",
    "is_kept",
    "keep",
    "keep_array",
    "keep_json",
    "partial_file",
    "partial_folder",
    "write_json",
]

T = TypeVar("T")
Number = TypeVar("Number", bound=np.generic)

_STAMP = "key.json"
"""Of a kept folder, in it; of a kept file, beside it, after its name and a dot."""
_ENDS = 1 << 20
"""Bytes of a kept file's begin, and of its end, that are compared with what was written."""
_STALE = 24 * 3600.0
"""Seconds; what was left half-written and has not grown for so long is of a process that died."""

_log = logging.getLogger(__name__)

_TROUBLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})

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
def partial_folder(folder: Path) -> Iterator[Path]:
    """Write a folder that appears only when it is complete.

    Gives an empty folder beside ``folder``, of a name that no other process has, and renames it at
    the end; after an error, a full disk say, nothing of it stays. Where ``folder`` exists, each
    file is replaced whole, and others there stay.

    Raises:
        StorageError: If the disk is full or failing.
    """
    _remove_stale(folder)
    partial = _own_name(folder)
    try:
        with _naming(folder):
            partial.mkdir(parents=True)
            yield partial
            _merge(partial, folder)
    finally:
        _remove(partial)


def _merge(partial: Path, folder: Path) -> None:
    if not folder.exists():
        try:
            partial.rename(folder)
            return
        except OSError:
            if not folder.exists():  # else another process was first, just now
                raise
    for file in sorted(path for path in partial.rglob("*") if path.is_file()):
        target = folder / file.relative_to(partial)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)


@contextmanager
def partial_file(file: Path) -> Iterator[Path]:
    """Write a file that appears only when it is complete; an older one stays whole until then.

    Gives a path beside ``file``, of a name that no other process has.

    Raises:
        StorageError: If the disk is full or failing.
    """
    _remove_stale(file)
    partial = _own_name(file)
    try:
        with _naming(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            partial.replace(file)
    finally:
        _remove(partial)


def digest(*parts: object) -> str:
    """Name contents by a digest, 32 hexadecimal digits.

    Args:
        parts: In their order, each bytes or anything that JSON has; the same letters cut otherwise
            into parts have another digest, as have a number and its text.

    Raises:
        TypeError: If a part is nothing that JSON has.
    """
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = part if isinstance(part, bytes) else _as_text(part).encode()
        total.update(b"%d %d " % (isinstance(part, bytes), len(content)))
        total.update(content)
    return total.hexdigest()


def keep(place: Path, key: object, compute: Callable[[Path], object]) -> Path:
    """Have a file or a folder that is computed once for a key, and kept.

    It appears whole or not at all, with a stamp of its key. What lies there is computed anew if
    the stamp is missing or has another key, or if the content is not what was written: all names
    and sizes are compared, and of each file the first and the last MiB. Processes that ask for the
    same at once each do the work, and use what the first of them made.

    Args:
        place: The file or folder; its name has to say what differs between keys that are in use
            at once.
        key: Everything that the content depends on, as JSON.
        compute: Writes the content to the path it is given, where nothing lies yet. Files that are
            put into a kept folder afterwards are not compared.

    Returns:
        The place.

    Raises:
        StorageError: If it has to be computed, and cannot be written.
    """
    _remove_stale(place)
    if is_kept(place, key):
        return place
    own = _own_name(place)
    with _naming(place):
        _check_writable(place, own)
        try:
            compute(own)
            _settle(own, place, key)
        finally:
            _remove(own)
    return place


def is_kept(place: Path, key: object) -> bool:
    """Say whether :func:`keep` would find a place as it should be.

    Args:
        place: A file or a folder.
        key: Everything that its content depends on, as JSON.
    """
    try:
        stamp = json.loads(_stamp_of(place).read_text(encoding="utf-8"))
        same = _as_text(stamp["key"]) == _as_text(key)
        return same and stamp["content"] == _content(place, stamp["content"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False  # absent, or no stamp of ours


def keep_array(
    file: Path,
    key: object,
    compute: Callable[[], NDArray[Number]],
    *,
    mapped: bool = False,
    optional: bool = False,
) -> NDArray[Number]:
    """Have an array that is computed once for a key, and kept; see :func:`keep`.

    Args:
        file: A ``.npy``.
        key: Everything that the array depends on, as JSON.
        compute: Gives it.
        mapped: Whether to map the file into memory, not to be written, rather than to read it.
        optional: Whether a file that cannot be written is a warning only.

    Raises:
        StorageError: If it has to be computed and cannot be written, and that is not optional.
    """

    def write(partial: Path, array: NDArray[Number]) -> None:
        with partial.open("wb") as stream:
            np.save(stream, array)

    def read(kept: Path) -> NDArray[Number]:
        array: NDArray[Number] = np.load(kept, mmap_mode="r" if mapped else None)
        return array

    return _keep_value(file, key, compute, write, read, optional=optional)


def keep_json(file: Path, key: object, compute: Callable[[], T], *, optional: bool = False) -> T:
    """Have a value that is computed once for a key, and kept as JSON; see :func:`keep`.

    Args:
        file: A ``.json``.
        key: Everything that the value depends on, as JSON.
        compute: Gives it, as JSON has it: text keys, lists rather than tuples.
        optional: Whether a file that cannot be written is a warning only.

    Raises:
        StorageError: If it has to be computed and cannot be written, and that is not optional.
    """

    def read(kept: Path) -> T:
        value: T = json.loads(kept.read_text(encoding="utf-8"))
        return value

    return _keep_value(file, key, compute, write_json, read, optional=optional)


def _keep_value(
    file: Path,
    key: object,
    compute: Callable[[], T],
    write: Callable[[Path, T], None],
    read: Callable[[Path], T],
    *,
    optional: bool,
) -> T:
    computed: list[T] = []

    def fill(partial: Path) -> None:
        computed.append(compute())
        write(partial, computed[0])

    try:
        return read(keep(file, key, fill))
    except StorageError as error:
        if not optional:
            raise
        _log.warning("computed, but not kept: %s", error)
        return computed[0] if computed else compute()


def _stamp_of(place: Path) -> Path:
    return place / _STAMP if place.is_dir() else place.with_name(f"{place.name}.{_STAMP}")


def _as_text(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _content(place: Path, names: Iterable[str]) -> dict[str, list[int | str]]:
    """Give size and digest of the files of a folder, by name; of a file, its name is empty."""
    return {name: _ends(place / name) for name in names}


def _ends(file: Path) -> list[int | str]:
    with file.open("rb") as stream:
        ends = hashlib.blake2b(stream.read(_ENDS), digest_size=16)
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _ENDS))
        ends.update(stream.read())
    return [size, ends.hexdigest()]


def _check_writable(place: Path, own: Path) -> None:
    """Refuse, before anything is computed, a place that cannot be written."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        own.touch()
        own.unlink()
    except OSError as error:
        if disk_trouble(error):
            raise
        raise StorageError(
            f"expected to write {place}, got: {error.strerror or error}. Allow it, or name another "
            "folder."
        ) from error


def _settle(own: Path, place: Path, key: object) -> None:
    """Put what was computed in its place, with its stamp, unless another process was first."""
    if not own.is_dir():
        stamp = {"key": key, "content": _content(own, [""])}
        if not is_kept(place, key):
            own.replace(place)
            # after the content: the older stamp beside it does not fit, and is not trusted
            with partial_file(_stamp_of(place)) as partial:
                write_json(partial, stamp)
        return
    files = sorted(file for file in own.rglob("*") if file.is_file())
    content = _content(own, [file.relative_to(own).as_posix() for file in files])
    write_json(own / _STAMP, {"key": key, "content": content})
    while not is_kept(place, key):
        aside = _own_name(place)
        with suppress(FileNotFoundError):
            place.rename(aside)
            _remove(aside)
        try:
            own.rename(place)
        except OSError:
            if not place.exists():  # else another was first, just now
                raise


def _own_name(place: Path) -> Path:
    """Name a path beside a place that no other process has, nor another call in this one."""
    owner = f"{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"
    return place.with_name(f"{place.name}.{owner}.partial")


def _machine() -> str:
    """Name what process numbers are counted in: a machine, or a container on it."""
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        namespace = 0
    name = f"{platform.node()} {namespace}"
    return hashlib.blake2b(name.encode(), digest_size=4).hexdigest()


def _remove_stale(place: Path) -> None:
    """Remove what processes that were killed had begun to write for a place."""
    for partial in place.parent.glob(f"{glob.escape(place.name)}.*partial"):
        with suppress(OSError):  # another process removes it, too
            if _is_left(partial):
                _remove(partial)


def _is_left(partial: Path) -> bool:
    owner = re.search(r"\.(\w+)-(\d+)-\w+\.partial$", partial.name)
    if os.name == "posix" and owner and owner[1] == _machine():
        try:
            os.kill(int(owner[2]), 0)  # asks only
        except ProcessLookupError:
            return True
        except OSError:  # alive, of somebody else
            pass
    touched = max(path.stat().st_mtime for path in [partial, *partial.rglob("*")])
    return time.time() - touched > _STALE


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_new(folder: Path) -> None:
    """Refuse a folder that exists.

    Raises:
        FileExistsError: If it does.
    """
    if folder.exists():
        raise FileExistsError(f"expected a new folder, got {folder}. Name another one.")


def write_json(path: Path, value: object) -> None:
    """Write JSON in ASCII: open_clip reads it without naming an encoding."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
