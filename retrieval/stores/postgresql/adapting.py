"""How values get to PostgreSQL and back: texts with NUL, and features as they are stored."""

from typing import Any

import numpy as np
from pgvector import HalfVector
from pgvector.psycopg.halfvec import register_halfvec_info
from psycopg import Connection
from psycopg.adapt import Buffer, Loader
from psycopg.pq import Format
from psycopg.types import TypeInfo
from psycopg.types.string import (
    StrBinaryDumper,
    StrDumper,
    StrDumperUnknown,
    TextBinaryLoader,
    TextLoader,
)

from retrieval.catalogue.halves import HALF, StoredFeature

__all__ = ["HalfVector", "adapt", "escaped", "unescaped"]

_TEXTS = (25, 1043)  # what types text and varchar are known by
_HEADER = 4  # bytes before a halfvec's numbers
_BIG_ENDIAN = np.dtype(">f2")


def escaped(text: str) -> str:
    """Write a text without NUL, which PostgreSQL takes in none.

    The order of texts, and which begins another, stay as they were.
    """
    if "\0" in text or "\1" in text:
        return text.replace("\1", "\1\2").replace("\0", "\1\1")
    return text


def unescaped(text: str) -> str:
    """Read what :func:`escaped` wrote."""
    if "\1" in text:
        return text.replace("\1\1", "\0").replace("\1\2", "\1")
    return text


class _Unknown(StrDumperUnknown):
    def dump(self, obj: str) -> Buffer | None:
        return super().dump(escaped(obj))


class _Text(StrDumper):
    def dump(self, obj: str) -> Buffer | None:
        return super().dump(escaped(obj))


class _Binary(StrBinaryDumper):
    def dump(self, obj: str) -> Buffer | None:
        return super().dump(escaped(obj))


class _Loader(TextLoader):
    def load(self, data: Buffer) -> str:
        return unescaped(str(super().load(data)))


class _BinaryLoader(TextBinaryLoader):
    def load(self, data: Buffer) -> str:
        return unescaped(str(super().load(data)))


class _Stored(Loader):
    """Gives a feature in the digits that are stored, float16 [embed_dim]."""

    format = Format.BINARY

    def load(self, data: Buffer) -> StoredFeature:
        return np.frombuffer(data, _BIG_ENDIAN, offset=_HEADER).astype(HALF)


def adapt(connection: Connection[Any], halfvec: TypeInfo) -> None:
    """Have a connection take and give texts and features as the store does.

    Args:
        connection: A new one.
        halfvec: What the server says of the type.
    """
    adapters = connection.adapters
    for dumper in (_Binary, _Text, _Unknown):  # the last one is the usual one
        adapters.register_dumper(str, dumper)
    for oid in _TEXTS:
        adapters.register_loader(oid, _Loader)
        adapters.register_loader(oid, _BinaryLoader)
    register_halfvec_info(connection, halfvec)
    adapters.register_loader(halfvec.oid, _Stored)
