"""What a comparison came to, as tables and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from clip_text_cli.compare.measuring import Facts, Measured
from clip_text_cli.evaluate.retrieval import Report, as_json, flat_difference, points

if TYPE_CHECKING:
    from clip_text.evaluation.agreement import Places
    from clip_text.evaluation.ranking import PerQuery
    from clip_text.evaluation.statistics import Comparison, Interval

__all__ = [
    "Difference",
    "Recalls",
    "agreement_table",
    "costs_as_json",
    "differences",
    "differences_table",
    "models_table",
    "overlaps",
    "recall_intervals",
    "reports_as_json",
]

Recalls = Mapping[str, "Mapping[tuple[str, int], Interval]"]
"""By a model's name, its recall by direction (``t2i``, ``i2t``) and k, in [0, 1]."""

BYTES_PER_NUMBER = 2
"""Of a vector in an index, which keeps fp16."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of a model minus that of the baseline, on the same queries.

    Args:
        model: Name of the model.
        direction: ``t2i`` or ``i2t``.
        figure: Such as ``recall@10``.
        found: The difference, with its interval and its own p-value.
        holm: The p-value corrected for the number of models that are compared in this figure.
    """

    model: str
    direction: str
    figure: str
    found: "Comparison"
    holm: float


def recalls_told(ks: Sequence[int]) -> list[tuple[str, int]]:
    """Name what is told of each model, as direction and k of recall@k."""
    return [*(("t2i", k) for k in ks), ("i2t", max(ks))]


def recall_intervals(reports: Mapping[str, Report], resamples: int) -> Recalls:
    """Give the recall that is told of each model, with its interval.

    Args:
        reports: By the name that a model is told by.
        resamples: Draws behind the intervals.
    """
    return {
        name: {
            (direction, k): report.measured.recall_at(direction, k, resamples=resamples)
            for direction, k in recalls_told(report.measured.by_direction["t2i"].ks)
        }
        for name, report in reports.items()
    }


def models_table(measured: Mapping[str, Measured], recalls: Recalls) -> Table:
    """A row a model: recall in percent with its interval under it, pace, memory and size.

    Args:
        measured: By the name that a model is told by.
        recalls: Likewise; none where right answers are not known.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("model", overflow="fold")
    told = list(next(iter(recalls.values()), {}))
    for direction, k in told:
        table.add_column(f"{direction}\nrecall@{k}", justify="right")
    on_gpu = any(one.facts.gpu_bytes for one in measured.values())
    heads = ["texts\n/s", "pictures\n/s", "memory\nMB", *(["GPU\nMB"] if on_gpu else [])]
    for head in [*heads, "dims\nbytes", "params\ndisk"]:
        table.add_column(head, justify="right")
    for name, model in measured.items():
        cells = [_over_interval(recalls[name][one]) for one in told]
        table.add_row(escape(name), *cells, *_costs(model.facts, on_gpu=on_gpu))
    return table


def _over_interval(share: "Interval") -> str:
    return f"{100 * share.value:.1f}\n{100 * share.low:.1f}-{100 * share.high:.1f}"


def _costs(facts: Facts, *, on_gpu: bool) -> list[str]:
    return [
        f"{facts.texts_per_second:,.0f}",
        f"{facts.pictures_per_second:,.1f}",
        _millions(facts.peak_bytes, 0),
        *([_millions(facts.gpu_bytes, 0)] if on_gpu else []),
        f"{facts.embed_dim:,}\n{BYTES_PER_NUMBER * facts.embed_dim:,}",
        f"{_millions(facts.parameters, 1)} M\n{_millions(facts.disk_bytes, 1)} MB",
    ]


def _millions(number: int | None, digits: int) -> str:
    return "?" if number is None else f"{number / 1e6:,.{digits}f}"


def differences(reports: Mapping[str, Report], baseline: str, resamples: int) -> list[Difference]:
    """Compare each other model with the baseline, in each figure that is told.

    Args:
        reports: By the name that a model is told by; the baseline is among them.
        baseline: What the others are compared with.
        resamples: Permutations of each test, and draws behind each interval.

    Returns:
        Model by model. For each figure the p-values are corrected by Holm's method for the
        number of models; the figures of one model are not corrected for each other.
    """
    from clip_text.evaluation.statistics import compare, holm

    base = reports[baseline].measured
    others = [name for name in reports if name != baseline]
    found: dict[tuple[str, str], list[Comparison]] = {}
    for direction, k in recalls_told(base.by_direction["t2i"].ks):
        figure = f"recall@{k}"
        groups, theirs = base.groups[direction], base.figures(direction)[figure]
        found[direction, figure] = [
            compare(
                reports[name].measured.figures(direction)[figure],
                theirs,
                groups,
                resamples=resamples,
            )
            for name in others
        ]
    corrected = {key: holm([one.p_value for one in each]) for key, each in found.items()}
    return [
        Difference(name, *key, each[at], corrected[key][at])
        for at, name in enumerate(others)
        for key, each in found.items()
    ]


def differences_table(found: Sequence[Difference], baseline: str) -> Table:
    """Each model minus the baseline in percentage points, with intervals and p-values."""
    several = len({one.model for one in found}) > 1
    p = "p (Holm)" if several else "p"
    table = Table(
        title=escape(f"minus {baseline}, in points"),
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("model", overflow="fold")
    table.add_column("figure")
    for column in ("difference", "95% interval", p):
        table.add_column(column, justify="right")
    told = ""
    for one in found:
        cells = (f"{one.direction} {one.figure}", *points(one.found.difference))
        table.add_row(escape(one.model if one.model != told else ""), *cells, f"{one.holm:.4f}")
        told = one.model
    return table


def overlaps(hits: "Mapping[str, Places]") -> "dict[tuple[str, str], PerQuery]":
    """For each two models, by query: the share of hits in common, in [0, 1].

    Args:
        hits: By a model's name, positions of its hits, [queries, k].
    """
    from clip_text.evaluation.agreement import shared_hits

    return {(a, b): shared_hits(hits[a], hits[b]) for a, b in combinations(hits, 2)}


def agreement_table(shares: "Mapping[tuple[str, str], PerQuery]", k: int) -> Table:
    """Of each two models, the mean share of hits in common, and of how many queries all are."""
    table = Table(
        title=f"hits in common in the top {k}", title_justify="left", box=None, pad_edge=False
    )
    for column in ("models", ""):
        table.add_column(column, overflow="fold")
    for column in ("mean", "none for", "all for"):
        table.add_column(column, justify="right")
    for (first, second), found in shares.items():
        counts = (f"{int((found == end).sum()):,} of {len(found):,}" for end in (0.0, 1.0))
        table.add_row(escape(first), escape(second), f"{found.mean():.1%}", *counts)
    return table


def costs_as_json(measured: Measured) -> dict[str, Any]:
    """Flatten what a model is and what it costs; rates per second, sizes in bytes."""
    facts = measured.facts
    return {
        "fingerprint": facts.fingerprint,
        "text_runtime": facts.runtimes["text"],
        "image_runtime": facts.runtimes["image"],
        "context_length": facts.context_length,
        "embed_dim": facts.embed_dim,
        "bytes_per_picture": BYTES_PER_NUMBER * facts.embed_dim,
        "parameters": facts.parameters,
        "disk_bytes": facts.disk_bytes,
        "texts_per_second": facts.texts_per_second,
        "pictures_per_second": facts.pictures_per_second,
        "peak_bytes": facts.peak_bytes,
        "gpu_bytes": facts.gpu_bytes,
        "unreadable": len(facts.unreadable),
        "was_kept": measured.was_kept,
    }


def reports_as_json(
    report: Report, found: Sequence[Difference], baseline: str | None, resamples: int
) -> dict[str, Any]:
    """Flatten a model's figures and its differences to the baseline, shares in [0, 1]."""
    flat = as_json(report, resamples)
    if found:
        flat["against"] = baseline
    for one in found:
        name = f"{one.direction}_{one.figure}"
        flat |= flat_difference(name, one.found) | {f"{name}_p_holm": one.holm}
    return flat
