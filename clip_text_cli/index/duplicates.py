"""``clip-text index duplicates``: what is in an index more than once."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from clip_text_cli.hits import printable
from clip_text_cli.options import DEFAULT_INDEX, AsJson, IndexPlace, Where
from clip_text_cli.output import check_sheet, err, named_bars, out, print_json
from clip_text_cli.queries import parse_filter

if TYPE_CHECKING:
    from retrieval.overview import Copy, Duplicates, Group
    from retrieval.records import Record
    from retrieval.sheet import Tile

SHOWN_GROUPS = 20
DRAWN_GROUPS = 100
DRAWN_PICTURES = 8
"""Of one group."""


def duplicates(
    index_dir: IndexPlace = DEFAULT_INDEX,
    at: Annotated[
        float | None,
        typer.Option(
            metavar="COSINE",
            help="How alike features are at least: above 0; 1 for equal ones; else 0.9.",
        ),
    ] = None,
    where: Where = None,
    features_only: Annotated[
        bool,
        typer.Option(
            "--features-only",
            help="Open no file: likeness is that of features, 0.95 at least. Quicker, less sure.",
        ),
    ] = False,
    sheet: Annotated[
        Path | None, typer.Option(help="Also draw the groups into this file (png, jpg).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Group pictures that are the same or look alike, the one to keep first. Deletes nothing.

    Each picture that could go looks like the one that would stay, in its features and in its
    pixels; that one has most pixels, then most bytes, then is the oldest. Look at them (--sheet)
    before you delete any.

    Examples:
        clip-text index duplicates --sheet duplicates.png

        clip-text index duplicates --at 1 --where 'folder startswith "2024"' --json
    """
    from retrieval.overview import ALIKE, find_duplicates

    check_sheet(sheet)
    with named_bars() as progress:
        found = find_duplicates(
            index_dir,
            ALIKE if at is None else at,
            parse_filter(where),
            pixels=not features_only,
            on_progress=progress,
        )
    if sheet is not None and found.groups:
        _draw(found, sheet)
    if as_json:
        print_json(_as_json(found))
        return
    if found.groups:
        out.print(_table(found.groups[:SHOWN_GROUPS]))
    if len(found.groups) > SHOWN_GROUPS:
        out.print(f"and {len(found.groups) - SHOWN_GROUPS:,} more groups: --json tells all")
    out.print(
        f"{found.extra_pictures:,} of {found.pictures:,} pictures could go, "
        f"{decimal(found.extra_bytes)} ({found.extra_bytes:,} bytes), from {len(found.groups):,} "
        f"groups at {found.at:g}",
        soft_wrap=True,
    )
    if found.gone:
        err.print(
            f"{len(found.gone):,} of these files are missing, and were left out. Index the folder "
            "they are in now, or, if they are gone for good, again the one they were in.",
            soft_wrap=True,
        )
    if found.changed:
        err.print(
            f"{len(found.changed):,} of these files were written since they were indexed, and were "
            "left out. Index them again.",
            soft_wrap=True,
        )
    if sheet is not None and found.groups:
        err.print(f"drawn in {sheet}", markup=False, soft_wrap=True)


def _table(groups: "list[Group]") -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("", "likeness", "pixels", "bytes"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    table.add_column("path", overflow="fold")
    for group in groups:
        table.add_row("keep", "", *_size(group.best), escape(_name(group.best)))
        for copy in group.copies:
            table.add_row("", _likeness(copy), *_size(copy.record), escape(_name(copy.record)))
        table.add_section()
    return table


def _likeness(copy: "Copy") -> str:
    return "same file" if copy.is_same else f"{copy.cosine:.3f}"


def _size(record: "Record") -> tuple[str, str]:
    """Pixels and bytes of a picture, as far as they are known."""
    picture = record.picture
    known = picture.width is not None and picture.height is not None
    size = "" if picture.size is None else decimal(picture.size)
    return f"{picture.width}×{picture.height}" if known else "", size


def _name(record: "Record") -> str:
    return printable(record.path) if record.path else record.picture.image_id


def _as_json(found: "Duplicates") -> dict[str, Any]:
    return {
        "at": found.at,
        "pictures": found.pictures,
        "could_go": {"pictures": found.extra_pictures, "bytes": found.extra_bytes},
        "missing": [_name(record) for record in found.gone],
        "changed": [_name(record) for record in found.changed],
        "groups": [
            {
                "keep": _record_as_json(group.best),
                "copies": [
                    {
                        **_record_as_json(copy.record),
                        "cosine": copy.cosine,
                        "same_file": copy.is_same,
                    }
                    for copy in group.copies
                ],
                "bytes": group.extra_bytes,
            }
            for group in found.groups
        ],
    }


def _record_as_json(record: "Record") -> dict[str, Any]:
    picture = record.picture
    return {
        "image_id": picture.image_id,
        "path": printable(record.path) if record.path else None,
        "width": picture.width,
        "height": picture.height,
        "bytes": picture.size,
    }


def _draw(found: "Duplicates", sheet: Path) -> None:
    from retrieval.sheet import draw_tiles

    groups = [(_title(group), list(_tiles(group))) for group in found.groups[:DRAWN_GROUPS]]
    draw_tiles(groups, sheet, side_by_side=True)
    if left_out := len(found.groups) - len(groups):
        err.print(f"{left_out:,} groups, those with least to gain, are not drawn")


def _title(group: "Group") -> str:
    return f"{len(group.copies) + 1:,} pictures, {decimal(group.extra_bytes)} could go"


def _tiles(group: "Group") -> "Iterator[Tile]":
    from retrieval.sheet import Tile

    told = [("keep", group.best), *((_likeness(copy), copy.record) for copy in group.copies)]
    for likeness, record in told[:DRAWN_PICTURES]:
        line = " ".join([likeness.removesuffix(" file"), *_size(record)])
        name = record.picture.image_id
        yield Tile(record.path, line, name, name)
