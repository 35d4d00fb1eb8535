"""What tells one data set from another, and what it says of its pictures."""

import os
from pathlib import Path

from clip_text.data.collection import RetrievalSet
from clip_text.storage import digest


def collection_digest(collection: RetrievalSet) -> str:
    """Digest of a data set's texts and pictures; see :func:`pictures_digest`."""
    texts = [(text.text, text.kind, text.image_ids) for text in collection.texts]
    return digest(pictures_digest(collection), texts, collection.negatives)


def pictures_digest(collection: RetrievalSet) -> str:
    """Digest of the pictures' ids, and of the sizes of those that are files of their own.

    To read them takes about as long as to encode them, and times of change are others after a
    copy, when a run should go on. Pictures within a table are taken to be what their ids say.
    """
    # others are read when they are asked for
    images = collection.images if isinstance(collection.images, list) else []
    files = [image for image in images if isinstance(image, str | os.PathLike)]
    return digest(collection.image_ids, [Path(file).stat().st_size for file in files])


def picture_files(collection: RetrievalSet) -> set[str]:
    """Absolute paths of the pictures that are files of their own."""
    images = collection.images if isinstance(collection.images, list) else ()
    # resolve() would ask the disk about every picture
    return {os.path.abspath(one) for one in images if isinstance(one, str | os.PathLike)}  # noqa: PTH100


def captions_of(collection: RetrievalSet) -> list[dict[str, list[str]]]:
    """Of each picture, its captions by kind."""
    captions: list[dict[str, list[str]]] = [{} for _ in collection.image_ids]
    for text, pictures in zip(collection.texts, collection.answers, strict=True):
        for picture in pictures:
            captions[picture].setdefault(text.kind, []).append(text.text)
    return captions
