"""From what a search asks over HTTP to a query, and the orders that pages are taken from."""

import secrets
import threading
from http import HTTPStatus
from typing import Final

from cachetools import LRUCache

from retrieval.errors import QueryError, RankingGoneError
from retrieval.filters.language import read_where
from retrieval.search import Answer, LikeTerm, Query, Ranking, Searcher, TextTerm
from retrieval.search.query import WITHOUT_WEIGHT, Term
from retrieval.service.messages import SearchRequest, SearchTerm
from retrieval.service.problems import ProblemError, shorten

__all__ = ["Pages", "as_query"]

_WITH_PAGE: Final = {"page", "offset", "top_k"}


class Pages:
    """Keeps the orders that were asked for last, each under a token. Safe in several threads.

    Args:
        most: How many; of some 100 KB each, if they are full.
    """

    def __init__(self, most: int) -> None:
        self._rankings: LRUCache[str, Ranking] = LRUCache(most)
        self._lock = threading.Lock()

    def answer(self, searcher: Searcher, body: SearchRequest) -> tuple[Answer, str | None]:
        """Answer a search; gives the token of its further pages, too, if they are wanted.

        Raises:
            QueryError: If the query cannot be used.
            ProblemError: If there is no such token, or no longer, or the index was built anew.
        """
        if body.page is None and not body.paged:
            return searcher.answer(as_query(body)), None
        if body.page is None:
            token, ranking = secrets.token_urlsafe(12), searcher.rank(as_query(body))
            with self._lock:
                self._rankings[token] = ranking
        else:
            token = body.page
            ranking = self._find(token, body)
        try:
            hits = ranking.page(body.offset, body.top_k)
        except RankingGoneError as error:
            with self._lock:
                self._rankings.pop(token, None)
            raise _gone(token) from error
        return ranking.answer(hits), token

    def _find(self, token: str, body: SearchRequest) -> Ranking:
        others = sorted(body.model_fields_set - _WITH_PAGE)
        if others:
            raise QueryError(
                f"expected offset and top_k alone beside page, got {', '.join(others)}. "
                "A page goes on with the query that it was given for."
            )
        with self._lock:
            ranking = self._rankings.get(token)
        if ranking is None:
            raise _gone(token)
        return ranking


def _gone(token: str) -> ProblemError:
    return ProblemError(
        HTTPStatus.GONE,
        "page_gone",
        f"expected the page of a recent answer, got {shorten(token)}. "
        "Ask the query again with paged.",
    )


def as_query(body: SearchRequest) -> Query:
    """Make the query that a search asks.

    Raises:
        QueryError: If it cannot be used.
    """
    wanted = [] if body.query is None else [TextTerm(body.query)]
    terms = (
        *wanted,
        *map(_as_term, body.terms),
        *map(LikeTerm, body.like),
        *(TextTerm(text, -WITHOUT_WEIGHT) for text in body.without),
    )
    return Query(
        terms,
        None if body.where is None else read_where(body.where),
        body.top_k,
        body.offset,
        body.fold,
        body.diversity,
        body.hybrid,
    )


def _as_term(message: SearchTerm) -> Term:
    if (message.text is None) == (message.like is None):
        got = "neither" if message.text is None else "both"
        raise QueryError(
            f"expected either text or like in each of the terms, got {got}. Make two terms of both."
        )
    if message.text is not None:
        return TextTerm(message.text, message.weight)
    assert message.like is not None
    return LikeTerm(message.like, message.weight)
