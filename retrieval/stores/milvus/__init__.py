"""Indexes on a Milvus server, 2.3 or newer."""

from retrieval.stores.milvus.store import MilvusStore

__all__ = ["MilvusStore"]
