"""Named entities: a label for each token, and the characters that the labels spell.

text → tokens with their characters → windows → backbone → linear → BIO labels → entities

A token may stand for several characters (a Latin word, a number, pieces of them) and a character
for none (a space). The first token of an entity is labelled B, every other I, pieces of words
among them; an entity found is all characters from its first token's to its last token's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from clip_text.data.tags import Entity, decode_tags
from clip_text.heads.standalone import StandaloneHead
from clip_text.heads.token_heads import TokenHead
from clip_text.heads.windows import Window, windows
from clip_text.lengths import by_length
from clip_text.tokenizer import Aligned, Tokenizer
from clip_text.towers import TextTower

__all__ = ["Entity", "EntityHead", "EntityRecognizer"]

IGNORED = -100
"""The label of what is not learnt: special tokens, padding, tokens another window owns."""


def bio_labels(types: Sequence[str]) -> tuple[str, ...]:
    """Name the outputs for some types of entities: O, then B- and I- of each."""
    return ("O", *(f"{letter}-{each}" for each in types for letter in "BI"))


def tag_tokens(spans: Sequence[tuple[int, int]], entities: Sequence[Entity]) -> list[str]:
    """Label tokens by the characters they stand for.

    Args:
        spans: Characters of each token, in order.
        entities: In order, none over another. A token over two of them is the first one's.
    """
    tags = ["O"] * len(spans)
    at = 0
    for entity in entities:
        while at < len(spans) and spans[at][1] <= entity.start:
            at += 1
        letter = "B"
        while at < len(spans) and spans[at][0] < entity.end:
            tags[at], letter = f"{letter}-{entity.label}", "I"
            at += 1
    return tags


def gather(
    text: str,
    spans: Sequence[tuple[int, int]],
    tags: Sequence[str],
    scores: Sequence[float] | None = None,
) -> list[Entity]:
    """Read entities with characters from a tag for each token.

    Args:
        text: What the spans count in.
        spans: First character of each token in the text, and the one after its last.
        tags: Tags in BIO, one for each token; I- without B- begins an entity.
        scores: Probability of each token's tag, in [0, 1].
    """
    entities: list[Entity] = []
    for first, behind, label in decode_tags(tags).found:
        start, end = spans[first][0], spans[behind - 1][1]
        # pieces of one character (an accent taken apart) may be labelled apart: the first counts
        if entities and start < entities[-1].end:
            continue
        score = 1.0 if scores is None else sum(scores[first:behind]) / (behind - first)
        entities.append(Entity(start, end, label, text[start:end], score))
    return entities


def unreachable(aligned: Aligned, text: str, entities: Sequence[Entity]) -> int:
    """Count entities that no labels of these tokens spell, such as half of a Latin word."""
    reached = {one.key for one in gather(text, aligned.spans, tag_tokens(aligned.spans, entities))}
    return sum(one.key not in reached for one in entities)


class EntityHead(TokenHead):
    """Logits of BIO labels for each token; :meth:`forward` adds the loss where labels are given."""

    def forward(self, tokens: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Run backbone and head.

        Args:
            tokens: Token ids of the texts, [n, length].
            labels: [n, length], :data:`IGNORED` where nothing is learnt.

        Returns:
            ``logits`` [n, length, labels], and ``loss``, a mean over the tokens that are learnt.
        """
        logits = self.logits(tokens)
        if labels is None:
            return {"logits": logits}
        loss = cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED)
        return {"logits": logits, "loss": loss}


@dataclass(frozen=True, slots=True)
class EntityRecognizer(StandaloneHead[EntityHead]):
    """A head with all that it takes to find entities in texts.

    Args:
        head: Backbone and head.
        tokenizer: Its context_length is a window's.
        types: Types of entities, in the order of the labels.
        overlap: Tokens that neighbouring windows share.
    """

    task: ClassVar[str] = "entities"

    types: tuple[str, ...]
    overlap: int

    def about(self) -> dict[str, Any]:
        """Say what it takes to build the head, but for task, backbone and context: JSON."""
        return {"types": list(self.types), "overlap": self.overlap}

    @classmethod
    def build(cls, about: Mapping[str, Any], tower: TextTower, tokenizer: Tokenizer) -> Self:
        """Make a recognizer of random weights; see :meth:`StandaloneHead.build`."""
        types, overlap = about.get("types"), about.get("overlap")
        if not isinstance(types, list) or not isinstance(overlap, int):
            raise TypeError("no types and overlap")
        return cls(EntityHead(tower, len(bio_labels(types))), tokenizer, tuple(types), overlap)

    @property
    def room(self) -> int:
        """Tokens of a text in a window."""
        return self.tokenizer.context_length - len(self.tokenizer.frame([]))

    def windows(self, aligned: Aligned) -> list[Window]:
        """Cover a text's tokens."""
        return windows(len(aligned.ids), self.room, min(self.overlap, self.room - 1))

    def entities(self, texts: Sequence[str], batch_size: int = 64) -> list[list[Entity]]:
        """Find the entities of each text, in order.

        Texts of any length are read whole, by windows; a text without words has none.

        Args:
            texts: Texts to look in, any number.
            batch_size: Windows per forward pass; what is found doesn't depend on it.

        Raises:
            TypeError: If ``texts`` is one string, or holds something else than strings.
            ValueError: If ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"expected a batch_size of at least 1, got {batch_size}. Raise it.")
        texts = list(texts) if not isinstance(texts, str) else texts
        aligned = self.tokenizer.align(texts)
        labels = bio_labels(self.types)
        tags = [["O"] * len(each.ids) for each in aligned]
        scores = [[0.0] * len(each.ids) for each in aligned]
        for row, window, best, sure in self._read(aligned, batch_size):
            first, behind = window.owned
            inside = slice(first - window.start, behind - window.start)
            tags[row][first:behind] = [labels[at] for at in best[inside]]
            scores[row][first:behind] = sure[inside]
        return [
            gather(text, each.spans, of_text, probabilities)
            for text, each, of_text, probabilities in zip(texts, aligned, tags, scores, strict=True)
        ]

    @torch.inference_mode()
    def _read(
        self, aligned: Sequence[Aligned], batch_size: int
    ) -> Iterator[tuple[int, Window, list[int], list[float]]]:
        """Label all windows: row of the text, window, best label and its probability by token."""
        self.head.eval()
        device = self.head.out.weight.device
        todo = [
            (row, window)
            for row, each in enumerate(aligned)
            if each.ids
            for window in self.windows(each)
        ]
        lengths = [window.end - window.start for _, window in todo]
        before = self.tokenizer.frame([-1]).index(-1)
        for places in by_length(lengths, batch_size):
            batch = [todo[place] for place in places]
            rows = [
                self.tokenizer.frame(aligned[row].ids[window.start : window.end])
                for row, window in batch
            ]
            logits = self.head(self.tokenizer.pad(rows).to(device))["logits"].float()
            sure, best = logits.softmax(-1).max(-1)
            for at, (row, window) in enumerate(batch):
                inside = slice(before, before + window.end - window.start)
                yield row, window, best[at, inside].tolist(), sure[at, inside].tolist()
