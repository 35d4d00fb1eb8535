"""Readers of pictures with labels: a folder for each class, or a jsonl file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_text.data.collection import refuse
from clip_text.data.picture_files import PictureFiles
from clip_text.data.text_files import json_objects
from clip_text.errors import DataError
from clip_text.evaluation.classes import composed
from clip_text.images import is_read, looks_like_picture

IMAGE_FIELDS = ("image", "file_name")
"""The second is what Hugging Face's image folders call it in their metadata.jsonl."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Pictures and their labels.

    Args:
        name: Name of the data set, for tables and errors.
        paths: The picture files.
        labels: Labels of each picture: one, or any number if ``multi_label``.
        multi_label: Whether a picture may be in several classes, or in none.
    """

    name: str
    paths: list[Path]
    labels: list[tuple[str, ...]]
    multi_label: bool = False


def read_labelled(source: Path, images: Path | None = None, label_field: str = "label") -> Labelled:
    """Read labelled pictures.

    Args:
        source: A folder with a sub-folder for each class, which is the label, and pictures in any
            depth below. Or a jsonl file: an object a line with ``image`` (or
            ``file_name``) and ``label``, which is a text, a whole number, or a list of these; one
            list makes it a data set of several labels a picture.
        images: Folder that the file names of a jsonl file are relative to; its own if not given.
        label_field: Field of a jsonl file that has the label.

    Raises:
        DataError: If there are no pictures, a sub-folder has none, a line is not as it should be,
            or pictures are missing.
        NoFileError: If there is no file that can be read.
    """
    if source.is_dir():
        return _read_folder(source)
    return _read_jsonl(source, images or source.parent, label_field)


def _read_folder(folder: Path) -> Labelled:
    paths: list[Path] = []
    labels: list[tuple[str, ...]] = []
    empty, unread = [], []
    for inside in sorted(folder.iterdir()):
        if not inside.is_dir() or inside.name.startswith("."):
            continue
        found = sorted(path for path in inside.rglob("*") if _is_picture(path))
        unread += [str(path.relative_to(folder)) for path in found if not is_read(path)]
        if not found:
            empty.append(inside.name)
        paths += found
        labels += [(composed(inside.name),)] * len(found)
    refuse(str(folder), "pictures in every sub-folder", empty, "Fill or remove")
    refuse(str(folder), "a kind of picture that is read", unread, "Convert or remove")
    if not paths:
        raise DataError(
            f"expected a sub-folder of pictures for each class in {folder}, got none. "
            "Check the path."
        )
    return Labelled(folder.name, paths, labels)


def _is_picture(path: Path) -> bool:
    return not path.name.startswith(".") and looks_like_picture(path) and path.is_file()


def _read_jsonl(file: Path, images: Path, label_field: str) -> Labelled:
    found: list[str] = []
    labels: list[tuple[str, ...]] = []
    several = False
    for place, record in json_objects(file):
        path, label, is_list = _labelled(record, label_field, f"{file}, {place}")
        found.append(path)
        labels.append(label)
        several |= is_list
    if not found:
        raise DataError(f"expected labelled pictures in {file}, got none. Check the path.")
    pictures = PictureFiles(images)
    located = [pictures.find(path) for path in found]
    missing = [path for path, at in zip(found, located, strict=True) if at is None]
    refuse(str(images), f"the pictures of {file.name}", missing, "Name the right folder, or drop")
    return Labelled(file.stem, [images / path for path in located if path], labels, several)


def _labelled(
    record: dict[str, Any], label_field: str, where: str
) -> tuple[str, tuple[str, ...], bool]:
    image = next((record[field] for field in IMAGE_FIELDS if field in record), None)
    if not isinstance(image, str) or not image:
        raise DataError(
            f"expected a file name in field 'image' of {where}, got {image!r}. "
            f"The fields there are: {', '.join(record)}."
        )
    value = record.get(label_field)
    listed = value if isinstance(value, list) else [value]
    if not all(_is_label(one) for one in listed):
        raise DataError(
            f"expected a label or a list of labels in field {label_field!r} of {where}, "
            f"got {value!r}. The fields there are: {', '.join(record)}."
        )
    return image, tuple(composed(str(one)) for one in listed), isinstance(value, list)


def _is_label(value: object) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
