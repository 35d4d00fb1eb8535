"""Icons, whose file says one size of a picture, and the picture in it another.

Pillow goes by the first where it tells how large an icon is, and by the second where it decodes it;
an ICO it decodes while it reads the header. So a small file that says 16 x 16 may be a bomb.
"""

from io import BytesIO
from typing import IO, Any, Final

from PIL import (
    BmpImagePlugin,
    IcnsImagePlugin,
    IcoImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    PngImagePlugin,
)

__all__ = ["IcoFile", "open_icns"]

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG_2000: Final = (b"\xff\x4f\xff\x51", b"\x0d\x0a\x87\x0a", b"\x00\x00\x00\x0cjP  ")


class IcoFile(IcoImagePlugin.IcoImageFile):
    """The largest picture of an ICO, as large as it is, decoded when it is asked for."""

    def _open(self) -> None:
        assert self.fp is not None
        self.ico = IcoImagePlugin.IcoFile(self.fp)
        self.info["sizes"] = self.ico.sizes()
        self.fp.seek(self.ico.entry[0].offset)
        is_png = self.fp.read(len(_PNG)) == _PNG
        self.fp.seek(self.ico.entry[0].offset)
        if is_png:
            within: Image.Image = PngImagePlugin.PngImageFile(self.fp)
            self._size, self._mode = within.size, within.mode
        else:  # twice as high as it is: its mask lies below it
            within = BmpImagePlugin.DibImageFile(self.fp)
            self._size, self._mode = (within.size[0], within.size[1] // 2), "RGBA"

    def load(self) -> Any:  # noqa: ANN401  (Pillow keeps the type to itself)
        """Decode it."""
        if self._im is None:
            picture = self.ico.frame(0)
            picture.load()
            self.im, self._mode = picture.im, picture.mode
            if picture.palette:
                self.palette = picture.palette
        return Image.Image.load(self)


def open_icns(file: IO[bytes]) -> Image.Image:
    """Open an ICNS, unless the picture in it is larger than it says.

    Raises:
        ValueError: If it is.
    """
    image = IcnsImagePlugin.IcnsImageFile(file)
    for code, _ in image.icns.SIZES[image.best_size]:
        if code in image.icns.dct:
            width, height = _size_at(file, *image.icns.dct[code])
            if width * height > image.size[0] * image.size[1]:
                raise ValueError(f"{width} x {height} pixels in an icon of {image.size[0]}")
    return image


def _size_at(file: IO[bytes], start: int, length: int) -> tuple[int, int]:
    """Read the size of a picture in an ICNS; one of its own raw kinds has none to say."""
    file.seek(start)
    data = file.read(length)
    if data.startswith(_PNG):
        return PngImagePlugin.PngImageFile(BytesIO(data)).size
    if data.startswith(_JPEG_2000):
        return Jpeg2KImagePlugin.Jpeg2KImageFile(BytesIO(data)).size
    return 0, 0
