"""The reader of Parquet: one file, or the shards of a split, read a row group at a time.

Parquet has no way to one row: a picture costs the reading of its row group, of which a few are
kept. Reading in order is fast whatever their size; in any other order it is as fast as they are
small (a hundred pictures, as Hugging Face writes them) or as long as all of them fit
:data:`CACHE_BYTES`.
"""

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from clip_text.data.cells import arrow
from clip_text.data.collection import Problem, entry
from clip_text.data.rows import BATCH
from clip_text.errors import DataError

CACHE_BYTES = 256 * 2**20
"""How much of the row groups read is kept, in each process; one of them in any case."""


_BUFFER = 2**20  # bytes that are read at a time, in place of all of a row group


class ParquetRows:
    """Rows of Parquet files, one file after the other.

    May be used from several threads, and sent to or inherited by the workers of a DataLoader:
    each process has its own cache.

    Args:
        files: At least one, with the same columns.
        source: What to call them in errors.
        problems: A list to be told of files that cannot be read, instead of an error.

    Raises:
        DataError: If a file is no Parquet or damaged, or its columns are not those of the first.
        MissingPackageError: If pyarrow is not installed.
    """

    def __init__(
        self, files: Sequence[Path], source: str, problems: list[Problem] | None = None
    ) -> None:
        self.source = source
        self._files: list[Path] = []
        self._types: dict[str, Any] = {}
        # of each row group: its file, its number there, its first row there and over all files
        self._groups: list[tuple[int, int, int]] = []
        self._starts: list[int] = []
        self._rows = 0
        for path in files:
            with entry(problems, str(path)):
                self._add(path)
        self._owner, self._lock = os.getpid(), Lock()
        self._cache: OrderedDict[tuple[str, int], Any] = OrderedDict()

    def _add(self, path: Path) -> None:
        with _opened(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            types = dict(zip(schema.names, schema.types, strict=True))
            sizes = [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]
        if self._files and types != self._types:
            raise DataError(
                f"expected the columns of {self._files[0]} in {path}, got {_told(types)} instead "
                f"of {_told(self._types)}. Read them apart."
            )
        self._types = types
        at = 0
        for number, size in enumerate(sizes):
            self._groups.append((len(self._files), number, at))
            self._starts.append(self._rows)
            at, self._rows = at + size, self._rows + size
        self._files.append(path)

    def __len__(self) -> int:
        return self._rows

    @property
    def types(self) -> Mapping[str, Any]:
        """Arrow's type of each column."""
        return self._types

    def batches(self, columns: Sequence[str], size: int = BATCH) -> Iterator[tuple[int, Any]]:
        """Number of the first row, and table, of at most so many rows at a time."""
        pa, start = arrow(), 0
        for path in self._files:
            with _opened(path, buffer_size=_BUFFER, pre_buffer=False) as opened:
                parts = opened.iter_batches(size, columns=list(columns), use_threads=False)
                for part in parts:
                    yield start, pa.Table.from_batches([part])
                    start += part.num_rows

    def place(self, row: int) -> str:
        """Say where a row is: its file, and its number there."""
        file, at = self._find(row)
        return f"{file}, row {at}"

    def name(self, row: int) -> str:
        """Name the picture of a row that has no name of its own."""
        file, at = self._find(row)
        return f"{file.name}#{at}"

    def _find(self, row: int) -> tuple[Path, int]:
        group = bisect_right(self._starts, row) - 1
        file, _, first = self._groups[group]
        return self._files[file], first + row - self._starts[group]

    def picture(self, column: str, row: int) -> object:
        """Read one value, with the row group around it."""
        group = bisect_right(self._starts, row) - 1
        if self._owner != os.getpid():  # forked, maybe while another thread held the lock
            self._owner, self._lock, self._cache = os.getpid(), Lock(), OrderedDict()
        with self._lock:
            values = self._column(column, group)
        return values[row - self._starts[group]].as_py()

    def _column(self, column: str, group: int) -> Any:  # noqa: ANN401
        key = column, group
        if key not in self._cache:
            file, number, _ = self._groups[group]
            with _opened(self._files[file]) as opened:
                table = opened.read_row_group(number, columns=[column], use_threads=False)
            self._cache[key] = table.column(0)
            while len(self._cache) > 1 and self._cached() > CACHE_BYTES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]

    def _cached(self) -> int:
        return sum(values.nbytes for values in self._cache.values())

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_cache")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._owner, self._lock, self._cache = os.getpid(), Lock(), OrderedDict()


def _told(types: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in types.items())


@contextmanager
def _opened(path: Path, **options: Any) -> Iterator[Any]:  # noqa: ANN401
    pa = arrow()
    import pyarrow.parquet as pq  # noqa: PLC0415  (optional)

    try:
        with pq.ParquetFile(path, **options) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"expected a Parquet file that can be read at {path}, got: {reason}. "
            "Download or write it again."
        ) from error
