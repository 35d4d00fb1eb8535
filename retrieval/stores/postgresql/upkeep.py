"""The index of vectors, made and made anew; and collections that take one another's place."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import psycopg
from pgvector import HalfVector

from retrieval.errors import IndexNotFoundError, StoreUnavailableError
from retrieval.protocols import Features
from retrieval.stores.postgresql.connections import TimedConnection
from retrieval.stores.postgresql.names import TABLES, Names
from retrieval.stores.postgresql.opening import lock_key
from retrieval.stores.postgresql.reading import Reading

__all__ = ["Upkeep", "lists_for", "probes_for"]

LEAST = 10_000
"""Pictures from which on there is an index; fewer are gone over as quickly."""
GROWTH = 2.0
"""By how much the pictures grow until it is made anew."""
_WIDEST = 4_000  # numbers that pgvector makes an index of, in halves
_PROBES = (1, 2, 4, 8, 16, 32, 64, 128)
_MEMORY = "512MB"
_TRIES = 5
_PARKED = "clip_text_swap"


def lists_for(count: int) -> int:
    """Choose how many lists so many vectors are kept in."""
    return int(min(32_768, max(16, round(2 * np.sqrt(count)))))


def probes_for(lists: int) -> int:
    """Choose how many lists are searched."""
    return max(4, round(lists / 10))


class Upkeep(Reading):
    """What :class:`Reading` reads, looked after."""

    def is_due(self) -> bool:
        """Tell whether an index of vectors should be made, or made anew."""
        count = len(self)
        built = int(self.noted("index_rows") or 0)
        return count >= LEAST and self.embed_dim <= _WIDEST and count >= GROWTH * built

    def vectors(self) -> dict[str, int | str]:
        """Tell what vectors are searched with."""
        said = {key: self.noted(key) for key in ("index_rows", "lists", "probes")}
        if not said["lists"]:
            return {"engine": "PostgreSQL, pgvector", "state": "exact"}
        return {
            "engine": "PostgreSQL, pgvector",
            "state": "ivfflat",
            **{key: int(value) for key, value in said.items() if value},
        }

    def compact(self) -> str:
        """Make the index of vectors anew, while others search and write.

        Returns:
            What was made.

        Raises:
            StoreUnavailableError: If another one makes it now, or the server does not answer.
        """
        count = len(self)
        if count < LEAST or self.embed_dim > _WIDEST:
            with self._building() as connection:
                self._tidy(connection)
            return f"no index: all of {count} vectors are gone over"
        lists = lists_for(count)
        probes = probes_for(lists)
        started = time.monotonic()
        with self._building() as connection:
            before = self._vector_indexes(connection)
            connection.execute(
                self.names.statement(
                    "CREATE INDEX CONCURRENTLY ON {features} USING ivfflat "
                    f"(feature halfvec_ip_ops) WITH (lists = {lists})"
                )
            )
            said = [("index_rows", count), ("lists", lists), ("probes", probes)]
            for key, value in said:
                connection.execute(
                    self.names.statement(
                        "INSERT INTO {meta} VALUES (%s, %s) ON CONFLICT (key) DO UPDATE "
                        "SET value = excluded.value"
                    ),
                    (key, str(value)),
                )
            for name in before:
                connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            self._tidy(connection)
        seconds = time.monotonic() - started
        return (
            f"ivfflat of {count} vectors in {lists} lists, of which {probes} are searched "
            f"({seconds:.1f} s)"
        )

    def advise(self, features: Features, k: int = 10) -> list[tuple[str, float, float]]:
        """Search for some queries ever more thoroughly.

        Args:
            features: Of what is really asked, unit rows [q, embed_dim].
            k: How many hits.

        Returns:
            Of each setting its name, recall@k against going over all vectors, and the median time
            of a search in milliseconds.
        """
        lists = int(self.noted("lists") or 0)
        with self.connections.alone() as connection:
            exact, seconds = self._timed(connection, features, k, None)
            trials = [("exact", 1.0, seconds)]
            for probes in (p for p in _PROBES if p < lists):
                found, seconds = self._timed(connection, features, k, probes)
                pairs = zip(found, exact, strict=True)
                shares = [len(some & best) / max(1, len(best)) for some, best in pairs]
                recall = float(np.mean(shares))
                trials.append((f"ivfflat, {probes} of {lists} lists", recall, seconds))
        return trials

    def set_probes(self, probes: int) -> None:
        """Have so many lists be searched from now on; making the index anew sets the usual."""
        with self.connections.alone() as connection:
            connection.execute(
                self.names.statement(
                    "INSERT INTO {meta} VALUES ('probes', %s) ON CONFLICT (key) DO UPDATE "
                    "SET value = excluded.value"
                ),
                (str(probes),),
            )

    def swap(self, other: str) -> None:
        """Have two collections take one another's place, for everybody at one moment.

        Searchers notice by :meth:`state`; a store that is open for writing has to be opened anew.

        Args:
            other: Name of the other one, in the same database and schema.

        Raises:
            IndexNotFoundError: If there is none.
            StoreUnavailableError: If others keep the tables for long.
        """
        theirs, parked = Names(other), Names(_PARKED)
        with self.connections.alone() as connection:
            ((there,),) = connection.execute(
                "SELECT to_regclass(quote_ident(%s)) IS NOT NULL", (theirs["meta"],)
            ).fetchall()
            if not there:
                raise IndexNotFoundError(
                    f"expected an index {other} beside {self.address}, got none. Index into it "
                    "first."
                )
            for attempt in range(_TRIES):
                try:
                    self._rename(connection, [(self.names, parked), (theirs, self.names)], theirs)
                    return
                except (psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable):
                    if attempt + 1 == _TRIES:
                        raise

    def _rename(
        self, connection: TimedConnection, pairs: list[tuple[Names, Names]], theirs: Names
    ) -> None:
        parked = pairs[0][1]
        ((schema,),) = connection.execute("SELECT quote_ident(current_schema())").fetchall()
        with connection.transaction():
            connection.execute("SET LOCAL lock_timeout = '10s'")
            for name in sorted([self.names.name, theirs.name]):
                key = lock_key(schema, name)
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (key,))
            for before, after in (*pairs, (parked, theirs)):
                for table in ("meta", *(name for name in TABLES if name != "meta")):
                    connection.execute(f'ALTER TABLE "{before[table]}" RENAME TO "{after[table]}"')

    @contextmanager
    def _building(self) -> Iterator[TimedConnection]:
        """Give a connection on which nobody else makes an index of this collection."""
        with self.connections.alone() as connection:
            key = lock_key("", self.uid)
            ((free,),) = connection.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchall()
            if not free:
                raise StoreUnavailableError(
                    f"expected nobody else to make the index of vectors at {self.address}, got "
                    "another at work. Wait until it ends."
                )
            connection.execute(f"SET maintenance_work_mem = '{_MEMORY}'")
            yield connection

    def _tidy(self, connection: TimedConnection) -> None:
        """Have the server count what there is, by which it chooses how to search."""
        for table in ("pictures", "features", "fields", "words"):
            connection.execute(self.names.statement(f"VACUUM (ANALYZE) {{{table}}}"))

    def _vector_indexes(self, connection: TimedConnection) -> list[str]:
        """Name the indexes of vectors, those that were not finished among them."""
        sql = (
            "SELECT indexrelid::regclass::text FROM pg_index "
            "JOIN pg_class c ON c.oid = indexrelid JOIN pg_am a ON a.oid = c.relam "
            "WHERE indrelid = to_regclass(quote_ident(%s)) AND amname IN ('ivfflat', 'hnsw')"
        )
        return [name for (name,) in connection.execute(sql, (self.names["features"],))]

    def _timed(
        self, connection: TimedConnection, features: Features, k: int, probes: int | None
    ) -> tuple[list[set[int]], float]:
        """Search for each query alone; gives rows, and the median time in milliseconds."""
        order = "(v.feature <#> %b) + 0" if probes is None else "v.feature <#> %b"
        sql = self.names.statement(
            f"SELECT v.row FROM {{features}} v ORDER BY {order} LIMIT %s"  # noqa: S608
        )
        connection.execute("SET ivfflat.iterative_scan = relaxed_order")
        connection.execute(f"SET ivfflat.probes = {probes or 1}")
        found, times = [], []
        for feature in (features[0], *features):  # the first one warms up
            started = time.perf_counter()
            rows = connection.execute(sql, (HalfVector(feature), k)).fetchall()
            times.append(time.perf_counter() - started)
            found.append({row for (row,) in rows})
        return found[1:], float(np.median(times[1:]) * 1e3)
