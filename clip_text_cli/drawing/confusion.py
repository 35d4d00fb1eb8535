"""The picture of which classes are taken for which."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_text_cli.drawing.figure import check_drawable, new_figure, save_figure
from retrieval.sheet.fonts import Face, find_font

MOST_CLASSES = 40
"""More names than these are not readable on one page."""

_MOST_NUMBERED = 20  # with more classes the numbers don't fit into the cells
_LONGEST_NAME = 12  # characters


def draw_confusion(
    confusion: NDArray[np.float64], names: Sequence[str], out: Path, *, title: str, of: str
) -> None:
    """Draw the share of each class's members (row) that was put in each class (column).

    Of more than :data:`MOST_CLASSES` classes those are shown whose members go astray most.

    Args:
        confusion: How many, [classes, classes]: right class in rows, answer in columns.
        names: Names of the classes, in the matrix's order.
        out: File to write, in a format its ending names.
        title: Title above the matrix.
        of: Word for what was classified, such as texts.

    Raises:
        ClipTextError: If matplotlib is missing.
        DataError: If the file's ending is of no format; see :func:`check_drawable`.
    """
    check_drawable(out)
    shown, counts = worst_classes(confusion)
    of_class = confusion.sum(1)[shown]
    shares = counts / np.maximum(of_class, 1)[:, None]
    side = 4.5 + 0.32 * len(shown)
    figure = new_figure(side, side)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.6, label=f"share of the row's {of}")
    _name_axes(axes, [names[at] for at in shown])
    if len(shown) <= _MOST_NUMBERED:
        _number_cells(axes, shares)
    left_out = len(names) - len(shown)
    most = f"; the {len(shown)} most confused of {len(names):,} classes"
    axes.set_title(title + most * bool(left_out), parse_math=False)
    save_figure(figure, out)


def worst_classes(confusion: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Keep at most :data:`MOST_CLASSES` classes: those in most wrong answers, given or got.

    Returns:
        Their positions [shown], ascending, and the matrix between them, [shown, shown].
    """
    astray = confusion.sum(0) + confusion.sum(1) - 2 * confusion.diagonal()
    shown = np.sort(np.argsort(-astray, kind="stable")[:MOST_CLASSES])
    return shown, confusion[np.ix_(shown, shown)]


def _name_axes(axes: Any, names: list[str]) -> None:  # noqa: ANN401
    from matplotlib.font_manager import FontProperties

    path = find_font()
    face = Face(path, 12)
    fits = [name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…" for name in names]
    written = [face.writable(name) for name in fits]
    font = FontProperties(fname=path) if path else None
    ticks = range(len(names))
    axes.set_xticks(ticks, written, rotation=90, fontproperties=font, parse_math=False)
    axes.set_yticks(ticks, written, fontproperties=font, parse_math=False)
    axes.set_xlabel("answer")
    axes.set_ylabel("right class")


def _number_cells(axes: Any, shares: NDArray[np.float64]) -> None:  # noqa: ANN401
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            colour = "white" if share > 0.5 else "black"
            text = f"{share:.0%}".rstrip("%")
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
