"""What else one would search vectors with, each behind the same three words; absent ones say so."""

import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.index.lists import ListsSegment
from retrieval.index.recipes import Recipe, build_lists, choose_recipe, factories
from retrieval.index.segmented import SegmentedIndex
from retrieval.index.segments import FlatSegment

__all__ = ["CONTENDERS", "Contender", "Exact", "Ours"]

Array = NDArray[Any]


class Contender(ABC):
    """An index over all pictures, on one thread, that can be searched more or less thoroughly."""

    package: ClassVar[str] = ""
    efforts: Sequence[int] = (0,)
    """How thoroughly, least first; 0 where there is nothing to choose."""
    most_rows = 10_000_000

    @classmethod
    def is_there(cls) -> bool:
        """Say whether its package is installed."""
        return not cls.package or find_spec(cls.package) is not None

    @abstractmethod
    def __init__(self, pictures: Array) -> None:
        """Build the index over pictures, [n, width]; their ids are their places."""

    @abstractmethod
    def search(self, query: Array, k: int, effort: int, among: Array | None = None) -> Array:
        """Find the ids of the k nearest pictures, best first, perhaps among some, ascending."""

    @property
    def bytes(self) -> int:
        """What it takes."""
        return 0


class Exact(Contender):
    """Ours, going over all rows: what recall is measured against."""

    def __init__(self, pictures: Array) -> None:
        self._index = SegmentedIndex(
            pictures.shape[1],
            FlatSegment(np.arange(len(pictures)), pictures.astype(np.float16)),
        )
        self._bytes = pictures.size * 2

    def search(self, query: Array, k: int, effort: int, among: Array | None = None) -> Array:  # noqa: ARG002
        """Find them; there is nothing to choose."""
        return self._index.search(query[None], k, among)[1][0]

    @property
    def bytes(self) -> int:
        """What it takes."""
        return self._bytes


class Ours(Contender):
    """Ours, by the recipe that it chooses for so many rows; for few, by that for more."""

    efforts = (8, 16, 32, 64, 96, 128, 192, 256)

    def __init__(self, pictures: Array, recipe: Recipe | None = None) -> None:
        halves = pictures.astype(np.float16)
        self.recipe = recipe or choose_recipe(*pictures.shape)
        if self.recipe.is_exact:
            self.recipe = Recipe(factories(*pictures.shape)[0][0], 64, 300)
        self._lists: Any = build_lists(self.recipe, halves)
        self._halves, self._indexes = halves, {}

    def search(self, query: Array, k: int, effort: int, among: Array | None = None) -> Array:
        """Search; see :class:`Contender`."""
        index = self._indexes.get(effort)
        if index is None:
            recipe = Recipe(self.recipe.factory, effort, self.recipe.candidates)
            rows = np.arange(len(self._halves))
            segment = ListsSegment(rows, self._halves, self._lists, recipe)
            index = self._indexes[effort] = SegmentedIndex(self._halves.shape[1], segment)
        return index.search(query[None], k, among)[1][0]

    @property
    def bytes(self) -> int:
        """What it takes."""
        return self._halves.nbytes + len(faiss.serialize_index(self._lists))


class OursInHalves(Ours):
    """Ours, with fp16 in its lists."""

    def __init__(self, pictures: Array) -> None:
        count, width = pictures.shape
        super().__init__(pictures, Recipe(factories(count, width)[-1][0], 64, 32))


class Hnswlib(Contender):
    """A graph, M=16, ef_construction=200 (the values of its README)."""

    package = "hnswlib"
    efforts = (16, 32, 64, 128, 256, 512)

    def __init__(self, pictures: Array) -> None:
        import hnswlib  # noqa: PLC0415  (may be absent)

        self._index = hnswlib.Index("ip", pictures.shape[1])
        self._index.init_index(len(pictures), M=16, ef_construction=200, random_seed=0)
        self._index.add_items(pictures, num_threads=1)
        self._index.set_num_threads(1)

    def search(self, query: Array, k: int, effort: int, among: Array | None = None) -> Array:
        """Search; see :class:`Contender`."""
        self._index.set_ef(max(effort, k))
        holds = None if among is None else set(among.tolist()).__contains__
        try:
            return self._index.knn_query(query[None], k, num_threads=1, filter=holds)[0][0]
        except RuntimeError:  # it found fewer than k
            return np.empty(0, np.int64)

    @property
    def bytes(self) -> int:
        """What it takes."""
        with tempfile.TemporaryDirectory() as folder:
            self._index.save_index(f"{folder}/index")
            return Path(f"{folder}/index").stat().st_size


class Usearch(Contender):
    """A graph over fp16, with the package's own connectivity and expansion at building."""

    package = "usearch"
    efforts = (16, 32, 64, 128, 256, 512)

    def __init__(self, pictures: Array) -> None:
        from usearch.index import Index  # noqa: PLC0415

        self._index = Index(ndim=pictures.shape[1], metric="ip", dtype="f16")
        self._index.add(np.arange(len(pictures)), pictures, threads=1)

    def search(self, query: Array, k: int, effort: int, among: Array | None = None) -> Array:
        """Search; see :class:`Contender`."""
        if among is not None:
            raise NotImplementedError
        self._index.expansion_search = max(effort, k)
        return self._index.search(query, k, threads=1).keys.astype(np.int64)

    @property
    def bytes(self) -> int:
        """What it takes."""
        return self._index.serialized_length


class LanceDb(Contender):
    """An embedded database: its IVF_PQ with 300 candidates re-ranked, by its own defaults."""

    package = "lancedb"
    efforts = (10, 20, 40, 80, 160)
    most_rows = 100_000

    def __init__(self, pictures: Array) -> None:
        import lancedb  # noqa: PLC0415
        import pyarrow as pa  # noqa: PLC0415

        self._folder = tempfile.TemporaryDirectory()
        width = pictures.shape[1]
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(pictures.ravel()), width)
        rows = pa.table({"id": np.arange(len(pictures)), "vector": vectors})
        self._table = lancedb.connect(self._folder.name).create_table("pictures", rows)
        self._table.create_index(metric="dot", vector_column_name="vector")

    def search(self, query: Array, k: int, effort: int, among: Array | None = None) -> Array:
        """Search; see :class:`Contender`."""
        asked = self._table.search(query).distance_type("dot").nprobes(effort).refine_factor(30)
        if among is not None:
            raise NotImplementedError
        return asked.limit(k).select(["id", "_distance"]).to_arrow()["id"].to_numpy()

    @property
    def bytes(self) -> int:
        """What it takes."""
        files = Path(self._folder.name).rglob("*")
        return sum(path.stat().st_size for path in files if path.is_file())


CONTENDERS: dict[str, type[Contender]] = {
    "exact": Exact,
    "ours": Ours,
    "ours-fp16": OursInHalves,
    "hnswlib": Hnswlib,
    "usearch": Usearch,
    "lancedb": LanceDb,
}


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Do something; gives what came of it, seconds by the clock and of the CPU."""
    clock, cpu = time.perf_counter(), time.process_time()
    done = work()
    return done, time.perf_counter() - clock, time.process_time() - cpu
