"""Queries → hits: through the encoder to rows, through the index to pictures."""

import dataclasses
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from retrieval.catalogue import Facet, Field
from retrieval.errors import QueryError
from retrieval.features import check_unit_rows
from retrieval.filters import Filter
from retrieval.precision import as_note, precision_of
from retrieval.protocols import EncodeAndClassify, Encoder, Features
from retrieval.records import Record
from retrieval.search.answering import Asked, nearest
from retrieval.search.following import Follower, follow_index
from retrieval.search.hits import Answer, Hit
from retrieval.search.hybrid import Blend
from retrieval.search.paging import Ranking
from retrieval.search.query import MAX_RANKED, Query, as_query, checked_top_k
from retrieval.search.query_rows import REMEDY, CacheInfo, QueryRows
from retrieval.search.relevance import Calibration
from retrieval.search.state import matching
from retrieval.stores import Location

__all__ = ["Searcher"]

_LAST_ROW = 2**63 - 1

# Taking over another process's batches costs what they hold, or, where it has sealed the
# index anew, opening it. Where that takes long, it is done at most a tenth of the time.
_CHEAP_SECONDS = 0.1
_REST_FACTOR = 9.0


class Searcher:
    """Searches one index, in a folder or on a server. Safe to use from several threads at once."""

    def __init__(
        self,
        index_dir: Location,
        encoder: Encoder,
        follower: Follower,
        *,
        classify: EncodeAndClassify | None = None,
        cached_queries: int = 0,
    ) -> None:
        self._index_dir = index_dir
        self._encoder = encoder
        self._classify = classify
        self._follower = follower
        self._state = follower.open()
        self._rows_of = QueryRows(encoder, classify, self._state.index.embed_dim, cached_queries)
        self._refreshing = threading.Lock()  # held by the one refresh at work
        self._rest_until = 0.0
        self._closed = False

    @classmethod
    def open(
        cls,
        index_dir: Location,
        encoder: Encoder,
        classify: EncodeAndClassify | None = None,
        *,
        cached_queries: int = 0,
        calibration: Calibration | None = None,
    ) -> Self:
        """Open an index for searching; works while another process indexes.

        Args:
            index_dir: The folder that ``clip-text index`` wrote, or a collection on a server.
            encoder: The model that built the index; encodes the queries.
            classify: Encodes the queries in the encoder's place, and says of what category
                each of them is.
            cached_queries: How many of the queries asked last keep their unit rows in memory, 4
                bytes × embed_dim each; a model whose weights change must not. See
                :meth:`cache_info`.
            calibration: Gives hits their probabilities. If not given: the one that is stored with
                the index, or that is shipped for its model, if any.

        Raises:
            QueryError: If ``cached_queries`` is below 0.
            IndexNotFoundError: If there is no index.
            IndexMismatchError: If the index was built by another model, or the calibration is of
                another.
            CorruptIndexError: If the catalogue or its calibration cannot be read.
            StoreUnavailableError: If the server does not answer.
        """
        follower = follow_index(index_dir, encoder, calibration)
        try:
            return cls(
                *(index_dir, encoder, follower), classify=classify, cached_queries=cached_queries
            )
        except BaseException:
            follower.close()
            raise

    def search(
        self,
        query: str | Query,
        top_k: int = 10,
        where: Filter | None = None,
        *,
        hybrid: bool | Blend = False,
    ) -> list[Hit]:
        """Find the pictures nearest to a query, among those taken over by the last refresh.

        Args:
            query: What to look for: words, or a :class:`Query`, which says the rest itself.
            top_k: How many hits at most for a text; more than the index holds gives all of it.
            where: For a text, what must hold of a picture to be considered; None for nothing.
            hybrid: For a text, search the words that are said of pictures as well; a
                :class:`Blend` says how much they count.

        Returns:
            Hits, best first; empty if the index is empty. Pictures removed since the last
            refresh are left out, and the next best stand in their places; after thousands
            were removed, only a refresh finds those that remain.

        Raises:
            QueryError: If the query is no text or blank, ``top_k`` is below 1, the filter
                cannot be used (see :meth:`~retrieval.catalogue.filters.Filters.rows`), a picture
                cannot be read or is not in the index, or terms cancel one another. If ``where``
                or ``hybrid`` stands beside a :class:`Query`. With ``hybrid``, if the index has no
                text index.
            EncoderError: If the encoder returns no unit row.
        """
        return self.answer(query, top_k, where, hybrid=hybrid).hits

    def answer(
        self,
        query: str | Query,
        top_k: int = 10,
        where: Filter | None = None,
        *,
        hybrid: bool | Blend = False,
    ) -> Answer:
        """Find the pictures nearest to a query, and say of what category its text is.

        Args:
            query: As for :meth:`search`.
            top_k: As for :meth:`search`.
            where: As for :meth:`search`.
            hybrid: As for :meth:`search`.

        Returns:
            Hits as :meth:`search` gives them, and the category.

        Raises:
            QueryError: As for :meth:`search`.
            EncoderError: If the encoder returns no unit row.
        """
        return self.answers([query], top_k, where, hybrid=hybrid)[0]

    def answers(
        self,
        queries: Sequence[str | Query],
        top_k: int = 10,
        where: Filter | None = None,
        *,
        hybrid: bool | Blend = False,
    ) -> list[Answer]:
        """Answer several queries at once: their texts by one pass of the encoder.

        Those with equal filters that want as many hits take one pass of the index, too.

        Args:
            queries: What to look for, each as for :meth:`search`.
            top_k: As for :meth:`search`, for each text.
            where: As for :meth:`search`, where all are texts.
            hybrid: As for :meth:`search`, where all are texts.

        Returns:
            One answer per query, in their order; none for none. Hits and scores are those that
            :meth:`answer` gives each query alone, to the last digits of float32.

        Raises:
            QueryError: If the queries are one query, or as for :meth:`search` of one of them.
            EncoderError: If the encoder does not return a unit row for each.
        """
        if isinstance(queries, str | Query):
            got = "text" if isinstance(queries, str) else "query"
            raise QueryError(f"expected a list of texts, got one {got}. Wrap it in a list.")
        limit = checked_top_k(top_k)
        asked = [as_query(query, limit, where, hybrid=hybrid) for query in queries]
        return self.answers_and_rankings(asked, [])[0]

    def answers_and_rankings(
        self, queries: Sequence[Query], ranked: Sequence[Query], depth: int = MAX_RANKED
    ) -> tuple[list[Answer], list[Ranking]]:
        """Answer some queries, and rank others, all of their texts by one pass of the encoder.

        Args:
            queries: To be answered, as by :meth:`answers`.
            ranked: To be ranked, as by :meth:`rank`.
            depth: See :meth:`rank`.

        Returns:
            One answer for each of ``queries`` and one order for each of ``ranked``.

        Raises:
            QueryError: As for :meth:`answers` and :meth:`rank`, of one of them.
            EncoderError: If the encoder does not return a unit row for each.
        """
        if checked_top_k(depth) > MAX_RANKED:
            raise QueryError(
                f"expected a depth of at most {MAX_RANKED}, got {depth}. Narrow the query with a "
                "filter, or ask again with an offset."
            )
        deep = [dataclasses.replace(query, offset=0, top_k=depth) for query in ranked]
        if not (queries or deep):
            return [], []
        state = self._state
        asked = Asked.of([*queries, *deep], state, self._rows_of, self._encoder)
        answers = asked.answers(range(len(queries)))
        orders = asked.orders(range(len(queries), len(asked.queries)))
        return answers, [
            Ranking(
                *(state.catalogue, order, state.generation),
                lambda: self._state.catalogue is state.catalogue,
            )
            for order in orders
        ]

    def rank(self, query: str | Query, depth: int = MAX_RANKED) -> Ranking:
        """Answer a query with an order to go through page by page while others write.

        Args:
            query: As for :meth:`search`; its own ``offset`` and ``top_k`` count for nothing.
            depth: How many hits at most are in all pages.

        Raises:
            QueryError: As for :meth:`search`, or if ``depth`` is not from 1 to
                :data:`~retrieval.search.query.MAX_RANKED`.
            EncoderError: If the encoder returns no unit row.
        """
        return self.answers_and_rankings([], [as_query(query)], depth)[1][0]

    def search_features(
        self, features: Features, top_k: int = 10, where: Filter | None = None
    ) -> list[list[Hit]]:
        """Find the pictures nearest to each row of features.

        Args:
            features: Unit rows of the model that built the index, [n, embed_dim].
            top_k: How many hits at most per row of features.
            where: What must hold of a picture to be considered at all; None for nothing.

        Returns:
            One list of hits per row, best first; without probabilities, which are for texts.

        Raises:
            QueryError: If the features are not finite unit rows of the index's
                embed_dim, ``top_k`` is below 1, or the filter cannot be used.
        """
        limit, state = checked_top_k(top_k), self._state
        check_unit_rows(features, state.index.embed_dim, QueryError, REMEDY)
        return nearest(state, features, limit, matching(state, where))

    def facets(self, field: str, where: Filter | None = None, limit: int = 20) -> list[Facet]:
        """Count how many pictures have each value of a field; the commonest come first.

        Args:
            field: A key of the metadata, or one of ``retrieval.filters.OWN_FIELDS``.
            where: Counts only the pictures that this holds of; None for all.
            limit: How many values at most.

        Raises:
            QueryError: If no picture has the field, the filter cannot be used, or the limit is
                below 1.
        """
        return self._state.catalogue.filters.facets(field, where, limit)

    def hit_path(self, row: int) -> Path | None:
        """Tell where the picture of a row lies; None if there is no such row, or it has no file."""
        record = self.record(row)
        return record.path if record else None

    def record(self, row: int) -> Record | None:
        """Give what is stored of a row now; None if there is no such row."""
        if not 0 < row <= _LAST_ROW:
            return None
        return self._state.catalogue.records([row]).get(row)

    def find(self, image_id: str) -> list[Record]:
        """Give the pictures that an id may mean now: the item; else those of folders, ten at most.

        What was stored is there at once, whether or not it was taken over.
        """
        return self._state.catalogue.find_id(image_id)

    def fields(self) -> list[Field]:
        """Tell which fields of metadata there are now, in the order of their names."""
        return self._state.catalogue.filters.fields()

    def refresh(self, *, at_once: bool = False) -> bool:
        """Take over what another process has indexed since; True if anything changed.

        Cheap where nothing changed. Searches go on meanwhile, on the state before: what is
        read here is read over a connection of its own. On a large index that another
        process is filling, it does nothing most of the time, so that queries are not
        slowed down. While one thread refreshes, others that ask for it are told False.

        Args:
            at_once: Take over all that is stored by now, however long that has taken lately and
                whoever is at it: for who has just written, and is to find it.

        Raises:
            IndexMismatchError: If the index was deleted and built anew by another model.
        """
        if not at_once and time.monotonic() < self._rest_until:
            return False
        if not self._refreshing.acquire(blocking=at_once):
            return False
        try:
            started = time.monotonic()
            state = None if self._closed else self._follower.latest(self._state, at_once=at_once)
            if state is None:
                return False
            self._state = state
            ended = time.monotonic()
            if ended - started > _CHEAP_SECONDS:
                self._rest_until = ended + _REST_FACTOR * (ended - started)
            return True
        finally:
            self._refreshing.release()

    def __len__(self) -> int:
        return len(self._state.index)

    @property
    def fingerprint(self) -> str:
        """Of the model that built the index and encodes the queries."""
        return self._state.catalogue.fingerprint

    @property
    def embed_dim(self) -> int:
        """Width of the index."""
        return self._state.index.embed_dim

    def cache_info(self) -> CacheInfo:
        """Say how the rows of queries that :meth:`open` was told to keep have served."""
        return self._rows_of.info()

    def notes(self) -> list[str]:
        """Say what is worth knowing of all answers, a sentence or two each; mostly nothing.

        One is that queries are computed in another precision than the pictures were.
        """
        # a classifier encodes in its own way, and does not say in which precision
        precision = None if self._classify else precision_of(self._encoder, "text")
        note = as_note(self._state.catalogue.precisions, precision, what="queries")
        return [note] if note else []

    def close(self) -> None:
        """Release the files, once no refresh is at work; nothing can be searched afterwards."""
        with self._refreshing:
            self._closed = True
            self._follower.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
