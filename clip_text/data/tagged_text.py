"""Readers of texts with entities: a unit and its tag a line, or a JSON object a line."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from clip_text.data.tags import Entity, decode_tags, split_tag
from clip_text.data.text_files import json_objects, text_lines
from clip_text.errors import DataError

_UNITS, _TAGS = ("text", "tokens", "words"), ("label", "labels", "tags", "ner_tags")
_LATIN = re.compile(r"[^\W_]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class TaggedText:
    """A text and its entities.

    Args:
        text: The text, not normalised or cut.
        entities: In order, none over another.
        where: File and line of the text, for errors.
    """

    text: str
    entities: list[Entity]
    where: str


@dataclass(frozen=True, slots=True)
class TaggedTexts:
    """All texts of a file.

    Args:
        texts: In the file's order.
        repaired: Entities that begin with I- without B-; see
            :func:`clip_text.data.tags.decode_tags`.
    """

    texts: list[TaggedText]
    repaired: int = 0

    @property
    def labels(self) -> list[str]:
        """All types of entities, sorted."""
        return sorted({entity.label for text in self.texts for entity in text.entities})


def read_tagged(path: Path) -> TaggedTexts:
    """Read texts with entities.

    ==============  ===========================================================================
    .jsonl, .json   an object a line: ``text`` with a list of units and ``label`` with a tag for
                    each (or ``tokens`` and ``tags``, …); or ``text`` with a string and
                    ``entities`` with ``start``, ``end`` (behind the last character) and ``label``
    anything else   CoNLL's form: a unit, white space, its tag; a blank line between texts. Of
                    more columns the first and the last count
    ==============  ===========================================================================

    Units are put together without spaces, but for a space between two Latin words or numbers of
    which one is longer than a letter: files of Chinese have a unit for each letter.

    Raises:
        DataError: If there are not as many tags as units, something is no tag, an entity is not
            in its text, or a text is empty; it names the line.
    """
    lines = _from_json(path) if path.suffix.lower() in (".jsonl", ".json") else _from_lines(path)
    texts, repaired = [], 0
    for text, mended in lines:
        texts.append(text)
        repaired += mended
    if not texts:
        raise DataError(f"expected texts with entities in {path}, got none. Check the file.")
    return TaggedTexts(texts, repaired)


def check_labels(texts: TaggedTexts, known: Sequence[str]) -> None:
    """Refuse types of entities that training has not seen.

    Raises:
        DataError: With the line of the first.
    """
    for text in texts.texts:
        for entity in text.entities:
            if entity.label not in known:
                raise DataError(
                    f"expected an entity of type {', '.join(known)} in {text.where}, got "
                    f"{entity.label!r} ({entity.text!r}). Add texts with it to the training data, "
                    "or mend the tag."
                )


def join_units(units: Sequence[str]) -> tuple[str, list[int]]:
    """Put units together; the text, and where each of them begins."""
    parts: list[str] = []
    starts: list[int] = []
    length = 0
    for at, unit in enumerate(units):
        before = units[at - 1] if at else ""
        if len(before) + len(unit) > 2 and _LATIN.fullmatch(before) and _LATIN.fullmatch(unit):
            parts.append(" ")
            length += 1
        starts.append(length)
        parts.append(unit)
        length += len(unit)
    return "".join(parts), starts


def _tagged(units: Sequence[str], tags: Sequence[str], where: str) -> tuple[TaggedText, int]:
    text, starts = join_units(units)
    decoded = decode_tags(tags)
    entities = []
    for first, behind, label in decoded.found:
        start, end = starts[first], starts[behind - 1] + len(units[behind - 1])
        entities.append(Entity(start, end, label, text[start:end]))
    return TaggedText(text, entities, where), decoded.repaired


def _from_lines(path: Path) -> Iterator[tuple[TaggedText, int]]:
    units: list[str] = []
    tags: list[str] = []
    first = 1
    for number, line in text_lines(path):
        fields = _fields(line)
        if not fields or fields[0] == "-DOCSTART-":
            if units:
                yield _tagged(units, tags, f"{path}, line {first}")
            units, tags, first = [], [], number + 1
            continue
        if len(fields) < 2 or not fields[0] or not fields[-1]:
            gone = " without its unit, which is gone" if not fields[0] else ""
            raise DataError(
                f"expected a character or word and its tag in {path}, line {number}, got "
                f"{line.strip()!r}{gone}. Give every unit a tag, and leave a line blank between "
                "texts."
            )
        _check_tag(fields[-1], f"{path}, line {number}")
        units.append(fields[0])
        tags.append(fields[-1])
    if units:
        yield _tagged(units, tags, f"{path}, line {first}")


def _fields(line: str) -> list[str]:
    """Unit, tag and what may be between them; none of a blank line.

    A unit may be a blank itself, where white space in a text was tagged like a letter: two white
    spaces at a line's beginning are such a unit and what separates it from its tag.
    """
    line = line.removesuffix("\n")
    if not line.strip():
        return []
    if line[:2].isspace() and len(line) > 2:
        return [line[0], *line[2:].split()]
    if line[0].isspace():
        return ["", *line.split()]
    return line.split("\t") if "\t" in line else line.split()


def _check_tag(tag: str, where: str) -> None:
    try:
        split_tag(tag)
    except DataError as error:
        raise DataError(str(error).replace(", got", f" in {where}, got", 1)) from None


def _from_json(path: Path) -> Iterator[tuple[TaggedText, int]]:
    for place, entry in json_objects(path):
        where = f"{path}, {place}"
        if isinstance(entry.get("text"), str):
            yield _with_entities(entry, where), 0
        else:
            units, tags = _list(entry, _UNITS, where), _list(entry, _TAGS, where)
            if len(units) != len(tags):
                raise DataError(
                    f"expected a tag for each of {len(units)} units in {where}, got {len(tags)} "
                    "tags. Give every unit a tag."
                )
            if not units or not all(units):
                raise DataError(f"expected a text in {where}, got an empty one. Leave it out.")
            for tag in tags:
                _check_tag(tag, where)
            yield _tagged(units, tags, where)


def _list(entry: Mapping[str, Any], names: Sequence[str], where: str) -> list[str]:
    value = next((entry[name] for name in names if name in entry), None)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise DataError(
            f"expected a list of strings in {' or '.join(names)} of {where}, got "
            f"{type(value).__name__}. The fields there are: {', '.join(entry) or 'none'}."
        )
    return value


def _with_entities(entry: Mapping[str, Any], where: str) -> TaggedText:
    text, listed = entry["text"], entry.get("entities")
    if not text.strip():
        raise DataError(f"expected a text in {where}, got an empty one. Leave it out.")
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise DataError(
            f"expected a list of objects in 'entities' of {where}, got {type(listed).__name__}. "
            'Write {"start": 0, "end": 2, "label": "PER"}, or [] where there are none.'
        )
    entities = sorted((_entity(text, one, where) for one in listed), key=lambda one: one.key)
    for one, other in pairwise(entities):
        if other.start < one.end:
            raise DataError(
                f"expected entities beside each other in {where}, got {other.text!r} within or "
                f"over {one.text!r}. Keep one of them."
            )
    return TaggedText(text, entities, where)


def _entity(text: str, found: Mapping[str, Any], where: str) -> Entity:
    start, end, label = found.get("start"), found.get("end"), found.get("label")
    if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start < end <= len(text):
        raise DataError(
            f"expected 0 <= start < end <= {len(text)} (the text's characters) in {where}, got "
            f"start {start!r} and end {end!r}. Count characters from 0; end is behind the last."
        )
    if not isinstance(label, str) or not label:
        raise DataError(f"expected a label of the entity in {where}, got {label!r}. Name one.")
    if found.get("text", text[start:end]) != text[start:end]:
        raise DataError(
            f"expected {found['text']!r} at characters {start} to {end} in {where}, got "
            f"{text[start:end]!r}. Count characters from 0; end is behind the last."
        )
    return Entity(start, end, label, text[start:end])
