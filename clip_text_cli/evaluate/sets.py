"""What the evaluating commands share: the bundled collection, samples, encoded pictures."""

import json
import random
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from clip_text.errors import DataError
from clip_text.evaluation import RetrievalSet, Text, retrieval_set
from clip_text_cli.output import named_bars

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from clip_text.evaluation.ranking import Features
    from clip_text.images import ImageSource
    from clip_text.loading import AnyEncoder


def gallery_emoji(
    kinds: Collection[str] | None = None, pictures: int | None = None
) -> RetrievalSet:
    """The emoji of the bundled gallery, with their names by language.

    Args:
        kinds: Languages to keep, such as ``zh``; all of them unless told.
        pictures: Only the first so many.

    Raises:
        DataError: If the gallery has no names in one of the languages.
    """
    folder = Path(str(files("retrieval") / "gallery"))
    images: dict[str, ImageSource] = {}
    texts: list[Text] = []
    for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["emoji"] and (pictures is None or len(images) < pictures):
            path = folder / entry["file_name"]
            images[path.stem] = path
            texts += [
                Text(f"{kind} {path.stem}", name, (path.stem,), kind)
                for kind, name in entry["names"].items()
            ]
    known = {text.kind for text in texts}
    if kinds is not None and (unknown := [kind for kind in kinds if kind not in known]):
        raise DataError(
            f"expected languages among {', '.join(sorted(known))}, "
            f"got {', '.join(map(repr, unknown))}. Correct the name."
        )
    if kinds is not None:
        texts = [text for text in texts if text.kind in kinds]
    return retrieval_set("gallery emoji", images, texts)


def read_or_gallery(
    data: Path | None, images: Path | None = None, kinds: Sequence[str] | None = None
) -> RetrievalSet:
    """Read a data set, or take the gallery's emoji where none is named.

    Raises:
        DataError: If it cannot be read, or has no texts of one of the kinds.
    """
    if data is None:
        return gallery_emoji(kinds)
    from clip_text.data.readers import read_retrieval_set

    return read_retrieval_set(data, images=images, kinds=kinds)


def sample_texts(collection: RetrievalSet, number: int, seed: int = 0) -> RetrievalSet:
    """Draw at most so many texts of each kind; the pictures stay, so no rank changes.

    Args:
        collection: What to draw from; its order is kept.
        number: Number of texts to draw of each kind.
        seed: Seed of the draw; an equal seed gives equal draws.
    """
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, text in enumerate(collection.texts):
        places[text.kind].append(place)
    rng = random.Random(seed)  # noqa: S311
    kept = sorted(
        place for kind in places.values() for place in rng.sample(kind, min(number, len(kind)))
    )
    return replace(
        collection,
        texts=[collection.texts[place] for place in kept],
        answers=[collection.answers[place] for place in kept],
    )


def read_sample(
    data: Path | None,
    images: Path | None,
    kinds: Sequence[str] | None,
    number: int | None,
    seed: int = 0,
) -> RetrievalSet:
    """Read a data set or the gallery's emoji, and draw some texts where a number is given.

    Args:
        data: The data set; the gallery's emoji if None.
        images: Folder of the pictures, if not beside the texts.
        kinds: Kinds of texts to keep; all, or the data set's usual ones, if None.
        number: Number of texts to draw of each kind; all if None.
        seed: Seed of the draw; an equal seed gives equal draws.

    Raises:
        DataError: If it cannot be read, or has no texts of one of the kinds.
    """
    collection = read_or_gallery(data, images, kinds)
    return collection if number is None else sample_texts(collection, number, seed)


def encode_pictures(encoder: "AnyEncoder", collection: RetrievalSet) -> "Features":
    """Encode a collection's pictures with a bar; unit rows [pictures, embed_dim].

    Raises:
        DataError: If one cannot be read; the message names it.
    """
    from clip_text.evaluation.measure import encode_images

    with named_bars() as progress:
        rows, _ = encode_images(encoder, collection.images, collection.image_ids, progress=progress)
    return rows
