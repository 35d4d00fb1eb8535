"""What a collection's tables are called, and statements that name them."""

import re
from functools import lru_cache

from psycopg import sql

__all__ = ["TABLES", "Names"]

TABLES = {
    "pictures": "",
    "meta": "_meta",
    "features": "_features",
    "field_names": "_field_names",
    "fields": "_fields",
    "words": "_words",
    "recognised": "_recognised",
    "sources": "_sources",
    "source_items": "_source_items",
    "failures": "_failures",
}
"""What stands behind the collection's name in that of each table; 63 bytes, with 48 of it."""

_PSQL = re.compile(r'(?<![:\w]):(?:"(\w+)"|(\w+))')


class Names:
    """The tables of one collection.

    Args:
        name: The collection's: letters, digits and ``_``, 48 at most.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._tables = {table: f"{name}{suffix}" for table, suffix in TABLES.items()}
        self.statement = lru_cache(maxsize=512)(self._statement)
        """Put the tables' names, quoted, in the place of ``{pictures}`` and the like."""

    def __getitem__(self, table: str) -> str:
        """Name a table, one of :data:`TABLES`."""
        return self._tables[table]

    def _statement(self, template: str) -> str:
        quoted = {table: sql.Identifier(name) for table, name in self._tables.items()}
        return sql.SQL(template).format(**quoted).as_string()

    def migration(self, text: str, embed_dim: int) -> str:
        """Put names and numbers in the place of psql's variables.

        Args:
            text: What stands in a file of ``migrations``.
            embed_dim: Width of the collection's features.
        """

        def value(found: re.Match[str]) -> str:
            if found[1]:
                return sql.Identifier(self._tables[found[1]]).as_string()
            return str({"embed_dim": embed_dim}[found[2]])

        # what stands behind -- is for people
        lines = (re.sub(r"\s*--.*", "", line) for line in text.splitlines())
        return _PSQL.sub(value, "\n".join(lines))
