"""Several counts in one picture: bars in a panel for each."""

from collections.abc import Mapping
from pathlib import Path

from clip_text_cli.drawing.figure import check_drawable, new_figure, save_figure
from retrieval.sheet.fonts import Face, find_font

_ACROSS = 2
_LONGEST_NAME = 24  # characters
_BAR, _ROOM = 0.24, 0.5  # inches


def draw_counts(of: Mapping[str, Mapping[str, int]], out: Path, *, title: str) -> None:
    """Draw a bar for each count with the count beside it, the first on top.

    Args:
        of: By the panel's title, counts by name; panels without any are left out.
        out: File to write, in a format its ending names.
        title: Above all of them.

    Raises:
        ClipTextError: If matplotlib is missing.
        DataError: If the file's ending is of no format; see :func:`check_drawable`.
    """
    check_drawable(out)
    from matplotlib.font_manager import FontProperties

    panels = [(name, counts) for name, counts in of.items() if counts]
    most = [
        max((len(counts) for _, counts in panels[start : start + _ACROSS]), default=1)
        for start in range(0, max(1, len(panels)), _ACROSS)
    ]
    figure = new_figure(11, 0.5 + sum(_ROOM + _BAR * bars for bars in most))
    path = find_font()
    face, font = Face(path, 12), FontProperties(fname=path) if path else FontProperties()
    font.set_size(9)
    figure.suptitle(face.writable(title), fontproperties=font, fontsize=12)
    grid = figure.subplots(len(most), _ACROSS, squeeze=False, height_ratios=most)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for i, (axes, (name, counts)) in enumerate(zip(grid.flat, panels, strict=False)):
        places = range(len(counts))
        bars = axes.barh(places, list(counts.values()), color="#3b6ea5")
        axes.bar_label(bars, [f"{count:,}" for count in counts.values()], padding=3, fontsize=8)
        names = [face.writable(_fitting(each)) for each in counts]
        axes.set_yticks(places, names, fontproperties=font, parse_math=False)
        axes.set_ylim(most[i // _ACROSS] - 0.5, -0.5)  # bars of all panels are as thick
        axes.margins(x=0.15)
        axes.set_xticks([])
        axes.set_title(name, loc="left", fontsize=10)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    save_figure(figure, out)


def _fitting(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"
