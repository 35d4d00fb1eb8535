"""Parallel sentences: the same thing said in two or more languages, line by line."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_text.data.tables import is_table, read_table
from clip_text.data.text_files import json_objects
from clip_text.errors import DataError


@dataclass(frozen=True, slots=True)
class ParallelSentences:
    """Sentences of several languages that mean the same at the same place.

    Args:
        by_language: Texts by the name of their field or column, all equally many.
        groups: For each place, which line of the file it came from: what a line lists belongs
            together (captions of one picture, say), and is never split between two sets.
    """

    by_language: Mapping[str, list[str]]
    groups: list[int]

    def __len__(self) -> int:
        return len(self.groups)

    def take(self, places: Sequence[int]) -> "ParallelSentences":
        """Give the sentences at some places alone."""
        by_language = {
            language: [texts[at] for at in places] for language, texts in self.by_language.items()
        }
        return ParallelSentences(by_language, [self.groups[at] for at in places])

    def first_of_each(self) -> "ParallelSentences":
        """Give the first sentence of each line alone, as a test set asks for them."""
        first: dict[int, int] = {}
        for at, group in enumerate(self.groups):
            first.setdefault(group, at)
        return self.take(list(first.values()))


def read_parallel(path: Path, languages: Sequence[str]) -> ParallelSentences:
    """Read parallel sentences.

    ======  =================================================================================
    .jsonl  an object a line; a field holds a sentence, or a list of them, and then the lists
            of a line are equally long: the first means the first, and so on
    .json   the same, or one list of such objects
    .csv    a header with the names, then a sentence a column
    .tsv    the same with tabs; or .xlsx
    ======  =================================================================================

    Args:
        path: The file.
        languages: Fields or columns to read; what else there is, is left alone.

    Raises:
        DataError: If a field is missing, empty or of the wrong type, lists are not equally long,
            or there is no sentence; it names the line.
        ValueError: If a language is asked for twice.
    """
    if len(set(languages)) != len(languages):
        raise ValueError(f"expected different languages, got {', '.join(languages)}. Drop one.")
    listed = path.suffix.lower() in (".jsonl", ".json")
    if not listed and not is_table(path):
        raise DataError(
            f"expected a .jsonl, .csv or .tsv file of parallel sentences, got {path}. "
            "Write one with a field or column for each language."
        )
    entries = json_objects(path) if listed else _rows(path, languages)
    by_language: dict[str, list[str]] = {language: [] for language in languages}
    groups: list[int] = []
    for line, (place, entry) in enumerate(entries):
        found = {language: _sentences(path, place, entry, language) for language in languages}
        lengths = {language: len(texts) for language, texts in found.items()}
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{number} in {language}" for language, number in lengths.items())
            raise DataError(
                f"expected equally many sentences in every language in {path}, {place}, got {said}."
                " Pair them, or leave the line out."
            )
        for language, texts in found.items():
            by_language[language] += texts
        groups += [line] * lengths[languages[0]]
    if not groups:
        raise DataError(f"expected parallel sentences in {path}, got none. Check the file.")
    return ParallelSentences(by_language, groups)


def _sentences(path: Path, place: str, entry: Mapping[str, Any], language: str) -> list[str]:
    if language not in entry:
        there = ", ".join(str(name) for name in entry) or "none"
        raise DataError(
            f"expected a field {language!r} in {path}, {place}, got none. "
            f"The fields there are: {there}."
        )
    value = entry[language]
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(
            f"expected a sentence or a list of them in {language!r} of {path}, {place}, "
            f"got {type(value).__name__}. Mend the line."
        )
    if not texts or not all(text.strip() for text in texts):
        raise DataError(
            f"expected words in {language!r} of {path}, {place}, got an empty "
            f"{'sentence' if texts else 'list'}. Leave the line out."
        )
    return texts


def _rows(path: Path, languages: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    table = read_table(path)
    twice = [language for language in languages if table.header.count(language) > 1]
    if twice:
        raise DataError(
            f"expected one column {twice[0]!r} in the header of {path}, "
            f"got {table.header.count(twice[0])}. Rename the others."
        )
    return table.records()
