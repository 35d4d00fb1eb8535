"""Reads the text files that people have, whatever program wrote them.

One way for all of them: the encoding is found (see :mod:`clip_text.data.encodings`) and told of
where it is not UTF-8, a byte order mark is no text, lines may end in LF, CRLF or CR, and what
cannot be read is refused with file, line and byte. Files are streamed.
"""

import io
import json
import logging
from codecs import register_error
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from clip_text.data.collection import OTHER_ENCODINGS, Problem, entry
from clip_text.data.encodings import NAMES, UTF_8, detect_encoding
from clip_text.errors import DataError, NoFileError

_log = logging.getLogger(__name__)
_said: set[tuple[Path, str]] = set()

_MARK = "\ufeff"
_ZIP = b"PK\x03\x04"
_BAD = "clip_text.bad_bytes"


def _keep_bad_bytes(error: UnicodeError) -> tuple[str, int]:
    """Let a byte through as U+DC00 plus itself, so that who reads the line can name it.

    "surrogateescape" does so for bytes from 128 only; UTF-16 and GB18030 stumble over others, too.
    """
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


register_error(_BAD, _keep_bad_bytes)


def open_file(path: Path) -> io.BufferedReader:
    """Open a file that a person named.

    Raises:
        NoFileError: If there is none that can be read; it says what there is instead.
    """
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise NoFileError(
            f"expected a file at {path}, got nothing there. Check the path."
        ) from None
    except IsADirectoryError:
        raise NoFileError(f"expected a file at {path}, got a folder. Name a file in it.") from None
    except PermissionError:
        raise NoFileError(
            f"expected a file that may be read at {path}, got one that may not. "
            "Change its permissions, or copy it."
        ) from None
    except OSError as error:
        raise NoFileError(
            f"expected a file at {path}, got {error.strerror or error}. Check the path."
        ) from None


def open_text(source: Path | bytes, newline: str | None = None) -> TextIO:
    """Open a text file in the encoding that it has, its ``encoding``.

    Args:
        source: The file, or its content.
        newline: What :func:`open` takes: None gives every line end as LF, ``""`` leaves them.

    Returns:
        A stream; bytes that are no text come as U+DC00 plus the byte: see :func:`check_decoded`.

    Raises:
        NoFileError: If there is no file that can be read.
        DataError: If it is a zip archive, as .xlsx and .docx are.
    """
    file: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else open_file(source)
    try:
        if not file.seekable():  # a pipe
            content = file.read()
            file.close()
            file = io.BytesIO(content)
        if file.read(len(_ZIP)) == _ZIP:
            raise DataError(
                f"expected a text file, got {_named(source)}, which is a zip archive, as .xlsx and "
                ".docx are. Save it as text, or name it .xlsx if it is a table."
            )
        file.seek(0)
        encoding = detect_encoding(file)
        file.seek(0)
        return io.TextIOWrapper(file, encoding, _BAD, newline)
    except BaseException:
        file.close()
        raise


def is_decoded(text: str) -> bool:
    """Say whether a text of :func:`open_text` has no bytes that are no text."""
    try:
        return text.isascii() or bool(text.encode("utf-8"))
    except UnicodeEncodeError:
        return False


def check_decoded(text: str, encoding: str, where: str) -> None:
    """Refuse a text of :func:`open_text` with bytes that are no text.

    Args:
        text: A line, or another part.
        encoding: Name of the stream's encoding, for errors.
        where: The file and the line.

    Raises:
        DataError: With the first such byte.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"expected {NAMES[encoding]} in {where}, got byte "
            f"{ord(text[error.start]) & 0xFF:#04x}. Save the file as UTF-8."
        ) from None


def text_lines(
    path: Path,
    newline: str | None = None,
    problems: list[Problem] | None = None,
    encodings: dict[Path, str] | None = None,
) -> Iterator[tuple[int, str]]:
    """Number and text of each line, from 1; a byte order mark is passed over.

    Args:
        path: The file.
        newline: What :func:`open` takes: None gives every line end as LF, ``""`` leaves them.
        problems: A list to be told of bad lines, instead of an error at the first of them, and of
            an encoding other than UTF-8, instead of a line in the log.
        encodings: Gets the file's encoding if that is not UTF-8, instead of both.

    Raises:
        NoFileError: If there is no file that can be read.
        DataError: If a line is not in the file's encoding; it names line and byte.
    """
    with open_text(path, newline) as lines:
        encoding = lines.encoding
        if encoding != UTF_8 and encodings is not None:
            encodings[path] = NAMES[encoding]
        else:
            say_encoding(path, encoding, problems)
        for number, line in enumerate(lines, 1):
            if is_decoded(line):  # a mark may stand in the midst, too, where files were joined
                yield number, line.removeprefix(_MARK)
                continue
            with entry(problems, f"line {number}"):
                check_decoded(line, encoding, f"{path}, line {number}")


def say_encoding(path: Path, encoding: str, problems: list[Problem] | None = None) -> None:
    """Tell of a file that is not UTF-8, once: a list of problems, or the log."""
    if encoding == UTF_8:
        return
    name = NAMES[encoding]
    told = Problem(OTHER_ENCODINGS, f"{path}: read as {name}, not UTF-8", (f"{path}: {name}",))
    if problems is not None:
        problems += [] if told in problems else [told]
    elif (path, name) not in _said:
        _said.add((path, name))
        _log.warning("%s", told.message)


def say_encodings(folder: Path, encodings: dict[Path, str], problems: list[Problem] | None) -> None:
    """Tell of the files of a folder that are not UTF-8, as many as there may be, in one go."""
    if problems is not None:
        problems += [
            Problem(OTHER_ENCODINGS, f"{path}: read as {name}", (f"{path}: {name}",))
            for path, name in encodings.items()
        ]
    elif encodings:
        names = " or ".join(sorted(set(encodings.values())))
        _log.warning("%s: %s files read as %s, not UTF-8", folder, f"{len(encodings):,}", names)


def read_text(path: Path) -> str:
    """Read a whole text file; line ends are LF.

    Raises:
        NoFileError: If there is no file that can be read.
        DataError: If it is not in one encoding; it names line and byte.
    """
    return "".join(line for _, line in text_lines(path))


def read_entries(path: Path) -> list[str]:
    """Read the lines of a small file that a person writes: labels, names; blank ones don't count.

    Raises:
        NoFileError: If there is no file that can be read.
        DataError: If a line is not in the file's encoding; it names line and byte.
    """
    return [line.strip() for _, line in text_lines(path) if line.strip()]


def decode_lines(
    data: bytes, where: str, source: Path, problems: list[Problem] | None = None
) -> list[str]:
    """Decode a text that lies in no file of its own, line by line; without the line ends.

    Args:
        data: The text, as a file has it.
        where: For errors: ``"x.tar, sample 7, .txt"``.
        source: What it came with, which is told of if the text is not UTF-8.
        problems: A list to be told of that, instead of a line in the log.

    Raises:
        DataError: If a line is not in the text's encoding; it names line and byte.
    """
    texts = []
    with open_text(data) as lines:
        for number, line in enumerate(lines, 1):
            check_decoded(line, lines.encoding, f"{where}, line {number}")
            texts.append(line.removesuffix("\n").removeprefix(_MARK))
        say_encoding(source, lines.encoding, problems)
    return texts


def _named(source: Path | bytes) -> str:
    return "its content" if isinstance(source, bytes) else str(source)


def json_objects(
    path: Path, problems: list[Problem] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place (``"line 3"``) and object of each line that is not blank.

    A ``.json`` file may also be one list of objects (``"entry 3"``).

    Raises:
        NoFileError: If there is no file that can be read.
        DataError: If a line is no JSON object. With a list of ``problems`` that is told, and the
            line passed over.
    """
    if path.suffix.lower() == ".json" and _is_list(path):
        listed = enumerate(_json(read_text(path), str(path)), 1)
        entries = ((f"entry {number}", one) for number, one in listed)
    else:
        lines = text_lines(path, problems=problems)
        entries = ((f"line {number}", line) for number, line in lines if line.strip())
    for place, one in entries:
        found = None
        with entry(problems, place):
            where = f"{path}, {place}"
            found = _object(_json(one, where) if isinstance(one, str) else one, where)
        if found is not None:
            yield place, found


def json_object(text: str | bytes, where: str) -> dict[str, Any]:
    """Parse one JSON object.

    Raises:
        DataError: If it is none; it names ``where``.
    """
    return _object(_json(text, where), where)


def _json(text: str | bytes, where: str) -> Any:  # noqa: ANN401  (whatever JSON holds)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"expected a JSON object in {where}, got {error}. Mend the line.") from None


def _object(found: object, where: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise DataError(
            f"expected a JSON object in {where}, got {type(found).__name__}. Mend the line."
        )
    return found


def _is_list(path: Path) -> bool:
    first = next((line for _, line in text_lines(path, problems=[]) if line.strip()), "")
    return first.lstrip().startswith("[")
