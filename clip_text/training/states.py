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
from clip_text.progress import Progress, part_of
from clip_text.storage import partial_file

Rows = NDArray[np.float32]


def kept(file: Path, key: str, compute: Callable[[], Rows]) -> Rows:
    """Read an array that was computed for the same key, or compute and keep it.

    Args:
        file: A ``.npy``; a ``.txt`` beside it holds the key.
        key: All that the array depends on.
        compute: Gives it.

    Raises:
        DataError: If something of it is not finite.
    """
    stamp = file.with_suffix(".txt")
    if file.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == key:
        before: Rows = np.load(file)
        return before
    stamp.unlink(missing_ok=True)
    found = compute()
    if not np.isfinite(found).all():
        raise DataError(
            f"expected finite features for {file.name}, got NaN or infinity. Check the model."
        )
    with partial_file(file) as partial, partial.open("wb") as out:
        np.save(out, found)
    stamp.write_text(key, encoding="utf-8")
    return found


@torch.inference_mode()
def pooled_states(
    encoder: Encoder,
    head: ClassificationHead,
    texts: Sequence[str],
    on_progress: Callable[[int], None],
) -> Rows:
    """Pool the states of the encoder's text tower as a head reads them, [n, width].

    Args:
        encoder: Whose tower it is.
        head: Whose pooler it is.
        texts: Any number.
        on_progress: Called with the number of texts just done.
    """
    tower = encoder.model.text
    tower.eval()
    found = np.empty((len(texts), tower.width), np.float32)
    for at, tokens in encoder.token_batches(texts):
        states, mask = tower.states(tokens)
        found[at] = head.pool(states, mask).float().cpu().numpy()
        on_progress(len(at))
    return found


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
        pictures: Any number.
        name: Of the file in the folder, and of what progress tells.
        folder: Of the run.
        progress: Told the name, how many are done, and of how many.
    """
    told = part_of(name, 0, len(pictures.image_ids), progress)
    key = repr((module_digest(encoder.model.visual), pictures_digest(pictures)))
    return kept(
        folder / f"{name}.npy",
        key,
        lambda: encode_images(encoder, pictures.images, pictures.image_ids, progress=told)[0],
    )
