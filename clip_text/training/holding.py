"""What keeps retrieval as it is while a text tower learns to classify, and says whether it was.

With pictures: the contrastive loss, on pictures with captions. Their vectors stay as they are (the
image tower does not learn), so an index stays valid. Without: the tower's rows of the texts it
learns from are held to those the original gave (distillation from itself).
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clip_text.data.collection import RetrievalSet
from clip_text.data.duplicates import merge_wordings
from clip_text.encoder import Encoder
from clip_text.evaluation import retrieval
from clip_text.evaluation.measure import Encoded, measure
from clip_text.losses import cosine_distillation, multi_positive_contrastive
from clip_text.tokenizer import Tokenizer
from clip_text.towers import TextTower

Rows = NDArray[np.float32]

KS = (1, 5, 10)

PICTURE_WEIGHT, ROW_WEIGHT = 1.0, 20.0
"""Of the two losses beside the cross-entropy, where none is given: see docs/heads.md."""


class Hold(Protocol):
    """A loss beside the classifier's."""

    def batch(self, at: Sequence[int]) -> dict[str, Tensor]:
        """What the loss needs beside the texts at these places."""

    def loss(self, tower: TextTower, rows: Tensor, held: Mapping[str, Tensor]) -> Tensor:
        """Compute it, a scalar.

        Args:
            tower: Text tower as training has made it so far.
            rows: What it gives for the texts, [n, embed_dim], not normalised.
            held: What :meth:`batch` gave for the same texts.
        """


class HoldRows:
    """Holds the rows of the training texts to what the original tower gave.

    Args:
        rows: Rows the original tower gave for the texts, [n, embed_dim].
        weight: Weight of this loss, 1 - cosine, beside the task's own.
    """

    def __init__(self, rows: Rows, weight: float = ROW_WEIGHT) -> None:
        self.rows, self.weight = rows, weight

    def batch(self, at: Sequence[int]) -> dict[str, Tensor]:
        """The original rows, [n, embed_dim]."""
        return {"original": torch.from_numpy(self.rows[list(at)])}

    def loss(self, tower: TextTower, rows: Tensor, held: Mapping[str, Tensor]) -> Tensor:
        """Mean of 1 - cosine of rows [n, embed_dim] to the original ones."""
        del tower
        return self.weight * cosine_distillation(rows.float(), held["original"])


class HoldPictures:
    """Contrasts captions with the vectors of their pictures.

    Args:
        pictures: Data set of pictures with captions.
        rows: The pictures' unit rows, [images, embed_dim].
        tokenizer: Tokenizer that reads the captions.
        scale: The pair's factor on cosines; it does not learn.
        seed: Seed of the draws; an equal seed gives equal draws.
        weight: Weight of this loss beside the task's own.
        batch_size: Pictures in a step; all if there are fewer.
    """

    def __init__(
        self,
        pictures: RetrievalSet,
        rows: Rows,
        tokenizer: Tokenizer,
        scale: float,
        *,
        seed: int = 0,
        weight: float = PICTURE_WEIGHT,
        batch_size: int = 64,
    ) -> None:
        self.rows, self.tokenizer, self.scale = rows, tokenizer, scale
        self.seed, self.weight = seed, weight
        self.size = min(batch_size, len(rows))
        self.token_ids = tokenizer.token_ids([text.text for text in pictures.texts])
        # what is worded the same is right, but a picture's own captions are what is drawn
        self.answers = [set(answer) for answer in merge_wordings(pictures).answers]
        self.texts_of = pictures.texts_of
        self.described = np.array([at for at, texts in enumerate(self.texts_of) if texts])
        self.size = min(self.size, len(self.described))

    def batch(self, at: Sequence[int]) -> dict[str, Tensor]:
        """Captions [m, length], picture rows [m, embed_dim], and which describes which, [m, m].

        The draw depends on the seed and on which texts meet in the batch, nothing else: a resumed
        run draws the same.
        """
        rng = np.random.default_rng([self.seed, *at[:8]])
        images = rng.choice(self.described, self.size, replace=False).tolist()
        texts = [int(rng.choice(self.texts_of[image])) for image in images]
        positives = [[image in self.answers[text] for image in images] for text in texts]
        return {
            "captions": self.tokenizer.pad([self.token_ids[text] for text in texts]),
            "pictures": torch.from_numpy(self.rows[images]),
            "positives": torch.tensor(positives),
        }

    def loss(self, tower: TextTower, rows: Tensor, held: Mapping[str, Tensor]) -> Tensor:
        """CLIP's loss over what :meth:`batch` gave, a scalar; rows [n, embed_dim] are not used."""
        del rows
        scale = torch.tensor(self.scale, device=held["pictures"].device)
        captions = tower(held["captions"])
        return self.weight * multi_positive_contrastive(
            captions, held["pictures"], held["positives"], scale
        )


class Recall:
    """Measures whether retrieval stays: before training, and the same after.

    On pictures, where there are some; a caption worded as a right one is right. Else texts look
    for their own rows of before: how often the right one is the nearest, and the mean cosine to it.

    Args:
        encoder: Whose text tower is trained in place.
        texts: Validation texts, to look for their rows.
        pictures: With captions, and their unit rows, [images, embed_dim].
    """

    def __init__(
        self, encoder: Encoder, texts: Sequence[str], pictures: tuple[RetrievalSet, Rows] | None
    ) -> None:
        self.encoder, self.texts, self.pictures = encoder, texts, pictures
        if pictures is not None:
            self.pictures = (merge_wordings(pictures[0]), pictures[1])
        self._original: Rows | None = None

    def measure(self) -> dict[str, float]:
        """Measure the text tower as it is now; figures by name, recall in [0, 1]."""
        self.encoder.model.eval()
        if self.pictures is not None:
            pictures, images = self.pictures
            rows = self.encoder.encode_text([text.text for text in pictures.texts])
            return measure(pictures, Encoded(rows, images, []), KS).recalls()
        rows = self.encoder.encode_text(self.texts)
        if self._original is None:
            self._original = rows
        places: dict[str, list[int]] = {}
        for at, text in enumerate(self.texts):
            places.setdefault(text, []).append(at)
        answers = [places[text] for text in self.texts]
        recall = retrieval(rows, self._original, answers, (1,)).recall[1]
        return {
            "own_row_recall@1": float(recall),
            "own_row_cosine": float((rows * self._original).sum(1).mean()),
        }
