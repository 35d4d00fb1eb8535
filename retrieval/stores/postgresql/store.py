"""A collection in PostgreSQL: pictures, what is said of them, and vectors, in one transaction."""

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

from retrieval.catalogue.halves import StoredFeature, encode
from retrieval.errors import RetrievalError, StorageError
from retrieval.protocols import Feature
from retrieval.records import Picture, Record, bounds_under
from retrieval.stores.address import StoreAddress
from retrieval.stores.postgresql.ahead import ItemsAhead, PathsAhead
from retrieval.stores.postgresql.connections import TimedConnection
from retrieval.stores.postgresql.opening import Opened, opened
from retrieval.stores.postgresql.searching import Searching
from retrieval.stores.postgresql.trouble import missing
from retrieval.stores.postgresql.upkeep import Upkeep
from retrieval.stores.postgresql.writing import Numbers, Transaction, failed_now

if TYPE_CHECKING:
    from retrieval.stores.opening import RemoteStore

__all__ = ["PostgresStore"]

_MANY = 4096  # pictures that come until somebody looks whether an index of vectors is due
_BULK_SECONDS = 60.0  # in which so many come of a bulk load
_POSTPONED = 900.0  # seconds that a bulk load may go on without one
_LOCK_SECONDS = 60  # that a writer waits for another one's transaction
_WRITE_SECONDS = 300  # that a statement of a transaction may take


class PostgresStore(Searching, Upkeep):
    """See :class:`~retrieval.stores.opening.RemoteStore`.

    Safe to use from several threads. Writers, of this process and of others, take turns,
    transaction by transaction; readers wait for nobody.

    Args:
        address: Of the collection.
        opened: It.
    """

    def __init__(self, address: StoreAddress, opened: Opened) -> None:
        super().__init__(address, opened)
        self._local = threading.local()
        self._numbers = Numbers()
        self._field_names: dict[str, int] = {}
        self._opened_at = self._looked_at = time.monotonic()
        self._unlooked = 0  # pictures that came since the index of vectors was looked at
        self._builder: threading.Thread | None = None
        self._seen_paths: set[bytes] = set()
        self._seen_rows: set[int] = set()
        self._paths = PathsAhead(super().find, super().find_from)
        self._items = ItemsAhead()
        self.sources.note = self._assign
        self.sources.is_noted = self._is_noted
        self.sources.ahead = self._items

    @classmethod
    def open(
        cls,
        address: StoreAddress,
        *,
        fingerprint: str | None = None,
        embed_dim: int | None = None,
    ) -> Self:
        """Open a collection; see :func:`retrieval.stores.connect`, whose errors it raises."""
        store = cls(address, opened(address, fingerprint, embed_dim))
        if fingerprint is not None and embed_dim is not None:
            try:
                store.check_model(fingerprint=fingerprint, embed_dim=embed_dim)
            except BaseException:
                store.close()
                raise
        return store

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Let all writes inside happen, or none.

        When it has ended, what was written is kept, whatever becomes of the server's process, and
        everybody's next read finds it. Where the server goes away just as it ends, it may have
        happened although this raises.

        Raises:
            StorageError: If the server does not answer, its disk is full, another writer does not
                end, or another collection has taken this one's place.
        """
        with self.connections.pin(self._begin) as (connection, (meta, keeps_texts)):
            connection.limit = _WRITE_SECONDS + 10.0
            if meta.get("uid") != self.uid:
                raise StorageError(
                    f"expected to write to the index at {self.address}, got another in its "
                    "place. Open the index anew; nothing of this call was stored."
                )
            inside = Transaction(
                connection,
                self.names,
                self._numbers,
                self._field_names,
                meta,
                keeps_texts=keeps_texts,
            )
            self._local.transaction = inside
            self._items.forget()
            try:
                yield
                inside.flush()
            finally:
                self._local.transaction = None
                self._items.forget()
            self._end(connection, inside)
        self._field_names.update(inside.new_names)
        self._seen_paths |= inside.seen_paths
        self._seen_rows |= inside.seen_rows
        self._paths.forget()
        self._grown(inside.added)

    def close(self) -> None:
        """Make the index of vectors where that is due, and end the connections; twice is once."""
        is_grown, self._unlooked = bool(self._unlooked), 0
        if self._builder is not None:
            self._builder.join()
        try:
            if is_grown:
                self._build_if_due()
        finally:
            super().close()

    def read(
        self,
        template: str,
        values: Sequence[Any] = (),
        touching: str | bytes | int | None = None,
    ) -> list[tuple[Any, ...]]:
        """Have a statement select, after what waits to be written and bears on it was sent."""
        inside = self._transaction
        if inside is not None and inside.concerns(touching):
            with self.connections.translating():
                inside.flush()
        return super().read(template, values)

    # What it says of itself

    def add_precision(self, precision: str | None) -> None:
        """Note what features that are about to be stored were computed in; None if unknown.

        It stays unknown where features are stored already of which nobody said it.
        """
        is_empty = not self.read("SELECT FROM {pictures} LIMIT 1")
        others = None if is_empty else self.precisions
        if others == ():
            return
        known = ",".join(sorted({*(others or ()), precision})) if precision else None
        self._inside().note("precision", known)

    def set_calibration(self, text: str | None) -> None:
        """Keep what turns scores into probabilities, as JSON; None forgets it."""
        self._inside().note("calibration", text)

    # Pictures

    def add(self, picture: Picture, feature: Feature | StoredFeature) -> int:
        """Add a picture with its features, [embed_dim]; gives its row.

        A picture that another writer has added meanwhile, at this path or under this id, is
        changed instead, and keeps its row.
        """
        self._items.drop(picture.image_id)
        return self._inside().add(picture, encode(feature, self.embed_dim))

    def expect_items(self, image_ids: Sequence[str]) -> None:
        """Read these items, and whose they are, by one question instead of one each."""
        self._items.take(image_ids, self.find_items(image_ids) if image_ids else ())

    def replace(self, row: int, picture: Picture, feature: Feature | StoredFeature) -> None:
        """Put new content in a row: the file changed."""
        self._items.drop(picture.image_id)
        self._inside().replace(row, picture, encode(feature, self.embed_dim))

    def describe(self, row: int, picture: Picture) -> None:
        """Change what is known about a picture whose content is the same."""
        self._items.drop(picture.image_id)
        self._inside().describe(row, picture)

    def keep_recognised(self, content_hash: bytes, text: str) -> None:
        """Store the text that stands in the pictures of a content; empty where there is none."""
        self._inside().keep_recognised(content_hash, text)

    def remove(self, rows: Iterable[int]) -> None:
        """Forget pictures."""
        self._items.forget()
        self._inside().remove(rows)

    def forget_under(self, folder: bytes) -> int:
        """Forget all pictures of folders, and failures, below a folder; gives how many pictures."""
        low, high = bounds_under(folder)
        inside = self._inside()
        inside.forget_failures(low, high)
        return inside.delete("i.root IS NOT NULL AND i.path >= %s AND i.path < %s", (low, high))

    def forget_root(self, root: bytes) -> int:
        """Forget all pictures of an indexed folder, and failures below it; gives how many."""
        inside = self._inside()
        inside.forget_failures(*bounds_under(root))
        return inside.delete("i.root = %s", (root,))

    def find(self, path: bytes) -> Record | None:
        """Find the picture of a folder at a path, as the file system spells it.

        Outside a transaction, what others have written in the last seconds may be missing.
        """
        return super().find(path) if self._transaction else self._paths.get(path)

    def find_item(self, image_id: str) -> Record | None:
        """Find the picture from outside a folder that was added under an id."""
        if self._items.knows(image_id):
            return self._items.item(image_id)
        return super().find_item(image_id)

    # Files that failed, and what a walk has seen

    def fail(self, path: bytes, size: int | None, mtime_ns: int | None, reason: str) -> None:
        """Set a file aside; see :class:`~retrieval.records.Failure`."""
        self._inside().set_failure(path, failed_now(path, size, mtime_ns, reason))

    def forgive(self, path: bytes) -> None:
        """Forget a failure."""
        self._inside().set_failure(path, None)

    def mark_seen(self, paths: Iterable[bytes]) -> None:
        """Note files as still there, for :meth:`unseen_under`; forgotten on closing."""
        inside = self._transaction
        (self._seen_paths if inside is None else inside.seen_paths).update(paths)

    def unseen_under(self, folder: bytes, table: str = "images") -> list[bytes]:
        """Read the paths below a folder that no :meth:`mark_seen` named, in byte order.

        Args:
            folder: The folder, as the file system spells it.
            table: Which paths: ``images``, those of folders, or ``failures``.
        """
        inside = self._transaction
        now = inside.seen_paths if inside else set()
        return [
            path
            for path in self.paths_under(folder, table)
            if path not in self._seen_paths and path not in now
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # A transaction of this thread

    @property
    def _transaction(self) -> Transaction | None:
        return getattr(self._local, "transaction", None)

    def _inside(self) -> Transaction:
        inside = self._transaction
        assert inside is not None, "all writing is done inside a transaction"
        return inside

    def _assign(self, row: int, name: str) -> None:
        self._items.drop_owner(row)
        self._inside().assign(row, name)

    def _is_noted(self, row: int) -> bool:
        inside = self._transaction
        return row in self._seen_rows or (inside is not None and row in inside.seen_rows)

    def _grown(self, added: int) -> None:
        """Have the index of vectors be made beside who writes, where much has come."""
        self._unlooked += added
        is_building = self._builder is not None and self._builder.is_alive()
        if self._unlooked < _MANY or is_building:
            return
        # With an index, each vector that comes is compared with the centre of every list: a bulk
        # load has it made, or made anew, at its end.
        now = time.monotonic()
        is_bulk = now - self._looked_at < _BULK_SECONDS and now - self._opened_at < _POSTPONED
        self._unlooked, self._looked_at = 1, now
        if not is_bulk:
            self._builder = threading.Thread(target=self._build_if_due, name="clip-text-ivfflat")
            self._builder.start()

    def _build_if_due(self) -> None:
        # Searches go over all vectors meanwhile: whoever writes next tries it again.
        with contextlib.suppress(RetrievalError):
            if self.is_due():
                self.compact()

    def _begin(self, connection: TimedConnection) -> tuple[dict[str, str], bool]:
        """Begin, and wait until no other writer is at work."""
        connection.limit = _LOCK_SECONDS + 10.0
        with connection.pipeline():
            connection.execute("BEGIN")
            connection.execute(
                "SELECT set_config('lock_timeout', %s, true), "
                "set_config('statement_timeout', %s, true), set_config('synchronous_commit', "
                "CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' "
                "ELSE current_setting('synchronous_commit') END, true)",
                (f"{_LOCK_SECONDS}s", f"{_WRITE_SECONDS}s"),
            )
            statement = self.names.statement
            locked = connection.execute(
                statement("SELECT key FROM {meta} WHERE key = 'version' FOR UPDATE")
            )
            said = connection.execute(statement("SELECT key, value FROM {meta}"))
            read = connection.execute(statement("SELECT EXISTS (SELECT FROM {recognised})"))
            is_there = bool(locked.fetchall())
            meta, ((keeps_texts,),) = dict(said.fetchall()), read.fetchall()
        if not is_there:
            raise missing(self.address)
        return meta, keeps_texts

    def _end(self, connection: TimedConnection, inside: Transaction) -> None:
        """Tell everybody that something was written."""
        keys = ["version", "generation"] if inside.changed_features else ["version"]
        connection.execute(
            self.names.statement(
                "UPDATE {meta} SET value = (value::bigint + 1)::text WHERE key = ANY(%s::text[])"
            ),
            (keys,),
        )


def _is_a_store(store: PostgresStore) -> "RemoteStore":
    return store  # for the type checker: it has all that is asked of one
