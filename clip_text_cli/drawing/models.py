"""A picture of several models: what each finds, and how that goes with its speed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_text_cli.drawing.figure import check_drawable, new_figure, save_figure
from retrieval.sheet.fonts import Face, find_font

if TYPE_CHECKING:
    from matplotlib.font_manager import FontProperties

    from clip_text.evaluation.statistics import Interval

__all__ = ["ModelPoint", "draw_models"]

_LONGEST_NAME = 32  # characters


@dataclass(frozen=True, slots=True)
class ModelPoint:
    """One model.

    Args:
        name: What it is told by.
        recalls: By k, its recall with the 95% interval, in [0, 1].
        pictures_per_second: How quick it is.
    """

    name: str
    recalls: "Mapping[int, Interval]"
    pictures_per_second: float


def draw_models(models: Sequence[ModelPoint], out: Path, *, title: str) -> None:
    """Draw recall@k of each model with its interval, and recall at the largest k over speed.

    Args:
        models: The models, at least one, all with the same ks.
        out: File to write, in a format its ending names.
        title: Above both.

    Raises:
        ClipTextError: If matplotlib is missing.
        DataError: If the file's ending is of no format; see :func:`check_drawable`.
    """
    check_drawable(out)
    from matplotlib.font_manager import FontProperties

    path = find_font()
    face, font = Face(path, 12), FontProperties(fname=path) if path else FontProperties()
    font.set_size(9)
    figure = new_figure(11, 2.2 + 0.45 * max(4, len(models)))
    figure.suptitle(face.writable(title), fontproperties=font, fontsize=12)
    names = [face.writable(_fitting(model.name)) for model in models]
    recalls, speeds = figure.subplots(1, 2)
    _draw_recalls(recalls, models, names, font)
    _draw_speeds(speeds, models, names, font)
    save_figure(figure, out)


def _draw_recalls(
    axes: Any,  # noqa: ANN401
    models: Sequence[ModelPoint],
    names: Sequence[str],
    font: "FontProperties",
) -> None:
    ks = list(models[0].recalls)
    for turn, k in enumerate(ks):
        found = [model.recalls[k] for model in models]
        places = [at + (turn - (len(ks) - 1) / 2) * 0.8 / len(ks) for at in range(len(models))]
        axes.errorbar(
            [100 * one.value for one in found],
            places,
            xerr=_ends(found),
            fmt="o",
            ms=4,
            capsize=3,
            label=f"recall@{k}",
        )
    axes.set_yticks(range(len(models)), names, fontproperties=font, parse_math=False)
    axes.set_ylim(len(models) - 0.5, -0.5)  # the first on top
    axes.set_xlabel("text to image, in percent, with 95% intervals")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(ncols=len(ks), fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1))


def _draw_speeds(
    axes: Any,  # noqa: ANN401
    models: Sequence[ModelPoint],
    names: Sequence[str],
    font: "FontProperties",
) -> None:
    k = max(models[0].recalls)
    for model, name in zip(models, names, strict=True):
        found, speed = model.recalls[k], model.pictures_per_second
        axes.errorbar([speed], [100 * found.value], yerr=_ends([found]), fmt="o", ms=4, capsize=3)
        axes.annotate(
            name,
            (speed, 100 * found.value),
            xytext=(5, 5),
            textcoords="offset points",
            fontproperties=font,
            parse_math=False,
        )
    axes.set_xscale("log")
    for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        ticks("{x:g}")
    axes.margins(x=0.25, y=0.15)
    axes.set_xlabel("pictures a second, from their files")
    axes.set_ylabel(f"recall@{k} in percent")
    axes.grid(alpha=0.3)


def _ends(found: "Sequence[Interval]") -> list[list[float]]:
    """How far intervals reach to either side, in percent; nothing where there is none."""
    low = [100 * (one.value - one.low) for one in found]
    high = [100 * (one.high - one.value) for one in found]
    return [[0.0 if isnan(end) else end for end in side] for side in (low, high)]


def _fitting(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"
