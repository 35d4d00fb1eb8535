"""Extractive question answering: the part of a passage that answers a question, or none.

question + window of the passage → backbone → linear → logits of start and end for each token

A long passage is read by overlapping windows. In each the first token, [CLS], stands for "no answer
here", and a span scores by how far its two logits lie above those of [CLS] (Devlin et al. 2019,
section 4.3, arXiv:1810.04805): so spans of different windows compare (Clark & Gardner 2018,
arXiv:1710.10723, on why raw logits don't). The best one is the answer, if its score reaches the
threshold that validation chose.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from clip_text.heads.pair_frame import PairFrame, pad_kinds
from clip_text.heads.standalone import StandaloneHead
from clip_text.heads.token_heads import TokenHead
from clip_text.heads.windows import Window, windows
from clip_text.lengths import by_length
from clip_text.tokenizer import Aligned, Tokenizer
from clip_text.towers import TextTower

QUESTION_SHARE = 3
"""A question gets at most a third of the context; the rest of it is cut."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A part of a passage.

    Args:
        start: Position of its first character in the passage.
        end: The character behind its last.
        text: The answer's own characters.
        score: Log-odds against "no answer here", in nats, not calibrated.
    """

    start: int
    end: int
    text: str
    score: float


class AnswerHead(TokenHead):
    """Logits of start and end for each token; with spans given, :meth:`forward` adds the loss."""

    def forward(
        self, tokens: Tensor, kinds: Tensor, spans: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Run backbone and head.

        Args:
            tokens: Token ids of question and passage, [n, length].
            kinds: Token types, [n, length].
            spans: First and last token of the answer, [n, 2]; 0, 0 where a window has none.

        Returns:
            ``logits`` [n, length, 2], and ``loss``: the mean of both ends' cross-entropy over the
            tokens that are no padding.
        """
        logits = self.logits(tokens, kinds)
        if spans is None:
            return {"logits": logits}
        padding = (tokens == self.tower.pad_id).unsqueeze(-1)
        # the first token stays, whatever its id
        padding = padding & (torch.arange(tokens.shape[1], device=tokens.device) > 0)[:, None]
        masked = logits.float().masked_fill(padding, -1e4)
        return {"logits": logits, "loss": cross_entropy(masked, spans)}


@dataclass(frozen=True, slots=True)
class AnswerFinder(StandaloneHead[AnswerHead]):
    """A head with all that it takes to find answers.

    Args:
        head: Backbone and head.
        tokenizer: Its context_length is that of question and window together.
        overlap: Tokens that neighbouring windows share; half of a window at most.
        longest: Tokens in an answer, at most.
        threshold: Score below which there is no answer; None always gives the best.
    """

    task: ClassVar[str] = "answers"

    overlap: int = 128
    longest: int = 64
    threshold: float | None = None

    def about(self) -> dict[str, Any]:
        """Say what it takes to build the head, but for task, backbone and context: JSON."""
        return {
            "overlap": self.overlap,
            "longest": self.longest,
            "threshold": self.threshold,
        }

    @classmethod
    def build(cls, about: Mapping[str, Any], tower: TextTower, tokenizer: Tokenizer) -> Self:
        """Make a finder of random weights; see :meth:`StandaloneHead.build`."""
        overlap, longest = about.get("overlap"), about.get("longest")
        threshold = about.get("threshold")
        if not isinstance(overlap, int) or not isinstance(longest, int):
            raise TypeError("no whole overlap and longest")
        if not isinstance(threshold, float | None):
            raise TypeError("no threshold")
        return cls(AnswerHead(tower, 2), tokenizer, overlap, longest, threshold)

    def question_ids(self, aligned: Aligned) -> list[int]:
        """Give the tokens of a question, cut to their share of the context."""
        return aligned.ids[: self.tokenizer.context_length // QUESTION_SHARE]

    def windows(self, frame: PairFrame, question: Sequence[int], passage: Aligned) -> list[Window]:
        """Cover the tokens of a passage."""
        room = self.tokenizer.context_length - len(frame) - len(question)
        return windows(len(passage.ids), room, min(self.overlap, room // 2))

    def answer(self, question: str, passage: str) -> Answer | None:
        """Find the answer to a question, None if there is none; see :meth:`answers`."""
        return self.answers([question], [passage])[0]

    def answers(
        self, questions: Sequence[str], passages: Sequence[str], batch_size: int = 64
    ) -> list[Answer | None]:
        """Find the answer to each question in its passage.

        A passage of any length is read whole. A passage or a question without words has none.

        Args:
            questions: Questions to answer, any number.
            passages: Passage to look in, one for each question.
            batch_size: Windows per forward pass; the answers don't depend on it.

        Raises:
            TypeError: If one of them is one string, or holds something else than strings.
            ValueError: If there are not as many passages, or ``batch_size`` is below 1.
        """
        best = self.best(questions, passages, batch_size)
        if self.threshold is None:
            return best
        return [None if one is None or one.score < self.threshold else one for one in best]

    def best(
        self, questions: Sequence[str], passages: Sequence[str], batch_size: int = 64
    ) -> list[Answer | None]:
        """Find the best span for each question, whatever its score; None where there are no words.

        Raises:
            TypeError: As :meth:`answers`.
            ValueError: As :meth:`answers`.
        """
        if batch_size < 1:
            raise ValueError(f"expected a batch_size of at least 1, got {batch_size}. Raise it.")
        asked, read = self.tokenizer.align(questions), self.tokenizer.align(passages)
        if len(asked) != len(read):
            raise ValueError(
                f"expected a passage for each of {len(asked)} questions, got {len(read)}. Pair "
                "them."
            )
        found: list[Answer | None] = [None] * len(asked)
        for row, first, last, score in self._spans(asked, read, batch_size):
            before = found[row]
            start, end = read[row].spans[first][0], read[row].spans[last][1]
            key = (score, -start)  # of equal ones the first in the passage
            if before is None or key > (before.score, -before.start):
                found[row] = Answer(start, end, passages[row][start:end], score)
        return found

    @torch.inference_mode()
    def _spans(
        self, asked: Sequence[Aligned], read: Sequence[Aligned], batch_size: int
    ) -> Iterator[tuple[int, int, int, float]]:
        """Give the best span of every window: row, first and last token of the passage, score."""
        self.head.eval()
        device, frame = self.head.out.weight.device, PairFrame.of(self.tokenizer)
        todo = [
            (row, ids, window)
            for row, (question, passage) in enumerate(zip(asked, read, strict=True))
            if question.ids and passage.ids
            for ids in [self.question_ids(question)]
            for window in self.windows(frame, ids, passage)
        ]
        lengths = [len(ids) + window.end - window.start for _, ids, window in todo]
        for places in by_length(lengths, batch_size):
            batch = [todo[place] for place in places]
            pairs = [frame.pair(ids, read[row].ids[w.start : w.end]) for row, ids, w in batch]
            tokens = self.tokenizer.pad([ids for ids, _ in pairs]).to(device)
            kinds = pad_kinds([kinds for _, kinds in pairs], tokens)
            logits = self.head(tokens, kinds)["logits"].float()
            first = [len(frame.before) + len(ids) + len(frame.between) for _, ids, _ in batch]
            sizes = [window.end - window.start for _, _, window in batch]
            for (row, _, window), at, span in zip(
                batch, first, best_spans(logits, first, sizes, self.longest), strict=True
            ):
                begin, end, score = span
                yield row, window.start + begin - at, window.start + end - at, score

    def with_threshold(self, threshold: float | None) -> "AnswerFinder":
        """Give the same finder with another threshold."""
        return replace(self, threshold=threshold)


def best_spans(
    logits: Tensor, first: Sequence[int], sizes: Sequence[int], longest: int
) -> list[tuple[int, int, float]]:
    """Find the span of each window whose two logits lie highest above those of the first token.

    Args:
        logits: Logits of a token to begin and to end the answer, [n, length, 2].
        first: Where each window's passage begins.
        sizes: Its tokens, at least one.
        longest: Tokens in a span, at most.

    Returns:
        First token, last token, and score of each.
    """
    places = torch.arange(logits.shape[1], device=logits.device)
    begin = torch.tensor(first, device=logits.device)[:, None]
    end = begin + torch.tensor(sizes, device=logits.device)[:, None]
    inside = (places >= begin) & (places < end)
    starts, ends = (logits[..., at].masked_fill(~inside, -torch.inf) for at in (0, 1))
    length = places[None, :] - places[:, None]
    band = (length >= 0) & (length < longest)
    sums = (starts[:, :, None] + ends[:, None, :]).masked_fill(~band, -torch.inf).flatten(1)
    best, at = sums.max(1)
    scores = (best - logits[:, 0].sum(-1)).tolist()
    width = logits.shape[1]
    return [
        (one // width, one % width, score) for one, score in zip(at.tolist(), scores, strict=True)
    ]
