"""Picture files as people are shown them; features are the encoder's business."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from clip_text_pictures import (
    NoDecoderError,
    PictureError,
    PictureSizeError,
    damage_told,
    ending_of,
    open_picture,
    over_white,
    read_start,
    recognise,
    to_8_bit,
    upright,
)
from clip_text_pictures.kinds import START

__all__ = [
    "NoDecoderError",
    "PictureError",
    "PictureSizeError",
    "ending_and_size",
    "media_type",
    "open_thumbnail",
    "render_thumbnail",
    "shown_size",
    "tiny_pixels",
]

_ORIENTATION = 0x0112
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TURNED = frozenset({5, 6, 7, 8})  # orientations with the sides swapped


def shown_size(source: Path | bytes) -> tuple[int, int] | None:
    """Read width and height in pixels after EXIF rotation; None where they cannot be told.

    Args:
        source: The file of a picture, or what would be in it.
    """
    try:
        with _opened(source) as image, damage_told():
            width, height = image.size
            # Pillow decodes a PNG for its EXIF data, which may stand behind the pixels
            exif = Image.Image.getexif if _ends_with_pixels(image) else type(image).getexif
            is_turned = exif(image).get(_ORIENTATION) in _TURNED
    except (PictureError, OSError):
        return None  # the encoder may know formats that are unknown here
    return (height, width) if is_turned else (width, height)


def ending_and_size(file: IO[bytes], ending: str = "") -> tuple[str, tuple[int, int]]:
    """Read the header of a picture that somebody sent; its pixels are not decoded.

    Args:
        file: The picture's file; left at its beginning.
        ending: How its name is said to end, in lower case and with the dot; empty if it has none.

    Returns:
        How the name of such a file ends, and width and height in pixels as they are stored.

    Raises:
        PictureError: If it is no picture of a kind that is read, or a damaged one.
        PictureSizeError: If it has more than :data:`clip_text_pictures.MAX_PIXELS` pixels.
        NoDecoderError: If its kind is read by a package that is not installed.
    """
    file.seek(0)
    kind = recognise(file.read(START), ending)
    file.seek(0)
    size = open_picture(file, ending).size
    file.seek(0)
    assert kind is not None
    return ending if ending in kind.endings else kind.endings[0], size


def media_type(path: Path) -> str:
    """Tell what HTTP calls a picture file, by its first bytes.

    Raises:
        PictureError: If it is no picture of a kind that is read.
    """
    kind = recognise(read_start(path), ending_of(path))
    if kind is None or not kind.media_type:
        raise PictureError(f"expected a picture, got {kind.name if kind else 'something else'}.")
    return kind.media_type


def open_thumbnail(path: Path, size: tuple[int, int]) -> Image.Image | None:
    """Scale a picture into a box, transparency over white; None if it cannot be shown.

    Args:
        path: The picture.
        size: Width and height of the box in pixels; smaller pictures are enlarged.
    """
    try:
        picture = _loaded(path, size)
    except (PictureError, OSError):
        return None
    return ImageOps.contain(over_white(picture), size, Image.Resampling.LANCZOS)


def render_thumbnail(path: Path, size: int) -> bytes:
    """Draw a picture small: upright, never enlarged, without its EXIF data.

    Args:
        path: The picture.
        size: The longest side at most, in pixels.

    Returns:
        A WebP file.

    Raises:
        PictureError: If it is no picture that can be shown.
        NoDecoderError: If a package that decodes it is not installed.
        OSError: If the file cannot be read.
    """
    picture = _loaded(path, (size, size))
    picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    webp = BytesIO()
    picture.save(webp, "WEBP", quality=82, method=4)
    return webp.getvalue()


def tiny_pixels(source: Path | bytes, side: int) -> NDArray[np.uint8] | None:
    """Average a picture, upright and over white, into a few squares; None if it cannot be shown.

    Args:
        source: The picture, or what would be in its file.
        side: How many squares across, and down.

    Returns:
        RGB, [side, side, 3].
    """
    try:
        picture = over_white(_loaded(source, (4 * side, 4 * side)))
    except (PictureError, OSError):
        return None
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX), np.uint8)


def _ends_with_pixels(image: Image.Image) -> bool:
    """Say whether nothing but its end stands behind the pixels of a PNG that was just opened."""
    if not isinstance(image, PngImagePlugin.PngImageFile) or image.fp is None:
        return False
    file, start = image.fp, image.fp.tell()
    try:
        file.seek(len(_PNG_SIGNATURE))
        kinds = []
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            kinds.append(kind)
            file.seek(length + 4, os.SEEK_CUR)  # and its checksum
    finally:
        file.seek(start)
    behind = kinds[kinds.index(b"IDAT") :] if b"IDAT" in kinds else [b""]
    return set(behind) <= {b"IDAT", b"IEND"}


def _loaded(path: Path | bytes, size: tuple[int, int]) -> Image.Image:
    """Decode a picture, upright, in RGB or RGBA, a JPEG in no more detail than the size needs."""
    with _opened(path) as image, damage_told():
        if image.format == "JPEG":
            image.draft(None, (2 * size[0], 2 * size[1]))
        image.load()
        shown = to_8_bit(upright(image))
        if image.mode != shown.mode:
            # A CMYK or grey profile describes colours that are converted away here.
            shown.info.pop("icc_profile", None)
        return shown


@contextmanager
def _opened(path: Path | bytes) -> Iterator[Image.Image]:
    if isinstance(path, bytes):
        yield open_picture(BytesIO(path), "")
        return
    if not path.is_file() and path.exists():  # opening a pipe would wait for ever
        raise PictureError("expected a picture file, got a folder, pipe, socket or device.")
    with path.open("rb") as file:
        yield open_picture(file, ending_of(os.fspath(path)))
