"""What one transaction writes: gathered, and sent to the server many pictures at once.

Rows are numbered before they are sent, from numbers that the server set aside, so that nothing
waits for the server picture by picture. Whatever is read meanwhile is read after all was sent.
"""

import datetime
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
from pgvector import HalfVector

from retrieval.catalogue.halves import HALF
from retrieval.catalogue.segmentation import Settings
from retrieval.filters.values import TEXT, values_of
from retrieval.records import Failure, Picture
from retrieval.stores.postgresql.connections import TimedConnection
from retrieval.stores.postgresql.names import Names
from retrieval.stores.postgresql.reading import hash_of
from retrieval.stores.postgresql.words import SETTINGS_KEY, settings_of, words_of

__all__ = ["Numbers", "Transaction", "failed_now"]

MOST_WAITING = 512  # pictures that are gathered before they are sent
_LEAST_NUMBERS, _MOST_NUMBERS = 16, 4096

_COLUMNS = ("row", *Picture._fields, "id_hash")
_TYPES = {
    **dict.fromkeys(("row", "size", "mtime_ns"), "bigint"),
    **dict.fromkeys(("root", "path", "content_hash", "id_hash"), "bytea"),
    **dict.fromkeys(("image_id", "caption", "metadata"), "text"),
    **dict.fromkeys(("width", "height"), "integer"),
}
_ARRAYS = ", ".join(f"%s::{_TYPES[column]}[]" for column in _COLUMNS)
_ALL = ", ".join(_COLUMNS)
_CHANGED = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[1:])
_INSERT = (
    f"INSERT INTO {{pictures}} AS p ({_ALL}) SELECT * FROM unnest({_ARRAYS}) "  # noqa: S608
    f"ON CONFLICT %s DO UPDATE SET {_CHANGED} RETURNING row, path, id_hash"
)
_BY_PATH = _INSERT.replace("CONFLICT %s", "CONFLICT (sha256(path)) WHERE root IS NOT NULL")
_BY_ID = _INSERT.replace("CONFLICT %s", "CONFLICT (id_hash) WHERE root IS NULL")
_DESCRIBE = (
    "UPDATE {pictures} SET "  # noqa: S608
    + ", ".join(f"{name} = %s" for name in _COLUMNS[1:])
    + " WHERE row = %s"
)
_REPLACE = (
    f"INSERT INTO {{pictures}} ({_ALL}) VALUES ({', '.join(['%s'] * len(_COLUMNS))}) "  # noqa: S608
    f"ON CONFLICT (row) DO UPDATE SET {_CHANGED}"
)
_FEATURES = (
    "INSERT INTO {features} (row, feature) SELECT * FROM unnest(%s::bigint[], %b::halfvec[]) "
    "ON CONFLICT (row) DO UPDATE SET feature = excluded.feature"
)
_FIELDS = (
    "INSERT INTO {fields} (row, name, kind, number, text) "
    "SELECT * FROM unnest(%s::bigint[], %s::int[], %s::smallint[], %s::numeric[], %s::text[])"
)
_NAMES = (
    "INSERT INTO {field_names} (field, hash) SELECT * FROM unnest(%s::text[], %s::bytea[]) "
    "ON CONFLICT (hash) DO UPDATE SET field = excluded.field RETURNING field, name"
)
# Words have no space in them.
_WORDS = (
    "INSERT INTO {words} (row, words, length) "
    "SELECT u.row, string_to_array(u.words, ' '), u.length "
    "FROM unnest(%s::bigint[], %s::text[], %s::int[]) u (row, words, length) "
    "ON CONFLICT (row) DO UPDATE SET words = excluded.words, length = excluded.length"
)


class Numbers:
    """Numbers for rows, which the server sets aside some at a time; none is given twice."""

    def __init__(self) -> None:
        self._waiting: list[int] = []
        self._size = _LEAST_NUMBERS

    def next(self, connection: TimedConnection, names: Names) -> int:
        """Give the next one."""
        if not self._waiting:
            sql = (
                "SELECT nextval(pg_get_serial_sequence(%s, 'row')) FROM generate_series(1, %s) "
                "ORDER BY 1 DESC"
            )
            table = '"' + names["pictures"] + '"'
            found = connection.execute(sql, (table, self._size), binary=True).fetchall()
            self._waiting = [number for (number,) in found]
            self._size = min(2 * self._size, _MOST_NUMBERS)
        return self._waiting.pop()


@dataclass(slots=True)
class _Step:
    """Pictures that are sent together: new ones, or changes one after another."""

    is_new: bool
    pictures: list[tuple[int, Picture]] = field(default_factory=list)
    replaced: list[bool] = field(default_factory=list)


class Transaction:
    """Gathers what is written. For one thread.

    Args:
        connection: In a transaction, holding the writers' lock.
        names: The collection's tables.
        numbers: For new rows.
        field_names: The number of each field of metadata that is known to be there for good.
        meta: What the collection says of itself.
        keeps_texts: There is text that was read in pictures.
    """

    def __init__(
        self,
        connection: TimedConnection,
        names: Names,
        numbers: Numbers,
        field_names: dict[str, int],
        meta: dict[str, str],
        *,
        keeps_texts: bool,
    ) -> None:
        self.connection = connection
        self.changed_features = False
        self.added = 0
        """How many features came."""
        self.new_names: dict[str, int] = {}
        """Fields of metadata that were numbered inside: for good, when it is committed."""
        self.seen_paths: set[bytes] = set()
        self.seen_rows: set[int] = set()
        self.meta = meta
        self._names = names
        self._numbers = numbers
        self._field_names = field_names
        self._keeps_texts = keeps_texts
        self._steps: list[_Step] = []
        self._features: dict[int, bytes] = {}
        self._failures: dict[bytes, Failure | None] = {}
        self._sources: dict[int, str] = {}
        self._waiting = 0
        self._keys: set[object] = set()  # ids, paths and contents of the pictures that wait
        self._has_changes = False  # a path or a content may not be where it was
        self._moved: dict[int, int] = {}  # rows that were given to what had another one already

    # What is gathered

    def add(self, picture: Picture, feature: bytes) -> int:
        """Take a new picture; gives its row."""
        key = picture.image_id if picture.root is None else picture.path
        if key in self._keys:
            self.flush()
        self._send_if_many()
        row = self._numbers.next(self.connection, self._names)
        self._put(row, picture, is_new=True)
        self._features[row] = feature
        self.changed_features = True
        self.added += 1
        return row

    def replace(self, row: int, picture: Picture, feature: bytes) -> None:
        """Take new content of a row."""
        self._send_if_many()
        row = self._moved.get(row, row)
        self._put(row, picture, is_new=False, replaced=True)
        self._features[row] = feature
        self.changed_features = True

    def describe(self, row: int, picture: Picture) -> None:
        """Take what is said of a row."""
        self._send_if_many()
        self._put(self._moved.get(row, row), picture, is_new=False)

    def set_failure(self, path: bytes, failure: Failure | None) -> None:
        """Take that a file was set aside, or is forgiven."""
        self._failures[path] = failure

    def assign(self, row: int, name: str) -> None:
        """Take that an item is of a data set."""
        self._sources[self._moved.get(row, row)] = name
        self.seen_rows.add(row)

    def note(self, key: str, value: str | None) -> None:
        """Have the collection say something under a key, or nothing."""
        if value is None:
            self._run("DELETE FROM {meta} WHERE key = %s", (key,))
            self.meta.pop(key, None)
            return
        self._run(
            "INSERT INTO {meta} VALUES (%s, %s) ON CONFLICT (key) DO UPDATE "
            "SET value = excluded.value",
            (key, value),
        )
        self.meta[key] = value

    def remove(self, rows: Iterable[int]) -> None:
        """Forget pictures."""
        gone = [self._moved.get(row, row) for row in rows]
        if gone:
            self.delete("i.row = ANY(%s::bigint[])", (gone,))

    def delete(self, condition: str, values: tuple[Any, ...]) -> int:
        """Forget the pictures that a condition on their lines ``i`` holds of; gives how many.

        Text that was read in them goes with the last picture of that content.
        """
        self.flush()
        done = self._run(
            f"DELETE FROM {{pictures}} i WHERE {condition} RETURNING content_hash",  # noqa: S608
            values,
        ).fetchall()
        self.changed_features |= bool(done)
        self._forget_texts({content_hash for (content_hash,) in done})
        return len(done)

    def forget_failures(self, low: bytes, high: bytes) -> None:
        """Forget failures from a path on, to before another."""
        self.flush()
        self._run("DELETE FROM {failures} WHERE path >= %s AND path < %s", (low, high))

    def keep_recognised(self, content_hash: bytes, text: str) -> None:
        """Store the text that stands in the pictures of a content."""
        self.flush()
        self._run(
            "INSERT INTO {recognised} VALUES (%s, %s) ON CONFLICT (content_hash) "
            "DO UPDATE SET text = excluded.text",
            (content_hash, text),
        )
        self._keeps_texts = True
        fields = ", ".join(Picture._fields)
        sql = f"SELECT row, {fields} FROM {{pictures}} WHERE content_hash = %s"  # noqa: S608
        found = self._run(sql, (content_hash,)).fetchall()
        self._store_words([(values[0], Picture(*values[1:])) for values in found])

    def concerns(self, touching: str | bytes | int | None) -> bool:
        """Tell whether what waits to be sent bears on an answer.

        Args:
            touching: The id, path or content that is asked about; the row, of which the data set
                is; None for anything.
        """
        if isinstance(touching, int):
            return touching in self._sources
        if isinstance(touching, str):  # no change gives an item another id
            return touching in self._keys
        if touching is not None:
            return touching in self._keys or self._has_changes
        return bool(self._waiting or self._failures or self._sources)

    # What is sent

    def flush(self) -> None:
        """Send all that was gathered."""
        steps, self._steps = self._steps, []
        self._waiting = 0
        self._keys.clear()
        self._has_changes = False
        final: dict[int, Picture] = {}
        changed: list[int] = []
        before: set[bytes | None] = set()  # contents of what is changed
        for step in steps:
            step.pictures = [(self._moved.get(row, row), one) for row, one in step.pictures]
            if step.is_new:
                final.update(self._insert(step.pictures, changed))
            else:
                before |= self._contents_of([row for row, _ in step.pictures])
                self._change(step)
                final.update(step.pictures)
                changed += [row for row, _ in step.pictures]
        self._forget_texts(before)
        if self._features:
            features = {self._moved.get(row, row): one for row, one in self._features.items()}
            vectors = [HalfVector(np.frombuffer(one, HALF)) for one in features.values()]
            self._run(_FEATURES, (list(features), vectors))
            self._features.clear()
        if final:
            if changed:
                self._run("DELETE FROM {fields} WHERE row = ANY(%s::bigint[])", (changed,))
                there = self._run(
                    "SELECT row FROM {pictures} WHERE row = ANY(%s::bigint[])", (list(final),)
                )
                known = {row for (row,) in there.fetchall()}
                final = {row: picture for row, picture in final.items() if row in known}
            self._store_fields(final)
            self._store_words(final.items())
        self._store_failures()
        self._store_sources()

    def _put(self, row: int, picture: Picture, *, is_new: bool, replaced: bool = False) -> None:
        if not self._steps or self._steps[-1].is_new is not is_new:
            self._steps.append(_Step(is_new))
        self._steps[-1].pictures.append((row, picture))
        self._steps[-1].replaced.append(replaced)
        self._waiting += 1
        self._keys.update((picture.image_id, picture.path, picture.content_hash))
        self._has_changes |= not is_new

    def _send_if_many(self) -> None:
        if self._waiting >= MOST_WAITING:
            self.flush()

    def _insert(
        self, pictures: list[tuple[int, Picture]], changed: list[int]
    ) -> Iterator[tuple[int, Picture]]:
        """Store new pictures; what another one has stored meanwhile is changed in its row."""
        for template, is_item in ((_BY_PATH, False), (_BY_ID, True)):
            lines = [
                (row, *picture, hash_of(picture.image_id))
                for row, picture in pictures
                if (picture.root is None) is is_item
            ]
            if not lines:
                continue
            found = self._run(template, [list(column) for column in zip(*lines, strict=True)])
            rows = {id_hash if is_item else path: row for row, path, id_hash in found.fetchall()}
            for line in lines:
                given, picture = line[0], Picture(*line[1:-1])
                row = rows[line[-1] if is_item else picture.path]
                if row != given:
                    self._moved[given] = row
                    changed.append(row)
                yield row, picture

    def _change(self, step: _Step) -> None:
        """Store changes one after another, as they were made: paths may go from one to another."""
        with self.connection.pipeline():
            for (row, picture), replaced in zip(step.pictures, step.replaced, strict=True):
                values = (*picture, hash_of(picture.image_id))
                if replaced:
                    self._run(_REPLACE, (row, *values))
                else:
                    self._run(_DESCRIBE, (*values, row))

    def _contents_of(self, rows: list[int]) -> set[bytes | None]:
        """Read which contents pictures have, where text may have been read in them."""
        if not self._keeps_texts:
            return set()
        sql = "SELECT content_hash FROM {pictures} WHERE row = ANY(%s::bigint[])"
        return {content_hash for (content_hash,) in self._run(sql, (rows,)).fetchall()}

    def _forget_texts(self, contents: set[bytes | None]) -> None:
        """Forget what was read in pictures of some contents, where no picture has them now."""
        hashes = [content_hash for content_hash in contents if content_hash is not None]
        if self._keeps_texts and hashes:
            self._run(
                "DELETE FROM {recognised} r WHERE r.content_hash = ANY(%s::bytea[]) AND NOT "
                "EXISTS (SELECT FROM {pictures} i WHERE i.content_hash = r.content_hash)",
                (hashes,),
            )

    def _store_fields(self, pictures: dict[int, Picture]) -> None:
        lines = [
            (row, name, kind, value)
            for row, picture in pictures.items()
            for name, values in values_of(picture.metadata).items()
            for kind, value in values
        ]
        if not lines:
            return
        self._number({name for _, name, _, _ in lines})
        known = {**self._field_names, **self.new_names}
        columns = (
            [row for row, _, _, _ in lines],
            [known[name] for _, name, _, _ in lines],
            [kind for _, _, kind, _ in lines],
            [None if kind == TEXT else str(Decimal(value)) for _, _, kind, value in lines],
            [value if kind == TEXT else None for _, _, kind, value in lines],
        )
        self._run(_FIELDS, columns)

    def _number(self, fields: set[str]) -> None:
        """Number the fields that have no number yet."""
        new = sorted(fields - self._field_names.keys() - self.new_names.keys())
        if new:
            found = self._run(_NAMES, (new, [hash_of(name) for name in new]))
            self.new_names.update(found.fetchall())

    def _store_words(self, pictures: Iterable[tuple[int, Picture]]) -> None:
        settings = settings_of(self.meta.get(SETTINGS_KEY))
        if settings is None:
            settings = Settings.usual()
            self.note(SETTINGS_KEY, settings.as_text())
        wanted = list(pictures)
        read: dict[bytes, str] = {}
        if self._keeps_texts:
            hashes = list({p.content_hash for _, p in wanted if p.content_hash is not None})
            sql = (
                "SELECT content_hash, text FROM {recognised} WHERE content_hash = ANY(%s::bytea[])"
            )
            read = dict(self._run(sql, (hashes,)).fetchall())
        said = [
            words_of(picture, settings, read.get(picture.content_hash or b"", ""))
            for _, picture in wanted
        ]
        if wanted:
            rows = [row for row, _ in wanted]
            self._run(_WORDS, (rows, list(map(" ".join, said)), list(map(len, said))))

    def _store_failures(self) -> None:
        if not self._failures:
            return
        self._run(
            "DELETE FROM {failures} f USING unnest(%s::bytea[]) u (path) "
            "WHERE f.path_hash = sha256(u.path)",
            (list(self._failures),),
        )
        set_aside = [failure for failure in self._failures.values() if failure]
        if set_aside:
            self._run(
                "INSERT INTO {failures} SELECT sha256(u.path), u.* FROM unnest(%s::bytea[], "
                "%s::bigint[], %s::bigint[], %s::text[], %s::text[]) u (path, a, b, c, d)",
                [list(column) for column in zip(*set_aside, strict=True)],
            )
        self._failures.clear()

    def _store_sources(self) -> None:
        if not self._sources:
            return
        sources = {self._moved.get(row, row): name for row, name in self._sources.items()}
        names = sorted(set(sources.values()))
        hashes = [hash_of(name) for name in names]
        self._run(
            "INSERT INTO {sources} (name, hash) SELECT * FROM unnest(%s::text[], %s::bytea[]) "
            "ON CONFLICT (hash) DO NOTHING",
            (names, hashes),
        )
        self._run(
            "INSERT INTO {source_items} SELECT u.row, s.source FROM unnest(%s::bigint[], "
            "%s::bytea[]) u (row, hash) JOIN {sources} s USING (hash) JOIN {pictures} USING (row) "
            "ON CONFLICT (row) DO UPDATE SET source = excluded.source",
            (list(sources), [hash_of(name) for name in sources.values()]),
        )
        self._sources.clear()

    def _run(self, template: str, values: Any = ()) -> Any:  # noqa: ANN401
        return self.connection.execute(self._names.statement(template), values, binary=True)


def failed_now(path: bytes, size: int | None, mtime_ns: int | None, reason: str) -> Failure:
    """Describe a file that is set aside now."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Failure(path, size, mtime_ns, reason, now)
