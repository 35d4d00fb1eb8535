"""Queries to hits."""

from retrieval.search.searcher import Answer, Hit, Searcher

__all__ = ["Answer", "Hit", "Searcher"]
