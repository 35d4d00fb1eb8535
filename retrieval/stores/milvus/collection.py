"""A collection as of one moment: found by its name, and read page by page.

The name in an address is an alias of the server's; the collection that it stands for has a name of
its own, so that making one and swapping one for another are single steps. What an index says of
itself stands in the collection's properties, which the server keeps apart from the pictures and
answers at once.

Reads must see whatever was acknowledged before they began. The server's own way ("Strong") is to
wait for the next tick of its clock, which takes it 200 ms or more for each read. So writers leave
the server's time of their last write in a property, and readers ask for everything up to it: the
same guarantee, without waiting where nothing is being written.
"""

import contextlib
import math
import secrets
import threading
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from retrieval.errors import (
    CorruptIndexError,
    IndexNotFoundError,
    StorageError,
)
from retrieval.stores.address import StoreAddress
from retrieval.stores.milvus.expressions import all_of
from retrieval.stores.milvus.keys import ROWS_END
from retrieval.stores.milvus.schema import NOTE_COLUMNS, PICTURE_COLUMNS, SCHEMA_VERSION
from retrieval.stores.milvus.server import MOST_FOUND, Server

__all__ = ["INDEX", "LISTS", "Collection", "Moment"]

LISTS = 1024
"""Lists of the index of each sealed segment; the server's segments are of one size at most, so
that their number need not follow the collection's."""

INDEX = {"index_type": "IVF_FLAT", "params": {"nlist": LISTS}}
_FLAT = {"index_type": "FLAT", "params": {}}  # of notes, which nobody searches by features

_PREFIX = "clip_text."
_SLOTS = 64  # for times of writers that write at once
_PAGE = 4000  # entities; fewer than the server's limit by enough that chance does not reach it


@dataclass(frozen=True, slots=True)
class Moment:
    """What is asked at, and of which collection.

    Args:
        name: The collection's own.
        since: The server's time of the last write that was acknowledged; None to have the server
            find out.
        said: What the index says of itself.
    """

    name: str
    since: int | None
    said: Mapping[str, str]

    @property
    def notes(self) -> str:
        """The collection of what is no picture."""
        return self.said["notes"]


class Collection:
    """The collection of an index. Safe to use from several threads.

    Args:
        server: That keeps it.
        address: Where it is.
    """

    def __init__(self, server: Server, address: StoreAddress) -> None:
        self.server = server
        self.address = address
        self._held = threading.local()
        self._slot = f"written.{secrets.randbelow(_SLOTS)}"
        self._written = 0

    # Making

    def make(self, fingerprint: str, embed_dim: int) -> None:
        """Make a collection where there is none; of several who do, one makes it.

        Raises:
            StorageError: If it cannot be made.
        """
        if self.server.describe(self.address.name) is not None:
            return
        name = f"{self.address.name}__{secrets.token_hex(4)}"
        notes = f"{name}_notes"
        said = {
            "schema": str(SCHEMA_VERSION),
            "uid": uuid.uuid4().hex,
            "fingerprint": fingerprint,
            "embed_dim": str(embed_dim),
            "notes": notes,
        }
        columns = {**dict.fromkeys(PICTURE_COLUMNS, "INT64")}
        columns.update(dict.fromkeys(("said", "picture", "metadata"), "JSON"))
        kept = {**dict.fromkeys(NOTE_COLUMNS, "INT64"), "content": "JSON"}
        with ThreadPoolExecutor(1) as pool:  # loading takes the server seconds each
            beside = pool.submit(self.server.make, notes, kept, 2, _FLAT)
            self.server.make(name, columns, embed_dim, INDEX)
            beside.result()
        self.say(name, said)
        # from here on others find it, whole
        if not self.server.name_by(self.address.name, name):
            with contextlib.suppress(StorageError):
                self.server.drop(name)
                self.server.drop(notes)

    def swap(self, other: str) -> None:
        """Let this index and another of the same server change places.

        Whoever searches finds the one or the other, never none: each name goes over in one step,
        this one first.

        Args:
            other: The name of the other, as in its address.

        Raises:
            IndexNotFoundError: If there is no such index.
        """
        there = StoreAddress(self.address.scheme, self.address.server, other)
        mine = self.look()
        others = Collection(self.server, there).look()
        self.server.rename_to(self.address.name, others.name)
        self.server.rename_to(other, mine.name)

    # Moments

    def look(self) -> Moment:
        """Find the collection, and what was written to it; what is held, where something is.

        Raises:
            IndexNotFoundError: If there is none.
            CorruptIndexError: If it is none of ours, or a newer version's.
        """
        held: Moment | None = getattr(self._held, "moment", None)
        return held or self.look_anew()

    def look_anew(self) -> Moment:
        """Find the collection as it is now; see :meth:`look`."""
        described = self.server.describe(self.address.name)
        if described is None:
            raise IndexNotFoundError(
                f"expected an index at {self.address}, got none. Build one with: clip-text index "
                f"FOLDER --index {self.address}"
            )
        said = {
            key.removeprefix(_PREFIX): str(value)
            for key, value in (described.get("properties") or {}).items()
            if key.startswith(_PREFIX)
        }
        self._check_ours(said)
        times = [int(value) for key, value in said.items() if key.startswith("written.")]
        since = None if self.server.is_lite else max([1, self._written, *times])
        return Moment(str(described["collection_name"]), since, said)

    @contextlib.contextmanager
    def held(self) -> Iterator[Moment]:
        """Let all that this thread reads inside be of one moment, and see what came before it."""
        before: Moment | None = getattr(self._held, "moment", None)
        self._held.moment = before or self.look_anew()
        try:
            yield self._held.moment
        finally:
            self._held.moment = before

    def say(self, name: str, said: Mapping[str, str]) -> None:
        """Have the index say something of itself."""
        self.server.set_properties(name, {_PREFIX + key: text for key, text in said.items()})

    def publish(self, moment: Moment, written: int, said: Mapping[str, str]) -> None:
        """Have all who read from now on see what was written.

        Args:
            moment: Of the collection that was written to.
            written: The server's time of the last write.
            said: What the index is to say of itself from now on, beside that.
        """
        self._written = max(self._written, written)
        slot = max(self._written, int(moment.said.get(self._slot, 0)))
        self.say(moment.name, {**said, self._slot: str(slot)})

    def _check_ours(self, said: Mapping[str, str]) -> None:
        version = said.get("schema", "")
        needed = {"uid", "fingerprint", "embed_dim", "notes"}
        if not version.isdecimal() or not needed <= said.keys():
            raise CorruptIndexError(
                f"expected an index of clip-text at {self.address}, got another collection of that "
                "name. Use another name."
            )
        if int(version) > SCHEMA_VERSION:
            raise CorruptIndexError(
                f"expected an index of schema version {SCHEMA_VERSION} at {self.address}, got "
                f"{version}, which a newer clip-text wrote. Update clip-text (pip install -U "
                "clip-text), or use another name; nothing was changed."
            )

    # Pictures and notes

    def count(self, expression: str = "") -> int:
        """Count the pictures that an expression holds of; all of them, if it is empty."""
        moment = self.look()
        return self.server.count(moment.name, expression, moment.since)

    def entities(self, expression: str, fields: list[str]) -> list[dict[str, Any]]:
        """Read the pictures that an expression holds of, in the order of their rows."""
        moment = self.look()
        return self._all(moment.name, expression, fields, moment.since)

    def some(self, expression: str) -> int | None:
        """Give the row of some picture that an expression holds of; None if there is none."""
        moment = self.look()
        found = self.server.query(moment.name, expression, ["row"], moment.since, limit=1)
        return int(found[0]["row"]) if found else None

    def notes(self, expression: str, fields: list[str]) -> list[dict[str, Any]]:
        """Read notes."""
        moment = self.look()
        return self._all(moment.notes, expression, fields, moment.since)

    def pages(self, expression: str, fields: list[str]) -> Iterator[list[dict[str, Any]]]:
        """Read pictures, some thousands at a time, in the order of their rows."""
        with self.held() as moment:
            total = self.server.count(moment.name, expression, moment.since)
        yield from self._pages(_Asked(moment.name, expression, fields, moment.since), total)

    def between(
        self, start: int, end: int, expression: str, fields: list[str]
    ) -> list[dict[str, Any]]:
        """Read the pictures with rows from ``start`` up to ``end``."""
        moment = self.look()
        pages = self._ranges(_Asked(moment.name, expression, fields, moment.since), start, end)
        return [entity for page in pages for entity in page]

    def _all(
        self, name: str, expression: str, fields: list[str], since: int | None
    ) -> list[dict[str, Any]]:
        found = self.server.query(name, expression, fields, since)
        if len(found) >= MOST_FOUND:
            total = self.server.count(name, expression, since)
            pages = self._pages(_Asked(name, expression, fields, since), total)
            return [entity for page in pages for entity in page]
        return sorted(found, key=_row)

    def _pages(self, asked: "_Asked", total: int) -> Iterator[list[dict[str, Any]]]:
        # Rows are hashes: equal stretches of them have about as many pictures each.
        number = math.ceil(total / _PAGE)
        for at in range(number):
            start, end = ROWS_END * at // number, ROWS_END * (at + 1) // number
            yield from self._ranges(asked, start, end)

    def _ranges(self, asked: "_Asked", start: int, end: int) -> Iterator[list[dict[str, Any]]]:
        stretch = f"row >= {start} and row < {end}"
        expression = all_of(stretch, asked.expression) if asked.expression else stretch
        found = self.server.query(asked.name, expression, asked.fields, asked.since)
        if len(found) < MOST_FOUND:
            yield sorted(found, key=_row)
            return
        middle = (start + end) // 2
        yield from self._ranges(asked, start, middle)
        yield from self._ranges(asked, middle, end)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question that has its answer in several pages: see :meth:`Server.query`."""

    name: str
    expression: str
    fields: list[str]
    since: int | None


def _row(entity: dict[str, Any]) -> int:
    return int(entity["row"])
