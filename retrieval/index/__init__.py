"""Vector search behind one Protocol: engines, and the life of an index."""

from retrieval.index.engine import FileIndex, VectorIndex
from retrieval.index.faiss import FaissIndex
from retrieval.index.lifecycle import INDEX_NAME, open_index, sync
from retrieval.index.upkeep import IndexInfo, Verification, describe, verify

__all__ = [
    "INDEX_NAME",
    "FaissIndex",
    "FileIndex",
    "IndexInfo",
    "VectorIndex",
    "Verification",
    "describe",
    "open_index",
    "sync",
    "verify",
]
