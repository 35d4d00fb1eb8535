"""The text index: what is said of pictures, word by word, in SQLite's own FTS5.

One line for each picture: the words of its caption, its name (the id: folders and file name), the
texts and numbers of its metadata, and the text that was read in it. The words are cut before they
get here, so FTS5 has only to split at spaces, and nothing that anybody writes is ever syntax.
"""

import json
import math
import posixpath
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from retrieval.catalogue.connection import Connection
from retrieval.catalogue.follower import STORED, Follower
from retrieval.catalogue.segmentation import Segmenter, Settings, can_simplify
from retrieval.errors import CorruptIndexError, QueryError
from retrieval.protocols import Rows
from retrieval.records import Picture, bounds_under

__all__ = [
    "WORDS",
    "Worded",
    "Words",
    "asked_of",
    "cut_columns",
    "forget_unreadable_settings",
    "store_settings",
    "store_words",
    "weight_of",
]

_READ_TABLE = """CREATE TABLE IF NOT EXISTS recognised (
    content_hash BLOB PRIMARY KEY,
    text TEXT NOT NULL
) WITHOUT ROWID"""
_FORGET_READ = """DELETE FROM recognised WHERE content_hash = old.content_hash
    AND NOT EXISTS (SELECT 1 FROM images WHERE content_hash = old.content_hash);"""

_CREATE = (
    # The tokenizer called ascii takes every other character for a letter: it splits at spaces.
    "CREATE VIRTUAL TABLE words USING fts5(caption, name, metadata, seen, tokenize = 'ascii')",
    "CREATE VIRTUAL TABLE words_known USING fts5vocab(words, row)",
    # What was read in pictures costs seconds each and is of no folder: it is kept by content,
    # whatever becomes of the tables above, as long as some picture has that content.
    _READ_TABLE,
    """CREATE TRIGGER words_removed AFTER DELETE ON images BEGIN
        DELETE FROM words WHERE rowid = old.row;
    END""",
    f"CREATE TRIGGER words_unread AFTER DELETE ON images BEGIN {_FORGET_READ} END",
    f"""CREATE TRIGGER words_replaced AFTER UPDATE OF content_hash ON images
    WHEN old.content_hash IS NOT new.content_hash BEGIN
        {_FORGET_READ}
    END""",
)

_DROP = (
    "DROP TRIGGER IF EXISTS words_removed",
    "DROP TRIGGER IF EXISTS words_unread",
    "DROP TRIGGER IF EXISTS words_replaced",
    "DROP TABLE IF EXISTS words_known",
    "DROP TABLE IF EXISTS words",
)

# To drop a table FTS5 opens it, which it cannot where one of its own five is gone or wrong.
_DROP_DAMAGED = (
    "PRAGMA writable_schema = ON",
    "DELETE FROM sqlite_master WHERE name IN ('words', 'words_known')",
    "PRAGMA writable_schema = RESET",
    *(
        f"DROP TABLE IF EXISTS words_{own}"
        for own in ("data", "idx", "content", "docsize", "config")
    ),
)

_STORE = "INSERT INTO words (rowid, caption, name, metadata, seen) VALUES (?, ?, ?, ?, ?)"
_LINES = "SELECT rowid, caption, name, metadata, seen FROM words"
# Of FTS5's own tables: how many words each column of a line has, and all lines together.
_SIZES = "SELECT id, sz FROM words_docsize ORDER BY id"
_AVERAGES = "SELECT block FROM words_data WHERE id = 1"
_HAVE = "SELECT count(*) FROM words WHERE words MATCH ?"
_LONGEST = 8000  # characters: of a longer word FTS5 keeps the beginning
_SETTINGS_KEY = "words_settings"
# With these people ask for pictures; they are no part of what they ask for.
_ASKING_TEXT = (
    "我 我要 我想 想 要 看 看看 想看 想要 要看 找 找到 找找 给 给我 请 帮 帮我 有 有没有 没有 "
    "什么 哪些 哪 吗 呢 吧 的 了 和 与 在 是 里 上 张 一张 几张 图 图片 图像 照片 相片 拍 "
    "i want to see show me find give please a an the of in on at with and or is are "
    "photo photos picture pictures image images"
)
_ASKING = frozenset(_ASKING_TEXT.split())
_MOST_WORDS = 256  # of a query: a page of text
_PAGE = 500


def store_words(db: sqlite3.Connection, row: int, picture: Picture) -> None:
    """Store the words of a picture that is new or has changed.

    Args:
        db: Inside the transaction that writes the picture.
        row: The picture's.
        picture: As it is now.
    """
    columns = _columns(db, picture, _settings(db) or store_settings(db, Settings.usual()))
    db.execute("DELETE FROM words WHERE rowid = ?", (row,))
    db.execute(_STORE, (row, *columns))


def _columns(
    db: sqlite3.Connection, picture: Picture, settings: Settings
) -> tuple[str, str, str, str]:
    """Cut what is said of a picture into the words of each column."""
    read = db.execute(
        "SELECT text FROM recognised WHERE content_hash = ?", (picture.content_hash,)
    ).fetchone()
    caption, named, metadata, seen = map(
        " ".join, cut_columns(picture, settings, read[0] if read else "")
    )
    return caption, named, metadata, seen


def cut_columns(picture: Picture, settings: Settings, read: str) -> list[list[str]]:
    """Cut what is said of a picture into words.

    Args:
        picture: The picture.
        settings: Of the index.
        read: The text that was read in it.

    Returns:
        The words of its caption, of its name, of its metadata, and of what was read.
    """
    cut = Segmenter.of(settings)
    name = picture.image_id
    if picture.root is not None:  # jpg says nothing; what an id of the caller's own ends in may
        name, _ = posixpath.splitext(name)
    texts = (picture.caption or "", name, "\n".join(_texts_of(picture.metadata)), read)
    return [cut(text) for text in texts]


def asked_of(words: list[str]) -> list[str]:
    """Give the different words of a query; those that only ask, where there are no others."""
    different = list(dict.fromkeys(words))[:_MOST_WORDS]
    return [word for word in different if word not in _ASKING] or different


def weight_of(count: int, size: int) -> float:
    """Weigh a word that ``count`` of ``size`` pictures have: its idf, which is above 0."""
    return math.log1p((size - count + 0.5) / (count + 0.5))


def _said(db: sqlite3.Connection, picture: Picture) -> object:
    settings = _comparable(db)
    return True if settings is None else _columns(db, picture, settings)


def _stored(db: sqlite3.Connection, first: int, last: int) -> dict[int, object]:
    is_comparable = _comparable(db) is not None
    selected = db.execute(f"{_LINES} WHERE rowid BETWEEN ? AND ?", (first, last))
    return {row: tuple(columns) if is_comparable else True for row, *columns in selected}


def _comparable(db: sqlite3.Connection) -> Settings | None:
    """Give how texts were cut; None where that cannot be done here, for want of OpenCC."""
    settings = _settings(db)
    return settings if settings and (can_simplify() or not settings.simplify) else None


def _fits(db: sqlite3.Connection) -> bool:
    """Count the words of all lines, and compare that with what FTS5 counts in its own tables.

    SQLite's integrity check does not look into them before 3.44, and FTS5's own only where it may
    write.
    """
    pictures: Counter[str] = Counter()
    places: Counter[str] = Counter()
    sums = np.zeros(5, np.int64)  # lines, and the words of each column
    for line, size in zip_longest(db.execute(f"{_LINES} ORDER BY rowid"), db.execute(_SIZES)):
        if line is None or size is None:
            return False
        row, *columns = line
        cut = [str(column or "").split() for column in columns]
        lengths = [len(words) for words in cut]
        if (row, lengths) != (size[0], _varints(size[1])):
            return False
        sums += (1, *lengths)
        words = [word for words in cut for word in words if len(word) < _LONGEST]
        pictures.update(set(words))
        places.update(words)
    averages = [_varints(average) for (average,) in db.execute(_AVERAGES)]
    return (not sums[0] or averages == [sums.tolist()]) and _knows(db, pictures, places)


def _knows(db: sqlite3.Connection, pictures: Counter[str], places: Counter[str]) -> bool:
    """Tell whether FTS5 finds each word in as many lines, and as often, as it stands there."""
    known = 0
    for word, count, times in db.execute("SELECT term, doc, cnt FROM words_known"):
        if len(word) < _LONGEST:
            asked = word.replace('"', '""')
            found = db.execute(_HAVE, (f'"{asked}"',)).fetchone()
            if (pictures[word], places[word], *found) != (count, times, count):
                return False
            known += 1
    return known == len(pictures)


def _varints(blob: object) -> list[int]:
    """Read numbers as FTS5 stores them: 7 bits in a byte, of which the last has no high bit."""
    numbers, number = [], 0
    for byte in blob if isinstance(blob, bytes) else b"":
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            numbers.append(number)
            number = 0
    return numbers


WORDS = Follower("words", 1, _CREATE, _DROP, store_words, _said, _stored, _fits, _DROP_DAMAGED)


def store_settings(db: sqlite3.Connection, settings: Settings) -> Settings:
    """Note how texts are cut from now on, inside a transaction; gives the settings."""
    line = (_SETTINGS_KEY, settings.as_text())
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", line)
    return settings


def forget_unreadable_settings(db: sqlite3.Connection) -> None:
    """Have texts be cut as in a new index, inside a transaction, where nobody can read how."""
    try:
        _settings(db)
    except CorruptIndexError:
        db.execute("DELETE FROM meta WHERE key = ?", (_SETTINGS_KEY,))


@dataclass(frozen=True, slots=True)
class Worded:
    """Pictures of which some words of a query are said, the best first.

    Args:
        rows: Theirs, int64 [n].
        scores: BM25, higher is better, float64 [n].
        shares: How much of the query is said of each, in [0, 1], float64 [n]: of the sum of the
            weights (idf) of its words, those that no picture has included.
    """

    rows: Rows
    scores: NDArray[np.float64]
    shares: NDArray[np.float64]


class Words:
    """Ranks pictures of a catalogue by words. Safe to use from several threads.

    Args:
        connection: To the catalogue's file.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def settings(self) -> Settings | None:
        """How texts are cut; None where nothing was stored yet, or is not to be ranked."""
        return _settings(self._connection.db) if self._is_there() else None

    def rank(self, text: str, limit: int, among: Rows | None = None) -> Worded:
        """Find the pictures of which the words of a text are said.

        Any one word is enough, but for those that only ask (的, 照片, "picture of"), which do not
        count beside others; ranks are by FTS5's bm25 (k1 1.2, b 0.75), equals by row. Words
        that are said of more than half of the pictures tell nothing and are passed over.

        Args:
            text: What to look for.
            limit: How many pictures at most.
            among: Looks at these rows only; None for all.

        Raises:
            QueryError: If the catalogue has no text index.
        """
        with self._connection.snapshot():
            settings = self.settings
            if settings is None and self._is_there():
                return _none()
            if settings is None:
                raise QueryError(
                    "expected an index with a text index, got one from before there were any. "
                    "Make it, without encoding anything: clip-text index text"
                )
            weights, wanted = self._weigh(Segmenter.of(settings)(text))
            if not wanted:
                return _none()
            some = "" if among is None else "AND rowid IN (SELECT value FROM json_each(?))"
            values = () if among is None else (json.dumps(among.tolist()),)
            ranked = self._connection.read(
                f"SELECT rowid, -bm25(words) FROM words WHERE words MATCH ? {some} "  # noqa: S608
                "ORDER BY bm25(words), rowid LIMIT ?",
                (" OR ".join(f'"{word}"' for word in wanted), *values, limit),
            )
            shares = self._shares([row for row, _ in ranked], weights)
        return Worded(
            np.array([row for row, _ in ranked], np.int64),
            np.array([score for _, score in ranked], np.float64),
            np.array([shares[row] for row, _ in ranked], np.float64),
        )

    def keeps_texts(self) -> bool:
        """Tell whether the catalogue has a table of what was read in pictures."""
        return bool(self._connection.read("SELECT 1 FROM sqlite_master WHERE name = 'recognised'"))

    def unread(self, folder: bytes) -> list[tuple[bytes, bytes]]:
        """Name contents below a folder of which nobody has said what text stands in them.

        Returns:
            Of each its hash and the path of a file that has it, in the order of the paths.
        """
        sql = (
            "SELECT content_hash, min(path) FROM images WHERE path >= ? AND path < ? "
            "AND root IS NOT NULL AND content_hash NOT IN (SELECT content_hash FROM recognised) "
            "GROUP BY content_hash ORDER BY 2"
        )
        return [(one, path) for one, path in self._connection.read(sql, bounds_under(folder))]

    def _is_there(self) -> bool:
        return self._connection.read(STORED, (WORDS.key,)) == [(WORDS.mark,)]

    def _weigh(self, words: list[str]) -> tuple[dict[str, float], list[str]]:
        """Weigh the different words of a query; name those that are worth looking up.

        Returns:
            The idf of each word, ln(1 + (N - n + 0.5) / (n + 0.5)) of N pictures of which n have
            it, which is above 0 for every word; and the words that at least one and at most half
            of the pictures have.
        """
        different = asked_of(words)
        if not different:
            return {}, []
        marks = ", ".join("?" * len(different))
        sql = f"SELECT term, doc FROM words_known WHERE term IN ({marks})"  # noqa: S608
        counts: dict[str, int] = dict(self._connection.read(sql, different))
        ((size,),) = self._connection.read("SELECT count(*) FROM images")
        weights = {}
        for word in different:
            count = counts.get(word, 0)
            weights[word] = weight_of(count, size)
        return weights, [word for word in different if 0 < counts.get(word, 0) <= size / 2]

    def _shares(self, rows: list[int], weights: dict[str, float]) -> dict[int, float]:
        """Tell how much of a query is said of each of these pictures."""
        total, shares = sum(weights.values()), {}
        for start in range(0, len(rows), _PAGE):
            part = rows[start : start + _PAGE]
            marks = ", ".join("?" * len(part))
            for row, *columns in self._connection.read(f"{_LINES} WHERE rowid IN ({marks})", part):
                said = {word for column in columns for word in column.split()}
                shares[row] = sum(weights[word] for word in weights.keys() & said) / total
        return shares


def _none() -> Worded:
    return Worded(np.empty(0, np.int64), np.empty(0), np.empty(0))


def _settings(db: sqlite3.Connection) -> Settings | None:
    stored = db.execute("SELECT value FROM meta WHERE key = ?", (_SETTINGS_KEY,)).fetchone()
    try:
        return Settings.read(stored[0]) if stored else None
    except (ValueError, TypeError) as error:
        raise CorruptIndexError(
            f"expected how the text index cuts texts, got {stored[0]!r}. Make it again, without "
            "encoding anything: clip-text index verify --repair"
        ) from error


def _texts_of(metadata: str) -> Iterator[str]:
    """Give the texts and numbers of metadata, wherever in it, but for addresses of pages."""
    try:
        waiting = [json.loads(metadata)]
    except (ValueError, RecursionError):  # what filters find no fields in has no words either
        return
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            waiting += reversed([*inner])
        elif isinstance(value, str) and "://" not in value:
            yield value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield str(value)
