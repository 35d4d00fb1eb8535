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
from clip_text.data.described import PictureSet, described_records, described_texts
from clip_text.data.download import downloaded
from clip_text.data.finished import FinishedSet, feature_column, read_table
from clip_text.data.formats import Found, recognise
from clip_text.data.parquet import ParquetRows
from clip_text.data.rows import PICTURE_COLUMNS, read_rows
from clip_text.data.shards import is_pattern, is_url
from clip_text.data.tables import find_columns
from clip_text.data.webdataset import read_tars
from clip_text.errors import DataError
from clip_text.images import ImageSource
from clip_text.names import DataFormat

__all__ = ["read_finished", "read_pictures", "read_retrieval_set"]

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
        split, read = _read_hub(found, kinds, images, image_field, problems)
        title = name or f"{found.name} {split}".strip()
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


def read_pictures(
    path: str | os.PathLike[str],
    *,
    split: str | None = None,
    kinds: Sequence[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    image_field: str | None = None,
    wanted: DataFormat | None = None,
) -> PictureSet:
    """Read pictures with all that is said of them, to be searched among rather than learnt from.

    Reads what :func:`read_retrieval_set` does, but needs no captions, keeps the other fields and
    columns, and takes what can be read of data that is damaged. Ids and what is said are in memory
    then, pictures are not: each is read when it is asked for.

    Args:
        path: A file or folder; a pattern, URL or name of the hub as a str.
        split: Which one of a folder that has several, such as ``"valid"``.
        kinds: Which captions; see there.
        images: Folder that file names are relative to; see there.
        image_field: Field or column of the picture, if it has an uncommon name.
        wanted: The format that is meant, where a folder has files of several, or a file's name
            says none.

    Raises:
        DataError: If there is nothing at ``path``, or nothing known, or no picture; a split,
            format or kind is not there.
        MissingPackageError: If ``lmdb``, ``pyarrow`` or ``datasets`` is needed and not installed.
    """
    kinds, problems = _check_kinds(kinds), list[Problem]()
    found = recognise(path, split, problems, wanted)
    part = found.part
    there: Mapping[str, ImageSource] | Path
    if found.layout is not None:
        _check_unused(found, kinds=kinds, images=images, image_field=image_field)
        there, texts = cn_clip.read_split(found.layout, problems, whole=True)
        pictures = described_texts(there, texts, found.source, problems)
    else:
        if found.format == "hub":
            part, read = _read_hub(found, kinds, images, image_field, problems, whole=True)
        else:
            read = _read(found, kinds, images, image_field, problems, whole=True)
        records, there = read
        pictures = described_records(records, there)
    if not pictures:
        first = first_error(problems)
        told = f"expected pictures in {found.source}, got none. Check the path."
        raise DataError(first.message if first else told)
    return PictureSet(f"{_place(found)} {part}".strip(), pictures, there, problems)


def read_finished(
    path: str | os.PathLike[str],
    *,
    split: str | None = None,
    kinds: Sequence[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    feature_field: str | None = None,
    id_field: str | None = None,
    wanted: DataFormat | None = None,
) -> FinishedSet | None:
    """Read Parquet of finished features; None if something else lies there.

    Args:
        path: As for :func:`read_pictures`.
        split: See there.
        kinds: See there.
        images: Folder that paths of pictures are relative to; see there.
        feature_field: Column of the features. If not given, a table that has a column of pictures
            is not one of features.
        id_field: Column of the ids; ``image_id``, ``id`` or ``key`` if not given.
        wanted: See there.

    Raises:
        DataError: If the named columns are not there, or something is not of this form.
    """
    found = recognise(path, split, [], wanted)
    if found.format != "parquet":
        return None
    problems: list[Problem] = []
    rows = ParquetRows([Path(file) for file in found.files], found.source, problems)
    if not rows.types:
        raise DataError(problems[0].message)
    column = feature_column(rows, feature_field)
    has_pictures = bool(find_columns(PICTURE_COLUMNS, rows.types))
    if column is None or (has_pictures and feature_field is None):
        return None
    if problems:  # of pictures, what can be read is taken; of features, all or nothing
        raise DataError(problems[0].message)
    folder = _picture_folder(found, images)
    finished = read_table(rows, column, folder, kinds=_check_kinds(kinds), id_field=id_field)
    finished.name = f"{_place(found)} {found.part}".strip()
    return finished


def _place(found: Found) -> str:
    """Say where something lies, the same from every folder that the question is asked in."""
    if is_url(found.source) or found.source.startswith(hub.SCHEME):
        return found.source
    if is_pattern(found.source):
        return os.path.abspath(found.source)  # noqa: PTH100  (no file)
    return os.path.realpath(found.source)


def _read(
    found: Found,
    kinds: list[str] | None,
    images: str | os.PathLike[str] | None,
    image_field: str | None,
    problems: list[Problem] | None,
    *,
    whole: bool = False,
) -> _Read:
    if found.format == "webdataset":
        _check_unused(found, images=images, image_field=image_field)
        return read_tars(_local(found.files, problems), kinds, problems, whole=whole)
    folder = _picture_folder(found, images)
    if found.format == "parquet":
        rows = ParquetRows([Path(file) for file in found.files], found.source, problems)
        # without a file that can be read, problems has the reason
        empty: _Read = [], folder
        options = (folder, kinds, image_field, problems)
        return read_rows(rows, *options, whole=whole) if rows.types else empty
    if found.format == "coco":
        _check_unused(found, image_field=image_field)
        annotated = coco.coco_records(found.path, kinds, problems, whole=whole)
        home = folder if images is not None else coco.picture_folder(found.path, annotated)
        return annotated, home
    if found.format in ("jsonl", "table"):
        records_of = jsonl_records if found.format == "jsonl" else table_records
        return records_of(found.path, kinds, image_field, problems, whole=whole), folder
    if found.format == "gallery":
        _check_unused(found, image_field=image_field)
        return gallery_records(found.path, kinds or ("caption",), problems, whole=whole), folder
    _check_unused(found, kinds=kinds, image_field=image_field)
    return sidecar_records(found.path, folder, problems), folder


def _read_hub(
    found: Found,
    kinds: list[str] | None,
    images: str | os.PathLike[str] | None,
    image_field: str | None,
    problems: list[Problem] | None,
    *,
    whole: bool = False,
) -> tuple[str, _Read]:
    """The name of the split, and what was read."""
    dataset, split = hub.load(found.source, found.split)
    folder = found.path if images is None else _picture_folder(found, images)
    rows = hub.HubRows(dataset, f"{found.source} {split}".strip())
    return split, read_rows(rows, folder, kinds, image_field, problems, whole=whole)


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
