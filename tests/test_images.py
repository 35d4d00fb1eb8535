import contextlib
import io
import os
import socket
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from clip_text.images import MAX_PIXELS, ImageError, load_image, squash

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def two_by_one(mode: str = "RGB") -> Image.Image:
    """Red left, green right."""
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), GREEN)
    return image.convert(mode)


def pixels(image: Image.Image) -> list[list[tuple[int, ...]]]:
    return [[tuple(pixel) for pixel in line] for line in np.asarray(image).tolist()]


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_lossless_formats_keep_every_pixel(kind):
    image = load_image(encoded(two_by_one(), kind))
    assert image.mode == "RGB"
    assert pixels(image) == [[RED, GREEN]]


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("WEBP", {})])
def test_lossy_formats_keep_colours_closely(kind, options):
    loaded = load_image(encoded(Image.new("RGB", (32, 16), (200, 100, 50)), kind, **options))
    assert loaded.size == (32, 16)
    assert np.abs(np.asarray(loaded).astype(int) - (200, 100, 50)).max() <= 4


def test_reads_paths_of_every_kind(tmp_path):
    path = tmp_path / "图.png"
    two_by_one().save(path)
    for source in (path, str(path)):
        assert pixels(load_image(source)) == [[RED, GREEN]]


# EXIF orientation n of a picture stored red left, green right, as it should be seen.
SEEN = {
    1: [[RED, GREEN]],
    2: [[GREEN, RED]],
    3: [[GREEN, RED]],
    4: [[RED, GREEN]],
    5: [[RED], [GREEN]],
    6: [[RED], [GREEN]],
    7: [[GREEN], [RED]],
    8: [[GREEN], [RED]],
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", SEEN)
def test_exif_rotation_is_applied_once(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(two_by_one(), kind, exif=exif, **options)
    assert pixels(load_image(data)) == SEEN[orientation]


def test_exif_rotation_of_a_jpeg_on_the_fast_path():
    image = Image.new("RGB", (1600, 800), RED)
    image.paste(GREEN, (800, 0, 1600, 800))
    exif = Image.Exif()
    exif[0x0112] = 6
    loaded = load_image(encoded(image, "JPEG", exif=exif), min_size=64)
    assert loaded.size == (200, 400)
    small = np.asarray(loaded).astype(int)
    assert np.abs(small[50, 100] - RED).max() < 10
    assert np.abs(small[350, 100] - GREEN).max() < 10


def test_damaged_exif_spoils_the_rotation_only():
    data = encoded(two_by_one(), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert pixels(load_image(data)) == [[RED, GREEN]]


def test_transparency_is_laid_over_white():
    rgba = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    rgba.putpixel((1, 0), (255, 0, 0, 0))
    rgba.putpixel((2, 0), (0, 0, 0, 51))  # 20 % black over white is 80 % grey
    assert pixels(load_image(encoded(rgba, "PNG"))) == [[RED, WHITE, (204, 204, 204)]]
    grey = Image.merge("LA", (Image.new("L", (1, 1), 0), Image.new("L", (1, 1), 0)))
    assert pixels(load_image(encoded(grey, "PNG"))) == [[WHITE]]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_palette_entry_becomes_white(kind):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    assert pixels(load_image(encoded(image, kind, transparency=1))) == [[RED, WHITE]]


def test_transparent_colour_of_rgb_and_grey_png_becomes_white():
    assert pixels(load_image(encoded(two_by_one(), "PNG", transparency=RED))) == [[WHITE, GREEN]]
    grey = Image.new("L", (1, 1), 7)
    assert pixels(load_image(encoded(grey, "PNG", transparency=7))) == [[WHITE]]


def test_one_bit_and_palette_pictures():
    bits = Image.new("1", (2, 1), 0)
    bits.putpixel((1, 0), 1)
    assert pixels(load_image(encoded(bits, "PNG"))) == [[(0, 0, 0), WHITE]]
    assert pixels(load_image(encoded(two_by_one("P"), "PNG"))) == [[RED, GREEN]]


def test_cmyk_jpeg():
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(np.asarray(load_image(encoded(cmyk, "JPEG"))).astype(int) - RED).max() <= 4


def test_sixteen_bit_grey_is_scaled_by_its_full_range():
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    expected = [[(0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]]
    assert pixels(load_image(encoded(Image.fromarray(values), "PNG"))) == expected
    assert pixels(load_image(encoded(Image.fromarray(values), "TIFF"))) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.2, 1.0], [0, 51, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, 500.0, 1000.0], [0, 128, 255]),
        ([np.nan, 0.0, 1.0], [0, 0, 255]),
        ([np.nan, np.nan, np.inf], [0, 0, 0]),
        ([-5.0, -5.0, -5.0], [0, 0, 0]),
    ],
)
def test_float_tiff_is_scaled_by_what_its_values_suggest(values, expected):
    image = Image.fromarray(np.array([values], np.float32))
    assert np.asarray(load_image(encoded(image, "TIFF")))[0, :, 0].tolist() == expected


def test_integer_pictures_are_scaled_by_what_their_values_suggest():
    def shown(*values: int) -> list[int]:
        return np.asarray(load_image(Image.fromarray(np.array([values], np.int32))))[
            0, :, 0
        ].tolist()

    assert shown(0, 100, 255) == [0, 100, 255]
    assert shown(0, 32896, 65535) == [0, 128, 255]
    assert shown(-100, 0, 100) == [0, 128, 255]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert pixels(load_image(data))[0][0] == RED


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is that large, and holds nothing."""

    def chunk(name: bytes, body: bytes) -> bytes:
        checked = name + body
        return struct.pack(">I", len(body)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    with pytest.raises(ImageError, match="20000 x 20000") as caught:
        load_image(png_header(20_000, 20_000))
    assert "\n" not in str(caught.value)


def test_a_picture_just_below_the_limit_warns_nobody():
    width = MAX_PIXELS // 10_000  # Pillow's Image.open would warn from half of the limit on
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ImageError, match="damaged"):  # its size is accepted
            load_image(png_header(width, 10_000))
    assert caught == []


def noise(side: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.7])
def test_a_truncated_file_is_refused_on_one_line(kind, part):
    data = encoded(noise(), kind)
    with pytest.raises(ImageError) as caught:
        load_image(data[: int(len(data) * part)])
    assert "\n" not in str(caught.value)


def test_a_truncated_jpeg_is_refused_on_the_fast_path():
    data = encoded(noise(1024), "JPEG")
    with pytest.raises(ImageError, match="truncated"):
        load_image(data[: len(data) // 2], min_size=64)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty file"),
        (b"just text", "got text"),
        ("只是文字".encode(), "something else"),
        (b"<!DOCTYPE html><html></html>", "HTML or XML"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><svg/>", "SVG drawing. Export it"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n",
            "EPS drawing. Export it",
        ),  # Pillow would start a program for it
        (b"GIF89a", "damaged"),
        (bytes(300), "something else"),
    ],
)
def test_what_is_no_picture_is_named(data, what):
    with pytest.raises(ImageError, match=what):
        load_image(data)


def test_what_is_no_file_is_refused_without_opening_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.jpg"))
        for name in ("pipe.jpg", "folder.jpg", "socket.jpg"):
            with pytest.raises(ImageError, match="expected a picture file"):
                load_image(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        load_image(tmp_path / "nothing.jpg")


@given(data=st.binary(max_size=200), start=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF"]))
def test_hostile_bytes_are_refused_or_read_but_never_crash(data, start):
    head = encoded(noise(8), start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(ImageError):
            assert load_image(head[: len(head) // 2] + data).mode == "RGB"


def test_arrays_of_every_accepted_shape():
    grey = np.array([[0, 255]], np.uint8)
    assert pixels(load_image(grey)) == [[(0, 0, 0), WHITE]]
    assert pixels(load_image(grey[:, :, None])) == [[(0, 0, 0), WHITE]]
    assert pixels(load_image(np.array([[RED, GREEN]], np.uint8))) == [[RED, GREEN]]
    rgba = np.array([[(*RED, 255), (*RED, 0)]], np.uint8)
    assert pixels(load_image(rgba)) == [[RED, WHITE]]
    for dtype in (np.float16, np.float32, np.float64):
        assert pixels(load_image(np.array([[0.0, 1.0]], dtype))) == [[(0, 0, 0), WHITE]]
    turned = np.asarray(two_by_one())[:, ::-1]  # not contiguous
    assert pixels(load_image(turned)) == [[GREEN, RED]]


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (np.zeros((3, 8, 8), np.uint8), "channels last"),
        (np.zeros((8, 8, 2), np.uint8), "shape"),
        (np.zeros(8, np.uint8), "shape"),
        (np.zeros((1, 8, 8, 3), np.uint8), "shape"),
        (np.zeros((0, 8, 3), np.uint8), "shape"),
        (np.zeros((8, 8), np.int64), "int64"),
        (np.zeros((8, 8), np.uint16), "uint16"),
        (np.zeros((8, 8), bool), "bool"),
        (np.full((8, 8), 1.5), r"\[0, 1\], got 1.5"),
        (np.full((8, 8), -0.5), r"\[0, 1\]"),
        (np.full((8, 8), np.nan), r"\[0, 1\]"),
    ],
)
def test_other_arrays_are_refused(array, what):
    with pytest.raises(ImageError, match=what):
        load_image(array)


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_rgb_survives_arrays_and_files_unchanged(array):
    assert np.array_equal(np.asarray(load_image(array)), array)
    assert np.array_equal(np.asarray(load_image(encoded(Image.fromarray(array), "PNG"))), array)


def test_a_given_image_is_not_changed():
    given_image = two_by_one("RGBA")
    before = given_image.tobytes()
    load_image(given_image).putpixel((0, 0), GREEN)
    assert (given_image.tobytes(), given_image.mode) == (before, "RGBA")
    rgb = two_by_one()
    load_image(rgb).putpixel((0, 0), GREEN)
    assert rgb.getpixel((0, 0)) == RED


def test_squash_ignores_the_aspect_ratio():
    wide = Image.new("RGB", (400, 10), RED)
    wide.paste(GREEN, (200, 0, 400, 10))
    square = squash(wide, 32)
    assert (square.dtype, square.shape) == (np.dtype(np.uint8), (32, 32, 3))
    assert tuple(square[16, 4]) == RED
    assert tuple(square[16, 28]) == GREEN
    assert square.flags.writeable


def test_squash_is_pillows_bicubic_and_refuses_other_modes():
    image = noise(50)
    expected = np.asarray(image.resize((24, 24), Image.Resampling.BICUBIC))
    assert np.array_equal(squash(image, 24), expected)
    assert np.array_equal(squash(image, 50), np.asarray(image))
    with pytest.raises(ImageError, match="RGB"):
        squash(image.convert("L"), 24)


@pytest.mark.parametrize("side", [1, 100, 671, 672, 900, 1343, 1344, 2687, 2688, 3000])
def test_fast_path_keeps_three_times_the_size_asked_for(side):
    data = encoded(Image.new("RGB", (side, side + 50), RED), "JPEG")
    loaded = load_image(data, min_size=224)
    assert min(loaded.size) >= min(side, 672)
    assert min(loaded.size) < 2 * 672 or min(loaded.size) <= side
    assert load_image(data).size == (side, side + 50)


def test_fast_path_looks_the_same():
    """Peak signal-to-noise ratio against the full decode; 40 dB is not told apart by eye."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8))
    data = encoded(coarse.resize((3000, 2000), Image.Resampling.BICUBIC), "JPEG", quality=90)
    exact = squash(load_image(data), 224).astype(float)
    fast = squash(load_image(data, min_size=224), 224).astype(float)
    assert 10 * np.log10(255**2 / np.mean((exact - fast) ** 2)) > 40


def test_many_threads_read_the_same():
    sources = [encoded(noise(40 + i), kind) for i in range(8) for kind in ("PNG", "JPEG", "GIF")]
    alone = [squash(load_image(source), 16) for source in sources]
    barrier = threading.Barrier(4)

    def read_all(_: int) -> list[np.ndarray]:
        barrier.wait()
        return [squash(load_image(source), 16) for source in sources]

    with ThreadPoolExecutor(4) as pool:
        for together in pool.map(read_all, range(4)):
            assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_image_error_is_a_value_error_as_the_encoder_protocol_asks():
    assert issubclass(ImageError, ValueError)
    with pytest.raises(ValueError, match="expected"):
        load_image(Path(__file__))
