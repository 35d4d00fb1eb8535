"""Finds out what lies at a path, a pattern or a URL."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from clip_text.data import cn_clip, coco, hub
from clip_text.data.collection import Problem
from clip_text.data.shards import expand, find_shards, is_pattern, is_url, listed
from clip_text.data.tables import TABLES, is_table
from clip_text.data.text_files import json_objects, open_file
from clip_text.errors import DataError
from clip_text.images import is_read
from clip_text.names import DataFormat

FORMATS = (
    "a .jsonl, .csv, .tsv or .xlsx file of captions, COCO's captions_….json, .parquet, "
    "webdataset's .tar (a file, a folder, a pattern like x-{000..099}.tar, a .txt that lists them, "
    "or URLs), a folder with a metadata.jsonl, a folder of pictures with a .txt beside each, what "
    "Hugging Face's save_to_disk wrote or hf://owner/name, or Chinese-CLIP's layout "
    "({split}_texts.jsonl and {split}_imgs.tsv, or lmdb/{split})"
)

_GALLERY_FILE = "metadata.jsonl"
_OF_ONE_FILE = ("jsonl", "gallery", "table", "coco", "parquet", "webdataset")
_SHARDED: tuple[tuple[str, DataFormat], ...] = ((".tar", "webdataset"), (".parquet", "parquet"))
# .parquet after .tar: img2dataset writes both, and its pictures are in the tars
_FOLDED = re.compile(r"^(hf|https?):/(?=[^/])")


@dataclass(frozen=True, slots=True)
class Found:
    """What lies somewhere.

    Args:
        format: Name of the format that it has.
        source: The path or address, for errors.
        path: The file or folder to read; of patterns, lists and URLs the folder of none.
        name: Name of the data set, for tables.
        split: Split of Hugging Face's datasets to read, if one is wanted.
        files: Parquet files, or tars and URLs of tars.
        layout: Where the format is Chinese-CLIP's.
        part: Name of the split that was chosen in a folder, where that has some.
    """

    format: DataFormat
    source: str
    path: Path
    name: str
    split: str | None = None
    files: Sequence[str] = field(default=())
    layout: cn_clip.Split | None = None
    part: str = ""


def recognise(
    source: str | os.PathLike[str],
    split: str | None,
    problems: list[Problem] | None = None,
    wanted: DataFormat | None = None,
) -> Found:
    """Find out what lies at a path, a pattern or a URL; of several splits, choose one.

    Args:
        source: A path, a pattern or a URL to look at.
        split: Split to read, where there are several.
        problems: A list to be told of lines that can't be read, instead of an error.
        wanted: The format that is meant, where a folder has files of several, or a file's name
            says none.

    Raises:
        DataError: If there is nothing, or nothing known, or not that split or format.
    """
    found = _recognise(source, split, problems, wanted)
    if wanted not in (None, found.format):
        raise DataError(
            f"expected {found.source} in the format {wanted}, got {found.format}. Name that one, "
            "or leave the format out."
        )
    return found


def _recognise(
    source: str | os.PathLike[str],
    split: str | None,
    problems: list[Problem] | None,
    wanted: DataFormat | None,
) -> Found:
    text = _FOLDED.sub(r"\1://", os.fspath(source))  # a Path folds two slashes into one
    if text.startswith(hub.SCHEME):
        return Found("hub", text, Path(), text.removeprefix(hub.SCHEME), split)
    path = Path(text)
    if is_url(text) or (is_pattern(text) and not path.exists()):
        files = expand(text)
        _check_tars(text, files, split)
        return Found("webdataset", text, path.parent, _shard_name(text), files=files)
    if path.is_dir():
        return _recognise_folder(path, split, problems, wanted)
    if not path.exists():
        raise DataError(f"expected a data set at {path}, got nothing there. Check the path.")
    for ending in (cn_clip.TEXTS, cn_clip.IMAGES):
        there = path.name.removesuffix(ending)
        is_asked = path.name.endswith(ending) and wanted in (None, "cn_clip")
        if is_asked and there in cn_clip.find_splits(path.parent):
            there = _same_split(path, there, split)
            return _recognise_folder(path.parent, there, problems, wanted)
    if split is not None:
        _same_split(path, path.stem, split)
    if wanted is not None and wanted in _OF_ONE_FILE:
        open_file(path).close()
        files = [text] if wanted in dict(_SHARDED).values() else []
        return Found(wanted, text, path, f"{path.resolve().parent.name} {path.stem}", files=files)
    return _recognise_file(path, problems)


def holds_data_set(folder: Path) -> bool:
    """Say whether a folder without pictures holds a data set, or splits of one."""
    asked: tuple[DataFormat, ...] = get_args(DataFormat)
    return bool(
        hub.is_saved(folder)
        or (folder / "pairs" / "data.mdb").is_file()
        or cn_clip.find_splits(folder)
        or _caption_files(folder, asked)
        or coco.find_splits(folder)
        or any(find_shards(folder, ending) for ending, _ in _SHARDED)
    )


def _check_tars(source: str, files: Sequence[str], split: str | None) -> None:
    other = [one for one in files if not one.split("?")[0].lower().endswith(".tar")]
    if other or not files:
        raise DataError(
            f"expected names of .tar files in {source}, got {other[0] if other else 'none'}. "
            "Patterns, lists and URLs are of webdataset's tars: correct the name."
        )
    if split is not None:
        raise DataError(
            f"expected no split for {source}, which names its files, got {split}. Leave it out."
        )


def _shard_name(source: str) -> str:
    stem = re.sub(r"\{[^{}]*\}", "", source.split("?", maxsplit=1)[0].rpartition("/")[2])
    return stem.removesuffix(".tar").strip("-_.") or source


def _same_split(path: Path, there: str, split: str | None) -> str:
    if split not in (None, there):
        raise DataError(
            f"expected the split {there} of {path}, which is one file, got {split}. "
            "Give the folder, or leave the split out."
        )
    return there


def _recognise_file(path: Path, problems: list[Problem] | None) -> Found:
    parent = path.resolve().parent.name
    suffix, name, source = path.suffix.lower(), f"{parent} {path.stem}", str(path)
    open_file(path).close()  # one that may not be read is told of as such
    if is_table(path):
        return Found("table", source, path, name)
    if suffix == ".json" and coco.is_coco(path):
        return Found("coco", source, path, name)
    for ending, sharded in _SHARDED:
        if suffix == ending:
            return Found(sharded, source, path, name, files=[source])
    if suffix == ".txt":
        files = listed(path)
        _check_tars(source, files, None)
        return Found("webdataset", source, path, name, files=files)
    if suffix not in (".jsonl", ".json"):
        raise _unknown(path)
    # what is wrong with the first lines is told when all of them are read
    _, first = next(json_objects(path, None if problems is None else []), ("", {}))
    if "file_name" in first and "image" not in first and suffix == ".jsonl":
        return Found("gallery", source, path, parent)
    return Found("jsonl", source, path, name)


def _recognise_folder(
    folder: Path, split: str | None, problems: list[Problem] | None, wanted: DataFormat | None
) -> Found:
    name, source = folder.resolve().name, str(folder)
    asked: tuple[DataFormat, ...] = get_args(DataFormat) if wanted is None else (wanted,)
    if "hub" in asked and hub.is_saved(folder):
        return Found("hub", source, folder, name, split)
    if "cn_clip" in asked and (layout := _recognise_cn_clip(folder, split)):
        return layout
    if "gallery" in asked and (folder / _GALLERY_FILE).is_file():
        _refuse_split(folder, split)
        return _recognise_file(folder / _GALLERY_FILE, problems)
    files = _caption_files(folder, asked) or (coco.find_splits(folder) if "coco" in asked else {})
    if files:
        return _recognise_file(files[_choose(folder, list(files), split)], problems)
    for ending, sharded in _SHARDED:
        if sharded in asked and (shards := find_shards(folder, ending)):
            chosen = _choose(folder, list(shards), split)
            title = name if chosen == name else f"{name} {chosen}"
            paths = [str(path) for path in shards[chosen]]
            return Found(sharded, source, folder, title, files=paths, part=chosen)
    if "folder" in asked and any(map(is_read, folder.rglob("*"))):
        _refuse_split(folder, split)
        return Found("folder", source, folder, name)
    raise _unknown(folder)


def _recognise_cn_clip(folder: Path, split: str | None) -> Found | None:
    name, source = folder.resolve().name, str(folder)
    if (folder / "pairs" / "data.mdb").is_file():  # one split, as cn_clip's --val-data takes it
        _same_split(folder, folder.name, split)
        one = cn_clip.Split("lmdb", folder / "pairs", folder / "imgs")
        return Found("cn_clip", source, folder, name, layout=one)
    splits = cn_clip.find_splits(folder)
    if not splits:
        return None
    chosen = _choose(folder, list(splits), split)
    title, layout = f"{name} {chosen}", splits[chosen]
    return Found("cn_clip", source, folder, title, layout=layout, part=chosen)


def _caption_files(folder: Path, asked: Sequence[DataFormat]) -> dict[str, Path]:
    """By split: the file's name without its ending, or with it where two differ by that only."""
    endings = [
        *([".jsonl"] if "jsonl" in asked else []),
        *(TABLES if "table" in asked else []),
    ]
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in endings
        and not path.name.startswith((".", "~$"))  # what macOS and Excel leave beside a file
    ]
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
    return DataError(f"expected {FORMATS}; got {path}, which is none of them. Check the path.")
