"""From what searches ask over HTTP to their answers, and the orders that pages are taken from."""

import dataclasses
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from cachetools import LRUCache

from retrieval.errors import QueryError, RankingGoneError
from retrieval.filters.language import read_where
from retrieval.search import Answer, LikeTerm, PictureTerm, Query, Ranking, Searcher, TextTerm
from retrieval.search.query import WITHOUT_WEIGHT, Term
from retrieval.service.given import Addresses, search_body
from retrieval.service.messages.search import SearchRequest, SearchTerm
from retrieval.service.problems import ProblemError, shorten

__all__ = ["Pages", "Search", "answer_searches", "as_query", "keeper"]

_WITH_PAGE: Final = {"page", "offset", "top_k"}


@dataclass(frozen=True, slots=True)
class Search:
    """A search that waits for its answer.

    Args:
        body: What it asks.
        addresses: Where pictures of its answer are.
        since: When it came, by :func:`time.perf_counter`.
        pictures: That came with it, to look for the like of, or to stay away from.
    """

    body: SearchRequest
    addresses: Addresses
    since: float
    pictures: tuple[PictureTerm, ...] = ()


def answer_searches(
    searcher: Searcher, pages: "Pages", searches: Sequence[Search]
) -> list[bytes | Exception]:
    """Answer searches together: their texts by one pass of the encoder.

    Args:
        searcher: What answers.
        pages: Where orders are kept.
        searches: At least one.

    Returns:
        The body of each one's response, in their order; or its error.
    """
    given: list[bytes | Exception] = [QueryError("")] * len(searches)
    queries: dict[int, Query] = {}
    for place, search in enumerate(searches):
        try:
            if search.body.page is not None:
                answer, page = pages.further(search)
                given[place] = _response(searcher, search, answer, page)
            else:
                queries[place] = as_query(search.body, search.pictures)
        except Exception as error:  # noqa: BLE001  its own answer, not the others'
            given[place] = error
    wanted = [(query, searches[place].body.paged) for place, query in queries.items()]
    for place, result in zip(queries, _answers(searcher, wanted), strict=True):
        search = searches[place]
        try:
            if isinstance(result, Exception):
                given[place] = result
            elif isinstance(result, Answer):
                given[place] = _response(searcher, search, result, None)
            else:
                given[place] = _response(searcher, search, *pages.first(search, result))
        except Exception as error:  # noqa: BLE001  a field to count that there is not, say
            given[place] = error
    return given


def _answers(
    searcher: Searcher, wanted: Sequence[tuple[Query, bool]]
) -> Sequence[Answer | Ranking | Exception]:
    """Answer queries together, those to be paged by an order; where one cannot be, each alone."""
    queries = [query for query, is_paged in wanted if not is_paged]
    ranked = [query for query, is_paged in wanted if is_paged]
    try:
        answers, rankings = searcher.answers_and_rankings(queries, ranked)
    except Exception as error:  # noqa: BLE001  given to who asked
        if len(wanted) == 1:
            return [error]
        return [one for each in wanted for one in _answers(searcher, [each])]
    orders, others = iter(rankings), iter(answers)
    return [next(orders) if is_paged else next(others) for _, is_paged in wanted]


def _response(searcher: Searcher, search: Search, answer: Answer, page: str | None) -> bytes:
    answer = _cut(answer, search.body.min_probability)
    where = None if search.body.where is None else read_where(search.body.where)
    facets = {field: searcher.facets(field, where) for field in search.body.facets}
    took_ms = round((time.perf_counter() - search.since) * 1_000, 2)
    return search_body(
        *(search.body.query, answer, page, search.addresses, facets),
        total=len(searcher),
        took_ms=took_ms,
    )


def _cut(answer: Answer, least: float | None) -> Answer:
    """Leave out the hits that are known to be less probable."""
    if least is None:
        return answer
    hits = [hit for hit in answer.hits if hit.probability is None or hit.probability >= least]
    is_nothing = bool(answer.hits) and answer.hits[0].rank == 1 and not hits
    return dataclasses.replace(
        answer, hits=hits, nothing_matches=answer.nothing_matches or is_nothing
    )


class Pages:
    """Keeps the orders that were asked for last, each under a token. Safe in several threads.

    Args:
        most: How many; of some 100 KB each, if they are full.
    """

    prefix = ""
    """Of the tokens: says which of several processes keeps them, see :func:`keeper`."""

    def __init__(self, most: int) -> None:
        self._rankings: LRUCache[str, tuple[Ranking, float | None]] = LRUCache(most)
        self._lock = threading.Lock()

    def first(self, search: Search, ranking: Ranking) -> tuple[Answer, str]:
        """Keep the order that a search came to; gives its first page and the further ones' token.

        Raises:
            ProblemError: If the index was built anew.
        """
        token, least = self.prefix + secrets.token_urlsafe(12), search.body.min_probability
        with self._lock:
            self._rankings[token] = ranking, least
        return self._page(token, ranking, least, search)

    def further(self, search: Search) -> tuple[Answer, str]:
        """Give a further page of an order that is kept, and its token again.

        Raises:
            QueryError: If more is asked beside it.
            ProblemError: If there is no such token, or no longer, or the index was built anew.
        """
        assert search.body.page is not None
        return self._page(search.body.page, *self._find(search.body.page, search), search)

    def _page(
        self, token: str, ranking: Ranking, least: float | None, search: Search
    ) -> tuple[Answer, str]:
        try:
            hits = ranking.page(search.body.offset, search.body.top_k)
        except RankingGoneError as error:
            with self._lock:
                self._rankings.pop(token, None)
            raise _gone(token) from error
        return _cut(ranking.answer(hits), least), token

    def _find(self, token: str, search: Search) -> tuple[Ranking, float | None]:
        others = sorted(search.body.model_fields_set - _WITH_PAGE)
        others += ["pictures"] if search.pictures else []
        if others:
            raise QueryError(
                f"expected offset and top_k alone beside page, got {', '.join(others)}. "
                "A page goes on with the query that it was given for."
            )
        with self._lock:
            kept = self._rankings.get(token)
        if kept is None:
            raise _gone(token)
        return kept


def keeper(token: str) -> int | None:
    """Say which of several processes keeps the order under a token; None if it says of none."""
    slot, point, _ = token.partition(".")  # no other part of a token has one
    return int(slot) if point and slot.isascii() and slot.isdigit() and len(slot) < 4 else None


def _gone(token: str) -> ProblemError:
    return ProblemError(
        HTTPStatus.GONE,
        "page_gone",
        f"expected the page of a recent answer, got {shorten(token)}. "
        "Ask the query again with paged.",
    )


def as_query(body: SearchRequest, pictures: Sequence[PictureTerm] = ()) -> Query:
    """Make the query that a search asks.

    Args:
        body: What it asks.
        pictures: That came with it.

    Raises:
        QueryError: If it cannot be used.
    """
    wanted = [] if body.query is None else [TextTerm(body.query)]
    terms = (
        *wanted,
        *map(_as_term, body.terms),
        *map(LikeTerm, body.like),
        *pictures,
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
