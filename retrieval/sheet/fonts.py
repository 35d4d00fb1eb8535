"""A font that can write Chinese, wherever one is, and text no font turns into boxes."""

import os
import unicodedata
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

__all__ = ["Face", "find_font"]

# In this order: the look comes before the place.
_NAMES = (
    "NotoSansCJKsc-Regular.otf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansSC-Regular.otf",
    "NotoSansSC-Regular.ttf",
    "SourceHanSansSC-Regular.otf",
    "SourceHanSansCN-Regular.otf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "STHeiti Light.ttc",
    "msyh.ttc",
    "simhei.ttf",
    "SimHei.ttf",
    "simsun.ttc",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "DroidSansFallback.ttf",
    "uming.ttc",
    "Arial Unicode.ttf",
)
_FOLDERS = (
    "~/.local/share/fonts",
    "~/.fonts",
    "~/Library/Fonts",
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "/Library/Fonts",
    "/System/Library/Fonts",
    "/System/Library/AssetsV2/com_apple_MobileAsset_Font7",
    "C:/Windows/Fonts",
)
_NO_CHARACTER = "\U0010ffff"  # no font has it: shows what a missing one looks like
_MOST_FACES = 10  # in one collection


def find_font() -> Path | None:
    """Find a font file with Chinese: the system's, else one of the package mplfonts, else None."""
    for path in _candidates():
        try:
            face = Face(path, 16)
        except OSError:
            continue
        if face.can_write("中"):
            return path
    return None


def _candidates() -> Iterator[Path]:
    installed: dict[str, Path] = {}
    for folder in _FOLDERS:
        for place, _, names in os.walk(Path(folder).expanduser()):
            for name in names:
                installed.setdefault(name, Path(place, name))
    yield from (installed[name] for name in _NAMES if name in installed)
    spec = find_spec("mplfonts")  # found without being imported, which would need matplotlib
    for place in (spec.submodule_search_locations or []) if spec else []:
        fonts = Path(place, "fonts")
        yield from (fonts / name for name in _NAMES if (fonts / name).is_file())


class Face:
    """A font at one size, that measures and cuts text, and escapes what it cannot write.

    Args:
        path: A font file; None for Pillow's own font, which knows Latin letters only.
        size: Height of a line's letters, in pixels.

    Raises:
        OSError: If the file is no font.
    """

    def __init__(self, path: Path | None, size: int) -> None:
        self.font = _load(path, size)
        self._missing = self._drawn(_NO_CHARACTER)
        self._known: dict[str, bool] = {}

    def can_write(self, char: str) -> bool:
        """Tell whether the font has this character."""
        if char not in self._known:
            drawn = self._drawn(char)
            self._known[char] = char.isspace() or (drawn is not None and drawn != self._missing)
        return self._known[char]

    def writable(self, text: str) -> str:
        r"""Put the text on one line, characters the font lacks written as ``\u732b``."""
        return "".join(map(self._spelled, " ".join(text.split())))

    def width(self, text: str) -> float:
        """Measure the text as it stands, in pixels."""
        return float(self.font.getlength(text))

    def wrapped(self, text: str, width: float, lines: int) -> list[str]:
        """Break the text into at most so many lines, with an ellipsis where it is cut.

        Chinese breaks anywhere; words in Latin letters stay whole where they can.
        """
        rest = self.writable(text)
        broken: list[str] = []
        while rest and len(broken) < lines:
            fits = self._fitting(rest, width)
            if fits == len(rest):
                broken.append(rest)
                break
            if len(broken) == lines - 1:
                dots = "…" if self.can_write("…") else "..."
                broken.append(rest[: self._fitting(rest, width - self.width(dots))].rstrip() + dots)
                break
            space = rest.rfind(" ", 0, fits + 1)
            cut = space if space > 0 and rest[fits].isascii() else fits
            broken.append(rest[:cut].rstrip())
            rest = rest[cut:].lstrip()
        return broken

    def _fitting(self, text: str, width: float) -> int:
        """Count the characters from the start that fit into a width; one at least."""
        low, high = 1, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            if self.width(text[:middle]) <= width:
                low = middle
            else:
                high = middle - 1
        return low

    def _spelled(self, char: str) -> str:
        if self.can_write(char):
            return char
        if unicodedata.category(char) in {"Cf", "Mn"}:
            return ""  # joiners and selectors say nothing by themselves
        return char.encode("unicode_escape").decode("ascii")

    def _drawn(self, char: str) -> tuple[object, ...] | None:
        try:
            mask = self.font.getmask(char)
        except UnicodeEncodeError:
            return None  # Pillow without FreeType: a bitmap font of Latin letters
        return mask.size, bytes(mask)


def _load(path: Path | None, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if path is None:
        return ImageFont.load_default(size)
    for index in range(_MOST_FACES):
        try:
            face = _truetype(path, size, index)
        except OSError:
            if index == 0:
                raise
            break
        # Of a collection, the simplified Chinese face: it has the mainland's glyphs.
        if (face.getname()[0] or "").endswith((" SC", " GB", " CN")):
            return face
    return _truetype(path, size, 0)


def _truetype(path: Path, size: int, index: int) -> ImageFont.FreeTypeFont:
    # ImageFont.truetype would look for another font of that name where this one fails.
    return ImageFont.FreeTypeFont(path, size, index, layout_engine=ImageFont.Layout.BASIC)
