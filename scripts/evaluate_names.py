"""Whether a model knows things by their Chinese names: groceries by class, dishes among all photos.

    python scripts/evaluate_names.py --data DATA

A fifth of the photos is held out, the same whoever asks: :func:`held_out`. What trains on the rest
is measured on it; what trains on none of them may be measured on all (``--all``).
"""

import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clip_text.data.text_files import json_objects
from clip_text_cli.evaluate.retrieval import percent
from clip_text_cli.main import run

if TYPE_CHECKING:
    from clip_text import Encoder
    from clip_text.evaluation.statistics import Interval

GROCERY, DISHES = "grocery", "howtocook"
_SHARE = 5  # one of so many photos of a class is held out


@dataclass(frozen=True, slots=True)
class Named:
    """A photo and what it is called.

    Args:
        path: Of the file.
        kind: Its class: of a grocery its finest name, of a dish what sort of dish it is.
        name: In Chinese; "" where nobody named it.
    """

    path: Path
    kind: str
    name: str


def named_photos(folder: Path) -> list[Named]:
    """Read the photos of a folder with ``train.jsonl`` and ``images/``.

    Raises:
        DataError: If a line is not as it should be.
        NoFileError: If there is no such file.
    """
    photos = []
    for _, line in json_objects(folder / "train.jsonl"):
        kind, names = line["labels"][0], line.get("zh") or []
        name = (names or [""])[0] if folder.name == DISHES else kind
        photos.append(Named(folder / "images" / line["image"], kind, name))
    return photos


def held_out(photos: Sequence[Named]) -> list[bool]:
    """Say which photos nothing may be trained on: a fifth of each class that has two or more.

    It depends on the files' names alone, so that another order, or other photos beside them,
    changes nothing for a class.
    """
    places = defaultdict(list)
    for place, photo in enumerate(photos):
        places[photo.kind].append(place)
    is_out = [False] * len(photos)
    for own in places.values():
        drawn = sorted(own, key=lambda place: _drawn(photos[place].path.name))
        for place in drawn[: min(max(1, round(len(own) / _SHARE)), len(own) - 1)]:
            is_out[place] = True
    return is_out


def _drawn(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()


def measure_names(encoder: "Encoder", data: Path, *, every: bool = False) -> "dict[str, Interval]":
    """Sort groceries into their classes by name, and look for dishes by theirs.

    Args:
        encoder: The model.
        data: Folder that has ``grocery/`` and ``howtocook/``.
        every: Whether all photos ask, in place of those held out.

    Returns:
        Shares: ``grocery top-1`` and ``top-5`` among the names of all classes; ``dishes recall@1``,
        ``5`` and ``10`` of the photo whose name is asked for, among all photos of dishes.

    Raises:
        DataError: If the photos cannot be read.
    """
    return _groceries(encoder, data / GROCERY, every) | _dishes(encoder, data / DISHES, every)


def _groceries(encoder: "Encoder", folder: Path, every: bool) -> "dict[str, Interval]":
    from clip_text.evaluation.classes import named_classes, truth_matrix
    from clip_text.evaluation.statistics import interval
    from clip_text.evaluation.templates import SETS
    from clip_text.evaluation.zero_shot import class_scores, class_weights, hits_at_k

    photos = named_photos(folder)
    classes = named_classes(sorted({photo.kind for photo in photos}))
    asked = [
        photo for photo, is_out in zip(photos, held_out(photos), strict=True) if every or is_out
    ]
    truth = truth_matrix([(photo.kind,) for photo in asked], classes, GROCERY)
    rows = encoder.encode_image([photo.path for photo in asked])
    scores = class_scores(rows, class_weights(encoder, classes, SETS["original"]))
    return {f"grocery top-{k}": interval(hits_at_k(scores, truth, k)) for k in (1, 5)}


def _dishes(encoder: "Encoder", folder: Path, every: bool) -> "dict[str, Interval]":
    from clip_text.evaluation import Text, retrieval_set
    from clip_text.evaluation.measure import encode_set, measure

    photos = named_photos(folder)
    by_name = defaultdict(list)
    for photo in photos:
        by_name[photo.name].append(photo.path.name)
    texts = [
        Text(photo.path.name, photo.name or photo.kind, tuple(by_name[photo.name]))
        for photo in photos
    ]
    whole = retrieval_set(DISHES, {photo.path.name: photo.path for photo in photos}, texts)
    asks = [
        place
        for place, is_out in enumerate(held_out(photos))
        if photos[place].name and (every or is_out)
    ]
    collection = replace(
        whole,
        texts=[whole.texts[place] for place in asks],
        answers=[whole.answers[place] for place in asks],
    )
    measured = measure(collection, encode_set(encoder, collection)).intervals("t2i")
    return {f"dishes recall@{k}": measured[f"recall@{k}"] for k in (1, 5, 10)}


def main(
    data: Annotated[Path, typer.Option(help="Folder with grocery/ and howtocook/.")],
    model: Annotated[str, typer.Option(help="Starter, a folder or a hub name.")] = "starter",
    every: Annotated[bool, typer.Option("--all", help="Ask with all photos.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A flat object of shares.")] = False,
) -> None:
    """Print how many photos of groceries and dishes a model knows by their Chinese names.

    Example:
        python scripts/evaluate_names.py --data DATA
    """
    from clip_text import Encoder

    encoder = Encoder.from_pretrained(model, runtime="torch")
    found = measure_names(encoder, data, every=every)
    if as_json:
        print(json.dumps({name: share.value for name, share in found.items()}))
        return
    for name, share in found.items():
        print(f"{name:18s} {percent(share)}")


if __name__ == "__main__":
    run(lambda: typer.run(main))
