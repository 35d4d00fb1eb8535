"""Finds out what is to be embedded, and counts it: Parquet, webdataset's tars, listings, folders.

=============================  ================================================================
what is named                  what it is taken for
=============================  ================================================================
a .parquet                     a picture a row: bytes, Hugging Face's struct, or paths and URLs
a .tar                         webdataset: files of one name are a sample
a .txt                         a listing: a path or URL a line; of pictures, or of either above
a .jsonl                       a listing: an object a line, with captions and what else is said
a folder, a glob, braces       what is found there: pictures; or else tars; or else Parquet
=============================  ================================================================

Each may be a URL of any file system that fsspec knows.
"""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from clip_text.data.cells import arrow
from clip_text.data.shards import expand, is_pattern
from clip_text.embedding.places import (
    as_spelt,
    find_below,
    find_matching,
    is_folder,
    is_glob,
    is_remote,
    join,
    open_place,
    size_and_tail,
)
from clip_text.embedding.shards import Reading, Source, SourceFile, SourceFormat
from clip_text.errors import DataError
from clip_text.images import EXTENSIONS

if TYPE_CHECKING:
    from clip_text.embedding.manifest import Folder
    from clip_text.embedding.options import Wanted

__all__ = ["FORMATS", "find_source"]

FORMATS = (
    "Parquet (.parquet), webdataset (.tar), a listing of paths or URLs (.txt, .jsonl), or a folder "
    "or pattern (*, **, {000..099}) of these or of pictures"
)
_PARQUET, _TAR, _LISTINGS = ".parquet", ".tar", (".txt", ".jsonl")
_AT_ONCE = 16
"""Files that are looked at side by side: each is a request or two of an object store."""
_BLOCK = 1 << 20  # bytes


def find_source(asked: str, wanted: "Wanted", out: "Folder", shard_size: int) -> Source:
    """Find out what is to be embedded, and count it.

    Args:
        asked: A path, a pattern or a URL.
        wanted: How it is to be read.
        out: Where shards go; the names of a folder's pictures are kept there.
        shard_size: Pictures of a shard.

    Raises:
        DataError: If there is nothing, or nothing known, or it cannot be read.
        MissingPackageError: If ``pyarrow`` or ``fsspec`` is needed and not installed.
    """
    name = asked if is_remote(asked) else os.path.abspath(asked)  # noqa: PTH100  (may be a pattern)
    places, folder = _find(name, wanted)
    form = _form(asked, places)
    if form == "pictures":
        places, form = [str(out.listing(_lines(places, folder)))], "listing"
    elif form == "listing":
        folder = wanted.images or _home_of_pictures(places[0])
        if inner := _listed_data(places[0]):
            places, form = inner, _form(asked, inner)
    elif form == "parquet":
        folder = wanted.images or _home_of_pictures(places[0])
    assert form != "pictures"
    if form == "listing" and wanted.id_field:
        raise DataError(
            f"expected no id_field for {asked}, a listing, whose ids are the names it lists, got "
            f"{wanted.id_field}. Leave it out."
        )
    if form == "webdataset" and (option := wanted.of_columns):
        raise DataError(
            f"expected no {option} for {asked}, webdataset's tars, which have no use for it. "
            "Leave it out."
        )
    files = _look_at(places, _names(places), form, shard_size)
    reading = Reading(
        form,
        folder,
        len(files) > 1,
        tuple(wanted.kinds) if wanted.kinds else None,
        wanted.image_field,
        wanted.id_field,
    )
    source = Source(name, tuple(files), reading)
    if source.rows == 0:
        raise DataError(f"expected pictures in {asked}, got none. Check the path.")
    return source


def _find(name: str, wanted: "Wanted") -> tuple[list[str], str]:
    """Name the files that are meant, and the folder that they lie in."""
    if is_pattern(name) and not (not is_remote(name) and Path(name).exists()):
        return expand(name), _parent(name)
    if is_glob(name):
        found = find_matching(name)
        return found, wanted.images or _common_folder(found)
    if is_folder(name):
        return find_below(name), as_spelt(name)
    return [name], _parent(name)


def _parent(name: str) -> str:
    return name.rpartition("/")[0] if is_remote(name) else str(Path(name).parent)


def _common_folder(places: Sequence[str]) -> str:
    if not places:
        return ""
    parents = [_parent(place).split("/") for place in places]
    shared = zip(*parents, strict=False)
    return "/".join(parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, shared))


def _home_of_pictures(place: str) -> str:
    """The folder that names in a file are relative to: ``images`` beside it, or its own."""
    home = _parent(place)
    beside = join(home, "images")
    return beside if is_folder(beside) else home


def _ending(place: str) -> str:
    path = place.split("?", maxsplit=1)[0] if is_remote(place) else place
    return PurePosixPath(path).suffix.lower()


def _form(asked: str, places: list[str]) -> "SourceFormat | Literal['pictures']":
    """Say what files are; those of other kinds are taken out of ``places``."""
    if len(places) == 1 and _ending(places[0]) in _LISTINGS:
        return "listing"
    endings: tuple[tuple[SourceFormat | Literal["pictures"], Callable[[str], bool]], ...] = (
        ("pictures", EXTENSIONS.__contains__),
        ("webdataset", _TAR.__eq__),
        ("parquet", _PARQUET.__eq__),
    )
    for form, is_of in endings:
        if found := [place for place in places if is_of(_ending(place))]:
            places[:] = found
            return form
    got = (places[0] if places else "") + (f" and {len(places) - 1:,} more" if places[1:] else "")
    raise DataError(
        f"expected {FORMATS} at {asked}, got {got if places else 'nothing there'}. Check the path."
    )


def _lines(places: list[str], folder: str) -> list[str]:
    """Write the names of pictures, relative to a folder, as lines of a listing."""
    lines = []
    for place in places:
        inside = place.startswith(f"{folder.rstrip('/')}/")
        image_id = place[len(folder.rstrip("/")) + 1 :] if inside else place
        lines.append(json.dumps({"image": image_id}))
    return lines


def _listed_data(listing: str) -> list[str]:
    """The tars or Parquet files that a listing names; none where it names pictures."""
    if _ending(listing) != ".txt":
        return []
    home, found = _parent(listing), list[str]()
    with open_place(listing) as file:
        for line in file:
            text = line.decode("utf-8", "replace").strip()
            if not text or text.startswith("#"):
                continue
            if _ending(text) not in (_TAR, _PARQUET):
                return []
            found += [join(home, one) for one in expand(text)]
    return found


def _names(places: Sequence[str]) -> list[str]:
    """What files are called in ids: as shortly as tells one from another."""
    names = [place.rpartition("/")[2] for place in places]
    if len(set(names)) == len(names):
        return names
    folder = _common_folder(places)
    return [place[len(folder) :].lstrip("/") for place in places]


def _look_at(
    places: Sequence[str], names: Sequence[str], form: SourceFormat, shard_size: int
) -> list[SourceFile]:
    """Look at each file: whether it is there, its size, its end, and how many pictures it names."""

    def look(place: str, name: str) -> SourceFile:
        if form == "parquet":
            size, tail = size_and_tail(place)
            return SourceFile(place, name, size, tail, _parquet_rows(place))
        if form == "listing":
            size, tail, rows, starts = _read_listing(place, shard_size)
            return SourceFile(place, name, size, tail, rows, starts, shard_size)
        return SourceFile(place, name, *size_and_tail(place))

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(look, places, names))


def _parquet_rows(place: str) -> int:
    pa = arrow()
    import pyarrow.parquet as pq  # noqa: PLC0415  (optional)

    try:
        with open_place(place) as file, pq.ParquetFile(file) as parquet:
            return int(parquet.metadata.num_rows)
    except pa.ArrowException as error:
        raise DataError(
            f"expected a Parquet file that can be read at {place}, got: "
            f"{' '.join(str(error).split())[:200]}. Download or write it again."
        ) from error


def _read_listing(place: str, stride: int) -> tuple[int, str, int, tuple[int, ...]]:
    """Bytes and digest of a listing, its lines, and where each ``stride`` of them begin."""
    import hashlib  # noqa: PLC0415

    digest, starts, lines, at = hashlib.blake2b(digest_size=16), [0], 0, 0
    with open_place(place) as file:
        last = b"\n"
        while block := file.read(_BLOCK):
            digest.update(block)
            found = -1
            while (found := block.find(b"\n", found + 1)) >= 0:
                lines += 1
                if lines % stride == 0:
                    starts.append(at + found + 1)
            at, last = at + len(block), block[-1:]
    if last != b"\n":
        lines += 1
    return at, digest.hexdigest(), lines, tuple(starts)
