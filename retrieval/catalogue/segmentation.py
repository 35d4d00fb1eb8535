"""Texts → words, as the text index holds them and as queries ask for them.

Chinese is cut by jieba in search mode, so that 自行车 is found by 自行 as well, without its guesses
at words that it does not know: those depend on what stands around them, and a name has to be cut
alike in a caption and in a query. Letters and digits are words of their own, whatever they touch
(``IMG_0042`` is img and 42). All of it is folded first: width, case, accents, leading zeros and,
where OpenCC is installed, traditional characters to simplified ones.
"""

import contextlib
import importlib
import importlib.util
import io
import json
import logging
import os
import re
import unicodedata
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Self

from platformdirs import user_cache_path

from retrieval.errors import RetrievalError

__all__ = ["Segmenter", "Settings", "can_simplify", "check_user_words"]

_HAN = r"\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Kana, Thai, Lao, Burmese, Khmer: written without spaces, and jieba does not know them.
_UNSPACED = r"\u3040-\u30ff\u31f0-\u31ff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_SIGNS = r"\u0610-\u065f\u0900-\u0dff"  # vowels and the like, which Python counts as no letters
_PIECE = re.compile(
    rf"(?P<han>[{_HAN}]+)"
    rf"|(?P<unspaced>[{_UNSPACED}]+)"
    r"|(?P<number>\d+)"
    rf"|(?P<word>(?:(?![{_HAN}{_UNSPACED}])(?:[^\W\d_]|[{_SIGNS}]))+)"
    r"|(?P<emoji>[\u2600-\u27bf\U0001f000-\U0001faff])"
)
_ACCENT = re.compile(r"[\u0300-\u036f]")
_USER_WORD = re.compile(r"\S+( \d+)?( [a-z]+)?")


@dataclass(frozen=True, slots=True)
class Settings:
    """How an index cuts texts; what it was filled by, queries have to be cut by.

    Args:
        simplify: Whether traditional characters are taken for simplified ones.
        user_words: Words that jieba is to know, in its form: a line each.
    """

    simplify: bool
    user_words: str = ""

    @classmethod
    def usual(cls) -> Self:
        """What a new index gets here."""
        return cls(simplify=can_simplify())

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what :meth:`as_text` wrote.

        Raises:
            ValueError: If it is no JSON.
            TypeError: If it is another one.
        """
        settings = cls(**json.loads(text))
        if not isinstance(settings.simplify, bool) or not isinstance(settings.user_words, str):
            raise TypeError(f"expected a bool and a text, got {text}. Write them by as_text.")
        return settings

    def as_text(self) -> str:
        """Write them as JSON."""
        stored = {"simplify": self.simplify, "user_words": self.user_words}
        return json.dumps(stored, ensure_ascii=False)


class Segmenter:
    """Cuts texts into words. Safe to use from several threads.

    Jieba's dictionary is read when the first Chinese text is cut: a second, once in a process.

    Args:
        settings: Of the index.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @staticmethod
    @lru_cache(maxsize=8)
    def of(settings: Settings) -> "Segmenter":
        """Give the one of these settings."""
        return Segmenter(settings)

    def __call__(self, text: str) -> list[str]:
        """Cut a text.

        Args:
            text: Any.

        Returns:
            Words in their order, of letters, digits and emoji alone; empty where there are none.
        """
        return list(self._words(unicodedata.normalize("NFKC", text).casefold()))

    def _words(self, text: str) -> Iterator[str]:
        for piece in _PIECE.finditer(text):
            part = piece[0]
            match piece.lastgroup:
                case "han":
                    yield from self._cut(part)
                case "unspaced":
                    yield from (part[i : i + 2] for i in range(max(1, len(part) - 1)))
                case "number":
                    digits = "".join(str(unicodedata.decimal(char)) for char in part)
                    yield digits.lstrip("0") or "0"
                case "word":
                    bare = _ACCENT.sub("", unicodedata.normalize("NFKD", part))
                    yield unicodedata.normalize("NFC", bare) or part
                case _:
                    yield part

    def _cut(self, text: str) -> Iterator[str]:
        if self._settings.simplify and can_simplify():
            text = _opencc().convert(text)
        yield from _jieba(self._settings).cut_for_search(text, HMM=False)


def can_simplify() -> bool:
    """Tell whether what turns traditional characters into simplified ones is installed."""
    return importlib.util.find_spec("opencc") is not None


def check_user_words(text: str) -> str:
    """Give words that jieba can take over: ``word [count] [part of speech]``, a line each.

    Raises:
        RetrievalError: If a line is something else.
    """
    lines = [line.strip() for line in text.removeprefix("\ufeff").splitlines()]
    for number, line in enumerate(lines, start=1):
        if line and not _USER_WORD.fullmatch(line):
            raise RetrievalError(
                f"expected 'word', 'word count' or 'word count tag' in line {number} of the words, "
                f"got {line[:80]!r}. Write one word a line."
            )
    return "\n".join(line for line in lines if line)


@lru_cache(maxsize=2)
def _jieba(settings: Settings) -> Any:  # noqa: ANN401  (jieba has no types)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for setuptools' old parts
        jieba = importlib.import_module("jieba")
    jieba.setLogLevel(logging.CRITICAL)  # it tells stderr that it reads its dictionary
    tokenizer = jieba.Tokenizer()
    # What it keeps of its dictionary is read back as Python objects: from a folder of the
    # user's own, not from one that everybody on the machine may write to. Without one it keeps
    # nothing.
    named = os.environ.get("CLIP_TEXT_CACHE")
    folder = (Path(named) if named else user_cache_path("clip-text")) / "jieba"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    tokenizer.tmp_dir = str(folder)
    if settings.user_words:
        words = settings.user_words
        if settings.simplify and can_simplify():
            words = _opencc().convert(words)
        tokenizer.load_userdict(io.StringIO(words))
    return tokenizer


@cache
def _opencc() -> Any:  # noqa: ANN401  (opencc is untyped)
    return importlib.import_module("opencc").OpenCC("t2s")
