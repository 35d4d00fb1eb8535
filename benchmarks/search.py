"""Nearest pictures to a text: recall, time, bytes and building, ours beside what else there is.

    python benchmarks/search.py --rows 100000 --filters
    python benchmarks/search.py --pictures photos.npy --texts captions.npy

Queries lie off the cone of the pictures, as texts of a CLIP model do; that is what graphs, built
from pictures, disappoint on. Everything runs on one thread; contenders take turns with the same
queries in one process, so that a machine whose speed drifts treats them alike. Recall@10 is
against an exact search. `pip install hnswlib usearch lancedb` for those who are compared with.
"""

import argparse
import json
import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LANCE_CPU_THREADS"), "1")

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from search_contenders import CONTENDERS, Contender, Ours, timed
from search_data import Vectors, cross_modal

K = 10
TURN = 20  # queries before it is the next one's
RECALLS = (0.95, 0.99)
FILTERED = 40  # queries behind each filter
SHARES = (0.0005, 0.01, 0.1, 0.5)
HNSW_EFFORT = 128
MOST_FETCHED = 2000  # hits that post-filtering looks at
MEASURED = ("recall", "cpu_ms", "p50_ms", "p95_ms")


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    """Share of the wanted that was found."""
    return len(np.intersect1d(found, wanted)) / len(wanted)


def build(options: argparse.Namespace, vectors: Vectors) -> tuple[dict[str, Contender], dict]:
    """Build every contender that is there; gives them and what building took."""
    contenders: dict[str, Contender] = {}
    figures: dict[str, float] = {}
    for name in dict.fromkeys(["exact", "ours", *options.contenders]):
        kind = CONTENDERS[name]
        if not kind.is_there() or len(vectors.pictures) > kind.most_rows:
            why = (
                f"at most {kind.most_rows:,}" if kind.is_there() else f"pip install {kind.package}"
            )
            say(options, f"{name:10s} left out ({why})")
            continue
        contenders[name], clock, cpu = timed(partial(kind, vectors.pictures))
        size = contenders[name].bytes
        figures |= {f"{name}_build_s": clock, f"{name}_build_cpu_s": cpu, f"{name}_bytes": size}
        say(options, f"{name:10s} built in {clock:.1f} s, {cpu:.1f} CPU s, {size / 1e6:.0f} MB")
    return contenders, figures


def compare(contenders: dict[str, Contender], texts: np.ndarray) -> list[dict[str, Any]]:
    """Search with each at each effort, in turns; a line of figures for each pair."""
    truth = [contenders["exact"].search(text, K, 0) for text in texts]
    pairs = [(name, effort) for name in contenders for effort in contenders[name].efforts]
    told: dict[tuple[str, int], list[tuple[float, float, float]]] = {pair: [] for pair in pairs}
    for name, effort in pairs:  # caches, and what is set up on first use
        contenders[name].search(texts[0], K, effort)
    for start in range(0, len(texts), TURN):
        for name, effort in pairs:
            for i in range(start, min(start + TURN, len(texts))):
                search = partial(contenders[name].search, texts[i], K, effort)
                found, clock, cpu = timed(search)
                told[name, effort].append((recall(found, truth[i]), cpu * 1e3, clock * 1e3))
    lines = []
    for (name, effort), figures in told.items():
        recalls, cpu_ms, clock_ms = np.array(figures).T
        p50, p95 = np.percentile(clock_ms, [50, 95])
        measured = zip(MEASURED, (recalls.mean(), cpu_ms.mean(), p50, p95), strict=True)
        line = {what: round(float(value), 4) for what, value in measured}
        lines.append({"name": name, "effort": effort, **line})
    return lines


def compare_filtered(contenders: dict[str, Contender], vectors: Vectors) -> list[dict[str, Any]]:
    """Search behind filters that keep a share of the pictures, and one that keeps clusters."""
    count, rng = len(vectors.pictures), np.random.default_rng(0)
    kept = {f"{share:.2%}": np.flatnonzero(rng.random(count) < share) for share in SHARES}
    kept["clusters"] = np.flatnonzero(vectors.clusters % 50 == 7)
    ours, texts = contenders["ours"], vectors.texts[:FILTERED]
    assert isinstance(ours, Ours)
    lines = []
    for name, among in kept.items():
        ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "exact": partial(search_among, contenders["exact"], 0, among),
            "ours": partial(search_among, ours, ours.recipe.probes, among),
            "post-filtering": partial(search_after, ours, among, count),
        }
        if hnsw := contenders.get("hnswlib"):
            ways["hnswlib"] = partial(search_among, hnsw, HNSW_EFFORT, among)
        truth = [ways["exact"](text) for text in texts]
        for way, search in ways.items():
            search(texts[0])
            found, _, cpu = timed(lambda search=search: [search(text) for text in texts])
            got = np.mean([recall(a, b) for a, b in zip(found, truth, strict=True)])
            line = {"recall": round(float(got), 4), "cpu_ms": round(cpu / len(texts) * 1e3, 4)}
            lines.append({"filter": name, "name": way, **line})
    return lines


def search_among(index: Contender, effort: int, among: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Search with the filter within."""
    return index.search(text, K, effort, among)


def search_after(ours: Ours, among: np.ndarray, count: int, text: np.ndarray) -> np.ndarray:
    """Search for twice as many hits as should hold enough of the filter's, then filter."""
    fetch = min(MOST_FETCHED, count, round(2 * K * count / len(among)))
    found = ours.search(text, fetch, ours.recipe.probes)
    return found[np.isin(found, among)][:K]


def read(options: argparse.Namespace, rows: int) -> Vectors:
    """Draw vectors, or read real ones."""
    if not options.pictures:
        return cross_modal(rows, queries=options.queries)
    pictures, texts = np.load(options.pictures), np.load(options.texts)
    chosen = np.random.default_rng(0).choice(len(texts), options.queries, replace=False)
    return Vectors(pictures, np.arange(len(pictures)) // 100, np.ascontiguousarray(texts[chosen]))


def run(options: argparse.Namespace, rows: int) -> dict[str, Any]:
    """Build, search and tell, for one number of rows."""
    vectors = read(options, rows)
    say(options, f"\n{len(vectors.pictures):,} pictures")
    contenders, figures = build(options, vectors)
    figures |= {"rows": len(vectors.pictures)}
    lines = compare(contenders, vectors.texts)
    for line in lines:
        figures |= {f"{line['name']}_{line['effort']}_{what}": line[what] for what in MEASURED}
        told = "  ".join(f"{what} {line[what]:.4g}" for what in MEASURED)
        say(options, f"{line['name']:10s} {line['effort']:4d}  {told}")
    for least in RECALLS:
        for name in contenders:
            own = [line for line in lines if line["name"] == name and line["recall"] >= least]
            quickest = min((line["cpu_ms"] for line in own), default=None)
            figures[f"{name}_cpu_ms_at_{least}"] = quickest
            told = "not reached" if quickest is None else f"{quickest:.2f} CPU ms"
            say(options, f"recall {least}: {name:10s} {told}")
    for line in compare_filtered(contenders, vectors) if options.filters else ():
        told = f"filter_{line['filter']}_{line['name']}"
        figures |= {f"{told}_{what}": line[what] for what in ("recall", "cpu_ms")}
        told = f"{line['filter']:10s} {line['name']:15s} recall {line['recall']:.4f}"
        say(options, f"{told}  {line['cpu_ms']:8.2f} CPU ms")
    return figures


def say(options: argparse.Namespace, line: str) -> None:
    """Print a line at once, unless JSON is asked for."""
    if not options.json:
        print(line, flush=True)


def main() -> None:
    """Print a table, or with --json a flat object of figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--pictures", type=Path, help="Features of pictures instead (.npy).")
    parser.add_argument("--texts", type=Path, help="Features of queries to them (.npy).")
    parser.add_argument("--contenders", nargs="*", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--filters", action="store_true", help="Search behind filters, too.")
    parser.add_argument("--quick", action="store_true", help="Under a minute.")
    parser.add_argument("--json", action="store_true", help="A flat object of figures.")
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    if options.quick:
        options.rows, options.queries, options.contenders = [60_000], 60, ["ours", "ours-fp16"]
    runs = [run(options, rows) for rows in (options.rows[:1] if options.pictures else options.rows)]
    if options.json:
        print(json.dumps({f"{f['rows']}_{key}": f[key] for f in runs for key in f}))


if __name__ == "__main__":
    main()
