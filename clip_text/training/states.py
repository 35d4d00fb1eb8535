"""What training a head reads once and keeps: states of a frozen tower, vectors of pictures."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from clip_text.data.collection import RetrievalSet
from clip_text.data.identity import pictures_digest
from clip_text.encoder import Encoder
from clip_text.errors import DataError
from clip_text.evaluation.measure import encode_images
from clip_text.features import module_digest
from clip_text.heads.classification import ClassificationHead
from clip_text.progress import Progress, counted, part_of
from clip_text.storage import keep_array

Rows = NDArray[np.float32]


def kept_rows(file: Path, key: object, compute: Callable[[], Rows]) -> Rows:
    """Have finite rows that are computed once for a key, and kept.

    Args:
        file: A ``.npy``; see :func:`clip_text.storage.keep`.
        key: All that the rows depend on, as JSON.
        compute: Computes the rows, [n, width], if they are not kept.

    Raises:
        DataError: If something of them is not finite.
        StorageError: If they cannot be written.
    """

    def compute_finite() -> Rows:
        rows = compute()
        if not np.isfinite(rows).all():
            raise DataError(
                f"expected finite features for {file.name}, got NaN or infinity. Check the model."
            )
        return rows

    return keep_array(file, key, compute_finite)


@torch.inference_mode()
def pooled_states(
    encoder: Encoder,
    head: ClassificationHead,
    texts: Sequence[str],
    name: str,
    progress: Progress,
) -> Rows:
    """Pool the states of the encoder's text tower as a head reads them, [n, width].

    Args:
        encoder: Encoder whose text tower gives the states.
        head: Head whose pooler is used.
        texts: Texts to pool, any number.
        name: Name of the texts, as progress is told it.
        progress: Told how many texts are done, and of how many.
    """
    tower = encoder.model.text
    tower.eval()
    pooled = np.empty((len(texts), tower.width), np.float32)
    advance = counted(name, len(texts), progress)
    for places, tokens in encoder.token_batches(texts):
        states, mask = tower.states(tokens)
        pooled[places] = head.pool(states, mask).float().cpu().numpy()
        advance(len(places))
    return pooled


def picture_rows(
    encoder: Encoder,
    pictures: RetrievalSet,
    name: str,
    folder: Path,
    progress: Progress,
) -> Rows:
    """Encode pictures into unit rows, [pictures, embed_dim], once for a run's folder.

    Args:
        encoder: Whose image tower it is.
        pictures: Pictures to encode, any number.
        name: Name of the file in the folder, and of what progress tells.
        folder: Folder of the run, where its report lies.
        progress: Told the name, how many are done, and of how many.
    """
    told = part_of(name, 0, len(pictures.image_ids), progress)
    return kept_rows(
        folder / f"{name}.npy",
        [module_digest(encoder.model.visual), pictures_digest(pictures)],
        lambda: encode_images(encoder, pictures.images, pictures.image_ids, progress=told)[0],
    )
