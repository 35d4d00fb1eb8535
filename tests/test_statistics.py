"""Intervals and the paired test: by hand, against theory, with groups."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_text.evaluation.statistics import compare, groups_of, interval


def test_groups_are_what_hangs_together():
    # texts 0, 1 share picture 0; text 2 has picture 1 alone; 3 and 4 meet through text 5
    answers = [[0], [0], [1], [2], [3], [2, 3]]
    labels = groups_of(answers, 5).tolist()
    assert labels[0] == labels[1]
    assert labels[3] == labels[4] == labels[5]
    assert len({labels[0], labels[2], labels[3]}) == 3


def test_no_queries_no_groups():
    assert groups_of([], 3).tolist() == []
    found = interval(np.empty(0), np.empty(0, np.int64))
    assert np.isnan([found.value, found.low, found.high]).all()


def test_interval_of_a_share_is_that_of_the_binomial():
    values = np.r_[np.ones(300), np.zeros(700)]
    found = interval(values, resamples=4000)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - half, abs=0.004)
    assert found.high == pytest.approx(0.3 + half, abs=0.004)


def test_texts_of_one_picture_are_no_independent_witnesses():
    # five captions that fall together: as wide as a fifth of the queries would be
    values = np.repeat(np.r_[np.ones(60), np.zeros(140)], 5)
    groups = np.repeat(np.arange(200), 5)
    alone, together = interval(values), interval(values, groups)
    ratio = (together.high - together.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(np.sqrt(5), rel=0.12)
    assert together.value == alone.value


def test_groups_of_unequal_size_weigh_by_their_queries():
    values = np.array([1.0, 0, 0, 0])
    found = interval(values, np.array([7, 9, 9, 9]))
    assert found.value == 0.25
    assert (found.low, found.high) == (0, 1)  # a draw may take one group twice


@pytest.mark.parametrize("values", [np.ones(9), np.zeros(9)])
def test_what_does_not_vary_has_no_width(values):
    found = interval(values)
    assert found.low == found.value == found.high == values[0]


def test_one_group_tells_nothing_of_its_spread():
    found = interval(np.array([0.0, 1.0]), np.array([3, 3]))
    assert found.value == 0.5
    assert np.isnan(found.low)
    assert np.isnan(found.high)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_the_mean_lies_inside_and_seeds_repeat(values):
    values = np.array(values)
    found = interval(values, resamples=100)
    assert found.low - 1e-9 <= found.value + 1e-9
    assert found.high + 1e-9 >= found.low
    assert interval(values, resamples=100) == found


def test_equal_models_do_not_differ():
    values = np.r_[np.ones(5), np.zeros(5)]
    found = compare(values, values)
    assert found.p_value == 1
    assert found.difference.value == found.difference.low == found.difference.high == 0


def test_a_clear_difference_is_significant_and_has_its_sign():
    rng = np.random.default_rng(0)
    second = (rng.random(400) < 0.4).astype(float)
    first = np.maximum(second, rng.random(400) < 0.2)
    found = compare(first, second)
    assert found.p_value <= 0.001  # the least that 2,000 draws can tell
    assert found.difference.value == pytest.approx(first.mean() - second.mean())
    assert 0 < found.difference.low < found.difference.value < found.difference.high
    back = compare(second, first)
    assert back.difference.value == -found.difference.value


def test_the_p_value_of_few_is_exact():
    # four groups, all one way: 2 of the 16 signs are as far out
    assert compare(np.ones(4), np.zeros(4)).p_value == 2 / 16
    # the same four, each told five times over, is no more evidence
    groups = np.repeat(np.arange(4), 5)
    assert compare(np.ones(20), np.zeros(20), groups).p_value == 2 / 16


def test_p_values_of_interchangeable_models_are_uniform():
    rng = np.random.default_rng(1)
    values = [
        compare(rng.random(30), rng.random(30), resamples=200, seed=at).p_value for at in range(100)
    ]
    assert np.mean(np.array(values) < 0.1) == pytest.approx(0.1, abs=0.1)
    assert np.mean(values) == pytest.approx(0.5, abs=0.1)


def test_models_must_answer_the_same_queries():
    with pytest.raises(ValueError, match=r"same queries, got 3 and 4\. Measure both on one"):
        compare(np.ones(3), np.ones(4))
