"""Files here and in object stores: a path, or a URL of any file system that fsspec knows."""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from clip_text.errors import DataError, MissingPackageError, NoFileError, needs

__all__ = [
    "UnreachableError",
    "as_spelt",
    "find_below",
    "find_matching",
    "is_folder",
    "is_glob",
    "is_remote",
    "join",
    "open_place",
    "read_place",
    "size_and_tail",
]

_TAIL = 1 << 16  # bytes
_PAUSES = (0.2, 1.0)
"""Seconds before a remote file that could not be read is asked for again, each time."""
_GONE = (FileNotFoundError, PermissionError, IsADirectoryError)


class UnreachableError(OSError):
    """A file of an object store that could not be read, however often it was asked for."""


def is_remote(place: str) -> bool:
    """Say whether a place is a URL: ``s3://bucket/name``."""
    return "://" in place


def is_glob(place: str) -> bool:
    """Say whether a place names files by ``*``, ``?`` or ``[ab]``."""
    return any(sign in place for sign in "*?[") and not (not is_remote(place) and _is_there(place))


def _is_there(place: str) -> bool:
    return Path(place).exists()


def join(folder: str, name: str) -> str:
    """Give the place of a name that is relative to a folder; a URL or whole path is one itself."""
    if is_remote(name) or os.path.isabs(name):  # noqa: PTH117  (of a URL's folder, too)
        return name
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else str(Path(folder) / name)


def as_spelt(place: str) -> str:
    """Spell a URL as its file system does: what is found in a folder begins with the folder."""
    if not is_remote(place):
        return place
    with _telling(place):
        system, path = _system(place)
        return str(system.unstrip_protocol(path))


def is_folder(place: str) -> bool:
    """Say whether there is a folder at a place.

    Raises:
        DataError: If its file system cannot be asked.
    """
    if not is_remote(place):
        return Path(place).is_dir()
    with _telling(place):
        system, path = _system(place)
        return bool(system.isdir(path))


@contextmanager
def open_place(place: str) -> Iterator[IO[bytes]]:
    """Open a file to be read, from any byte.

    Raises:
        NoFileError: If there is none that can be read.
        DataError: If its file system cannot be asked.
    """
    with _telling(place):
        file = _opened(place)
    with file:
        yield file


def _opened(place: str) -> IO[bytes]:
    if not is_remote(place):
        return Path(place).open("rb")
    system, path = _system(place)
    file: IO[bytes] = system.open(path, "rb")
    return file


def read_place(place: str) -> bytes | Path:
    """Read a remote file; of one that lies here give the path.

    Raises:
        OSError: If there is none that can be read: an :class:`UnreachableError` where it might be
            read at another time.
    """
    if not is_remote(place):
        return Path(place)
    system, path = _system(place)
    for pause in (*_PAUSES, None):
        try:
            content: bytes = system.cat_file(path)
            return content
        except _GONE:
            raise
        except Exception as error:
            # file systems have errors of their own: those of botocore and aiohttp, say
            if pause is None:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise UnreachableError(reason) from error
            time.sleep(pause)
    raise AssertionError("the last pause is none")


def size_and_tail(place: str) -> tuple[int, str]:
    """Bytes of a file, and a digest of its last 64 KiB, which tells most changes of it.

    Raises:
        NoFileError: If there is none that can be read.
        DataError: If its file system cannot be asked.
    """
    with open_place(place) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        return size, hashlib.blake2b(file.read(_TAIL), digest_size=16).hexdigest()


def find_matching(pattern: str) -> list[str]:
    """Name the files that fit a pattern of ``*``, ``?``, ``[ab]`` and ``**``, sorted.

    Raises:
        DataError: If its file system cannot be asked.
    """
    if not is_remote(pattern):
        from glob import glob  # noqa: PLC0415  (its name is a function's elsewhere)

        found = (path for path in glob(pattern, recursive=True) if Path(path).is_file())  # noqa: PTH207
        return sorted(found)
    with _telling(pattern):
        system, path = _system(pattern)
        return _whole(system, system.glob(path))


def find_below(folder: str) -> list[str]:
    """Name all files in a folder, in any depth, sorted; hidden ones and links to folders are not.

    Raises:
        DataError: If its file system cannot be asked.
    """
    if is_remote(folder):
        with _telling(folder):
            system, path = _system(folder)
            return _whole(system, system.find(path))
    found = []
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [str(Path(here) / name) for name in files if not name.startswith(".")]
    return sorted(found)


def _whole(system: Any, paths: list[str]) -> list[str]:  # noqa: ANN401
    return sorted(str(system.unstrip_protocol(path)) for path in paths)


def _system(place: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    with needs("clip-text[ray]", "files of object stores"):
        from fsspec.core import url_to_fs  # noqa: PLC0415  (optional)
    try:
        system, path = url_to_fs(place)
    except ImportError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise MissingPackageError(
            f"expected what fsspec needs for {place}, got: {reason}. Install what it names: "
            "s3fs for s3://, gcsfs for gs://, aiohttp for https://."
        ) from error
    except ValueError as error:
        raise DataError(
            f"expected a URL that fsspec opens, got {place} ({error}). Correct it."
        ) from error
    return system, path


@contextmanager
def _telling(place: str) -> Iterator[None]:
    """Tell what keeps a place from being asked, or a file from being opened, in our own words."""
    try:
        yield
    except DataError:
        raise
    except _GONE as error:
        reason = {FileNotFoundError: "nothing there", IsADirectoryError: "a folder"}
        got = reason.get(type(error), "one that may not be read")
        raise NoFileError(f"expected a file at {place}, got {got}. Check the path.") from error
    except ImportError:
        raise
    except Exception as error:
        told = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        raise DataError(
            f"expected {place} to be within reach, got: {told}. Check the URL and the rights."
        ) from error
