"""Queries to hits."""

from retrieval.search.hits import Answer, Hit
from retrieval.search.searcher import Searcher

__all__ = ["Answer", "Hit", "Searcher"]
