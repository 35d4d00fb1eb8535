"""Queries to hits."""

from retrieval.search.hits import Answer, Hit
from retrieval.search.hybrid import Blend
from retrieval.search.paging import Ranking
from retrieval.search.query import LikeTerm, PictureTerm, Query, TextTerm
from retrieval.search.relevance import Calibration
from retrieval.search.searcher import Searcher

__all__ = [
    "Answer",
    "Blend",
    "Calibration",
    "Hit",
    "LikeTerm",
    "PictureTerm",
    "Query",
    "Ranking",
    "Searcher",
    "TextTerm",
]
