"""Indexes on a Milvus server."""

from retrieval.errors import needs

with needs("milvus", "an index on Milvus"):
    from retrieval.stores.milvus.store import MilvusStore

__all__ = ["MilvusStore"]
