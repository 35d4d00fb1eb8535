"""Pictures of any origin → RGB, and RGB → the square an image tower reads."""

import io
import os
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from clip_text.errors import ClipTextError

__all__ = [
    "EXTENSIONS",
    "FORMATS",
    "MAX_PIXELS",
    "ImageError",
    "ImageSource",
    "load_image",
    "squash",
]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names of what is read. Nothing else is tried: some of its other plug-ins start
programs."""

MAX_PIXELS = 178_956_970
"""Where Pillow, too, refuses a picture as a decompression bomb (2 x 1 GiB / 12 bytes)."""

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
"""What counts as a picture in a folder."""

ImageSource = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.generic]

_KEEP = 2  # the fast path never decodes below this multiple of the size asked for

# What Pillow's plug-ins raise on hostile bytes, warnings that a caller made errors included.
_DECODE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    Image.DecompressionBombError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zlib.error,
)


class ImageError(ClipTextError, ValueError):
    """The source is no picture that can be used; the message says why on one line."""


def load_image(source: ImageSource, *, min_size: int | None = None) -> Image.Image:
    """Read a picture as RGB. Safe to call from many threads at once.

    EXIF rotation is applied, transparency is laid over white, an animation gives its first
    frame. 16-bit grey is scaled by its full range; floats in [0, 1] by theirs, other floats
    and 32-bit integers as :func:`_scale_to_8_bit` says.

    Args:
        source: A path, the bytes of a file, a Pillow image, or an array: uint8 or float in
            [0, 1], [H, W], [H, W, 1], [H, W, 3] RGB or [H, W, 4] RGBA.
        min_size: Pixels. If given, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size
            (DCT scaling, several times faster), as long as both sides keep at least twice
            this size. Give it where the picture is to become at most this large.

    Returns:
        A new RGB image.

    Raises:
        ImageError: If it is no picture in one of :data:`FORMATS`, is damaged or truncated,
            has more than :data:`MAX_PIXELS` pixels, or is an array of another kind.
        OSError: If a file cannot be read.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        _check_size(source.size)
        return _guarded(source, None)
    data = source if isinstance(source, bytes) else _read(Path(source))
    if not data:
        msg = "expected a picture, got an empty file (0 bytes)."
        raise ImageError(msg)
    return _guarded(data, min_size)


def squash(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Resize to a square regardless of the aspect ratio, as Chinese-CLIP does.

    Args:
        image: RGB.
        size: Pixels per side.

    Returns:
        uint8 [size, size, 3], bicubic.

    Raises:
        ImageError: If the image is not RGB.
    """
    if image.mode != "RGB":
        msg = f"expected an RGB image, got mode {image.mode}. Pass it through load_image."
        raise ImageError(msg)
    return np.array(image.resize((size, size), Image.Resampling.BICUBIC), np.uint8)


def _read(path: Path) -> bytes:
    mode = path.stat().st_mode
    # Opening a named pipe would wait for a writer, for ever.
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        msg = f"expected a picture file, got {kind}."
        raise ImageError(msg)
    return path.read_bytes()


def _guarded(source: bytes | Image.Image, min_size: int | None) -> Image.Image:
    """Decode, with every way a decoder can fail told as an ImageError."""
    try:
        image = source if isinstance(source, Image.Image) else _open(source)
        if min_size is not None and image.format == "JPEG" and isinstance(source, bytes):
            image.draft(None, (_KEEP * min_size, _KEEP * min_size))
        image.load()
        return _to_rgb(_rotated(image))
    except ImageError:
        raise
    except _DECODE_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        msg = f"expected a sound picture, got a damaged one ({reason[:200]})."
        raise ImageError(msg) from error


def _open(data: bytes) -> ImageFile.ImageFile:
    """Read the header, as Image.open does, but judge the size by our limit alone.

    Image.open warns between half of the limit and the limit, and the only way to keep that
    from being printed, warnings.catch_warnings, is not safe with threads.
    """
    Image.init()
    for name in FORMATS:
        factory, accepts = Image.OPEN[name]
        if accepts is None or accepts(data[:16]) is True:
            image = factory(io.BytesIO(data), "")
            _check_size(image.size)
            return image
    msg = f"expected JPEG, PNG, WebP, GIF, BMP or TIFF, got {_looks_like(data)}."
    raise ImageError(msg)


def _looks_like(data: bytes) -> str:
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg", b"<head", b"<body")):
        return "an HTML or XML page"
    if b"\0" not in start:
        try:
            data[:512].decode("utf-8", "strict" if len(data) <= 512 else "ignore")
        except UnicodeDecodeError:
            return "something else"
        return "text" if start.isascii() else "something else"
    return "something else"


def _check_size(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        msg = (
            f"expected at most {MAX_PIXELS} pixels, got {size[0]} x {size[1]} (a decompression "
            "bomb?). Scale the picture down."
        )
        raise ImageError(msg)
    if 0 in size:
        msg = f"expected at least one pixel, got {size[0]} x {size[1]}."
        raise ImageError(msg)


def _rotated(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _DECODE_ERRORS:
        return image  # damaged EXIF data spoil the rotation, not the picture


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _scale_to_8_bit(np.asarray(image)).convert("RGB")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, "white")
        return Image.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")


def _scale_to_8_bit(values: NDArray[np.generic]) -> Image.Image:
    """Bring wide grey values to 0..255 by the range the type declares or the values suggest.

    16-bit: 0..65535. 32-bit integers: 0..255 or 0..65535, floats: 0..1 or 0..255,
    whichever holds all values first. Anything else is stretched from its minimum to its
    maximum. Values that are not finite become black.
    """
    wide = values.astype(np.float32)
    finite = np.isfinite(wide)
    if not finite.all():
        wide = np.where(finite, wide, wide[finite].min() if finite.any() else 0.0)
    low, high = float(wide.min()), float(wide.max())
    if values.dtype.itemsize == 2:
        top = 65535.0
    elif np.issubdtype(values.dtype, np.integer):
        top = 255.0 if high <= 255.0 else 65535.0
    else:
        top = 1.0 if high <= 1.0 else 255.0
    if low < 0.0 or high > top:
        wide, top = wide - low, (high - low) or 1.0
    return Image.fromarray(np.rint(wide * (255.0 / top)).astype(np.uint8))


def _from_array(array: NDArray[np.generic]) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in {2, 3} or channels not in {1, 3, 4} or 0 in array.shape:
        msg = (
            "expected an array of shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], got "
            f"{list(array.shape)}. Put the channels last."
        )
        raise ImageError(msg)
    _check_size((array.shape[1], array.shape[0]))
    if np.issubdtype(array.dtype, np.floating):
        wide = array.astype(np.float32)
        if not ((wide >= 0.0) & (wide <= 1.0)).all():  # NaN is outside, too
            msg = (
                f"expected floats in [0, 1], got {wide.min():.4g} to {wide.max():.4g}. "
                "Divide by the largest value the data can have, or pass uint8."
            )
            raise ImageError(msg)
        array = np.rint(wide * 255.0).astype(np.uint8)
    if array.dtype != np.uint8:
        msg = f"expected an array of uint8 or float, got {array.dtype}. Convert it."
        raise ImageError(msg)
    squeezed = array[:, :, 0] if array.ndim == 3 and channels == 1 else array
    return _to_rgb(Image.fromarray(np.ascontiguousarray(squeezed)))
