"""Filters as the server decides them, and counts of what is said of pictures."""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from retrieval.catalogue.conditions import check_field, check_leaf
from retrieval.catalogue.filters import Facet, Field
from retrieval.filters import Filter
from retrieval.filters.matching import FieldsOf
from retrieval.filters.tree import (
    OWN_FIELDS,
    Compare,
    Exists,
    In,
    Leaf,
    check_counting,
    check_size,
    leaves_of,
)
from retrieval.filters.values import (
    KINDS,
    NULL,
    NUMBER,
    TEXT,
    Value,
    as_scalar,
    as_value,
    stored_name,
    values_of,
)
from retrieval.stores.milvus.collection import Collection
from retrieval.stores.milvus.expressions import (
    all_of,
    among_rows,
    expression_of,
    has_field,
    has_kind,
)
from retrieval.stores.milvus.schema import RECORD_FIELDS, as_record

__all__ = ["MilvusFilters", "MilvusSelection"]


class MilvusSelection:
    """The pictures that a filter holds of: an expression, which the server looks at anew each time.

    Args:
        collection: Whose pictures.
        expression: In the server's language.
    """

    def __init__(self, collection: Collection, expression: str) -> None:
        self._collection = collection
        self.expression = expression
        """In the server's language."""
        self._count: int | None = None

    def __len__(self) -> int:
        if self._count is None:
            self._count = self._collection.count(self.expression)
        return self._count

    def tolist(self) -> list[int]:
        """Read their rows, ascending."""
        pages = self._collection.pages(self.expression, ["row"])
        return sorted(int(entity["row"]) for page in pages for entity in page)


class MilvusFilters:
    """Selects pictures by what is said of them. Safe to use from several threads.

    Args:
        collection: Whose pictures.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._witnesses: dict[tuple[str, str], tuple[int, int | None]] = {}

    def rows(self, where: Filter) -> MilvusSelection:
        """Select the pictures that a filter holds of.

        Raises:
            QueryError: If the filter is too large, no picture has a field that it names, or a
                field has no values of the kind that it is compared with.
        """
        check_size(where)
        with self._collection.held():
            return MilvusSelection(self._collection, self._expression(where))

    def facets(self, field: str, where: Filter | None = None, limit: int = 20) -> list[Facet]:
        """Count how many pictures have each value of a field; the commonest come first.

        Raises:
            QueryError: As for :meth:`rows`, or if the limit is below 1.
        """
        check_counting(where, limit)
        counts: Counter[Value] = Counter()
        with self._collection.held():
            self.check(field)
            expression = has_field(field)
            if where is not None:
                expression = all_of(expression, self._expression(where))
            for values in self._values(field, expression):
                counts.update(values)
        best = sorted(counts.items(), key=lambda counted: (-counted[1], counted[0]))
        return [Facet(as_scalar(*value), count) for value, count in best[:limit]]

    def fields(self, where: Filter | None = None) -> list[Field]:
        """Tell which fields of metadata there are, in the order of their names.

        Raises:
            QueryError: As for :meth:`rows`.
        """
        if where is not None:
            check_size(where)
        pictures: Counter[str] = Counter()
        values: dict[str, set[Value]] = {}
        with self._collection.held():
            expression = "" if where is None else self._expression(where)
            for said in self._metadata(expression):
                pictures.update(said.keys())
                for name, held in said.items():
                    values.setdefault(name, set()).update(held)
        return [
            Field(
                f"metadata.{name}" if name in OWN_FIELDS else name,
                tuple(KINDS[kind] for kind in sorted({kind for kind, _ in values[name]})),
                pictures[name],
                len(values[name]),
            )
            for name in sorted(values)
        ]

    def check(self, field: str) -> None:
        """Refuse a field that no picture has.

        Raises:
            QueryError: If so; the message names similar fields, or those that there are.
        """
        with self._collection.held():
            if stored_name(field) is not None and not self._is_any(has_field(field)):
                check_field(field, self._known())

    # All that follows at the moment that the above hold

    def _expression(self, where: Filter) -> str:
        for leaf in dict.fromkeys(leaves_of(where)):
            self._check(leaf)
        return expression_of(where, self._evaluate)

    def _check(self, leaf: Leaf) -> None:
        if stored_name(leaf.field) is None:
            return
        if isinstance(leaf, Exists):
            needed = [expression_of(leaf, self._evaluate)]
        else:
            if isinstance(leaf, In):
                kinds = {as_value(value)[0] for value in leaf.values}
            else:
                kinds = {as_value(leaf.value)[0] if isinstance(leaf, Compare) else TEXT}
            needed = [has_kind(leaf.field, kind) for kind in sorted(kinds - {NULL})]
            needed += [] if needed else [has_field(leaf.field)]
        if not all(map(self._is_any, needed)):
            check_leaf(leaf, self._known())

    def _is_any(self, expression: str) -> bool:
        """Tell whether an expression holds of some picture: the one that it held of before?"""
        moment = self._collection.look()
        key = moment.name, expression
        row, since = self._witnesses.get(key, (None, None))
        if row is not None and since is not None and since == moment.since:
            return True
        if row is not None:
            row = self._collection.some(all_of(among_rows([row]), expression))
        if row is None:
            row = self._collection.some(expression)
        if row is None:
            self._witnesses.pop(key, None)
            return False
        self._witnesses[key] = row, moment.since
        return True

    def _known(self) -> dict[str, set[int]]:
        """Read of all pictures which fields there are, and the kinds of their values."""
        known: dict[str, set[int]] = {}
        for said in self._metadata(""):
            for name, values in said.items():
                known.setdefault(name, set()).update(kind for kind, _ in values)
        return known

    def _evaluate(self, leaf: Leaf, expression: str) -> Iterator[int]:
        for entity in self._entities(expression, RECORD_FIELDS):
            record = as_record(entity).record
            if FieldsOf(record.picture).satisfy(leaf):
                yield record.row

    def _values(self, field: str, expression: str) -> Iterator[set[Value]]:
        name = stored_name(field)
        if name is not None:
            for said in self._metadata(expression):
                yield said.get(name, set())
            return
        for entity in self._entities(expression, RECORD_FIELDS):
            values = FieldsOf(as_record(entity).record.picture).values(field)
            yield set(map(_year, values)) if field == "date" else values

    def _metadata(self, expression: str) -> Iterator[dict[str, set[Value]]]:
        for entity in self._entities(expression, ["row", "metadata"]):
            yield values_of(entity["metadata"]["text"])

    def _entities(self, expression: str, fields: list[str]) -> Iterator[dict[str, Any]]:
        return itertools.chain.from_iterable(self._collection.pages(expression, fields))


def _year(moment: Value) -> Value:
    year = np.datetime64(int(moment[1]), "ns").astype("datetime64[Y]").astype(np.int64)
    return NUMBER, int(year) + 1970
