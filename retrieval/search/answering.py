"""Queries answered from what a searcher has open: looked up together where they are alike."""

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np

from retrieval.catalogue.store import Among, ReadableStore
from retrieval.filters import Filter
from retrieval.index.engine import Searchable
from retrieval.protocols import Encoder, Features
from retrieval.records import Record
from retrieval.search.hits import Answer, Hit, changed, hit_of
from retrieval.search.hybrid import DEPTH, join
from retrieval.search.query import Query
from retrieval.search.query_rows import QueryRows
from retrieval.search.relevance import Calibration, Judge
from retrieval.search.reranking import rank
from retrieval.search.vectors import query_vectors

__all__ = ["State", "answer_all", "matching", "nearest"]

Liked = frozenset[int]
"""Rows of pictures that a query wants more like."""

# Where pictures that a search found were removed meanwhile, it looks further down by this
# factor, and no further than so many candidates.
_WIDER = 4
_MOST_CANDIDATES = 16_384


@dataclass(frozen=True, slots=True)
class State:
    """What one search reads; replaced as a whole, never changed."""

    catalogue: ReadableStore
    index: Searchable
    generation: int
    calibration: Calibration | None = None
    judge: Judge | None = None


def answer_all(
    asked: list[Query], state: State, rows_of: QueryRows, encoder: Encoder
) -> list[Answer]:
    """Answer queries, at least one, in their order.

    Args:
        asked: The queries.
        state: What is searched.
        rows_of: Encodes texts.
        encoder: Encodes pictures.

    Raises:
        QueryError: If a filter, a picture or an id cannot be used, or terms cancel.
        EncoderError: If the encoder breaks its promise.
    """
    among: dict[int, Among | None] = {}
    for query in asked:  # refused before anything is encoded
        if id(query.where) not in among:
            among[id(query.where)] = matching(state, query.where)
    found = query_vectors(asked, rows_of, encoder, state.catalogue)
    answers: dict[int, Answer] = {}
    for (where, depth), members in _alike(asked, found.liked).items():
        features, rows = found.features[members], among[where]
        hits = nearest(state, features, depth, rows)
        told = _judged(state, [asked[i] for i in members], features, hits, rows)
        for i, answer in zip(members, told, strict=True):
            page = _page(asked[i], answer.hits, found.liked[i])
            answers[i] = dataclasses.replace(answer, hits=page)
    for i, query in enumerate(asked):
        liked, rows, feature = found.liked[i], among[id(query.where)], found.features[i : i + 1]
        if query.blend is not None:
            answers[i] = _by_both(state, query, feature, rows)
        elif query.is_reranked:
            answers[i] = _reranked(state, query, feature, rows, liked)
    return [
        dataclasses.replace(answers[i], category=category) if category else answers[i]
        for i, category in enumerate(found.categories)
    ]


def matching(state: State, where: Filter | None) -> Among | None:
    """Select what a filter holds of; None without one."""
    return None if where is None else state.catalogue.filters.rows(where)


def nearest(state: State, features: Features, top_k: int, among: Among | None) -> list[list[Hit]]:
    """Find the pictures nearest to each row of features that are still there, best first.

    Args:
        state: What is searched.
        features: Unit rows, [n, embed_dim].
        top_k: How many hits at most per row of features.
        among: Looks at these rows only; None for all.
    """
    hits_of = _look_up(state, features, top_k, among)
    most = _searched(state, among)
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


def _searched(state: State, among: Among | None) -> int:
    """Count the pictures that are searched."""
    count = len(state.index)
    return count if among is None else min(len(among), count)


def _by_both(state: State, query: Query, feature: Features, among: Among | None) -> Answer:
    """Answer a query by features and by words; how likely hits are right is not known then."""
    find = functools.partial(_joined, state, query, feature, among)
    if query.fold is None:
        hits = find(query.offset + query.top_k)[query.offset :]
    else:
        hits = rank(query, find, state.catalogue.features_of)
    return Answer(hits, None, nothing_matches=not (hits or query.offset))


def _joined(
    state: State, query: Query, feature: Features, among: Among | None, top_k: int
) -> list[Hit]:
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
    hits: list[Hit] = []
    ranked = [row for row in ranked if row in cosines]
    while ranked and len(hits) < top_k:  # some may be gone
        page, ranked = ranked[:top_k], ranked[top_k:]
        records, read = state.catalogue.records_and_texts(page)
        hits += _hits([cosines[row] for row in page], page, records, read)
    if len(hits) < top_k and len(cosines) >= DEPTH:  # nearly all are
        known = {hit.row for hit in hits}
        hits += [hit for hit in nearest(state, feature, top_k, among)[0] if hit.row not in known]
    said = dict(zip(worded.rows.tolist(), worded.scores.tolist(), strict=True))
    return [
        changed(hit, rank=place, word_score=said.get(hit.row))
        for place, hit in enumerate(hits[:top_k], start=1)
    ]


def _judged(
    state: State,
    queries: list[Query],
    features: Features,
    hits_of: list[list[Hit]],
    among: Among | None,
) -> list[Answer]:
    """Say how likely each hit of queries that are one text is right, from the best one on."""
    answers = [Answer(hits, None, nothing_matches=not hits) for hits in hits_of]
    told_of = [i for i, query in enumerate(queries) if query.words is not None and hits_of[i]]
    if state.judge is None or not told_of:
        return answers
    scores = [[hit.score for hit in hits_of[i]] for i in told_of]
    words = [str(queries[i].words) for i in told_of]
    told = state.judge.judge(features[told_of], words, scores, _searched(state, among))
    for i, (of_hits, probability) in zip(told_of, told, strict=True):
        hits = [
            changed(hit, probability=of_hit)
            for hit, of_hit in zip(hits_of[i], of_hits, strict=True)
        ]
        is_nothing = probability < state.judge.calibration.nothing_below
        answers[i] = Answer(hits, None, probability, is_nothing)
    return answers


def _reranked(
    state: State, query: Query, feature: Features, among: Among | None, liked: Liked
) -> Answer:
    """Answer a query that folds or diversifies: what is found is judged before it is reranked."""
    found = Answer([], None)

    def find(k: int) -> list[Hit]:
        nonlocal found
        others = _others(state, feature, among, liked, max(2, k))
        (found,) = _judged(state, [query], feature, [others], among)
        return found.hits[:k]

    hits = rank(query, find, state.catalogue.features_of)
    return dataclasses.replace(found, hits=hits)


def _alike(asked: list[Query], liked: list[Liked]) -> dict[tuple[int, int], list[int]]:
    """Group the queries that can be looked up together, by filter and depth."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, query in enumerate(asked):
        if not query.is_reranked and query.blend is None:
            # a hit is judged beside the best other one
            depth = max(2, query.offset + query.top_k + len(liked[i]))
            groups.setdefault((id(query.where), depth), []).append(i)
    return groups


def _page(query: Query, hits: list[Hit], liked: Liked) -> list[Hit]:
    """Take from the best hits those that a query asks for, without the pictures it names."""
    if not liked and not query.offset:
        return hits[: query.top_k]
    others = [hit for hit in hits if hit.row not in liked]
    return [changed(hit, rank=rank) for rank, hit in enumerate(others, start=1)][
        query.offset : query.offset + query.top_k
    ]


def _others(
    state: State, feature: Features, among: Among | None, liked: Liked, k: int
) -> list[Hit]:
    """Find the best k hits for one row of features, [1, embed_dim], without what it was made of."""
    (hits,) = nearest(state, feature, k + len(liked), among)
    return [hit for hit in hits if hit.row not in liked][:k]


def _look_up(state: State, features: Features, k: int, among: Among | None) -> list[list[Hit]]:
    """Find which of the k rows nearest to each feature have pictures that are still there."""
    scores, rows = state.index.search(features, k, among)
    records, read = state.catalogue.records_and_texts(rows.ravel().tolist())
    return [
        _hits(own_scores, own_rows, records, read)
        for own_scores, own_rows in zip(scores.tolist(), rows.tolist(), strict=True)
    ]


def _hits(
    scores: list[float], rows: list[int], records: dict[int, Record], read: dict[int, str]
) -> list[Hit]:
    known = [
        (score, records[row]) for score, row in zip(scores, rows, strict=True) if row in records
    ]
    return [
        hit_of(rank, score, record, read.get(record.row))
        for rank, (score, record) in enumerate(known, start=1)
    ]
