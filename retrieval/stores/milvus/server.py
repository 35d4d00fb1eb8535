"""The server behind its client library: calls with a limit of time, and its errors as ours."""

import importlib
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import grpc
import numpy as np
from pymilvus.exceptions import MilvusException

from retrieval.errors import (
    IndexNotFoundError,
    RetrievalError,
    StorageError,
    StoreAccessError,
    StoreAddressError,
    StoreUnavailableError,
)
from retrieval.protocols import Features
from retrieval.stores.address import StoreAddress

__all__ = ["MOST_FOUND", "Hits", "Server"]

T = TypeVar("T")

MOST_FOUND = 16_384
"""Entities that one query or search may give; the server's own limit."""

Hits = list[tuple[float, int]]
"""What a search found: scores and rows, the best first."""

_READ_SECONDS = 5.0
_WRITE_SECONDS = 15.0
_MAKE_SECONDS = 60.0  # to make a collection and to load it
_PATIENCE_SECONDS = 6.0  # from the first failure of a read, with what is tried again
_FIRST_PAUSE = 0.1
_COMING_BACK_SECONDS = 3.0
_OLDEST = (2, 3)

_NO_COLLECTION, _NOT_LOADED, _NO_DATABASE = 100, 101, 800
# not ready, unavailable, not loaded yet, and nodes, channels and segments on their way
_PASSING = frozenset(
    {1, 2, 4, 8, _NOT_LOADED, 103, 400, 500, 501, 503, 600, 601, 602, 900, 901, 902, 1000}
)
_PASSING_TEXT = re.compile(
    r"not ready|unavailable|not available|no available|not servic|connection refused|EOF"
    r"|deadline exceeded|Retry timeout|Fail connecting|not initialized|shutting down"
    r"|failed to connect|node not match|not found in distribution|closed",
    re.IGNORECASE,
)
_REFUSED_TEXT = re.compile(
    r"auth check failure|authenticat|permission ?deny|permission ?denied|privilege", re.IGNORECASE
)
_NO_DATABASE_TEXT = re.compile(r"database (\S+ )?not (found|exist)|find database", re.IGNORECASE)
_GONE_CODES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
    }
)
_REFUSED_CODES = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})


class Server:
    """A Milvus server, or Milvus Lite in a file. Safe to use from several threads.

    Args:
        address: Of a collection that it keeps.

    Raises:
        StoreAddressError: If it has no such database, or the address has unknown options.
        StoreUnavailableError: If it does not answer.
        StoreAccessError: If it refuses the credentials, or is too old.
    """

    def __init__(self, address: StoreAddress) -> None:
        self._address = address
        if address.options:
            raise StoreAddressError(
                f"expected an address without ?, got {address.options[0][0]!r} behind it. Leave "
                "it out."
            )
        # what goes wrong it logs with a stack trace each time; here it becomes one line
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        self._loading = threading.Lock()
        self._client = self.run(self._connect)
        version = str(self.run(self._client.get_server_version, timeout=_READ_SECONDS))
        self.version = version
        """As the server names it."""
        self.is_lite = "lite-" in version.lower()
        """Milvus Lite, which sees every write at once, and has no time to ask for."""
        self._check_version(version)
        if not self.is_lite and urlsplit(address.server).path.strip("/"):
            # asked for a collection of a database that is not there, 2.3 misses the collection
            self.run(self._client.list_collections, timeout=_READ_SECONDS)

    def _connect(self) -> Any:  # noqa: ANN401  (pymilvus has no types)
        client = importlib.import_module("pymilvus").MilvusClient
        scheme, parts = self._address.server.partition(":")[0], urlsplit(self._address.server)
        if scheme.lower() == "milvus+file":
            if not parts.path.endswith(".db"):
                raise StoreAddressError(
                    "expected an address like milvus+file:///FOLDER/FILE.db/COLLECTION, got "
                    f"{self._address}. Name a file that ends in .db."
                )
            return client(uri=unquote(parts.path), timeout=_READ_SECONDS)
        transport = "https" if scheme.lower() == "milvus+https" else "http"
        host = parts.hostname or "localhost"
        host = f"[{host}]" if ":" in host else host
        token = ""
        if parts.username is not None:
            token = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return client(
            uri=f"{transport}://{host}:{parts.port or 19530}",
            token=token,
            db_name=unquote(parts.path.strip("/")),
            timeout=_READ_SECONDS,
            dedicated=True,
        )

    def _check_version(self, version: str) -> None:
        found = re.search(r"(\d+)\.(\d+)", version)
        if not self.is_lite and found and (int(found[1]), int(found[2])) < _OLDEST:
            raise StoreAccessError(
                f"expected Milvus {'.'.join(map(str, _OLDEST))} or newer at {self._address}, got "
                f"{version}. Update the server."
            )

    # Reads

    def describe(self, name: str) -> dict[str, Any] | None:
        """Tell what a collection, or the one behind an alias, is; None if there is none."""
        try:
            described: dict[str, Any] = self.run(
                self._client.describe_collection, name, timeout=_READ_SECONDS
            )
        except IndexNotFoundError:
            return None
        return described

    def query(
        self,
        name: str,
        expression: str,
        fields: list[str],
        since: int | None,
        limit: int = MOST_FOUND,
    ) -> list[dict[str, Any]]:
        """Read entities.

        Args:
            name: The collection's.
            expression: Which; at most :data:`MOST_FOUND` may fit it, where it is to be complete.
            fields: What to read of each.
            since: What was written up to this time of the server's must be seen; None for all
                that was acknowledged when it is asked.
            limit: How many at most.
        """
        found = self.run(
            self._client.query,
            name,
            filter=expression,
            output_fields=fields,
            limit=limit,
            timeout=_READ_SECONDS,
            collection=name,
            **_consistency(since),
        )
        return [dict(entity) for entity in found]

    def count(self, name: str, expression: str, since: int | None) -> int:
        """Count entities; see :meth:`query`."""
        counted = self.run(
            self._client.query,
            name,
            filter=expression,
            output_fields=["count(*)"],
            timeout=_READ_SECONDS,
            collection=name,
            **_consistency(since),
        )
        return int(counted[0]["count(*)"])

    def search(
        self,
        name: str,
        features: Features,
        limit: int,
        *,
        expression: str,
        probes: int,
        since: int | None,
    ) -> list[Hits]:
        """Find the nearest entities of each feature.

        Args:
            name: The collection's.
            features: Unit rows, [q, embed_dim].
            limit: How many, at most :data:`MOST_FOUND`.
            expression: Which entities to look at; empty for all.
            probes: How many lists of the index to look into.
            since: See :meth:`query`.
        """
        found = self.run(
            self._client.search,
            name,
            data=list(np.asarray(features, np.float32)),
            limit=limit,
            filter=expression,
            search_params={"metric_type": "IP", "params": {"nprobe": probes}},
            output_fields=["row"],
            timeout=2 * _READ_SECONDS,
            collection=name,
            **_consistency(since),
        )
        return [[(float(hit["distance"]), _row_of(hit)) for hit in hits] for hits in found]

    # Writes

    def upsert(self, name: str, entities: Sequence[Mapping[str, Any]]) -> int:
        """Write entities, in the place of those with the same rows; gives the server's time."""
        return self._mutate("upsert_rows", name, entities=list(entities))

    def delete(self, name: str, expression: str) -> None:
        """Remove entities."""
        self._mutate("delete", name, expression=expression)

    def _mutate(self, what: str, name: str, **arguments: object) -> int:
        # the client's own methods do not tell the time, which their answer from the server has
        handler = self._client._get_connection()
        done = self.run(
            getattr(handler, what),
            collection_name=name,
            timeout=_WRITE_SECONDS,
            collection=name,
            **arguments,
        )
        return int(done.timestamp or 0)

    def set_properties(self, name: str, properties: Mapping[str, str]) -> None:
        """Have a collection say something of itself; what it says beside that stays."""
        self.run(
            self._client.alter_collection_properties,
            name,
            properties=dict(properties),
            timeout=_WRITE_SECONDS,
        )

    # Collections

    def make(
        self, name: str, columns: Mapping[str, str], width: int, index: Mapping[str, Any]
    ) -> None:
        """Make a collection, with an index of its ``feature``, and load it.

        Args:
            name: Its own.
            columns: Beside ``row`` and ``feature``: names, and of each ``INT64`` or ``JSON``.
            width: Of the features.
            index: As the server calls it.
        """
        types = importlib.import_module("pymilvus").DataType
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("row", types.INT64, is_primary=True)
        schema.add_field("feature", types.FLOAT_VECTOR, dim=width)
        for column, kind in columns.items():
            schema.add_field(column, types[kind])
        indexes = self._client.prepare_index_params()
        indexes.add_index("feature", metric_type="IP", **index)
        self.run(
            self._client.create_collection,
            name,
            schema=schema,
            index_params=indexes,
            consistency_level="Strong",
            timeout=_MAKE_SECONDS,
        )

    def drop(self, name: str) -> None:
        """Remove a collection and all that is in it."""
        self.run(self._client.drop_collection, name, timeout=_WRITE_SECONDS)

    def name_by(self, alias: str, name: str) -> bool:
        """Give a collection another name; False if that is taken."""
        try:
            self.run(self._client.create_alias, name, alias, timeout=_WRITE_SECONDS)
        except StorageError as error:
            if self.describe(alias) is None or isinstance(error, StoreUnavailableError):
                raise
            return False
        return True

    def rename_to(self, alias: str, name: str) -> None:
        """Let an alias stand for another collection from now on."""
        self.run(self._client.alter_alias, name, alias, timeout=_WRITE_SECONDS)

    def flush(self, name: str, seconds: float) -> None:
        """Have what was written be sealed, which indexes it."""
        self.run(self._client.flush, name, timeout=seconds)

    def merge(self, name: str) -> None:
        """Have small segments be merged, and removed entities be forgotten, some time later."""
        self.run(self._client.compact, name, timeout=_WRITE_SECONDS)

    def index_state(self, name: str) -> dict[str, Any]:
        """Tell how far the index of the features is."""
        told: dict[str, Any] = self.run(
            self._client.describe_index, name, "feature", timeout=_READ_SECONDS
        )
        return told

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    # Errors

    def run(
        self, call: Callable[..., T], *args: object, collection: str = "", **kwargs: object
    ) -> T:
        """Call the client library; what passes is tried again for some seconds.

        All that is called may be called twice: reads, and writes that come to the same.

        Args:
            call: Of the library.
            *args: Its arguments.
            collection: Is loaded where the server has not done that since it started.
            **kwargs: Its arguments.
        """
        started, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            try:
                return call(*args, **kwargs)
            except (MilvusException, grpc.RpcError, ValueError) as error:
                if isinstance(error, ValueError) and "closed channel" not in str(error):
                    raise
                told = self._as_ours(error)
                is_late = time.monotonic() - started + pause > _PATIENCE_SECONDS
                if getattr(error, "code", None) == _NOT_LOADED and collection and not is_late:
                    self._load(collection)
                elif is_late or not isinstance(told, StoreUnavailableError):
                    raise told from error
            time.sleep(pause)
            pause *= 2

    def _load(self, name: str) -> None:
        """Load a collection, unless the server is at it, as it is for a while after it started.

        Asked meanwhile, 2.3 serves the collection before it has its pictures: as an empty one.
        """
        with self._loading:
            deadline = time.monotonic() + _COMING_BACK_SECONDS
            while True:  # a server that has just started does not know yet that it will load it
                told = self.run(self._client.get_load_state, name, timeout=_READ_SECONDS)
                if getattr(told["state"], "name", "") in {"Loading", "Loaded"}:
                    return
                if time.monotonic() > deadline:
                    break
                time.sleep(_FIRST_PAUSE)
            self.run(self._client.load_collection, name, timeout=_MAKE_SECONDS)

    def _as_ours(self, error: Exception) -> RetrievalError:
        code = getattr(error, "code", None)
        code = code() if callable(code) else code
        text = _line_of(error)
        if code in _REFUSED_CODES or _REFUSED_TEXT.search(text) or _is_refusal(error):
            return StoreAccessError(
                f"expected {self._address} to accept who asks, got a refusal. Name a user and "
                "password that may: milvus://USER:PASSWORD@HOST:PORT/COLLECTION."
            )
        if code == _NO_DATABASE or _NO_DATABASE_TEXT.search(text):
            return StoreAddressError(
                f"expected a database that the server has, got {self._address}. Make it there, or "
                "name another."
            )
        if code == _NO_COLLECTION:
            return IndexNotFoundError(
                f"expected an index at {self._address}, got none. Build one with: clip-text index "
                f"FOLDER --index {self._address}"
            )
        if code in _GONE_CODES or code in _PASSING or _PASSING_TEXT.search(text):
            return StoreUnavailableError(
                f"expected an answer from {self._address}, got none: {text[:300]}. Is the server "
                "running? What was acknowledged is kept there; ask again."
            )
        return StorageError(
            f"expected {self._address} to do what it was asked, got: {text[:500]}. See the "
            "server's log."
        )


def _is_refusal(error: BaseException | None) -> bool:
    """Tell whether a refusal is behind an error: at first, the client calls it unavailable."""
    seen: set[int] = set()  # the client raises errors from themselves
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        code = getattr(error, "code", None)
        if (code() if callable(code) else code) in _REFUSED_CODES:
            return True
        cause = error.__cause__
        error = error.__context__ if cause is None or cause is error else cause
    return False


def _consistency(since: int | None) -> dict[str, Any]:
    if since is None:
        return {"consistency_level": "Strong"}
    return {"consistency_level": "Customized", "guarantee_timestamp": since}


def _row_of(hit: Any) -> int:  # noqa: ANN401  (pymilvus has no types)
    entity = hit.get("entity") or {}
    return int(entity["row"] if "row" in entity else hit.get("row", hit.get("id")))


def _line_of(error: Exception) -> str:
    text = getattr(error, "message", None) or getattr(error, "details", lambda: None)
    text = text() if callable(text) else text
    return " ".join(str(text or error).split())
