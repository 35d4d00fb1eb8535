"""An index's life at scale: filled, sealed, opened, searched, filtered, thinned out, sealed anew.

    python benchmarks/index_life.py --rows 1000000

Items with finished features go in by ``IndexWriter``, as acknowledged transactions of 1,000. The
refresh is of a searcher that has the index open, after 1,000 more. Each step is told in seconds by
the clock and of the CPU; a busy machine shows in the first.
"""

import argparse
import json
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from search_contenders import timed
from search_data import Vectors, cross_modal

from retrieval.catalogue import Catalogue
from retrieval.filters.language import parse_where
from retrieval.index import compact, follow, open_index
from retrieval.ingest import IndexWriter, Item

BATCH = 1000
WIDTH = 512
K = 10


def fill(folder: Path, features: np.ndarray, first: int) -> None:
    """Add items with finished features, named by their numbers."""
    with IndexWriter.open(folder, fingerprint="drawn", embed_dim=WIDTH) as writer:
        for start in range(0, len(features), BATCH):
            page = features[start : start + BATCH]
            writer.add_many(
                Item(str(first + start + i), feature=row, metadata={"year": 1990 + i % 35})
                for i, row in enumerate(page)
            )


def run(folder: Path, vectors: Vectors, *, quiet: bool) -> dict[str, float]:
    """Lead one life."""
    count = len(vectors.pictures) - BATCH
    figures: dict[str, float] = {"rows": count}

    def step(name: str, work: Callable[[], Any]) -> Any:  # noqa: ANN401  (what work gives)
        done, clock, cpu = timed(work)
        figures.update({f"{name}_s": clock, f"{name}_cpu_s": cpu})
        if not quiet:
            print(f"{name:24s} {clock:9.3f} s  {cpu:9.3f} CPU s", flush=True)
        return done

    step("fill_and_seal", lambda: fill(folder, vectors.pictures[:count], 0))
    manifest = step("compact", lambda: compact(folder))
    figures["vectors_bytes"] = manifest.bytes
    catalogue = Catalogue.open(folder)
    index, generation = step("open", lambda: open_index(folder, catalogue))
    step("first_search", lambda: index.search(vectors.texts[:1], K))
    step("searches_100", lambda: [index.search(text[None], K) for text in vectors.texts[:100]])
    recent = parse_where("year >= 2020")
    among = step("filter", lambda: catalogue.filters.rows(recent))
    step("searches_100_filtered", lambda: [index.search(t[None], K, among) for t in vectors.texts])
    step("facets", lambda: catalogue.filters.facets("year", None))
    fill(folder, vectors.pictures[count:], count)
    later, at = step("refresh_after_1000", lambda: follow(folder, index, generation, catalogue))
    assert (len(later), later.tail) == (count + BATCH, BATCH)
    step("searches_100_with_tail", lambda: [later.search(t[None], K) for t in vectors.texts[:100]])
    gone = np.random.default_rng(0).choice(count, count // 10, replace=False)

    def thin_out() -> None:
        with IndexWriter.open(folder) as writer:
            for start in range(0, len(gone), BATCH):
                writer.delete(map(str, gone[start : start + BATCH].tolist()))

    step("delete_a_tenth_and_seal", thin_out)
    step("refresh_after_that", lambda: follow(folder, later, at, catalogue))
    step("compact_again", lambda: compact(folder))
    catalogue.close()
    catalogue = Catalogue.open(folder)
    index, _ = step("open_again", lambda: open_index(folder, catalogue))
    assert len(index) == len(catalogue) == count + BATCH - len(gone)
    catalogue.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures["peak_memory_bytes"] = peak * (1 if sys.platform == "darwin" else 1024)
    return figures


def main() -> None:
    """Print the steps, or with --json a flat object of figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help="Under a minute.")
    parser.add_argument("--json", action="store_true", help="A flat object of figures.")
    options = parser.parse_args()
    rows = 60_000 if options.quick else options.rows
    vectors = cross_modal(rows + BATCH, WIDTH, queries=100)
    with tempfile.TemporaryDirectory() as folder:
        figures = run(Path(folder) / "index", vectors, quiet=options.json)
    if options.json:
        print(json.dumps(figures))
    else:
        print(
            f"peak memory {figures['peak_memory_bytes'] / 1e9:.1f} GB, the drawn vectors included"
        )


if __name__ == "__main__":
    main()
