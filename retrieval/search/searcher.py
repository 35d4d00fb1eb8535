"""Queries → hits: text through the encoder, features through the index, rows to pictures."""

import operator
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from retrieval.catalogue import Catalogue
from retrieval.errors import EncoderError, IndexNotFoundError, QueryError
from retrieval.features import check_unit_rows
from retrieval.index import VectorIndex, open_index, sync
from retrieval.protocols import EncodeAndClassify, Encoder, Features
from retrieval.records import Record

__all__ = ["Answer", "Hit", "Searcher"]

_REMEDY = "Encode the query with the model that built the index."
_LAST_ROW = 2**63 - 1

# Taking over another process's batches copies the index. Where that takes long, it is
# done at most a tenth of the time.
_CHEAP_SECONDS = 0.1
_REST_FACTOR = 9.0

# How often a search starts over because pictures it found were removed meanwhile.
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Hit:
    """One picture found for one query.

    Attributes:
        rank: Place in the result, 1 is best.
        score: Cosine in [-1, 1], higher is better.
        row: The picture's number in the index; never used again for another picture.
        image_id: Path below the indexed folder, with ``/``, safe to print.
        path: Where the picture lies; may hold surrogates where the name is not UTF-8.
        caption: The picture's caption from ``metadata.jsonl``, if any.
        metadata: The other keys of its line in ``metadata.jsonl``.
    """

    rank: int
    score: float
    row: int
    image_id: str
    path: Path
    caption: str | None
    metadata: dict[str, Any]

    @property
    def missing(self) -> bool:
        """True if there is no such file any more; looks each time it is asked."""
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

    Attributes:
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
    index: VectorIndex
    generation: int


class Searcher:
    """Searches one index folder. Safe to use from several threads at once."""

    def __init__(
        self,
        index_dir: Path,
        encoder: Encoder,
        catalogue: Catalogue,
        index: VectorIndex,
        generation: int,
        *,
        classify: EncodeAndClassify | None = None,
    ) -> None:
        self._index_dir = index_dir
        self._encoder = encoder
        self._classify = classify
        self._state = _State(catalogue, index, generation)
        self._retired: list[Catalogue] = []
        self._refreshing = threading.Lock()
        self._rest_until = 0.0

    @classmethod
    def open(
        cls, index_dir: Path, encoder: Encoder, classify: EncodeAndClassify | None = None
    ) -> Self:
        """Open an index for searching; works while another process indexes.

        Args:
            index_dir: The folder ``clip-text index`` wrote.
            encoder: The model that built the index.
            classify: Encodes texts in its place, and says of what category each is.

        Raises:
            IndexNotFoundError: If there is no index.
            IndexMismatchError: If the index was built by another model.
            CorruptIndexError: If the catalogue cannot be read.
        """
        catalogue = _open_catalogue(index_dir, encoder)
        try:
            index, generation = open_index(index_dir, catalogue)
        except BaseException:
            catalogue.close()
            raise
        return cls(index_dir, encoder, catalogue, index, generation, classify=classify)

    def search(self, query: str, top_k: int = 10) -> list[Hit]:
        """Find the pictures nearest to a text.

        Args:
            query: What to look for.
            top_k: How many hits at most; more than the index holds gives all of it.

        Returns:
            Hits, best first; empty if the index is empty.

        Raises:
            QueryError: If the query is no text or blank, or ``top_k`` is below 1.
            EncoderError: If the encoder returns no unit row.
        """
        return self.answer(query, top_k).hits

    def answer(self, query: str, top_k: int = 10) -> Answer:
        """Find the pictures nearest to a text, and say of what category the text is.

        Arguments and errors as for :meth:`search`.
        """
        text = _checked_query(query)
        limit = _checked_top_k(top_k)
        category = None
        if self._classify is None:
            features = self._encoder.encode_text([text])
        else:
            features, (category,) = self._classify([text])
        check_unit_rows(features, self._state.index.embed_dim, EncoderError, _REMEDY)
        return Answer(self._search(features, limit)[0], category)

    def search_features(self, features: Features, top_k: int = 10) -> list[list[Hit]]:
        """Find the pictures nearest to each row of features.

        Args:
            features: Unit rows, [n, embed_dim].
            top_k: How many hits at most per row.

        Returns:
            One list of hits per row, best first.

        Raises:
            QueryError: If the features are not finite unit rows of the index's
                embed_dim, or ``top_k`` is below 1.
        """
        limit = _checked_top_k(top_k)
        check_unit_rows(features, self._state.index.embed_dim, QueryError, _REMEDY)
        return self._search(features, limit)

    def hit_path(self, row: int) -> Path | None:
        """Where the picture of a row lies, or None if the index has no such row."""
        if not 0 < row <= _LAST_ROW:
            return None
        found = self._state.catalogue.records([row])
        return found[row].path if row in found else None

    def refresh(self) -> bool:
        """Take over what another process has indexed since; True if anything changed.

        Cheap where nothing changed. Searches go on meanwhile, on the state before.
        On a large index that another process is filling, it does nothing most of the
        time, so that queries are not slowed down.

        Raises:
            IndexMismatchError: If the index was deleted and built anew by another model.
        """
        if time.monotonic() < self._rest_until or not self._refreshing.acquire(blocking=False):
            return False
        try:
            started = time.monotonic()
            state = self._latest()
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

    def close(self) -> None:
        """Release the files; the searcher cannot be used afterwards."""
        for catalogue in (*self._retired, self._state.catalogue):
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
        """The state of the index folder now, or None if it is the one we have."""
        now = self._state
        if now.catalogue.is_replaced:
            try:
                catalogue = _open_catalogue(self._index_dir, self._encoder)
            except IndexNotFoundError:
                return None  # deleted, perhaps to be built anew: serve what we have
            self._retired.append(now.catalogue)  # searches at work may still read it
            return _State(catalogue, *open_index(self._index_dir, catalogue))
        if now.catalogue.generation == now.generation:
            return None
        index, generation = sync(now.index.copy(), now.generation, now.catalogue)
        return _State(now.catalogue, index, generation)

    def _search(self, features: Features, top_k: int) -> list[list[Hit]]:
        for attempt in range(1, _ATTEMPTS + 1):
            state = self._state
            scores, rows = state.index.search(features, top_k)
            records = state.catalogue.records(dict.fromkeys(rows.ravel().tolist()))
            complete = len(records) == len(set(rows.ravel().tolist()))
            if complete or attempt == _ATTEMPTS or not self.refresh():
                break
        return [
            _hits(own_scores, own_rows, records)
            for own_scores, own_rows in zip(scores.tolist(), rows.tolist(), strict=True)
        ]


def _hits(scores: list[float], rows: list[int], records: dict[int, Record]) -> list[Hit]:
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
        msg = f"expected a text to search for, got {type(query).__name__}. Pass a str."
        raise QueryError(msg)
    if not query.strip():
        msg = "expected a text to search for, got a blank one. Say what to look for."
        raise QueryError(msg)
    return query


def _checked_top_k(top_k: int) -> int:
    try:
        number = operator.index(top_k)
    except TypeError:
        number = 0
    if number < 1 or isinstance(top_k, bool):
        msg = f"expected top_k of at least 1, got {top_k!r}. Ask for one hit or more."
        raise QueryError(msg)
    return number
