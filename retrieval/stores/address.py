"""Where an index is: a folder, or a collection that a server keeps."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from retrieval.errors import StoreAddressError

__all__ = ["SCHEMES", "Location", "StoreAddress", "as_location"]

SCHEMES = {
    "milvus": "milvus://HOST:PORT/COLLECTION",
    "postgresql": "postgresql://USER@HOST/DATABASE/TABLE",
}
"""Servers that keep indexes, and how a collection in one is named. ``postgres`` and
``milvus+https`` (with TLS), ``milvus+file`` (Milvus Lite, for trying out) are understood, too."""

_ALIASES = {
    "milvus": "milvus",
    "milvus+https": "milvus",
    "milvus+file": "milvus",
    "postgresql": "postgresql",
    "postgres": "postgresql",
}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# Both servers take these as they are, in every statement.
_PASSWORD, _HIDDEN = re.compile(r"(//[^/@:]*):[^/]*@"), r"\1:***@"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,47}")


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """A collection that a server keeps.

    Args:
        scheme: Which kind of server: a key of :data:`SCHEMES`.
        server: Its address without the collection, password included: what its client library
            is given.
        name: Of the collection or table; letters, digits and ``_``.
        options: What stands behind ``?``.
    """

    scheme: str
    server: str
    name: str
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """Spell it for people: without a password."""
        return f"{_PASSWORD.sub(_HIDDEN, self.server)}/{self.name}"

    def __repr__(self) -> str:
        return f"StoreAddress({str(self)!r})"


Location = Path | StoreAddress
"""Where an index is."""


def as_location(text: str | Path | StoreAddress) -> Location:
    """Read what ``--index`` says.

    Args:
        text: A folder, or an address like ``milvus://localhost:19530/photos``.

    Raises:
        StoreAddressError: If it is the address of no server that indexes can be on, or names no
            collection.
    """
    if not isinstance(text, str) or not (found := _SCHEME.match(text)):
        return Path(text) if isinstance(text, str) else text
    scheme = found[0][:-3].lower()
    if scheme not in _ALIASES:
        raise StoreAddressError(
            f"expected a folder or one of {', '.join(SCHEMES.values())}, got an address that "
            f"begins with {scheme}://. Name one of these."
        )
    kind = _ALIASES[scheme]
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  raises if it is none
    except ValueError as error:
        raise StoreAddressError(
            f"expected an address like {SCHEMES[kind]}, got one that cannot be read: {error}. "
            "Mend it."
        ) from error
    server, _, name = parts.path.rpartition("/")
    name = unquote(name)
    if not _NAME.fullmatch(name):
        raise StoreAddressError(
            f"expected an address like {SCHEMES[kind]}, with a name of letters, digits and _ (48 "
            f"at most) at its end, got {name or 'none'!r}. Add it."
        )
    server = f"{scheme}://{parts.netloc}{server}"
    return StoreAddress(kind, server, name, tuple(parse_qsl(parts.query)))
