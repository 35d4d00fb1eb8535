"""Ranks and what is told of them: by hand, against brute force and other libraries, with ties."""

import subprocess
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_text.evaluation import best_ranks, recall_at_k, retrieval


def ranks(scores, right, **options):
    """Ranks for a given matrix of scores: the queries are unit vectors that pick its rows."""
    scores = np.asarray(scores, np.float32)
    queries = np.eye(len(scores), dtype=np.float32)
    return best_ranks(queries, np.ascontiguousarray(scores.T), right, **options)


def measured(scores, right, **options):
    """The whole result for a given matrix of scores."""
    scores = np.asarray(scores, np.float32)
    queries = np.eye(len(scores), dtype=np.float32)
    return retrieval(queries, np.ascontiguousarray(scores.T), right, **options)


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
    found = measured(SCORES, RIGHT, ks=(1, 2, 3, 4))
    assert found.recall == {1: 2 / 8, 2: 4 / 8, 3: 7 / 8, 4: 1}
    assert found.median_rank == pytest.approx((1 + 2 / 3 + 2.5) / 2)
    assert (found.queries, found.candidates) == (8, 4)


def test_a_collapsed_model_gains_nothing_from_ties():
    same = np.full((10, 4), 0.5, np.float32)
    found = retrieval(same, same, [[at] for at in range(10)], ks=(1, 5, 6))
    assert found.recall == {1: 0, 5: 0, 6: 1}
    assert found.median_rank == 5.5


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


@given(problems(most=20), st.randoms(use_true_random=False), st.integers(1, 5), st.integers(1, 5))
def test_neither_order_nor_blocks_change_anything(problem, random, block, candidate_block):
    scores, right = problem
    expected = measured(scores, right)
    columns = random.sample(range(len(scores[0])), len(scores[0]))
    rows = random.sample(range(len(scores)), len(scores))
    moved = np.array(scores)[rows][:, columns]
    moved_right = [{columns.index(at) for at in right[row]} for row in rows]
    found = measured(moved, moved_right, block=block, candidate_block=candidate_block)
    assert found.ranks.tolist() == expected.ranks[rows].tolist()
    assert found.pessimistic_ranks.tolist() == expected.pessimistic_ranks[rows].tolist()
    for k in found.ks:
        np.testing.assert_allclose(
            found.ndcg_per_query[k], expected.ndcg_per_query[k][rows], rtol=1e-12
        )


def brute_force_ndcg(row, right, k):
    """Mean nDCG@k over all orders in which ties can fall."""
    ideal = sum(1 / np.log2(place + 1) for place in range(1, min(len(right), k) + 1))
    gains = []
    for order in permutations(range(len(row))):
        ranked = sorted(order, key=lambda at: -row[at])
        gains.append(
            sum(1 / np.log2(i + 2) for i, at in enumerate(ranked[:k]) if at in right) / ideal
        )
    return np.mean(gains)


@settings(max_examples=60)
@given(problems(), st.integers(1, 6))
def test_ndcg_equals_brute_force(problem, k):
    scores, right = problem
    expected = [brute_force_ndcg(*query, k) for query in zip(scores, right, strict=True)]
    found = measured(scores, right, ks=(k,)).ndcg_per_query[k]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@given(problems(most=9))
def test_ties_against_the_model_are_never_better(problem):
    found = measured(*problem)
    assert (found.pessimistic_ranks >= found.ranks).all()
    worst = [
        1 + sum(s >= max(row[a] for a in answers) for at, s in enumerate(row) if at not in answers)
        for row, answers in zip(*problem, strict=True)
    ]
    assert found.pessimistic_ranks.tolist() == worst


def test_mrr_and_ndcg_by_hand():
    found = measured([[4, 3, 2, 1], [4, 3, 2, 1]], [[1, 3], [0]], ks=(1, 2, 4))
    assert found.mrr == (1 / 2 + 1) / 2
    at_two = (1 / np.log2(3)) / (1 + 1 / np.log2(3))
    at_four = (1 / np.log2(3) + 1 / np.log2(5)) / (1 + 1 / np.log2(3))
    assert found.ndcg[1] == pytest.approx(1 / 2, rel=1e-12)
    assert found.ndcg[2] == pytest.approx((at_two + 1) / 2, rel=1e-12)
    assert found.ndcg[4] == pytest.approx((at_four + 1) / 2, rel=1e-12)


def test_pessimistic_recall_is_lower_where_the_expected_rank_is_kind():
    found = measured([[1, 1, 1, 0]], [[0]], ks=(1, 2, 3))
    assert found.recall == {1: 0, 2: 1, 3: 1}  # rank 2 in expectation
    assert found.pessimistic_recall == {1: 0, 2: 0, 3: 1}


def test_equal_rows_tie_wherever_they_stand():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((7, 129)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    candidates = np.tile(rows, (41, 1))  # every row 41 times, in different places of the tiles
    queries = rng.standard_normal((30, 129)).astype(np.float32)
    found = retrieval(queries, candidates, [[at] for at in range(30)], block=11, candidate_block=13)
    group = (queries.astype(np.float64) @ rows.T.astype(np.float64)).argsort(1)[:, ::-1].argsort(1)
    above = group[np.arange(30), np.arange(30) % 7] * 41
    assert found.ranks.tolist() == (above + 21).tolist()  # the middle of 41 places
    assert found.pessimistic_ranks.tolist() == (above + 41).tolist()


def trec_run(scores, right):
    """The same problem in the words of trec_eval; scores without ties."""
    run = {f"q{q}": {f"d{d}": float(s) for d, s in enumerate(row)} for q, row in enumerate(scores)}
    qrel = {f"q{q}": {f"d{d}": 1 for d in answers} for q, answers in enumerate(right)}
    return run, qrel


@pytest.fixture(scope="module")
def untied():
    rng = np.random.default_rng(1)
    scores = rng.permuted(np.tile(np.arange(40), (60, 1)), axis=1)
    right = [rng.choice(40, rng.integers(1, 15), replace=False).tolist() for _ in scores]
    return scores.tolist(), right


def test_equal_to_trec_eval_without_ties(untied):
    run, qrel = trec_run(*untied)
    found = measured(*untied, ks=(1, 5, 10))
    evaluator = pytrec_eval.RelevanceEvaluator(
        qrel, {"recip_rank", "success.1,5,10", "ndcg_cut.1,5,10"}
    )
    theirs = list(evaluator.evaluate(run).values())

    def mean(name):
        return pytest.approx(np.mean([query[name] for query in theirs]), rel=1e-12)

    assert found.mrr == mean("recip_rank")
    for k in (1, 5, 10):
        assert found.recall[k] == mean(f"success_{k}")
        assert found.ndcg[k] == mean(f"ndcg_cut_{k}")


def test_trec_eval_decides_ties_by_name_and_we_do_not():
    scores, right = [[1, 1, 1, 1]], [[3]]
    found = measured(scores, right)
    run, qrel = trec_run(scores, right)
    theirs = pytrec_eval.RelevanceEvaluator(qrel, {"recip_rank"}).evaluate(run)["q0"]
    assert theirs["recip_rank"] == 1  # the last name comes first
    assert found.mrr == 1 / 2.5
    run, qrel = trec_run(scores, [[0]])
    theirs = pytrec_eval.RelevanceEvaluator(qrel, {"recip_rank"}).evaluate(run)["q0"]
    assert theirs["recip_rank"] == 1 / 4
    assert measured(scores, [[0]]).mrr == 1 / 2.5


def test_features_may_be_memory_maps(tmp_path):
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((300, 16)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    right = [[at, (at * 7) % 300] for at in range(300)]
    expected = retrieval(rows, rows, right)
    streamed = retrieval(mapped, mapped, right, block=32, candidate_block=50)
    assert streamed.ranks.tolist() == expected.ranks.tolist()
    assert streamed.ndcg == pytest.approx(expected.ndcg, rel=1e-12)


STREAM = """
import sys, numpy as np
from clip_text.evaluation import retrieval
sys.path.insert(0, "tests")
from memory import peak_kilobytes
texts = np.load(sys.argv[1], mmap_mode="r")
images = np.load(sys.argv[2], mmap_mode="r")
right = [[at * 199] for at in range(len(texts))]
found = retrieval(texts, images, right)
print(found.median_rank, found.recall[1], peak_kilobytes())
"""


def test_the_peak_of_a_child_is_its_own():
    held = np.ones(300_000_000 // 8)  # 300 MB that the child never has
    child = "import sys; sys.path.insert(0, 'tests'); import memory; print(memory.peak_kilobytes())"
    run = subprocess.run(
        [sys.executable, "-c", child],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(held)
    assert 1_000 < float(run.stdout) < 100_000


@pytest.mark.slow
def test_a_million_pictures_stream_in_bounded_memory(tmp_path):
    rng = np.random.default_rng(3)
    images = np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.float32, (1_000_000, 128))
    for at in range(0, len(images), 50_000):
        rows = rng.standard_normal((50_000, 128), dtype=np.float32)
        images[at : at + 50_000] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    images.flush()
    texts = images[::199][:5000] + rng.standard_normal((5000, 128), dtype=np.float32) / 6
    np.save(tmp_path / "texts.npy", texts.astype(np.float32))
    run = subprocess.run(
        [sys.executable, "-c", STREAM, tmp_path / "texts.npy", tmp_path / "images.npy"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    median, recall, kilobytes = map(float, run.stdout.split())
    assert median < 3
    assert 0.3 < recall < 1
    # the pages of a memory map count as resident while memory is free; the scores would be 20 GB
    assert kilobytes < 2_000_000


def test_ranks_of_real_features_equal_a_full_sort():
    rng = np.random.default_rng(0)
    queries, candidates = (rng.standard_normal((n, 8)).astype(np.float32) for n in (50, 200))
    right = [rng.choice(200, 3, replace=False) for _ in range(50)]
    expected = []
    for query, answers in zip(queries, right, strict=True):
        order = np.argsort(-(candidates.astype(np.float64) @ query)).tolist()
        expected.append(1 + min(order.index(at) for at in answers))
    assert best_ranks(queries, candidates, right, block=7).tolist() == expected
