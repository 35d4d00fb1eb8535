"""What a transaction is to write, kept here until it ends."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from retrieval.protocols import Feature
from retrieval.records import Failure, Picture, Record
from retrieval.stores.milvus.schema import Stored

__all__ = ["Draft", "Pending"]


@dataclass(slots=True)
class Draft:
    """A picture that is to be written.

    Args:
        picture: What is said of it.
        feature: Its unit row, [embed_dim]; None where the stored one stays.
        is_new: True if nothing is stored in its row.
        source: The data set that it is of.
        has_source: False where what is stored of that stays.
    """

    picture: Picture
    feature: Feature | None
    is_new: bool
    source: str | None = None
    has_source: bool = False


@dataclass(slots=True)
class Pending:
    """What a transaction is to write.

    Args:
        drafts: Pictures, by their rows.
        removed: Rows of pictures that are to go.
        failures: By path; None where one is to be forgotten.
        sources: Names of data sets that items are of.
        said: What the index is to say of itself.
    """

    drafts: dict[int, Draft] = field(default_factory=dict)
    removed: set[int] = field(default_factory=set)
    failures: dict[bytes, Failure | None] = field(default_factory=dict)
    sources: set[str] = field(default_factory=set)
    said: dict[str, str] = field(default_factory=dict)
    _ids: dict[str, set[int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.drafts or self.removed or self.failures or self.sources or self.said)

    def draft(self, row: int, draft: Draft) -> None:
        """Take what is to be in a row."""
        self.drafts[row] = draft
        self._ids.setdefault(draft.picture.image_id, set()).add(row)

    def rows_of(self, image_id: str) -> set[int]:
        """Name the rows that may be written with an id."""
        return self._ids.get(image_id, set())

    def is_new(self, row: int) -> bool:
        """Say whether a row is to be written that is not stored."""
        return row in self.drafts and self.drafts[row].is_new

    def over(
        self,
        stored: Iterable[Stored],
        is_asked: Callable[[Record], bool],
        rows: Iterable[int] | None = None,
    ) -> list[Stored]:
        """Put what is to be written over what was read.

        Args:
            stored: Read from the server.
            is_asked: Says whether a picture is one of those that were asked for.
            rows: Those that may be asked for; all if not given.

        Returns:
            In the order of their rows.
        """
        there = {one.record.row: one for one in stored if one.record.row not in self.removed}
        for row in self.drafts if rows is None else rows:
            if (draft := self.drafts.get(row)) is None:
                continue
            before = there.pop(row, None)
            record = Record(row, draft.picture)
            if is_asked(record):
                source = before.source if before else None
                if draft.has_source:
                    source = draft.source
                feature = before.feature if before else None
                if draft.feature is not None:
                    feature = draft.feature.astype("<f2")
                there[row] = Stored(record, source, feature)
        return [there[row] for row in sorted(there)]
