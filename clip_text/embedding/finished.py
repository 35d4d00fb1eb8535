"""Reads shards back, as finished features to index."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clip_text.data.cells import arrow
from clip_text.data.described import Described
from clip_text.data.finished import Finished, FinishedSet
from clip_text.embedding.manifest import MANIFEST, Folder, Manifest
from clip_text.embedding.places import is_remote
from clip_text.embedding.shards import Shard
from clip_text.errors import DataError

__all__ = ["Embedded", "is_embedded", "read_embedded"]

_ROWS = 1024  # read at a time


@dataclass(frozen=True, slots=True)
class Embedded:
    """Shards that are done, all of them.

    Args:
        manifest: Of which model and source they are.
        features: Their rows, read a few at a time as they are gone through.
    """

    manifest: Manifest
    features: FinishedSet


def is_embedded(folder: Path) -> bool:
    """Say whether a folder has shards of ``clip-text embed``, or a manifest that looks like it."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            return b'"clip-text-embeddings-' in file.read(200)
    except OSError:
        return False


def read_embedded(folder: Path) -> Embedded:
    """Open the shards of a folder.

    Raises:
        DataError: If there are none, or not all of them are done.
    """
    manifest = Folder(folder).read()
    if manifest is None:
        raise DataError(
            f"expected shards of clip-text embed in {folder}, got no {MANIFEST}. Check the path."
        )
    shards = [Shard(number, ()) for number in range(manifest.shards)]
    counts: list[tuple[Path, int]] = []
    for shard in shards:
        done = Folder(folder).done(shard)
        if done is None:
            raise DataError(
                f"expected all {manifest.shards:,} shards in {folder} to be done, got no whole "
                f"{shard.name}. Run the same clip-text embed again: it goes on."
            )
        counts.append((Folder(folder).shard_file(shard), done.rows))

    def go(whole: FinishedSet) -> Iterator[Finished]:
        for file, _ in counts:
            yield from _rows(file, whole)

    count = sum(rows for _, rows in counts)
    name = str(folder.resolve())
    return Embedded(manifest, FinishedSet(name, manifest.embed_dim, count, go))


def _rows(file: Path, whole: FinishedSet) -> Iterator[Finished]:
    pa = arrow()
    import pyarrow.parquet as pq  # noqa: PLC0415  (optional)

    at = 0
    try:
        with pq.ParquetFile(file, pre_buffer=False) as parquet:
            for part in parquet.iter_batches(_ROWS, use_threads=False):
                for row, unit in zip(_said(part), whole.as_units(_units(part)), strict=True):
                    yield _finished(row, unit, f"{file.name}, row {at}")
                    at += 1
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(
            f"expected a shard of clip-text embed in {file}, got: "
            f"{' '.join(str(error).split())[:200]}. Remove it and run the same embed again."
        ) from error


def _said(part: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    names = ("image_id", "caption", "path", "metadata")
    rows: list[dict[str, Any]] = part.select(names).to_pylist()
    return rows


def _units(part: Any) -> np.ndarray[Any, Any]:  # noqa: ANN401
    column = part.column("feature")
    values: np.ndarray[Any, Any] = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(part.num_rows, column.type.list_size)


def _finished(row: dict[str, Any], unit: Any, place: str) -> Finished:  # noqa: ANN401
    others, path = json.loads(row["metadata"]), row["path"]
    if path and is_remote(path):
        others, path = {"url": path, **others}, None
    said = Described(row["image_id"], {"": [row["caption"]]} if row["caption"] else {}, others)
    picture = Path(path) if path else None
    if isinstance(unit, str):
        return Finished(said, place, None, unit, picture)
    return Finished(said, place, unit, picture=picture)
