"""Which data set each item came from; see :class:`~retrieval.catalogue.sources.Sources`."""

from collections.abc import Callable, Iterable

from retrieval.stores.milvus.collection import Collection
from retrieval.stores.milvus.keys import hash_of
from retrieval.stores.milvus.pending import Pending
from retrieval.stores.milvus.schema import RECORD_FIELDS, SOURCE, Stored, as_record

__all__ = ["MilvusSources"]


class MilvusSources:
    """The data sets whose pictures are items of a collection, by name.

    Args:
        collection: Whose pictures.
        pending: Gives what the transaction at work is to write; None outside of one.
        draft: Gives rows of pictures that are to be written again.
        fetch: Reads pictures by their rows, those to be written included.
    """

    def __init__(
        self,
        collection: Collection,
        pending: Callable[[], Pending | None],
        draft: Callable[[Stored, str], None],
        fetch: Callable[[Iterable[int]], list[Stored]],
    ) -> None:
        self._collection = collection
        self._pending = pending
        self._draft = draft
        self._fetch = fetch
        self._seen: set[int] = set()

    def counts(self) -> dict[str, int]:
        """Count the items of each data set, by its name, in the order of the names."""
        with self._collection.held():
            notes = self._collection.notes(f"kind == {SOURCE}", ["row", "content"])
            names = {str(note["content"]["name"]) for note in notes}
            pending = self._pending()
            if pending is not None:
                names |= pending.sources
                counts = {name: len(self.rows(name)) for name in sorted(names)}
            else:
                counts = {name: self._collection.count(_items_of(name)) for name in sorted(names)}
        return {name: count for name, count in counts.items() if count}

    def of(self, row: int) -> str | None:
        """Name the data set that an item is of; None if it is of none."""
        found = self._fetch([row])
        return found[0].source if found else None

    def rows(self, name: str) -> list[int]:
        """Read the rows of a data set's items, ascending."""
        pending = self._pending()
        if pending is None:
            pages = self._collection.pages(_items_of(name), ["row"])
            return [int(entity["row"]) for page in pages for entity in page]
        stored = map(as_record, self._collection.entities(_items_of(name), RECORD_FIELDS))
        both = pending.over(stored, lambda _: True)
        return [one.record.row for one in both if one.source == name]

    def assign(self, row: int, name: str) -> None:
        """Note, inside a transaction, that an item is of a data set, and that it was seen there."""
        pending = self._pending()
        assert pending is not None
        pending.sources.add(name)
        self._seen.add(row)
        for stored in self._fetch([row]):
            if stored.source != name:
                self._draft(stored, name)

    def is_seen(self, row: int) -> bool:
        """Say whether :meth:`assign` named an item since the store was opened."""
        return row in self._seen

    def unseen(self, name: str) -> list[int]:
        """Read the rows of a data set's items that no :meth:`assign` named, ascending."""
        return [row for row in self.rows(name) if row not in self._seen]


def _items_of(name: str) -> str:
    return f"source_hash == {hash_of(name.encode())}"
