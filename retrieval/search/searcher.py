"""Queries → hits: text through the encoder, features through the index, rows to pictures."""

import operator
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from retrieval.catalogue import Catalogue, Facet
from retrieval.errors import IndexNotFoundError, QueryError
from retrieval.features import check_unit_rows
from retrieval.filters import Filter
from retrieval.index import SegmentedIndex, follow, open_index
from retrieval.precision import as_note, precision_of
from retrieval.protocols import EncodeAndClassify, Encoder, Features, Rows
from retrieval.records import Record
from retrieval.search.hybrid import Blend, blend_of, depth_for, join
from retrieval.search.query_rows import REMEDY, CacheInfo, QueryRows

__all__ = ["Answer", "Hit", "Searcher"]

_LAST_ROW = 2**63 - 1

# Taking over another process's batches costs what they hold, or, where it has sealed the
# index anew, opening it. Where that takes long, it is done at most a tenth of the time.
_CHEAP_SECONDS = 0.1
_REST_FACTOR = 9.0

# Where pictures that a search found were removed meanwhile, it looks further down by this
# factor, and no further than so many candidates.
_WIDER = 4
_MOST_CANDIDATES = 16_384


@dataclass(frozen=True, slots=True)
class Hit:
    """One picture found for one query.

    Args:
        rank: Place in the result; 1 is best.
        score: Cosine in [-1, 1], higher is better.
        row: The picture's number in the index; never used again for another picture.
        image_id: Path below the indexed folder, with ``/``, safe to print; of a picture from
            outside a folder, the id that it was added under.
        path: Where the picture lies; may hold surrogates where the name is not UTF-8. None for a
            picture that was added without a file.
        caption: The picture's caption from ``metadata.jsonl``, if any.
        metadata: The other keys of the picture's line in ``metadata.jsonl``.
        recognised: The text that was read in the picture, if any.
        word_score: BM25 of the words that are said of the picture, higher is better; None if it
            was not found by them.
    """

    rank: int
    score: float
    row: int
    image_id: str
    path: Path | None
    caption: str | None
    metadata: dict[str, Any]
    recognised: str | None = None
    word_score: float | None = None

    @property
    def missing(self) -> bool:
        """True if there is no such file any more; looks each time it is asked.

        A picture that was added without a file misses none.
        """
        if self.path is None:
            return False
        try:
            self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:  # out of reach, which is not to say that it is gone
            return False
        return False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query came to.

    Args:
        hits: Pictures, best first.
        category: What kind of query it is, and the probability of that in [0, 1]; None without
            a classifier, or where it says nothing.
    """

    hits: list[Hit]
    category: tuple[str, float] | None


@dataclass(frozen=True, slots=True)
class _State:
    """What one search reads; replaced as a whole, never changed."""

    catalogue: Catalogue
    index: SegmentedIndex
    generation: int


class Searcher:
    """Searches one index folder. Safe to use from several threads at once."""

    def __init__(
        self,
        index_dir: Path,
        encoder: Encoder,
        catalogue: Catalogue,
        index: SegmentedIndex,
        generation: int,
        *,
        classify: EncodeAndClassify | None = None,
        cached_queries: int = 0,
    ) -> None:
        self._index_dir = index_dir
        self._encoder = encoder
        self._classify = classify
        self._rows_of = QueryRows(encoder, classify, index.embed_dim, cached_queries)
        self._state = _State(catalogue, index, generation)
        self._retired: list[Catalogue] = []
        self._refreshing = threading.Lock()  # held by the one refresh at work
        self._feed: Catalogue | None = None
        self._rest_until = 0.0
        self._closed = False

    @classmethod
    def open(
        cls,
        index_dir: Path,
        encoder: Encoder,
        classify: EncodeAndClassify | None = None,
        *,
        cached_queries: int = 0,
    ) -> Self:
        """Open an index for searching; works while another process indexes.

        Args:
            index_dir: The folder ``clip-text index`` wrote.
            encoder: The model that built the index; encodes the queries.
            classify: Encodes the queries in the encoder's place, and says of what category
                each of them is.
            cached_queries: How many of the queries asked last keep their unit rows in memory, 4
                bytes × embed_dim each; a model whose weights change must not. See
                :meth:`cache_info`.

        Raises:
            QueryError: If ``cached_queries`` is below 0.
            IndexNotFoundError: If there is no index.
            IndexMismatchError: If the index was built by another model.
            CorruptIndexError: If the catalogue cannot be read.
        """
        catalogue = _open_catalogue(index_dir, encoder)
        try:
            index, generation = open_index(index_dir, catalogue)
            return cls(
                *(index_dir, encoder, catalogue, index, generation),
                classify=classify,
                cached_queries=cached_queries,
            )
        except BaseException:
            catalogue.close()
            raise

    def search(
        self,
        query: str,
        top_k: int = 10,
        where: Filter | None = None,
        *,
        hybrid: bool | Blend = False,
    ) -> list[Hit]:
        """Find the pictures nearest to a text, among those taken over by the last refresh.

        Args:
            query: What to look for, in words.
            top_k: How many hits at most; more than the index holds gives all of it.
            where: What must hold of a picture to be considered at all; None for nothing.
            hybrid: Search the words that are said of pictures as well; a :class:`Blend` says
                how much they count.

        Returns:
            Hits, best first; empty if the index is empty. Pictures removed since the last
            refresh are left out, and the next best stand in their places; after thousands
            were removed, only a refresh finds those that remain.

        Raises:
            QueryError: If the query is no text or blank, ``top_k`` is below 1, or the filter
                cannot be used; see :meth:`~retrieval.catalogue.filters.Filters.rows`. With
                ``hybrid``, if the index has no text index.
            EncoderError: If the encoder returns no unit row.
        """
        return self.answer(query, top_k, where, hybrid=hybrid).hits

    def answer(
        self,
        query: str,
        top_k: int = 10,
        where: Filter | None = None,
        *,
        hybrid: bool | Blend = False,
    ) -> Answer:
        """Find the pictures nearest to a text, and say of what category the text is.

        Args:
            query: What to look for, in words.
            top_k: How many hits at most; more than the index holds gives all of it.
            where: What must hold of a picture to be considered at all; None for nothing.
            hybrid: Search the words that are said of pictures as well; a :class:`Blend` says
                how much they count.

        Returns:
            Hits as :meth:`search` gives them, and the category.

        Raises:
            QueryError: As for :meth:`search`.
            EncoderError: If the encoder returns no unit row.
        """
        return self.answers([query], top_k, where, hybrid=hybrid)[0]

    def answers(
        self,
        queries: Sequence[str],
        top_k: int = 10,
        where: Filter | None = None,
        *,
        hybrid: bool | Blend = False,
    ) -> list[Answer]:
        """Answer several texts at once: by one pass of the encoder, and one of the index.

        Args:
            queries: What to look for, each in words.
            top_k: How many hits at most for each; more than the index holds gives all of it.
            where: What must hold of a picture to be considered at all; None for nothing.
            hybrid: Search the words that are said of pictures as well; a :class:`Blend` says
                how much they count.

        Returns:
            One answer per query, in their order; none for none. Hits and scores are those that
            :meth:`answer` gives each query alone, to the last digits of float32.

        Raises:
            QueryError: If the queries are one text, or as for :meth:`search` of one of them.
            EncoderError: If the encoder does not return a unit row for each.
        """
        if isinstance(queries, str):
            raise QueryError("expected a list of texts, got one text. Wrap it in a list.")
        texts = [_checked_query(query) for query in queries]
        limit = _checked_top_k(top_k)
        if not texts:
            return []
        among = self._matching(where)
        features, categories = self._rows_of(texts)
        blend = blend_of(hybrid)
        if blend is None:
            hits_of = self._search(features, limit, among)
        else:
            hits_of = self._search_both(texts, features, limit, among, blend)
        return [Answer(hits, category) for hits, category in zip(hits_of, categories, strict=True)]

    def search_features(
        self, features: Features, top_k: int = 10, where: Filter | None = None
    ) -> list[list[Hit]]:
        """Find the pictures nearest to each row of features.

        Args:
            features: Unit rows of the model that built the index, [n, embed_dim].
            top_k: How many hits at most per row of features.
            where: What must hold of a picture to be considered at all; None for nothing.

        Returns:
            One list of hits per row, best first.

        Raises:
            QueryError: If the features are not finite unit rows of the index's
                embed_dim, ``top_k`` is below 1, or the filter cannot be used.
        """
        limit = _checked_top_k(top_k)
        check_unit_rows(features, self._state.index.embed_dim, QueryError, REMEDY)
        return self._search(features, limit, self._matching(where))

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
        if not 0 < row <= _LAST_ROW:
            return None
        record = self._state.catalogue.records([row]).get(row)
        return record.path if record else None

    def refresh(self) -> bool:
        """Take over what another process has indexed since; True if anything changed.

        Cheap where nothing changed. Searches go on meanwhile, on the state before: what is
        read here is read over a connection of its own. On a large index that another
        process is filling, it does nothing most of the time, so that queries are not
        slowed down. While one thread refreshes, others that ask for it are told False.

        Raises:
            IndexMismatchError: If the index was deleted and built anew by another model.
        """
        if time.monotonic() < self._rest_until or not self._refreshing.acquire(blocking=False):
            return False
        try:
            started = time.monotonic()
            state = None if self._closed else self._latest()
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
            for catalogue in (*self._retired, self._state.catalogue, self._feed):
                if catalogue is not None:
                    catalogue.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _latest(self) -> _State | None:
        """Read the state of the index folder now; None if it is the one we have."""
        now = self._state
        try:
            feed = self._feed = self._follow()
        except IndexNotFoundError:
            return None  # deleted, perhaps to be built anew: serve what we have
        is_past = feed.generation < now.generation  # put back from a copy
        if now.catalogue.is_replaced or feed.uid != now.catalogue.uid or is_past:
            return self._begin_anew(feed)
        index, generation = follow(self._index_dir, now.index, now.generation, feed)
        return None if index is now.index else _State(now.catalogue, index, generation)

    def _follow(self) -> Catalogue:
        """Give the connection that refreshes read over, to the file that is there now."""
        feed, self._feed = self._feed, None
        if feed is not None and not feed.is_replaced:
            return feed
        if feed is not None:
            feed.close()
        return _open_catalogue(self._index_dir, self._encoder)

    def _begin_anew(self, feed: Catalogue) -> _State | None:
        """Read the state of another catalogue than the one we have; None if that, too, is gone."""
        catalogue = _open_catalogue(self._index_dir, self._encoder)
        try:
            if catalogue.uid != feed.uid:
                catalogue.close()
                return None
            state = _State(catalogue, *open_index(self._index_dir, feed))
        except BaseException:
            catalogue.close()
            raise
        self._retired.append(self._state.catalogue)  # searches at work may still read it
        return state

    def _matching(self, where: Filter | None) -> Rows | None:
        """Read which rows a filter holds of; None without one."""
        return None if where is None else self._state.catalogue.filters.rows(where)

    def _search(self, features: Features, top_k: int, among: Rows | None) -> list[list[Hit]]:
        state = self._state
        hits_of = _look_up(state, features, top_k, among)
        most = len(state.index) if among is None else min(len(among), len(state.index))
        wanted, candidates = min(top_k, most), top_k
        most = min(most, max(_MOST_CANDIDATES, top_k))
        while candidates < most:
            short = [i for i, hits in enumerate(hits_of) if len(hits) < wanted]
            if not short:
                break
            candidates = min(candidates * _WIDER, most)
            wider = _look_up(state, features[short], candidates, among)
            for i, hits in zip(short, wider, strict=True):
                hits_of[i] = hits[:top_k]
        return hits_of

    def _search_both(
        self,
        texts: Sequence[str],
        features: Features,
        top_k: int,
        among: Rows | None,
        blend: Blend,
    ) -> list[list[Hit]]:
        """Search by features and by words; scores are cosines whichever found a picture."""
        state, depth = self._state, depth_for(top_k)
        scores_of, near_of = state.index.search(features, depth, among)
        hits_of = []
        for i, text in enumerate(texts):
            worded = state.catalogue.words.rank(text, depth, among)
            cosines = dict(zip(near_of[i].tolist(), scores_of[i].tolist(), strict=True))
            ranked = join(near_of[i], worded, blend)
            if absent := sorted(set(ranked) - cosines.keys()):
                rows = np.array(absent, np.int64)
                others, found = state.index.search(features[i, None], len(rows), rows)
                cosines |= zip(found[0].tolist(), others[0].tolist(), strict=True)
            hits: list[Hit] = []
            ranked = [row for row in ranked if row in cosines]
            while ranked and len(hits) < top_k:  # some may be gone
                page, ranked = ranked[:top_k], ranked[top_k:]
                hits += _hits([cosines[row] for row in page], page, state)
            if len(hits) < top_k and len(cosines) >= depth:  # nearly all are
                known = {hit.row for hit in hits}
                more = self._search(features[i, None], top_k, among)[0]
                hits += [hit for hit in more if hit.row not in known]
            said = dict(zip(worded.rows.tolist(), worded.scores.tolist(), strict=True))
            hits_of.append(
                [
                    replace(hit, rank=rank, word_score=said.get(hit.row))
                    for rank, hit in enumerate(hits[:top_k], start=1)
                ]
            )
        return hits_of


def _look_up(state: _State, features: Features, k: int, among: Rows | None) -> list[list[Hit]]:
    """Find which of the k rows nearest to each feature have pictures that are still there."""
    scores, rows = state.index.search(features, k, among)
    records = state.catalogue.records(dict.fromkeys(rows.ravel().tolist()))
    read = state.catalogue.words.recognised(records)
    return [
        _as_hits(own_scores, own_rows, records, read)
        for own_scores, own_rows in zip(scores.tolist(), rows.tolist(), strict=True)
    ]


def _hits(scores: list[float], rows: list[int], state: _State) -> list[Hit]:
    """Read the pictures of rows that are still there."""
    records = state.catalogue.records(rows)
    return _as_hits(scores, rows, records, state.catalogue.words.recognised(records))


def _as_hits(
    scores: list[float], rows: list[int], records: dict[int, Record], read: dict[int, str]
) -> list[Hit]:
    known = [
        (score, records[row]) for score, row in zip(scores, rows, strict=True) if row in records
    ]
    return [
        Hit(
            rank=rank,
            score=score,
            row=record.row,
            image_id=record.picture.image_id,
            path=record.path,
            caption=record.picture.caption,
            metadata=record.metadata,
            recognised=read.get(record.row),
        )
        for rank, (score, record) in enumerate(known, start=1)
    ]


def _open_catalogue(index_dir: Path, encoder: Encoder) -> Catalogue:
    catalogue = Catalogue.open(index_dir)
    try:
        catalogue.check_model(fingerprint=encoder.fingerprint, embed_dim=encoder.embed_dim)
    except BaseException:
        catalogue.close()
        raise
    return catalogue


def _checked_query(query: object) -> str:
    if not isinstance(query, str):
        raise QueryError(f"expected a text to search for, got {type(query).__name__}. Pass a str.")
    if not query.strip():
        raise QueryError("expected a text to search for, got a blank one. Say what to look for.")
    return query


def _checked_top_k(top_k: int) -> int:
    try:
        number = operator.index(top_k)
    except TypeError:
        number = 0
    if number < 1 or isinstance(top_k, bool):
        raise QueryError(f"expected top_k of at least 1, got {top_k!r}. Ask for one hit or more.")
    return number
