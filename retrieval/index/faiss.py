"""Exact search with FAISS, the engine that needs no server, and its one file."""

import contextlib
import json
import os
import time
import uuid
import zlib
from pathlib import Path
from typing import IO, Any, Self

import faiss
import numpy as np

from retrieval.catalogue.changes import Change
from retrieval.errors import CorruptIndexError
from retrieval.protocols import Feature, Features, Rows, Scores

__all__ = ["FaissIndex"]

_FORMAT = "clip-text-faiss-1"
_BLOCK = 1 << 20  # bytes
_HEADER_BYTES = 4096
_RESCORE_BLOCK = 4096  # rows
_GATHERED = 2048  # rows: of so few, all are scored without a scan of the index
_ABANDONED_SECONDS = 3600.0

# FAISS sums in float32, in an order that depends on the batch and on a row's place, so
# equal rows may differ in the last bits. Rows closer than this may be out of order.
_NOISE = 1e-5


class FaissIndex:
    """Exact inner product over all rows: ``IndexIDMap2(IndexFlatIP)``."""

    def __init__(self, embed_dim: int) -> None:
        self._faiss: Any = faiss.IndexIDMap2(faiss.IndexFlatIP(embed_dim))

    @property
    def embed_dim(self) -> int:
        """Width of the features."""
        return int(self._faiss.d)

    @property
    def rows(self) -> Rows:
        """The rows held, in any order, int64 [n]."""
        held: Rows = faiss.vector_to_array(self._faiss.id_map)
        return held

    def __len__(self) -> int:
        return int(self._faiss.ntotal)

    def add(self, rows: Rows, features: Features) -> None:
        """Add unit rows [n, embed_dim] under new numbers, int64 [n].

        Raises:
            ValueError: If the shapes do not fit, or a row is held already.
        """
        self._check_width(features)
        if rows.shape != features.shape[:1]:
            raise ValueError(
                f"expected {len(features)} rows, one per feature, got shape {list(rows.shape)}."
            )
        if len(np.unique(rows)) != len(rows) or np.isin(rows, self.rows).any():
            raise ValueError(
                "expected rows the index does not hold yet, got some twice. Remove them first."
            )
        if len(rows):
            self._faiss.add_with_ids(
                np.ascontiguousarray(features, np.float32), np.ascontiguousarray(rows, np.int64)
            )

    def remove(self, rows: Rows) -> None:
        """Remove rows [n]; those not held are ignored."""
        held = rows[np.isin(rows, self.rows)] if len(rows) else rows
        if len(held):  # FAISS goes over everything it holds, even to remove nothing
            self._faiss.remove_ids(np.ascontiguousarray(held, np.int64))

    def apply(self, change: Change) -> None:
        """Take over what became of a catalogue's features; see :class:`VectorIndex`."""
        self.remove(np.concatenate([change.removed, change.written]))
        for rows, features in change.features:
            self.add(rows, features)

    def search(self, features: Features, k: int, among: Rows | None = None) -> tuple[Scores, Rows]:
        """Find the nearest rows; see :class:`VectorIndex`."""
        self._check_width(features)
        if k < 1:
            raise ValueError(f"expected k of at least 1, got {k}.")
        held = None if among is None else among[np.isin(among, self.rows)]
        k = min(k, len(self) if held is None else len(held))
        scores = np.empty((len(features), k), np.float32)
        rows = np.empty((len(features), k), np.int64)
        if k == 0 or len(features) == 0:
            return scores, rows
        queries = np.ascontiguousarray(features, np.float32)
        if held is not None and len(held) <= _GATHERED:
            found = [held] * len(queries)
        else:
            found = self._candidates(queries, k, held)
        for i, candidates in enumerate(found):
            exact = self._rescore(queries[i], candidates)
            best = np.lexsort((candidates, -exact))[:k]
            scores[i], rows[i] = exact[best], candidates[best]
        return scores, rows

    def copy(self) -> Self:
        """Make an independent index with the same content."""
        twin = type(self)(self.embed_dim)
        twin._faiss = faiss.clone_index(self._faiss)
        return twin

    def save(self, path: Path, stamp: str) -> None:
        """Write the index to a file in one step.

        The file is a line of JSON with the stamp, what FAISS writes, and a CRC-32 of
        both. It appears under its name only when it is complete and on the disk.
        """
        _sweep(path)
        unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with unfinished.open("xb") as file:
                checked = _CheckedWriter(file)
                checked(json.dumps({"format": _FORMAT, "stamp": stamp}).encode() + b"\n")
                writer = faiss.PyCallbackIOWriter(checked, _BLOCK)  # type: ignore[attr-defined]
                faiss.write_index(self._faiss, writer)
                file.write(checked.crc.to_bytes(4, "little"))
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: Path) -> tuple[Self, str]:
        """Read an index and its stamp; see :class:`FileIndex`."""
        with path.open("rb") as file:
            # FAISS trusts its input, so nothing reaches it before the checksum is right.
            start, end, stamp = _verify(file, path)
            file.seek(start)

            def read(size: int) -> bytes:
                return file.read(min(size, end - file.tell()))

            reader = faiss.PyCallbackIOReader(read, _BLOCK)  # type: ignore[attr-defined]
            try:
                held = faiss.read_index(reader)
            except RuntimeError as error:
                raise _corrupt(path, "FAISS cannot read it") from error
        if not isinstance(held, faiss.IndexIDMap2):
            raise _corrupt(path, f"it holds a {type(held).__name__}")
        index = cls(held.d)
        index._faiss = held
        return index, stamp

    @classmethod
    def read_stamp(cls, path: Path) -> str:
        """Read the stamp of a file alone, unverified.

        Raises:
            FileNotFoundError: If there is no file.
            CorruptIndexError: If its first line is no header.
        """
        with path.open("rb") as file:
            return _header(file.readline(_HEADER_BYTES), path)

    def features_of(self, rows: Rows) -> Features:
        """Give the features of rows that are held, [n, embed_dim]."""
        held: Features = self._faiss.reconstruct_batch(rows)
        return held

    def _check_width(self, features: Features) -> None:
        if features.ndim != 2 or features.shape[1] != self.embed_dim:
            raise ValueError(
                f"expected vectors of width {self.embed_dim} (the index's embed_dim), got "
                f"shape {list(features.shape)}. Use the model that built the index."
            )

    def _candidates(self, queries: Features, k: int, held: Rows | None) -> list[Rows]:
        """Fetch rows of each query that hold its k best, ties and rounding considered.

        Args:
            queries: Unit rows, [q, embed_dim].
            k: At most as many as are looked at.
            held: Looks at these rows only; None for all.
        """
        params, most = None, len(self)
        if held is not None:
            bits = np.zeros(int(held[-1]) + 1, np.bool_)
            bits[held] = True
            library: Any = faiss  # whose types know nothing of what Python adds to these
            selector = library.IDSelectorBitmap(np.packbits(bits, bitorder="little"))
            params, most = library.SearchParameters(sel=selector), len(held)
        candidates: list[Rows] = [np.empty(0, np.int64)] * len(queries)
        open_queries = np.arange(len(queries))
        fetch = min(k + 16, most)
        while len(open_queries):
            scores, rows = self._faiss.search(queries[open_queries], fetch, params=params)
            settled = scores[:, -1] < scores[:, k - 1] - _NOISE
            if fetch == most:
                settled[:] = True
            for i in np.flatnonzero(settled):
                candidates[open_queries[i]] = rows[i]
            open_queries = open_queries[~settled]
            fetch = min(2 * fetch, most)
        return candidates

    def _rescore(self, query: Feature, rows: Rows) -> Scores:
        """Score in float64, so that equal rows get equal scores wherever they lie."""
        scores = np.empty(len(rows), np.float32)
        wide = query.astype(np.float64)
        for start in range(0, len(rows), _RESCORE_BLOCK):
            part = slice(start, start + _RESCORE_BLOCK)
            held = self._faiss.reconstruct_batch(rows[part])
            scores[part] = (held * wide).sum(axis=1)
        return scores.clip(-1.0, 1.0)


def _sweep(path: Path) -> None:
    """Delete what processes killed while saving left behind."""
    for left in path.parent.glob(f".{path.name}.*"):
        # Younger ones may be at work: a searcher saves without the writer's lock.
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                left.unlink()


class _CheckedWriter:
    """Passes bytes on to a file and keeps their CRC-32."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.crc = 0

    def __call__(self, data: bytes) -> int:
        self.crc = zlib.crc32(data, self.crc)
        return self._file.write(data)


def _verify(file: IO[bytes], path: Path) -> tuple[int, int, str]:
    """Check header and checksum; gives where FAISS's part starts and ends, and the stamp."""
    header = file.readline(_HEADER_BYTES)
    stamp = _header(header, path)
    end = file.seek(0, os.SEEK_END) - 4
    file.seek(len(header))
    crc, left = zlib.crc32(header), end - len(header)
    while left > 0 and (block := file.read(min(_BLOCK, left))):
        crc, left = zlib.crc32(block, crc), left - len(block)
    if left != 0 or file.read(4) != crc.to_bytes(4, "little"):
        raise _corrupt(path, "its checksum does not fit")
    return len(header), end, stamp


def _header(line: bytes, path: Path) -> str:
    """Read the stamp in the first line of a file."""
    try:
        parsed = json.loads(line)
        known, stamp = parsed["format"] == _FORMAT, str(parsed["stamp"])
    except (ValueError, KeyError, TypeError) as error:
        raise _corrupt(path, "its first line is no header") from error
    if not known:
        raise _corrupt(path, f"its format is {parsed['format']!r}")
    return stamp


def _corrupt(path: Path, what: str) -> CorruptIndexError:
    return CorruptIndexError(
        f"expected an index of format {_FORMAT} in {path}, got a damaged file ({what}). "
        "Delete it; it is rebuilt from the catalogue."
    )
