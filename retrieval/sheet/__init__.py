"""Hits as one picture to look at."""

from retrieval.sheet.sheet import contact_sheet

__all__ = ["contact_sheet"]
