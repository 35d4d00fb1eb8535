"""Numbers and texts that a server compares as we would: hashes, and keys in the order of values."""

import hashlib
import math
import struct

from retrieval.filters.values import NUMBER, TEXT, Value

__all__ = ["LONGEST_TEXT", "ROWS_END", "field_key", "hash_of", "hex_of", "row_of", "value_key"]

ROWS_END = 1 << 53
"""Rows are below it: JavaScript has all whole numbers up to here."""

LONGEST_TEXT = 200
"""Bytes of a text that its key has; what is longer is equal, and no more, by its key."""

_LONGEST_FIELD = 64  # bytes
_SIGN = 1 << 63


def hash_of(*parts: bytes) -> int:
    """Hash some bytes to a number from 1 to 2**53 - 1; what is equal has one hash.

    Args:
        parts: Told apart by where each ends.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return int.from_bytes(digest.digest(), "big") % (ROWS_END - 1) + 1


def row_of(root: bytes | None, path: bytes | None, image_id: str, attempt: int = 0) -> int:
    """Give the row that a new picture tries first, or after some that others have.

    Whoever adds a picture comes to the same rows in the same order, so that two who add one at
    the same time write to one row.

    Args:
        root: None for a picture that is of no folder.
        path: Its file; what it is known by in a folder.
        image_id: What it is known by elsewhere.
        attempt: How many rows were taken.
    """
    kind, identity = (b"item", image_id.encode()) if root is None else (b"file", path or b"")
    return hash_of(kind, identity, b"%d" % attempt)


def hex_of(data: bytes | None) -> str | None:
    """Spell bytes so that their order, and what they begin with, stay as they were."""
    return None if data is None else data.hex()


def field_key(field: str) -> str:
    """Spell the name of a field of metadata in letters that need no escaping."""
    name = field.encode()
    if len(name) <= _LONGEST_FIELD:
        return name.hex()
    return "_" + hashlib.blake2b(name, digest_size=16).hexdigest()


def value_key(value: Value) -> str:
    """Spell a value so that keys of one kind are in the order of their values.

    Numbers are compared exactly, whole ones with others too. Of a text beyond
    :data:`LONGEST_TEXT` bytes the key has the beginning and a hash of all.
    """
    kind, plain = value
    if kind == TEXT:
        text = str(plain).encode()
        if len(text) <= LONGEST_TEXT:
            return text.hex()
        return text[:LONGEST_TEXT].hex() + "_" + hashlib.blake2b(text, digest_size=16).hexdigest()
    if kind == NUMBER:
        assert not isinstance(plain, str)
        return _number_key(plain)
    return str(plain)


def _number_key(number: float) -> str:
    """Spell a number: the bits of the double at or below it, in order, and what is left of it."""
    double = float(number)
    rest = 0
    if isinstance(number, int):
        if int(double) > number:
            double = math.nextafter(double, -math.inf)
        rest = number - int(double)
    (bits,) = struct.unpack(">Q", struct.pack(">d", double + 0.0))  # -0.0 is 0.0
    ordered = bits ^ (2 * _SIGN - 1) if bits & _SIGN else bits | _SIGN
    return f"{ordered:016x}{rest:03x}"
