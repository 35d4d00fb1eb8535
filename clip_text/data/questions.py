"""The reader of questions about passages, in SQuAD's format."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_text.data.text_files import read_text
from clip_text.errors import DataError


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a passage.

    Args:
        question: Words of the question, as asked.
        passage: Where the answer is, if anywhere.
        answers: Right answers, none if the passage has none.
        starts: The character of the passage each begins at; -1 where it is not there.
        where: File and the question's id.
    """

    question: str
    passage: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]
    where: str


@dataclass(frozen=True, slots=True)
class Questions:
    """All questions of a file.

    Args:
        questions: In the file's order.
        moved: Answers that were not at their place and were found elsewhere in the passage.
        lost: Answers that are not in their passage.
        left_out: Questions without words.
    """

    questions: list[Question]
    moved: int = 0
    lost: int = 0
    left_out: int = 0


def read_questions(path: Path, *, mend: bool = False) -> Questions:
    """Read SQuAD's format, versions 1.1 and 2.0: ``data`` → ``paragraphs`` → ``qas`` → ``answers``.

    Args:
        path: The file.
        mend: Instead of refusing the file, move an answer that is not at its ``answer_start`` to
            the nearest place where the passage has it, keep its text alone where it is nowhere,
            and leave out questions without words. CMRC 2018 needs it.

    Raises:
        DataError: If something is missing or of the wrong type, empty, or an answer is not at its
            place; it names the line and the question.
    """
    decoded = read_text(path)
    if not decoded.strip():
        raise DataError(f"expected questions in {path}, got an empty file. Check the path.")
    try:
        raw: Any = json.loads(decoded)
    except (ValueError, RecursionError) as error:
        raise DataError(f"expected JSON in {path}, got {error}. Mend the file.") from None
    reader = _Reader(path, decoded, mend)
    questions = list(reader.questions(raw))
    if not questions:
        raise DataError(f"expected questions in {path}, got none. Check the file.")
    return Questions(questions, reader.moved, reader.lost, reader.left_out)


class _Reader:
    """Walks down a file; counts what is not at its place."""

    def __init__(self, path: Path, text: str, mend: bool) -> None:
        self.path, self.text, self.mend = path, text, mend
        self.moved = self.lost = self.left_out = 0

    def questions(self, raw: object) -> Iterator[Question]:
        where = str(self.path)
        for article in self._list(raw, "data", where):
            for paragraph in self._list(article, "paragraphs", where):
                passage = self._text(paragraph, "context", where)
                for asked in self._list(paragraph, "qas", where):
                    if self.mend and not str(asked.get("question", "")).strip():
                        self.left_out += 1
                    else:
                        yield self._placed(asked, passage)

    def _placed(self, asked: Mapping[str, Any], passage: str) -> Question:
        where = f"{self.path}, question {asked.get('id')!r}"
        try:
            return self._question(asked, passage, where)
        except DataError as error:  # its line is worth a search now
            place = self._place(asked.get("id"))
            raise DataError(str(error).replace(where, place, 1)) from None

    def _question(self, asked: Mapping[str, Any], passage: str, where: str) -> Question:
        question = self._text(asked, "question", where)
        given = [] if asked.get("is_impossible") else self._list(asked, "answers", where)
        answers: list[str] = []
        starts: list[int] = []
        for each in given:
            answer = self._text(each, "text", where)
            start = each.get("answer_start")
            if not isinstance(start, int):
                raise DataError(
                    f"expected a whole number in 'answer_start' of {where}, got {start!r}. Say at "
                    "which character of the passage the answer begins."
                )
            answers.append(answer)
            starts.append(self._start(passage, answer, start, where))
        return Question(question, passage, tuple(answers), tuple(starts), where)

    def _start(self, passage: str, answer: str, start: int, where: str) -> int:
        if start >= 0 and passage.startswith(answer, start):
            return start
        places = [at for at in range(len(passage)) if passage.startswith(answer, at)]
        if not self.mend:
            there = passage[max(start, 0) :][: len(answer)]
            hint = f"It is at {places[0]}" if places else "It is nowhere in the passage"
            raise DataError(
                f"expected the answer {answer!r} at character {start} of its passage in {where}, "
                f"got {there!r}. {hint}: mend answer_start or the text, or ask for "
                "--mend."
            )
        if not places:
            self.lost += 1
            return -1
        self.moved += 1
        return min(places, key=lambda at: abs(at - start))

    def _place(self, name: object) -> str:
        """Say where in the file a question is, by its id."""
        at = self.text.find(json.dumps(name, ensure_ascii=False)) if isinstance(name, str) else -1
        line = f", line {self.text.count(chr(10), 0, at) + 1}" if at >= 0 else ""
        return f"{self.path}{line}, question {name!r}"

    def _list(self, entry: object, name: str, where: str) -> list[Mapping[str, Any]]:
        value = entry.get(name) if isinstance(entry, Mapping) else None
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise DataError(
                f"expected a list of objects in {name!r} of {where}, got {type(value).__name__}. "
                "Write the file in SQuAD's format."
            )
        return value

    def _text(self, entry: Mapping[str, Any], name: str, where: str) -> str:
        value = entry.get(name)
        if not isinstance(value, str) or not value.strip():
            what = "an empty one" if isinstance(value, str) else type(value).__name__
            raise DataError(
                f"expected a text in {name!r} of {where}, got {what}. Mend it, or leave it out."
            )
        return value
