"""How a picture file is opened without running a program.

Pillow's own ``Image.open`` tries every plug-in that is installed, and some start programs
(Ghostscript for EPS) or ask the system (WMF on Windows). Here a file goes to one decoder, chosen by
its first bytes from the list below and no other, and its size is checked before a pixel is decoded.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    ImageOps,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PcxImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    PsdImagePlugin,
    TgaImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from clip_text_pictures.icons import IcoFile, open_icns
from clip_text_pictures.kinds import START, recognise

__all__ = [
    "MAX_PIXELS",
    "NoDecoderError",
    "PictureError",
    "PictureSizeError",
    "check_size",
    "damage_told",
    "open_picture",
    "over_white",
    "to_8_bit",
    "turn_of",
    "upright",
]

MAX_PIXELS = 178_956_970
"""Where Pillow, too, refuses a picture as a decompression bomb (2 x 1 GiB / 12 bytes)."""

# What decoders raise on hostile bytes, warnings that a caller made errors included.
_DECODE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    Image.DecompressionBombError,
    ImageCms.PyCMSError,
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

_SUB_IFDS, _NEW_SUBFILE_TYPE, _DNG_VERSION = 330, 254, 50706  # tags of TIFF

_TURNS = {
    3: Image.Transpose.ROTATE_180,
    5: Image.Transpose.ROTATE_90,
    6: Image.Transpose.ROTATE_270,
}
"""LibRaw's ``flip`` → the turn that puts a picture upright."""

_EXIF_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's ``Orientation`` → the turn that puts a picture upright, as Pillow's exif_transpose."""


class PictureError(ValueError):
    """There is no picture that can be used; the message says why on one line."""


class NoDecoderError(PictureError, ImportError):
    """The picture may be sound: the package that decodes its kind is not installed."""


class PictureSizeError(PictureError):
    """The picture has so many pixels that it must be a decompression bomb."""


class _JxlFile(ImageFile.ImageFile):
    """JPEG XL by pylibjxl, which turns the picture upright itself.

    pylibjxl's own plug-in for Pillow is not used: it hands on the EXIF orientation of a picture
    that is already turned.
    """

    format = "JXL"
    format_description = "JPEG XL"

    def _open(self) -> None:
        assert self.fp is not None
        self._data = self.fp.read()
        self._library = _package("pylibjxl", "jxl", "a JPEG XL picture")
        header = self._library.probe(self._data)
        self._size = header["width"], header["height"]
        self._mode = {1: "L", 2: "LA", 3: "RGB"}.get(header["channels"], "RGBA")

    def load(self) -> Any:  # noqa: ANN401  (Pillow keeps the type to itself)
        if self._im is None:
            pixels = self._library.decode(self._data)
            first = pixels[0] if pixels.ndim == 4 else pixels
            if first.ndim == 3 and first.shape[2] == 1:
                first = first[:, :, 0]
            decoded = Image.fromarray(np.ascontiguousarray(first))
            self.im, self._mode, self._data = decoded.im, decoded.mode, b""
        return Image.Image.load(self)


def _open_heif(file: IO[bytes]) -> Image.Image:
    opened: Image.Image = _package("pillow_heif", "heic", "a HEIC picture").HeifImageFile(file)
    return opened


def _open_tiff(file: IO[bytes]) -> Image.Image:
    """Open a TIFF as such, or as camera raw, where what it shows first is a tiny copy."""
    image = TiffImagePlugin.TiffImageFile(file)
    tags = image.tag_v2
    is_reduced = bool(int(tags.get(_NEW_SUBFILE_TYPE, 0)) & 1)
    if _DNG_VERSION in tags or (is_reduced and _SUB_IFDS in tags):
        file.seek(0)
        return _open_raw(file)
    return image


def _open_raw(file: IO[bytes]) -> Image.Image:
    """Open the preview that the camera made; the raw picture itself is not developed."""
    rawpy = _package("rawpy", "raw", "a camera's raw picture")
    try:
        with rawpy.RawPy() as raw:
            raw.open_buffer(file)
            preview, flip = raw.extract_thumb(), raw.sizes.flip
    except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
        raise PictureError(
            "expected a camera's raw picture with a preview in it, got one without. "
            "Develop it into a JPEG."
        ) from None
    except rawpy.LibRawError as error:
        raise ValueError(_line(error)) from error
    if preview.format == rawpy.ThumbFormat.JPEG:
        # LibRaw writes the orientation into it where the camera did not.
        return JpegImagePlugin.JpegImageFile(BytesIO(preview.data))
    drawn = Image.fromarray(np.ascontiguousarray(preview.data))
    return drawn.transpose(_TURNS[flip]) if flip in _TURNS else drawn


def _package(module: str, extra: str, what: str) -> Any:  # noqa: ANN401  (packages without types)
    try:
        return import_module(module)
    except ImportError as error:
        raise NoDecoderError(
            f"expected the package {module.replace('_', '-')} for {what}, got none. "
            f"Run: pip install 'clip-text[{extra}]'."
        ) from error


_DECODERS: dict[str, Callable[[IO[bytes]], Image.Image]] = {
    # Not Pillow's choice between JPEG and MPO: the first picture of an MPO is the JPEG, and many
    # phones write the list of the others so that Pillow warns.
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "raw": _open_raw,
    "TIFF": _open_tiff,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "HEIC": _open_heif,
    "JPEG XL": _JxlFile,
    "JPEG 2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "ICO": IcoFile,
    "ICNS": open_icns,
    "PPM": PpmImagePlugin.PpmImageFile,
    "PSD": PsdImagePlugin.PsdImageFile,
    "PCX": PcxImagePlugin.PcxImageFile,
    "TGA": TgaImagePlugin.TgaImageFile,
}


def open_picture(file: IO[bytes], ending: str = "") -> Image.Image:
    """Read the header of a picture, as ``Image.open`` does, by one decoder alone.

    Args:
        file: The picture's file at its beginning; must stay open until the picture is loaded.
        ending: How its name ends, in lower case and with the dot; empty if there is none.

    Returns:
        The picture, to be decoded by ``load()``. Its first one, if it holds several.

    Raises:
        PictureError: If it is no picture, of a kind that is never read, damaged, or has more than
            :data:`MAX_PIXELS` pixels.
        NoDecoderError: If its kind is read by a package that is not installed.
    """
    with damage_told():
        start = file.read(START)
        file.seek(0)
        kind = recognise(start, ending)
        if kind is None:
            raise PictureError(f"expected JPEG, PNG or another picture, got {_looks_like(start)}.")
        if not kind.decoder:
            raise PictureError(
                f"expected a kind of picture that is read, got {kind.name}. {kind.remedy}."
            )
        image = _DECODERS[kind.decoder](file)
        check_size(image.size)
        return image


@contextmanager
def damage_told() -> Iterator[None]:
    """Tell every way in which a decoder can fail as a PictureError."""
    try:
        yield
    except PictureError:
        raise
    except _DECODE_ERRORS as error:
        raise PictureError(
            f"expected a sound picture, got a damaged one ({_line(error)})."
        ) from error


def check_size(size: tuple[int, int]) -> None:
    """Refuse a picture of no pixels, or of so many that it must be a decompression bomb.

    Raises:
        PictureError: If it is so.
    """
    if size[0] * size[1] > MAX_PIXELS:
        raise PictureSizeError(
            f"expected at most {MAX_PIXELS} pixels, got {size[0]} x {size[1]} (a decompression "
            "bomb?). Scale the picture down."
        )
    if 0 in size:
        raise PictureError(f"expected at least one pixel, got {size[0]} x {size[1]}.")


def upright(image: Image.Image) -> Image.Image:
    """Copy a picture, turned as its EXIF data say."""
    try:
        return ImageOps.exif_transpose(image)
    except _DECODE_ERRORS:
        return image  # damaged EXIF data spoil the rotation, not the picture


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Say how a picture is turned to stand upright, as its EXIF data say; None if it does."""
    try:
        return _EXIF_TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _DECODE_ERRORS:
        return None


def to_8_bit(image: Image.Image) -> Image.Image:
    """Bring a picture of any mode to RGB, or to RGBA if it has transparent parts.

    One that is so already is given back itself.

    16-bit grey is scaled by its full range, other wide grey as :func:`_scale_to_8_bit` says.
    Profiles of colours are not applied.
    """
    if image.mode.startswith(("I", "F")):
        return _scale_to_8_bit(np.asarray(image)).convert("RGB")
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None
        return converted
    if image.mode == "La":
        image = image.convert("LA")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


def over_white(image: Image.Image) -> Image.Image:
    """Lay an RGBA picture over white; an RGB one stays as it is."""
    if image.mode != "RGBA":
        return image
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


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


def _looks_like(start: bytes) -> str:
    if not start:
        return "an empty file (0 bytes)"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg", b"<head", b"<body")):
        return "an HTML or XML page"
    if b"\0" not in text:
        try:
            start.decode("utf-8", "strict" if len(start) < START else "ignore")
        except UnicodeDecodeError:
            return "something else"
        return "text" if text.isascii() else "something else"
    return "something else"


def _line(error: Exception) -> str:
    text = error.args[0] if error.args else ""
    told = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(error)
    return " ".join(told.split())[:200] or type(error).__name__
