"""The same pictures, queries and filters on every engine: insertion, recall, latency.

    python benchmarks/engines.py --quick
    python benchmarks/engines.py --index milvus=milvus://127.0.0.1:19530/bench

Features are drawn as a CLIP model's lie (:mod:`search_data`), queries are texts, off the cone of
the pictures. Each engine is filled and searched through the package's own writer and searcher, so
times hold what its users wait for: hits with captions and metadata. Recall@10 is against going over
all features in float32. By default it starts the servers that the tests start.
"""

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from search_data import Vectors, cross_modal

from retrieval.errors import RetrievalError
from retrieval.filters import Filter
from retrieval.filters.language import parse_where
from retrieval.index import compact as seal
from retrieval.ingest import IndexWriter, Item
from retrieval.search import Searcher
from retrieval.stores import Location, StoreAddress, as_location, connect

BATCH = 1_000
K = 10
FILTERS = {"all": None, "10%": "tenth = 3", "1%": "hundredth = 42"}
FINGERPRINT = "benchmark"


class Model:
    """Stands for the model that made the features; encodes nothing."""

    fingerprint = FINGERPRINT

    def __init__(self, embed_dim: int) -> None:
        self.embed_dim = embed_dim


def said(number: int) -> dict[str, Any]:
    """Metadata of a picture by its number."""
    return {"tenth": number % 10, "hundredth": number % 100, "year": 2000 + number % 25}


def fill(place: Location, vectors: Vectors) -> float:
    """Insert all pictures, and have the engine build what it searches with; gives the seconds."""
    width = vectors.pictures.shape[1]
    started = time.perf_counter()
    with IndexWriter.open(place, fingerprint=FINGERPRINT, embed_dim=width) as writer:
        for start in range(0, len(vectors.pictures), BATCH):
            rows = vectors.pictures[start : start + BATCH]
            writer.add_many(
                Item(f"p/{n}", None, None, row, f"图 {n}", said(n))
                for n, row in enumerate(rows, start)
            )
    return time.perf_counter() - started


def build(place: Location) -> tuple[float, str]:
    """Have the engine build its index anew; gives the seconds and what was built."""
    started = time.perf_counter()
    if isinstance(place, StoreAddress):
        with connect(place) as store:
            built = store.compact()
    else:
        built = seal(place).recipe.factory
    return time.perf_counter() - started, built


def exact(vectors: Vectors, text: str | None) -> list[set[str]]:
    """Name the best pictures of each query by going over all that a filter holds of."""
    every = np.arange(len(vectors.pictures))
    if text is not None:
        field, value = text.split(" = ")
        every = every[every % (10 if field == "tenth" else 100) == int(value)]
    scores = vectors.texts @ vectors.pictures[every].T
    best = np.argsort(-scores, axis=1)[:, :K]
    return [{f"p/{every[n]}" for n in row} for row in best]


def search(
    searcher: Searcher, vectors: Vectors, wanted: list[set[str]], where: Filter | None
) -> tuple[float, list[float]]:
    """Ask all queries, one at a time; gives recall@10 and milliseconds."""
    times, found = [], 0
    for row, best in zip(vectors.texts, wanted, strict=True):
        started = time.perf_counter()
        (hits,) = searcher.search_features(row[None], K, where)
        times.append(1e3 * (time.perf_counter() - started))
        found += len(best & {hit.image_id for hit in hits})
    return found / sum(map(len, wanted)), times


def measure(name: str, place: Location, vectors: Vectors) -> dict[str, float]:
    """Fill one engine, then search it."""
    seconds = fill(place, vectors)
    took, built = build(place)
    figures = {"insert_per_s": len(vectors.pictures) / seconds, "build_s": took}
    print(f"{name}: {figures['insert_per_s']:,.0f} pictures/s inserted; {built} in {took:.1f} s")
    with Searcher.open(place, Model(vectors.texts.shape[1])) as searcher:
        for told, text in FILTERS.items():
            where = None if text is None else parse_where(text)
            wanted = exact(vectors, text)
            search(searcher, vectors, wanted, where)  # warm
            recall, times = search(searcher, vectors, wanted, where)
            p50, p95 = np.percentile(times, (50, 95))
            figures |= {f"{told}_recall": recall, f"{told}_p50_ms": p50, f"{told}_p95_ms": p95}
            print(f"  {told:>4}  recall@10 {recall:.4f}  p50 {p50:7.2f}  p95 {p95:7.2f} ms")
    return {f"{name}_{key}": float(value) for key, value in figures.items()}


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[dict[str, Location]]:
    """Start a Milvus and a PostgreSQL of our own, as the tests do; those that can be had."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "engines"))
    with contextlib.ExitStack() as stack:
        places: dict[str, Location] = {"embedded": folder / "embedded"}
        with contextlib.suppress(ImportError):
            from postgresql_server import Server  # noqa: PLC0415

            home = Path(tempfile.mkdtemp(prefix="pg-"))  # the path of a socket is short
            stack.callback(shutil.rmtree, home, ignore_errors=True)
            server = Server(home)
            stack.callback(server.stop)
            server.start()
            places["postgresql"] = as_location(server.address("bench"))
        with contextlib.suppress(ImportError):
            from milvus_server import MilvusServer  # noqa: PLC0415

            (folder / "milvus").mkdir()
            milvus = MilvusServer(folder / "milvus", folder / "binaries")
            stack.callback(milvus.kill)
            milvus.start()
            places["milvus"] = as_location(f"{milvus.address}/bench")
        yield places


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000, help="Pictures.")
    parser.add_argument("--width", type=int, default=512, help="Of the features.")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument(
        "--index", action="append", metavar="NAME=PLACE", help="Engines; else those of the tests."
    )
    parser.add_argument("--quick", action="store_true", help="Under a minute.")
    parser.add_argument("--json", action="store_true", help="A flat object of figures.")
    asked = parser.parse_args()
    rows, queries = (5_000, 50) if asked.quick else (asked.rows, asked.queries)
    vectors = cross_modal(rows, asked.width, queries)
    figures: dict[str, float] = {"rows": rows, "width": asked.width}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        if asked.json:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        if asked.index:
            pairs = (each.split("=", 1) for each in asked.index)
            places = {key: as_location(place) for key, place in pairs}
        else:
            places = stack.enter_context(servers(Path(name)))
        for key, place in places.items():
            try:
                figures |= measure(key, place, vectors)
            except RetrievalError as error:
                print(f"{key}: {error}")
    if asked.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
