"""Files that appear whole or not at all."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["check_new", "partial_file", "partial_folder", "write_json"]


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """Write a folder that appears only when it is complete.

    Gives an empty folder beside ``folder`` and renames it at the end; after an error, a full disk
    say, nothing of it stays. Where ``folder`` exists, each file is replaced whole, and others
    there stay.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir()
    try:
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
    """Write a file that appears only when it is complete; an older one stays whole until then."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    try:
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
