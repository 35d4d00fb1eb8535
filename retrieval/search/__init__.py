"""Queries to hits."""

from retrieval.search.relevance import Calibration
from retrieval.search.searcher import Answer, Hit, Searcher

__all__ = ["Answer", "Calibration", "Hit", "Searcher"]
