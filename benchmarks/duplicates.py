"""From which cosine on pictures are copies of each other: precision and recall of pairs.

    python benchmarks/duplicates.py shared/data/flickr8k-cn/images --rows .rows
    python benchmarks/duplicates.py shared/data/flickr8k-cn/images --rows .rows --scale 1000000

Copies of 500 photos, made by Pillow, among all photos of a folder; data that is not part of the
project. A pair of an original and its copy is right, any of two originals is wrong, though some
show the same: a few that are nearest are named, to be looked at. The second table asks pixels,
too, as clip-text index duplicates does. --rows keeps the rows.
--scale times the grouping of so many random rows, a tenth of them near another.
"""

import argparse
import hashlib
import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from clip_text import Encoder
from retrieval.features import unit_rows
from retrieval.index import leaders
from retrieval.overview import ALIKE
from retrieval.overview.looks import LEAST_CORRELATION, SIDE, Looks, read_looks
from retrieval.pictures import tiny_pixels
from retrieval.protocols import Features

COPIED = 500
CORRELATIONS = (0.8, 0.85, 0.9, 0.95)
COSINES = (0.8, 0.85, 0.88, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)
_BLOCK = 1024


def copies(path: Path) -> Iterator[tuple[str, bytes]]:
    """Make what becomes of a photo on its way through other programs."""
    with Image.open(path) as opened:
        photo = opened.convert("RGB")
    width, height = photo.size

    def saved(copy: Image.Image, quality: int = 90) -> bytes:
        file = io.BytesIO()
        copy.save(file, "JPEG", quality=quality)
        return file.getvalue()

    def cut(share: float) -> Image.Image:
        x, y = round(width * (1 - share) / 2), round(height * (1 - share) / 2)
        return photo.crop((x, y, width - x, height - y))

    yield "quality 75", saved(photo, 75)
    yield "quality 30", saved(photo, 30)
    yield "3/4 size", saved(photo.resize((width * 3 // 4, height * 3 // 4)))
    yield "1/2 size", saved(photo.resize((width // 2, height // 2)))
    yield "cut 95%", saved(cut(0.95))
    yield "cut 90%", saved(cut(0.9))
    yield "cut 80%", saved(cut(0.8))
    yield "brighter 1.2", saved(ImageEnhance.Brightness(photo).enhance(1.2))
    yield "brighter 1.5", saved(ImageEnhance.Brightness(photo).enhance(1.5))
    yield "contrast 1.3", saved(ImageEnhance.Contrast(photo).enhance(1.3))


def encoded(folder: Path, kept: Path, model: str) -> tuple[list[Path], Features, list[str]]:
    """Give the photos, the rows of photos and copies (kind by kind, [n, embed_dim]), and kinds."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpg", ".png"})
    unlike = {hashlib.sha256(path.read_bytes()).digest(): path for path in reversed(files)}
    files = sorted(unlike.values())  # a file that is there twice would pass for a wrong pair
    drawn = np.random.default_rng(0).permutation(len(files))[:COPIED]
    made = [list(copies(files[i])) for i in drawn]
    kinds = [name for name, _ in made[0]]
    if not kept.exists():
        encoder = Encoder.from_pretrained(model)
        pictures = [*files, *(each[k][1] for k in range(len(kinds)) for each in made)]
        rows = []
        for start in range(0, len(pictures), _BLOCK):
            pixels = [encoder.load_pixels(each) for each in pictures[start : start + _BLOCK]]
            rows.append(encoder.encode_pixels(pixels))
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, np.concatenate(rows))
    return (
        [files[i] for i in [*drawn, *np.setdiff1d(np.arange(len(files)), drawn)]],
        _ordered(np.load(kept), drawn, len(files)),
        kinds,
    )


def _ordered(rows: Features, drawn: np.ndarray, count: int) -> Features:
    others = np.setdiff1d(np.arange(count), drawn)
    return np.concatenate([rows[drawn], rows[others], rows[count:]])


def above(photos: Features, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Find all pairs of different photos from a cosine on: cosines, and pairs [n, 2]."""
    cosines, pairs = [], []
    for start in range(0, len(photos), _BLOCK):
        scores = photos[start : start + _BLOCK] @ photos.T
        first, second = np.nonzero(scores >= least)
        keep = first + start < second
        cosines.append(scores[first[keep], second[keep]])
        pairs.append(np.stack([first[keep] + start, second[keep]], axis=1))
    return np.concatenate(cosines), np.concatenate(pairs)


def measure(files: list[Path], rows: Features, kinds: list[str]) -> None:
    """Print recall of each kind, wrong pairs, and precision with one copy of every tenth photo."""
    photos, copied = rows[: len(files)], rows[len(files) :].reshape(len(kinds), COPIED, -1)
    right = np.einsum("kne,ne->kn", copied, photos[:COPIED])
    wrong, pairs = above(photos, min(COSINES))
    total = len(files) * (len(files) - 1) // 2
    print(f"{len(files):,} photos, {total:,} pairs of them; {COPIED} copied\n")
    print(f"| cosine | {' | '.join(kinds)} | all | wrong pairs | per million | precision |")
    print("|---" * (len(kinds) + 5) + "|")
    for least in COSINES:
        recalls = (right >= least).mean(axis=1)
        count = int((wrong >= least).sum())
        found = recalls.mean() * len(files) / 10
        cells = [f"{least}", *(f"{recall:.3f}" for recall in [*recalls, recalls.mean()])]
        cells += [f"{count:,}", f"{1e6 * count / total:.2f}", f"{found / (found + count):.3f}"]
        print(f"| {' | '.join(cells)} |")
    measure_pixels(files, kinds, right, wrong, pairs)
    print("\nthe nearest different photos:")
    for i in np.argsort(-wrong)[:40]:
        first, second = pairs[i]
        print(f"  {wrong[i]:.4f} {files[first].name} {files[second].name}")


def measure_pixels(
    files: list[Path], kinds: list[str], right: np.ndarray, wrong: np.ndarray, pairs: np.ndarray
) -> None:
    """Print the same where tiny pictures have to correlate, too."""
    looks = read_looks(files)
    far = np.array(
        [looks.correlations(int(first), np.array([second]))[0] for first, second in pairs]
    )
    near = np.empty((len(kinds), COPIED))
    for n, file in enumerate(files[:COPIED]):
        made = [tiny_pixels(data, SIDE) for _, data in copies(file)]
        of_one = Looks(np.stack([tiny_pixels(file, SIDE), *made]), np.ones(len(made) + 1, bool))
        near[:, n] = of_one.correlations(0, np.arange(1, len(made) + 1))
    print(f"\n| cosine | correlation | {' | '.join(kinds)} | all | wrong pairs | precision |")
    print("|---" * (len(kinds) + 5) + "|")
    for least in (0.85, 0.88, 0.9, 0.92, 0.95):
        for correlation in CORRELATIONS:
            recalls = ((right >= least) & (near >= correlation)).mean(axis=1)
            count = int(((wrong >= least) & (far >= correlation)).sum())
            found = recalls.mean() * len(files) / 10
            cells = [f"{least} | {correlation}"]
            cells += [f"{recall:.3f}" for recall in [*recalls, recalls.mean()]]
            print(f"| {' | '.join(cells)} | {count:,} | {found / (found + count):.3f} |")
    print("\nthe nearest different photos of those that look alike:")
    for i in np.argsort(-wrong)[:1000]:
        if far[i] >= LEAST_CORRELATION and wrong[i] >= ALIKE:
            print(f"  {wrong[i]:.4f} {far[i]:.4f} {' '.join(files[j].name for j in pairs[i])}")


def scale(count: int, embed_dim: int = 256) -> None:
    """Time the grouping of random rows around random centres, a tenth of them near another."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((1000, embed_dim)).astype(np.float32)
    halves = np.empty((count, embed_dim), np.float16)
    for start in range(0, count, 1 << 16):
        part = halves[start : start + (1 << 16)]
        noise = rng.standard_normal(part.shape).astype(np.float32)
        rows = centres[rng.integers(0, 1000, len(part))] + noise
        part[:] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    copies, originals = rng.permutation(count)[: count // 10 * 2].reshape(2, -1)
    noise = rng.standard_normal((len(copies), embed_dim)).astype(np.float32) / embed_dim**0.5
    near = unit_rows(halves[originals]) + 0.25 * noise
    halves[copies] = near / np.linalg.norm(near, axis=1, keepdims=True)
    order = np.concatenate([originals, np.setdiff1d(np.arange(count), originals)])
    started, used = time.perf_counter(), time.process_time()
    found = leaders.find_leaders(halves, order, 0.95)
    wall, cpu = time.perf_counter() - started, time.process_time() - used
    print(
        f"{count:,} rows of width {embed_dim}: {wall:.0f} s, {cpu:.0f} s of CPU; "
        f"{(found.leader[copies] == originals).mean():.4f} of {len(copies):,} copies found, "
        f"{(found.leader != np.arange(count)).sum() - len(copies):,} others follow"
    )


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=Path, default=Path(".rows"))
    parser.add_argument("--model", default="starter")
    parser.add_argument("--scale", type=int)
    asked = parser.parse_args()
    if asked.scale:
        scale(asked.scale)
        return
    measure(*encoded(asked.folder, asked.rows / "duplicates.npy", asked.model))


if __name__ == "__main__":
    main()
