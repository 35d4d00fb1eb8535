"""Plain text of any size, a line at a time.

========  ==========================================================================
.txt      a line a sentence or paragraph; a blank line ends a document
.jsonl    an object a line; a field holds a document, or a list of its lines
.csv      a header, then a document a row
.tsv      the same with tabs; or .xlsx, if it is named itself
========  ==========================================================================
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_text.data.tables import find_columns, read_table
from clip_text.data.text_files import (
    check_decoded,
    is_decoded,
    json_objects,
    open_text,
    say_encoding,
)
from clip_text.errors import DataError

SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv")
FIELDS = (
    *("text", "sentence", "content", "review", "caption"),
    *("文本", "内容", "句子", "评论", "标题", "描述"),
)
"""Fields that are looked for, in this order and in any case, if none is named."""

STOPS = frozenset("。！？；…!?;")
"""What ends a sentence."""

_LONGEST = 1 << 16
"""Characters of a line that are read together; a longer line is cut behind a sentence."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text, or a part of a very long one.

    Args:
        text: What it says.
        new_document: Whether a document begins with it.
        new_line: False for what goes on with the line before.
    """

    text: str
    new_document: bool
    new_line: bool = True


def text_files(paths: Sequence[Path]) -> list[Path]:
    """List files; of a folder all it has of a kind that is read, in any depth, by name.

    Raises:
        DataError: If there is nothing to read, or a file of another kind.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES]
            found += sorted(each for each in inside if each.is_file())
        elif path.is_file() and path.suffix.lower() in (*SUFFIXES, ".xlsx"):
            found.append(path)
        else:
            what = "another kind of file" if path.is_file() else "no such file"
            raise DataError(
                f"expected a folder or a {', '.join(SUFFIXES)} file of text, got {what} "
                f"at {path}. Check the name."
            )
    if not found:
        raise DataError(
            f"expected {', '.join(SUFFIXES)} files in {', '.join(map(str, paths)) or 'a folder'}, "
            "got none. Name files of text."
        )
    return found


def read_lines(
    path: Path, fields: Sequence[str] = (), *, line_documents: bool = False
) -> Iterator[Line]:
    """Read a file of text, a line at a time; blank ones are passed over.

    Args:
        path: The file.
        fields: Fields or columns to read, each a document; the first there is of :data:`FIELDS`
            if none. A .txt has none.
        line_documents: Each line is a document by itself.

    Raises:
        NoFileError: If there is no file that can be read.
        DataError: If it holds no text, a line is not in the file's encoding, or lacks a field; it
            names the line.
    """
    anything = False
    source = _plain(path) if path.suffix.lower() == ".txt" else _fielded(path, fields)
    for line in source:
        anything = True
        yield Line(
            line.text, line.new_document or (line_documents and line.new_line), line.new_line
        )
    if not anything:
        raise DataError(f"expected text in {path}, got none. Leave the file out.")


def _plain(path: Path) -> Iterator[Line]:
    fresh = True
    with open_text(path) as file:
        say_encoding(path, file.encoding)
        number, goes_on, rest = 1, False, ""
        while read := file.readline(_LONGEST):
            whole = read.endswith("\n")
            text = rest + (read if goes_on else read.removeprefix("\ufeff"))
            if not is_decoded(text):
                check_decoded(text, file.encoding, f"{path}, line {number}")
            cut = len(text) if whole or len(read) < _LONGEST else _last_stop(text)
            text, rest = text[:cut], text[cut:]
            if text.strip():
                yield Line(text, fresh, not goes_on)
                fresh = False
            elif not goes_on:
                fresh = True
            goes_on = not whole
            number += whole
        if rest.strip():
            yield Line(rest, False, False)


def _last_stop(text: str) -> int:
    """Find the last place to cut a text at: behind a sentence, a blank or, without any, its end."""
    for at in range(len(text) - 1, len(text) // 2, -1):
        if text[at] in STOPS or text[at].isspace():
            return at + 1
    return len(text)


def _fielded(path: Path, fields: Sequence[str]) -> Iterator[Line]:
    listed = path.suffix.lower() == ".jsonl"
    entries = json_objects(path) if listed else read_table(path).records()
    for place, entry in entries:
        names = fields or (find_columns(FIELDS, entry) or FIELDS)[:1]
        for name in names:
            if name not in entry:
                raise DataError(
                    f"expected a field {name!r} in {path}, {place}, got "
                    f"{', '.join(map(str, entry)) or 'none'}. Name the field that holds the text."
                )
            value = entry[name]
            texts = value if isinstance(value, list) else [value]
            if not all(isinstance(text, str) for text in texts):
                raise DataError(
                    f"expected a text or a list of them in {name!r} of {path}, {place}, "
                    f"got {type(value).__name__}. Mend the line."
                )
            fresh = True
            for line in (line for text in texts for line in text.splitlines() if line.strip()):
                for at in range(0, len(line), _LONGEST):
                    yield Line(line[at : at + _LONGEST], fresh, at == 0)
                    fresh = False
