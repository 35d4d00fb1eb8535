"""Indexing rate, memory and how busy the model is, against plain loops over open_clip.

    python benchmarks/index_photos.py --images PHOTOS  # a folder of JPEG files

Every contender runs in a process of its own, so that each has its own peak of memory, and they take
turns, so that a machine whose speed drifts treats them alike. *index* is what ``clip-text index``
does: files are read and decoded beside the model, catalogue and index are written. The loops do
what examples do, and what other search tools do: open, transform, stack, encode, in one process or
with a DataLoader's workers; they store nothing. The same model for all.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_text.runtimes.processor import available_cores

if TYPE_CHECKING:  # the process of *index* shall not hold torch
    from PIL import Image
    from torch import Tensor

BATCH = 64
CONTENDERS = {
    "index": "clip-text index",
    "loop": "open_clip, PIL, one loop",
    "loader": "open_clip, PIL, DataLoader",
}


class Busy:
    """Sums up the time that is spent in a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds = function, 0.0

    def __call__(self, *arguments: object, **named: object) -> Any:  # noqa: ANN401
        """Call it."""
        started = time.perf_counter()
        try:
            return self.function(*arguments, **named)
        finally:
            self.seconds += time.perf_counter() - started


def by_index(photos: Path, model: str) -> tuple[Callable[[], object], Busy]:
    """Index a folder from nothing, as the command does."""
    from clip_text.allocator import keep_freed_memory  # noqa: PLC0415
    from clip_text_cli.wiring import load_encoder  # noqa: PLC0415
    from retrieval.ingest import index_folder  # noqa: PLC0415

    keep_freed_memory()
    encoder = load_encoder(model, rows_only=True)
    busy = Busy(encoder.encode_pixels)
    encoder.encode_pixels = busy  # type: ignore[method-assign]
    encoder.encode_image([next(photos.iterdir())])  # graphs are compiled

    def run() -> None:
        with tempfile.TemporaryDirectory() as store:
            index_folder(photos, Path(store) / "index", encoder, batch_size=BATCH)

    return run, busy


class Photos:
    """Photos by open_clip's transform, for a DataLoader's processes."""

    def __init__(self, files: list[Path], transform: "Callable[[Image.Image], Tensor]") -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> "Tensor":
        from PIL import Image  # noqa: PLC0415

        return self.transform(Image.open(self.files[place]))


def by_open_clip(photos: Path, model: str, workers: int) -> tuple[Callable[[], object], Busy]:
    """Encode every picture of a folder the plain way."""
    import torch  # noqa: PLC0415
    from open_clip.transform import image_transform  # noqa: PLC0415
    from torch.utils.data import DataLoader  # noqa: PLC0415

    from clip_text import Encoder  # noqa: PLC0415
    from clip_text.allocator import keep_freed_memory  # noqa: PLC0415

    keep_freed_memory()
    encoder = Encoder.from_pretrained(model, runtime="torch")
    asked = encoder.preprocessing
    transform = image_transform(
        asked.size,
        is_train=False,
        mean=asked.mean,
        std=asked.std,
        resize_mode="squash",
        interpolation="bicubic",
    )
    files = sorted(photos.iterdir())
    busy = Busy(lambda batch: encoder.model.encode_image(batch.to(encoder.device), normalize=True))

    def run() -> None:
        loader: Iterable[Tensor] = DataLoader(
            Photos(files, transform),  # type: ignore[arg-type]
            batch_size=BATCH,
            num_workers=workers,
        )
        with torch.inference_mode():
            for batch in loader:
                busy(batch)

    with torch.inference_mode():
        busy(torch.stack([transform_of(files[0], transform)]))
    return run, busy


def transform_of(file: Path, transform: "Callable[[Image.Image], Tensor]") -> "Tensor":
    """Read one photo."""
    return Photos([file], transform)[0]


def peak_megabytes() -> float:
    """Most resident memory of this process so far, without its children's, MB of 10^6 bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.M)[0]) * 1024 / 1e6


def measure(contender: str, photos: Path, model: str) -> dict[str, float]:
    """Run one contender in this process."""
    begun = time.perf_counter()
    if contender == "index":
        run, busy = by_index(photos, model)
    else:
        workers = available_cores() if contender == "loader" else 0
        run, busy = by_open_clip(photos, model, workers)
    busy.seconds = 0.0
    wall, cpu, before = time.perf_counter(), os.times(), busy.seconds
    run()
    seconds, after = time.perf_counter() - wall, os.times()
    count = len(list(photos.iterdir()))
    return {
        "start_seconds": wall - begun,
        "images_per_second": count / seconds,
        "cpu_ms_per_image": (sum(after[:4]) - sum(cpu[:4])) / count * 1000,
        "busy_share": (busy.seconds - before) / seconds,
        "peak_mb": peak_megabytes(),
    }


def main() -> None:
    """Print each contender's figures, medians over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="Folder of photos.")
    parser.add_argument("--count", type=int, default=1000, help="Photos a round.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--quick", action="store_true", help="Under a minute.")
    parser.add_argument("--json", action="store_true", help="A flat object of figures.")
    parser.add_argument("--measure", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.images, options.model)))
        return
    count, rounds = (96, 1) if options.quick else (options.count, options.rounds)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in options.contenders}
    with tempfile.TemporaryDirectory() as folder:
        photos = sorted(options.images.glob("*.jpg"))[:count]
        for photo in photos:
            (Path(folder) / photo.name).symlink_to(photo.resolve())
        for _ in range(rounds):
            for name, found in runs.items():
                command = [sys.executable, __file__, "--images", folder, "--model", options.model]
                said = subprocess.run(
                    [*command, "--measure", name], check=True, capture_output=True, text=True
                ).stdout
                found.append(json.loads(said))
    figures: dict[str, float] = {"photos": len(photos), "rounds": rounds}
    for name, found in runs.items():
        for key in found[0]:
            figures[f"{name}_{key}"] = statistics.median(one[key] for one in found)
    if options.json:
        print(json.dumps(figures))
        return
    print(f"{'':28s}{'images/s':>9s}{'CPU ms':>8s}{'busy':>6s}{'peak MB':>9s}{'start s':>9s}")
    for name in runs:
        rate, cpu, busy, peak, start = (
            figures[f"{name}_{key}"]
            for key in (
                *("images_per_second", "cpu_ms_per_image", "busy_share", "peak_mb"),
                "start_seconds",
            )
        )
        print(f"{CONTENDERS[name]:28s}{rate:9.1f}{cpu:8.1f}{busy:6.0%}{peak:9.0f}{start:9.1f}")


if __name__ == "__main__":
    main()
