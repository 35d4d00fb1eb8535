"""Vector search behind one Protocol: engines, and the life of an index."""

from retrieval.index.engine import FileIndex, VectorIndex
from retrieval.index.faiss import FaissIndex
from retrieval.index.lifecycle import INDEX_NAME, open_index, sync

__all__ = ["INDEX_NAME", "FaissIndex", "FileIndex", "VectorIndex", "open_index", "sync"]
