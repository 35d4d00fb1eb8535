"""One contract for every VectorIndex: a new engine joins by one line in ENGINES."""

import importlib
from pathlib import Path
from unittest import mock

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.catalogue.changes import Change
from retrieval.features import unit_rows as held_as
from retrieval.features import widened
from retrieval.index import Recipe, SegmentedIndex
from retrieval.index.lists import ListsSegment
from retrieval.index.recipes import build_lists
from retrieval.index.scoring import cosines, nearest_of
from retrieval.index.segments import Allowed, FlatSegment, Part


class SealedIndex(SegmentedIndex):
    """Seals what it is given every other time, as if it had been read from files."""

    turn = 0

    def add(self, rows, features):
        super().add(rows, features)
        self.turn += 1
        if self.turn % 2:
            self.seal()

    def seal(self):
        parts = [part for part in self._parts if len(part)]
        if parts:
            rows = np.concatenate([part.rows for part in parts])
            halves = np.concatenate([part.halves for part in parts])
            order = np.argsort(rows)
            self._sealed, self._tail = Part(self.segment(rows[order], halves[order])), ()

    def segment(self, rows, halves):
        return FlatSegment(rows, halves)


class ListsIndex(SealedIndex):
    """Seals into inverted lists, and looks into all of them, whatever it is asked."""

    def segment(self, rows, halves):
        if len(rows) < 8:
            return FlatSegment(rows, halves)
        recipe = Recipe("IVF4,SQfp16", probes=4, candidates=1000)
        return ListsSegment(rows, halves, build_lists(recipe, halves), recipe)

    def search(self, *args, **named):
        with (
            mock.patch("retrieval.index.lists._FEW", 0),
            mock.patch("retrieval.index.lists._MOST_CANDIDATES", np.inf),
        ):
            return super().search(*args, **named)


ENGINES = [SegmentedIndex, SealedIndex, ListsIndex]


def unit_rows(count: int, embed_dim: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, embed_dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def held(features):
    """What an engine holds of features: their fp16 roundings, as unit rows."""
    return held_as(features.astype(np.float16))


def brute_force(queries, features, rows, k):
    """Cosines in float64, ties by row, in plain numpy."""
    features = held(features)
    cosines = (queries.astype(np.float64)[:, None] * features[None]).sum(axis=2)
    cosines = cosines.astype(np.float32).clip(-1, 1)
    order = [np.lexsort((rows, -line))[:k] for line in cosines]
    return (
        np.array([line[best] for line, best in zip(cosines, order, strict=True)]),
        np.array([rows[best] for best in order]),
    )


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.__name__)
def engine(request):
    return request.param


class TestContract:
    def test_by_hand(self, engine):
        index = engine(2)
        index.add(numbers(3, 7, 5), np.array([[0.6, 0.8], [0.8, -0.6], [-1, 0]], np.float32))
        scores, rows = index.search(np.array([[1, 0], [0, 1]], np.float32), 3)
        assert rows.tolist() == [[7, 3, 5], [3, 5, 7]]
        assert scores == pytest.approx(np.array([[0.8, 0.6, -1.0], [0.8, 0.0, -0.6]]), abs=5e-4)
        assert (scores.dtype, rows.dtype) == (np.float32, np.int64)

    def test_an_empty_index_has_no_hits(self, engine):
        index = engine(3)
        scores, rows = index.search(unit_rows(2, 3, 0), 5)
        assert (scores.shape, rows.shape, len(index)) == ((2, 0), (2, 0), 0)
        index.remove(numbers(1))
        index.add(numbers(), np.empty((0, 3), np.float32))
        assert len(index) == 0

    def test_a_change_is_taken_over_in_one_step(self, engine):
        index, features = engine(8), unit_rows(4, 8, 0)
        index.apply(
            Change(1, numbers(), numbers(1, 2, 3), iter([(numbers(1, 2, 3), features[:3])]))
        )
        # row 1 is gone, 9 was never held, 2 has another feature, 5 is new; pages of one row
        pages = iter([(numbers(2), features[3:]), (numbers(5), features[:1])])
        index.apply(Change(2, numbers(1, 9), numbers(2, 5), pages))
        assert len(index) == 3
        left, rows = features[[3, 2, 0]], numbers(2, 3, 5)
        scores, found = index.search(features, 9)
        wanted, order = brute_force(features, left, rows, 9)
        assert found.tolist() == order.tolist()
        assert scores == pytest.approx(wanted)

    def test_no_queries_give_no_answers(self, engine):
        index = engine(3)
        index.add(numbers(1, 2), unit_rows(2, 3, 0))
        scores, rows = index.search(np.empty((0, 3), np.float32), 5)
        assert (scores.shape, rows.shape) == ((0, 2), (0, 2))

    def test_k_beyond_the_size_gives_what_there_is(self, engine):
        index = engine(3)
        index.add(numbers(10, 20), unit_rows(2, 3, 0))
        for k in (2, 3, 1000):
            _, rows = index.search(unit_rows(1, 3, 1), k)
            assert sorted(rows[0].tolist()) == [10, 20]

    @pytest.mark.parametrize("k", [1, 2, 7, 20, 49, 50])
    @pytest.mark.parametrize("queries", [1, 64])  # FAISS computes few and many differently
    def test_equal_features_come_in_the_order_of_their_rows(self, engine, k, queries):
        index = engine(64)
        shuffled = np.random.default_rng(0).permutation(50).astype(np.int64) + 1
        index.add(shuffled, np.repeat(unit_rows(1, 64, 5), 50, axis=0))
        scores, rows = index.search(unit_rows(queries, 64, 6), k)
        assert rows.tolist() == [list(range(1, k + 1))] * queries
        assert (scores == scores[:, :1]).all()

    @pytest.mark.parametrize("queries", [1, 5, 64])
    def test_an_answer_does_not_depend_on_the_other_queries(self, engine, queries):
        index = engine(48)
        index.add(np.arange(1, 301), unit_rows(300, 48, 1))
        many = unit_rows(64, 48, 2)
        all_scores, all_rows = index.search(many, 10)
        scores, rows = index.search(many[:queries], 10)
        assert scores.tobytes() == all_scores[:queries].tobytes()
        assert rows.tolist() == all_rows[:queries].tolist()

    @pytest.mark.parametrize("matching", [0, 1, 30, 2_900, 3_000])
    @pytest.mark.parametrize("k", [1, 10, 100])
    def test_among_some_rows_it_finds_what_brute_force_finds(self, engine, matching, k):
        index, features = engine(16), unit_rows(3_000, 16, 5)
        features[1_000:1_200] = features[:200]  # ties
        rows = np.random.default_rng(1).permutation(3_000).astype(np.int64) * 2
        index.add(rows, features)
        chosen = np.random.default_rng(2).permutation(3_000)[:matching]
        # half of what is asked for is not held: odd rows, and rows beyond the last
        among = np.sort(np.concatenate([rows[chosen], rows[chosen] + 1, rows[chosen] + 6_001]))
        queries = np.concatenate([features[:2], unit_rows(2, 16, 6)])
        scores, found = index.search(queries, k, among)
        wanted, order = brute_force(queries, features[chosen], rows[chosen], k)
        assert found.tolist() == order.tolist()
        assert scores == pytest.approx(wanted)

    def test_cosines_never_leave_their_range(self, engine):
        index = engine(512)
        features = unit_rows(200, 512, 3)
        index.add(np.arange(200), np.concatenate([features[:100], -features[:100]]))
        scores, _ = index.search(features[:100], 200)
        assert scores.max() <= 1.0
        assert scores.min() >= -1.0
        assert scores[:, 0] == pytest.approx(1.0, abs=1e-6)

    def test_removed_rows_are_gone_and_the_rest_stays(self, engine):
        index = engine(8)
        features = unit_rows(6, 8, 4)
        index.add(np.arange(6), features)
        index.remove(numbers(0, 3, 99))
        _, rows = index.search(features[:1], 6)
        assert sorted(rows[0].tolist()) == [1, 2, 4, 5]
        assert sorted(index.rows.tolist()) == [1, 2, 4, 5]
        index.add(numbers(3), features[:1])
        scores, rows = index.search(features[:1], 1)
        assert (rows.tolist(), scores[0, 0]) == ([[3]], pytest.approx(1.0))

    def test_a_filter_leaves_what_it_names(self, engine):
        index, features = engine(8), unit_rows(20, 8, 4)
        index.add(np.arange(10), features[:10])
        index.add(np.arange(10, 20), features[10:])
        index.remove(numbers(4))
        among = numbers(1, 4, 5, 12, 19, 77)
        scores, rows = index.search(features[:3], 9, among)
        there = numbers(1, 5, 12, 19)
        expected = brute_force(features[:3], features[there], there, 9)
        assert (scores.tolist(), rows.tolist()) == tuple(part.tolist() for part in expected)
        assert index.search(features[:3], 2, among)[1].tolist() == expected[1][:, :2].tolist()
        for none in (numbers(), numbers(4, 77)):
            scores, rows = index.search(features[:3], 5, none)
            assert (scores.shape, rows.shape) == ((3, 0), (3, 0))

    def test_a_copy_is_independent(self, engine):
        index = engine(4)
        index.add(numbers(1, 2), unit_rows(2, 4, 0))
        twin = index.copy()
        twin.remove(numbers(1))
        twin.add(numbers(5), unit_rows(1, 4, 1))
        assert (sorted(index.rows.tolist()), sorted(twin.rows.tolist())) == ([1, 2], [2, 5])
        del index
        assert twin.search(unit_rows(1, 4, 1), 1)[1].tolist() == [[5]]

    def test_what_does_not_fit_is_refused(self, engine):
        index = engine(4)
        index.add(numbers(1), unit_rows(1, 4, 0))
        with pytest.raises(ValueError, match=r"width 4 .* got shape"):
            index.search(unit_rows(1, 5, 0), 1)
        with pytest.raises(ValueError, match=r"width 4 .* got shape"):
            index.search(unit_rows(1, 4, 0)[0], 1)
        with pytest.raises(ValueError, match=r"width 4 .* got shape"):
            index.add(numbers(2), unit_rows(1, 5, 0))
        with pytest.raises(ValueError, match="one per feature"):
            index.add(numbers(2, 3), unit_rows(1, 4, 0))
        with pytest.raises(ValueError, match="does not hold yet"):
            index.add(numbers(1), unit_rows(1, 4, 0))
        with pytest.raises(ValueError, match="does not hold yet"):
            index.add(numbers(2, 2), unit_rows(2, 4, 0))
        for k in (0, -1):
            with pytest.raises(ValueError, match="k of at least 1"):
                index.search(unit_rows(1, 4, 0), k)
        assert len(index) == 1


@st.composite
def cases(draw):
    """Features with many equal ones, so that ties matter, under shuffled rows; removals."""
    count = draw(st.integers(0, 60))
    distinct = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pool = unit_rows(distinct, 24, int(rng.integers(2**32)))
    rows = rng.permutation(count).astype(np.int64) + 1
    removed = np.array(sorted(draw(st.sets(st.integers(1, 60)))), np.int64)
    queries = unit_rows(draw(st.integers(1, 30)), 24, int(rng.integers(2**32)))
    return rows, pool[rng.integers(0, distinct, count)], removed, queries


@given(case=cases(), k=st.integers(1, 70), among=st.none() | st.sets(st.integers(0, 70)))
@settings(max_examples=60)
@pytest.mark.parametrize("engine_type", ENGINES)
def test_search_equals_brute_force(engine_type, case, k, among):
    rows, features, removed, queries = case
    index = engine_type(24)
    half = len(rows) // 2
    index.add(rows[:half], features[:half])
    index.add(rows[half:], features[half:])
    index.remove(removed)
    allowed = None if among is None else np.array(sorted(among), np.int64)
    keep = ~np.isin(rows, removed)
    if allowed is not None:
        keep &= np.isin(rows, allowed)
    scores, found = index.search(queries, k, allowed)
    expected_scores, expected_rows = brute_force(queries, features[keep], rows[keep], k)
    assert found.tolist() == expected_rows.tolist()
    assert scores.tolist() == expected_scores.tolist()


steps = st.lists(
    st.tuples(
        st.sampled_from(["seal", "copy", "search", *["apply"] * 4]),
        st.sets(st.integers(1, 40), max_size=12),
        st.sets(st.integers(1, 40), max_size=12),
    ),
    max_size=12,
)


@given(steps=steps, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_any_sequence_of_steps_equals_a_plain_mapping(steps, seed):
    index, plain, kept = SealedIndex(8), {}, []
    rng = np.random.default_rng(seed)
    pool = unit_rows(12, 8, seed)  # few, so that ties matter

    def check(index, plain):
        rows = np.array(sorted(plain), np.int64)
        features = np.array([plain[row] for row in sorted(plain)], np.float32).reshape(-1, 8)
        scores, found = index.search(pool[:3], 7)
        expected = brute_force(pool[:3], features, rows, 7)
        assert (scores.tolist(), found.tolist()) == tuple(part.tolist() for part in expected)
        assert sorted(index.rows.tolist()) == rows.tolist()
        assert index.tail + index.sealed - index.tombstones == len(index) == len(plain)

    for what, written, removed in steps:
        if what == "apply":
            rows = np.array(sorted(written - removed), np.int64)
            features = pool[rng.integers(0, len(pool), len(rows))]
            pages = [(rows[i : i + 5], features[i : i + 5]) for i in range(0, len(rows), 5)]
            index.apply(Change(1, np.array(sorted(removed), np.int64), rows, iter(pages)))
            plain = {row: plain[row] for row in plain if row not in removed}
            plain |= dict(zip(rows.tolist(), features, strict=True))
        elif what == "seal":
            index.seal()
        elif what == "copy":
            kept.append((index, dict(plain)))
            index = index.copy()
        check(index, plain)
    for before, held_then in kept:  # what a copy does, its original does not see
        check(before, held_then)


# What segments are made of


def test_the_tail_stays_a_few_parts_and_copies_share_them():
    index, features = SegmentedIndex(8), unit_rows(64, 8, 0)
    for row in range(64):
        index.add(numbers(row), features[row : row + 1])
        assert len(index._tail) <= 7
    assert [len(part) for part in index._tail] == [64]
    twin = index.copy()
    twin.add(numbers(99), features[:1])
    assert twin._tail[0] is index._tail[0]
    assert (len(index), len(twin)) == (64, 65)


def test_lengths_that_rounding_changed_do_not_decide_who_is_nearest():
    """FAISS does not set them right: hundreds of rows are out of order by its scores."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal(8) + 0.002 * rng.standard_normal((2000, 8))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    index, rows = SegmentedIndex(8), np.arange(2000)
    index.add(rows, features)
    scores, found = index.search(features[:20], 5)
    expected = brute_force(features[:20], features, rows, 5)
    assert (scores.tolist(), found.tolist()) == tuple(part.tolist() for part in expected)


def test_faiss_holds_an_exact_inner_product():
    """The scar of vicinity: L2 searched under the name of cosine."""
    flat = FlatSegment(numbers(1), np.ones((1, 4), np.float16))._flat
    assert flat.metric_type == faiss.METRIC_INNER_PRODUCT
    lists = build_lists(Recipe("IVF2,SQfp16"), unit_rows(80, 4, 0).astype(np.float16))
    assert lists.metric_type == faiss.METRIC_INNER_PRODUCT


def test_halves_stand_for_unit_rows_and_rounding_them_again_changes_nothing():
    halves = unit_rows(500, 64, 0).astype(np.float16)
    rows = held_as(halves)
    assert np.linalg.norm(rows.astype(np.float64), axis=1) == pytest.approx(1, abs=1e-6)
    assert (rows.astype(np.float16) == halves).all()
    assert held_as(np.zeros((1, 4), np.float16)).tolist() == [[0, 0, 0, 0]]


def test_the_nearest_of_many_are_those_of_all_scores():
    halves = np.repeat(unit_rows(400, 32, 1), 5, axis=0).astype(np.float16)
    query = unit_rows(1, 32, 2)[0]
    scores = cosines(query, halves)
    order = np.lexsort((np.arange(len(halves)), -scores))[:13]
    found, positions = nearest_of(query, halves, 13)
    assert positions.tolist() == order.tolist()
    assert found.tolist() == scores[order].tolist()
    some = np.arange(3, 2000, 7)
    assert set(nearest_of(query, halves, 13, some)[1].tolist()) <= set(some.tolist())


# What may miss some: recall against exact, and never a wrong score


@pytest.fixture(scope="module")
def clustered():
    """Features around 60 centres, which number they belong to, and queries off their cone."""
    rng = np.random.default_rng(0)
    centres, shift = rng.standard_normal((60, 64)), rng.standard_normal((2, 64))
    label = rng.integers(0, 60, 12_000)
    features = shift[0] + centres[label] + 0.6 * rng.standard_normal((len(label), 64))
    queries = shift[1] + centres[rng.integers(0, 60, 40)] + 0.6 * rng.standard_normal((40, 64))
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (features, queries)]
    return unit[0].astype(np.float16), unit[1].astype(np.float32), label


def test_what_all_features_share_hides_no_list(monkeypatch):
    """With it in the centres, the same four lists hold 0.88 of what is nearest."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    drawn = importlib.import_module("search_data").cross_modal(20_000, 128, queries=60, seed=1)
    halves = drawn.pictures.astype(np.float16)
    recipe = Recipe("IVF100,SQfp16", probes=4, candidates=100)
    segment = ListsSegment(np.arange(len(halves)), halves, build_lists(recipe, halves), recipe)
    found = [positions for _, positions in segment.nearest(drawn.texts, 10, None)]
    best = [nearest_of(text, halves, 10)[1] for text in drawn.texts]
    shares = [len(np.intersect1d(*each)) / 10 for each in zip(best, found, strict=True)]
    assert np.mean(shares) > 0.95


@pytest.fixture(scope="module", params=["IVF110,SQfp16", "IVF110,PQ32x4fs"])
def approximate(request, clustered):
    recipe = Recipe(request.param, probes=24, candidates=200)
    halves = clustered[0]
    rows = np.arange(5, 5 + len(halves))
    with mock.patch("retrieval.index.lists._FEW", 100):
        yield ListsSegment(rows, halves, build_lists(recipe, halves), recipe)


class TestApproximate:
    def recall(self, segment, queries, k, allowed=None):
        found = segment.nearest(queries, k, allowed)
        places = None if allowed is None else allowed.positions
        shares = []
        for query, (scores, positions) in zip(queries, found, strict=True):
            assert len(positions) == k
            assert scores.tolist() == cosines(query, segment.halves[positions]).tolist()
            assert (scores[:-1] >= scores[1:]).all()
            if allowed is not None:
                assert allowed.mask[positions].all()
            best = nearest_of(query, segment.halves, k, places)[1]
            shares.append(len(np.intersect1d(best, positions)) / k)
        return np.mean(shares)

    @pytest.mark.parametrize("k", [1, 10, 100])
    def test_hardly_anything_is_missed(self, approximate, clustered, k):
        assert self.recall(approximate, clustered[1], k) >= 0.97

    @pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
    def test_nor_behind_a_filter(self, approximate, clustered, share):
        mask = np.random.default_rng(1).random(len(clustered[0])) < share
        assert self.recall(approximate, clustered[1], 10, Allowed(mask)) >= 0.97

    def test_nor_behind_a_filter_that_is_the_clusters_farthest_from_the_query(
        self, approximate, clustered
    ):
        halves, queries, label = clustered
        for query in queries[:10]:
            scores = cosines(query, halves)
            means = np.bincount(label, scores) / np.bincount(label)
            allowed = Allowed(np.isin(label, np.argsort(means)[:12]))
            assert allowed.count > 2000  # too many for scoring them all
            assert self.recall(approximate, query[None], 10, allowed) >= 0.9

    @pytest.mark.parametrize("k", [10, 100, 500])
    def test_lists_are_looked_into_until_they_hold_enough(self, approximate, clustered, k):
        thin = ListsSegment(
            *(approximate.rows, approximate.halves, approximate._lists),
            Recipe("", probes=1, candidates=10),
        )
        for allowed in (None, Allowed(np.arange(12_000) % 4 > 0)):
            (found,) = thin.nearest(clustered[1][:1], k, allowed)
            assert len(np.unique(found[1])) == k

    def test_more_than_the_nearest_lists_hold_is_given_all_the_same(self, approximate, clustered):
        for k in (700, 5_000, len(clustered[0])):
            (found,) = approximate.nearest(clustered[1][:1], k, None)
            assert len(np.unique(found[1])) == k


def test_fp16_is_widened_exactly():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)][None]
    assert widened(finite).tobytes() == finite.astype(np.float32).tobytes()
