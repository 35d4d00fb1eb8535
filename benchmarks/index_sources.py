"""Indexing of one set of photos from each format: rate, processor time, peak of memory.

    python benchmarks/index_sources.py --data FLICKR8K_CN/val.jsonl            # the command
    python benchmarks/index_sources.py --data FLICKR8K_CN/val.jsonl --threads  # without the model

Photos and captions of a .jsonl, as docs/data.md has them, are written as a folder, webdataset's
tar, Parquet, Chinese-CLIP's LMDB and a csv with paths. *the command* runs in a process of its own,
then once more with nothing to encode. *without the model* reads, hashes and decodes by 1, 2 and 4
threads beside one that costs nothing. On a machine that is busy, the processor time says most.
"""

import argparse
import base64
import csv
import io
import json
import pickle
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clip_text.data.readers import read_pictures
from clip_text.images import load_square
from clip_text_cli import sources
from retrieval.ingest import IngestReport, index_folder

SIDE = 272  # pixels, of the starter
WORKERS = (1, 2, 4)
_COMMAND = """
import resource, sys
from clip_text_cli.main import main
try:
    main()
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    # ru_maxrss would count what the process that started this one held
    lines = open("/proc/self/status").read().splitlines()
    peak = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
    sys.stderr.write(f"\\n{used.ru_utime + used.ru_stime} {peak}")
"""

Photos = list[tuple[str, bytes, list[str]]]


def photos_of(data: Path, number: int | None) -> Photos:
    """Name, content and captions of each photo."""
    found = []
    for said, picture in list(read_pictures(data))[:number]:
        assert isinstance(picture, Path)
        captions = [text for texts in said.captions.values() for text in texts]
        found.append((Path(said.image_id).stem, picture.read_bytes(), captions))
    return found


def write_folder(photos: Photos, at: Path) -> Path:
    """Pictures with a metadata.jsonl."""
    at.mkdir()
    with (at / "metadata.jsonl").open("w", encoding="utf-8") as lines:
        for name, content, captions in photos:
            (at / f"{name}.jpg").write_bytes(content)
            line = {"file_name": f"{name}.jpg", "caption": captions}
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")
    return at


def write_tar(photos: Photos, at: Path) -> Path:
    """Tar of webdataset: a .txt beside each picture."""
    with tarfile.open(at.with_suffix(".tar"), "w") as tar:
        for name, content, captions in photos:
            for ending, data in (("jpg", content), ("txt", "\n".join(captions).encode())):
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return at.with_suffix(".tar")


def write_parquet(photos: Photos, at: Path) -> Path:
    """One row group of bytes, as pandas writes it."""
    import pyarrow as pa  # noqa: PLC0415  (optional)
    import pyarrow.parquet as pq  # noqa: PLC0415  (optional)

    names, contents, captions = zip(*photos, strict=True)
    table = pa.table({"image_id": names, "image": contents, "caption": captions})
    pq.write_table(table, at.with_suffix(".parquet"))
    return at.with_suffix(".parquet")


def write_lmdb(photos: Photos, at: Path) -> Path:
    """What Chinese-CLIP's own script makes."""
    import lmdb  # noqa: PLC0415  (optional)

    pairs = [(name, text) for name, _, captions in photos for text in captions]
    stored = {
        "imgs": {name: base64.urlsafe_b64encode(content) for name, content, _ in photos}
        | {"num_images": str(len(photos)).encode()},
        "pairs": {str(n): pickle.dumps((name, n, text)) for n, (name, text) in enumerate(pairs)}
        | {"num_samples": str(len(pairs)).encode()},
    }
    for part, entries in stored.items():
        folder = at / "lmdb" / "val" / part
        folder.mkdir(parents=True)
        size = 4 * sum(map(len, entries.values())) + 2**24
        with lmdb.open(str(folder), map_size=size) as opened, opened.begin(write=True) as write:
            for key, value in entries.items():
                write.put(key.encode(), value)
    return at


def write_csv(photos: Photos, at: Path) -> Path:
    """A row a caption, with absolute paths."""
    folder = write_folder(photos, at.with_name("of_csv"))
    with at.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for name, _, captions in photos:
            rows.writerows([str(folder / f"{name}.jpg"), caption] for caption in captions)
    return at.with_suffix(".csv")


WRITERS: dict[str, Callable[[Photos, Path], Path]] = {
    "folder": write_folder,
    "tar": write_tar,
    "parquet": write_parquet,
    "lmdb": write_lmdb,
    "csv": write_csv,
}


def run_command(source: Path, index_dir: Path, workers: int) -> dict[str, float]:
    """Index by the command; gives what it cost, of a picture where it says so."""
    words = ["index", source, "--index", index_dir, "--workers", workers, "--json"]
    command = [sys.executable, "-c", _COMMAND, *map(str, words)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    report = json.loads(ran.stdout)
    processor, peak = map(float, ran.stderr.split()[-2:])
    return {
        "encoded": report["encoded"],
        "images_per_second": round(report["images_per_second"], 1),
        "processor_seconds": round(processor, 1),
        "peak_mebibytes": round(peak / 1024, 1),
    }


class Free:
    """Decodes as the starter does, and encodes at no cost."""

    embed_dim, fingerprint = 64, "free"

    def load_pixels(self, source: Path | bytes) -> Any:  # noqa: ANN401
        """Decode one picture."""
        return load_square(source, SIDE)

    def encode_pixels(self, pixels: Any) -> Any:  # noqa: ANN401
        """Give a row for each picture."""
        return np.tile(np.eye(1, self.embed_dim, dtype=np.float32), (len(pixels), 1))

    def encode_text(self, texts: Any) -> Any:  # noqa: ANN401
        """Give a row for each text."""
        return self.encode_pixels(texts)


def run_threads(source: Path, index_dir: Path, workers: int) -> dict[str, float]:
    """Index without a model; gives the milliseconds of processor time for a picture."""
    before, started = _processor(), time.monotonic()
    report: IngestReport
    if source.is_dir() and (source / "metadata.jsonl").is_file():
        report = index_folder(source, index_dir, Free(), workers=workers)
    else:
        data = sources.read(sources.Asked(str(source)))
        report = data.index(index_dir, Free(), workers=workers)  # type: ignore[arg-type]
    seconds = time.monotonic() - started
    return {
        "milliseconds": round(1000 * (_processor() - before) / report.done, 2),
        "images_per_second": round(report.done / seconds, 1),
    }


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Print a line of JSON for each run."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--data", type=Path, required=True, help="A .jsonl with its photos.")
    options.add_argument("--number", type=int, help="Of photos; all by default.")
    options.add_argument("--rounds", type=int, default=1, help="In turns.")
    options.add_argument("--formats", nargs="+", default=[*WRITERS], choices=[*WRITERS])
    options.add_argument("--threads", action="store_true", help="Without the model.")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = photos_of(asked.data, asked.number)
        at = {name: WRITERS[name](photos, Path(folder, name)) for name in asked.formats}
        if asked.threads:  # what is loaded at first is no work of any format's
            run_threads(next(iter(at.values())), Path(folder, "first"), 1)
        for _ in range(asked.rounds):
            for name, source in at.items():
                for workers in WORKERS if asked.threads else (2,):
                    with tempfile.TemporaryDirectory() as index:
                        run = run_threads if asked.threads else run_command
                        for _ in range(1 if asked.threads else 2):
                            figures = run(source, Path(index) / "i", workers)
                            print(json.dumps({"format": name, "workers": workers} | figures))
                            sys.stdout.flush()


if __name__ == "__main__":
    main()
