"""Indexing rate, pictures a second, against a plain loop over open_clip's own preprocessing.

    python benchmarks/index_photos.py --images ../shared/data/flickr8k-cn/images

Both use the same model on the same pictures, in turns, so that a machine whose speed drifts
treats them alike. The loop does what examples do: open, transform, stack, encode, one after the
other; it stores nothing. ``index_folder`` decodes beside the model and writes catalogue and index.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from open_clip.transform import image_transform
from PIL import Image

from clip_text import Encoder
from retrieval.ingest import index_folder

BATCH = 64


def by_open_clip_loop(encoder: Encoder, folder: Path) -> float:
    """Encode every picture of a folder the plain way; seconds."""
    preprocessing = encoder.checkpoint.preprocessing
    transform = image_transform(
        preprocessing.size,
        is_train=False,
        mean=preprocessing.mean,
        std=preprocessing.std,
        resize_mode="squash",
        interpolation="bicubic",
    )
    paths = sorted(folder.iterdir())
    started = time.perf_counter()
    with torch.inference_mode():
        for at in range(0, len(paths), BATCH):
            batch = torch.stack([transform(Image.open(path)) for path in paths[at : at + BATCH]])
            encoder.model.encode_image(batch.to(encoder.device), normalize=True)
    return time.perf_counter() - started


def by_index_folder(encoder: Encoder, folder: Path) -> float:
    """Index a folder from nothing; seconds."""
    with tempfile.TemporaryDirectory() as store:
        started = time.perf_counter()
        index_folder(folder, Path(store) / "index", encoder, batch_size=BATCH)
        return time.perf_counter() - started


def main() -> None:
    """Print both rates and their ratio, median over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="Folder of photos.")
    parser.add_argument("--count", type=int, default=1000, help="Photos a round.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--quick", action="store_true", help="Under a minute.")
    parser.add_argument("--json", action="store_true", help="A flat object of figures.")
    options = parser.parse_args()
    count, rounds = (200, 2) if options.quick else (options.count, options.rounds)
    encoder = Encoder.from_pretrained(options.model)
    with tempfile.TemporaryDirectory() as folder:
        photos = sorted(options.images.glob("*.jpg"))[:count]
        for photo in photos:
            (Path(folder) / photo.name).symlink_to(photo.resolve())
        by_open_clip_loop(encoder, Path(folder))  # warms up caches of files and kernels
        loops, ours = [], []
        for _ in range(rounds):
            loops.append(by_open_clip_loop(encoder, Path(folder)))
            ours.append(by_index_folder(encoder, Path(folder)))
    figures = {
        "photos": len(photos),
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "index_folder_images_per_second": len(photos) / statistics.median(ours),
        "open_clip_loop_images_per_second": len(photos) / statistics.median(loops),
        "ratio": statistics.median(b / a for a, b in zip(ours, loops, strict=True)),
    }
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:36s} {value:.4g}")


if __name__ == "__main__":
    main()
