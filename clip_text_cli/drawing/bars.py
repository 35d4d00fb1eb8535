"""A picture of one figure for each of several things: horizontal bars."""

from collections.abc import Sequence
from math import isnan
from pathlib import Path

from clip_text_cli.drawing.figure import check_drawable, new_figure, save_figure


def draw_bars(
    out: Path, names: Sequence[str], values: Sequence[float], *, title: str, label: str
) -> None:
    """Draw a bar for each value with the value beside it, the first on top.

    Args:
        out: File to write, in a format its ending names.
        names: What the bars are about; in a script the default font has.
        values: Shares or differences of shares, drawn in percent; a NaN has no bar.
        title: Title above the bars.
        label: Label under the axis of values.

    Raises:
        ClipTextError: If matplotlib is missing.
        DataError: If the file's ending is of no format; see :func:`check_drawable`.
    """
    check_drawable(out)
    figure = new_figure(8, 1.6 + 0.3 * len(names))
    axes = figure.add_subplot()
    percent = [0.0 if isnan(value) else 100 * value for value in values]
    colours = ["#b93a29" if value < 0 else "#3b6ea5" for value in percent]
    bars = axes.barh(range(len(names)), percent, color=colours)
    texts = ["none" if isnan(value) else f"{100 * value:.1f}" for value in values]
    axes.bar_label(bars, texts, padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.01)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(label)
    axes.set_title(title, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, out)
