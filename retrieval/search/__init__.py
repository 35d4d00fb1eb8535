"""Queries to hits."""

from retrieval.search.hybrid import Blend
from retrieval.search.searcher import Answer, Hit, Searcher

__all__ = ["Answer", "Blend", "Hit", "Searcher"]
