"""What the folder of shards says of itself, and which of them are done.

==============================  ==============================================================
``manifest.json``               model, source, sizes: all that the bytes of shards depend on
``shard-000012.parquet``        features of one slice of the source
``failed/shard-000012.jsonl``   what of it was set aside, a line each with the reason; if any
``done/shard-000012.json``      written last: that the shard is whole, with its counts
``listing/….jsonl``             the names of the pictures, of a folder or a pattern
==============================  ==============================================================

Each file appears whole, by a rename. A shard counts as done by its mark alone, so that whoever dies
in the midst of one leaves nothing that has to be undone.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from clip_text.embedding.options import Dtype
from clip_text.embedding.shards import Shard
from clip_text.errors import DataError, StorageError
from clip_text.storage import digest, partial_file, write_json

__all__ = ["Done", "Facts", "Folder", "Manifest"]

MANIFEST = "manifest.json"
_FORMAT = "clip-text-embeddings-1"
_NEW = "Name another folder for the shards"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rows of a model depend on.

    Args:
        fingerprint: Of the model.
        embed_dim: Width of its rows.
        runtime: What computes pictures: ``"openvino"``, ``"openvino exported"``,
            ``"torch on cuda"``.
        precision: What they are computed in.
    """

    fingerprint: str
    embed_dim: int
    runtime: str
    precision: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that the bytes of shards depend on.

    Args:
        model: What the model was called.
        fingerprint: Of the model.
        embed_dim: Width of the features.
        runtime: What computes pictures.
        precision: What they are computed in.
        dtype: How features are stored.
        batch_size: Pictures per forward pass.
        threads: That compute in each worker.
        shard_size: Pictures of a shard, but for tars.
        shards: How many there are.
        source: Where the pictures come from; see :class:`~clip_text.embedding.shards.Source`.
    """

    model: str
    fingerprint: str
    embed_dim: int
    runtime: str
    precision: str
    dtype: Dtype
    batch_size: int
    threads: int
    shard_size: int
    shards: int
    source: dict[str, Any]

    @property
    def facts(self) -> Facts:
        """What the rows depend on, of the model."""
        return Facts(self.fingerprint, self.embed_dim, self.runtime, self.precision)

    def check(self, asked: Self, folder: Path) -> None:
        """Refuse to go on with something else than before.

        Args:
            asked: What is to be done now.
            folder: Of the shards, for errors.

        Raises:
            DataError: If it is not what was begun.
        """
        if asked.fingerprint != self.fingerprint:
            raise DataError(
                f"expected the model of {folder / MANIFEST} ({self.model}, fingerprint "
                f"{self.fingerprint}), got {asked.model} ({asked.fingerprint}). {_NEW}, or run "
                "with the model it was begun with."
            )
        if _facts(asked.source) != _facts(self.source):
            raise DataError(
                f"expected the source of {folder / MANIFEST} ({self.source.get('name')}) as it "
                f"was, got {asked.source['name']}{_difference(self.source, asked.source)}. {_NEW}."
            )
        for name in ("runtime", "precision", "dtype", "batch_size", "threads", "shard_size"):
            before, now = getattr(self, name), getattr(asked, name)
            if before != now:
                raise DataError(
                    f"expected the {name.replace('_', ' ')} of {folder / MANIFEST} ({before}), got "
                    f"{now}. {_NEW}, or leave the option out."
                )


def _facts(source: dict[str, Any]) -> dict[str, Any]:
    """What shards depend on: where the source lies, they do not."""
    return {name: value for name, value in source.items() if name not in ("name", "folder")}


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Say in what a source differs, in few words."""
    for name in ("format", "kinds", "image_field", "id_field"):
        if before.get(name) != now.get(name):
            return f", {name} {now.get(name)} instead of {before.get(name)}"
    old, new = before.get("files", []), now["files"]
    if len(old) != len(new):
        return f", {len(new):,} files instead of {len(old):,}"
    for one, other in zip(old, new, strict=True):
        if one != other:
            return f", another {other[0]}"
    return ""


@dataclass(frozen=True, slots=True)
class Done:
    """What a done shard came to.

    Args:
        shard: Its number.
        rows: Features written.
        failed: Pictures set aside.
        unreachable: How many of these might be read at another time.
        bytes: Of its file.
    """

    shard: int
    rows: int
    failed: int
    unreachable: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of shards.

    Args:
        path: Where they are.
    """

    path: Path

    def shard_file(self, shard: Shard) -> Path:
        """Where the features of a shard are."""
        return self.path / f"{shard.name}.parquet"

    def failed_file(self, shard: Shard) -> Path:
        """Where it is said what was set aside of a shard."""
        return self.path / "failed" / f"{shard.name}.jsonl"

    def mark_file(self, shard: Shard) -> Path:
        """Where it is said that a shard is done."""
        return self.path / "done" / f"{shard.name}.json"

    def read(self) -> Manifest | None:
        """Read the manifest; None where there is none.

        Raises:
            DataError: If it is none of ours.
        """
        file = self.path / MANIFEST
        try:
            text = file.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            told = json.loads(text)
            if told.pop("format") != _FORMAT:
                raise ValueError("another format")
            return Manifest(**told)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"expected a manifest of clip-text embed in {file}, got another file. "
                f"{_NEW}, or move that one."
            ) from error

    def begin(self, manifest: Manifest) -> None:
        """Write the manifest of a new folder.

        Raises:
            StorageError: If something of another kind is there, or it cannot be written.
        """
        if any(self.path.glob("*.parquet")):
            raise StorageError(
                f"expected a new or empty folder for the shards, got {self.path}, which has "
                f"Parquet files and no manifest. {_NEW}."
            )
        with partial_file(self.path / MANIFEST) as partial:
            write_json(partial, {"format": _FORMAT, **asdict(manifest)})

    def mark(self, shard: Shard, done: Done) -> None:
        """Say that a shard is done; its files are in their places."""
        with partial_file(self.mark_file(shard)) as partial:
            write_json(partial, asdict(done))

    def forget(self, shard: Shard) -> None:
        """Have a shard be done anew."""
        self.mark_file(shard).unlink(missing_ok=True)

    def done(self, shard: Shard) -> Done | None:
        """Say what a shard came to; None if it is not done, or its file is not what was written."""
        try:
            done = Done(**json.loads(self.mark_file(shard).read_text(encoding="utf-8")))
            whole = self.shard_file(shard).stat().st_size == done.bytes
        except (OSError, ValueError, TypeError):
            return None
        return done if whole and done.shard == shard.number else None

    def failures(self, shard: Shard) -> Iterator[tuple[str, str]]:
        """Give what was set aside of a shard: an id or place, and why."""
        try:
            lines = self.failed_file(shard).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            told = json.loads(line)
            yield told["image_id"] or told["place"], told["reason"]

    def listing(self, lines: Sequence[str]) -> Path:
        """Keep the names of pictures, the same for the next run and for all nodes."""
        file = self.path / "listing" / f"{digest(*lines)[:16]}.jsonl"
        if not file.exists():
            with partial_file(file) as partial:
                partial.write_text("\n".join(lines) + "\n", encoding="ascii")
        return file

    def sweep(self, manifest: Manifest) -> None:
        """Remove what workers that died had begun to write, and other lists; all is done."""
        names = {file[0] for file in manifest.source["files"]}
        for listing in (self.path / "listing").glob("*.jsonl"):
            if listing.name not in names:
                listing.unlink(missing_ok=True)
        for place in (self.path, self.path / "failed", self.path / "done"):
            for left in place.glob("*.partial"):
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)
