"""Reads what retrieval is measured on, whichever format it lies in."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clip_text.data import cn_clip
from clip_text.data.captions import (
    captioned_set,
    gallery_records,
    json_objects,
    jsonl_records,
    sidecar_records,
    table_records,
)
from clip_text.data.collection import RetrievalSet, retrieval_set
from clip_text.errors import DataError
from clip_text.images import EXTENSIONS

__all__ = ["read_retrieval_set"]

_GALLERY_FILE = "metadata.jsonl"
_CAPTION_FILES = (".jsonl", ".csv", ".tsv")
_KINDS = {"jsonl": ("zh",), "gallery": ("caption",)}
_FORMATS = (
    "a .jsonl, .csv or .tsv file of captions, a folder with a metadata.jsonl, a folder of "
    "pictures with a .txt beside each, or Chinese-CLIP's layout ({split}_texts.jsonl and "
    "{split}_imgs.tsv, or lmdb/{split})"
)


@dataclass(frozen=True, slots=True)
class _Found:
    """What lies at a path.

    Args:
        format: One of the five.
        path: The file or folder to read.
        name: For tables.
        split: Where the format is Chinese-CLIP's.
    """

    format: Literal["jsonl", "gallery", "table", "folder", "cn_clip"]
    path: Path
    name: str
    split: cn_clip.Split | None = None


def read_retrieval_set(
    path: str | os.PathLike[str],
    *,
    split: str | None = None,
    kinds: Sequence[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    image_field: str | None = None,
    allow_distractors: bool | None = None,
    name: str | None = None,
) -> RetrievalSet:
    """Read pictures, texts and which answers which; the format is found out.

    ===========================  ==============================================================
    what lies at ``path``        what it is taken for
    ===========================  ==============================================================
    a .jsonl file                captions: ``image``, and fields of captions such as ``zh``
    metadata.jsonl, its folder   the gallery's: ``file_name``, ``caption``, ``names``, ``tags``
    a .csv or .tsv file          captions, a row each, columns named in a header
    a folder of such files       one of them, by ``split``: ``val`` is val.jsonl
    a folder of pictures         a .txt beside each, a caption a line
    a folder with *_texts.jsonl  Chinese-CLIP's layout (MUGE, Flickr30K-CN, COCO-CN); or with
                                 a folder ``lmdb``, or this folder, or one split in it
    ===========================  ==============================================================

    Args:
        path: A file or folder.
        split: Which one of a folder that has several, such as ``"valid"``.
        kinds: Which captions. Of jsonl: fields, ``zh`` if not given. Of the gallery's form:
            ``"caption"`` (if not given), ``"tags"``, languages of ``names``. Of a table: columns.
            Texts then carry their ``kind``.
        images: Folder that file names are relative to. If not given: the folder ``images`` beside
            a file, or else the file's own.
        image_field: Field or column of the file name, if it has an uncommon name.
        allow_distractors: Accept pictures that no text describes. If not given, only
            Chinese-CLIP's layout may have them: published figures rank all of its pictures.
        name: Of the data set, for tables; made of the path if not given.

    Returns:
        A set whose ids are texts: a file name, or the number that the data set gives.

    Raises:
        DataError: If there is nothing at ``path``, or nothing known; a split or kind is not there
            (it names those that are); something is damaged (it names file and line); texts and
            pictures don't match, or picture files are missing (with counts and the first few).
        ModuleNotFoundError: If an LMDB is to be read and ``lmdb`` is not installed.
        TypeError: If ``kinds`` is one string.
        ValueError: If ``kinds`` is empty.
    """
    kinds = _check_kinds(kinds)
    found = _recognise(Path(path), split)
    if found.split is not None:
        _check_unused(found, kinds=kinds, images=images, image_field=image_field)
        pictures, texts = cn_clip.read_split(found.split)
        return retrieval_set(
            name or found.name, pictures, texts, allow_distractors=allow_distractors is not False
        )
    folder = _picture_folder(found, images)
    if found.format == "jsonl":
        records = jsonl_records(found.path, kinds or _KINDS["jsonl"], image_field or "image")
    elif found.format == "table":
        records = list(table_records(found.path, kinds, image_field))
    elif found.format == "gallery":
        _check_unused(found, image_field=image_field)
        records = gallery_records(found.path, kinds or _KINDS["gallery"])
    else:
        _check_unused(found, kinds=kinds, image_field=image_field)
        records = sidecar_records(found.path, folder)
    return captioned_set(
        name or found.name,
        found.path,
        folder,
        records,
        allow_distractors=bool(allow_distractors),
    )


def _check_kinds(kinds: Sequence[str] | None) -> list[str] | None:
    if isinstance(kinds, str):
        raise TypeError(f"expected a list of kinds, got one str. Wrap it in a list: [{kinds!r}].")
    if kinds is not None and not kinds:
        raise ValueError("expected at least one kind, got none. Leave kinds out for the usual one.")
    return None if kinds is None else list(dict.fromkeys(kinds))


def _check_unused(found: _Found, **options: object) -> None:
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise DataError(
            f"expected no {given[0]} for {found.path}, where the format ({found.format}) has no "
            f"use for it, got {options[given[0]]!r}. Leave it out."
        )


def _picture_folder(found: _Found, images: str | os.PathLike[str] | None) -> Path:
    if images is not None:
        folder = Path(images)
        if not folder.is_dir():
            raise DataError(f"expected a folder of pictures at {folder}, got none. Check images.")
        return folder
    if found.format == "folder":
        return found.path
    beside = found.path.parent / "images"
    return beside if found.format != "gallery" and beside.is_dir() else found.path.parent


def _recognise(path: Path, split: str | None) -> _Found:
    if path.is_dir():
        return _recognise_folder(path, split)
    if not path.exists():
        raise DataError(f"expected a data set at {path}, got nothing there. Check the path.")
    for ending in (cn_clip.TEXTS, cn_clip.IMAGES):
        there = path.name.removesuffix(ending)
        if path.name.endswith(ending) and there in cn_clip.find_splits(path.parent):
            return _recognise_folder(path.parent, _same_split(path, there, split))
    if split is not None:
        _same_split(path, path.stem, split)
    return _recognise_file(path)


def _same_split(path: Path, there: str, split: str | None) -> str:
    if split not in (None, there):
        raise DataError(
            f"expected the split {there} of {path}, which is one file, got {split}. "
            "Give the folder, or leave the split out."
        )
    return there


def _recognise_file(path: Path) -> _Found:
    parent = path.resolve().parent.name
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return _Found("table", path, f"{parent} {path.stem}")
    if suffix != ".jsonl":
        raise _unknown(path)
    _, first = next(json_objects(path), ("", {}))
    if "file_name" in first and "image" not in first:
        return _Found("gallery", path, parent)
    return _Found("jsonl", path, f"{parent} {path.stem}")


def _recognise_folder(folder: Path, split: str | None) -> _Found:
    name = folder.resolve().name
    if (folder / "pairs" / "data.mdb").is_file():  # one split, as cn_clip's --val-data takes it
        _same_split(folder, folder.name, split)
        one = cn_clip.Split("lmdb", folder / "pairs", folder / "imgs")
        return _Found("cn_clip", folder, name, one)
    splits = cn_clip.find_splits(folder)
    if splits:
        chosen = _choose(folder, list(splits), split)
        return _Found("cn_clip", folder, f"{name} {chosen}", splits[chosen])
    if (folder / _GALLERY_FILE).is_file():
        _refuse_split(folder, split)
        return _recognise_file(folder / _GALLERY_FILE)
    files = _caption_files(folder)
    if files:
        return _recognise_file(files[_choose(folder, list(files), split)])
    if any(path.suffix.lower() in EXTENSIONS for path in folder.rglob("*")):
        _refuse_split(folder, split)
        return _Found("folder", folder, name)
    raise _unknown(folder)


def _caption_files(folder: Path) -> dict[str, Path]:
    """By split: the file's name without its ending, or with it where two differ by that only."""
    files = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in _CAPTION_FILES]
    stems = Counter(path.stem for path in files)
    return {path.stem if stems[path.stem] == 1 else path.name: path for path in files}


def _choose(folder: Path, splits: list[str], split: str | None) -> str:
    if split in splits:
        return str(split)
    if split is None and len(splits) == 1:
        return splits[0]
    raise DataError(
        f"expected one of the splits of {folder}, got {split or 'none'}. "
        f"There are: {', '.join(splits)}."
    )


def _refuse_split(folder: Path, split: str | None) -> None:
    if split is not None:
        raise DataError(
            f"expected no split for {folder}, which has none, got {split}. Leave it out, or give "
            "the folder of the split."
        )


def _unknown(path: Path) -> DataError:
    return DataError(f"expected {_FORMATS}; got {path}, which is none of them. Check the path.")
