"""Filters and counts, worked out by the server."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from retrieval.catalogue.conditions import check_field, check_leaf
from retrieval.catalogue.filters import Facet, Field
from retrieval.filters.tree import Filter, check_counting, check_size, leaves_of
from retrieval.filters.values import KINDS, NUMBER, TEXT, as_scalar, shown_name, stored_name
from retrieval.stores.postgresql.conditions import OWN, Condition, condition_of
from retrieval.stores.postgresql.look import Known, Look, Read
from retrieval.stores.postgresql.names import Names

__all__ = ["PostgresFilters", "PostgresSelection"]

# Nanoseconds → years in UTC: whole seconds, rounded down, of which a double has all digits.
_SECONDS = (
    "div(i.mtime_ns::numeric - mod(mod(i.mtime_ns, 1000000000) + 1000000000, 1000000000), "
    "1000000000)"
)
_YEAR = f"extract(year FROM to_timestamp({_SECONDS}::float8) AT TIME ZONE 'UTC')"


@dataclass(slots=True, eq=False)
class PostgresSelection:
    """The pictures that a filter holds of, as a condition that the server works out.

    Its length counts them, when it is first asked for.
    """

    sql: str
    values: tuple[Any, ...]
    _read: Read = field(repr=False)
    _known: Known = field(repr=False)

    def __len__(self) -> int:
        key = self.sql, tuple(map(str, self.values))
        if key not in self._known.counts:
            sql = f"SELECT count(*) FROM {{pictures}} i WHERE {self.sql}"  # noqa: S608
            self._known.keep(key, int(self._read(sql, self.values)[0][0]))
        return self._known.counts[key]

    def tolist(self) -> list[int]:
        """Read its rows, ascending."""
        sql = f"SELECT i.row FROM {{pictures}} i WHERE {self.sql} ORDER BY i.row"  # noqa: S608
        return [row for (row,) in self._read(sql, self.values)]


class PostgresFilters:
    """See :class:`~retrieval.catalogue.store.StoreFilters`.

    Args:
        look: Knows which fields there are.
        names: The collection's tables.
        read: Has a statement select.
    """

    def __init__(self, look: Look, names: Names, read: Read) -> None:
        self._look = look
        self._names = names
        self._read = read

    def rows(self, where: Filter) -> PostgresSelection:
        """Select the pictures that a filter holds of.

        Raises:
            QueryError: If the filter is too large, no picture has a field that it names, or a
                field has no values of the kind that it is compared with.
        """
        check_size(where)
        known = self._look()
        sql, values = _checked(where, known)
        return PostgresSelection(sql, values, self._read, known)

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
        known = self._look()
        check_field(field, known.kinds)
        condition = ("true", ()) if where is None else _checked(where, known)
        if field in OWN:
            return self._own_facets(field, condition, limit)
        sql, values = condition
        of_field = known.names[stored_name(field) or ""]
        selected = self._read(
            "SELECT f.kind, f.number, f.text, count(*) FROM {fields} f "  # noqa: S608
            f"JOIN {{pictures}} i USING (row) WHERE f.name = %s AND ({sql}) "
            "GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3 LIMIT %s",
            (of_field, *values, limit),
        )
        return [
            Facet(as_scalar(kind, text if kind == TEXT else _number(number)), count)
            for kind, number, text, count in selected
        ]

    def check(self, field: str) -> None:
        """Refuse a field that no picture has.

        Raises:
            QueryError: If so; the message names similar fields, or those that there are.
        """
        check_field(field, self._look().kinds)

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
        known = self._look()
        sql, values = ("true", ()) if where is None else _checked(where, known)
        among = "" if where is None else f"JOIN {{pictures}} i USING (row) WHERE {sql} "
        selected = self._read(
            "SELECT n.field, t.kinds, t.pictures, t.values FROM (SELECT f.name, "  # noqa: S608
            "array_agg(DISTINCT f.kind) kinds, count(DISTINCT f.row) pictures, "
            f"count(DISTINCT (f.kind, f.number, f.text)) values FROM {{fields}} f {among}"
            "GROUP BY f.name) t JOIN {field_names} n USING (name) ORDER BY n.field",
            values,
        )
        return [
            Field(
                shown_name(name),
                tuple(KINDS[kind] for kind in sorted(kinds)),
                pictures,
                different,
            )
            for name, kinds, pictures, different in selected
        ]

    def _own_facets(self, field: str, condition: Condition, limit: int) -> list[Facet]:
        sql, values = condition
        column = _YEAR if field == "date" else OWN[field]
        selected = self._read(
            f"SELECT {column}, count(*) FROM {{pictures}} i "  # noqa: S608
            f"WHERE {OWN[field]} IS NOT NULL AND ({sql}) GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT %s",
            (*values, limit),
        )
        kind = NUMBER if field in {"date", "width", "height"} else TEXT
        return [
            Facet(as_scalar(kind, int(value) if kind == NUMBER else value), count)
            for value, count in selected
        ]


def _checked(where: Filter, known: Known) -> Condition:
    for leaf in leaves_of(where):
        check_leaf(leaf, known.kinds)
    return condition_of(where, known.names)


def _number(number: Decimal) -> float:
    """Give back an integer, or the float that was stored digit for digit."""
    whole = number == number.to_integral_value()
    return int(number) if whole and -(2**63) <= number < 2**63 else float(number)
