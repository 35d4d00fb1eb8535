"""One shard: its pictures are read, encoded in fixed batches, and written whole. Knows no engine.

What a shard's file holds depends on its slice of the source, the model and how it computes; never
on which worker wrote it, or when: batches are filled with the pictures that can be read, in their
order, and each worker computes with the same number of threads.
"""

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clip_text.data.cells import arrow
from clip_text.embedding.entries import Entry, entries_of
from clip_text.embedding.manifest import Done, Facts, Folder, Manifest
from clip_text.embedding.shards import Reading, Shard
from clip_text.errors import CheckpointError, ClipTextError, DataError
from clip_text.features import ahead
from clip_text.images import MissingDecoderError
from clip_text.runtimes.processor import available_cores
from clip_text.storage import partial_file

__all__ = [
    "Job",
    "Load",
    "PictureEncoder",
    "Worker",
    "compute_with",
    "embed_shard",
    "facts_of",
]

_GROUP = 1024  # rows of a row group
_MOST_REASON = 300  # characters
_TOO_MANY = 16
"""So many pictures of a shard, none of which can be reached, are no pictures' fault."""
_TOLERANCE = 1e-3  # of the length of a unit row

# The machine's trouble, not the picture's: the run must stop, and nothing be set aside.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC})

Pixels = NDArray[np.uint8]
Features = NDArray[np.float32]
Group = list[tuple[Entry, Features]]


class PictureEncoder(Protocol):
    """What turns pictures into features; :class:`clip_text.Encoder` does."""

    @property
    def embed_dim(self) -> int:
        """Width of the features."""
        ...

    @property
    def fingerprint(self) -> str:
        """Names the model."""
        ...

    def load_pixels(self, source: Any, /) -> Pixels:  # noqa: ANN401
        """Decode a picture, uint8 [size, size, 3]; safe in many threads."""
        ...

    def encode_pixels(self, pixels: Sequence[Pixels], /) -> Features:
        """Encode decoded pictures; unit rows [n, embed_dim]."""
        ...


Load = Callable[[str | None], PictureEncoder]
"""Loads the model for a runtime's name, or for the one that suits; workers are sent it."""


@dataclass(frozen=True, slots=True)
class Job:
    """What workers are sent.

    Args:
        folder: Where shards go; all workers see it under this path.
        reading: How pictures are read from their source.
        manifest: How they are encoded; without the source, which may have many files.
        readers: Threads of each worker that fetch and decode.
        load: Loads the model.
        runtime: What is given to ``load``.
    """

    folder: Path
    reading: Reading
    manifest: Manifest
    readers: int
    load: Load
    runtime: str | None


@dataclass(frozen=True, slots=True)
class _Failure:
    """A picture that is set aside."""

    entry: Entry
    reason: str
    is_unreachable: bool = False


@dataclass(slots=True)
class _Batch:
    """Pictures that are encoded or written together."""

    entries: list[Entry] = field(default_factory=list)
    pixels: list[Pixels] = field(default_factory=list)


def facts_of(encoder: PictureEncoder) -> Facts:
    """Say what the rows of a model depend on; a stand-in's runtime has no name."""
    runtime_of = getattr(encoder, "runtime_of", None)
    name = "" if runtime_of is None else str(runtime_of("image").name)
    if (require_weights := getattr(encoder, "require_weights", None)) is not None:
        try:
            require_weights()
            device = getattr(encoder, "device").type  # noqa: B009  (a stand-in has none)
            name += "" if device == "cpu" else f" on {device}"
        except CheckpointError:
            name += " exported"  # another graph, whose last bits differ
    precision = "" if runtime_of is None else str(getattr(encoder, "image_precision", ""))
    return Facts(encoder.fingerprint, encoder.embed_dim, name, precision)


class Worker:
    """A model, loaded in the process that computes with it.

    Args:
        load: Loads it.
        runtime: What is given to ``load``.
        threads: That compute.
    """

    def __init__(self, load: Load, runtime: str | None, threads: int) -> None:
        compute_with(threads)
        self._encoder = load(runtime)
        self.facts = facts_of(self._encoder)
        self.gpus = _gpus(self._encoder)

    def embed(self, job: Job, shard: Shard) -> Done:
        """Embed a shard; see :func:`embed_shard`.

        Raises:
            ClipTextError: If the model is not that of the run, which other nodes may have.
        """
        wanted = job.manifest.facts
        if self.facts != wanted:
            raise ClipTextError(
                f"expected the model {job.manifest.model} in each worker as {wanted}, got "
                f"{self.facts}. Install the same versions and model on all nodes, and name a "
                "runtime that all have: --runtime."
            )
        return embed_shard(job, shard, self._encoder)


def compute_with(threads: int) -> None:
    """Have this process compute with so many threads; before the model is loaded.

    Rows of torch differ in their last bits with the number of threads.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)
    available_cores.cache_clear()
    if "torch" in sys.modules:
        import torch  # noqa: PLC0415  (it is there)

        torch.set_num_threads(threads)


def _gpus(encoder: PictureEncoder) -> int:
    """Say how many GPUs a model could be on; 0 where it computes on the CPU."""
    if not facts_of(encoder).runtime.endswith("on cuda"):
        return 0
    import torch  # noqa: PLC0415  (it is there)

    return torch.cuda.device_count()


def embed_shard(job: Job, shard: Shard, encoder: PictureEncoder) -> Done:
    """Encode one shard and put it in its place.

    Args:
        job: What is to be done, and how.
        shard: Which part of it.
        encoder: The model.

    Returns:
        What came of it; the mark that it is done is written.

    Raises:
        DataError: If a file of the source cannot be read, or none of the shard's pictures.
        StorageError: If the disk is full, or the place cannot be written.
        ClipTextError: If the encoder gives something else than unit rows.
    """
    folder, failures = Folder(job.folder), list[_Failure]()
    target, rows = folder.shard_file(shard), 0
    with partial_file(target) as partial:
        with _writer(partial, job.manifest) as write:
            for group in _groups(_encoded(job, shard, encoder, failures)):
                write(group)
                rows += len(group)
        _check_reached(shard, rows, failures)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
    unreachable = sum(failure.is_unreachable for failure in failures)
    _write_failures(folder.failed_file(shard), failures)
    done = Done(shard.number, rows, len(failures), unreachable, target.stat().st_size)
    folder.mark(shard, done)
    return done


def _encoded(
    job: Job, shard: Shard, encoder: PictureEncoder, failures: list[_Failure]
) -> Iterator[tuple[Entry, Features]]:
    """Entries with their rows, in order; what is set aside goes to ``failures``."""
    size = job.manifest.batch_size
    batch = _Batch()

    def decode(entry: Entry) -> tuple[Entry, Pixels] | _Failure:
        return _decode(entry, encoder)

    for one in ahead(decode, entries_of(job.reading, shard), job.readers, 2 * size):
        if isinstance(one, _Failure):
            failures.append(one)
            continue
        batch.entries.append(one[0])
        batch.pixels.append(one[1])
        if len(batch.pixels) == size:
            yield from _encode(batch, encoder)
            batch = _Batch()
    yield from _encode(batch, encoder)


def _decode(entry: Entry, encoder: PictureEncoder) -> tuple[Entry, Pixels] | _Failure:
    if entry.load is None:
        return _Failure(entry, entry.reason)
    try:
        return entry, encoder.load_pixels(entry.load())
    except MissingDecoderError as error:  # it may be installed another time
        return _Failure(entry, _reason(error), is_unreachable=True)
    except ValueError as error:
        return _Failure(entry, _reason(error))
    except ImportError:  # of what reads an object store: no picture of it could be read
        raise
    except OSError as error:
        if error.errno in _EXHAUSTED:
            raise
        return _Failure(entry, _reason(error), is_unreachable=True)


def _reason(error: Exception) -> str:
    """Say why on one line, without the path, which stands beside it anyway."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:_MOST_REASON] or type(error).__name__


def _encode(batch: _Batch, encoder: PictureEncoder) -> Iterator[tuple[Entry, Features]]:
    if not batch.pixels:
        return
    rows = encoder.encode_pixels(batch.pixels)
    shape = (len(batch.pixels), encoder.embed_dim)
    lengths = np.linalg.norm(rows.astype(np.float64), axis=-1)
    if rows.shape != shape or not (np.abs(lengths - 1.0) <= _TOLERANCE).all():  # NaN is off, too
        raise ClipTextError(
            f"expected unit rows of shape {list(shape)} from the model, got shape "
            f"{list(rows.shape)}, lengths {lengths.min():.4g} to {lengths.max():.4g}. "
            "Compute with another runtime: --runtime torch."
        )
    yield from zip(batch.entries, rows, strict=True)


def _check_reached(shard: Shard, rows: int, failures: list[_Failure]) -> None:
    """Stop rather than set a whole shard aside because its store or drive is out of reach."""
    lost = [failure for failure in failures if failure.is_unreachable]
    if not rows and len(lost) >= _TOO_MANY and len(lost) == len(failures):
        raise DataError(
            f"expected pictures of {shard.name} that can be reached, got none of "
            f"{len(lost):,}; {lost[0].entry.path or lost[0].entry.place}: {lost[0].reason}. "
            "Is the drive mounted, the store up? The same command goes on."
        )


def _groups(encoded: Iterator[tuple[Entry, Features]]) -> Iterator[Group]:
    group: Group = []
    for one in encoded:
        group.append(one)
        if len(group) == _GROUP:
            yield group
            group = []
    if group:
        yield group


@contextmanager
def _writer(file: Path, manifest: Manifest) -> Iterator[Callable[[Group], None]]:
    """Give what writes row groups into a Parquet file."""
    pa = arrow()
    import pyarrow.parquet as pq  # noqa: PLC0415  (optional)

    kind = pa.float16() if manifest.dtype == "float16" else pa.float32()
    schema = pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("feature", pa.list_(kind, manifest.embed_dim), nullable=False),
            pa.field("caption", pa.string()),
            pa.field("path", pa.string()),
            pa.field("metadata", pa.string(), nullable=False),
        ]
    )

    def write(group: Group) -> None:
        entries = [entry for entry, _ in group]
        values = np.stack([row for _, row in group]).astype(manifest.dtype).ravel()
        columns = [
            pa.array([entry.image_id for entry in entries], pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(values), manifest.embed_dim),
            *(
                pa.array([getattr(entry, name) for entry in entries], pa.string())
                for name in ("caption", "path", "metadata")
            ),
        ]
        parquet.write_table(pa.Table.from_arrays(columns, schema=schema))

    # ids differ, and numbers of features do not repeat: no dictionary, and statistics of ids alone
    options: dict[str, Any] = {"use_dictionary": False, "write_statistics": ["image_id"]}
    with pq.ParquetWriter(file, schema, **options) as parquet:
        yield write


def _write_failures(file: Path, failures: list[_Failure]) -> None:
    if not failures:
        file.unlink(missing_ok=True)  # of an earlier time
        return
    with partial_file(file) as partial, partial.open("w", encoding="utf-8") as lines:
        for failure in failures:
            told = {
                "image_id": failure.entry.image_id,
                "place": failure.entry.place,
                "path": failure.entry.path,
                "reason": failure.reason,
            }
            text = json.dumps(told, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
            lines.write(text + "\n")
