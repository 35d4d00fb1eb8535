"""Training of the head for answers: windows of passages, and the threshold of "no answer"."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import TrainerCallback

from clip_text.data.length_grouped import LengthGrouped, Places
from clip_text.data.questions import Question
from clip_text.errors import DataError
from clip_text.evaluation.cmrc import AnswerScores, f1, score_answers
from clip_text.heads.answers import Answer, AnswerFinder
from clip_text.heads.pair_frame import PairFrame, pad_kinds
from clip_text.tokenizer import Aligned
from clip_text.training.heads_tokens import (
    Example,
    Examples,
    HeadRecipe,
    HeadTrainer,
)

NEGATIVES = 2
"""Windows without the answer that an epoch shows of each question, drawn anew every time."""


@dataclass(frozen=True, slots=True)
class Lessons:
    """What the head learns from.

    Args:
        examples: Ids, token types, and the answer's first and last token of each window; 0, 0
            where it has none. A window with a part of the answer is none of them.
        positives: Which of them hold an answer.
        negatives: Which do not, by question.
        too_long: Questions whose answer fits in no window.
        lost: Questions whose answer is not in the passage; nothing is learnt from them.
    """

    examples: Examples
    positives: list[int]
    negatives: list[list[int]]
    too_long: int
    lost: int

    def draw(self, rng: np.random.Generator) -> Places:
        """Choose all windows with an answer, and some without for each question."""
        some = [rng.permutation(each)[:NEGATIVES] for each in self.negatives if each]
        return np.concatenate([np.array(self.positives, np.int64), *some])


def token_span(aligned: Aligned, start: int, end: int) -> tuple[int, int] | None:
    """Find first and last token of some characters, None where no token stands for them."""
    at = [i for i, (one, behind) in enumerate(aligned.spans) if one < end and behind > start]
    return (at[0], at[-1]) if at else None


def answer_lessons(finder: AnswerFinder, questions: Sequence[Question]) -> Lessons:
    """Cut passages into windows, with the first answer of each question.

    Raises:
        DataError: If there is no window with an answer.
    """
    tokenizer, frame = finder.tokenizer, PairFrame.of(finder.tokenizer)
    passages = list(dict.fromkeys(question.passage for question in questions))
    read = dict(zip(passages, tokenizer.align(passages), strict=True))
    asked = tokenizer.align([question.question for question in questions])
    rows: list[Example] = []
    positives: list[int] = []
    negatives: list[list[int]] = []
    too_long = lost = 0
    for question, words in zip(questions, asked, strict=True):
        passage, ids = read[question.passage], finder.question_ids(words)
        span = None
        if question.answers:
            start = question.starts[0]
            span = token_span(passage, start, start + len(question.answers[0]))
            if start < 0 or span is None:
                lost += 1
                continue
        held, without = 0, []
        offset = len(frame.before) + len(ids) + len(frame.between)
        for window in finder.windows(frame, ids, passage) if passage.ids and ids else ():
            pair = frame.pair(ids, passage.ids[window.start : window.end])
            if span is None or span[1] < window.start or span[0] >= window.end:
                without.append(len(rows))
                rows.append((*pair, [0, 0]))
            elif window.start <= span[0] and span[1] < window.end:
                held += 1
                positives.append(len(rows))
                rows.append((*pair, [offset + at - window.start for at in span]))
        negatives.append(without)
        too_long += span is not None and not held
    if not positives:
        raise DataError(
            "expected a question whose answer fits in a window to learn from, got none. Check the "
            "file, or give a longer context."
        )

    def collate(batch: Sequence[Example]) -> dict[str, Tensor]:
        tokens = tokenizer.pad([each[0] for each in batch])
        kinds = pad_kinds([each[1] for each in batch], tokens)
        return {"tokens": tokens, "kinds": kinds, "spans": torch.tensor([e[2] for e in batch])}

    return Lessons(Examples(rows, collate), positives, negatives, too_long, lost)


def find_best(finder: AnswerFinder, questions: Sequence[Question]) -> list[Answer | None]:
    """Find the best span for each question, before any threshold."""
    return finder.best(
        [question.question for question in questions], [question.passage for question in questions]
    )


def fit_threshold(
    questions: Sequence[Question], best: Sequence[Answer | None]
) -> tuple[float | None, AnswerScores]:
    """Choose the score from which on an answer is given, by F1 over all questions.

    Returns:
        The threshold, None where always answering is best; and the scores with it.

    Source:
        ``find_best_thresh`` of SQuAD 2.0's evaluation (Rajpurkar et al. 2018, arXiv:1806.03822).
    """
    given = [
        (one.score, f1(question.answers, one.text) - (not question.answers), at)
        for at, (question, one) in enumerate(zip(questions, best, strict=True))
        if one is not None
    ]
    given.sort(reverse=True)
    scores = [score for score, _, _ in given]
    # with the first k answered and the rest not, against none answered
    gains = np.concatenate([[0.0], np.cumsum([gain for _, gain, _ in given])])
    apart = [k for k in range(len(given) + 1) if k in (0, len(given)) or scores[k - 1] > scores[k]]
    k = max(apart, key=lambda at: (gains[at], at))
    threshold: float | None = None
    if k < len(given):
        threshold = scores[0] + 1.0 if k == 0 else (scores[k - 1] + scores[k]) / 2
    kept = [
        "" if one is None or (threshold is not None and one.score < threshold) else one.text
        for one in best
    ]
    return threshold, score_answers([question.answers for question in questions], kept)


def answer_trainer(
    finder: AnswerFinder,
    lessons: Lessons,
    validation: Sequence[Question],
    recipe: HeadRecipe,
    folder: Path,
    *,
    callbacks: Sequence[TrainerCallback] = (),
) -> HeadTrainer:
    """Make what trains a finder's head and backbone by F1 on validation questions."""

    def validate() -> dict[str, float]:
        _, scores = fit_threshold(validation, find_best(finder, validation))
        return {"f1": scores.f1, "em": scores.em}

    lengths = [len(row[0]) for row in lessons.examples.rows]
    return HeadTrainer(
        finder.head,
        lessons.examples,
        LengthGrouped(lengths, recipe.batch_size, recipe.seed, lessons.draw),
        recipe,
        folder,
        validate=validate,
        best_by="f1",
        callbacks=callbacks,
    )
