"""Files that appear whole or not at all, and what keeps them from appearing."""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clip_text.errors import ClipTextError, StorageError

__all__ = ["check_new", "disk_trouble", "partial_file", "partial_folder", "write_json"]

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

    Gives an empty folder beside ``folder`` and renames it at the end; after an error, a full disk
    say, nothing of it stays. Where ``folder`` exists, each file is replaced whole, and others
    there stay.

    Raises:
        StorageError: If the disk is full or failing.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        with _naming(folder):
            partial.mkdir(parents=True)
            yield partial
            if folder.exists():
                for file in sorted(each for each in partial.rglob("*") if each.is_file()):
                    target = folder / file.relative_to(partial)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    file.replace(target)
            else:
                partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def partial_file(file: Path) -> Iterator[Path]:
    """Write a file that appears only when it is complete; an older one stays whole until then.

    Raises:
        StorageError: If the disk is full or failing.
    """
    partial = file.with_name(file.name + ".partial")
    try:
        with _naming(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


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
