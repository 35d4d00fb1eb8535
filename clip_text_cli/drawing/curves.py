"""Pictures of runs: what fell and rose as they went, and where fine-tuning went to."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_text_cli.drawing.figure import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from clip_text.training.finetune import TrainedPair


CURVES = "curves.png"


def draw_run(folders: Sequence[Path], trained: "TrainedPair", out: Path) -> Path:
    """Draw the stages' curves one after the other, and the mixtures.

    Args:
        folders: Folders of the stages, each with its ``metrics.jsonl``.
        trained: What came of the run.
        out: The picture's file.
    """
    figure = new_figure(13, 4)
    loss, recall, line = figure.subplots(1, 3)
    _draw_stages(folders, loss, recall, trained)
    for axes, label in ((loss, "loss"), (recall, f"{trained.best_by}, %")):
        axes.set_xlabel("step")
        axes.set_ylabel(label)
    _draw_line(trained, line)
    save_figure(figure, out)
    return out


def draw_course(folder: Path, metric: str, out: Path) -> Path | None:
    """Draw loss and a metric of validation over the steps of a run.

    Args:
        folder: Folder of the run, with its ``metrics.jsonl``.
        metric: Its name; one that is a share is drawn in percent, perplexity by its logarithm.
        out: The picture's file.

    Returns:
        The file; None where matplotlib is not installed, or nothing was logged.
    """
    from clip_text.training.callbacks import METRICS, read_metrics

    if find_spec("matplotlib") is None or not (folder / METRICS).exists():
        return None
    figure = new_figure(9, 4)
    share = metric != "perplexity"
    for axes, key, label in zip(
        figure.subplots(1, 2),
        ("loss", f"eval_{metric}"),
        ("loss", f"{metric}, %" if share else metric),
        strict=True,
    ):
        factor = 100 if share and key != "loss" else 1
        rows: list[dict[str, Any]] = read_metrics(folder / METRICS)
        points = [(row["step"], factor * row[key]) for row in rows if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), marker=".")
        if key == "eval_perplexity":
            axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_ylabel(label)
    save_figure(figure, out)
    return out


def _draw_stages(
    folders: Sequence[Path], loss: "Axes", recall: "Axes", trained: "TrainedPair"
) -> None:
    from clip_text.training.callbacks import METRICS, read_metrics

    first = 0
    start = 100 * trained.start[trained.best_by]
    for folder in folders:
        file = folder / METRICS
        rows: list[dict[str, Any]] = read_metrics(file) if file.exists() else []
        key = f"eval_{trained.best_by}"
        losses = [(first + row["step"], row["loss"]) for row in rows if "loss" in row]
        recalls = [(first + row["step"], 100 * row[key]) for row in rows if key in row]
        if first == 0:
            recalls.insert(0, (0, start))
        for axes, points in ((loss, losses), (recall, recalls)):
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=folder.name)
        first += max((row["step"] for row in rows), default=0)
    recall.axhline(start, linestyle=":", color="gray", label="before training")
    for axes in (loss, recall):
        if axes.has_data():
            axes.legend()


def _draw_line(trained: "TrainedPair", axes: "Axes") -> None:
    """Draw validation against what should be kept, or against the share where there is none."""
    by, mixtures = trained.best_by, trained.mixtures
    kept = all(one.kept for one in mixtures)
    xs = [100 * (one.kept[by] if kept else one.share) for one in mixtures]
    ys = [100 * one.metrics[by] for one in mixtures]
    axes.plot(xs, ys, marker="o", color="tab:green")
    for one, x, y in zip(mixtures, xs, ys, strict=True):
        axes.annotate(f"{one.share:.0%}", (x, y), textcoords="offset points", xytext=(4, 4))
    at = mixtures.index(trained.chosen)
    axes.plot([xs[at]], [ys[at]], marker="*", markersize=15, color="tab:red", label="written")
    axes.set_xlabel(f"{by} on what to keep, %" if kept else "share of the fine-tuned weights, %")
    axes.set_ylabel(f"{by} on validation, %")
    axes.legend()
