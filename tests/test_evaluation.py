"""Recall@k and ranks: by hand, against brute force, with ties."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_text.evaluation import best_ranks, recall_at_k, retrieval


def ranks(scores, right, **options):
    """Ranks for a given matrix of scores: the queries are unit vectors that pick its rows."""
    scores = np.asarray(scores, np.float32)
    queries = np.eye(len(scores), dtype=np.float32)
    return best_ranks(queries, np.ascontiguousarray(scores.T), right, **options)


BY_HAND = [
    ([4, 3, 2, 1], [0], 1),
    ([4, 3, 2, 1], [3], 4),
    ([1, 1, 1, 1], [2], 2.5),  # one of four places, the middle in expectation
    ([1, 1, 1, 1], [0, 1], 1 + 2 / 3),  # the better of two among four places
    ([1, 1, 1, 1], [0, 1, 2, 3], 1),
    ([2, 2, 1, 0], [1], 1.5),
    ([3, 2, 2, 1], [1, 3], 2.5),  # the right one below doesn't count
    ([0, 0, 0, 5], [0, 0], 3),  # named twice, it is still one
]
SCORES = [scores for scores, _, _ in BY_HAND]
RIGHT = [right for _, right, _ in BY_HAND]


def test_ranks_by_hand():
    assert ranks(SCORES, RIGHT).tolist() == [expected for _, _, expected in BY_HAND]


def test_right_answers_may_be_any_iterable():
    scores = [[3, 2, 1]] * 3
    assert ranks(scores, [{2}, range(1, 3), (x for x in [1])]).tolist() == [3, 2, 2]


def test_retrieval_by_hand():
    queries = np.eye(8, dtype=np.float32)
    measured = retrieval(queries, np.array(SCORES, np.float32).T, RIGHT, ks=(1, 2, 3, 4))
    assert measured.recall == {1: 2 / 8, 2: 4 / 8, 3: 7 / 8, 4: 1}
    assert measured.median_rank == pytest.approx((1 + 2 / 3 + 2.5) / 2)
    assert (measured.queries, measured.candidates) == (8, 4)


def test_a_collapsed_model_gains_nothing_from_ties():
    same = np.full((10, 4), 0.5, np.float32)
    measured = retrieval(same, same, [[at] for at in range(10)], ks=(1, 5, 6))
    assert measured.recall == {1: 0, 5: 0, 6: 1}
    assert measured.median_rank == 5.5


def test_recall_includes_the_kth_place():
    assert recall_at_k(np.array([1.0, 2.0, 3.0, 10.0]), 2) == 0.5
    assert recall_at_k(np.array([2.5]), 2) == 0


def test_no_queries():
    nothing = retrieval(np.empty((0, 4), np.float32), np.eye(4, dtype=np.float32), [])
    assert np.isnan(list(nothing.recall.values())).all()
    assert np.isnan(nothing.median_rank)
    assert nothing.queries == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["query", "candidate"])
def test_features_that_are_not_finite_are_refused(bad, side):
    good, broken = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)
    broken[1, 2] = bad
    pair = (broken, good) if side == "query" else (good, broken)
    with pytest.raises(ValueError, match=rf"expected finite {side} features, got 1 rows .*\. Enc"):
        best_ranks(*pair, [[0], [1], [2]])


@pytest.mark.parametrize("answers", [[], [3], [-1], [0, 3]])
def test_impossible_right_answers_are_refused(answers):
    with pytest.raises(ValueError, match=r"right answers in 0\.\.2 for query 1, got .*\. "):
        ranks(np.eye(3), [[0], answers, [2]])


@pytest.mark.parametrize("number", [0, 2, 4])
def test_right_answers_must_match_the_queries(number):
    with pytest.raises(ValueError, match=rf"for 3 queries, got {number}\. Give one list"):
        ranks(np.eye(3), [[0]] * number)


@st.composite
def problems(draw, most=5):
    """Scores with many ties, and right answers."""
    candidates = draw(st.integers(1, most))
    row = st.lists(st.integers(-2, 2), min_size=candidates, max_size=candidates)
    scores = draw(st.lists(row, min_size=1, max_size=4))
    answers = st.sets(st.integers(0, candidates - 1), min_size=1)
    return scores, [draw(answers) for _ in scores]


def brute_force_rank(row, right):
    """Mean place of the first right answer over all orders in which ties can fall."""
    places = []
    for order in permutations(range(len(row))):
        ranked = sorted(order, key=lambda at: -row[at])  # stable: ties stay in this order
        places.append(1 + min(ranked.index(at) for at in right))
    return np.mean(places)


@settings(max_examples=60)
@given(problems())
def test_ranks_equal_brute_force(problem):
    scores, right = problem
    expected = [brute_force_rank(*query) for query in zip(scores, right, strict=True)]
    np.testing.assert_allclose(ranks(scores, right), expected, rtol=1e-12)


@given(problems(most=9))
def test_recall_rises_with_k_to_one(problem):
    scores, right = problem
    found = ranks(scores, right)
    recalls = [recall_at_k(found, k) for k in range(len(scores[0]) + 1)]
    assert recalls == sorted(recalls)
    assert (recalls[0], recalls[-1]) == (0, 1)


@given(problems(most=9), st.randoms(use_true_random=False), st.integers(1, 5))
def test_neither_order_nor_blocks_change_a_rank(problem, random, block):
    scores, right = problem
    expected = ranks(scores, right)
    columns = random.sample(range(len(scores[0])), len(scores[0]))
    rows = random.sample(range(len(scores)), len(scores))
    moved = np.array(scores)[rows][:, columns]
    moved_right = [{columns.index(at) for at in right[row]} for row in rows]
    assert ranks(moved, moved_right, block=block).tolist() == expected[rows].tolist()


def test_ranks_of_real_features_equal_a_full_sort():
    rng = np.random.default_rng(0)
    queries, candidates = (rng.standard_normal((n, 8)).astype(np.float32) for n in (50, 200))
    right = [rng.choice(200, 3, replace=False) for _ in range(50)]
    expected = []
    for query, answers in zip(queries, right, strict=True):
        order = np.argsort(-(candidates.astype(np.float64) @ query)).tolist()
        expected.append(1 + min(order.index(at) for at in answers))
    assert best_ranks(queries, candidates, right, block=7).tolist() == expected
