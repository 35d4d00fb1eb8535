"""The picture of whether probabilities are what they say."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from clip_text_cli.drawing.figure import check_drawable, new_figure, save_figure

if TYPE_CHECKING:
    from retrieval.search.calibrating import Reliability


def draw_reliability(of: "Mapping[str, Reliability]", out: Path) -> None:
    """Draw for each thing foretold the share that came true over the probability.

    Args:
        of: By what was foretold, how reliable it is; each gets axes of its own, both from 0 to
            the largest that occurs.
        out: File to write, in a format its ending names.

    Raises:
        ClipTextError: If matplotlib is missing.
        DataError: If the file's ending is of no format; see :func:`check_drawable`.
    """
    check_drawable(out)
    figure = new_figure(4.8 * len(of), 4.8)
    for axes, (name, found) in zip(
        figure.subplots(1, len(of), squeeze=False)[0], of.items(), strict=True
    ):
        foretold = [one.foretold for one in found.bins]
        came_true = [one.came_true for one in found.bins]
        most = 1.05 * max([*foretold, *came_true, 0.01])
        axes.plot([0, most], [0, most], color="gray", linestyle=":", label="as it should be")
        axes.plot(foretold, came_true, marker="o", color="#3b6ea5", label="bins of equal count")
        axes.set_xlim(0, most)
        axes.set_ylim(0, most)
        axes.set_xlabel("probability told")
        axes.set_ylabel("share that came true")
        axes.set_title(f"{name}\nexpected calibration error {found.error:.4f}")
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left")
    save_figure(figure, out)
