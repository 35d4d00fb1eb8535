"""Masked LM: which tokens make a word, and which words a model has to guess.

A *word* is what jieba says, over the text itself, and what WordPiece split stays together: all of
its tokens are masked, or none (whole-word masking; Cui et al. 2019, arXiv:1906.08101, whose
segmenter was LTP). Words are found once, when a text is tokenised; masks are drawn anew whenever a
sequence is read (dynamic masking; Liu et al. 2019, RoBERTa, section 4.1, arXiv:1907.11692).
"""

import importlib
import io
import logging
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_text.errors import DataError, needs
from clip_text.tokenizer import Tokenizer

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]

IGNORED = -100
"""The label of a token that nobody has to guess, as transformers and torch have it."""

_UNUSED = re.compile(r"\[unused\d+\]|<unused\d+>|<[ST]>")


class Segmenter:
    """Chinese words by jieba, with words of one's own.

    Args:
        user_dict: A file of jieba's form, a line a word: ``word [count] [part of speech]``.

    Raises:
        MissingPackageError: If jieba is not installed.
        DataError: If the dictionary is no such file.
    """

    def __init__(self, user_dict: Path | None = None) -> None:
        if user_dict is None:
            self._jieba = _usual()
            return
        words = _dictionary(user_dict)
        self._jieba = _library().Tokenizer()
        self._jieba.load_userdict(io.StringIO("\n".join(words)))

    def __call__(self, text: str) -> list[int]:
        """Say where the words of a text begin, as positions in it; the first is 0."""
        starts, at = [], 0
        for word in self._jieba.cut(text):
            starts.append(at)
            at += len(word)
        return starts


@cache
def _usual() -> Any:  # noqa: ANN401  (jieba has no types)
    """Jieba with its own words alone; reading its dictionary takes a second."""
    return _library().Tokenizer()


def _library() -> Any:  # noqa: ANN401  (jieba has no types)
    with needs("clip-text[train]", "finding Chinese words"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for setuptools' old parts
        jieba = importlib.import_module("jieba")
    jieba.setLogLevel(logging.WARNING)  # it tells stderr that it reads its dictionary
    return jieba


def _dictionary(path: Path) -> list[str]:
    """Read the lines of jieba's form that are not blank."""
    from clip_text.data.text_files import text_lines  # noqa: PLC0415  (it brings pictures)

    words = []
    for number, line in text_lines(path):
        words += [line.strip()] if line.strip() else []
        if not re.fullmatch(r"\S+( \d+)?( [a-z]+)?", line.strip() or "-"):
            raise DataError(
                f"expected 'word', 'word count' or 'word count part-of-speech' in {path}, "
                f"line {number}, got {line.strip()[:40]!r}. Mend the line."
            )
    return words


def word_starts(
    pieces: Sequence[str], spans: Sequence[tuple[int, int]], segments: Sequence[int]
) -> Flags:
    """Say which tokens begin a word.

    A token goes on with the word of the one before it if it is WordPiece's (``##ing``), or if the
    segmenter puts both into one word.

    Args:
        pieces: Tokens of a text as the vocabulary spells them.
        spans: Where each lies in the text, from and to.
        segments: Where the segmenter's words begin in the text, rising from 0.

    Returns:
        True where a word begins, [n]; the first token always does.
    """
    # by its last character: SentencePiece counts the blank before a word as the word's
    last = np.array([max(start, end - 1) for start, end in spans], np.int64)
    segment = np.searchsorted(np.asarray(segments, np.int64), last, side="right")
    starts = np.ones(len(pieces), np.bool_)
    starts[1:] = segment[1:] != segment[:-1]
    goes_on = np.array([piece.startswith("##") and len(piece) > 2 for piece in pieces], np.bool_)
    starts[1:] &= ~goes_on[1:]
    return starts


@dataclass(frozen=True, slots=True, eq=False)
class Masking:
    """How masks are drawn.

    Args:
        mask_id: Id of [MASK].
        specials: Ids that are never masked, and never put in a token's place: [CLS], [SEP],
            [PAD], [UNK], …
        replacements: Ids that may be put in a token's place.
        share: Share of the tokens that have to be guessed, in [0, 1].
        replaced: Share of these that another token of the vocabulary takes the place of.
        kept: Share of these that stay as they are; [MASK] takes the place of the others.
    """

    mask_id: int
    specials: Ids
    replacements: Ids
    share: float = 0.15
    replaced: float = 0.1
    kept: float = 0.1

    @classmethod
    def of(cls, tokenizer: Tokenizer, share: float = 0.15) -> "Masking":
        """Mask what a tokenizer gives.

        Raises:
            DataError: If its vocabulary has no mask.
            ValueError: If the share is not between 0 and 1.
        """
        backend = tokenizer.backend
        if backend.mask_token_id is None:
            raise DataError(
                "expected a vocabulary with a mask, got one without. "
                "Start from an encoder that has [MASK] or <mask>."
            )
        if not 0 < share < 1:
            raise ValueError(f"expected a share between 0 and 1, got {share}. Use 0.15.")
        specials = sorted(set(backend.all_special_ids))
        usual = [
            number
            for token, number in backend.get_vocab().items()
            if number not in set(specials) and not _UNUSED.fullmatch(token)
        ]
        return cls(
            int(backend.mask_token_id),
            np.array(specials, np.int64),
            np.array(sorted(usual), np.int64),
            share,
        )

    def draw(self, ids: Ids, starts: Flags, rng: np.random.Generator) -> tuple[Ids, Ids]:
        """Draw a mask for one sequence.

        Of its words, ``share`` are drawn, a broken number rounded up or down by chance: so every
        token is masked with that probability, whatever the length of its word and sequence. (That
        is fairseq's rule, with which RoBERTa was trained. Google's draws tokens up to a number and
        passes over words that no longer fit, so long words are masked less often.) What
        becomes of a masked token, [MASK], another token or itself, is decided for each token by
        itself, as in BERT's own whole-word masking and in Cui et al. 2019, section 2.

        Args:
            ids: Token ids with special ones, [n].
            starts: True where a word begins, [n].
            rng: Generator that the draws come from.

        Returns:
            What the model reads and what it has to say: ids, and :data:`IGNORED` where it need not.
        """
        word = np.cumsum(starts) - 1
        open_words = np.ones(word[-1] + 1 if len(word) else 0, np.bool_)
        open_words[word[np.isin(ids, self.specials)]] = False
        candidates = np.flatnonzero(open_words)
        count = int(self.share * len(candidates) + rng.random())
        chosen = np.zeros(len(open_words), np.bool_)
        chosen[rng.choice(candidates, count, replace=False)] = True
        masked = chosen[word]
        fate = rng.random(len(ids))
        others = rng.choice(self.replacements, len(ids))
        inputs = np.where(masked, self.mask_id, ids)
        inputs = np.where(masked & (fate < self.replaced + self.kept), ids, inputs)
        inputs = np.where(masked & (fate < self.replaced), others, inputs)
        return inputs, np.where(masked, ids, IGNORED)


def mask_rng(seed: int, epoch: int, sequence: int) -> np.random.Generator:
    """Chance for the mask of one sequence in one epoch: the same whenever it is asked for.

    Args:
        seed: Seed of the run, 0 or more.
        epoch: Number of the epoch, 0 or more.
        sequence: Number of the sequence within the text.
    """
    return np.random.default_rng([seed, epoch, sequence])
