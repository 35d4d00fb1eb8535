"""Which data set each item of a collection came from."""

from collections.abc import Callable

from retrieval.stores.postgresql.ahead import ItemsAhead
from retrieval.stores.postgresql.look import Read
from retrieval.stores.postgresql.names import Names

__all__ = ["PostgresSources"]


class PostgresSources:
    """See :class:`~retrieval.catalogue.store.StoreSources`.

    Args:
        names: The collection's tables.
        read: Has a statement select.
    """

    def __init__(self, names: Names, read: Read) -> None:
        self._names = names
        self._read = read
        self.note: Callable[[int, str], None] | None = None
        """Notes, inside a transaction, that an item is of a data set; of who may write."""
        self.is_noted: Callable[[int], bool] = lambda _: False
        """Says whether a row was named since the store was opened."""
        self.ahead: ItemsAhead | None = None
        """What was read of items that are written to."""

    def counts(self) -> dict[str, int]:
        """Count the items of each data set, by its name, in the order of the names."""
        sql = (
            "SELECT s.name, count(*) FROM {sources} s JOIN {source_items} USING (source) "
            "GROUP BY s.source ORDER BY s.name"
        )
        return dict(self._read(sql))

    def of(self, row: int) -> str | None:
        """Name the data set that an item is of; None if it is of none."""
        if self.ahead is not None and self.ahead.knows(row):
            return self.ahead.owner(row)
        sql = "SELECT s.name FROM {source_items} JOIN {sources} s USING (source) WHERE row = %s"
        selected = self._read(sql, (row,), row)
        return str(selected[0][0]) if selected else None

    def rows(self, name: str) -> list[int]:
        """Read the rows of a data set's items, ascending."""
        sql = (
            "SELECT row FROM {source_items} JOIN {sources} s USING (source) WHERE s.name = %s "
            "ORDER BY row"
        )
        return [row for (row,) in self._read(sql, (name,))]

    def assign(self, row: int, name: str) -> None:
        """Note, inside a transaction, that an item is of a data set, and that it was seen there."""
        assert self.note is not None
        self.note(row, name)

    def is_seen(self, row: int) -> bool:
        """Say whether :meth:`assign` named an item since the store was opened."""
        return self.is_noted(row)

    def unseen(self, name: str) -> list[int]:
        """Read the rows of a data set's items that no :meth:`assign` named, ascending."""
        return [row for row in self.rows(name) if not self.is_noted(row)]
