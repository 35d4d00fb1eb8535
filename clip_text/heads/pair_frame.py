"""Two texts in one row of tokens: [CLS] first [SEP] second [SEP], with a token type for each."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clip_text.tokenizer import Tokenizer
from clip_text.tokenizer.files import copy_of
from clip_text.towers import TextTower


@dataclass(frozen=True, slots=True)
class PairFrame:
    """The special tokens around two texts, as the backbone's own tokenizer has them.

    Args:
        before: Ids before the first text: [CLS], for BERT.
        between: Ids between the texts: [SEP], for BERT.
        after: Ids after the second text: [SEP], for BERT.
        kinds: Token types of the first and the second text: 0 and 1 for BERT.
    """

    before: list[int]
    between: list[int]
    after: list[int]
    kinds: tuple[int, int]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "PairFrame":
        """Find them by looking at a pair."""
        encoding = copy_of(tokenizer.backend).encode("a", "a")
        ids, special, kinds = encoding.ids, encoding.special_tokens_mask, encoding.type_ids
        first = special.index(0)
        second = special.index(1, first)
        third = special.index(0, second)
        last = special.index(1, third)
        return cls(ids[:first], ids[second:third], ids[last:], (kinds[first], kinds[third]))

    def pair(self, first: Sequence[int], second: Sequence[int]) -> tuple[list[int], list[int]]:
        """Token ids and token types of two texts, a question and a window of a passage say."""
        head = [*self.before, *first, *self.between]
        ids = [*head, *second, *self.after]
        return ids, [self.kinds[0]] * len(head) + [self.kinds[1]] * (len(ids) - len(head))

    def __len__(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


def pad_kinds(rows: Sequence[Sequence[int]], tokens: Tensor) -> Tensor:
    """Stack token types to the shape of their tokens, [n, length], 0 at padding."""
    kinds = torch.zeros_like(tokens)
    for at, row in enumerate(rows):
        kinds[at, : len(row)] = torch.tensor(row, dtype=torch.long)
    return kinds


def typed_states(
    tower: TextTower, tokens: Tensor, kinds: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run a backbone over rows that may hold two texts.

    Args:
        tower: Holds the backbone.
        tokens: Token ids, padded at the end, [n, length].
        kinds: Which of two texts a token is of, 0 or 1, [n, length]; backbones without such
            embeddings pass over it.

    Returns:
        Last hidden states [n, length, width], and mask [n, length], True at real tokens.
    """
    if kinds is None or getattr(tower.config, "type_vocab_size", 0) < 2:
        return tower.states(tokens)
    mask = tokens != tower.pad_id
    out = tower.transformer(input_ids=tokens, attention_mask=mask.long(), token_type_ids=kinds)
    return out.last_hidden_state, mask


def bare_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Give each text its whole row of ids, without special tokens.

    Raises:
        TypeError: If ``texts`` is one string, or holds something else than strings.
    """
    before = tokenizer.frame([-1]).index(-1)
    after = len(tokenizer.frame([])) - before
    return [row[before : len(row) - after] for row in tokenizer.token_ids(texts, sys.maxsize)]


def cut_longest_first(
    first: Sequence[int], second: Sequence[int], room: int
) -> tuple[Sequence[int], Sequence[int]]:
    """Cut the ends of two texts until both fit, the longer one first.

    Args:
        first: Token ids of the first text.
        second: Token ids of the second text.
        room: Number of tokens that both may have together.

    Returns:
        What stays of each; where both are cut, of an odd room the longer text has the odd token,
        and the second of two that are as long.

    Source:
        ``longest_first`` of the `tokenizers` library, as transformers' tokenizers truncate.
    """
    shorter, longer = sorted((len(first), len(second)))
    kept = max(shorter, room - shorter)
    if shorter > room or shorter + min(longer, kept) > room:
        shorter = room // 2
        kept = room - shorter
    lengths = (kept, shorter) if len(first) > len(second) else (shorter, kept)
    return first[: lengths[0]], second[: lengths[1]]
