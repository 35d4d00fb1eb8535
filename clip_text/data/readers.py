"""Reads pictures with captions, to train or to measure on, whichever format they lie in."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from clip_text.data import cn_clip, coco, hub
from clip_text.data.caption_tables import table_records
from clip_text.data.captions import (
    Record,
    captioned_set,
    gallery_records,
    jsonl_records,
    sidecar_records,
)
from clip_text.data.collection import Problem, RetrievalSet, entry, first_error, retrieval_set
from clip_text.data.download import downloaded
from clip_text.data.formats import Found, recognise
from clip_text.data.parquet import ParquetRows
from clip_text.data.rows import read_rows
from clip_text.data.shards import is_url
from clip_text.data.webdataset import read_tars
from clip_text.errors import DataError
from clip_text.images import ImageSource

__all__ = ["read_retrieval_set"]

_Read = tuple[list[Record], Path | Mapping[str, ImageSource]]


def read_retrieval_set(
    path: str | os.PathLike[str],
    *,
    split: str | None = None,
    kinds: Sequence[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    image_field: str | None = None,
    allow_distractors: bool | None = None,
    name: str | None = None,
    problems: list[Problem] | None = None,
) -> RetrievalSet:
    """Read pictures, texts and which answers which; the format is found out.

    ===========================  ==============================================================
    what lies at ``path``        what it is taken for
    ===========================  ==============================================================
    a .jsonl file                captions: ``image``, and fields of captions such as ``zh``
    metadata.jsonl, its folder   the gallery's: ``file_name``, ``caption``, ``names``, ``tags``
    a .csv, .tsv or .xlsx file   captions, a row each, columns named in a header
    captions_….json              COCO's: ``images`` and ``annotations``; or a folder with such
    a folder of such files       one of them, by ``split``: ``val`` is val.jsonl
    a folder of pictures         a .txt beside each, a caption a line
    a .parquet file, or folder   a picture a row: bytes, Hugging Face's struct, or paths
    a .tar file, or folder       webdataset: files of one name are a sample
    ``x-{000..009}.tar``, URLs   the same, of several tars; or a .txt that lists them
    ``hf://owner/name``          a data set of Hugging Face's hub
    a folder with a state.json   what ``save_to_disk`` wrote; or with a dataset_dict.json
    a folder with *_texts.jsonl  Chinese-CLIP's layout (MUGE, Flickr30K-CN, COCO-CN); or with
                                 a folder ``lmdb``, or this folder, or one split in it
    ===========================  ==============================================================

    All but the sidecar texts and Chinese-CLIP's layout may have a field ``negatives``: captions
    that look right for a picture and are wrong.

    Args:
        path: A file or folder; a pattern, URL or name of the hub as a str.
        split: Which one of a folder that has several, such as ``"valid"``.
        kinds: Which captions. Of jsonl: fields; ``zh`` or another usual name if not given. Of the
            gallery's form: ``"caption"`` (if not given), ``"tags"``, languages of ``names``. Of a
            table, Parquet or Hugging Face's datasets: columns. Of webdataset: fields of the .json.
            Texts then carry their ``kind``.
        images: Folder that file names are relative to. If not given: the folder ``images`` beside
            a file, or else the file's own.
        image_field: Field or column of the picture, if it has an uncommon name.
        allow_distractors: Accept pictures that no text describes. If not given, only
            Chinese-CLIP's layout may have them: published figures rank all of its pictures.
        name: Name of the data set, for tables; made of the path if not given.
        problems: A list to be told what is wrong, instead of an error at the first of it; what
            can be read is read. Pictures that are missing and captions without words then stay in
            the set. For :mod:`clip_text.data.check`; not to train or to measure on.

    Returns:
        A set whose ids are texts: a file name, a key, or the number that the data set gives.

    Raises:
        DataError: If there is nothing at ``path``, or nothing known; a split or kind is not there
            (it names those that are); something is damaged (it names file and line); texts and
            pictures don't match, or picture files are missing (with counts and the first few).
        MissingPackageError: If ``lmdb``, ``pyarrow`` or ``datasets`` is needed and not installed.
        TypeError: If ``kinds`` is one string.
        ValueError: If ``kinds`` is empty.
    """
    kinds = _check_kinds(kinds)
    found = recognise(path, split, problems)
    if found.layout is not None:
        _check_unused(found, kinds=kinds, images=images, image_field=image_field)
        pictures, texts = cn_clip.read_split(found.layout, problems)
        return retrieval_set(
            name or found.name,
            pictures,
            texts,
            allow_distractors=allow_distractors is not False,
            problems=problems,
        )
    title = name or found.name
    if found.format == "hub":
        title, read = _read_hub(found, kinds, images, image_field, problems)
        title = name or title
    else:
        read = _read(found, kinds, images, image_field, problems)
    records, source = read
    if not records and (first := first_error(problems)):
        raise DataError(first.message)  # the reason is more than that there is nothing
    return captioned_set(
        title,
        found.source,
        source,
        records,
        allow_distractors=bool(allow_distractors),
        problems=problems,
    )


def _read(
    found: Found,
    kinds: list[str] | None,
    images: str | os.PathLike[str] | None,
    image_field: str | None,
    problems: list[Problem] | None,
) -> _Read:
    if found.format == "webdataset":
        _check_unused(found, images=images, image_field=image_field)
        return read_tars(_local(found.files, problems), kinds, problems)
    folder = _picture_folder(found, images)
    if found.format == "parquet":
        rows = ParquetRows([Path(file) for file in found.files], found.source, problems)
        # without a file that can be read, problems has the reason
        empty: _Read = [], folder
        return read_rows(rows, folder, kinds, image_field, problems) if rows.types else empty
    if found.format == "coco":
        _check_unused(found, image_field=image_field)
        annotated = coco.coco_records(found.path, kinds, problems)
        home = folder if images is not None else coco.picture_folder(found.path, annotated)
        return annotated, home
    if found.format in ("jsonl", "table"):
        records_of = jsonl_records if found.format == "jsonl" else table_records
        return records_of(found.path, kinds, image_field, problems), folder
    if found.format == "gallery":
        _check_unused(found, image_field=image_field)
        return gallery_records(found.path, kinds or ("caption",), problems), folder
    _check_unused(found, kinds=kinds, image_field=image_field)
    return sidecar_records(found.path, folder, problems), folder


def _read_hub(
    found: Found,
    kinds: list[str] | None,
    images: str | os.PathLike[str] | None,
    image_field: str | None,
    problems: list[Problem] | None,
) -> tuple[str, _Read]:
    dataset, split = hub.load(found.source, found.split)
    folder = found.path if images is None else _picture_folder(found, images)
    rows = hub.HubRows(dataset, f"{found.source} {split}".strip())
    read = read_rows(rows, folder, kinds, image_field, problems)
    return f"{found.name} {split}".strip(), read


def _local(files: Sequence[str], problems: list[Problem] | None) -> list[Path]:
    """Files that are here, after what is to be downloaded was."""
    paths = []
    for file in files:
        with entry(problems, file):
            path = downloaded(file) if is_url(file) else Path(file)
            if not path.is_file():
                raise DataError(f"expected a tar at {file}, got nothing there. Check the name.")
            paths.append(path)
    return paths


def _check_kinds(kinds: Sequence[str] | None) -> list[str] | None:
    if isinstance(kinds, str):
        raise TypeError(f"expected a list of kinds, got one str. Wrap it in a list: [{kinds!r}].")
    if kinds is not None and not kinds:
        raise ValueError("expected at least one kind, got none. Leave kinds out for the usual one.")
    return None if kinds is None else list(dict.fromkeys(kinds))


def _check_unused(found: Found, **options: object) -> None:
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise DataError(
            f"expected no {given[0]} for {found.source}, where the format ({found.format}) has no "
            f"use for it, got {options[given[0]]!r}. Leave it out."
        )


def _picture_folder(found: Found, images: str | os.PathLike[str] | None) -> Path:
    if images is not None:
        folder = Path(images)
        if not folder.is_dir():
            raise DataError(f"expected a folder of pictures at {folder}, got none. Check images.")
        return folder
    if found.format == "folder":
        return found.path
    home = found.path if found.path.is_dir() else found.path.parent
    beside = home / "images"
    return beside if found.format != "gallery" and beside.is_dir() else home
