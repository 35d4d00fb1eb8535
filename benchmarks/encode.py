"""Texts and pictures a second to unit rows, against what else one would take.

    python benchmarks/encode.py --data ../shared/data/flickr8k-cn

Text: a RoBERTa-base of random weights, the same for all, on real captions (without ``--data`` on
others of the same lengths). Every contender takes the same texts in turns, in one process. Beside
each rate stands the lowest cosine to our rows by torch in float32, and the rate as a share of what
the same cores do in one large matrix product of the same type, counting real tokens only.
Pictures: JPEG files to unit rows, by the starter and by a ViT-B/16 of random weights.
"""

import argparse
import json
import random
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import torch
from encode_contenders import (
    EncodeFiles,
    EncodeTexts,
    Rows,
    checkpoint_of,
    picture_contenders,
    text_contenders,
)
from PIL import Image
from train_contenders import Shape, our_model
from train_steps import Times

from clip_text.allocator import keep_freed_memory
from clip_text.checkpoints import load_checkpoint
from clip_text.checkpoints.cn_clip import chinese_tokenizer
from clip_text.runtimes.processor import available_cores, describe_processor
from clip_text.tokenizer import CONTEXT_LENGTH

QUICK = Shape(image_size=96, layers=3, width=256)
_COMPARED = 32
"""Texts, and pictures, of which rows are compared."""

T = TypeVar("T")


def read_captions(folder: Path | None, count: int) -> list[str]:
    """Draw captions whose tokens all tokenizers agree on, the same every time."""
    rng = random.Random(0)  # noqa: S311
    if folder is None:
        letters = [chr(at) for at in range(0x4E00, 0x4E00 + 500)]
        return ["".join(rng.choices(letters, k=rng.randint(7, 20))) for _ in range(count)]
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    texts = sorted({text for line in lines for text in json.loads(line)["zh"]})
    rng.shuffle(texts)
    tokenizer = chinese_tokenizer(CONTEXT_LENGTH)
    ours, theirs = tokenizer.token_ids(texts[: 2 * count]), tokenizer.backend(texts[: 2 * count])
    pairs = zip(texts, ours, theirs["input_ids"], strict=False)
    return [text for text, mine, other in pairs if mine == other][:count]


def read_photos(folder: Path | None, count: int, into: Path) -> list[Path]:
    """Give JPEG files: those of Flickr8k, or noise as large."""
    if folder is not None:
        return sorted((folder / "images").glob("*.jpg"))[:count]
    rng = np.random.default_rng(0)
    files = [into / f"{number}.jpg" for number in range(count)]
    for file in files:
        small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
        small.resize((500, 375)).save(file)
    return files


def peak(dtype: torch.dtype, side: int = 2048) -> float:
    """Measure operations a second of a matrix product, the best of five."""
    left, right = (torch.randn(side, side).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def race(
    contenders: Mapping[str, Callable[[T], Rows]], inputs: Sequence[T], warm: T
) -> dict[str, Times]:
    """Let all encode the same things in turns, another one first each time."""
    names = list(contenders)
    times = {name: Times([], []) for name in names}
    for encode in contenders.values():
        encode(warm)
    for turn, given in enumerate(inputs):
        first = turn % len(names)
        for name in [*names[first:], *names[:first]]:
            wall, cpu = time.perf_counter(), time.process_time()
            contenders[name](given)
            times[name].wall.append(time.perf_counter() - wall)
            times[name].cpu.append(time.process_time() - cpu)
    return times


def lowest_cosines(contenders: Mapping[str, Callable[[T], Rows]], given: T) -> dict[str, float]:
    """Compare each one's rows with the first's."""
    rows = {name: encode(given) for name, encode in contenders.items()}
    first = next(iter(rows.values()))
    return {name: float((first * mine).sum(1).min()) for name, mine in rows.items()}


def key_of(*words: object) -> str:
    """Name a figure."""
    return re.sub("[^a-z0-9]+", "_", "_".join(map(str, words)).lower()).strip("_")


def race_texts(
    contenders: Mapping[str, EncodeTexts], texts: Sequence[str], rounds: Mapping[int, int]
) -> dict[str, float]:
    """Measure rates by batch size, and the latency of single queries.

    Args:
        contenders: By name.
        texts: At least as many as the largest batch.
        rounds: Turns by batch size.
    """
    figures: dict[str, float] = {}
    for size, number in rounds.items():
        batches = [
            [texts[(turn * size + at) % len(texts)] for at in range(size)] for turn in range(number)
        ]
        times = race(contenders, batches, batches[0][:8])
        for name, mine in times.items():
            wall, cpu = statistics.median(mine.wall), statistics.median(mine.cpu)
            key = key_of("text", name, size)
            figures |= {f"{key}_per_second": size / wall, f"{key}_cpu_ms": cpu / size * 1000}
            plain = times.get(f"plain OpenVINO{', bf16' if 'bf16' in name else ''}")
            if plain:
                figures[f"{key}_over_plain"] = statistics.median(mine.against(plain))
                figures[f"{key}_over_plain_by_cpu"] = statistics.median(plain.cpu) / cpu
            if size == 1:
                for percent in (50, 99):
                    value = float(np.percentile(mine.wall, percent)) * 1000
                    figures[key_of("text", name, "p", percent, "ms")] = value
    for name, cosine in lowest_cosines(contenders, texts[:_COMPARED]).items():
        figures[key_of("text", name, "lowest_cosine")] = cosine
    return figures


def race_pictures(
    name: str, contenders: Mapping[str, EncodeFiles], files: Sequence[Path], rounds: int
) -> dict[str, float]:
    """Measure pictures a second from files to rows."""
    figures: dict[str, float] = {}
    for contender, times in race(contenders, [files] * rounds, files[:2]).items():
        key = key_of("pictures", name, contender)
        figures[f"{key}_per_second"] = len(files) / statistics.median(times.wall)
        figures[f"{key}_cpu_ms"] = statistics.median(times.cpu) / len(files) * 1000
    for contender, cosine in lowest_cosines(contenders, files[:_COMPARED]).items():
        figures[key_of("pictures", name, contender, "lowest_cosine")] = cosine
    return figures


def table(
    names: Sequence[str],
    figures: Mapping[str, float],
    sizes: Sequence[int],
    shape: Shape,
    tokens: float,
) -> list[str]:
    """Lay out the figures of texts."""
    head = "".join(f"{size:>10d}" for size in sizes)
    lines = [
        f"{'texts/s by batch':24s}{head}{'p50 ms':>9s}{'p99 ms':>9s}{'cosine':>10s}{'of peak':>9s}"
    ]
    operations = 2 * 12 * shape.layers * shape.width**2 * tokens
    for name in names:
        rates = [figures[key_of("text", name, size, "per_second")] for size in sizes]
        kind = "bf16" if "bf16" in name else "fp32"
        share = rates[-1] * operations / (figures[f"peak_{kind}_gflops"] * 1e9)
        waits = [figures[key_of("text", name, "p", percent, "ms")] for percent in (50, 99)]
        cosine = figures[key_of("text", name, "lowest_cosine")]
        numbers = "".join(f"{rate:10.1f}" for rate in rates) + "".join(f"{w:9.1f}" for w in waits)
        lines.append(f"{name:24s}{numbers}{cosine:9.6f}{share:9.0%}")
    for title, figure in (("CPU ms a text", "cpu_ms"), ("x plain, by CPU", "over_plain_by_cpu")):
        lines.append(f"{title:24s}{head}")
        for name in names:
            numbers = [figures.get(key_of("text", name, size, figure), np.nan) for size in sizes]
            lines.append(f"{name:24s}" + "".join(f"{number:10.2f}" for number in numbers))
    return lines


def main() -> None:
    """Print rates, medians over the turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="Folder of Flickr8k-CN.")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 256])
    parser.add_argument("--rounds", type=int, default=3, help="Turns at the largest batch.")
    parser.add_argument("--queries", type=int, default=100, help="Single queries.")
    parser.add_argument("--photos", type=int, default=256)
    parser.add_argument("--sections", nargs="+", default=["texts", "pictures"])
    parser.add_argument("--quick", action="store_true", help="Under a minute, at a tiny shape.")
    parser.add_argument("--json", action="store_true", help="A flat object of figures.")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(available_cores())
    shape = QUICK if options.quick else Shape()
    if options.quick:
        options.queries, options.photos, options.rounds = 10, 16, 1
        options.batches = [size for size in options.batches if size <= 32]
    checkpoint = checkpoint_of(our_model(shape).eval(), shape)
    figures: dict[str, float] = {"threads": available_cores(), "quick": options.quick}
    lines = [describe_processor()]
    if "texts" in options.sections:
        figures |= {
            "peak_fp32_gflops": peak(torch.float32) / 1e9,
            "peak_bf16_gflops": peak(torch.bfloat16) / 1e9,
        }
        texts = read_captions(options.data, 2048)
        tokens = statistics.mean(map(len, checkpoint.tokenizer.token_ids(texts)))
        contenders = text_contenders(checkpoint, shape)
        rounds = {
            size: options.queries
            if size == 1
            else options.rounds * min(4, max(options.batches) // size)
            for size in options.batches
        }
        figures |= race_texts(contenders, texts, rounds) | {"tokens_per_text": tokens}
        lines += table(list(contenders), figures, options.batches, shape, tokens)
    if "pictures" in options.sections:
        lines += [f"{'pictures':40s}{'a second':>10s}{'CPU ms':>10s}{'cosine':>10s}"]
        with TemporaryDirectory() as folder:
            files = read_photos(options.data, options.photos, Path(folder))
            for name, parts in (("starter", load_checkpoint("starter")), ("ViT-B/16", checkpoint)):
                pictures = picture_contenders(parts)
                figures |= race_pictures(name, pictures, files, min(2, options.rounds))
                for contender in pictures:
                    key = key_of("pictures", name, contender)
                    rate, cpu = figures[f"{key}_per_second"], figures[f"{key}_cpu_ms"]
                    cosine = figures[f"{key}_lowest_cosine"]
                    label = f"{name}, {contender}"
                    lines.append(f"{label:40s}{rate:10.1f}{cpu:10.1f}{cosine:10.6f}")
    print(json.dumps(figures) if options.json else "\n".join(lines))


if __name__ == "__main__":
    main()
