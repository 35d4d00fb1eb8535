"""Indexes in PostgreSQL, with the extension pgvector."""

from retrieval.errors import needs

with needs("postgresql", "an index in PostgreSQL"):
    from retrieval.stores.postgresql.store import PostgresStore

__all__ = ["PostgresStore"]
