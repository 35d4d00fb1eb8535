"""Captions and metadata of a folder: ``metadata.jsonl``, as Hugging Face's ImageFolder has it.

One JSON object per line: ``file_name`` (path below the folder, with ``/``), ``caption`` or
``text``, and anything else, which becomes the picture's metadata::

    {"file_name": "cats/1.jpg", "caption": "一只橘猫趴在窗台上", "licence": "CC0"}
"""

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from retrieval.errors import FolderError
from retrieval.ingest.walk import ANNOTATIONS_NAME

__all__ = ["NO_ANNOTATION", "Annotation", "Annotations", "read_annotations"]

_MOST_NOTES = 20


class Annotation(NamedTuple):
    """What one line says of its picture: the caption, and the rest as JSON text."""

    caption: str | None
    metadata: str


NO_ANNOTATION = Annotation(None, "{}")


@dataclass(slots=True)
class Annotations:
    """The lines of one ``metadata.jsonl``.

    Attributes:
        by_file: Path below the folder, as the file system spells it → what the line says.
        notes: Lines that were passed over, with their number and the reason.
    """

    by_file: dict[bytes, Annotation] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_annotations(folder: bytes) -> Annotations:
    """Read the captions of a folder; none if it has no ``metadata.jsonl``.

    Raises:
        FolderError: If the file is there but cannot be read: going on would wipe every
            caption that was read from it before.
    """
    path = Path(os.fsdecode(os.path.join(folder, ANNOTATIONS_NAME)))  # noqa: PTH118  (bytes)
    found = Annotations()
    try:
        for number, line in _lines(path):
            problem = ""
            try:
                name, annotation = _parse(line)
            except ValueError as error:
                problem = f"{error} It is passed over."
            else:
                if name in found.by_file:
                    problem = (
                        "expected a file_name not used before, got one again. This one counts."
                    )
                found.by_file[name] = annotation
            if problem:
                found.notes.append(f"{path.name} line {number}: {problem}")
    except OSError as error:
        msg = f"expected to read {path}, got: {error.strerror}. Make it readable, or remove it."
        raise FolderError(msg) from error
    if len(found.notes) > _MOST_NOTES:
        more = len(found.notes) - _MOST_NOTES
        found.notes[_MOST_NOTES:] = [f"{path.name}: {more} more lines like these."]
    return found


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise OSError(0, "no regular file")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            bare = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if bare.strip():
                yield number, bare


def _parse(line: bytes) -> tuple[bytes, Annotation]:
    """One line; ValueError with a reason if it says nothing that can be used."""
    try:
        entry: Any = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        _refuse("JSON", "a nesting too deep")
    if not isinstance(entry, dict):
        _refuse("a JSON object", f"a {type(entry).__name__}")
    name = entry.pop("file_name", None)
    if not isinstance(name, str) or not name:
        _refuse("file_name to be a path below the folder", json.dumps(name)[:80])
    key = "caption" if "caption" in entry else "text"
    caption = entry.pop(key, None)
    if caption is not None and not isinstance(caption, str):
        _refuse(f"{key} to be a text", json.dumps(caption)[:80])
    # Half of a surrogate pair is valid JSON, but no service could send it on.
    json.dumps([caption, entry], ensure_ascii=False).encode("utf-8")
    file = os.fsencode(os.path.normpath(name))
    return file, Annotation(caption, json.dumps(entry, ensure_ascii=False))


def _no_constant(name: str) -> NoReturn:
    _refuse("JSON", name)


def _refuse(expected: str, got: str) -> NoReturn:
    msg = f"expected {expected}, got {got}."
    raise ValueError(msg)
