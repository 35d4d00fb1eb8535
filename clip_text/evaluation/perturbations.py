"""What people do to a text without meaning another picture: misspell it, retype it, reword it.

Each perturbation is a pure function of a text and a seed. It changes nothing else than it says,
gives back a text it has nothing to do to as it came, and never empties one. The ones that need to
know words or readings are about Chinese; they leave other scripts alone.
"""

import importlib
import logging
import random
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby, pairwise
from typing import Any

from clip_text.errors import needs
from clip_text.evaluation.synonyms import SYNONYMS

Perturb = Callable[[str, random.Random], str]
"""From a text and a source of chance to a text."""

HOMOPHONES = 5
"""A typo is one of this many most common characters of the same reading."""

_SENTENCE_ENDS = ".!?。！？…．।؟"
_CLOSING = "\"'”’)]）】」』»"
_INSIDE_WORDS = "'’-"
_ASCII = range(0x21, 0x7F)
_TO_FULL = {code: code + 0xFEE0 for code in _ASCII}
_TO_HALF: dict[int, str] = {code + 0xFEE0: chr(code) for code in _ASCII}
_TO_HALF |= {ord(full): half for full, half in zip("。、“”‘’￥\u3000", ".,\"\"''¥ ", strict=True)}


@dataclass(frozen=True, slots=True)
class Perturbation:
    """One named way to change a text.

    Args:
        name: Name of the perturbation, for tables.
        apply: The change; all its chance comes from the second argument.
        about: What it does, in a line.
    """

    name: str
    apply: Perturb
    about: str

    def __call__(self, text: str, seed: int = 0) -> str:
        """Change a text; the same text and seed give the same result, whatever came before.

        Raises:
            MissingPackageError: If a library it needs is missing.
        """
        return self.apply(text, random.Random(f"{seed} {self.name} {text}"))  # noqa: S311


def _library(name: str) -> Any:  # noqa: ANN401  (a module)
    with needs("clip-text[robustness]", "this perturbation"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jieba asks for setuptools' old parts
        return importlib.import_module(name)


# Which character is what


def _is_han(char: str) -> bool:
    return (
        "\u3400" <= char <= "\u9fff"
        or "\uf900" <= char <= "\ufaff"
        or "\U00020000" <= char <= "\U0003ffff"
    )


def _is_cjk(char: str) -> bool:
    """Whether the script has no spaces between words: Han or kana, not Hangul."""
    return _is_han(char) or ("\u3041" <= char <= "\u30ff" and char != "・")


def _is_punctuation(char: str) -> bool:
    return unicodedata.category(char).startswith("P")


def _letters(text: str) -> list[tuple[int, int]]:
    """Where each letter or digit begins and ends, with the marks that sit on it."""
    spans = []
    for start, char in enumerate(text):
        if char.isalnum():
            end = start + 1
            while end < len(text) and unicodedata.category(text[end]).startswith("M"):
                end += 1
            spans.append((start, end))
    return spans


def _pieces(text: str) -> Iterator[tuple[bool, str]]:
    """Cut a text into words, True, and what is between them, False."""

    def kind(char: str) -> str:
        if _is_han(char):
            return "han"
        letter = unicodedata.category(char)[0] in "LMN" or char in _INSIDE_WORDS
        return "word" if letter else "between"

    for what, group in groupby(text, kind):
        run = "".join(group)
        if what == "han":
            yield from ((True, word) for word in _jieba().lcut(run))
        else:
            yield what == "word", run


@cache
def _jieba() -> Any:  # noqa: ANN401  (a module)
    jieba = _library("jieba")
    jieba.setLogLevel(logging.WARNING)  # it tells stderr that it reads its dictionary
    return jieba


# The perturbations


@cache
def _opencc() -> Any:  # noqa: ANN401  (opencc is untyped)
    return _library("opencc").OpenCC("s2tw")


def _traditional(text: str, _: random.Random) -> str:
    # opencc ends a text at its first NUL
    return "\0".join(_opencc().convert(part) for part in text.split("\0"))


def _full_width(text: str, _: random.Random) -> str:
    return text.translate(_TO_FULL)


def _half_width(text: str, _: random.Random) -> str:
    return text.translate(_TO_HALF)


def _no_punctuation(text: str, _: random.Random) -> str:
    """Drop it, but keep words apart that only it kept apart: a space, except in Chinese."""
    kept: list[str] = []
    end = 0
    for marks, group in groupby(text, _is_punctuation):
        run = "".join(group)
        end += len(run)
        if not marks:
            kept.append(run)
        elif kept and end < len(text) and not all(char in "'’" for char in run):
            before, after = kept[-1][-1], text[end]
            kept.append("" if _is_cjk(before) or _is_cjk(after) else " ")
    bare = " ".join("".join(kept).split())
    return bare if bare and any(map(_is_punctuation, text)) else text


def _full_stop(text: str, _: random.Random) -> str:
    body = text.rstrip()
    if not body or body.rstrip(_CLOSING).endswith(tuple(_SENTENCE_ENDS)):
        return text
    stop = "。" if any(map(_is_cjk, body)) else "."
    return body + stop + text[len(body) :]


@cache
def _homophones() -> dict[str, list[tuple[str, int]]]:
    """Reading without tone → the common characters read so, with their counts, common first.

    Common is level 1 of GB 2312, the 3,755 characters everyday texts are written with; counted
    in the words of jieba's dictionary. Input methods ask for no tone, so neither do their typos.
    """
    words = _jieba()
    words.initialize()
    rows = [(row, cell) for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF)]
    level_1 = {bytes(place).decode("gb2312", "ignore") for place in rows} - {""}
    counts: Counter[str] = Counter()
    for word, count in words.dt.FREQ.items():
        if count:
            for char in level_1.intersection(word):
                counts[char] += count
    read = _library("pypinyin").lazy_pinyin
    table: dict[str, list[tuple[str, int]]] = {}
    for char, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        table.setdefault(read(char)[0], []).append((char, count))
    return table


def _homophone(text: str, rng: random.Random) -> str:
    # errors=list: what has no reading stands for itself, so readings and characters stay in step
    readings = _library("pypinyin").lazy_pinyin(text, errors=list)
    places = []
    for at, (char, reading) in enumerate(zip(text, readings, strict=True)):
        if _is_han(char):
            others = [one for one in _homophones().get(reading, ()) if one[0] != char]
            if others:
                places.append((at, others[:HOMOPHONES]))
    if not places:
        return text
    at, others = rng.choice(places)
    [typo] = rng.choices([char for char, _ in others], [count for _, count in others])
    return text[:at] + typo + text[at + 1 :]


def _dropped(text: str, rng: random.Random) -> str:
    letters = _letters(text)
    if len(letters) < 2:
        return text
    start, end = rng.choice(letters)
    return text[:start] + text[end:]


def _swapped(text: str, rng: random.Random) -> str:
    letters = _letters(text)
    pairs = [
        (start, middle, end)
        for (start, middle), (after, end) in pairwise(letters)
        if middle == after and text[start:middle] != text[after:end]
    ]
    if not pairs:
        return text
    start, middle, end = rng.choice(pairs)
    return text[:start] + text[middle:end] + text[start:middle] + text[end:]


def _reorder(text: str, order: Callable[[list[str]], list[str]]) -> str:
    """Put the words in another order; spaces and punctuation stay where they are."""
    pieces = list(_pieces(text))
    words = iter(order([piece for is_word, piece in pieces if is_word]))
    return "".join(next(words) if is_word else piece for is_word, piece in pieces)


def _words_reversed(text: str, _: random.Random) -> str:
    return _reorder(text, lambda words: words[::-1])


def _words_shuffled(text: str, rng: random.Random) -> str:
    def shuffle(words: list[str]) -> list[str]:
        shuffled = rng.sample(words, len(words))
        # By chance the old order: a turn by one place makes a new one, unless all are equal.
        return words[1:] + words[:1] if shuffled == words else shuffled

    return _reorder(text, shuffle)


@cache
def _synonyms() -> dict[str, list[str]]:
    return {word: [one for one in group if one != word] for group in SYNONYMS for word in group}


def _with_synonyms(text: str, rng: random.Random) -> str:
    return "".join(
        rng.choice(_synonyms()[piece]) if piece in _synonyms() else piece
        for _, piece in _pieces(text)
    )


def _spaced(text: str, _: random.Random) -> str:
    kept = list(text[:1])
    for before, char in pairwise(text):
        if _is_cjk(before) and _is_cjk(char):
            kept.append(" ")
        kept.append(char)
    return "".join(kept)


def _upper(text: str, _: random.Random) -> str:
    return text.upper()


def _lower(text: str, _: random.Random) -> str:
    return text.lower()


PERTURBATIONS: dict[str, Perturbation] = {
    name: Perturbation(name, apply, about)
    for name, apply, about in (
        ("traditional", _traditional, "traditional characters for simplified, as in Taiwan"),
        ("full-width", _full_width, "ASCII letters, digits and punctuation at full width"),
        ("half-width", _half_width, "full-width letters, digits and punctuation as ASCII"),
        ("no-punctuation", _no_punctuation, "without punctuation"),
        ("full-stop", _full_stop, "a full stop at the end, where there is none"),
        ("homophone", _homophone, "one character typed as another of the same pinyin"),
        ("dropped", _dropped, "one letter left out"),
        ("swapped", _swapped, "two neighbouring letters swapped"),
        ("words-reversed", _words_reversed, "the words from last to first"),
        ("words-shuffled", _words_shuffled, "the words in a random order"),
        ("synonyms", _with_synonyms, "everyday words by others that mean the same"),
        ("spaces", _spaced, "a space between any two Chinese characters or kana"),
        ("upper-case", _upper, "all letters upper case"),
        ("lower-case", _lower, "all letters lower case"),
    )
}
"""All of them by name. traditional needs opencc; homophone pypinyin and jieba; words and
synonyms jieba."""


def select(names: Iterable[str]) -> list[Perturbation]:
    """Look perturbations up by name.

    Raises:
        ValueError: If there is none of that name.
    """
    names = list(names)
    unknown = [name for name in names if name not in PERTURBATIONS]
    if unknown:
        raise ValueError(
            f"expected perturbations among {', '.join(PERTURBATIONS)}, "
            f"got {', '.join(map(repr, unknown))}. Correct the name."
        )
    return [PERTURBATIONS[name] for name in names]


__all__ = ["HOMOPHONES", "PERTURBATIONS", "Perturb", "Perturbation", "select"]
