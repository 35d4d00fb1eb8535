"""Queries to unit rows: by the model, or, where it encoded the same text lately, from memory."""

import itertools
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from cachetools import LRUCache

from retrieval.errors import QueryError
from retrieval.features import check_encoded
from retrieval.protocols import EncodeAndClassify, Encoder, Feature, Features
from retrieval.search.combining import combine
from retrieval.search.windows import windows

__all__ = ["REMEDY", "CacheInfo", "Category", "QueryRows"]

REMEDY = "Encode the query with the model that built the index."

Category = tuple[str, float] | None
"""Of a query, with its probability in [0, 1]; None without a classifier, or where it says none."""


class CacheInfo(NamedTuple):
    """How the rows of queries that are kept have served.

    Args:
        hits: Queries whose row was there.
        misses: Queries that the model encoded.
        held: Rows that are kept now.
        most: Rows that are kept at most.
    """

    hits: int
    misses: int
    held: int
    most: int


class QueryRows:
    """Encodes queries, and keeps the rows of those asked last. Safe to use from several threads.

    A row that is kept is one that the model gave; if others were encoded with it, its last digits
    depend on them.

    Args:
        encoder: Model that encodes.
        classify: Encodes in its place, and says of what category each text is.
        embed_dim: Width that rows must have.
        cached: How many rows are kept; 0 for none.

    Raises:
        QueryError: If ``cached`` is below 0.
    """

    def __init__(
        self, encoder: Encoder, classify: EncodeAndClassify | None, embed_dim: int, cached: int = 0
    ) -> None:
        if cached < 0:
            raise QueryError(
                f"expected cached_queries of at least 0, got {cached}. 0 keeps no rows."
            )
        self._encoder, self._classify, self._embed_dim = encoder, classify, embed_dim
        self._kept: LRUCache[str, tuple[Feature, Category]] = LRUCache(cached)
        self._lock = threading.Lock()
        self._hits = self._misses = 0

    def __call__(self, texts: Sequence[str]) -> tuple[Features, Sequence[Category]]:
        """Encode texts.

        Args:
            texts: At least one.

        Returns:
            Unit rows [n, embed_dim], and the category of each text.

        Raises:
            EncoderError: If the encoder does not return a unit row for each.
        """
        if not self._kept.maxsize:
            return self._encode(texts)
        with self._lock:
            known = {text: kept for text in texts if (kept := self._kept.get(text)) is not None}
            found = sum(text in known for text in texts)
            self._hits += found
            self._misses += len(texts) - found
        if absent := [text for text in dict.fromkeys(texts) if text not in known]:
            # not under the lock: another query need not wait; of two equal ones both are encoded
            rows, categories = self._encode(absent)
            for text, row, category in zip(absent, rows, categories, strict=True):
                own = row.copy()  # a part of the batch's would keep all of it in memory
                own.flags.writeable = False
                known[text] = own, category
            with self._lock:
                for text in absent:
                    self._kept[text] = known[text]
        return np.stack([known[text][0] for text in texts]), [known[text][1] for text in texts]

    def info(self) -> CacheInfo:
        """Say how often a row was there, and how many are kept."""
        with self._lock:
            return CacheInfo(self._hits, self._misses, len(self._kept), int(self._kept.maxsize))

    def _encode(self, texts: Sequence[str]) -> tuple[Features, Sequence[Category]]:
        """Encode texts, long ones in windows, of which the first says the category."""
        parts = [windows(text) for text in texts]
        rows, categories = self._encode_whole([part for own in parts for part in own])
        if len(rows) == len(texts):
            return rows, categories
        starts = [0, *itertools.accumulate(map(len, parts))]
        own_rows = [rows[start:end] for start, end in itertools.pairwise(starts)]
        combined = np.stack([combine(own, [1.0] * len(own)) for own in own_rows])
        return combined, [categories[start] for start in starts[:-1]]

    def _encode_whole(self, texts: Sequence[str]) -> tuple[Features, Sequence[Category]]:
        categories: Sequence[Category] = [None] * len(texts)
        if self._classify is None:
            rows = self._encoder.encode_text(texts)
        else:
            rows, categories = self._classify(texts)
        check_encoded(rows, len(texts), self._embed_dim, REMEDY, "rows, one for each query")
        return rows, categories
