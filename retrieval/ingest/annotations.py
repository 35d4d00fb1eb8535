r"""Captions and metadata of pictures: ``metadata.jsonl``, as Hugging Face's ImageFolder has it.

One JSON object per line: ``file_name`` (or ``image``; path below the folder the file lies in, with
``/``), ``caption`` or ``text`` (a text, or a list of texts, of which the first is the caption), and
anything else, which becomes the picture's metadata::

    {"file_name": "cats/1.jpg", "caption": "一只橘猫趴在窗台上", "licence": "CC0"}

Any folder may have one. Of several that name a picture, the nearest to it counts. A name spelled
otherwise than on the disk (``cats\1.jpg``, or ``é`` in another Unicode normalisation) is meant
where it fits exactly one file.
"""

import codecs
import io
import json
import math
import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from retrieval.errors import FolderError
from retrieval.ingest.walk import ANNOTATIONS_NAME
from retrieval.records import bounds_under, displayed, displayed_id

__all__ = ["Annotation", "Annotations"]

_MOST_NOTES = 20


class Annotation(NamedTuple):
    """What one line says of its picture: the caption, and the rest as JSON text."""

    caption: str | None
    metadata: str


NO_ANNOTATION = Annotation(None, "{}")


class Annotations:
    """What the ``metadata.jsonl`` of a folder, and of the folders in it, say of pictures.

    Args:
        top: The folder that pictures belong to; files above it are not looked at.
        walked: The folder whose pictures are asked for: ``top``, or one that lies in it.
    """

    def __init__(self, top: bytes, walked: bytes) -> None:
        self.top = top
        """The folder that pictures belong to."""
        self._walked = walked
        self._by_folder: dict[bytes, tuple[_Lines, ...]] = {}
        self.notes: list[str] = []
        """Lines that were passed over, with their number and the reason."""

    def survey(self, paths: Iterable[bytes]) -> int:
        """Read the lines on pictures, and see which picture each means.

        Args:
            paths: All pictures of the folder that is walked.

        Returns:
            How many pictures there are.

        Raises:
            FolderError: If a ``metadata.jsonl`` is there but cannot be read: going on would
                wipe every caption that was read from it before.
        """
        count = 0
        for path in paths:
            count += 1
            for lines in self._lines_for(_parent(path)):
                lines.meet(path)
        chains = [*self._by_folder.values(), self._lines_for(self._walked)]
        files = dict.fromkeys(lines for chain in chains for lines in chain)
        notes = [note for lines in files for note in lines.notes]
        if len(notes) > _MOST_NOTES:
            more = f"metadata.jsonl: {len(notes) - _MOST_NOTES} more lines like these."
            notes[_MOST_NOTES:] = [more]
        self.notes = notes + [note for lines in files for note in lines.settle(self._walked)]
        return count

    def find(self, path: bytes) -> Annotation:
        """Give what is said of a picture, after :meth:`survey`."""
        said = (lines.find(path) for lines in self._lines_for(_parent(path)))
        return next((annotation for annotation in said if annotation), NO_ANNOTATION)

    def _lines_for(self, folder: bytes) -> "tuple[_Lines, ...]":
        """Give the lines that may speak of pictures in a folder, the nearest first."""
        unknown: list[bytes] = []
        while folder not in self._by_folder and folder not in unknown[-1:]:
            unknown.append(folder)
            folder = folder if folder == self.top else _parent(folder)
        chain = self._by_folder.get(folder, ())
        for below in reversed(unknown):
            own = _read_lines(below, displayed_id(self.top, below))
            chain = (own, *chain) if own else chain
            self._by_folder[below] = chain
        return chain


class _Lines:
    """The lines of one ``metadata.jsonl``.

    Args:
        folder: Where the file lies.
        name: What notes call the file.
    """

    def __init__(self, folder: bytes, name: str) -> None:
        self._start = len(bounds_under(folder)[0])
        self._folder = folder
        self._name = name
        self._by_file: dict[bytes, Annotation] = {}  # by path below the folder
        self._unmet: set[bytes] = set()
        # What may be spelled otherwise on the disk, by its usual spelling: names in lines, files.
        self._names: defaultdict[str, list[bytes]] = defaultdict(list)
        self._files: defaultdict[str, list[bytes]] = defaultdict(list)
        self.notes: list[str] = []

    def add(self, number: int, line: bytes) -> None:
        """Take a line up, or note why it is passed over."""
        try:
            name, annotation = _parse(line)
        except ValueError as error:
            self.notes.append(f"{self._name} line {number}: {error} It is passed over.")
            return
        file = os.fsencode(os.path.normpath(name))
        if file in self._by_file:
            again = "expected a file_name not used before, got one again. This one counts."
            self.notes.append(f"{self._name} line {number}: {again}")
        elif "\\" in name or not name.isascii():
            self._names[_usual(os.path.normpath(name.replace("\\", "/")))].append(file)
        self._by_file[file] = annotation
        self._unmet.add(file)

    def meet(self, path: bytes) -> None:
        """Learn of a picture that is there."""
        below = path[self._start :]
        if below in self._by_file:
            self._unmet.discard(below)
        elif self._names:
            usual = _usual(os.fsdecode(below))
            if usual in self._names:
                self._files[usual].append(below)

    def settle(self, walked: bytes) -> list[str]:
        """Decide, all pictures being met, which of them lines mean that name none exactly.

        Args:
            walked: The folder that was walked; lines on pictures elsewhere are not missed.

        Returns:
            What is worth knowing.
        """
        notes = []
        for usual, files in self._files.items():
            names = [name for name in self._names[usual] if name in self._unmet]
            if names and len(files) == 1:
                self._by_file[files[0]] = self._by_file[names[-1]]
            if len(names) > 1 or (names and len(files) > 1):
                shown = displayed(os.fsencode(usual))
                notes.append(
                    f"{self._name}: expected one file and one line for {shown}, got {len(files)} "
                    f"and {len(names)}. Spell it as on the disk."
                )
            self._unmet.difference_update(names)
        within = bounds_under(walked)
        missed = [name for name in self._unmet if self._is_within(name, *within)]
        if missed:
            first = displayed(min(missed))
            notes.append(f"{self._name}: {len(missed)} lines name no picture here, as {first}.")
        return notes

    def find(self, path: bytes) -> Annotation | None:
        """Give what is said of a picture; None if nothing is."""
        return self._by_file.get(path[self._start :])

    def _is_within(self, name: bytes, low: bytes, high: bytes) -> bool:
        path = bounds_under(self._folder)[0] + name.replace(b"\\", b"/")
        return low <= path < high or bounds_under(self._folder)[0] >= low


def _read_lines(folder: bytes, below: str) -> _Lines | None:
    """Read the lines of the file in a folder; None if it has none."""
    path = Path(os.fsdecode(os.path.join(folder, ANNOTATIONS_NAME)))  # noqa: PTH118  (bytes)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise OSError(0, "no regular file")
        lines = _Lines(folder, f"{below}/{path.name}" if below else path.name)
        for number, line in _numbered(path):
            lines.add(number, line)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FolderError(
            f"expected to read {path}, got: {reason}. Make it readable, or remove it."
        ) from error
    return lines


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    """Read the lines that are not blank, in UTF-8, with their numbers from 1."""
    with path.open("rb") as file:
        start = file.read(2)
        if start in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}:  # what PowerShell's > writes
            file.seek(0)
            text = io.TextIOWrapper(file, "utf-16")
            lines: Iterable[bytes] = (line.encode() for line in text)
        else:
            file.seek(0)
            lines = file
        for number, line in enumerate(lines, start=1):
            bare = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if bare.strip():
                yield number, bare


def _parse(line: bytes) -> tuple[str, Annotation]:
    """Read one line's file name and what it says; ValueError with a reason if it is of no use."""
    try:
        text = line.decode("utf-8")
        entry: Any = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        _refuse("JSON", "a nesting too deep")
    if not isinstance(entry, dict):
        _refuse("a JSON object", f"a {type(entry).__name__}")
    name = entry.pop("file_name" if "file_name" in entry else "image", None)
    if not isinstance(name, str) or not name:
        _refuse("file_name to be a path below the folder", json.dumps(name)[:80])
    os.fsencode(name)  # refuses half of a surrogate pair
    key = "caption" if "caption" in entry else "text"
    caption = entry.pop(key, None)
    if isinstance(caption, list) and all(isinstance(text, str) for text in caption):
        texts = [text for text in caption if text.strip()]
        if len(texts) > 1:
            entry[key] = texts
        caption = texts[0] if texts else None
    if caption is not None and not isinstance(caption, str):
        _refuse(f"{key} to be a text or a list of texts", json.dumps(caption)[:80])
    # Half of a surrogate pair is valid JSON, but no service could send it on.
    json.dumps([caption, entry], ensure_ascii=False).encode("utf-8")
    return name, Annotation(caption, json.dumps(entry, ensure_ascii=False))


def _usual(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _parent(path: bytes) -> bytes:
    return os.path.dirname(path)  # noqa: PTH120  (bytes)


def _finite(number: str) -> float:
    """Read a number; one too large would become infinite, which JSON has no word for."""
    value = float(number)
    if math.isinf(value):
        _refuse("a number of at most 1.8e308", number[:80])
    return value


def _no_constant(name: str) -> NoReturn:
    _refuse("JSON", name)


def _refuse(expected: str, got: str) -> NoReturn:
    raise ValueError(f"expected {expected}, got {got}.")
