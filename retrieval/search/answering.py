"""Queries answered from what a searcher has open: looked up together where they are alike.

queries → unit rows → orders, which know of pictures their rows alone → what is said of those
pictures that are shown, read for all queries at once.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from retrieval.catalogue.store import Among
from retrieval.protocols import Encoder, Features
from retrieval.search.hits import Answer, Hit, Order, Place, hit_at
from retrieval.search.hybrid import DEPTH, join
from retrieval.search.query import Query
from retrieval.search.query_rows import QueryRows
from retrieval.search.reranking import rank
from retrieval.search.state import Nearest, State, matching, nearest_rows, present, searched
from retrieval.search.vectors import QueryVectors, query_vectors

__all__ = ["Asked", "nearest"]

Liked = frozenset[int]
"""Rows of pictures that a query wants more like."""

# How often pictures are looked up anew where one was removed between that and its being read.
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Asked:
    """Queries that have been encoded, and what their filters hold of.

    Args:
        queries: At least one.
        state: What is searched.
        vectors: What the queries came to.
        among: By the text of a filter, the rows that it holds of.
    """

    queries: Sequence[Query]
    state: State
    vectors: QueryVectors
    among: dict[str, Among | None]

    @classmethod
    def of(
        cls, queries: Sequence[Query], state: State, rows_of: QueryRows, encoder: Encoder
    ) -> Self:
        """Encode queries, all texts by one pass.

        Args:
            queries: At least one.
            state: What is searched.
            rows_of: Encodes texts.
            encoder: Encodes pictures.

        Raises:
            QueryError: If a filter, a picture or an id cannot be used, or terms cancel.
            EncoderError: If the encoder breaks its promise.
        """
        among: dict[str, Among | None] = {}
        for query in queries:  # refused before anything is encoded
            if (name := _name_of(query)) not in among:
                among[name] = matching(state, query.where)
        return cls(queries, state, query_vectors(queries, rows_of, encoder, state.catalogue), among)

    def orders(self, places: Iterable[int]) -> list[Order]:
        """Give the orders of some of the queries, those that are alike looked up together."""
        wanted = list(places)
        orders: dict[int, Order] = {}
        for (where, depth), members in self._alike(wanted).items():
            found = nearest_rows(
                self.state, self.vectors.features[members], depth, self.among[where]
            )
            for i, order in zip(members, self._judged(members, found), strict=True):
                page = _page(self.queries[i], order.places, self.vectors.liked[i])
                orders[i] = dataclasses.replace(order, places=page)
        for i in wanted:
            if self.queries[i].blend is not None:
                orders[i] = self._by_both(i)
            elif self.queries[i].is_reranked:
                orders[i] = self._reranked(i)
        return [
            dataclasses.replace(orders[i], category=category)
            if (category := self.vectors.categories[i])
            else orders[i]
            for i in wanted
        ]

    def answers(self, places: Iterable[int]) -> list[Answer]:
        """Answer some of the queries; their pictures are read at once."""
        answers: dict[int, Answer] = {}
        wanted = left = list(places)
        for _ in range(_TRIES):
            if not left:
                break
            orders = self.orders(left)
            hits_of = _read(self.state, [order.places for order in orders])
            answers |= {
                i: order.answer(hits) for i, order, hits in zip(left, orders, hits_of, strict=True)
            }
            left = [
                i
                for i, order in zip(left, orders, strict=True)
                if len(answers[i].hits) < len(order.places)
            ]
        return [answers[i] for i in wanted]

    def _alike(self, places: list[int]) -> dict[tuple[str, int], list[int]]:
        """Group the queries that can be looked up together, by filter and depth."""
        groups: dict[tuple[str, int], list[int]] = {}
        for i in places:
            query = self.queries[i]
            if not query.is_reranked and query.blend is None:
                # a hit is judged beside the best other one
                depth = max(2, query.offset + query.top_k + len(self.vectors.liked[i]))
                groups.setdefault((_name_of(query), depth), []).append(i)
        return groups

    def _judged(self, members: Sequence[int], found: list[Nearest]) -> list[Order]:
        """Say how likely each hit of queries that are one text is right, from the best one on.

        Args:
            members: The queries, of one filter.
            found: What was found of each.
        """
        judge = self.state.judge
        orders = [Order(_places(each), nothing_matches=not each.rows) for each in found]
        told_of = [
            place
            for place, i in enumerate(members)
            if self.queries[i].words is not None and found[place].rows
        ]
        if judge is None or not told_of:
            return orders
        told = judge.judge(
            self.vectors.features[[members[place] for place in told_of]],
            [str(self.queries[members[place]].words) for place in told_of],
            [found[place].scores for place in told_of],
            searched(self.state, self._among(members[0])),
        )
        for place, (of_hits, probability) in zip(told_of, told, strict=True):
            is_nothing = probability < judge.calibration.nothing_below
            orders[place] = Order(
                _places(found[place], of_hits), None, probability, nothing_matches=is_nothing
            )
        return orders

    def _reranked(self, i: int) -> Order:
        """Order a query that folds or diversifies: what is found is judged, then reranked."""
        found, query, feature = Order([]), self.queries[i], self.vectors.features[i : i + 1]
        among, liked = self._among(i), self.vectors.liked[i]

        def find(k: int) -> list[Place]:
            nonlocal found
            most = max(2, k)
            (near,) = nearest_rows(self.state, feature, most + len(liked), among)
            others = [pair for pair in zip(*near, strict=True) if pair[1] not in liked][:most]
            near = Nearest([score for score, _ in others], [row for _, row in others])
            (found,) = self._judged([i], [near])
            return found.places[:k]

        places = rank(query, find, self.state.catalogue.features_of)
        return dataclasses.replace(found, places=places)

    def _by_both(self, i: int) -> Order:
        """Order a query by features and by words; how likely hits are right is not known then."""
        query = self.queries[i]
        find = functools.partial(_joined, self.state, query, self.vectors.features[i : i + 1])
        find = functools.partial(find, self._among(i))
        if query.fold is None:
            places = find(query.offset + query.top_k)[query.offset :]
        else:
            places = rank(query, find, self.state.catalogue.features_of)
        return Order(places, nothing_matches=not (places or query.offset))

    def _among(self, i: int) -> Among | None:
        return self.among[_name_of(self.queries[i])]


def nearest(state: State, features: Features, top_k: int, among: Among | None) -> list[list[Hit]]:
    """Find the pictures nearest to each row of features that are still there, best first.

    Args:
        state: What is searched.
        features: Unit rows, [n, embed_dim].
        top_k: How many hits at most per row of features.
        among: Looks at these rows only; None for all.
    """
    hits_of: list[list[Hit]] = []
    for _ in range(_TRIES):
        found = [_places(each) for each in nearest_rows(state, features, top_k, among)]
        hits_of = _read(state, found)
        if all(len(hits) == len(own) for hits, own in zip(hits_of, found, strict=True)):
            break
    return hits_of


def _name_of(query: Query) -> str:
    """Name a query's filter: equal ones alike, and 1, 1.0 and true apart, which == does not."""
    return "" if query.where is None else repr(query.where)


def _places(found: Nearest, probabilities: Iterable[float] | None = None) -> list[Place]:
    ranks = range(1, len(found.rows) + 1)
    if probabilities is None:
        return list(map(Place, ranks, found.scores, found.rows))
    return list(map(Place, ranks, found.scores, found.rows, probabilities))


def _page(query: Query, places: list[Place], liked: Liked) -> list[Place]:
    """Take from the best places those that a query asks for, without the pictures it names."""
    if liked:
        others = [place for place in places if place.row not in liked]
        places = [place._replace(rank=rank) for rank, place in enumerate(others, start=1)]
    return places[query.offset : query.offset + query.top_k]


def _read(state: State, places_of: list[list[Place]]) -> list[list[Hit]]:
    """Read the pictures of all places at once; those that are gone are left out."""
    rows = [each.row for own in places_of for place in own for each in (place, *place.folded)]
    records, read = state.catalogue.records_and_texts(rows)
    return [
        [hit_at(place, records, read) for place in own if place.row in records] for own in places_of
    ]


def _joined(
    state: State, query: Query, feature: Features, among: Among | None, top_k: int
) -> list[Place]:
    """Find the best hits by features and by words; scores are cosines whichever found a picture."""
    blend, words = query.blend, query.words
    assert blend is not None
    assert words is not None
    (scores,), (near,) = state.index.search(feature, DEPTH, among)
    worded = state.catalogue.words.rank(words, DEPTH, among)
    cosines = dict(zip(near.tolist(), scores.tolist(), strict=True))
    ranked = join(near, worded, blend)
    if absent := sorted(set(ranked) - cosines.keys()):
        rows = np.array(absent, np.int64)
        (others,), (found,) = state.index.search(feature, len(rows), rows)
        cosines |= zip(found.tolist(), others.tolist(), strict=True)
    ranked = [row for row in ranked if row in cosines]
    is_there = present(state, np.array(ranked, np.int64)).tolist()
    ranked = [row for row, is_here in zip(ranked, is_there, strict=True) if is_here][:top_k]
    if len(ranked) < top_k and len(cosines) >= DEPTH:  # nearly all are
        (further,) = nearest_rows(state, feature, top_k, among)
        known = set(ranked)
        cosines |= zip(further.rows, further.scores, strict=True)
        ranked += [row for row in further.rows if row not in known]
    said = dict(zip(worded.rows.tolist(), worded.scores.tolist(), strict=True))
    return [
        Place(place, cosines[row], row, word_score=said.get(row))
        for place, row in enumerate(ranked[:top_k], start=1)
    ]
