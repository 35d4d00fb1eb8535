"""The batches of training: which pictures, which of their captions, as tensors."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from clip_text.data.lanes import Lanes
from clip_text.errors import DataError
from clip_text.features import Pixels
from clip_text.images import ImageError, ImageSource, load_image, load_square, squash
from clip_text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Source:
    """Pictures that are drawn together in every batch.

    Args:
        captions: Per picture, its captions by kind.
        views: Cached image inputs, float [pictures, ...], one array per view (the picture as it
            is, mirrored, cropped, drawn in another style). NaN rows are views a picture lacks.
            Or one :class:`Pictures`, which reads them when they are asked for.
        weights: How often a batch asks for each kind of caption.
        per_batch: Pictures in a batch.
        captions_per_image: Captions of each of them.
        max_length: Captions are cut to this many tokens while training.
        negatives: Per picture, captions that look right for it and are wrong; a batch gets one of
            them with the picture. Empty for none.
    """

    captions: Sequence[Mapping[str, Sequence[str]]]
    views: Sequence["NDArray[Any] | Pictures"]
    weights: Mapping[str, float]
    per_batch: int
    captions_per_image: int = 2
    max_length: int = 32
    negatives: Sequence[Sequence[str]] = ()

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
    """One picture of a batch: which view of it, which captions, which wrong ones."""

    source: int
    picture: int
    view: int
    captions: tuple[str, ...]
    max_length: int
    negatives: tuple[str, ...] = ()
    seed: int = 0
    """Of the picture's random crop."""


class Pictures:
    """Pictures read and squashed when they are asked for, randomly cropped in training.

    Args:
        images: The pictures.
        size: Side of the square in pixels.
        crop: Smallest share of a picture's area a crop shows, 1 for none. open_clip's own
            training crops to 0.9.
    """

    def __init__(self, images: Sequence[ImageSource], size: int, crop: float = 1.0) -> None:
        self.images, self.size, self.crop = images, size, crop

    def __len__(self) -> int:
        return len(self.images)

    def load(self, at: int, seed: int | None = None) -> Pixels:
        """Decode one, uint8 [size, size, 3]; with a seed, a random crop of it.

        Raises:
            DataError: If it cannot be read; the message says which.
        """
        source = self.images[at]
        cropped = seed is not None and self.crop < 1
        try:
            if not cropped:
                return load_square(source, self.size)
            image = load_image(source, min_size=self.size)
        except (OSError, ImageError) as error:
            name = source if isinstance(source, str | PathLike) else "it"
            raise DataError(
                f"expected picture {at} (from 0) to be readable, got of {name}: {error} "
                "Run: clip-text data check."
            ) from error
        return squash(random_crop(image, np.random.default_rng(seed), self.crop), self.size)


def random_crop(image: Image.Image, rng: np.random.Generator, smallest: float) -> Image.Image:
    """Cut out a random window of at least ``smallest`` of the area, of nearly the same shape."""
    area, ratio = rng.uniform(smallest, 1.0), rng.uniform(0.9, 1.1)
    width = min(image.width, max(1, round(image.width * (area * ratio) ** 0.5)))
    height = min(image.height, max(1, round(image.height * (area / ratio) ** 0.5)))
    x = int(rng.integers(image.width - width + 1))
    y = int(rng.integers(image.height - height + 1))
    return image.crop((x, y, x + width, y + height))


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
        seed: Seed of all draws; an equal seed gives equal draws.
        keep_apart: Pictures with a caption in common don't meet in a batch, as far as there are
            others to take; the losses know them for positives either way.
        lanes: Which of the first source's shards each part of a batch is drawn from; from all of
            them if None.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        seed: int = 0,
        *,
        keep_apart: bool = False,
        lanes: Lanes | None = None,
    ) -> None:
        self.sources, self.lanes = list(sources), lanes
        self.seed, self.keep_apart = seed, keep_apart
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
        present = np.stack([_present(view) for view in source.views])
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
        lanes = self.lanes.deal(rng) if self.lanes else []
        of_lanes: list[list[int]] = [[] for _ in lanes]
        for number in range(len(self)):
            batch: list[Draw] = []
            for at, source in enumerate(self.sources):
                if at == 0 and self.lanes:
                    pictures = self._of_lanes(number, lanes, of_lanes, rng)
                else:
                    while len(queues[at]) < source.per_batch:
                        queues[at] += rng.permutation(len(source.captions)).tolist()
                    chosen = self._choose(at, queues[at], source.per_batch, set())
                    pictures = _take(queues[at], chosen)
                batch += self._draws(at, pictures, rng)
            yield batch

    def _of_lanes(
        self,
        number: int,
        lanes: Sequence[Sequence[int]],
        queues: list[list[int]],
        rng: np.random.Generator,
    ) -> list[int]:
        """Take a batch's pictures of the first source, each part from its own lane's queue."""
        dealt, seen, found = cast(Lanes, self.lanes), set[str](), list[int]()
        for lane, wanted in dealt.of_batch(number, self.sources[0].per_batch):
            while len(queues[lane]) < wanted:
                again = dealt.pictures(lanes[lane], rng)
                if len(again) < wanted:
                    raise DataError(
                        f"expected {wanted} pictures or more in the shards of each lane, got "
                        f"{len(again)}. Lower the batch size, or deal to fewer ranks and workers."
                    )
                queues[lane] += again
            found += _take(queues[lane], self._choose(0, queues[lane], wanted, seen))
        return found

    def _choose(self, at: int, queue: list[int], wanted: int, seen: set[str]) -> list[int]:
        """Places in the queue of the next batch's pictures, ascending.

        A queue that has just started over may hold a picture twice: once is enough for a batch.
        """
        chosen, pictures = list[int](), set[int]()
        for place, picture in enumerate(queue):
            if picture in pictures:
                continue
            if self.keep_apart:
                texts = {text for texts in self._captions[at][picture].values() for text in texts}
                if texts & seen:
                    continue
                seen |= texts
            chosen.append(place)
            pictures.add(picture)
            if len(chosen) == wanted:
                return chosen
        # too few are left that go together: the batch takes clashing ones, as the loss can
        for place, picture in enumerate(queue):
            if len(chosen) < wanted and picture not in pictures:
                chosen.append(place)
                pictures.add(picture)
        return sorted(chosen)

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
            wrong = source.negatives[picture] if source.negatives else ()
            yield Draw(
                at,
                picture,
                view,
                chosen,
                source.max_length,
                (wrong[int(rng.integers(len(wrong)))],) if wrong else (),
                int(rng.integers(2**31)),
            )


def _take(queue: list[int], places: list[int]) -> list[int]:
    """Take what is at some places, ascending, out of a queue."""
    taken = [queue[place] for place in places]
    # once for all: to delete one after the other moves the whole queue every time
    chosen, end = set(places), places[-1] + 1
    queue[:end] = [queue[place] for place in range(end) if place not in chosen]
    return taken


def _present(view: "NDArray[Any] | Pictures") -> NDArray[np.bool_]:
    if isinstance(view, Pictures):
        return np.ones(len(view), bool)
    present: NDArray[np.bool_] = ~np.isnan(view.reshape(len(view), -1)[:, 0])
    return present


class Collator:
    """Turns draws into the tensors of one training step.

    Args:
        sources: The sampler's sources.
        tokenizer: Tokenizer that reads the captions.
        teacher: Rows a text encoder should also learn to point at, by caption; may be empty.
        teacher_dim: Width of the teacher's rows.
        part: Which part of every batch is this process's, of how many: its pictures and tokens
            only are looked up.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        tokenizer: Tokenizer,
        teacher: Mapping[str, NDArray[np.floating[Any]]] | None = None,
        teacher_dim: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.sources = list(sources)
        self._tokenizer = tokenizer  # the Trainer saves a public one, in its own format
        self.teacher = teacher or {}
        self.teacher_dim, self.part = teacher_dim, part
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
            ``tokens`` int64 [texts, length] and ``images`` [images, ...], float32 or as uint8
            pixels, of this part; ``positives`` bool [texts, images] of the whole batch; with a
            teacher also ``teacher`` float32 [texts, teacher_dim] of the whole batch, zero rows
            where it is silent.
        """
        part, parts = self.part
        first, end = (len(draws) * at // parts for at in (part, part + 1))
        texts: list[str] = []
        own: list[tuple[str, int]] = []
        positives: list[list[int]] = []
        column = {(draw.source, draw.picture): at for at, draw in enumerate(draws)}
        for at, draw in enumerate(draws):
            for text in (*draw.captions, *draw.negatives):
                owners = self._owners[draw.source].get(text, ())
                also = (column.get((draw.source, picture)) for picture in owners)
                positives.append([c for c in also if c is not None])
                texts.append(text)
                if first <= at < end:
                    own.append((text, draw.max_length))
        mask = torch.zeros(len(texts), len(draws), dtype=torch.bool)
        for row, columns in enumerate(positives):
            mask[row, columns] = True
        images = np.stack([self._image(draw) for draw in draws[first:end]])
        if images.dtype != np.uint8:
            images = images.astype(np.float32, copy=False)
        batch = {
            "tokens": self._tokens(own),
            "images": torch.from_numpy(images),
            "positives": mask,
        }
        if self.teacher_dim:
            silent = np.zeros(self.teacher_dim, np.float32)
            rows = [self.teacher.get(text, silent) for text in texts]
            batch["teacher"] = torch.from_numpy(np.stack(rows).astype(np.float32, copy=False))
        return batch

    def _image(self, draw: Draw) -> NDArray[Any]:
        view = self.sources[draw.source].views[draw.view]
        if isinstance(view, Pictures):
            return view.load(draw.picture, draw.seed)
        return cast(NDArray[Any], view[draw.picture])

    def _tokens(self, texts: Sequence[tuple[str, int]]) -> Tensor:
        rows = self._tokenizer.token_ids([text for text, _ in texts])
        cut = [
            row if len(row) <= longest else [*row[: longest - 1], row[-1]]
            for row, (_, longest) in zip(rows, texts, strict=True)
        ]
        return self._tokenizer.pad(cut)
