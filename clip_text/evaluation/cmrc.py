"""Exact match and F1 of answers as CMRC 2018's official evaluation counts them.

Its script (``cmrc2018_evaluate.py``, version v5) lowers and trims an answer, takes a list of signs
out, and then compares

- *exact match*: what is left, character by character;
- *F1*: by the longest **common substring** of the two as segments, a segment being a Chinese
  character or a word of anything else; SQuAD's F1, by contrast, counts words in any order.

Of several right answers the best one counts. Two quirks are kept: the list has ``’`` but not ``‘``,
and ``……`` stands in it as two characters, so that an ellipsis is never taken out. One thing is
different: the script splits what is not Chinese by NLTK's ``word_tokenize``, and this by a rule
that gives the same for words, numbers and the marks between them, but not for contractions
(``don't``).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

SIGNS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
"""What is taken out of answers."""

_CHINESE = re.compile("[\u4e00-\u9fa5]")
_WORDS = re.compile(r"\w+(?:[.,'&]\w+)*|\.{2,}|[^\w\s]")


def remove_signs(text: str) -> str:
    """Lower and trim an answer, and take :data:`SIGNS` out."""
    return "".join(char for char in text.lower().strip() if char not in SIGNS)


def segments(text: str) -> list[str]:
    """Split an answer without its signs into Chinese characters, and words of what is between."""
    found: list[str] = []
    other = ""
    for char in text.lower().strip():
        if char in SIGNS:
            continue  # and what stands before and after it grows together, as in the script
        if _CHINESE.match(char):
            found += [*_WORDS.findall(other), char]
            other = ""
        else:
            other += char
    return found + _WORDS.findall(other)


def common_run(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest run of segments that is in both."""
    longest = 0
    before = [0] * (len(other) + 1)
    for segment in one:
        row = [0] * (len(other) + 1)
        for at, theirs in enumerate(other):
            if segment == theirs:
                row[at + 1] = before[at] + 1
        longest = max(longest, *row)
        before = row
    return longest


def f1(truth: Sequence[str], given: str) -> float:
    """F1 of an answer, in [0, 1], by the best of the right ones."""
    return max((_f1(segments(one), segments(given)) for one in truth), default=0.0)


def _f1(one: Sequence[str], other: Sequence[str]) -> float:
    run = common_run(one, other)
    return 2 * run / (len(one) + len(other)) if run else 0.0


def exact(truth: Sequence[str], given: str) -> bool:
    """Say whether an answer is one of the right ones but for signs and case."""
    return remove_signs(given) in {remove_signs(one) for one in truth}


@dataclass(frozen=True, slots=True)
class AnswerScores:
    """Means over questions, in [0, 1].

    Args:
        em: Share of the answers that match exactly, but for signs and case.
        f1: Mean F1 by the longest common substring, as the module's docstring says.
        questions: Number of questions measured.
        no_answer: Share of the questions that were given no answer.
    """

    em: float
    f1: float
    questions: int
    no_answer: float


def score_answers(truth: Sequence[Sequence[str]], given: Sequence[str]) -> AnswerScores:
    """Score an answer for each question.

    Args:
        truth: Right answers of each; none where the passage has none. There, as in SQuAD 2.0, only
            no answer is right, which counts 1 in both figures.
        given: The empty text is no answer.

    Raises:
        ValueError: If there are not as many answers as questions.
    """
    if len(truth) != len(given):
        raise ValueError(
            f"expected an answer for each of {len(truth)} questions, got {len(given)}. Pair them."
        )
    count = max(len(truth), 1)
    pairs = list(zip(truth, given, strict=True))
    hits = sum(exact(right, one) if right else not one for right, one in pairs)
    total = sum(f1(right, one) if right else float(not one) for right, one in pairs)
    return AnswerScores(
        hits / count, total / count, len(truth), sum(not one for one in given) / count
    )
