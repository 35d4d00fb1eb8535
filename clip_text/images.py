"""Pictures of any origin → RGB, and RGB → the square an image tower reads."""

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clip_text.errors import ClipTextError
from clip_text_pictures import (
    EXTENSIONS,
    MAX_PIXELS,
    NoDecoderError,
    PictureError,
    check_size,
    damage_told,
    ending_of,
    kind_of,
    looks_like_picture,
    open_picture,
    over_white,
    to_8_bit,
    turn_of,
    upright,
)

__all__ = [
    "EXTENSIONS",
    "MAX_PIXELS",
    "ImageError",
    "ImageSource",
    "MissingDecoderError",
    "Preprocessing",
    "check_several",
    "is_read",
    "load_image",
    "load_square",
    "looks_like_picture",
    "squash",
]

_Undecoded = str | os.PathLike[str] | bytes | Image.Image
ImageSource = _Undecoded | NDArray[np.generic]
_Box = tuple[float, float, float, float] | None

_LARGE = 1 << 26  # bytes of a file that is not read whole before its header is judged
_KEEP = 3.0
"""The fast path never decodes below this multiple of the size asked for: see docs/pictures.md."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a picture becomes the image tower's input: squash to a square, bicubic, normalise.

    Args:
        size: Side of the square in pixels.
        mean: Per channel, of values in [0, 1].
        std: Per channel, of values in [0, 1].
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class ImageError(ClipTextError, ValueError):
    """The source is no picture that can be used; the message says why on one line."""


class MissingDecoderError(ImageError, ImportError):
    """The picture may be sound: the message names the extra that reads its kind."""


def load_image(source: ImageSource, *, min_size: int | None = None) -> Image.Image:
    """Read a picture as RGB. Safe to call from many threads at once.

    EXIF rotation is applied, transparency is laid over white, an animation gives its first
    frame, a camera's raw picture the preview in it. 16-bit grey is scaled by its full range;
    floats in [0, 1] by theirs, other floats and 32-bit integers by what their values suggest.

    Args:
        source: A path, the bytes of a file, a Pillow image, or an array: uint8 or float in
            [0, 1], [H, W], [H, W, 1], [H, W, 3] RGB or [H, W, 4] RGBA.
        min_size: Pixels. If given, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size
            (DCT scaling, several times faster), as long as both sides keep at least 2.5 times
            this size. Give it where the picture is to become at most this large.

    Returns:
        A new RGB image.

    Raises:
        ImageError: If it is no picture of a kind that is read (see
            :mod:`clip_text_pictures.kinds`), is damaged or truncated, has more than
            :data:`MAX_PIXELS` pixels, or is an array of another kind.
        MissingDecoderError: If its kind is read by an extra that is not installed.
        OSError: If a file cannot be read.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    with _decoded(source, min_size) as (image, _):
        shown = over_white(to_8_bit(upright(image)))
        return shown.copy() if shown is source else shown


def load_square(source: ImageSource, size: int) -> NDArray[np.uint8]:
    """Read a picture as the square that an image tower reads. Safe to call from many threads.

    The pixels of ``squash(load_image(source), size)``, but with no copy of the whole picture: it
    is squashed as it was decoded, and turned upright when it is small. A large JPEG is decoded
    at 1/2, 1/4 or 1/8 of its size, as long as both sides keep at least 2.5 times ``size``.

    Args:
        source: As :func:`load_image` takes it.
        size: Pixels per side.

    Returns:
        uint8 [size, size, 3], RGB.

    Raises:
        ImageError: As :func:`load_image`.
        MissingDecoderError: If its kind is read by an extra that is not installed.
        OSError: If a file cannot be read.
    """
    if isinstance(source, np.ndarray):
        return squash(_from_array(source), size)
    with _decoded(source, size) as (image, box):
        turn = turn_of(image)
        small = over_white(to_8_bit(image)).resize((size, size), Image.Resampling.BICUBIC, box)
        return np.array(small if turn is None else small.transpose(turn), np.uint8)


def check_several(images: object) -> None:
    """Refuse one picture where a list of pictures is wanted.

    Raises:
        TypeError: If it is one.
    """
    one = isinstance(images, str | bytes | os.PathLike | Image.Image)
    if one or (isinstance(images, np.ndarray) and images.ndim < 4):
        raise TypeError(
            f"expected a list of images, got one {type(images).__name__}. "
            "Wrap it in a list: encode_image([image])."
        )


def is_read(path: Path) -> bool:
    """Tell whether a file is a picture of a kind that is read, be it by an extra.

    What is a picture and no more than that, such as an SVG drawing, is for
    :func:`looks_like_picture` to say.
    """
    kind = kind_of(path)
    return kind is not None and bool(kind.decoder)


def squash(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Resize to a square regardless of the aspect ratio, as Chinese-CLIP does.

    Args:
        image: Picture in RGB, of any size.
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
    if path.stat().st_size > _LARGE:
        # A scan of gigapixels shall not fill the memory only to be refused.
        with _told_as_ours(), path.open("rb") as file:
            open_picture(file, ending_of(path))
    return path.read_bytes()


@contextmanager
def _decoded(source: _Undecoded, min_size: int | None) -> "Iterator[tuple[Image.Image, _Box]]":
    """Give a picture as it is stored, decoded, and what part of it to show; None for all.

    Every way in which a decoder can fail is told as an ImageError.
    """
    if isinstance(source, bytes | Image.Image):
        content, ending = source, ""
    else:
        path = Path(source)
        content, ending = _read(path), ending_of(path)
    with _told_as_ours(), damage_told():
        if isinstance(content, Image.Image):
            check_size(content.size)
            image = content
        else:
            image = open_picture(BytesIO(content), ending)
        box = None
        if min_size is not None and image is not source and image.format == "JPEG":
            kept = math.ceil(_KEEP * min_size)
            # Half of 5 pixels is decoded as 3, the last of which is half beyond the edge.
            if drafted := image.draft(None, (kept, kept)):
                _, box = drafted
        image.load()
        yield image, box


@contextmanager
def _told_as_ours() -> Iterator[None]:
    """Tell the errors of the decoders in this package's own tree."""
    try:
        yield
    except NoDecoderError as error:
        raise MissingDecoderError(str(error)) from error
    except PictureError as error:
        raise ImageError(str(error)) from error


def _from_array(array: NDArray[np.generic]) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in {2, 3} or channels not in {1, 3, 4} or 0 in array.shape:
        msg = (
            "expected an array of shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], got "
            f"{list(array.shape)}. Put the channels last."
        )
        raise ImageError(msg)
    with _told_as_ours():
        check_size((array.shape[1], array.shape[0]))
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
    return over_white(to_8_bit(Image.fromarray(np.ascontiguousarray(squeezed))))
