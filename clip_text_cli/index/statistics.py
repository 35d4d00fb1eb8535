"""``clip-text index stats``: what an index consists of, in numbers and bars."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from clip_text_cli.options import DEFAULT_INDEX, AsJson, IndexPlace, Where
from clip_text_cli.output import err, out, print_json
from clip_text_cli.queries import parse_filter

if TYPE_CHECKING:
    from retrieval.overview import Statistics

SHOWN = 8
"""Of each kind of counts; --json has all."""

_BARS = 12


def stats(
    index_dir: IndexPlace = DEFAULT_INDEX,
    where: Where = None,
    figure: Annotated[
        Path | None, typer.Option(help="Also draw the counts into this file (png, pdf, svg).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count pictures by folder, kind, size, date, caption, and say what metadata there is.

    Examples:
        clip-text index stats --figure stats.png

        clip-text index stats --where 'date >= 2024' --json
    """
    from retrieval.overview import take_statistics

    if figure is not None:
        from clip_text_cli.drawing.figure import check_drawable

        check_drawable(figure)
    told = take_statistics(index_dir, parse_filter(where))
    if figure is not None:
        from clip_text_cli.drawing.counts import draw_counts

        draw_counts(_panels(told), figure, title=f"{told.pictures:,} pictures")
        err.print(f"drawn in {figure}", markup=False, soft_wrap=True)
    if as_json:
        print_json(asdict(told))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(told):
        table.add_row(name, escape(value))
    out.print(table)


def _lines(told: "Statistics") -> Iterator[tuple[str, str]]:
    """Say what was counted, as a name and what is said of it; what there is none of is left out."""
    from retrieval.records import displayed_text

    yield "pictures", f"{told.pictures:,}"
    yield from _counted("folder", told.roots)
    if len(told.folders) > 1:
        yield from _counted("below", {name or "(top)": n for name, n in told.folders.items()})
    yield from _counted("kind", told.kinds)
    if told.file_bytes:
        spread = told.file_bytes
        sizes = (decimal(int(size)) for size in (spread.least, spread.median, spread.most))
        yield "files", f"{decimal(spread.total)}; smallest, median, largest: {', '.join(sizes)}"
    if told.same:
        yield "same", f"{told.same:,} files equal to another (clip-text index duplicates --at 1)"
    yield from _counted("pixels", told.sizes)
    yield from _counted("megapixels", told.megapixels, most=len(told.megapixels))
    yield from _counted("shape", told.shapes)
    if told.first:
        yield "modified", f"{told.first} to {told.last}"
    yield "captions", f"{told.captioned:,} of {told.pictures:,} pictures"
    if told.caption_length:
        length = told.caption_length
        shown = f"{length.least:,} to {length.most:,}, median {length.median:g}"
        yield "characters", f"{shown}, {length.total:,} in all"
    yield from _counted("script", told.scripts)
    for each in told.fields:
        kinds = ", ".join(each.kinds)
        name = displayed_text(each.name)
        yield "field", f"{name}: {each.pictures:,} pictures, {each.values:,} values ({kinds})"
    yield from _features(told)
    for reason, count in list(told.failures.items())[:SHOWN]:
        yield "set aside", f"{count:,}: {reason}"


def _features(told: "Statistics") -> Iterator[tuple[str, str]]:
    if told.features is None:
        return
    of = told.features
    pairs = "" if of.pair_cosine is None else f", of two pictures {of.pair_cosine:.3f}"
    yield "likeness", f"mean cosine to the centroid {of.centroid_cosine:.3f}{pairs}"
    yield "dimensions", f"{of.effective_dimensions:.1f} effective of {of.embed_dim:,}"


def _counted(name: str, counts: Mapping[str, int], most: int = SHOWN) -> Iterator[tuple[str, str]]:
    shown = list(counts.items())[:most]
    for each, count in shown:
        yield name, f"{each} ({count:,})"
    if len(counts) > len(shown):
        yield name, f"and {len(counts) - len(shown):,} more: --json tells all"


def _panels(told: "Statistics") -> dict[str, dict[str, int]]:
    """Choose what is drawn: years where there are many months."""
    years: dict[str, int] = {}
    for month, count in told.months.items():
        years[month[:4]] = years.get(month[:4], 0) + count
    folders = told.folders if len(told.roots) < 2 else told.roots
    panels = {
        "folders": {name or "(top)": count for name, count in folders.items()},
        "kinds of files": told.kinds,
        "megapixels": told.megapixels,
        "shapes": told.shapes,
        "modified": told.months if len(told.months) <= _BARS else years,
        "characters of captions": told.caption_lengths,
        "scripts of captions": told.scripts,
    }
    return {name: _first(counts) for name, counts in panels.items()}


def _first(counts: Mapping[str, int]) -> dict[str, int]:
    """Keep as many bars as are read at a glance; the others are one."""
    if len(counts) <= _BARS:
        return dict(counts)
    kept = dict(list(counts.items())[: _BARS - 1])
    rest = sum(counts.values()) - sum(kept.values())
    return {**kept, f"{len(counts) - len(kept):,} others": rest}
