"""Sentence pairs: are two queries the same? Two texts read together, and a label for both.

[CLS] first [SEP] second [SEP] → backbone → [CLS] → dense, tanh → linear → logits / temperature

What stands behind the backbone is a classification head (Devlin et al. 2019, section 4.1,
arXiv:1810.04805): LCQMC, AFQMC and BQ are learnt so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from clip_text.heads.classification import Classification, ClassificationHead, rank
from clip_text.heads.pair_frame import (
    PairFrame,
    bare_ids,
    cut_longest_first,
    pad_kinds,
    typed_states,
)
from clip_text.heads.standalone import StandaloneHead
from clip_text.lengths import by_length
from clip_text.tokenizer import Tokenizer
from clip_text.towers import TextTower

Pair = tuple[str, str]
PairRow = tuple[list[int], list[int]]
"""Token ids of a pair, special ones included, and their token types."""


@dataclass(frozen=True, slots=True)
class PairClassifier(StandaloneHead[ClassificationHead]):
    """A head with all that it takes to label pairs of texts.

    Args:
        head: A classification head with a backbone of its own.
        tokenizer: Its context_length is that of both texts together.
    """

    task: ClassVar[str] = "pairs"

    def about(self) -> dict[str, Any]:
        """Say what it takes to build the head, but for task, backbone and context: JSON."""
        return self.head.about()

    @classmethod
    def build(cls, about: Mapping[str, Any], tower: TextTower, tokenizer: Tokenizer) -> Self:
        """Make a classifier of random weights; see :meth:`StandaloneHead.build`."""
        return cls(ClassificationHead.build(about, tower), tokenizer)

    def rows(self, pairs: Sequence[Pair]) -> list[PairRow]:
        """Put the two texts of each pair into one row of tokens.

        Where both don't fit, the end of the longer one is cut first.

        Args:
            pairs: Pairs of texts, any number of them.

        Raises:
            TypeError: If one is no pair of strings.
        """
        for position, pair in enumerate(pairs):
            texts = tuple(pair) if isinstance(pair, tuple | list) else (pair,)
            if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
                raise TypeError(
                    f"expected two texts in each pair, got {pair!r} at position {position}. Write "
                    "[(first, second), …]."
                )
        frame = PairFrame.of(self.tokenizer)
        room = self.tokenizer.context_length - len(frame)
        firsts = bare_ids(self.tokenizer, [first for first, _ in pairs])
        seconds = bare_ids(self.tokenizer, [second for _, second in pairs])
        return [
            frame.pair(*cut_longest_first(first, second, room))
            for first, second in zip(firsts, seconds, strict=True)
        ]

    def batch(self, rows: Sequence[PairRow]) -> tuple[Tensor, Tensor]:
        """Stack rows into token ids and token types, int64 [n, length], padded at the end."""
        tokens = self.tokenizer.pad([ids for ids, _ in rows])
        return tokens, pad_kinds([kinds for _, kinds in rows], tokens)

    @torch.inference_mode()
    def logits(self, pairs: Sequence[Pair], batch_size: int = 64) -> Tensor:
        """Compute the logits of pairs, not yet calibrated.

        Args:
            pairs: Pairs of texts, any number of them.
            batch_size: Pairs per forward pass; the logits don't depend on it.

        Returns:
            float32 [n, labels], on the CPU.

        Raises:
            TypeError: If one is no pair of strings.
            ValueError: If ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"expected a batch_size of at least 1, got {batch_size}. Raise it.")
        self.head.eval()
        device = self.head.out.weight.device
        rows = self.rows(pairs)
        logits = torch.empty((len(rows), len(self.head.config.labels)))
        for positions in by_length([len(ids) for ids, _ in rows], batch_size):
            tokens, kinds = self.batch([rows[position] for position in positions])
            computed = pair_logits(self.head, tokens.to(device), kinds.to(device))
            logits[positions] = computed.float().cpu()
        return logits

    def classify(
        self, pairs: Sequence[Pair], top_k: int | None = None, batch_size: int = 64
    ) -> list[Classification]:
        """Say which label each pair has.

        Args:
            pairs: Any number of pairs of texts.
            top_k: How many labels to give of each, the likeliest first; all if None.
            batch_size: Pairs per forward pass; the labels don't depend on it.

        Returns:
            For each pair its labels with calibrated probabilities.

        Raises:
            TypeError: If one is no pair of strings.
            ValueError: If a number is below 1.
        """
        logits = self.logits(pairs, batch_size)
        return rank(self.head.probabilities(logits), self.head.config, top_k)


def pair_logits(head: ClassificationHead, tokens: Tensor, kinds: Tensor) -> Tensor:
    """Run a head with a backbone of its own over rows of two texts.

    Args:
        head: Head that judges pairs of texts.
        tokens: Token ids, padded at the end, [n, length].
        kinds: Which of two texts a token is of, 0 or 1, [n, length].

    Returns:
        Logits [n, labels], not yet calibrated.
    """
    assert head.tower is not None
    logits: Tensor = head(head.pool(*typed_states(head.tower, tokens, kinds)))
    return logits
