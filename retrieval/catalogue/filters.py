"""Filters → rows, and counts of values: sets of rows as bitmaps, joined outside SQL.

What a condition selects is kept until anything is written, so that filters with conditions in
common cost what is new in them; so are counts, which a page asks for again and again. Deep filters
are no deep statements.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from retrieval.catalogue.conditions import (
    ALL,
    COLUMNS,
    Statement,
    check_field,
    check_leaf,
    having,
    statements_of,
)
from retrieval.catalogue.connection import Connection
from retrieval.catalogue.fields import has_fields
from retrieval.filters.matching import FieldsOf
from retrieval.filters.tree import (
    And,
    Compare,
    Filter,
    Leaf,
    Not,
    Or,
    Scalar,
    check_counting,
    check_size,
    leaves_of,
)
from retrieval.filters.values import KINDS, NUMBER, TEXT, Value, as_scalar, shown_name, stored_name
from retrieval.protocols import Rows
from retrieval.records import Picture

__all__ = ["Facet", "Field", "Filters"]

_Bitmap = NDArray[np.uint8]
"""A bit for each row from 0 on, the first of eight in the lowest place."""

_PAGE = 1024  # pictures
_KEPT_BYTES = 64 << 20
_KEPT_COUNTS = 256  # fields under a filter, of so many values as were asked for
_KINDS = """
    SELECT field, field_names.name, held.column1 FROM field_names, (VALUES (0), (1), (2), (3)) held
    WHERE EXISTS (
        SELECT 1 FROM fields WHERE fields.name = field_names.name AND kind = held.column1
    )
"""


@dataclass(frozen=True, slots=True)
class Facet:
    """A value of a field, and how many pictures have it."""

    value: Scalar
    count: int


@dataclass(frozen=True, slots=True)
class Field:
    """A field of metadata, and what there is of it.

    Args:
        name: As filters call it.
        kinds: What its values are: texts, numbers, true and false, null.
        pictures: How many have it.
        values: How many different values they have.
    """

    name: str
    kinds: tuple[str, ...]
    pictures: int
    values: int


class Filters:
    """Selects pictures of a catalogue by what is said of them.

    Safe to use from several threads; each call sees one moment of the catalogue.

    Args:
        connection: To the catalogue's file.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._version: tuple[int, int] | None = None
        self._known: dict[str, set[int]] = {}  # the kinds of each field's values
        self._names: dict[str, int] = {}
        self._has_table = False  # a catalogue that nobody has written to since has none
        self._size = 0  # of a bitmap, in bits
        self._kept: OrderedDict[Statement, _Bitmap] = OrderedDict()
        self._kept_bytes = 0
        self._counted: LRUCache[tuple[str, str, int], list[Facet]] = LRUCache(_KEPT_COUNTS)

    def rows(self, where: Filter) -> Rows:
        """Read which pictures a filter holds of.

        Args:
            where: What must hold; :func:`~retrieval.filters.matches` says what it means.

        Returns:
            Their rows, ascending, int64 [n].

        Raises:
            QueryError: If the filter is too large, no picture has a field that it names, or a
                field has no values of the kind that it is compared with.
        """
        check_size(where)
        with self._connection.snapshot():
            self._look()
            return np.flatnonzero(_flags(self._select(where)))

    def facets(self, field: str, where: Filter | None = None, limit: int = 20) -> list[Facet]:
        """Count how many pictures have each value of a field.

        Args:
            field: As in filters; of ``date``, years in UTC are counted.
            where: Counts only the pictures that this holds of.
            limit: How many values at most.

        Returns:
            The commonest values first; those of one count by kind (null, true and false,
            numbers, texts) and value.

        Raises:
            QueryError: As for :meth:`rows`, or if the limit is below 1.
        """
        check_counting(where, limit)
        with self._connection.snapshot():
            self._look()
            name = field, repr(where), limit  # 1, 1.0 and true are equal, but not as text
            if (counted := self._counted.get(name)) is None:
                check_field(field, self._known)
                among = None if where is None else _flags(self._select(where))
                counts = self._count(field, among)
                best = sorted(counts.items(), key=lambda counted: (-counted[1], counted[0]))
                counted = [Facet(as_scalar(*value), count) for value, count in best[:limit]]
                self._counted[name] = counted
            return list(counted)

    def check(self, field: str) -> None:
        """Refuse a field that no picture has.

        Raises:
            QueryError: If so; the message names similar fields, or those that there are.
        """
        with self._connection.snapshot():
            self._look()
            check_field(field, self._known)

    def fields(self, where: Filter | None = None) -> list[Field]:
        """Tell which fields of metadata there are; every picture has others beside them.

        Args:
            where: Looks only at the pictures that this holds of.

        Returns:
            In the order of their names; those that none of the pictures has are left out.

        Raises:
            QueryError: As for :meth:`rows`.
        """
        if where is not None:
            check_size(where)
        with self._connection.snapshot():
            self._look()
            among = None if where is None else _flags(self._select(where))
            fields = [self._field(name, among) for name in sorted(self._known)]
        return [field for field in fields if field.pictures]

    # All that follows inside the snapshot of the above

    def _field(self, stored: str, among: NDArray[np.bool_] | None) -> Field:
        name = shown_name(stored)
        have = np.zeros(self._size, np.bool_)
        values: set[Value] = set()
        for value, rows in self._rows_by_value(name):
            held = rows if among is None else rows[among[rows]]
            if len(held):
                values.add(value)
                have[held] = True
        kinds = tuple(KINDS[kind] for kind in sorted({kind for kind, _ in values}))
        return Field(name, kinds, int(np.count_nonzero(have)), len(values))

    def _look(self) -> None:
        """See whether anything was written since; what is kept of before is void then."""
        (by_others,) = self._connection.read("PRAGMA data_version")[0]
        version = (by_others, self._connection.db.total_changes)
        if version == self._version:
            return
        self._kept.clear()
        self._kept_bytes = 0
        self._counted.clear()
        self._size = 1 + (self._connection.read("SELECT max(row) FROM images")[0][0] or 0)
        self._known, self._names = {}, {}
        self._has_table = has_fields(self._connection.db)
        if self._has_table:
            for field, name, kind in self._connection.read(_KINDS):
                self._known.setdefault(field, set()).add(kind)
                self._names[field] = name
        else:
            for _, fields in self._all_fields():
                for field, values in fields.metadata.items():
                    self._known.setdefault(field, set()).update(kind for kind, _ in values)
        self._version = version

    def _select(self, where: Filter) -> _Bitmap:
        for leaf in leaves_of(where):
            check_leaf(leaf, self._known)
        if self._has_table:
            return self._join(where)
        held = [row for row, fields in self._all_fields() if fields.satisfy(where)]
        return self._pack(np.array(held, np.int64))

    def _join(self, where: Filter) -> _Bitmap:
        """Work a filter out, condition by condition."""
        if isinstance(where, Not):
            return self._fetch(ALL) & ~self._join(where.operand)
        if isinstance(where, And | Or):
            joined = self._join(where.operands[0])
            for operand in where.operands[1:]:
                other = self._join(operand)
                joined = joined & other if isinstance(where, And) else joined | other
            return joined
        return self._join_leaf(where)

    def _join_leaf(self, leaf: Leaf) -> _Bitmap:
        if isinstance(leaf, Compare) and leaf.op == "!=":
            equal = self._join_leaf(Compare(leaf.field, "=", leaf.value))
            return self._fetch(having(leaf.field, self._names)) & ~equal
        joined = self._pack(np.empty(0, np.int64))
        for statement in statements_of(leaf, self._names):
            joined |= self._fetch(statement)
        return joined

    def _fetch(self, statement: Statement) -> _Bitmap:
        """Give what a statement selects, from what is kept or from the catalogue."""
        bitmap = self._kept.get(statement)
        if bitmap is None:
            ((rows,),) = self._connection.read(statement.sql, statement.values)
            bitmap = self._kept[statement] = self._pack(_numbers(rows))
            self._kept_bytes += bitmap.nbytes
        self._kept.move_to_end(statement)
        while self._kept_bytes > _KEPT_BYTES and len(self._kept) > 1:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return bitmap

    def _pack(self, rows: Rows) -> _Bitmap:
        flags = np.zeros(self._size, np.bool_)
        flags[rows] = True
        return np.packbits(flags, bitorder="little")

    def _count(self, field: str, among: NDArray[np.bool_] | None) -> Counter[Value]:
        """Count pictures by the values of a field."""
        counts: Counter[Value] = Counter()
        for value, rows in self._rows_by_value(field):
            count = len(rows) if among is None else int(np.count_nonzero(among[rows]))
            if count:
                counts[value] += count
        return counts

    def _rows_by_value(self, field: str) -> Iterator[tuple[Value, Rows]]:
        if field == "date":
            sql = (
                "SELECT group_concat(mtime_ns), group_concat(row) FROM images "
                "WHERE mtime_ns IS NOT NULL"
            )
            (moments, rows) = map(_numbers, self._connection.read(sql)[0])
            years = moments.view("datetime64[ns]").astype("datetime64[Y]").astype(np.int64)
            for year in np.unique(years).tolist():
                yield (NUMBER, year + 1970), rows[years == year]
        elif column := COLUMNS.get(field):
            kind = NUMBER if field in {"width", "height"} else TEXT
            sql = (
                f"SELECT {column}, group_concat(row) FROM images "  # noqa: S608
                f"WHERE {column} IS NOT NULL GROUP BY 1"
            )
            for value, rows in self._connection.read(sql):
                yield (kind, value), _numbers(rows)
        elif self._has_table:
            sql = "SELECT kind, value, group_concat(row) FROM fields WHERE name = ? GROUP BY 1, 2"
            name = self._names[stored_name(field) or ""]
            for kind, value, rows in self._connection.read(sql, (name,)):
                yield (kind, value), _numbers(rows)
        else:
            for row, fields in self._all_fields():
                for found in fields.values(field):
                    yield found, np.array([row], np.int64)

    def _all_fields(self) -> Iterator[tuple[int, FieldsOf]]:
        """Read all pictures, page by page."""
        columns, last = ", ".join(Picture._fields), 0
        sql = f"SELECT row, {columns} FROM images WHERE row > ? ORDER BY row LIMIT {_PAGE}"  # noqa: S608
        while page := self._connection.read(sql, (last,)):
            yield from ((row, FieldsOf(Picture(*values))) for row, *values in page)
            last = page[-1][0]


def _numbers(text: str | None) -> Rows:
    """Read rows as SQLite's group_concat writes them; several times as fast as rows one by one."""
    return np.fromstring(text or "", np.int64, sep=",")


def _flags(bitmap: _Bitmap) -> NDArray[np.bool_]:
    return np.unpackbits(bitmap, bitorder="little").view(np.bool_)
