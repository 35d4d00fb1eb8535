"""Pictures with captions, from whichever format they lie in, and the batches drawn from them."""

from clip_text.data.collection import RetrievalSet, Text, retrieval_set
from clip_text.data.readers import read_retrieval_set

__all__ = ["RetrievalSet", "Text", "read_retrieval_set", "retrieval_set"]
