"""Recall@k of a model on captioned pictures, in both directions: ``clip-text evaluate``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import track
from rich.table import Table

from clip_text import DataError, Encoder
from clip_text.data import Captioned, read_captions
from clip_text.evaluation import Features, Retrieval, retrieval
from clip_text.features import ahead

KS = (1, 5, 10)


def evaluate(
    captions: Path, images: Path, kind: str, model: str, batch_size: int = 64
) -> dict[str, Retrieval]:
    """Encode every picture and every caption of one kind, and search both ways.

    Args:
        captions: jsonl file, see :func:`clip_text.data.read_captions`.
        images: Folder the file names are relative to.
        kind: Which field holds the captions, for example ``zh``.
        model: ``starter``, a folder or a hub name.
        batch_size: Pictures per forward pass.

    Returns:
        ``t2i``: every caption against all pictures; ``i2t``: every picture against all captions.

    Raises:
        DataError: If a picture is missing or has no caption.
    """
    records = read_captions(captions, [kind])
    missing = [record.image for record in records if not (images / record.image).is_file()]
    if missing:
        raise DataError(
            f"expected every picture of {captions} in {images}, got {len(missing)} missing, "
            f"the first {missing[:3]}. Name the right folder with --images."
        )
    mute = [record.image for record in records if not record.captions[kind]]
    if mute:
        raise DataError(
            f"expected a {kind!r} caption for every picture, got {len(mute)} without, "
            f"the first {mute[:3]}. Drop them from {captions}."
        )
    encoder = Encoder.from_pretrained(model)
    paths = [images / record.image for record in records]
    pixels = list(
        track(
            ahead(encoder.load_pixels, paths, workers=2, depth=2 * batch_size),
            "pictures",
            total=len(paths),
            transient=True,
        )
    )
    pictures = encoder.encode_image(pixels, batch_size)
    return caption_recall(encoder, records, kind, pictures)


def caption_recall(
    encoder: Encoder, records: Sequence[Captioned], kind: str, pictures: Features
) -> dict[str, Retrieval]:
    """Search both ways between the captions of one kind and pictures already encoded.

    Args:
        encoder: For the captions.
        records: One a picture.
        kind: Which captions.
        pictures: Unit rows, [records, embed_dim].
    """
    captions = [record.captions[kind] for record in records]
    owner = [at for at, texts in enumerate(captions) for _ in texts]
    features = encoder.encode_text([text for texts in captions for text in texts])
    right: list[list[int]] = [[] for _ in records]
    for text, at in enumerate(owner):
        right[at].append(text)
    return {
        "t2i": retrieval(features, pictures, [[at] for at in owner], KS),
        "i2t": retrieval(pictures, features, right, KS),
    }


def as_table(results: dict[str, Retrieval]) -> Table:
    """Draw the results for a terminal."""
    table = Table()
    for column in ("", *(f"recall@{k}" for k in KS), "median rank", "queries", "candidates"):
        table.add_column(column, justify="right")
    for direction, result in results.items():
        recalls = [f"{result.recall[k]:.1%}" for k in KS]
        counts = [f"{result.median_rank:g}", f"{result.queries:,}", f"{result.candidates:,}"]
        table.add_row(direction, *recalls, *counts)
    return table


def as_json(results: dict[str, Retrieval]) -> dict[str, Any]:
    """Flatten the results: ``t2i_recall@1`` and so on, shares in [0, 1]."""
    flat: dict[str, Any] = {}
    for direction, result in results.items():
        flat |= {f"{direction}_recall@{k}": value for k, value in result.recall.items()}
        flat[f"{direction}_median_rank"] = result.median_rank
        flat[f"{direction}_queries"] = result.queries
        flat[f"{direction}_candidates"] = result.candidates
    return flat
