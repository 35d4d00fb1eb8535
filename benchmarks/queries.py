"""What the settings of queries are worth: without, fold, diversity, templates, windows.

    python benchmarks/queries.py DATA --rows .rows

The starter on the 1,000 photos of DATA/flickr8k-cn/val.jsonl (five captions each) and 1,941 of
DATA/more/coco with labels; data that is not part of the project. A photo shows a word if at least
two of its five captions have it. --rows keeps the rows of photos, some two minutes of one core.
"""

import argparse
import io
import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jieba.posseg
import numpy as np
from PIL import Image

from clip_text import Encoder
from clip_text.evaluation.templates import SETS, fill
from retrieval.protocols import Features
from retrieval.search.combining import combine
from retrieval.search.query import WITHOUT_WEIGHT
from retrieval.search.query_rows import QueryRows
from retrieval.search.reranking import DIVERSIFIED, diversify

COPIED = 300
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
COSINES = (0.85, 0.88, 0.9, 0.92, 0.94, 0.96, 0.98)
DIVERSITIES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Rows:
    """Encodes pictures, or reads what an earlier run kept of them."""

    def __init__(self, encoder: Encoder, folder: Path) -> None:
        self.encoder, self.folder = encoder, folder
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, name: str, pictures: Callable[[], Sequence[Path | bytes]]) -> Features:
        """Give the unit rows of some pictures, kept under a name."""
        kept = self.folder / f"{name}.npy"
        if not kept.exists():
            np.save(kept, self.encoder.encode_image(pictures()))
        rows: Features = np.load(kept)
        return rows


def copies(path: Path) -> dict[str, bytes]:
    """Make near-duplicates of a photo, as they come about: saved again, smaller, cut."""
    image = Image.open(path).convert("RGB")
    width, height = image.size

    def saved(copy: Image.Image, quality: int) -> bytes:
        file = io.BytesIO()
        copy.save(file, "JPEG", quality=quality)
        return file.getvalue()

    def cut(share: float) -> bytes:
        left, top = round(width * (1 - share) / 2), round(height * (1 - share) / 2)
        return saved(image.crop((left, top, width - left, height - top)), 90)

    return {
        "q30": saved(image, 30),
        "half": saved(image.resize((width // 2, height // 2)), 80),
        "crop95": cut(0.95),
        "crop90": cut(0.9),
        "crop80": cut(0.8),
    }


def measure_fold(photos: Features, rows: Rows, files: list[Path]) -> None:
    """Print, by cosine, how many copies are folded, and how many pairs of different photos."""
    print("\n## fold: share of copies at or above a cosine; pairs of different photos\n")
    of_copies = {}
    for name in ("q30", "half", "crop95", "crop90", "crop80"):
        made = rows.of(name, lambda name=name: [copies(file)[name] for file in files[:COPIED]])
        of_copies[name] = (made * photos[:COPIED]).sum(axis=1)
    pairs = (photos @ photos.T)[np.triu_indices(len(photos), 1)]
    print("| cosine |", " | ".join(of_copies), f"| pairs of {len(pairs):,} |")
    print("|---|" + "---|" * (len(of_copies) + 1))
    for cosine in COSINES:
        shares = (f"{np.mean(found >= cosine):.3f}" for found in of_copies.values())
        print(f"| {cosine:.2f} |", " | ".join(shares), f"| {int((pairs >= cosine).sum())} |")


def words_of(lines: list[dict[str, Any]], least: int) -> dict[str, np.ndarray]:
    """Find the nouns that captions have, and which photos show each, bool [n]."""
    held = [
        Counter(
            word
            for caption in line["zh"]
            for word in {pair.word for pair in jieba.posseg.cut(caption) if pair.flag[0] == "n"}
        )
        for line in lines
    ]
    words = sorted(set(itertools.chain.from_iterable(held)))
    shown = {word: np.array([of_photo[word] >= 2 for of_photo in held]) for word in words}
    return {word: photos for word, photos in shown.items() if photos.sum() >= least}


def best(photos: Features, query: Features, k: int = 10) -> np.ndarray:
    """Give the places of the photos nearest to a query."""
    return np.argsort(-(photos @ query), kind="stable")[:k]


def measure_without(photos: Features, encoder: Encoder, words: dict[str, np.ndarray]) -> None:
    """Print what "one word without another" finds, by the weight of the other."""
    pairs = [
        (a, b) for a, b in itertools.permutations(words, 2) if (words[a] & words[b]).sum() >= 8
    ]
    rows = dict(zip(words, encoder.encode_text(list(words)), strict=True))
    # Where photos of the one mostly are photos of the other, there is nothing to find.
    pairs = [(a, b) for a, b in pairs if (words[a] & ~words[b]).sum() >= 10]
    print(f"\n## without: {len(pairs)} pairs of words, the best 10 photos of each\n")
    print("| weight | show the word | show the other | the word and not the other |")
    print("|---|---|---|---|")
    for weight in WEIGHTS:
        found = []
        for a, b in pairs:
            both = np.stack([rows[a], rows[b]])
            query = combine(both, [1.0, -weight]) if weight else rows[a]
            top = best(photos, query)
            wanted, other = words[a][top], words[b][top]
            found.append((wanted.mean(), other.mean(), (wanted & ~other).mean()))
        print(f"| {weight} |", " | ".join(f"{share:.3f}" for share in np.mean(found, axis=0)), "|")
    print(f"\nin use: {WITHOUT_WEIGHT}")


def measure_diversity(photos: Features, captions: Features) -> None:
    """Print how alike the best 10 are, and what is lost, by diversity."""
    print("\n## diversity: the best 10 photos of every fifth caption\n")
    print("| diversity | mean cosine within | largest | recall@10 |")
    print("|---|---|---|---|")
    some = range(0, len(captions), 5)
    for diversity in DIVERSITIES:
        means, largest, found = [], [], []
        for i in some:
            first = best(photos, captions[i], DIVERSIFIED)
            order = diversify(photos[first] @ captions[i], photos[first], diversity)[:10]
            shown = photos[first[order]]
            within = (shown @ shown.T)[np.triu_indices(10, 1)]
            means.append(within.mean())
            largest.append(within.max())
            found.append(i // 5 in first[order])
        figures = (np.mean(means), np.mean(largest), np.mean(found))
        print(f"| {diversity} |", " | ".join(f"{figure:.3f}" for figure in figures), "|")


def average_precision(scores: np.ndarray, right: np.ndarray) -> float:
    """Average precision of one query, as in information retrieval."""
    ranked = right[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(ranked) / np.arange(1, len(ranked) + 1))[ranked].mean())


def measure_templates(
    named: dict[str, tuple[Features, dict[str, np.ndarray]]], encoder: Encoder
) -> None:
    """Print the mean average precision of single words, by what they are put into."""
    print("\n## templates: mean average precision of single words\n")
    print("| templates |", " | ".join(f"{name}, {len(w)}" for name, (_, w) in named.items()), "|")
    print("|---|" + "---|" * len(named))
    for name in ("none", "photo", "deduplicated"):
        cells = []
        for photos, words in named.values():
            found = []
            for word, right in words.items():
                texts = [fill(template, word) for template in SETS[name]]
                row = combine(encoder.encode_text(texts), [1.0] * len(texts))
                found.append(average_precision(photos @ row, right))
            cells.append(f"{np.mean(found):.4f} ± {np.std(found) / len(found) ** 0.5:.4f}")
        print(f"| {name}, {len(SETS[name])} |", " | ".join(cells), "|")


def measure_windows(photos: Features, encoder: Encoder, lines: list[dict[str, Any]]) -> None:
    """Print recall@1 and @10 of long texts: cut by the model, and in windows."""
    print("\n## windows: long texts, the five captions of a photo in a row\n")
    print("| captions | characters | texts | recall@1 | recall@10 |\n|---|---|---|---|---|")
    rows_of = QueryRows(encoder, None, encoder.embed_dim)
    for kind, between in (("zh", "，"), ("zh_mt", ""), ("en", " ")):
        texts = [between.join(line[kind]) for line in lines]
        length = np.mean([len(text) for text in texts])
        for name, queries in (
            ("cut", encoder.encode_text(texts)),
            ("in windows", rows_of(texts)[0]),
        ):
            scores = queries @ photos.T
            ranks = (scores > np.diag(scores)[:, None]).sum(axis=1)
            at_1, at_10 = np.mean(ranks < 1), np.mean(ranks < 10)
            print(f"| {kind} | {length:.0f} | {name} | {at_1:.3f} | {at_10:.3f} |")


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path, help="has flickr8k-cn/ and more/coco/")
    parser.add_argument(
        "--rows", type=Path, default=Path(".rows"), help="where encoded rows are kept"
    )
    arguments = parser.parse_args()
    encoder = Encoder.from_pretrained("starter")
    rows = Rows(encoder, arguments.rows)
    folder = arguments.data / "flickr8k-cn"
    lines = lines_of(folder / "val.jsonl")
    files = [folder / "images" / line["image"] for line in lines]
    photos = rows.of("val", lambda: files)
    captions = encoder.encode_text([caption for line in lines for caption in line["zh"]])
    words = words_of(lines, 10)
    coco_folder = arguments.data / "more/coco"
    coco = lines_of(coco_folder / "train.jsonl")
    of_coco = rows.of("coco", lambda: [coco_folder / "images" / line["image"] for line in coco])
    labels = Counter(label for line in coco for label in line["labels"])
    shown = {
        label: np.array([label in line["labels"] for line in coco])
        for label, count in labels.items()
        if count >= 5
    }
    print("spread of a text's and of a photo's cosines with photos:")
    spreads = ((queries @ photos.T).std(axis=1).mean() for queries in (captions, photos))
    print(", ".join(f"{spread:.3f}" for spread in spreads))
    measure_fold(photos, rows, files)
    measure_without(photos, encoder, words)
    measure_diversity(photos, captions)
    measure_templates({"words of captions": (photos, words), "COCO": (of_coco, shown)}, encoder)
    measure_windows(photos, encoder, lines)


if __name__ == "__main__":
    main()
