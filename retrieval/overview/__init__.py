"""A collection as a whole: what is there more than once, what lies near what, and statistics."""

from retrieval.overview.duplicates import ALIKE, Copy, Duplicates, Group, find_duplicates
from retrieval.overview.layout import PictureMap, map_pictures
from retrieval.overview.statistics import Statistics, take_statistics

__all__ = [
    "ALIKE",
    "Copy",
    "Duplicates",
    "Group",
    "PictureMap",
    "Statistics",
    "find_duplicates",
    "map_pictures",
    "take_statistics",
]
