"""What searching words beside features finds, where it loses, and what it costs.

    python benchmarks/hybrid.py DATA          # three minutes of CPU
    python benchmarks/hybrid.py DATA --quick  # some hundred pictures

DATA is a folder of ``flickr8k-cn/val.jsonl``, ``more/howtocook/train.jsonl`` and
``more/grocery/train.jsonl``, each with its pictures, as docs/data.md has them.

Plain descriptions: the first 1,000 photos of Flickr8k-CN's val, each asked for by one human
caption, while what is said of it is nothing, or the caption of another person, of all photos or of
every other one. Names and numbers: dishes (HowToCook), groceries by the English of their file
names, photos by their numbers, all among each other. recall@k counts a query whose right picture,
or one of them, is among the first k; the difference is hybrid minus features alone on the same
queries, with its 95% interval.
"""

import argparse
import json
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clip_text import Encoder
from clip_text.evaluation.statistics import compare
from retrieval.catalogue import Catalogue, followers
from retrieval.ingest import IndexWriter, Item
from retrieval.protocols import Features
from retrieval.search import Blend, Searcher

ANSWERS = 10
TRIES = 5


@dataclass(frozen=True, slots=True)
class Shelf:
    """Pictures with their features and what their data set says of them."""

    lines: list[dict[str, Any]]
    features: Features


@dataclass(frozen=True, slots=True)
class Kept:
    """Encodes each query once, whichever way it is searched."""

    encoder: Encoder
    rows: dict[str, Features]

    @property
    def embed_dim(self) -> int:
        """Width of the rows."""
        return self.encoder.embed_dim

    @property
    def fingerprint(self) -> str:
        """Of the model."""
        return self.encoder.fingerprint

    def encode_text(self, texts: Sequence[str]) -> Features:
        """Encode what is new."""
        if new := [text for text in dict.fromkeys(texts) if text not in self.rows]:
            self.rows.update(zip(new, self.encoder.encode_text(new), strict=True))
        return np.stack([self.rows[text] for text in texts])


def read(file: Path, encoder: Encoder, most: int) -> Shelf:
    """Read a data set and encode its pictures."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()][:most]
    folder = file.parent / "images"
    return Shelf(lines, encoder.encode_image([folder / line["image"] for line in lines]))


def fill(index_dir: Path, encoder: Kept, shelf: Shelf, captions: Sequence[str | None]) -> None:
    """Index pictures under their file names, with these captions."""
    items = (
        Item(Path(line["image"]).stem, feature=feature, caption=caption)
        for line, feature, caption in zip(shelf.lines, shelf.features, captions, strict=True)
    )
    with IndexWriter.open(
        index_dir, fingerprint=encoder.fingerprint, embed_dim=encoder.embed_dim
    ) as writer:
        writer.add_many(items)


def places(
    searcher: Searcher, queries: Sequence[str], right: Sequence[set[str]], hybrid: bool | Blend
) -> np.ndarray:
    """Give the place of the first right picture of each query, [n]; beyond the answers 0."""
    found = []
    for answer, wanted in zip(
        searcher.answers(queries, ANSWERS, hybrid=hybrid), right, strict=True
    ):
        ranks = [hit.rank for hit in answer.hits if hit.image_id in wanted]
        found.append(min(ranks, default=0))
    return np.array(found)


def told(
    searcher: Searcher, about: str, queries: Sequence[str], right: Sequence[set[str]]
) -> dict[str, Any]:
    """Measure both ways to search on the same queries, and print a row."""
    ways = {"features": False, "hybrid": True, "any word": Blend(least_share=0.0)}
    at = {way: places(searcher, queries, right, how) for way, how in ways.items()}
    figures: dict[str, Any] = {"about": about, "queries": len(queries)}
    cells = []
    for k in (1, ANSWERS):
        within = {way: ((place > 0) & (place <= k)).astype(float) for way, place in at.items()}
        recalls = {way: 100 * value.mean() for way, value in within.items()}
        gain = compare(within["hybrid"], within["features"]).difference
        low, high = 100 * gain.low, 100 * gain.high
        figures[f"recall@{k}"] = {**recalls, "difference": [100 * gain.value, low, high]}
        shown = " | ".join(f"{recalls[way]:.1f}" for way in ways)
        cells.append(f"{shown} | {100 * gain.value:+.1f} ({low:+.1f} to {high:+.1f})")
    print(f"| {about} | {len(queries)} | {' | '.join(cells)} |", flush=True)
    return figures


def head(title: str) -> None:
    """Print the head of a table."""
    names = ("features", "hybrid", "any word", "difference")
    columns = [f"R@{k} {name}" for k in (1, ANSWERS) for name in names]
    print(f"\n| {title} | queries | {' | '.join(columns)} |")
    print("|---" * (2 + len(columns)) + "|")


def descriptions(encoder: Kept, flickr: Shelf, folder: Path) -> list[dict[str, Any]]:
    """Measure plain descriptions."""
    queries = [line["zh"][1] for line in flickr.lines]
    others = [line["zh"][3] for line in flickr.lines]
    right = [{Path(line["image"]).stem} for line in flickr.lines]
    halves = [other if i % 2 else None for i, other in enumerate(others)]
    figures = []
    head("what is said of the photos")
    for about, captions in (("nothing", [None] * len(others)), ("all captioned", others)):
        fill(folder / about, encoder, flickr, captions)
        with Searcher.open(folder / about, encoder) as searcher:
            figures.append(told(searcher, about, queries, right))
    fill(folder / "half", encoder, flickr, halves)
    with Searcher.open(folder / "half", encoder) as searcher:
        figures.append(told(searcher, "every other captioned", queries, right))
        for about, first in (("… those that are", 1), ("… those that are not", 0)):
            figures.append(told(searcher, about, queries[first::2], right[first::2]))
    return figures


def names(encoder: Kept, shelves: Sequence[Shelf], folder: Path) -> list[dict[str, Any]]:
    """Measure names and numbers, with all pictures in one index."""
    flickr, dishes, groceries = shelves
    lines = [line for shelf in shelves for line in shelf.lines]
    whole = Shelf(lines, np.concatenate([shelf.features for shelf in shelves]))
    captioned = [None] * len(flickr.lines)
    captioned += [line["zh"][0] if line["zh"] else None for line in dishes.lines]
    fill(folder / "names", encoder, whole, [*captioned, *[None] * len(groceries.lines)])
    by_dish, by_name = defaultdict(set), defaultdict(set)
    for line in dishes.lines:
        if line["zh"]:
            by_dish[line["zh"][0]].add(Path(line["image"]).stem)
    for line in groceries.lines:
        name = re.sub(r"^[a-z]+_|_\d+\.jpg$", "", line["image"]).replace("-", " ")
        by_name[name].add(Path(line["image"]).stem)
    numbers = {Path(line["image"]).stem.split("_")[0]: line for line in flickr.lines[::5]}
    of_dishes: list[tuple[str, Callable[[str], str]]] = [
        ("dishes by name", str),
        ("… in traditional characters", traditional),
        ("… within a sentence", "我想看{}的照片".format),
    ]
    figures = []
    head("names and numbers")
    with Searcher.open(folder / "names", encoder) as searcher:
        for about, form in of_dishes:
            queries = [form(name) for name in by_dish]
            figures.append(told(searcher, about, queries, list(by_dish.values())))
        figures.append(told(searcher, "groceries by file name", *zip(*by_name.items())))  # noqa: B905
        right = [{Path(line["image"]).stem} for line in numbers.values()]
        figures.append(told(searcher, "photos by number", list(numbers), right))
    return figures


def traditional(text: str) -> str:
    """Write simplified characters as traditional ones."""
    import opencc  # noqa: PLC0415

    return str(opencc.OpenCC("s2tw").convert(text))


def cpu_ms(work: Callable[[], object]) -> float:
    """Measure the least CPU time of some calls, in milliseconds."""
    times = []
    for _ in range(TRIES):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1_000 * min(times)


def costs(encoder: Kept, flickr: Shelf, folder: Path) -> dict[str, float]:
    """Measure what words cost when pictures are written and searched, per picture and query."""
    captions = [line["zh"][3] for line in flickr.lines]
    figures: dict[str, float] = {}
    whole = followers.FOLLOWERS[:]
    for turn in range(TRIES):
        for name in ("without", "with"):
            followers.FOLLOWERS[:] = [
                each for each in whole if name == "with" or each is not followers.WORDS
            ]
            path = folder / f"{name}{turn}"
            start = time.process_time()
            fill(path, encoder, flickr, captions)
            took = 1e3 * (time.process_time() - start) / len(captions)
            figures[f"writing, {name} ms"] = min(figures.get(f"writing, {name} ms", took), took)
            size = sum(each.stat().st_size for each in path.rglob("*.sqlite*"))
            figures[f"catalogue, {name} bytes"] = size / len(captions)
    followers.FOLLOWERS[:] = whole
    queries = [line["zh"][1] for line in flickr.lines]
    with Searcher.open(folder / "with0", encoder) as searcher:
        for name, hybrid in (("features", False), ("hybrid", True)):
            took = cpu_ms(lambda hybrid=hybrid: one_by_one(searcher, queries[:200], hybrid=hybrid))
            figures[f"search, {name} ms"] = took / min(200, len(queries))
    with Catalogue.open(folder / "with0") as catalogue:
        took = cpu_ms(lambda: [catalogue.words.rank(query, 100) for query in queries[:200]])
        figures["words alone ms"] = took / min(200, len(queries))
    print("\n| cost of CPU, each | |\n|---|---|")
    for name, value in figures.items():
        print(f"| {name} | {value:.3f} |")
    return figures


def one_by_one(searcher: Searcher, queries: Iterable[str], *, hybrid: bool) -> None:
    """Search for each text alone."""
    for query in queries:
        searcher.search(query, hybrid=hybrid)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA", help="Folder of the three data sets.")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--quick", action="store_true", help="A few pictures of each.")
    parser.add_argument("--json", type=Path, help="Also write the figures into this file.")
    options = parser.parse_args()
    most = 150 if options.quick else 1000
    encoder = Encoder.from_pretrained(options.model)
    files = ("flickr8k-cn/val", "more/howtocook/train", "more/grocery/train")
    shelves = [read(options.data / f"{file}.jsonl", encoder, most) for file in files]
    kept = Kept(encoder, {})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = {
            "descriptions": descriptions(kept, shelves[0], folder),
            "names": names(kept, shelves, folder),
            "costs": costs(kept, shelves[0], folder),
        }
    if options.json:
        text = json.dumps(figures, ensure_ascii=False, indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
