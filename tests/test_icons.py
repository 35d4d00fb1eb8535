"""Icons: as large as the picture in them, which nobody decodes to find that out."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from clip_text_pictures import PictureError, PictureSizeError, open_picture


def picture(mode="RGBA", size=(48, 32)):
    colours = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 4), np.uint8)
    return Image.fromarray(colours, "RGBA").convert(mode)


def png_that_says(width, height):
    """Of a few bytes, in grey; only its header is whole."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def ico_with(data, width=16, height=16):
    head = struct.pack("<HHHBBBBHHII", 0, 1, 1, width, height, 0, 0, 1, 32, len(data), 22)
    return head + data


def icns_with(data, kind=b"ic07"):
    entry = kind + struct.pack(">I", 8 + len(data)) + data
    return b"icns" + struct.pack(">I", 8 + len(entry)) + entry


@pytest.mark.parametrize("mode", ["RGBA", "RGB", "L", "P", "1"])
@pytest.mark.parametrize("inside", ["png", "bmp"])
def test_icons_are_read_as_pillow_reads_them(mode, inside):
    file = io.BytesIO()
    picture(mode).save(file, "ICO", sizes=[(16, 16), (48, 32)], bitmap_format=inside)
    with Image.open(io.BytesIO(file.getvalue())) as expected:
        got = open_picture(file_at(file))
        assert (got.size, got.mode) == (expected.size, expected.mode)
        got.load()
        assert (got.size, got.mode) == (expected.size, expected.mode)
        np.testing.assert_array_equal(got.convert("RGBA"), expected.convert("RGBA"))


def file_at(file):
    return io.BytesIO(file.getvalue())


def test_icons_of_macos_are_read():
    file = io.BytesIO()
    picture(size=(128, 128)).save(file, "ICNS")
    with Image.open(file_at(file)) as expected:
        got = open_picture(file_at(file))
        np.testing.assert_array_equal(got.convert("RGBA"), expected.convert("RGBA"))


def test_an_icon_is_as_large_as_the_picture_in_it():
    icon = open_picture(io.BytesIO(ico_with(png_that_says(9_000, 8_000))))
    assert icon.size == (9_000, 8_000)
    with pytest.raises(PictureSizeError, match="20000 x 20000"):
        open_picture(io.BytesIO(ico_with(png_that_says(20_000, 20_000))))
    with pytest.raises(PictureError, match="damaged"):
        open_picture(io.BytesIO(ico_with(b"")))
    with pytest.raises(PictureError, match="damaged"):
        open_picture(io.BytesIO(icns_with(png_that_says(9_000, 8_000))))
    assert open_picture(io.BytesIO(icns_with(png_that_says(128, 128)))).size == (128, 128)
