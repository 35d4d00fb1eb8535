"""A collection's address → its tables, made where they are absent, and connections to them."""

import hashlib
import re
import uuid
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import psycopg
from psycopg import conninfo as libpq
from psycopg.types import TypeInfo

from retrieval.errors import (
    CorruptIndexError,
    StoreAccessError,
    StoreAddressError,
)
from retrieval.stores.address import SCHEMES, StoreAddress
from retrieval.stores.postgresql.connections import Connections, TimedConnection
from retrieval.stores.postgresql.names import Names
from retrieval.stores.postgresql.trouble import missing, translated

__all__ = ["OLDEST_EXTENSION", "OLDEST_SERVER", "Opened", "lock_key", "migrations", "opened"]

OLDEST_SERVER = 14
OLDEST_EXTENSION = (0, 8)
"""The first pgvector that goes on looking where a filter leaves too few (iterative scans)."""
_WIDEST = 3900  # what fits into one page of the server, in halves

_CONNECT_SECONDS = 5
_LIMIT_SECONDS = 15.0
# A network that is gone is noticed, whichever call waits for it.
_USUAL = {
    "application_name": "clip-text",
    "connect_timeout": str(_CONNECT_SECONDS),
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}


@dataclass(frozen=True, slots=True)
class Opened:
    """A collection that is there.

    Args:
        names: Its tables.
        connections: To its server.
        meta: What it says of itself.
    """

    names: Names
    connections: Connections
    meta: dict[str, str]


def opened(address: StoreAddress, fingerprint: str | None, embed_dim: int | None) -> Opened:
    """Open a collection; with both of ``fingerprint`` and ``embed_dim``, make it where absent.

    Raises:
        RetrievalError: As :func:`retrieval.stores.connect`.
    """
    wanted = _conninfo(address)
    options = dict(address.options)
    limit = _seconds(address, options.get("timeout"))
    names = Names(address.name)
    try:
        with closing(TimedConnection.connect(wanted, autocommit=True)) as connection:
            connection.limit = limit
            _check_server(connection, address)
            schema = _schema(connection, address, options.get("schema"))
            making = None if fingerprint is None or embed_dim is None else (fingerprint, embed_dim)
            if making and making[1] > _WIDEST:
                raise StoreAccessError(
                    f"expected features of width {_WIDEST} at most in PostgreSQL, got {making[1]}. "
                    "Use an index in a folder."
                )
            extension = _extension(connection, address, may_make=making is not None)
            connection.execute(
                "SELECT set_config('search_path', %s, false)", (f"{schema}, {extension}",)
            )
            meta = _meta_of(connection, names, address)
            if _is_due(meta, address):
                if making is None and meta is None:
                    raise missing(address)
                if making is not None:
                    connection.limit = None  # another one may be making it
                    meta = _migrated(connection, names, address, schema, making)
                    connection.limit = limit
            assert meta is not None
            halfvec = TypeInfo.fetch(connection, "halfvec")
            assert halfvec is not None
    except psycopg.Error as error:
        raise translated(error, address) from error
    settings = {
        "search_path": f"{schema}, {extension}",
        "statement_timeout": f"{round(limit * 1000)}",
        "idle_in_transaction_session_timeout": "300000",
    }
    return Opened(names, Connections(address, wanted, settings, halfvec, limit), meta)


def lock_key(schema: str, name: str) -> int:
    """Number the server-wide lock of who makes or renames a collection."""
    digest = hashlib.blake2b(f"clip-text\0{schema}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def migrations() -> list[tuple[int, str]]:
    """Read the steps from nothing to today's tables: their numbers, and SQL."""
    folder = files(__package__) / "migrations"
    found = [file for file in folder.iterdir() if file.name.endswith(".sql")]
    return sorted((int(file.name.split("_")[0]), file.read_text("utf-8")) for file in found)


def _conninfo(address: StoreAddress) -> str:
    """Write what libpq is given: the address, its options, and ours where it has none."""
    own = {"schema", "timeout"}
    options = {key: value for key, value in address.options if key not in own}
    try:
        named = libpq.conninfo_to_dict(address.server, **options)
        if not named.get("dbname"):
            raise StoreAddressError(
                f"expected an address like {SCHEMES['postgresql']}, got {address}, which names no "
                "database. Add it before the table."
            )
        return libpq.make_conninfo("", **{**_USUAL, **named, "client_encoding": "UTF8"})
    except psycopg.ProgrammingError as error:
        said = re.sub(r'"[^"]*://[^"]*"', "it", " ".join(str(error).split()))
        raise StoreAddressError(
            f"expected an address like {SCHEMES['postgresql']}, got {address}: {said}. Mend it."
        ) from None


def _seconds(address: StoreAddress, text: str | None) -> float:
    if text is None:
        return _LIMIT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise StoreAddressError(
            f"expected 0.1 to 3600 seconds as timeout of {address}, got {text!r}. Correct it."
        )
    return seconds


def _check_server(connection: TimedConnection, address: StoreAddress) -> None:
    version = connection.info.server_version
    if version < OLDEST_SERVER * 10_000:
        raise StoreAccessError(
            f"expected PostgreSQL {OLDEST_SERVER} or later at {address}, got {version // 10_000}. "
            "Have the server updated."
        )
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise StoreAccessError(
            f"expected a database in UTF8 at {address}, got {encoding}. Make another: "
            "createdb --encoding=UTF8 --template=template0."
        )


def _schema(connection: TimedConnection, address: StoreAddress, named: str | None) -> str:
    """Give the schema of the tables, quoted."""
    sql = "SELECT quote_ident(coalesce((SELECT nspname FROM pg_namespace WHERE nspname = %s), ''))"
    if named is None:
        sql = "SELECT quote_ident(coalesce(current_schema(), %s))"
    ((schema,),) = connection.execute(sql, (named or "",)).fetchall()
    if schema == '""':
        raise StoreAddressError(
            f"expected a schema that there is at {address}, got {named or 'none'}. Make it: "
            "CREATE SCHEMA."
        )
    return str(schema)


def _extension(connection: TimedConnection, address: StoreAddress, *, may_make: bool) -> str:
    """Give the schema of pgvector, quoted; what is not installed is, where that may be done."""
    sql = (
        "SELECT quote_ident(nspname), extversion FROM pg_extension "
        "JOIN pg_namespace ON extnamespace = pg_namespace.oid WHERE extname = 'vector'"
    )
    found = connection.execute(sql).fetchone()
    oldest = ".".join(map(str, OLDEST_EXTENSION))
    if found is None and may_make:
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateObject):
            pass  # another one has made it meanwhile
        except psycopg.DatabaseError as error:
            if error.sqlstate is None:
                raise
            raise _no_extension(address, str(error.diag.message_primary)) from error
        found = connection.execute(sql).fetchone()
    if found is None:
        raise _no_extension(address, "it is not there")
    schema, version = found
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST_EXTENSION:
        raise StoreAccessError(
            f"expected the extension pgvector {oldest} or later at {address}, got {version}. Have "
            "the server's administrator update it: ALTER EXTENSION vector UPDATE."
        )
    return str(schema)


def _no_extension(address: StoreAddress, said: str) -> StoreAccessError:
    oldest = ".".join(map(str, OLDEST_EXTENSION))
    return StoreAccessError(
        f"expected the extension pgvector {oldest} or later at {address}, got: {said}. Have the "
        "server's administrator install it: CREATE EXTENSION vector."
    )


def _meta_of(
    connection: TimedConnection, names: Names, address: StoreAddress
) -> dict[str, str] | None:
    """Read what a collection says of itself; None where there is nothing of this name.

    Raises:
        CorruptIndexError: If what is there is not ours.
    """
    # not by to_regclass, which knows nothing yet of what another has just made
    sql = (
        "SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "
        "WHERE nspname = current_schema() AND relname = ANY(%s)"
    )
    wanted = {names["pictures"], names["meta"]}
    there = {name for (name,) in connection.execute(sql, (list(wanted),)).fetchall()}
    if not there:
        return None
    try:
        found = connection.execute(names.statement("SELECT key, value FROM {meta}")).fetchall()
        meta = dict(found)
        assert there == wanted
        assert {"uid", "fingerprint"} <= meta.keys()
        int(meta["schema_version"])
        int(meta["embed_dim"])
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        raise _not_ours(address) from error
    except (AssertionError, KeyError, ValueError, TypeError) as error:
        raise _not_ours(address) from error
    return meta


def _not_ours(address: StoreAddress) -> CorruptIndexError:
    return CorruptIndexError(
        f"expected an index of clip-text at {address}, got tables of another kind. Name another "
        "table, or rename those."
    )


def _is_due(meta: dict[str, str] | None, address: StoreAddress) -> bool:
    """Tell whether there are steps to be taken.

    Raises:
        CorruptIndexError: If a newer version of this package took some more.
    """
    newest = migrations()[-1][0]
    version = int(meta["schema_version"]) if meta else 0
    if version > newest:
        raise CorruptIndexError(
            f"expected an index of schema version 1 to {newest} at {address}, got {version}, which "
            "a newer clip-text wrote. Update clip-text (pip install -U clip-text), or use another "
            "table; nothing was changed."
        )
    return version < newest


def _migrated(
    connection: TimedConnection,
    names: Names,
    address: StoreAddress,
    schema: str,
    making: tuple[str, int],
) -> dict[str, str]:
    """Make or update the tables, all steps or none; of several who begin at once, one does it."""
    fingerprint, embed_dim = making
    with connection.transaction():
        key = lock_key(schema, names.name)
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (key,))
        meta = _meta_of(connection, names, address)
        done = int(meta["schema_version"]) if meta else 0
        width = int(meta["embed_dim"]) if meta else embed_dim
        steps = [(number, text) for number, text in migrations() if number > done]
        for _, text in steps:
            connection.execute(names.migration(text, width))
        if meta is None:
            said = {
                "uid": uuid.uuid4().hex,
                "fingerprint": fingerprint,
                "embed_dim": str(embed_dim),
                "generation": "0",
                "version": "0",
            }
            _insert(connection, names, said.items())
        if steps:
            _insert(connection, names, [("schema_version", str(steps[-1][0]))])
        meta = _meta_of(connection, names, address)
        assert meta is not None
    return meta


def _insert(connection: TimedConnection, names: Names, lines: Any) -> None:  # noqa: ANN401
    sql = names.statement(
        "INSERT INTO {meta} VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    )
    for line in lines:
        connection.execute(sql, line)
