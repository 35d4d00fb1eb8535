"""The text index: which words are said of pictures, ranked by BM25 as the server works it out."""

import math
from typing import Any

import numpy as np

from retrieval.catalogue.segmentation import Segmenter, Settings
from retrieval.catalogue.words import Worded, asked_of, cut_columns, weight_of
from retrieval.errors import CorruptIndexError
from retrieval.protocols import Rows
from retrieval.records import Picture, bounds_under
from retrieval.stores.postgresql.filters import PostgresSelection
from retrieval.stores.postgresql.look import Known, Look, Read
from retrieval.stores.postgresql.names import Names

__all__ = ["SETTINGS_KEY", "PostgresWords", "settings_of", "words_of"]

SETTINGS_KEY = "words_settings"
_LONGEST = 500  # characters: of a longer word its beginning is kept, which fits into an index
_K1, _B = 1.2, 0.75
_LEAST_IDF = 1e-6  # of a word that half of the pictures have


def settings_of(stored: str | None) -> Settings | None:
    """Read how a collection cuts texts; None where nothing was stored yet.

    Raises:
        CorruptIndexError: If it is something else.
    """
    try:
        return None if stored is None else Settings.read(stored)
    except (ValueError, TypeError) as error:
        raise CorruptIndexError(
            f"expected how the text index cuts texts, got {stored!r}. Index into another table."
        ) from error


def words_of(picture: Picture, settings: Settings, read: str) -> list[str]:
    """Cut what is said of a picture, and what was read in it, into the words that are stored."""
    columns = cut_columns(picture, settings, read)
    return [word[:_LONGEST] for column in columns for word in column]


class PostgresWords:
    """See :class:`~retrieval.catalogue.store.StoreWords`.

    Args:
        look: Knows how much is said of all pictures.
        names: The collection's tables.
        read: Has a statement select.
    """

    def __init__(self, look: Look, names: Names, read: Read) -> None:
        self._look = look
        self._names = names
        self._read = read

    @property
    def settings(self) -> Settings | None:
        """How texts are cut; None where nothing was stored yet."""
        stored = self._read("SELECT value FROM {meta} WHERE key = %s", (SETTINGS_KEY,))
        return settings_of(stored[0][0] if stored else None)

    def rank(self, text: str, limit: int, among: Rows | PostgresSelection | None = None) -> Worded:
        """Find the pictures of which the words of a text are said.

        As in an index in a folder: any one word is enough, but for those that only ask; ranks are
        by bm25 (k1 1.2, b 0.75), equals by row; words that are said of more than half of the
        pictures are passed over.

        Args:
            text: What to look for.
            limit: How many pictures at most.
            among: Looks at these only; None for all.
        """
        settings = self.settings
        if settings is None:
            return _none()
        asked = [word[:_LONGEST] for word in asked_of(Segmenter.of(settings)(text))]
        size, total = self._measure(self._look())
        if not asked or not size:
            return _none()
        counts = self._counts(asked)
        weights = {word: weight_of(counts[word], size) for word in asked}
        wanted = [word for word in asked if 0 < counts[word] <= size / 2]
        if not wanted:
            return _none()
        ranked = self._ranked(wanted, counts, (size, total / size), limit, among)
        whole = sum(weights.values())
        shares = [
            sum(weights[word] for word in weights.keys() & set(said)) / whole
            for _, _, said in ranked
        ]
        return Worded(
            np.array([row for row, _, _ in ranked], np.int64),
            np.array([score for _, score, _ in ranked], np.float64),
            np.array(shares, np.float64),
        )

    def keeps_texts(self) -> bool:
        """Tell whether there is a table of what was read in pictures."""
        return True

    def unread(self, folder: bytes) -> list[tuple[bytes, bytes]]:
        """Name contents below a folder of which nobody has said what text stands in them.

        Returns:
            Of each its hash and the path of a file that has it, in the order of the paths.
        """
        sql = (
            "SELECT content_hash, min(path) FROM {pictures} i WHERE path >= %s AND path < %s "
            "AND root IS NOT NULL AND content_hash IS NOT NULL AND NOT EXISTS "
            "(SELECT FROM {recognised} r WHERE r.content_hash = i.content_hash) "
            "GROUP BY content_hash ORDER BY 2"
        )
        return [(one, path) for one, path in self._read(sql, bounds_under(folder))]

    def _measure(self, known: Known) -> tuple[int, int]:
        """Count the pictures, and the words that are said of all."""
        if known.words is None:
            ((size, total),) = self._read(
                "SELECT count(*), coalesce(sum(length), 0)::bigint FROM {words}"
            )
            known.words = size, total
        return known.words

    def _counts(self, words: list[str]) -> dict[str, int]:
        """Count the pictures that have each word."""
        sql = (
            "SELECT a.word, (SELECT count(*) FROM {words} w WHERE w.words @> ARRAY[a.word]) "
            'FROM unnest(%s::text[] COLLATE "C") a (word)'
        )
        return dict(self._read(sql, (words,)))

    def _ranked(
        self,
        wanted: list[str],
        counts: dict[str, int],
        size: tuple[int, float],
        limit: int,
        among: Rows | PostgresSelection | None,
    ) -> list[tuple[int, float, list[str]]]:
        """Rank pictures: row, score, and the words that are said of it."""
        number, average = size
        idfs = [
            max(math.log((number - counts[word] + 0.5) / (counts[word] + 0.5)), _LEAST_IDF)
            for word in wanted
        ]
        some, of_some = _condition(among)
        norm = f"{_K1} * ({1 - _B} + {_B} * w.length / %s::float8)"
        return self._read(
            "SELECT s.row, s.score, s.words FROM (SELECT w.row, w.words, "  # noqa: S608
            f"(SELECT sum(a.idf * t.n * {_K1 + 1} / (t.n + {norm})) "
            'FROM unnest(%s::text[] COLLATE "C", %s::float8[]) a (word, idf), '
            "LATERAL (SELECT cardinality(array_positions(w.words, a.word))) t (n)) score "
            f"FROM {{words}} w WHERE w.words && %s::text[] {some}) s "
            "ORDER BY s.score DESC, s.row LIMIT %s",
            (max(average, 1e-9), wanted, idfs, wanted, *of_some, limit),
        )


def _condition(among: Rows | PostgresSelection | None) -> tuple[str, tuple[Any, ...]]:
    if among is None:
        return "", ()
    if isinstance(among, PostgresSelection):
        sql = f"AND EXISTS (SELECT FROM {{pictures}} i WHERE i.row = w.row AND ({among.sql}))"
        return sql, among.values
    return "AND w.row = ANY(%s::bigint[])", (among.tolist(),)


def _none() -> Worded:
    return Worded(np.empty(0, np.int64), np.empty(0), np.empty(0))
