"""Queries to unit rows: their texts through the encoder in one pass, and so their pictures."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.catalogue.store import ReadableStore
from retrieval.errors import QueryError, QueryPictureError
from retrieval.features import check_encoded
from retrieval.filters.shown import shown
from retrieval.protocols import Encoder, Feature, Features, Pixels
from retrieval.search.combining import combine
from retrieval.search.query import LikeTerm, PictureTerm, Query, TextTerm
from retrieval.search.query_rows import REMEDY, Category, QueryRows

__all__ = ["QueryVectors", "query_vectors"]

_LAST_ROW = 2**63 - 1


@dataclass(frozen=True, slots=True)
class QueryVectors:
    """What queries came to.

    Args:
        features: Unit rows, [n of queries, embed_dim].
        categories: Of each query that is about one text, what category that has.
        liked: Of each query, the rows of pictures that it wants more like.
    """

    features: Features
    categories: list[Category]
    liked: list[frozenset[int]]


def query_vectors(
    queries: Sequence[Query], rows_of: QueryRows, encoder: Encoder, catalogue: ReadableStore
) -> QueryVectors:
    """Turn queries into unit rows.

    Args:
        queries: At least one.
        rows_of: Encodes texts.
        encoder: Encodes pictures.
        catalogue: Has the features of the pictures that more is wanted like.

    Raises:
        QueryError: If a picture cannot be read, there is no picture of a row or an id, or the
            terms of a query cancel.
        EncoderError: If the encoder does not return a unit row for each text and picture.
    """
    terms = [term for query in queries for term in query.terms]
    liked = {term: _row(term, catalogue) for term in terms if isinstance(term, LikeTerm)}
    stored = _stored(liked, catalogue)
    pictures = [term for term in terms if isinstance(term, PictureTerm)]
    encoded = iter(_encode_pictures(pictures, encoder, catalogue.embed_dim))
    texts = [term.text for term in terms if isinstance(term, TextTerm)]
    text_rows, text_categories = rows_of(texts) if texts else ((), ())
    of_texts = zip(text_rows, text_categories, strict=True)
    features, categories = [], []
    for query in queries:
        rows: list[Feature] = []
        told: list[Category] = []
        for term in query.terms:
            if isinstance(term, TextTerm):
                row, category = next(of_texts)
                rows.append(row)
                told += [category] if term.weight > 0 else []
            else:
                rows.append(stored[term] if isinstance(term, LikeTerm) else next(encoded))
        features.append(combine(np.stack(rows), [term.weight for term in query.terms]))
        categories.append(told[0] if len(told) == 1 else None)
    of_query = [
        frozenset(liked[term] for term in query.terms if term in liked) for query in queries
    ]
    return QueryVectors(np.stack(features), categories, of_query)


def _encode_pictures(
    terms: Sequence[PictureTerm], encoder: Encoder, embed_dim: int
) -> Iterable[Feature]:
    if not terms:
        return ()
    rows = encoder.encode_pixels([_pixels(term, encoder) for term in terms])
    check_encoded(rows, len(terms), embed_dim, REMEDY, "rows, one for each picture")
    return rows


def _pixels(term: PictureTerm, encoder: Encoder) -> Pixels:
    try:
        return encoder.load_pixels(term.picture)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise QueryPictureError(
            f"expected a picture to search with that can be read, got {term.name}: "
            f"{reason.splitlines()[0]}. Check the path."
        ) from error
    except (ValueError, ImportError) as error:
        reason = " ".join(str(error).split())  # has what it expected, and what to do
        raise QueryPictureError(
            f"expected a picture to search with, got {term.name}, of which is said: {reason}"
        ) from error


def _row(term: LikeTerm, catalogue: ReadableStore) -> int:
    remedy = "Take the row or the image_id of a hit."
    if isinstance(term.picture, int):
        row = term.picture
        if not 0 < row <= _LAST_ROW or row not in catalogue.records([row]):
            raise QueryError(f"expected the row of a picture in the index, got {row}. {remedy}")
        return row
    # SQLite takes no lone surrogates, and no id has any
    is_text = not any("\ud800" <= char <= "\udfff" for char in term.picture)
    first, *others = (catalogue.find_id(term.picture, 2) if is_text else ()) or (None,)
    if first is None:
        raise QueryError(
            f"expected the id of a picture in the index, got {shown(term.picture)}. {remedy}"
        )
    if others:
        raise QueryError(
            f"expected an id that one picture has, got {shown(term.picture)}, which several "
            "folders have. Take the row of a hit, or search with the file itself."
        )
    return first.row


def _stored(liked: dict[LikeTerm, int], catalogue: ReadableStore) -> dict[LikeTerm, Feature]:
    rows = catalogue.features_of(liked.values())
    for term, row in liked.items():
        if row not in rows:  # gone since it was looked up
            raise QueryError(
                f"expected a picture in the index, got {shown(term.picture)}, which was removed "
                "just now. Leave it out."
            )
    return {term: rows[row] for term, row in liked.items()}
