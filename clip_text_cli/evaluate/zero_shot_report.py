"""What ``clip-text evaluate zero-shot`` tells: figures and worst classes, or a flat dict."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from clip_text.evaluation.probe import FewShot, Probe
from clip_text.evaluation.zero_shot import ZeroShot

_LISTED_CLASSES = 10  # in the table: the worst; --json has all


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that was measured.

    Args:
        zero_shot: Figures of sorting by the names of the classes alone.
        names: What each label is called.
        templates: How many sentences each name was put into.
        probe: Figures of the linear probe, if asked for.
        shots: One for each number of shots asked for.
    """

    zero_shot: ZeroShot
    names: dict[str, str]
    templates: int
    probe: Probe | None = None
    shots: tuple[FewShot, ...] = ()


def as_tables(evaluation: Evaluation) -> list[Table]:
    """Draw the results for a terminal: the figures, and the classes that went worst."""
    result = evaluation.zero_shot
    figures = Table("", "result", "", box=None, pad_edge=False)
    for k, accuracy in result.accuracy.items():
        what = "pictures with a right label among the first" if result.multi_label else "pictures"
        figures.add_row(f"top-{k}", f"{accuracy:.1%}", f"{result.pictures:,} {what}")
    with_pictures = f"{result.classes_with_pictures:,} of {len(result.labels):,} classes"
    if not result.multi_label:
        figures.add_row("mean per class", f"{result.mean_per_class:.1%}", with_pictures)
    figures.add_row("mAP", f"{result.mean_average_precision:.1%}", with_pictures)
    if probe := evaluation.probe:
        learnt = f"{probe.trained_on:,} to learn from, {probe.tested_on:,} to test on"
        figures.add_row("linear probe", f"{probe.accuracy:.1%}", f"{learnt}, C {probe.strength:g}")
        figures.add_row("… per class", f"{probe.mean_per_class:.1%}", "")
    for few in evaluation.shots:
        spread = "" if math.isnan(few.std) else f" ± {few.std:.1%}"
        draws = f"{len(few.accuracies)} draws of {few.shots} a class"
        figures.add_row(f"{few.shots}-shot", f"{few.mean:.1%}{spread}", draws)
    return [figures, _worst(evaluation)]


def _worst(evaluation: Evaluation) -> Table:
    result = evaluation.zero_shot
    figure = result.precision if result.multi_label else result.per_class
    title = "average precision" if result.multi_label else "accuracy"
    table = Table("worst classes", title, box=None, pad_edge=False)
    if result.confusion is not None:
        table.add_column("mostly taken for")
    known = np.flatnonzero(~np.isnan(figure))
    for at in known[np.argsort(figure[known], kind="stable")][:_LISTED_CLASSES]:
        cells = [escape(evaluation.names[result.labels[at]]), f"{figure[at]:.1%}"]
        if result.confusion is not None:
            wrong = np.where(np.arange(len(figure)) == at, 0, result.confusion[at])
            other = evaluation.names[result.labels[wrong.argmax()]] if wrong.any() else ""
            cells.append(escape(other))
        table.add_row(*cells)
    return table


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Flatten the results: ``top1`` and so on, shares in [0, 1]; None for what is not defined."""
    result = evaluation.zero_shot
    flat: dict[str, Any] = {f"top{k}": accuracy for k, accuracy in result.accuracy.items()}
    flat |= {
        "mean_per_class": result.mean_per_class,
        "mean_average_precision": result.mean_average_precision,
        "pictures": result.pictures,
        "classes": len(result.labels),
        "classes_with_pictures": result.classes_with_pictures,
        "templates": evaluation.templates,
    }
    if probe := evaluation.probe:
        flat |= {
            "probe": probe.accuracy,
            "probe_mean_per_class": probe.mean_per_class,
            "probe_strength": probe.strength,
            "probe_trained_on": probe.trained_on,
            "probe_tested_on": probe.tested_on,
        }
    for few in evaluation.shots:
        flat[f"{few.shots}_shot"] = few.mean
        flat[f"{few.shots}_shot_std"] = few.std
        flat[f"{few.shots}_shot_draws"] = len(few.accuracies)
    for label, accuracy, precision in zip(
        result.labels, result.per_class, result.precision, strict=True
    ):
        if not result.multi_label:
            flat[f"accuracy/{label}"] = float(accuracy)
        flat[f"average_precision/{label}"] = float(precision)
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in flat.items()
    }
