"""A picture of search results: one row of thumbnails per query."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from retrieval.pictures import open_thumbnail
from retrieval.search import Hit
from retrieval.sheet.fonts import Face, find_font

__all__ = ["contact_sheet", "find_font"]

_MARGIN = 36
_GAP = 20
_RADIUS = 14
_CAPTION_LINES = 2
_LONGEST_SIDE = 65_000  # pixels; JPEG ends at 65,535

_PAPER = "white"
_INK = "#1a1c20"
_FAINT = "#6a6f78"
_TILE = "#f3f4f6"
_FRAME = "#e2e5e9"
_MISSING = "#d5d8dd"


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

    A picture that is gone or cannot be read is a grey tile with its name.

    Args:
        groups: Queries with their hits, best first.
        out: The file to write; PNG, JPEG or WebP by its extension.
        columns: Thumbnails side by side at most; more go on in another row.
        tile: Width and height of a thumbnail, in pixels.
        font: A font file; by default one that can write Chinese, see :func:`find_font`.

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
    if out.suffix.lower() not in {".png", ".jpg", ".jpeg", ".webp"}:
        raise ValueError(f"expected a name ending in .png, .jpg or .webp, got {out.name}.")
    style = _style(groups, columns, tile, font or find_font())
    width = 2 * _MARGIN + style.across * (tile + _GAP) - _GAP
    heights = [_group_height(len(hits), style) for _, hits in groups]
    height = 2 * _MARGIN + sum(heights) - _GAP
    if max(width, height) > _LONGEST_SIDE:
        raise ValueError(
            f"expected a sheet of at most {_LONGEST_SIDE} pixels a side, got {width} x {height}. "
            "Draw fewer queries or hits, or smaller tiles."
        )
    sheet = Image.new("RGB", (width, height), _PAPER)
    top = _MARGIN
    for (query, hits), group_height in zip(groups, heights, strict=True):
        _draw_group(sheet, top, style, query, hits)
        top += group_height
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)


def _style(
    groups: Sequence[tuple[str, Sequence[Hit]]], columns: int, tile: int, font: Path | None
) -> _Style:
    return _Style(
        tile,
        across=max(1, min(columns, max(len(hits) for _, hits in groups))),
        query=Face(font, round(tile * 0.12)),
        score=Face(font, round(tile * 0.08)),
        caption=Face(font, round(tile * 0.07)),
    )


def _group_height(hits: int, style: _Style) -> int:
    rows = -(-hits // style.across)
    return style.query_height + (rows * style.cell_height if rows else style.query_height)


def _draw_group(
    sheet: Image.Image, top: int, style: _Style, query: str, hits: Sequence[Hit]
) -> None:
    pen = ImageDraw.Draw(sheet)
    for line in style.query.wrapped(query, sheet.width - 2 * _MARGIN, 1):
        pen.text((_MARGIN, top), line, _INK, style.query.font)
    top += style.query_height
    if not hits:
        pen.text((_MARGIN, top), "no hits", _FAINT, style.score.font)
    for i, hit in enumerate(hits):
        row, column = divmod(i, style.across)
        corner = (_MARGIN + column * (style.tile + _GAP), top + row * style.cell_height)
        _draw_hit(sheet, corner, style, hit)


def _draw_hit(sheet: Image.Image, corner: tuple[int, int], style: _Style, hit: Hit) -> None:
    left, top = corner
    sheet.paste(_tile(hit, style), corner, _rounded(style.tile))
    pen = ImageDraw.Draw(sheet)
    frame = (left, top, left + style.tile - 1, top + style.tile - 1)
    pen.rounded_rectangle(frame, _RADIUS, outline=_FRAME)  # a white picture ends somewhere, too
    top += style.tile + round(style.tile * 0.02)
    pen.text((left, top), f"{hit.score:.3f}", _INK, style.score.font)
    top += style.score_height
    for line in style.caption.wrapped(hit.caption or hit.image_id, style.tile, _CAPTION_LINES):
        pen.text((left, top), line, _FAINT, style.caption.font)
        top += style.line_height


def _tile(hit: Hit, style: _Style) -> Image.Image:
    """Draw the thumbnail in the middle of a square."""
    side = style.tile
    picture = open_thumbnail(hit.path, (side, side)) if hit.path else None
    if picture is None:
        return _missing_tile(hit.image_id, style)
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
