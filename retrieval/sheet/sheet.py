"""Pictures of pictures: thumbnails in groups, one for each query, or of what looks alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from retrieval.pictures import open_thumbnail
from retrieval.search import Hit
from retrieval.sheet.fonts import Face, find_font

__all__ = ["SHEET_SUFFIXES", "Tile", "contact_sheet", "draw_tiles", "find_font"]

SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Endings of the files that sheets are written into."""

_MARGIN = 36
_GAP = 20
_RADIUS = 14
_CAPTION_LINES = 2
_LONGEST_SIDE = 65_000  # pixels; JPEG ends at 65,535

_Place = tuple[int, int, int]
"""Of a group its first column, its top in pixels, and how many columns it takes."""

_PAPER = "white"
_INK = "#1a1c20"
_FAINT = "#6a6f78"
_TILE = "#f3f4f6"
_FRAME = "#e2e5e9"
_MISSING = "#d5d8dd"


@dataclass(frozen=True, slots=True)
class Tile:
    """A thumbnail, and what stands below it.

    Args:
        path: The picture; None for one without a file.
        line: What is said of it, on one line.
        text: What is said below that, on two.
        name: Stands in the place of a picture that cannot be shown.
    """

    path: Path | None
    line: str
    text: str
    name: str


@dataclass(frozen=True, slots=True)
class _Style:
    """Faces and measures in pixels, all following from the size of a tile."""

    tile: int
    across: int
    query: Face
    score: Face
    caption: Face

    @property
    def query_height(self) -> int:
        return round(self.tile * 0.22)

    @property
    def score_height(self) -> int:
        return round(self.tile * 0.13)

    @property
    def line_height(self) -> int:
        return round(self.tile * 0.1)

    @property
    def cell_height(self) -> int:
        """Of a tile with what is written below it, and the gap to the next."""
        return self.tile + self.score_height + _CAPTION_LINES * self.line_height + _GAP


def contact_sheet(
    groups: Sequence[tuple[str, Sequence[Hit]]],
    out: Path,
    *,
    columns: int = 8,
    tile: int = 200,
    font: Path | None = None,
) -> None:
    """Draw the hits of some queries: thumbnails with score and caption under each query.

    Args:
        groups: Queries with their hits, best first.
        out: See :func:`draw_tiles`, as for the others.
        columns: Thumbnails side by side at most.
        tile: Width and height of a thumbnail, in pixels.
        font: A font file.

    Raises:
        ValueError: See :func:`draw_tiles`.
        OSError: If the file cannot be written.
    """
    tiles = [(query, [_tile_of(hit) for hit in hits]) for query, hits in groups]
    draw_tiles(tiles, out, columns=columns, tile=tile, font=font)


def draw_tiles(
    groups: Sequence[tuple[str, Sequence[Tile]]],
    out: Path,
    *,
    columns: int = 8,
    tile: int = 200,
    font: Path | None = None,
    side_by_side: bool = False,
) -> None:
    """Draw groups of thumbnails, a title above each group.

    A picture that is gone or cannot be read is a grey tile with its name.

    Args:
        groups: Titles with their tiles, in order.
        out: The file to write; PNG, JPEG or WebP by its extension.
        columns: Thumbnails side by side at most; more go on in another row.
        tile: Width and height of a thumbnail, in pixels.
        font: A font file; by default one that can write Chinese, see :func:`find_font`.
        side_by_side: Put small groups beside each other, where they fit into the columns.

    Raises:
        ValueError: If there are no groups, too many for one picture, or the extension is
            of no such format.
        OSError: If the file cannot be written.
    """
    if not groups or columns < 1 or tile < 32:
        raise ValueError(
            f"expected at least one query, one column and tiles of 32 pixels, got {len(groups)}, "
            f"{columns} and {tile}."
        )
    if out.suffix.lower() not in SHEET_SUFFIXES:
        raise ValueError(f"expected a name ending in .png, .jpg or .webp, got {out.name}.")
    sizes = [len(tiles) for _, tiles in groups]
    style = _style(sizes, columns, tile, font or find_font(), side_by_side=side_by_side)
    places, bottom = _placed(sizes, style, side_by_side=side_by_side)
    width = 2 * _MARGIN + style.across * (tile + _GAP) - _GAP
    height = bottom + _MARGIN - _GAP
    if max(width, height) > _LONGEST_SIDE:
        raise ValueError(
            f"expected a sheet of at most {_LONGEST_SIDE} pixels a side, got {width} x {height}. "
            "Draw fewer queries or hits, or smaller tiles."
        )
    sheet = Image.new("RGB", (width, height), _PAPER)
    for (title, tiles), place in zip(groups, places, strict=True):
        _draw_group(sheet, place, style, title, tiles)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)


def _tile_of(hit: Hit) -> Tile:
    return Tile(hit.path, f"{hit.score:.3f}", hit.caption or hit.image_id, hit.image_id)


def _style(
    sizes: Sequence[int], columns: int, tile: int, font: Path | None, *, side_by_side: bool
) -> _Style:
    most = sum(sizes) if side_by_side else max(sizes)
    return _Style(
        tile,
        across=max(1, min(columns, most)),
        query=Face(font, round(tile * 0.12)),
        score=Face(font, round(tile * 0.08)),
        caption=Face(font, round(tile * 0.07)),
    )


def _placed(sizes: Sequence[int], style: _Style, *, side_by_side: bool) -> tuple[list[_Place], int]:
    """Place groups below each other, or beside each other where that is wanted and they fit.

    Returns:
        Their places, and where the next group would begin, in pixels.
    """
    places: list[_Place] = []
    column, top, below = 0, _MARGIN, _MARGIN
    for size in sizes:
        across = max(1, min(size, style.across)) if side_by_side else style.across
        if not side_by_side or column + across > style.across:
            column, top = 0, below
        places.append((column, top, across))
        column += across
        below = max(below, top + _group_height(size, across, style))
    return places, below


def _group_height(size: int, across: int, style: _Style) -> int:
    rows = -(-size // across)
    return style.query_height + (rows * style.cell_height if rows else style.query_height)


def _draw_group(
    sheet: Image.Image,
    place: _Place,
    style: _Style,
    title: str,
    tiles: Sequence[Tile],
) -> None:
    pen = ImageDraw.Draw(sheet)
    column, top, across = place
    step = style.tile + _GAP
    left = _MARGIN + column * step
    for line in style.query.wrapped(title, across * step - _GAP, 1):
        pen.text((left, top), line, _INK, style.query.font)
    top += style.query_height
    if not tiles:
        pen.text((left, top), "no hits", _FAINT, style.score.font)
    for i, tile in enumerate(tiles):
        row, beside = divmod(i, across)
        _draw_tile(sheet, (left + beside * step, top + row * style.cell_height), style, tile)


def _draw_tile(sheet: Image.Image, corner: tuple[int, int], style: _Style, tile: Tile) -> None:
    left, top = corner
    sheet.paste(_square(tile, style), corner, _rounded(style.tile))
    pen = ImageDraw.Draw(sheet)
    frame = (left, top, left + style.tile - 1, top + style.tile - 1)
    pen.rounded_rectangle(frame, _RADIUS, outline=_FRAME)  # a white picture ends somewhere, too
    top += style.tile + round(style.tile * 0.02)
    for line in style.score.wrapped(tile.line, style.tile, 1):
        pen.text((left, top), line, _INK, style.score.font)
    top += style.score_height
    for line in style.caption.wrapped(tile.text, style.tile, _CAPTION_LINES):
        pen.text((left, top), line, _FAINT, style.caption.font)
        top += style.line_height


def _square(tile: Tile, style: _Style) -> Image.Image:
    """Draw the thumbnail in the middle of a square."""
    side = style.tile
    picture = open_thumbnail(tile.path, (side, side)) if tile.path else None
    if picture is None:
        return _missing_tile(tile.name, style)
    square = Image.new("RGB", (side, side), _TILE)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def _missing_tile(name: str, style: _Style) -> Image.Image:
    square = Image.new("RGB", (style.tile, style.tile), _MISSING)
    pen = ImageDraw.Draw(square)
    lines = style.caption.wrapped(name, style.tile - 2 * _GAP, 4)
    top = (style.tile - len(lines) * style.line_height) // 2
    for i, line in enumerate(lines):
        left = (style.tile - style.caption.width(line)) / 2
        pen.text((left, top + i * style.line_height), line, _INK, style.caption.font)
    return square


def _rounded(side: int) -> Image.Image:
    """Draw a mask with smooth round corners."""
    fine = 4
    mask = Image.new("L", (fine * side, fine * side), 0)
    box = (0, 0, fine * side - 1, fine * side - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, fine * _RADIUS, 255)
    return mask.resize((side, side), Image.Resampling.LANCZOS)
