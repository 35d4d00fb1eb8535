"""The order of an answer, held while somebody goes through it page by page."""

import dataclasses
from collections.abc import Callable
from typing import Final

from retrieval.catalogue.store import ReadableStore
from retrieval.errors import QueryError, RankingGoneError
from retrieval.filters.shown import shown
from retrieval.search.hits import Answer, Hit, Order, hit_at
from retrieval.search.query import checked_top_k

__all__ = ["Ranking"]


class Ranking:
    """The best hits of a query in their order, as of the moment when it was asked.

    Its pages have each hit once, whoever adds, changes and removes pictures meanwhile: what came
    later is in none, what was removed before its page is read is left out of that page, and what
    is said of a picture is what is said when its page is read. It holds numbers only, some 100
    bytes a hit. Safe to use from several threads, until the searcher that gave it is closed.

    Args:
        catalogue: Has the pictures.
        order: Of all hits of the query, and what else is said of it.
        generation: Of the catalogue when it was asked.
        is_present: Tells whether the catalogue is the one that is searched now. If another has
            taken its place, the same rows are other pictures.
    """

    def __init__(
        self,
        catalogue: ReadableStore,
        order: Order,
        generation: int,
        is_present: Callable[[], bool],
    ) -> None:
        self._catalogue = catalogue
        self._is_present = is_present
        self._order: Final = order
        self.generation: Final = generation

    def __len__(self) -> int:
        return len(self._order.places)

    def answer(self, hits: list[Hit]) -> Answer:
        """Say of a page's hits what is said of the whole answer."""
        return self._order.answer(hits)

    def page(self, offset: int = 0, top_k: int = 10) -> list[Hit]:
        """Give the hits after the first ``offset``.

        Args:
            offset: How many to pass over, those among them that were removed meanwhile, too.
            top_k: How many at most.

        Returns:
            Hits with the ranks that they had; fewer than ``top_k`` where some were removed, none
            at the end.

        Raises:
            QueryError: If ``offset`` is below 0, or ``top_k`` below 1.
            RankingGoneError: If the searcher has taken over an index that was built anew.
        """
        limit = checked_top_k(top_k)
        if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
            raise QueryError(
                f"expected an offset of at least 0, got {shown(offset)}. 0 passes over none."
            )
        if not self._is_present():
            raise RankingGoneError(
                "expected a ranking of the index that is searched, got one of an index that "
                "another has replaced since. Rank the query again."
            )
        page = dataclasses.replace(self._order, places=self._order.places[offset : offset + limit])
        records, read = self._catalogue.records_and_texts(page.rows)
        return [hit_at(place, records, read) for place in page.places if place.row in records]
