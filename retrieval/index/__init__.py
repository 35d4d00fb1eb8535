"""Vector search behind one Protocol: engines, and the life of an index."""

from retrieval.index.advisor import Trial, best_of, try_recipes
from retrieval.index.background import BackgroundSealer
from retrieval.index.engine import LocalIndex, VectorIndex
from retrieval.index.lifecycle import (
    compact,
    disown_future,
    follow,
    open_index,
    recipe_of,
    seal_if_due,
    state_of,
    sync,
)
from retrieval.index.recipes import Recipe, choose_recipe
from retrieval.index.sealed import Manifest
from retrieval.index.segmented import SegmentedIndex
from retrieval.index.upkeep import IndexInfo, Verification, describe, verify

__all__ = [
    "BackgroundSealer",
    "IndexInfo",
    "LocalIndex",
    "Manifest",
    "Recipe",
    "SegmentedIndex",
    "Trial",
    "VectorIndex",
    "Verification",
    "best_of",
    "choose_recipe",
    "compact",
    "describe",
    "disown_future",
    "follow",
    "open_index",
    "recipe_of",
    "seal_if_due",
    "state_of",
    "sync",
    "try_recipes",
    "verify",
]
