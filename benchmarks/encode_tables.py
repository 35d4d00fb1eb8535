"""What benchmarks/encode.py prints: tables in Markdown, of flat figures."""

import re
from collections.abc import Mapping, Sequence

Figures = Mapping[str, float]


def key_of(*words: object) -> str:
    """Name a figure: ``text_cn_clip_32_per_second``."""
    return re.sub("[^a-z0-9]+", "_", "_".join(map(str, words)).lower()).strip("_")


def text_tables(names: Sequence[str], figures: Figures, sizes: Sequence[int]) -> list[str]:
    """Lay out the figures of texts: by the clock, and by the processor's time.

    Args:
        names: The contenders.
        figures: As ``race_texts`` gives them.
        sizes: Of the batches.
    """
    by_clock = [f"texts/s at {size}" for size in sizes]
    if 1 in sizes:
        by_clock += ["p50 ms", "p99 ms"]
    lines = _head("by the clock", [*by_clock, "of peak", "lowest cosine"])
    for name in names:
        cells = [_cell(figures, "text", name, size, "per_second") for size in sizes]
        if 1 in sizes:
            cells += [_cell(figures, "text", name, "p", percent, "ms") for percent in (50, 99)]
        cells += [_cell(figures, "text", name, "of_peak", form=".0%")]
        lines.append(_row(name, [*cells, _cosine(figures, "text", name)]))
    headings = [f"CPU ms a text at {size}" for size in sizes]
    headings += [f"× plain OpenVINO at {size}" for size in sizes]
    lines += ["", *_head("by the processor's time", headings)]
    for name in names:
        cells = [_cell(figures, "text", name, size, "cpu_ms") for size in sizes]
        cells += [_cell(figures, "text", name, size, "over_plain_by_cpu") for size in sizes]
        lines.append(_row(name, cells))
    return lines


def picture_table(names: Mapping[str, Sequence[str]], figures: Figures) -> list[str]:
    """Lay out the figures of pictures.

    Args:
        names: The contenders, by model.
        figures: As ``race_pictures`` gives them.
    """
    lines = _head("JPEG files to rows", ["pictures/s", "CPU ms a picture", "lowest cosine"])
    for model, contenders in names.items():
        for name in contenders:
            parts = ("pictures", model, name)
            cells = [_cell(figures, *parts, figure) for figure in ("per_second", "cpu_ms")]
            lines.append(_row(f"{model}, {name}", [*cells, _cosine(figures, *parts)]))
    return lines


def device_table(device: str, names: Mapping[str, Sequence[str]], figures: Figures) -> list[str]:
    """Lay out the figures of a GPU.

    Args:
        device: Its name.
        names: The contenders, by ``texts`` and ``pictures``.
        figures: As ``race_on`` gives them.
    """
    headings = ["a second", "of bf16 peak", "× open_clip", "lowest cosine"]
    lines = _head(device, headings)
    for kind, contenders in names.items():
        for name in contenders:
            cells = [
                _cell(figures, kind, name, "per_second"),
                _cell(figures, kind, name, "of_peak", form=".0%"),
                _cell(figures, kind, name, "over_open_clip"),
            ]
            lines.append(_row(f"{kind}, {name}", [*cells, _cosine(figures, kind, name)]))
    return lines


def _head(title: str, headings: Sequence[str]) -> list[str]:
    return [_row(title, headings), "|---|" + "--:|" * len(headings)]


def _row(title: str, cells: Sequence[str]) -> str:
    return f"| {title} | {' | '.join(cells)} |"


def _cosine(figures: Figures, *words: object) -> str:
    return _cell(figures, *words, "lowest_cosine", form=".6f")


def _cell(figures: Figures, *words: object, form: str = "") -> str:
    value = figures.get(key_of(*words))
    if value is None:
        return ""
    return format(value, form or (".0f" if value >= 100 else ".3g"))
