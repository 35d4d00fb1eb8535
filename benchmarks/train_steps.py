"""Training pairs a second, against the steps of cn_clip's and open_clip's own training loops.

    python benchmarks/train_steps.py --data FLICKR8K_CN  # its train.jsonl, photos in images/

RoBERTa-base and ViT-B/16 start from one set of random weights and see the same pictures and
captions, in turns. A step is everything from pixels (or, in ours with a frozen image tower,
cached features) and raw captions to the updated weights. Without ``--data`` pictures are noise
and captions are drawn at the lengths of Flickr8k-CN's. Takes about 10 GB.
"""

import argparse
import json
import random
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from open_clip.transform import image_transform
from PIL import Image
from torch import nn
from train_contenders import (
    CAPTIONS,
    Batch,
    Contender,
    Shape,
    cn_clip_contender,
    open_clip_contenders,
    our_contenders,
    our_model,
)

from clip_text.allocator import keep_freed_memory
from clip_text.precision import bf16_pays

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
QUICK = Shape(image_size=96, layers=3, width=256)
"""A twentieth of the parameters: its ratios say that the script runs, nothing of the real shape."""


def read_batches(folder: Path | None, count: int, size: int, image_size: int) -> list[Batch]:
    """Draw batches of pictures with captions that no other of them has, the same every time."""
    rng = random.Random(0)  # noqa: S311
    needed = count * size
    if folder is None:
        letters = [chr(at) for at in range(0x4E00, 0x4E00 + 500)]
        groups = [
            ["".join(rng.choices(letters, k=rng.randint(7, 14))) for _ in range(CAPTIONS)]
            for _ in range(needed)
        ]
        pixels = torch.randn(needed, 3, image_size, image_size, generator=torch.manual_seed(0))
    else:
        lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
        rng.shuffle(lines)
        transform = image_transform(
            image_size, is_train=False, mean=MEAN, std=STD, resize_mode="squash"
        )
        groups, pictures, seen = [], [], set[str]()
        for row in map(json.loads, lines):
            texts = list(dict.fromkeys(row["zh"]))
            if len(texts) < CAPTIONS or seen.intersection(texts):
                continue
            seen.update(texts)
            groups.append(texts)
            pictures.append(transform(Image.open(folder / "images" / row["image"])))
            if len(groups) == needed:
                break
        pixels = torch.stack(pictures)
    places = [slice(at, at + size) for at in range(0, needed, size)]
    return [Batch(pixels[place], groups[place]) for place in places]


def loss_differences(contenders: Sequence[Contender], batch: Batch) -> dict[str, float]:
    """Largest difference of each one's loss from the first's, same weights, without dropout."""
    losses = {}
    for contender in contenders:
        is_another = contender.captions > 1 or "*" in contender.name or "bf16" in contender.name
        if not is_another:
            contender.prepare()
            contender.model.eval()
            with torch.no_grad():
                losses[contender.name] = float(contender.loss(batch))
    first = next(iter(losses.values()))
    return {name: abs(loss - first) for name, loss in losses.items()}


def cache_features(model: nn.Module, batches: Sequence[Batch]) -> float:
    """Fill in the features of all batches; seconds a picture."""
    model.eval()
    started = time.perf_counter()
    for batch in batches:
        with torch.no_grad():
            batch.features = model.visual(batch.pixels)
    return (time.perf_counter() - started) / sum(len(batch.captions) for batch in batches)


@dataclass(slots=True)
class Times:
    """Of one contender: seconds and CPU seconds a pair, by round."""

    wall: list[float]
    cpu: list[float]

    def against(self, other: "Times") -> list[float]:
        """How many times faster than another, by round."""
        return [theirs / mine for mine, theirs in zip(self.wall, other.wall, strict=True)]


def race(
    contenders: Sequence[Contender], batches: Sequence[Batch], rounds: int
) -> dict[str, Times]:
    """Let all take the same steps in turns, another one first in every round."""
    times = {contender.name: Times([], []) for contender in contenders}
    steps = len(batches) // rounds
    for at in range(rounds):
        first = at * len(contenders) // rounds
        for contender in [*contenders[first:], *contenders[:first]]:
            wall, cpu = contender.turn(batches[at * steps : (at + 1) * steps])
            times[contender.name].wall.append(wall)
            times[contender.name].cpu.append(cpu)
    return times


def report(times: dict[str, Times], section: str) -> tuple[list[str], dict[str, float]]:
    """A table of one section, and its figures."""
    lines = [f"{section:54s} pairs/s     (range)   CPU s/pair   x cn_clip  x open_clip"]
    figures: dict[str, float] = {}
    for name, mine in times.items():
        rates = [1 / wall for wall in mine.wall]
        ratios = [statistics.median(mine.against(times[n])) for n in ("cn_clip", "open_clip")]
        cpu = statistics.median(mine.cpu)
        span = f"{min(rates):.2f}-{max(rates):.2f}"
        numbers = f"{statistics.median(rates):7.2f} {span:>13s} {cpu:10.3f}"
        lines.append(f"  {name:50s} {numbers} {ratios[0]:10.2f} {ratios[1]:10.2f}")
        key = f"{section}_{re.sub('[^a-z0-9]+', '_', name.lower()).strip('_')}"
        figures |= {
            f"{key}_pairs_per_second": statistics.median(rates),
            f"{key}_cpu_seconds_per_pair": cpu,
            f"{key}_over_cn_clip": ratios[0],
            f"{key}_over_open_clip": ratios[1],
            f"{key}_over_cn_clip_by_cpu": statistics.median(times["cn_clip"].cpu) / cpu,
        }
    return lines, figures


def run(
    section: str, shape: Shape, batches: list[Batch], rounds: int
) -> tuple[list[str], dict[str, float]]:
    """Build the contenders of a section, compare their losses, and let them race."""
    frozen = section == "frozen"
    model = our_model(shape)
    weights = model.state_dict()
    lines, figures = [], {}
    if frozen:
        figures["frozen_caching_seconds_per_picture"] = cache_features(model, batches)
    contenders = [
        cn_clip_contender(shape, weights, frozen),
        *open_clip_contenders(shape, weights, frozen),
        *our_contenders(model, frozen),
    ]
    difference = max(loss_differences(contenders, batches[0].head(8)).values())
    figures[f"{section}_largest_loss_difference"] = difference
    times = race(contenders, batches, rounds)
    table, rates = report(times, section)
    lines += [
        *table,
        f"  losses differ by at most {difference:.1e} (same weights, fp32, no dropout)",
    ]
    if frozen:
        cost = figures["frozen_caching_seconds_per_picture"]
        saved = statistics.median(times["cn_clip"].wall) - statistics.median(times["ours"].wall)
        figures["frozen_break_even_epochs"] = cost / saved
        lines.append(
            f"  caching features once: {cost:.3f} s a picture, paid back against cn_clip after "
            f"{cost / saved:.2f} epochs of one caption a picture"
        )
    return lines, figures | rates


def main() -> None:
    """Print rates and ratios, medians over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="Folder of Flickr8k-CN.")
    parser.add_argument("--sections", nargs="+", default=["unfrozen", "frozen"])
    parser.add_argument("--batch", type=int, default=16, help="Pairs a step, unfrozen.")
    parser.add_argument("--frozen-batch", type=int, default=32, help="Pairs a step, frozen.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1, help="Steps a round.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--default-allocator", action="store_true", help="Let glibc give freed memory back."
    )
    parser.add_argument("--quick", action="store_true", help="Under a minute, at a tiny shape.")
    parser.add_argument("--json", action="store_true", help="A flat object of figures.")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kept = not options.default_allocator and keep_freed_memory()
    shape, rounds = (QUICK, 2) if options.quick else (Shape(), options.rounds)
    figures: dict[str, float] = {"threads": options.threads, "rounds": rounds, "bf16": bf16_pays()}
    figures |= {"kept_freed_memory": kept, "quick": options.quick}
    figures |= {"layers": shape.layers, "width": shape.width, "image_size": shape.image_size}
    lines = [
        f"{shape.layers} layers of width {shape.width} in both towers, pictures of "
        f"{shape.image_size} px; {options.threads} threads, {rounds} rounds of {options.steps} "
        f"steps; * is another computation than cn_clip's"
    ]
    for section in options.sections:
        size = options.frozen_batch if section == "frozen" else options.batch
        batches = read_batches(options.data, rounds * options.steps, size, shape.image_size)
        table, more = run(section, shape, batches, rounds)
        lines += ["", *table]
        figures |= {f"{section}_batch": size, **more}
    print(json.dumps(figures) if options.json else "\n".join(lines))


if __name__ == "__main__":
    main()
