"""A little about picture files, for showing them; features are the encoder's business."""

import struct
import zlib
from pathlib import Path
from typing import IO

from PIL import Image, ImageFile, ImageOps

__all__ = ["open_thumbnail", "shown_size"]

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_MAX_PIXELS = 178_956_970  # where Pillow, too, speaks of a decompression bomb
_ORIENTATION = 0x0112
_TURNED = frozenset({5, 6, 7, 8})  # orientations with the sides swapped

# What Pillow's plug-ins raise on hostile bytes.
_DECODE_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    Image.DecompressionBombError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zlib.error,
)


def shown_size(path: Path) -> tuple[int, int] | None:
    """Width and height in pixels after EXIF rotation; None where they cannot be told."""
    try:
        with path.open("rb") as file:
            image = _open(file)
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION) in _TURNED
    except _DECODE_ERRORS:
        return None  # the encoder may know formats that are unknown here
    return (height, width) if turned else (width, height)


def open_thumbnail(path: Path, size: tuple[int, int]) -> Image.Image | None:
    """A picture scaled into a box, transparency over white; None if it cannot be shown.

    Args:
        path: The picture.
        size: Width and height of the box in pixels.
    """
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            return None
        with path.open("rb") as file:
            image = _open(file)
            image.draft("RGB", (2 * size[0], 2 * size[1]))
            image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            over = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
        return ImageOps.contain(upright.convert("RGB"), size, Image.Resampling.LANCZOS)
    except _DECODE_ERRORS:
        return None


def _open(file: IO[bytes]) -> ImageFile.ImageFile:
    """Read the header as Image.open does, but without its warning about big pictures.

    That warning would be printed, and keeping it back is not safe with threads.
    """
    Image.init()
    start = file.read(16)
    for name in _FORMATS:
        factory, accepts = Image.OPEN[name]
        if accepts is None or accepts(start) is True:
            file.seek(0)
            image = factory(file, "")
            if image.width * image.height <= _MAX_PIXELS:
                return image
    msg = f"expected a picture of at most {_MAX_PIXELS} pixels, got something else."
    raise ValueError(msg)
