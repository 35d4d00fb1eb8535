"""Filters: what must hold of a picture for a search to consider it.

A tree (``tree``), its two written forms (``json_form`` for programs, ``language`` for people), and
what it means (``matching``, over the ``values`` of a picture's fields). ``language`` is imported by
those who read it only: the parser behind it takes a moment to load.
"""

from retrieval.filters.json_form import filter_as_json, filter_from_json
from retrieval.filters.matching import matches
from retrieval.filters.tree import (
    OWN_FIELDS,
    And,
    Compare,
    Exists,
    Filter,
    In,
    Not,
    Or,
    Prefix,
    Scalar,
)

__all__ = [
    "OWN_FIELDS",
    "And",
    "Compare",
    "Exists",
    "Filter",
    "In",
    "Not",
    "Or",
    "Prefix",
    "Scalar",
    "filter_as_json",
    "filter_from_json",
    "matches",
]
