"""The map of a collection: thumbnails where their features lie, one in each square of a grid."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clip_text_cli.drawing.figure import check_drawable, new_figure, save_figure
from retrieval.pictures import open_thumbnail
from retrieval.records import Record
from retrieval.sheet.fonts import Face, find_font

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from retrieval.filters import Scalar
    from retrieval.overview import PictureMap

_SIDE = 2400  # pixels of the map
_MOST_SQUARES = 40  # across: smaller pictures are not recognised
_LARGEST = 160  # pixels of a square
_FRAME = 3
_TRIED = 4  # pictures of a square, if some cannot be shown
_BESIDE = 520  # pixels, for what the colours mean
_DPI = 120

_COLOURS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22"),
    "#17becf",
)
_OTHERS, _NONE = "#7a7f87", "#c9cdd3"
_MISSING = "#d5d8dd"
_MOST = 1e300  # of numbers on a scale: the ticks of larger ones overflow
_LONGEST_NAME = 30  # characters


@dataclass(frozen=True, slots=True)
class _Colours:
    """What colours say.

    Args:
        of: The colour of each picture.
        names: What the colours mean, the commonest first.
        ends: The lowest and the highest number instead, where they are shades.
    """

    of: list[str]
    names: list[tuple[str, str]]
    ends: tuple[float, float] | None = None


def draw_map(
    placed: "PictureMap",
    out: Path,
    title: str = "",
) -> int:
    """Draw thumbnails at their places, framed by the colours of their values where they have any.

    In each square of the grid that holds places, one picture is shown: of the value that most of
    them have the one nearest to the middle. Beside it all places are dots in their colours.

    Args:
        placed: At least one picture.
        out: File to write, in a format its ending names.
        title: What the values are of.

    Returns:
        How many pictures are shown.

    Raises:
        ClipTextError: If matplotlib is missing.
        DataError: If the file's ending is of no format; see :func:`check_drawable`.
    """
    check_drawable(out)
    count = len(placed.records)
    across = int(min(_MOST_SQUARES, max(1, np.ceil(1.1 * count**0.5))))
    side = min(_LARGEST, _SIDE // across)
    colours = None if placed.values is None else _coloured(placed.values)
    frames = None if colours is None else colours.of
    squares = _squares(placed.positions, across, None if colours and colours.ends else frames)
    canvas = Image.new("RGB", (side * across, side * across), "white")
    for (column, row), candidates in squares.items():
        colour = None if frames is None else frames[candidates[0]]
        tile = _tile([placed.records[i] for i in candidates[:_TRIED]], side, colour)
        canvas.paste(tile, (column * side, row * side))
    beside = _BESIDE if colours else 0
    figure = new_figure((canvas.width + beside) / _DPI, canvas.height / _DPI)
    figure.set_layout_engine("none")  # a thumbnail's pixel is one of the figure's
    share = canvas.width / (canvas.width + beside)
    axes = figure.add_axes((0.0, 0.0, share, 1.0))
    axes.imshow(np.asarray(canvas), interpolation="none", aspect="auto")
    axes.set_axis_off()
    if colours:
        _draw_key(figure, share, colours, placed.positions, title)
    save_figure(figure, out)
    return len(squares)


def _squares(
    positions: NDArray[np.float32], across: int, frames: list[str] | None
) -> dict[tuple[int, int], list[int]]:
    """Sort pictures into the squares of a grid.

    Returns:
        By column and row, the pictures there, the one to be shown first.
    """
    cells = np.minimum((positions * across).astype(np.int64), across - 1)
    astray = np.square(positions * across - cells - 0.5).sum(axis=1)
    held: dict[tuple[int, int], list[int]] = {}
    for i, (column, row) in enumerate(cells.tolist()):
        held.setdefault((column, row), []).append(i)
    for members in held.values():
        counts = Counter(frames[i] for i in members) if frames else Counter[str]()
        members.sort(key=lambda i: (-counts[frames[i]] if frames else 0, astray[i], i))
    return held


def _tile(records: Sequence[Record], side: int, colour: str | None) -> Image.Image:
    """Draw the first of some pictures that can be shown, in the middle of a square."""
    room = side - 2 * _FRAME
    thumbnails = (
        open_thumbnail(record.path, (room, room)) if record.path else None for record in records
    )
    shown = next((each for each in thumbnails if each is not None), None)
    if shown is None:
        shown = Image.new("RGB", (room, room), _MISSING)
    square = Image.new("RGB", (side, side), "white")
    left, top = (side - shown.width) // 2, (side - shown.height) // 2
    if colour is not None:
        wide, high = shown.width + 2 * _FRAME, shown.height + 2 * _FRAME
        square.paste(Image.new("RGB", (wide, high), colour), (left - _FRAME, top - _FRAME))
    square.paste(shown, (left, top))
    return square


def _coloured(values: "Sequence[Scalar]") -> _Colours:
    """Choose colours: shades of numbers where there are many, else one for each common value."""
    counts = Counter(value for value in map(_keyed, values) if value is not None)
    numbers = [key for key in counts if isinstance(key, float)]
    has_scale = all(abs(number) <= _MOST for number in numbers)
    if len(numbers) == len(counts) > len(_COLOURS) and has_scale:
        return _shaded(values, min(numbers), max(numbers))
    ranked = sorted(counts, key=lambda key: (-counts[key], str(key)))
    named = dict(zip(ranked, _COLOURS, strict=False))
    of = [_NONE if key is None else named.get(key, _OTHERS) for key in map(_keyed, values)]
    names = [(f"{_told(key)} ({counts[key]:,})", colour) for key, colour in named.items()]
    if others := of.count(_OTHERS):
        names.append((f"{len(ranked) - len(named):,} others ({others:,})", _OTHERS))
    if none := of.count(_NONE):
        names.append((f"none ({none:,})", _NONE))
    return _Colours(of, names)


def _keyed(value: "Scalar") -> float | str | None:
    """Bring a value into a form in which different ones differ: true is not 1."""
    if isinstance(value, bool):
        return str(value).lower()
    return float(value) if isinstance(value, int) else value


def _told(key: float | str) -> str:
    text = f"{key:g}" if isinstance(key, float) else key
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


def _shaded(values: "Sequence[Scalar]", least: float, most: float) -> _Colours:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    of, none = [], 0
    for key in map(_keyed, values):
        if isinstance(key, float):
            of.append(to_hex(colormaps["viridis"]((key - least) / (most - least))))
        else:
            of.append(_NONE)
            none += 1
    return _Colours(of, [(f"none ({none:,})", _NONE)] if none else [], (least, most))


def _draw_key(
    figure: "Figure", share: float, colours: _Colours, positions: NDArray[np.float32], title: str
) -> None:
    """Draw what the colours mean, and below it all places as dots."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.patches import Patch

    path = find_font()
    face = Face(path, 12)
    font = FontProperties(fname=path) if path else FontProperties()
    beside, pixels = 1.0 - share, figure.get_figheight() * _DPI
    margin = 0.05 * beside
    high = (0.9 * _BESIDE) / pixels  # a square, where there is room for one
    dots = figure.add_axes((share + margin, margin, beside - 2 * margin, min(0.5, high)))
    dots.scatter(positions[:, 0], 1.0 - positions[:, 1], s=6, c=colours.of, linewidths=0)
    dots.set_axis_off()
    dots.set_xlim(-0.02, 1.02)
    dots.set_ylim(-0.02, 1.02)
    if colours.ends:
        _draw_shades(figure, (share + margin, 0.93, beside - 4 * margin, 0.02), colours.ends)
    patches = [Patch(color=colour, label=face.writable(name)) for name, colour in colours.names]
    legend = figure.legend(
        handles=patches,
        loc="upper left",
        bbox_to_anchor=(share, 0.88 if colours.ends else 1.0),
        frameon=False,
        prop=font,
        title=face.writable(title),
        title_fontproperties=font,
    )
    for text in (legend.get_title(), *legend.get_texts()):
        text.set_parse_math(False)  # a dollar is one


def _draw_shades(
    figure: "Figure", box: tuple[float, float, float, float], ends: tuple[float, float]
) -> None:
    axes = figure.add_axes(box)
    shades = np.linspace(0.0, 1.0, 256)[None]
    axes.imshow(shades, cmap="viridis", aspect="auto", extent=(*ends, 0.0, 1.0))
    axes.set_yticks([])
    axes.ticklabel_format(useOffset=False)
