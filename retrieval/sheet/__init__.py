"""Pictures to look at in one: hits, and what looks alike."""

from retrieval.sheet.sheet import SHEET_SUFFIXES, Tile, contact_sheet, draw_tiles

__all__ = ["SHEET_SUFFIXES", "Tile", "contact_sheet", "draw_tiles"]
