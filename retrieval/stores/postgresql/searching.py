"""The nearest vectors: by the index where that is quicker, and scored exactly here.

Where few pictures are left by a filter all of them are gone over. Where many are, the index is, and
the server goes on through its lists until it has found enough that the filter holds of.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pgvector import HalfVector

from retrieval.index.scoring import best_first, cosines
from retrieval.protocols import Feature, Features, Rows, Scores
from retrieval.stores.postgresql.connections import TimedConnection
from retrieval.stores.postgresql.filters import PostgresSelection
from retrieval.stores.postgresql.reading import Reading

__all__ = ["Searching"]

FEW = 5_000
"""Pictures left by a filter that are gone over one by one."""
_MOST_BY_INDEX = 1_000  # hits that the index is asked for
_WIDER = 2  # times as many lists are searched where a filter leaves some of their vectors out
_ABSENT = -2.0  # a score of no picture

_SETTINGS = (
    "SELECT set_config('ivfflat.probes', coalesce((SELECT (value::int * %s)::text FROM {meta} "
    "WHERE key = 'probes'), '1'), true), "
    "set_config('ivfflat.iterative_scan', 'relaxed_order', true)"
)
_BY_INDEX = "SELECT v.row, v.feature FROM {features} v %s ORDER BY v.feature <#> %%b LIMIT %%s"
# No index knows this order.
_EXACTLY = "ORDER BY (v.feature <#> %b) + 0, v.row LIMIT %s"
_OF_ALL = f"SELECT v.row, v.feature FROM {{features}} v {_EXACTLY}"  # noqa: S608
_OF_ROWS = (
    "SELECT v.row, v.feature FROM unnest(%s::bigint[]) u (row) JOIN {features} v USING (row) "  # noqa: S608
    f"{_EXACTLY}"
)
_OF_FEW = (
    "WITH few AS MATERIALIZED (SELECT i.row FROM {pictures} i WHERE %s) "  # noqa: S608
    "SELECT v.row, v.feature FROM few JOIN {features} v USING (row) "
    f"{_EXACTLY.replace('%', '%%')}"
)


class Searching(Reading):
    """What :class:`Reading` reads, and the nearest of it."""

    def search(
        self, features: Features, k: int, among: Rows | PostgresSelection | None = None
    ) -> tuple[Scores, Rows]:
        """Find the nearest rows; see :meth:`~retrieval.stores.opening.RemoteStore.search`.

        Raises:
            ValueError: If the shape does not fit, or k is below 1.
        """
        if features.ndim != 2 or features.shape[1] != self.embed_dim:
            raise ValueError(
                f"expected features of shape [q, {self.embed_dim}], got {list(features.shape)}. "
                "Encode the queries with the model of the index."
            )
        if k < 1:
            raise ValueError(f"expected k of at least 1, got {k}. Ask for one or more.")
        if among is not None and not len(among):
            return _gathered([], len(features), k)
        template, values, by_index = self._statement(k, among)
        # the server compares halves with halves: what is near the end is looked at more closely
        limit = k + max(16, k // 8)

        def ask(connection: TimedConnection) -> list[list[tuple[int, Any]]]:
            return self._ask(connection, template, values, features, limit, by_index=by_index)

        found = self.connections.run(ask)
        scored = [_scored(feature, lines) for feature, lines in zip(features, found, strict=True)]
        return _gathered(scored, len(features), k)

    def _statement(
        self, k: int, among: Rows | PostgresSelection | None
    ) -> tuple[str, Sequence[Any], bool]:
        """Give a statement, what stands before its vector, and whether it is for the index."""
        if isinstance(among, PostgresSelection):
            if len(among) <= FEW or k > _MOST_BY_INDEX:
                return _OF_FEW % among.sql, among.values, False
            # Asked of each vector that the index finds, not worked out for all before: as EXISTS
            # the server would rather do that.
            where = (
                "WHERE (SELECT true FROM {pictures} i WHERE i.row = v.row "  # noqa: S608
                f"AND ({among.sql}))"
            )
            return _by_index(where), among.values, True
        if among is not None:
            return _OF_ROWS, ([int(row) for row in among],), False
        return (_by_index(""), (), True) if k <= _MOST_BY_INDEX else (_OF_ALL, (), False)

    def _ask(
        self,
        connection: TimedConnection,
        template: str,
        values: Sequence[Any],
        features: Features,
        limit: int,
        *,
        by_index: bool,
    ) -> list[list[tuple[int, Any]]]:
        sql = self.names.statement(template)
        with connection.pipeline(), connection.transaction():
            if by_index:
                # among fewer the nearest lie farther away, in more lists
                factor = _WIDER if values else 1
                connection.execute(self.names.statement(_SETTINGS), (factor,))
            asked = [
                connection.execute(sql, (*values, HalfVector(feature), limit), binary=True)
                for feature in features
            ]
            return [cursor.fetchall() for cursor in asked]


def _by_index(where: str) -> str:
    # a condition has its own %s
    return _BY_INDEX.replace("%%", "%").replace("%s", where, 1)


def _scored(feature: Feature, lines: list[tuple[int, Any]]) -> tuple[Scores, Rows]:
    """Score what was found by what is stored, best first, equals by row."""
    if not lines:
        return np.empty(0, np.float32), np.empty(0, np.int64)
    rows = np.array([row for row, _ in lines], np.int64)
    scores = cosines(feature, np.stack([stored for _, stored in lines]))
    order = best_first(scores, rows)
    return scores[order], rows[order]


def _gathered(scored: list[tuple[Scores, Rows]], queries: int, k: int) -> tuple[Scores, Rows]:
    """Put what the queries found into one array each."""
    most = max((min(k, len(rows)) for _, rows in scored), default=0)
    scores = np.full((queries, most), _ABSENT, np.float32)
    rows = np.zeros((queries, most), np.int64)
    for i, (of_one, found) in enumerate(scored):
        number = min(k, len(found))
        scores[i, :number], rows[i, :number] = of_one[:number], found[:number]
    return scores, rows
