"""Indexes in PostgreSQL, with the extension pgvector."""

from retrieval.stores.postgresql.store import PostgresStore

__all__ = ["PostgresStore"]
