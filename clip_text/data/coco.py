"""The reader of COCO's captions: one JSON object with ``images`` and ``annotations``.

====================  =========================================================================
``images``            ``{"id": 9, "file_name": "000000000009.jpg"}``, …
``annotations``       ``{"image_id": 9, "caption": "…"}``, …: any number for each picture
====================  =========================================================================

Source:
    cocodataset.org/#format-data, "Image Captioning".
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clip_text.data.captions import Record, without
from clip_text.data.collection import Problem, entry, refuse
from clip_text.data.text_files import json_object, open_text, read_text
from clip_text.errors import DataError

CAPTION = "caption"
_PREFIX = "captions_"
_BEGINS = re.compile(r'\s*\{\s*"(info|images|licenses|annotations|categories|type)"\s*:')
_TRIED = 20  # pictures that a folder is tried with


def find_splits(folder: Path) -> dict[str, Path]:
    """Find COCO's files of captions in a folder or its ``annotations``, by split.

    Of ``captions_val2017.json`` the split is ``val2017``.
    """
    files = [
        path
        for place in (folder, folder / "annotations")
        if place.is_dir()
        for path in sorted(place.glob(f"{_PREFIX}*.json"))
    ]
    return {path.stem.removeprefix(_PREFIX): path for path in files}


def is_coco(path: Path) -> bool:
    """Say whether a JSON file begins as COCO's do: one object, with a field of theirs."""
    with open_text(path) as file:
        return bool(_BEGINS.match(file.read(1024).lstrip("\ufeff")))


def coco_records(
    path: Path,
    kinds: Sequence[str] | None,
    problems: list[Problem] | None = None,
    *,
    whole: bool = False,
) -> list[Record]:
    """Read COCO's captions; pictures in the order of ``images``.

    Args:
        path: The file.
        kinds: Fields of the annotations that hold captions; ``caption`` if not given.
        problems: A list to be told of bad entries, instead of an error at the first of them.
        whole: Read the other fields of ``images``, too.

    Raises:
        NoFileError: If there is no file that can be read.
        DataError: If it is no such file, its annotations are no captions (but objects, say), or
            an entry is not of this form.
    """
    content = json_object(read_text(path), str(path))
    images = _list(content, "images", path)
    annotations = _list(content, "annotations", path)
    names: dict[Any, str] = {}
    others: dict[Any, dict[str, Any]] = {}
    for number, image in enumerate(images, 1):
        where = f"images, entry {number}"
        with entry(problems, where):
            one = _id(image, "id", path, where)
            names[one] = _text(image, "file_name", path, where)
            if whole:
                others[one] = without(image, "file_name")
    _check_captions(annotations, kinds or (CAPTION,), path)
    captions: dict[Any, dict[str, list[str]]] = {
        one: {kind: [] for kind in kinds or ("",)} for one in names
    }
    lost = []
    for number, annotation in enumerate(annotations, 1):
        where = f"annotations, entry {number}"
        with entry(problems, where):
            image_id = _id(annotation, "image_id", path, where)
            if image_id not in names:
                lost.append(f"{where}: image {image_id}")
                continue
            for kind in captions[image_id]:
                field = kind or CAPTION
                if kinds is None or len(kinds) == 1 or field in annotation:
                    captions[image_id][kind].append(_text(annotation, field, path, where))
    what, remedy = "annotations of images that are there", "Add the images or drop"
    kind = "texts_without_picture"
    refuse(str(path), what, lost, remedy, kind=kind, problems=problems)
    return [
        Record(names[one], captions[one], f"image {one}", others=others.get(one)) for one in names
    ]


def picture_folder(path: Path, records: Sequence[Record]) -> Path:
    """Find the folder of the pictures: the first near the file that has one of the first few.

    Looked at are ``images``, the split (``train2017``) and both together, beside the file and a
    level above, as COCO is laid out; the file's own folder if none has any.
    """
    split = path.stem.removeprefix(_PREFIX)
    names = [record.image for record in records[:_TRIED]]
    for home in (path.parent, path.resolve().parent.parent):
        for inner in ("images", split, f"images/{split}", ""):
            folder = home / inner
            if any((folder / name).is_file() for name in names):
                return folder
    return path.parent


def _check_captions(
    annotations: Sequence[Mapping[str, Any]], kinds: Sequence[str], path: Path
) -> None:
    there = dict.fromkeys(field for one in annotations for field in one)
    absent = [kind for kind in kinds if kind not in there]
    if absent and annotations:
        boxes = "bbox" in there and CAPTION not in there
        raise DataError(
            f"expected captions (field {absent[0]!r}) in the annotations of {path}, got "
            f"{'objects and their boxes' if boxes else 'none'}. "
            + (
                "Take COCO's captions_….json in place of its instances_….json."
                if boxes
                else f"The fields there are: {', '.join(there)}."
            )
        )


def _list(content: Mapping[str, Any], name: str, path: Path) -> list[Mapping[str, Any]]:
    value = content.get(name)
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise DataError(
            f"expected a list of objects in {name!r} of {path}, as COCO's captions have it, got "
            f"{type(value).__name__}. Mend the file."
        )
    return value


def _id(found: Mapping[str, Any], field: str, path: Path, where: str) -> int | str:
    value = found.get(field)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise DataError(
            f"expected a whole number or a text in {field!r} of {path}, {where}, got {value!r}. "
            "Mend the entry."
        )
    return value


def _text(found: Mapping[str, Any], field: str, path: Path, where: str) -> str:
    value = found.get(field)
    if not isinstance(value, str):
        raise DataError(
            f"expected a text in {field!r} of {path}, {where}, got {value!r}. Mend the entry."
        )
    return value.strip()
