"""The batches of training: which pictures, which of their captions, as tensors."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from clip_text.errors import DataError
from clip_text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Source:
    """Pictures that are drawn together in every batch.

    Args:
        captions: Per picture, its captions by kind.
        views: Cached image inputs, float [pictures, ...], one array per view (the picture as it
            is, mirrored, cropped, drawn in another style). NaN rows are views a picture lacks.
        weights: How often a batch asks for each kind of caption.
        per_batch: Pictures in a batch.
        captions_per_image: Captions of each of them.
        max_length: Captions are cut to this many tokens while training.
    """

    captions: Sequence[Mapping[str, Sequence[str]]]
    views: Sequence[NDArray[Any]]
    weights: Mapping[str, float]
    per_batch: int
    captions_per_image: int = 2
    max_length: int = 32

    def __post_init__(self) -> None:
        sizes = {len(view) for view in self.views}
        if sizes != {len(self.captions)}:
            raise DataError(
                f"expected {len(self.captions)} pictures in every view, got {sorted(sizes)}. "
                "Compute the features of this very list of pictures."
            )
        mute = sum(not any(captions.values()) for captions in self.captions)
        if mute:
            raise DataError(
                f"expected a caption for every picture, got {mute} pictures without. Drop them."
            )
        if self.per_batch > len(self.captions):
            raise DataError(
                f"expected at most {len(self.captions)} pictures in a batch (all there are), "
                f"got {self.per_batch}. Lower the batch size."
            )


@dataclass(frozen=True, slots=True)
class Draw:
    """One picture of a batch: which view of it, and which captions."""

    source: int
    picture: int
    view: int
    captions: tuple[str, ...]
    max_length: int


class DrawDataset(Dataset[Draw]):
    """Looks up nothing: the sampler already says everything. DataLoader wants a dataset."""

    def __init__(self, sampler: "MixtureBatchSampler") -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler) * sum(source.per_batch for source in self.sampler.sources)

    def __getitem__(self, draw: Draw) -> Draw:
        return draw


class MixtureBatchSampler(Sampler[list[Draw]]):
    """Batches with a fixed number of pictures from each source.

    One epoch shows every picture of the first source once, but for a rest too small for a batch;
    another source starts over, in another order, whenever it is through. All captions of a
    batch's source are of one kind and of about the same length rank within their picture, so
    padding stays small: on two CPU cores that is most of the speed.

    Everything drawn depends on (seed, epoch) alone, so a resumed run draws what the
    uninterrupted one would have.

    Args:
        sources: What to draw from; the first sets the length of an epoch.
        seed: Of all draws.
    """

    def __init__(self, sources: Sequence[Source], seed: int = 0) -> None:
        self.sources = list(sources)
        self.seed = seed
        self.epoch = 0
        self._captions = [
            [self._by_length(captions) for captions in source.captions] for source in self.sources
        ]
        self._views = [self._usable_views(source) for source in self.sources]

    @staticmethod
    def _by_length(captions: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        # in characters: they rank the captions of one language as tokens do, at no cost; and
        # among equals by the text itself, as a set's own order is another in every process
        return {
            kind: sorted(set(texts), key=lambda text: (len(text), text))
            for kind, texts in captions.items()
            if texts
        }

    @staticmethod
    def _usable_views(source: Source) -> list[list[int]]:
        present = np.stack([~np.isnan(view.reshape(len(view), -1)[:, 0]) for view in source.views])
        usable = [np.flatnonzero(column).tolist() for column in present.T]
        without = sum(not views for views in usable)
        if without:
            raise DataError(
                f"expected at least one view of every picture, got {without} pictures without. "
                "Drop them."
            )
        return usable

    def set_epoch(self, epoch: int) -> None:
        """Choose which epoch the next iteration draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sources[0].captions) // self.sources[0].per_batch

    def __iter__(self) -> Iterator[list[Draw]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        queues: list[list[int]] = [[] for _ in self.sources]
        for _ in range(len(self)):
            batch: list[Draw] = []
            for at, source in enumerate(self.sources):
                while len(queues[at]) < source.per_batch:
                    queues[at] += rng.permutation(len(source.captions)).tolist()
                pictures = list(dict.fromkeys(queues[at][: source.per_batch]))
                del queues[at][: source.per_batch]
                batch += self._draws(at, pictures, rng)
            yield batch

    def _draws(self, at: int, pictures: list[int], rng: np.random.Generator) -> Iterator[Draw]:
        source = self.sources[at]
        kinds = list(source.weights)
        weights = np.array([source.weights[kind] for kind in kinds])
        kind = kinds[rng.choice(len(kinds), p=weights / weights.sum())]
        length_rank = rng.random()
        for picture in pictures:
            by_kind = self._captions[at][picture]
            texts = by_kind.get(kind) or by_kind[next(iter(by_kind))]
            number = min(source.captions_per_image, len(texts))
            first = int(length_rank * (len(texts) - number + 1))
            views = self._views[at][picture]
            view = views[rng.integers(len(views))]
            chosen = tuple(texts[first : first + number])
            yield Draw(at, picture, view, chosen, source.max_length)


class Collator:
    """Turns draws into the tensors of one training step.

    Args:
        sources: The sampler's sources.
        tokenizer: For the captions.
        teacher: Rows a text encoder should also learn to point at, by caption; may be empty.
        teacher_dim: Width of those rows.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        tokenizer: Tokenizer,
        teacher: Mapping[str, NDArray[np.floating[Any]]] | None = None,
        teacher_dim: int = 0,
    ) -> None:
        self.sources = list(sources)
        self._tokenizer = tokenizer  # the Trainer saves a public one, in its own format
        self.teacher = teacher or {}
        self.teacher_dim = teacher_dim
        # A text may be right for pictures that did not bring it into the batch themselves.
        self._owners: list[defaultdict[str, set[int]]] = []
        for source in self.sources:
            owners: defaultdict[str, set[int]] = defaultdict(set)
            for picture, by_kind in enumerate(source.captions):
                for texts in by_kind.values():
                    for text in texts:
                        owners[text].add(picture)
            self._owners.append(owners)

    def __call__(self, draws: Sequence[Draw]) -> dict[str, Tensor]:
        """Collate one batch.

        Returns:
            ``tokens`` int64 [texts, length]; ``images`` float32 [images, ...]; ``positives``
            bool [texts, images]; with a teacher also ``teacher`` float32 [texts, teacher_dim],
            zero rows where it is silent.
        """
        texts: list[tuple[str, int]] = []
        positives: list[list[int]] = []
        column = {(draw.source, draw.picture): at for at, draw in enumerate(draws)}
        for at, draw in enumerate(draws):
            for text in draw.captions:
                owners = self._owners[draw.source][text]
                texts.append((text, draw.max_length))
                also = (column.get((draw.source, picture)) for picture in owners)
                positives.append([at, *(c for c in also if c is not None)])
        mask = torch.zeros(len(texts), len(draws), dtype=torch.bool)
        for row, columns in enumerate(positives):
            mask[row, columns] = True
        images = np.stack([self.sources[d.source].views[d.view][d.picture] for d in draws])
        batch = {
            "tokens": self._tokens(texts),
            "images": torch.from_numpy(images.astype(np.float32, copy=False)),
            "positives": mask,
        }
        if self.teacher_dim:
            silent = np.zeros(self.teacher_dim, np.float32)
            rows = [self.teacher.get(text, silent) for text, _ in texts]
            batch["teacher"] = torch.from_numpy(np.stack(rows).astype(np.float32, copy=False))
        return batch

    def _tokens(self, texts: Sequence[tuple[str, int]]) -> Tensor:
        rows = self._tokenizer.token_ids([text for text, _ in texts])
        cut = [
            row if len(row) <= longest else [*row[: longest - 1], row[-1]]
            for row, (_, longest) in zip(rows, texts, strict=True)
        ]
        return self._tokenizer.pad(cut)
