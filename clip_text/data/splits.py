"""Parts of a data set, by picture."""

import random
from collections.abc import Iterable

from clip_text.data.collection import RetrievalSet, retrieval_set
from clip_text.errors import DataError


def part(collection: RetrievalSet, places: Iterable[int], name: str | None = None) -> RetrievalSet:
    """Keep some pictures, and of the texts what describes them.

    Args:
        collection: What to take a part of.
        places: Positions of the pictures to keep, in any order.
        name: Of the part; the whole's if not given.
    """
    kept = sorted(set(places))
    ids = {collection.image_ids[at] for at in kept}
    images = {collection.image_ids[at]: collection.images[at] for at in kept}
    texts = [
        type(text)(text.text_id, text.text, tuple(i for i in text.image_ids if i in ids), text.kind)
        for text in collection.texts
        if ids & set(text.image_ids)
    ]
    negatives = {collection.image_ids[at]: collection.negatives[at] for at in kept}
    return retrieval_set(name or collection.name, images, texts, negatives=negatives)


def held_out(
    collection: RetrievalSet, number: int, seed: int = 0
) -> tuple[RetrievalSet, RetrievalSet]:
    """Hold out some pictures, drawn at random, to measure on.

    Args:
        collection: What to split.
        number: Of pictures to hold out; at least one stays to learn from.
        seed: Of the draw.

    Returns:
        What to learn from, and what to measure on.

    Raises:
        DataError: If there are not two pictures.
    """
    pictures = len(collection.image_ids)
    if pictures < 2:
        raise DataError(
            f"expected at least 2 pictures in {collection.name} to hold some out of, got "
            f"{pictures}. Add pictures, or give a validation set."
        )
    chosen = set(random.Random(seed).sample(range(pictures), min(number, pictures - 1)))  # noqa: S311
    rest = [at for at in range(pictures) if at not in chosen]
    return part(collection, rest), part(collection, chosen, f"{collection.name} held out")
