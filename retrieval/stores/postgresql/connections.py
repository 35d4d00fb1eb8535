"""Connections to the server: a few that are shared, each call with a time-out, reads asked again.

A thread that is in a transaction or a snapshot has one of its own until that ends.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

import psycopg
from psycopg.types import TypeInfo
from psycopg_pool import ConnectionPool, PoolTimeout

from retrieval.errors import StorageError, StoreUnavailableError
from retrieval.stores.address import StoreAddress
from retrieval.stores.postgresql.adapting import adapt
from retrieval.stores.postgresql.trouble import is_passing, translated

__all__ = ["Connections", "Statement", "TimedConnection"]

# What fails for want of a connection is raised as an error; a line of the pool's beside it would
# stand on stderr where nobody has set up logs.
logging.getLogger("psycopg.pool").addHandler(logging.NullHandler())

T = TypeVar("T")
Statement = tuple[str, Sequence[Any]]
"""SQL, and what stands for its ``%s``."""

_MOST_CONNECTIONS = 8
_STEP = 0.3  # seconds between two looks at why there is no connection
_PATIENCE = 2.5  # seconds that a server that does not answer is asked again
_TRIES = 3
_PAUSE = 0.2  # seconds before the second try; twice that before the third


class TimedConnection(psycopg.Connection[Any]):
    """A connection on which no call waits for ever, be it that the server stands still.

    ``limit`` is in seconds; None to wait as long as it takes.
    """

    limit: float | None = None

    @classmethod
    def connect(  # type: ignore[override]
        cls,
        conninfo: str = "",
        *,
        on_error: Callable[[psycopg.Error], None] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Self:
        """Connect as the base class does.

        Args:
            conninfo: Where to.
            on_error: Told why it cannot be done.
            kwargs: See there.
        """
        try:
            return super().connect(conninfo, **kwargs)
        except psycopg.Error as error:
            if on_error:
                on_error(error)
            raise

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Wait for the server, but no longer than the limit."""
        return super().wait(gen if self.limit is None else self._limited(gen), *args, **kwargs)

    def _limited(self, gen: Any) -> Any:  # noqa: ANN401
        assert self.limit is not None
        deadline = time.monotonic() + self.limit
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > deadline:
                    self.pgconn.finish()
                    raise psycopg.errors.ConnectionTimeout(f"nothing within {self.limit:g} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value


class Connections:
    """The connections of one store. Safe to use from several threads.

    Args:
        address: Of the collection, for messages.
        conninfo: What libpq is given.
        settings: Of each session.
        halfvec: What the server says of the type.
        limit: How many seconds a call may take.
    """

    def __init__(
        self,
        address: StoreAddress,
        conninfo: str,
        settings: Mapping[str, str],
        halfvec: TypeInfo,
        limit: float,
    ) -> None:
        self.address = address
        self._conninfo = conninfo
        self._settings = dict(settings)
        self._halfvec = halfvec
        self._limit = limit
        self._local = threading.local()
        self._trouble: tuple[float, psycopg.Error] | None = None  # and when that was
        self._pool = ConnectionPool(
            conninfo,
            connection_class=TimedConnection,
            kwargs={"autocommit": True, "prepare_threshold": None, "on_error": self._note},
            min_size=0,
            max_size=_MOST_CONNECTIONS,
            max_idle=300.0,
            reconnect_timeout=0.0,  # who asks decides how often
            num_workers=2,
            configure=self._configure,
            open=True,
        )

    @property
    def pinned(self) -> TimedConnection | None:
        """The connection of this thread's transaction or snapshot."""
        return getattr(self._local, "connection", None)

    def read(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Have a statement select; asked again where a connection ends meanwhile.

        Raises:
            RetrievalError: As :func:`~retrieval.stores.postgresql.trouble.translated`.
        """
        return self.run(
            lambda connection: connection.execute(sql, values or None, binary=True).fetchall()
        )

    def run(self, work: Callable[[TimedConnection], T]) -> T:
        """Do some reading on one connection, and again on another where that one ends.

        Raises:
            RetrievalError: As :func:`~retrieval.stores.postgresql.trouble.translated`.
        """
        if (connection := self.pinned) is not None:
            with self.translating():
                return work(connection)
        for attempt in range(_TRIES):
            try:
                with self._taken() as connection:
                    return work(connection)
            except psycopg.Error as error:
                if attempt + 1 == _TRIES or not is_passing(error):
                    raise translated(error, self.address) from error
                with contextlib.suppress(psycopg.Error):
                    self._pool.check()  # others have ended, too, where the server was restarted
                time.sleep(_PAUSE * (attempt + 1))
        raise AssertionError

    @contextlib.contextmanager
    def pin(self, begin: Callable[[TimedConnection], T]) -> Iterator[tuple[TimedConnection, T]]:
        """Give this thread a connection of its own, in a transaction.

        It is committed at the end, and rolled back if what is inside raises.

        Args:
            begin: Begins the transaction; tried again on another connection where that one ends.
        """
        assert self.pinned is None, "a thread has one transaction at a time"
        connection, begun = self._begun(begin)
        self._local.connection = connection
        try:
            with self.translating():
                yield connection, begun
                connection.execute("COMMIT")
        except BaseException:
            if not connection.closed:
                with contextlib.suppress(psycopg.Error):
                    connection.execute("ROLLBACK")
            raise
        finally:
            self._local.connection = None
            connection.limit = self._limit
            self._pool.putconn(connection)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let all that this thread reads inside belong to one moment."""
        if self.pinned is not None:
            yield
            return

        def begin(connection: TimedConnection) -> None:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

        with self.pin(begin):
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[TimedConnection]:
        """Give a connection that is not shared, for work that takes as long as it takes."""
        with self.translating():
            connection = TimedConnection.connect(
                self._conninfo, autocommit=True, prepare_threshold=None
            )
            try:
                self._configure(connection)
                connection.limit = None
                connection.execute("SET statement_timeout = 0")
                yield connection
            finally:
                connection.close()

    @contextlib.contextmanager
    def translating(self) -> Iterator[None]:
        """Say in this package's words what PostgreSQL raises inside."""
        try:
            yield
        except psycopg.Error as error:
            raise translated(error, self.address) from error

    def close(self) -> None:
        """End all connections; twice is once."""
        self._pool.close()

    def _begun(self, begin: Callable[[TimedConnection], T]) -> tuple[TimedConnection, T]:
        for attempt in range(_TRIES):
            connection = self._take()
            try:
                return connection, begin(connection)
            except BaseException as error:
                connection.close()
                self._pool.putconn(connection)
                if not isinstance(error, psycopg.Error):
                    raise
                if attempt + 1 == _TRIES or not is_passing(error):
                    raise translated(error, self.address) from error
                with contextlib.suppress(psycopg.Error):
                    self._pool.check()
                time.sleep(_PAUSE * (attempt + 1))
        raise AssertionError

    @contextlib.contextmanager
    def _taken(self) -> Iterator[TimedConnection]:
        connection = self._take()
        try:
            yield connection
        finally:
            self._pool.putconn(connection)

    def _take(self) -> TimedConnection:
        """Take a connection that is free, or a new one.

        Raises:
            RetrievalError: If the server does not let anybody in for a while.
        """
        started = time.monotonic()
        while True:
            try:
                return self._pool.getconn(timeout=_STEP)
            except PoolTimeout as error:
                waited = time.monotonic() - started
                trouble = self._since(started)
                if trouble is None and waited > self._limit:
                    raise StoreUnavailableError(
                        f"expected one of {_MOST_CONNECTIONS} connections to {self.address} to be "
                        f"free, got none within {self._limit:g} s. Ask again later."
                    ) from error
                if trouble is None:
                    continue
                told = translated(trouble, self.address)
                if not isinstance(told, StoreUnavailableError) or waited > _PATIENCE:
                    raise told from trouble
            except psycopg.OperationalError as error:
                raise StorageError(
                    f"expected the index at {self.address} to be open, got: {error}. Open it anew."
                ) from error

    def _note(self, error: psycopg.Error) -> None:
        self._trouble = time.monotonic(), error

    def _since(self, started: float) -> psycopg.Error | None:
        """Give why there is no connection, where one was tried since."""
        trouble = self._trouble
        return trouble[1] if trouble and trouble[0] >= started else None

    def _configure(self, connection: TimedConnection) -> None:
        connection.limit = self._limit
        adapt(connection, self._halfvec)
        values = [text for setting in self._settings.items() for text in setting]
        calls = ", ".join(["set_config(%s, %s, false)"] * len(self._settings))
        connection.execute(f"SELECT {calls}", values)
