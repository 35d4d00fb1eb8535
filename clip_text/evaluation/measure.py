"""From an encoder and a data set to figures in both directions, with intervals."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from clip_text.data.collection import RetrievalSet
from clip_text.errors import DataError
from clip_text.evaluation.ranking import Features, PerQuery, Retrieval, retrieval
from clip_text.evaluation.statistics import Comparison, Interval, compare, groups_of, interval
from clip_text.features import ahead
from clip_text.images import ImageSource
from clip_text.lengths import by_length
from clip_text.progress import Progress, counted, silent
from clip_text.storage import digest
from clip_text.vectors import truncate

Pixels = NDArray[np.uint8]
T = TypeVar("T")


class PictureEncoder(Protocol):
    """What encoding a data set needs; :class:`clip_text.Encoder` has it."""

    def load_pixels(self, source: ImageSource) -> Pixels:
        """Decode one picture; called in threads."""
        ...

    def encode_pixels(self, pixels: Sequence[Pixels]) -> Features:
        """Encode decoded pictures, in one batch, into unit rows [n, embed_dim]."""
        ...

    def encode_text(self, texts: Sequence[str]) -> Features:
        """Encode texts into unit rows [n, embed_dim]."""
        ...


@dataclass(frozen=True, slots=True)
class Encoded:
    """A data set as one model sees it.

    Args:
        texts: Unit rows [texts, embed_dim].
        images: Unit rows [images, embed_dim].
        digests: What names each picture's content, see :func:`find_duplicates`.
    """

    texts: Features
    images: Features
    digests: list[str]

    def truncated(self, dimensions: int) -> "Encoded":
        """Cut the rows to their first dimensions; see :func:`clip_text.vectors.truncate`."""
        texts, images = truncate(self.texts, dimensions), truncate(self.images, dimensions)
        return Encoded(texts, images, self.digests)


@dataclass(frozen=True, slots=True)
class Measured:
    """One model on one data set.

    Args:
        by_direction: ``t2i``, every text against all pictures; ``i2t``, every picture that has
            texts against all of them.
        groups: For each direction, the groups of its queries (see :func:`groups_of`).
    """

    by_direction: dict[str, Retrieval]
    groups: dict[str, NDArray[np.int64]]

    def recalls(self) -> dict[str, float]:
        """Recall of both directions by name, ``t2i_recall@1`` and so on, in [0, 1]."""
        return {
            f"{way}_recall@{k}": float(found.recall[k])
            for way, found in self.by_direction.items()
            for k in found.ks
        }

    def figures(self, direction: str) -> dict[str, PerQuery]:
        """Values per query whose mean is quoted: ``recall@k``, ``mrr``, ``ndcg@k``."""
        found = self.by_direction[direction]
        recalls = {f"recall@{k}": (found.ranks <= k).astype(np.float64) for k in found.ks}
        gains = {f"ndcg@{k}": values for k, values in found.ndcg_per_query.items()}
        return {**recalls, "mrr": found.reciprocal_ranks, **gains}

    def intervals(self, direction: str, **options: int) -> dict[str, Interval]:
        """By figure: mean and interval; options as for :func:`interval`."""
        groups = self.groups[direction]
        return {
            name: interval(values, groups, **options)
            for name, values in self.figures(direction).items()
        }

    def recall_at(self, direction: str, k: int, **options: int) -> Interval:
        """Recall at any k, with its interval; options as for :func:`interval`."""
        hits = (self.by_direction[direction].ranks <= k).astype(np.float64)
        return interval(hits, self.groups[direction], **options)

    def compared_with(
        self, other: "Measured", direction: str, **options: int
    ) -> dict[str, Comparison]:
        """By figure: this model minus the other, on the same data set."""
        theirs, groups = other.figures(direction), self.groups[direction]
        return {
            name: compare(values, theirs[name], groups, **options)
            for name, values in self.figures(direction).items()
        }


def encode_images(
    encoder: PictureEncoder,
    images: Sequence[ImageSource],
    names: Sequence[object],
    *,
    batch_size: int = 64,
    workers: int = 2,
    progress: Progress = silent,
    unreadable: dict[int, str] | None = None,
) -> tuple[Features, list[str]]:
    """Encode pictures, decoded ahead in threads, a few batches at a time.

    Args:
        encoder: The model.
        images: The pictures.
        names: What to call each in an error.
        batch_size: Pictures per forward pass.
        workers: Decoding threads.
        progress: Is told how many ``pictures`` are done.
        unreadable: Gets, by position, why a picture cannot be read, instead of an error; its row
            is NaN, and its content has no name ("").

    Returns:
        Unit rows [images, embed_dim], and what names each picture's content.

    Raises:
        DataError: If a picture cannot be read, the message names it; or none of them can.
    """

    def load(at: int) -> Pixels | None:
        try:
            return encoder.load_pixels(images[at])
        except (OSError, ValueError) as error:
            if unreadable is None:
                raise DataError(f"{names[at]}: {error} Replace or remove the picture.") from error
            unreadable[at] = str(error)
            return None

    advance = counted("pictures", len(images), progress)
    # an encoder that has yet to choose how it computes times that, before threads decode beside it
    getattr(encoder, "image_precision", None)
    rows: list[tuple[list[int], Features]] = []
    digests: list[str] = []
    loaded = enumerate(ahead(load, range(len(images)), workers, 2 * batch_size))
    for batch in _batches(loaded, batch_size):
        sound = [(at, pixels) for at, pixels in batch if pixels is not None]
        if sound:
            rows.append(([at for at, _ in sound], encoder.encode_pixels([one for _, one in sound])))
        digests += ["" if pixels is None else digest(pixels.tobytes()) for _, pixels in batch]
        advance(len(batch))
    if not rows:
        raise DataError(
            f"expected pictures that can be read, got {len(images):,} that cannot"
            f"{f', the first: {unreadable[0]}' if unreadable else ''}. Check the data."
        )
    out = np.full((len(images), rows[0][1].shape[1]), np.nan, np.float32)
    for places, features in rows:
        out[places] = features
    return out, digests


def encode_texts(
    encoder: PictureEncoder,
    texts: Sequence[str],
    *,
    batch_size: int = 256,
    progress: Progress = silent,
) -> Features:
    """Encode texts, those of like length together, so many at a time.

    Args:
        encoder: The model.
        texts: The texts, at least one.
        batch_size: Texts that the model is given at once.
        progress: Is told how many ``texts`` are done.

    Returns:
        Unit rows [texts, embed_dim], in the order of ``texts``.
    """
    advance = counted("texts", len(texts), progress)
    rows: list[tuple[list[int], Features]] = []
    for places in by_length([len(text) for text in texts], batch_size):
        rows.append((places, encoder.encode_text([texts[place] for place in places])))
        advance(len(places))
    out = np.empty((len(texts), rows[0][1].shape[1]), np.float32)
    for places, features in rows:
        out[places] = features
    return out


def encode_set(
    encoder: PictureEncoder,
    collection: RetrievalSet,
    *,
    batch_size: int = 64,
    progress: Progress = silent,
) -> Encoded:
    """Encode every picture and text of a data set; see :func:`encode_images`."""
    images, digests = encode_images(
        encoder,
        collection.images,
        collection.image_ids,
        batch_size=batch_size,
        progress=progress,
    )
    texts = encoder.encode_text([text.text for text in collection.texts])
    return Encoded(texts, images, digests)


def measure(collection: RetrievalSet, encoded: Encoded, ks: Sequence[int] = (1, 5, 10)) -> Measured:
    """Search both ways; see :func:`retrieval` for what is told and what is refused."""
    texts_of = collection.texts_of
    asked = [at for at, texts in enumerate(texts_of) if texts]  # the others are distractors
    answered = [texts_of[at] for at in asked]
    directions = {
        "t2i": retrieval(encoded.texts, encoded.images, collection.answers, ks),
        "i2t": retrieval(encoded.images[asked], encoded.texts, answered, ks),
    }
    groups = {
        "t2i": groups_of(collection.answers, len(collection.image_ids)),
        "i2t": groups_of(answered, len(collection.texts)),
    }
    return Measured(directions, groups)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
