"""Texts and pictures a second to unit rows, against what else one would take.

    python benchmarks/encode.py --data FLICKR8K_CN  # tables in Markdown
    python benchmarks/encode.py --device cuda       # big batches on a GPU
    python benchmarks/encode.py --quick --json      # a tiny model, one thread

FLICKR8K_CN is a folder of that data set: ``train.jsonl``, and its photos in ``images/``.
Text: a RoBERTa-base of random weights, the same for all, on real captions (without ``--data`` on
others of the same lengths). Every contender takes the same texts in turns, in one process. Beside
each rate stands the lowest cosine to our rows by torch in float32, and the rate as a share of what
the same cores do in one large matrix product of the same type, counting real tokens only.
Pictures: JPEG files to unit rows, by the starter and by a ViT-B/16 of random weights.

The processor's time counts all threads and child processes: it says the same on a busy machine,
the clock does not. ``--quick`` leaves out what takes seconds to import or to calibrate.
"""

import argparse
import json
import random
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, TypeVar

import encode_gpu
import numpy as np
import torch
from encode_contenders import (
    EncodeFiles,
    EncodeTexts,
    Rows,
    checkpoint_of,
    picture_contenders,
    sentence_backends,
    text_contenders,
)
from encode_tables import device_table, key_of, picture_table, text_tables
from numpy.typing import NDArray
from PIL import Image
from train_contenders import Shape, our_model
from train_steps import Times

from clip_text.allocator import keep_freed_memory
from clip_text.checkpoints import Checkpoint, load_checkpoint
from clip_text.checkpoints.cn_clip import chinese_tokenizer
from clip_text.precision import bf16_pays
from clip_text.runtimes.processor import available_cores, describe_processor, has_bf16
from clip_text.tokenizer import CONTEXT_LENGTH

QUICK = Shape(image_size=64, layers=2, width=128)

_LEFT_OUT = ("int8", "sentence-transformers", "DataLoader")
"""Of the quick run: calibration, 3 s of imports, and processes that import torch each."""

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


def peak(dtype: torch.dtype, side: int) -> float:
    """Measure operations a second of a matrix product, the best of five."""
    left, right = (torch.randn(side, side).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def peaks(*, quick: bool) -> dict[str, float]:
    """Measure what these cores do at most; bfloat16 only where they have it: emulated it crawls."""
    kinds = {"fp32": torch.float32}
    if has_bf16() or bf16_pays():
        kinds["bf16"] = torch.bfloat16
    side = 512 if quick else 2048
    return {f"peak_{name}_gflops": peak(kind, side) / 1e9 for name, kind in kinds.items()}


def cpu_seconds() -> float:
    """Count what this process and its children that ended took of the processor."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@dataclass(frozen=True, slots=True)
class Raced(Generic[T]):
    """Times of a contender, and what it gave in the first turn."""

    times: Times
    rows: Rows


def race(
    contenders: Mapping[str, Callable[[T], Rows]], inputs: Sequence[T], warm: T | None = None
) -> dict[str, Raced[T]]:
    """Let all encode the same things in turns, another one first each time.

    Args:
        contenders: By name.
        inputs: A turn each.
        warm: Encoded beforehand by all, if given: models are made at their first call.
    """
    names = list(contenders)
    times = {name: Times([], []) for name in names}
    rows: dict[str, Rows] = {}
    for encode in contenders.values() if warm is not None else ():
        encode(warm)
    for turn, given in enumerate(inputs):
        first = turn % len(names)
        for name in [*names[first:], *names[:first]]:
            wall, cpu = time.perf_counter(), cpu_seconds()
            found = contenders[name](given)
            times[name].wall.append(time.perf_counter() - wall)
            times[name].cpu.append(cpu_seconds() - cpu)
            rows.setdefault(name, found)
    return {name: Raced(times[name], rows[name]) for name in names}


def lowest_cosines(raced: Mapping[str, Raced[Any]]) -> dict[str, float]:
    """Compare each one's rows with the first's."""
    first = next(iter(raced.values())).rows
    return {name: float((first * mine.rows).sum(1).min()) for name, mine in raced.items()}


def race_texts(
    contenders: Mapping[str, EncodeTexts], texts: Sequence[str], rounds: Mapping[int, int]
) -> dict[str, float]:
    """Measure rates by batch size, the latency of single queries, and cosines.

    Args:
        contenders: By name; the first is compared with.
        texts: At least as many as the largest batch.
        rounds: Turns by batch size.
    """
    figures: dict[str, float] = {}
    lowest: dict[str, list[float]] = {}
    for at, (size, number) in enumerate(rounds.items()):
        batches = [
            [texts[(turn * size + place) % len(texts)] for place in range(size)]
            for turn in range(number)
        ]
        raced = race(contenders, batches, batches[0][:8] if at == 0 else None)
        for name, cosine in lowest_cosines(raced).items():
            lowest.setdefault(name, []).append(cosine)
        for name, mine in raced.items():
            figures |= _figures_of(name, size, mine.times, raced)
    return figures | {
        key_of("text", name, "lowest_cosine"): min(cosines) for name, cosines in lowest.items()
    }


def _figures_of(
    name: str, size: int, mine: Times, raced: Mapping[str, Raced[Any]]
) -> dict[str, float]:
    """Name a contender's figures at a batch size, and compare it with OpenVINO of its precision."""
    key = key_of("text", name, size)
    wall, cpu = statistics.median(mine.wall), statistics.median(mine.cpu)
    figures = {f"{key}_per_second": size / wall, f"{key}_cpu_ms": cpu / size * 1000}
    kind = next((f", {kind}" for kind in ("bf16", "int8") if kind in name), "")
    if plain := raced.get(f"plain OpenVINO{kind}"):
        figures[f"{key}_over_plain"] = statistics.median(mine.against(plain.times))
        figures[f"{key}_over_plain_by_cpu"] = statistics.median(plain.times.cpu) / cpu
    if size == 1:
        for percent in (50, 99):
            value = float(np.percentile(mine.wall, percent)) * 1000
            figures[key_of("text", name, "p", percent, "ms")] = value
    return figures


def race_pictures(
    name: str, contenders: Mapping[str, EncodeFiles], files: Sequence[Path], rounds: int
) -> dict[str, float]:
    """Measure pictures a second from files to rows."""
    figures: dict[str, float] = {}
    raced = race(contenders, [files] * rounds, files[:2])
    for contender, mine in raced.items():
        key = key_of("pictures", name, contender)
        figures[f"{key}_per_second"] = len(files) / statistics.median(mine.times.wall)
        figures[f"{key}_cpu_ms"] = statistics.median(mine.times.cpu) / len(files) * 1000
    for contender, cosine in lowest_cosines(raced).items():
        figures[key_of("pictures", name, contender, "lowest_cosine")] = cosine
    return figures


def operations_of_text(shape: Shape, tokens: float) -> float:
    """Operations of a text's matrix products: those of its real tokens."""
    return 2 * 12 * shape.layers * shape.width**2 * tokens


def operations_of_picture(shape: Shape) -> float:
    """Operations of a picture's matrix products: patches and the class token."""
    tokens = (shape.image_size // 16) ** 2 + 1
    return 2 * 12 * shape.layers * shape.width**2 * tokens


Section = tuple[list[str], dict[str, float]]


def text_section(checkpoint: Checkpoint, shape: Shape, options: argparse.Namespace) -> Section:
    """Race texts, and lay out what came of it."""
    texts = read_captions(options.data, max(256, *options.batches) * 2)
    tokens = statistics.mean(map(len, checkpoint.tokenizer.token_ids(texts)))
    contenders = _chosen(text_contenders(checkpoint, shape), options)
    largest = max(options.batches)
    rounds = {
        size: options.queries if size == 1 else options.rounds * min(4, largest // size)
        for size in options.batches
    }
    figures = peaks(quick=options.quick) | race_texts(contenders, texts, rounds)
    figures["tokens_per_text"] = tokens
    for name in contenders:
        gflops = figures.get("peak_bf16_gflops" if "bf16" in name else "peak_fp32_gflops")
        if gflops and "int8" not in name:
            rate = figures[key_of("text", name, largest, "per_second")]
            share = rate * operations_of_text(shape, tokens) / (gflops * 1e9)
            figures[key_of("text", name, "of_peak")] = share
    missing = {"onnx", "openvino"} - set(sentence_backends())
    lines = text_tables(list(contenders), figures, options.batches)
    if missing and not options.quick:
        names = " and ".join(sorted(missing))
        lines += ["", f"sentence-transformers' {names}: not raced, `optimum` cannot be imported."]
    return lines, figures


def picture_section(checkpoint: Checkpoint, options: argparse.Namespace) -> Section:
    """Race pictures by the starter, and by the ViT unless it is to be quick."""
    figures: dict[str, float] = {}
    names: dict[str, list[str]] = {}
    with TemporaryDirectory() as folder:
        files = read_photos(options.data, options.photos, Path(folder))
        models = [("starter", load_checkpoint("starter"), files)]
        if not options.quick:  # seconds a picture, where the starter takes a tenth
            models.append(("ViT-B/16", checkpoint, files[:64]))
        for name, parts, some in models:
            contenders = _chosen(picture_contenders(parts), options)
            figures |= race_pictures(name, contenders, some, options.rounds)
            names[name] = list(contenders)
    return picture_table(names, figures), figures


def device_section(checkpoint: Checkpoint, shape: Shape, options: argparse.Namespace) -> Section:
    """Race big batches on a GPU (or, to try the script, on the CPU)."""
    device, side = options.device, 512 if options.quick else 8192
    top = encode_gpu.device_peak(device, side)
    figures, names = {"peak_bf16_gflops": top / 1e9}, {}
    if "texts" in options.sections:
        texts = read_captions(options.data, options.device_texts)
        texts = [texts[at % len(texts)] for at in range(options.device_texts)]
        tokens = statistics.mean(map(len, checkpoint.tokenizer.token_ids(texts)))
        of_text = operations_of_text(shape, tokens)
        by_text = encode_gpu.text_contenders(checkpoint, shape, device)
        figures |= encode_gpu.race_on(
            "texts",
            by_text,
            texts,
            rounds=options.rounds,
            share_of_peak=lambda rate: rate * of_text / top,
        )
        names["texts"] = list(by_text)
    if "pictures" in options.sections:
        size = (options.device_pictures, shape.image_size, shape.image_size, 3)
        pixels: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, size, np.uint8)
        of_picture = operations_of_picture(shape)
        by_picture = encode_gpu.picture_contenders(checkpoint, device)
        figures |= encode_gpu.race_on(
            "pictures",
            by_picture,
            pixels,
            rounds=options.rounds,
            share_of_peak=lambda rate: rate * of_picture / top,
        )
        names["pictures"] = list(by_picture)
    on_gpu = device.startswith("cuda")
    title = torch.cuda.get_device_name(device) if on_gpu else describe_processor()
    return device_table(title, names, figures), figures


def _chosen(contenders: Mapping[str, T], options: argparse.Namespace) -> dict[str, T]:
    """Leave out what is slow where it is to be quick, and what was not asked for but the first."""
    left_out = _LEFT_OUT if options.quick else ()
    first, *others = (name for name in contenders if not any(part in name for part in left_out))
    asked = [name for name in others if name.endswith(tuple(options.contenders))]
    return {name: contenders[name] for name in [first, *asked]}


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; ``--quick`` makes everything small."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="Folder of Flickr8k-CN.")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 256])
    parser.add_argument("--rounds", type=int, default=1, help="Turns at the largest batch.")
    parser.add_argument("--queries", type=int, default=30, help="Single queries.")
    parser.add_argument("--photos", type=int, default=256, help="For the starter; 64 for a ViT.")
    parser.add_argument(
        "--sections", nargs="+", default=["texts", "pictures"], choices=["texts", "pictures"]
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        default=[""],
        metavar="END",
        help="Beside the first, which all are held against, those whose names end so.",
    )
    parser.add_argument("--device", default="cpu", help="cuda: big batches on a GPU instead.")
    parser.add_argument("--device-texts", type=int, default=4096, help="In a batch on a GPU.")
    parser.add_argument("--device-pictures", type=int, default=512, help="In a batch on a GPU.")
    parser.add_argument("--quick", action="store_true", help="Under a minute, at a tiny shape.")
    parser.add_argument("--json", action="store_true", help="A flat object of figures.")
    options = parser.parse_args(arguments)
    if options.quick:
        options.queries, options.photos, options.rounds = 8, 8, 1
        options.batches = [size for size in options.batches if size <= 32]
        options.device_texts, options.device_pictures = 64, 4
    return options


def run(options: argparse.Namespace) -> Section:
    """Race what the options ask for."""
    shape = QUICK if options.quick else Shape()
    checkpoint = checkpoint_of(our_model(shape).eval(), shape)
    if options.device != "cpu":
        return device_section(checkpoint, shape, options)
    figures: dict[str, float] = {"threads": torch.get_num_threads(), "quick": options.quick}
    lines = [describe_processor()]
    sections = {
        "texts": lambda: text_section(checkpoint, shape, options),
        "pictures": lambda: picture_section(checkpoint, options),
    }
    for name in options.sections:
        more, found = sections[name]()
        lines += ["", *more]
        figures |= found
    return lines, figures


def main() -> None:
    """Print rates, medians over the turns."""
    options = read_options()
    keep_freed_memory()
    # on a busy machine PyTorch's threads wait for each other most of the time
    torch.set_num_threads(1 if options.quick else available_cores())
    lines, figures = run(options)
    print(json.dumps(figures) if options.json else "\n".join(lines))


if __name__ == "__main__":
    main()
