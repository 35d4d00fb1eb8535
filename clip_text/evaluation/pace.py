"""How quick a model is on a data set: the rows it gives, and the seconds they took."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from clip_text.data.collection import RetrievalSet
from clip_text.evaluation.measure import Encoded, PictureEncoder, encode_images, encode_texts
from clip_text.images import ImageSource
from clip_text.progress import Progress, silent

__all__ = ["Paced", "encode_paced"]

_HELD = 4 << 30  # bytes of pictures that the system can be trusted to keep in memory
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Paced:
    """A data set as one model sees it, and how long that took by the wall's clock.

    Args:
        encoded: Its rows; those of pictures that cannot be read are NaN.
        text_seconds: All texts, tokens and rows.
        picture_seconds: All pictures, from their files to rows.
        unreadable: By position, why a picture cannot be read.
    """

    encoded: Encoded
    text_seconds: float
    picture_seconds: float
    unreadable: dict[int, str]


def encode_paced(
    encoder: PictureEncoder,
    collection: RetrievalSet,
    *,
    batch_size: int,
    workers: int,
    allow_unreadable: bool = False,
    progress: Progress = silent,
) -> Paced:
    """Encode a data set, and time it as it is in the midst of long work.

    What happens once is left out of the times: a batch of either kind is encoded before, which
    loads, compiles and chooses, and files of up to 4 GB together are read before, so that a model
    that comes later finds no more of them in memory than the first.

    Args:
        encoder: The model.
        collection: Texts and pictures, at least one of each.
        batch_size: Texts, and pictures, that the model is given at once.
        workers: Threads that decode pictures.
        allow_unreadable: Take note of pictures that cannot be read, and go on.
        progress: Is told how many ``texts`` and ``pictures`` are done.

    Raises:
        DataError: If a picture cannot be read, the message names it; or none of them can.
    """
    images, names = collection.images, collection.image_ids
    texts = [text.text for text in collection.texts]
    unreadable: dict[int, str] | None = {} if allow_unreadable else None
    encoder.encode_text(texts[:batch_size])
    _encode_one(encoder, images, times=min(batch_size, len(images)))
    _read_files(collection)
    start = time.perf_counter()
    text_rows = encode_texts(encoder, texts, batch_size=batch_size, progress=progress)
    middle = time.perf_counter()
    image_rows, digests = encode_images(
        encoder,
        images,
        names,
        batch_size=batch_size,
        workers=workers,
        progress=progress,
        unreadable=unreadable,
    )
    end = time.perf_counter()
    encoded = Encoded(text_rows, image_rows, digests)
    return Paced(encoded, middle - start, end - middle, unreadable or {})


def _encode_one(encoder: PictureEncoder, images: Sequence[ImageSource], times: int) -> None:
    """Encode a batch of the first picture that can be read; if none can, the others tell."""
    for at in range(len(images)):
        try:
            pixels = encoder.load_pixels(images[at])
        except (OSError, ValueError):
            continue
        encoder.encode_pixels([pixels] * times)
        return


def _read_files(collection: RetrievalSet) -> None:
    """Read the pictures' files, if they are files of their own and not too many."""
    images = collection.images if isinstance(collection.images, list) else []
    files = [Path(image) for image in images if isinstance(image, str | os.PathLike)]
    sizes = [file.stat().st_size if file.is_file() else 0 for file in files]
    if sum(sizes) > _HELD:
        return
    for file, size in zip(files, sizes, strict=True):
        if size:
            # what cannot be read is told of when it is decoded
            with suppress(OSError), file.open("rb") as stream:
                while stream.read(_CHUNK):
                    pass
