"""What PostgreSQL and its client library raise, in this package's words."""

import re

import psycopg

from retrieval.errors import (
    IndexNotFoundError,
    RetrievalError,
    StorageError,
    StoreAccessError,
    StoreAddressError,
    StoreUnavailableError,
)
from retrieval.stores.address import StoreAddress

__all__ = ["is_passing", "missing", "translated"]

_FATAL = re.compile(r"(?:FATAL|SEVERE|PANIC):\s*")
_PASSWORDS = ("password authentication failed", "no password supplied", "authentication failed")
_STARTING = ("starting up", "shutting down", "in recovery mode", "too many clients")


def missing(address: StoreAddress) -> IndexNotFoundError:
    """Say that there is no such collection."""
    return IndexNotFoundError(
        f"expected an index at {address}, got none. Build one with: "
        f"clip-text index FOLDER --index {address}"
    )


def is_passing(error: psycopg.Error) -> bool:
    """Tell whether the same is worth asking again, on another connection."""
    if isinstance(error, psycopg.errors.ConnectionTimeout):
        return False
    state = error.sqlstate
    if state is None:  # the connection ended
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state.startswith("08") or state in {"57P01", "57P02", "57P03", "40001", "40P01"}


def translated(error: psycopg.Error, address: StoreAddress) -> RetrievalError:
    """Say what went wrong at an address; never with a password.

    Args:
        error: What the client library raised.
        address: Where.
    """
    said = _said(error)
    state = error.sqlstate
    if state is None:
        return _of_connection(error, said, address)
    told: RetrievalError
    match state[:2], state:
        case _, "53100":
            told = StorageError(
                f"expected room for the index at {address}, got: {said}. Free some on the server; "
                "what was acknowledged is kept."
            )
        case ("08" | "53" | "57" | "40", _) | (_, "55P03" | "25006" | "25P03"):
            told = _unavailable(said, address)
        case ("28", _) | (_, "42501"):
            told = _not_let_in(said, address)
        case "3D", _:
            told = _no_database(said, address)
        case _, "42P01":
            told = missing(address)
        case _:
            told = StorageError(
                f"expected the index at {address} to do what is asked, got: {said}. Look at the "
                "server's log."
            )
    return told


def _of_connection(error: psycopg.Error, said: str, address: StoreAddress) -> RetrievalError:
    """Tell apart, by words alone, why there is no connection."""
    pgconn = getattr(error, "pgconn", None)
    lower = said.lower()
    if any(words in lower for words in _STARTING):
        return _unavailable(said, address)
    refused = bool(pgconn and (pgconn.needs_password or pgconn.used_password))
    if "does not exist" in lower and "database" in lower:
        return _no_database(said, address)
    if "invalid" in lower and "value" in lower:  # of an option
        return StoreAddressError(
            f"expected options that libpq takes at {address}, got: {said}. Correct them."
        )
    if (refused and _FATAL.search(str(error))) or any(words in lower for words in _PASSWORDS):
        return StoreAccessError(
            f"expected a user and password that the server at {address} takes, got: {said}. "
            "Correct them in the address, or in ~/.pgpass."
        )
    if "pg_hba.conf" in lower or ("does not exist" in lower and "role" in lower):
        return _not_let_in(said, address)
    return _unavailable(said, address)


def _not_let_in(said: str, address: StoreAddress) -> StoreAccessError:
    return StoreAccessError(
        f"expected to be let in to {address}, got: {said}. Name another user, or have the "
        "server's administrator grant it."
    )


def _unavailable(said: str, address: StoreAddress) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"expected an answer from the server of {address}, got: {said}. Start it, or ask again "
        "later; what was acknowledged is kept."
    )


def _no_database(said: str, address: StoreAddress) -> StoreAddressError:
    return StoreAddressError(
        f"expected a database that there is at {address}, got: {said}. Name another, or make it: "
        "createdb."
    )


def _said(error: psycopg.Error) -> str:
    """Give the message on one line, without what stands before it."""
    text = (error.diag.message_primary if error.diag else None) or str(error)
    text = _FATAL.split(text)[-1] if _FATAL.search(text) else text
    return " ".join(text.split()).rstrip(".") or type(error).__name__
