"""What a new text tower learns from: sentences beside the teacher's rows, and batches of them."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from clip_text.data.length_grouped import LengthGrouped, Places
from clip_text.errors import DataError
from clip_text.tokenizer import Tokenizer

Rows = NDArray[np.float32]
Lesson = tuple[list[int], Rows]


class Lessons(Dataset[Lesson]):
    """Token ids of a sentence, and the teacher's row of what it means.

    Args:
        tokenizer: Tokenizer that reads the sentences.
        by_language: Sentences to read, by language.
        rows: What to say of them, [n, width]: the row at a place is for the sentence at that
            place, in every language. A row of zeros says nothing.

    Raises:
        DataError: If there are no sentences, not as many as rows, or rows that are broken.
    """

    def __init__(
        self, tokenizer: Tokenizer, by_language: Mapping[str, Sequence[str]], rows: Rows
    ) -> None:
        check_rows(rows)
        self.tokenizer, self.rows = tokenizer, rows
        self.token_ids: list[list[int]] = []
        self.places: dict[str, range] = {}
        for language, texts in by_language.items():
            if len(texts) != len(rows):
                raise DataError(
                    f"expected a sentence in {language} for each of {len(rows)} rows of the "
                    f"teacher, got {len(texts)}. Pair them."
                )
            start = len(self.token_ids)
            self.token_ids += tokenizer.token_ids(texts)
            self.places[language] = range(start, len(self.token_ids))
        if not self.token_ids:
            raise DataError("expected sentences to learn from, got none. Check the file.")

    def __len__(self) -> int:
        return len(self.token_ids)

    def __getitem__(self, at: int) -> Lesson:
        return self.token_ids[at], self.rows[at % len(self.rows)]

    def collate(self, lessons: Sequence[Lesson]) -> dict[str, Tensor]:
        """Stack lessons, padded to the longest: tokens [n, length], teacher [n, width]."""
        tokens = self.tokenizer.pad([token_ids for token_ids, _ in lessons])
        return {
            "tokens": tokens,
            "teacher": torch.from_numpy(np.stack([row for _, row in lessons])),
        }


def check_rows(rows: Rows) -> None:
    """Refuse rows, [n, width], that nothing can be learnt from.

    Raises:
        DataError: If they have no width, or one is not finite.
    """
    if rows.ndim != 2 or rows.shape[1] < 1:
        raise DataError(
            f"expected the teacher's rows as [n, width], got {list(rows.shape)}. "
            "Use a teacher that gives sentence vectors."
        )
    broken = np.flatnonzero(~np.isfinite(rows).all(1))
    if len(broken):
        raise DataError(
            f"expected finite rows of the teacher, got NaN or infinity in {len(broken)} of "
            f"{len(rows)}, the first at {broken[0]}. Set them to zero: it is silent there."
        )


def draw_languages(
    lessons: Lessons, batch_size: int, weights: Mapping[str, float] | None = None, seed: int = 0
) -> LengthGrouped:
    """Draw batches of sentences of like length, each language as often as it is asked for.

    Args:
        lessons: Lessons to draw from, in several languages.
        batch_size: Sentences in a batch; a rest too small for one waits for another epoch.
        weights: How often to draw each language; each sentence once an epoch if not given.
        seed: Seed of all draws; an equal seed gives equal draws.

    Raises:
        ValueError: If the weights are not of the languages of the lessons, or not above zero.
    """
    places = list(lessons.places.values())
    counts = [len(each) for each in places]
    if weights is not None:
        if weights.keys() != lessons.places.keys() or min(weights.values()) <= 0:
            raise ValueError(
                f"expected a weight above 0 for each of {', '.join(lessons.places)}, got "
                f"{dict(weights)}. Correct the weights."
            )
        shares = [weights[name] / sum(weights.values()) for name in lessons.places]
        counts = [max(1, round(share * len(lessons))) for share in shares]

    def draw(rng: np.random.Generator) -> Places:
        drawn = []
        for of_language, count in zip(places, counts, strict=True):
            passes = -(-count // len(of_language))
            order = np.concatenate([rng.permutation(len(of_language)) for _ in range(passes)])
            drawn.append(of_language.start + order[:count])
        return np.concatenate(drawn)

    lengths = [len(token_ids) for token_ids in lessons.token_ids]
    return LengthGrouped(lengths, batch_size, seed, draw, drop_last=True)
