"""A folder as people have it: broken files, odd files, odd names. It ends in a report."""

import io
import os
import re
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEncoder
from PIL import Image

from clip_text.images import load_image, squash
from retrieval.ingest import IngestReport, index_folder
from retrieval.search import Searcher


def noise(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def bomb() -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


# Name → content and, for those to be set aside, what the reason must say.


def broken_files() -> dict[str, tuple[bytes, str]]:
    whole = encoded(noise(1, (300, 200)), "JPEG")
    return {
        "truncated.jpg": (whole[: len(whole) // 2], "truncated"),
        "truncated.webp": (encoded(noise(2), "WEBP")[:100], "damaged"),
        "truncated.png": (encoded(noise(3), "PNG")[:200], "damaged|truncated"),
        "header only.jpg": (whole[:20], "damaged"),
        "zero.jpg": (b"", "empty file"),
        "text.jpg": (b"just some text", "got text"),
        "page.png": (b"<!DOCTYPE html><html>404</html>", "HTML"),
        "bomb.png": (bomb(), "60000 x 60000"),
        "empty.gif": (b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", "damaged"),
        "nulls.bmp": (bytes(1000), "something else"),
        "vector.tif": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "something else"),
    }


def odd_pictures() -> dict[str, bytes]:
    frames = [noise(20 + i) for i in range(3)]
    animated = {"save_all": True, "append_images": frames[1:]}
    palette = noise(30).convert("P", palette=Image.Palette.ADAPTIVE)
    wide = np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50
    return {
        "animated.gif": encoded(frames[0], "GIF", **animated),
        "animated.webp": encoded(frames[0], "WEBP", **animated),
        "cmyk.jpg": encoded(noise(31).convert("CMYK"), "JPEG"),
        "sixteen bits.png": encoded(Image.fromarray(wide), "PNG"),
        "one bit.png": encoded(noise(32).convert("1"), "PNG"),
        "palette alpha.png": encoded(palette, "PNG", transparency=bytes(range(256))),
        "grey alpha.png": encoded(noise(33).convert("LA"), "PNG"),
        "float.tiff": encoded(Image.fromarray(wide.astype(np.float32) / 7e4), "TIFF"),
        "tiny.png": encoded(noise(34, (1, 1)), "PNG"),
        "strip.png": encoded(noise(35, (3000, 1)), "PNG"),
        "UPPER.JPG": encoded(noise(36), "JPEG"),
        "turned.jpg": encoded(noise(37), "JPEG", exif=turned()),
        "misnamed.png": encoded(noise(38), "JPEG"),
    }


ODD_NAMES = (
    "猫" * 83 + ".png",  # 253 bytes; 255 is the most a name can have
    "line\nbreak.png",
    "back\\slash.png",
    "\x1b[31mred.png",
    "right\u202eto left.png",
    " .png",
    "-rf *.png",
    os.fsdecode(b"\xff\xfe not utf-8.png"),
)


@pytest.fixture
def server(tmp_path_factory) -> Iterator[Path]:
    """A socket in the file system; its own short folder, as its path must be short."""
    path = tmp_path_factory.mktemp("s") / "s"
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))
        yield path


@pytest.fixture
def folder(tmp_path, server):
    pictures = tmp_path / "p"
    pictures.mkdir()
    contents = {name: content for name, (content, _) in broken_files().items()} | odd_pictures()
    for name, content in contents.items():
        (pictures / name).write_bytes(content)
    for i, name in enumerate(ODD_NAMES):
        try:
            (pictures / name).write_bytes(encoded(noise(100 + i), "PNG"))
        except OSError:
            continue  # not on this file system
    os.mkfifo(pictures / "pipe.jpg")
    server.rename(pictures / "socket.jpg")
    (pictures / "folder.jpg").mkdir()
    (pictures / "folder.jpg" / "inside.png").write_bytes(encoded(noise(50), "PNG"))
    (pictures / "dangling.jpg").symlink_to(pictures / "nothing.jpg")
    (pictures / "self.jpg").symlink_to(pictures / "self.jpg")
    (pictures / "there.jpg").symlink_to(pictures / "back.jpg")
    (pictures / "back.jpg").symlink_to(pictures / "there.jpg")
    (pictures / "loop").symlink_to(pictures)
    (pictures / "loop.png").symlink_to("..")
    if os.geteuid() != 0:  # root may read everything
        (pictures / "forbidden.jpg").write_bytes(encoded(noise(51), "JPEG"))
        (pictures / "forbidden.jpg").chmod(0)
    return pictures


def index(folder: Path, index_dir: Path) -> IngestReport:
    """In a thread of its own: a run that waits for a pipe must fail the test, not stop it."""
    reports: list[IngestReport] = []
    encoder = FakeEncoder(load=lambda path: squash(load_image(path, min_size=8), 8))

    def run() -> None:
        reports.append(index_folder(folder, index_dir, encoder, batch_size=5))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout=120)
    assert not thread.is_alive(), "indexing hangs"
    return reports[0]


def test_odd_files_end_in_a_report(folder, tmp_path):
    report = index(folder, tmp_path / "index")
    expected = {name: what for name, (_, what) in broken_files().items()} | {
        "pipe.jpg": "named pipe",
        "socket.jpg": "socket",
        "dangling.jpg": "No such file",
        "self.jpg": "symbolic links",
        "there.jpg": "symbolic links",
        "back.jpg": "symbolic links",
    }
    if os.geteuid() != 0:
        expected["forbidden.jpg"] = "Permission denied"
    reasons = {path.name: reason for path, reason in report.failures}
    assert sorted(reasons) == sorted(expected)
    for name, what in expected.items():
        assert re.search(what, reasons[name]), (name, reasons[name])
        assert "\n" not in reasons[name]
    names = {path.name for path in folder.iterdir()} - set(expected) - {"loop", "loop.png"}
    assert report.added == len(names)  # with "inside.png" for its folder
    assert report.ignored == 2
    assert report.notes == []
    lines = str(report).splitlines()
    assert len(lines) == 1 + len(expected)
    assert all(line.isprintable() for line in lines)


def test_a_second_run_over_odd_files_finds_the_same(folder, tmp_path):
    first = index(folder, tmp_path / "index")
    second = index(folder, tmp_path / "index")
    assert second.failures == first.failures
    assert (second.unchanged, second.encoded, second.added) == (first.added, 0, 0)


def test_every_odd_picture_is_found_under_a_name_of_its_own(folder, tmp_path):
    index(folder, tmp_path / "index")
    with Searcher.open(tmp_path / "index", FakeEncoder()) as searcher:
        hits = searcher.search("猫", 1000)
    assert len({hit.image_id for hit in hits}) == len(hits)
    for hit in hits:
        assert hit.path.is_file()
        hit.image_id.encode("utf-8")
        assert "\n" not in hit.image_id
        assert "\u202e" not in hit.image_id
    assert {r"line\nbreak.png", "folder.jpg/inside.png"} <= {hit.image_id for hit in hits}
