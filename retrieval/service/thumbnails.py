"""Pictures drawn small, and the ones drawn last kept."""

import io
import threading
from collections import OrderedDict
from pathlib import Path

from PIL import Image, ImageOps


class ThumbnailCache:
    """The thumbnails used last, as many as fit into a number of bytes. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = 0
        self._entries: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """The thumbnail under a key, which then counts as used last."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: str, thumbnail: bytes) -> None:
        """Keep a thumbnail and drop the ones used longest ago that no longer fit."""
        with self._lock:
            self._held += len(thumbnail) - len(self._entries.pop(key, b""))
            self._entries[key] = thumbnail
            while self._held > self._max_bytes:
                _, dropped = self._entries.popitem(last=False)
                self._held -= len(dropped)


def render_thumbnail(path: Path, size: int) -> bytes:
    """Draw a picture small: upright, never enlarged, without its EXIF data.

    Args:
        path: The picture.
        size: The longest side at most, in pixels.

    Returns:
        A WebP file.

    Raises:
        OSError: If the file cannot be read or is no picture.
    """
    try:
        with Image.open(path) as opened:
            # Lets the JPEG decoder leave out the detail nobody will see.
            opened.draft(None, (size, size))
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I;16"):
                # Pillow would clip 16-bit greys to white instead of scaling them.
                picture = picture.point(lambda grey: grey / 256, "L")
            mode = "RGBA" if picture.has_transparency_data else "RGB"
            if picture.mode != mode:
                # A CMYK or grey profile describes colours that are converted away here.
                picture.info.pop("icc_profile", None)
                picture = picture.convert(mode)
            picture.thumbnail((size, size), Image.Resampling.LANCZOS)
            webp = io.BytesIO()
            picture.save(webp, "WEBP", quality=82, method=4)
            return webp.getvalue()
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow's decoders report damaged files in all of these ways.
        raise OSError(str(error)) from error
