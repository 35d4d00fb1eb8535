"""Leaders among features, against numbers worked out by hand and all pairs."""

import numpy as np
import pytest

from retrieval.features import unit_rows
from retrieval.index import leaders
from retrieval.index.leaders import find_leaders

COS_12 = np.cos(np.radians(12))


def at_angles(*degrees):
    """Rows of width 2 at these angles."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float16)


def clustered(count=600, centres=80, width=16):
    """Rows around centres, some of them equal."""
    rng = np.random.default_rng(3)
    middle = rng.standard_normal((centres, width))
    rows = middle[rng.integers(0, centres, count)] + 0.2 * rng.standard_normal((count, width))
    rows[::7] = rows[0]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def reference(halves, order, at):
    """What leaders are, by all pairs, one row after the other."""
    rows = unit_rows(halves).astype(np.float64)
    cosines, found, led = rows @ rows.T, [], np.arange(len(rows))
    for row in order:
        if near := [leader for leader in found if cosines[row, leader] >= at]:
            led[row] = max(near, key=lambda leader: cosines[row, leader])
        else:
            found.append(row)
    near = (cosines - 2 * np.eye(len(rows)) >= at).any(axis=1)
    return led, near


def test_a_chain_is_not_one_group():
    halves = at_angles(0, 10, 21, 31)
    found = find_leaders(halves, np.arange(4), COS_12)
    assert found.leader.tolist() == [0, 0, 2, 2]
    assert found.cosine == pytest.approx([1, np.cos(np.radians(10))] * 2, abs=1e-3)
    assert found.near.all()


def test_the_first_in_order_lead():
    found = find_leaders(at_angles(0, 10, 19, 30, 90), np.array([1, 4, 3, 2, 0]), COS_12)
    assert found.leader.tolist() == [1, 1, 1, 3, 4]
    assert found.near.tolist() == [True, True, True, True, False]  # 30 is near to 19, which follows


def test_a_row_follows_the_nearest_leader():
    order = np.array([0, 2, 1])
    assert find_leaders(at_angles(0, 11, 20), order, COS_12).leader.tolist() == [0, 2, 2]
    assert find_leaders(at_angles(0, 9, 20), order, COS_12).leader.tolist() == [0, 0, 2]


@pytest.mark.parametrize("at", [0.5, 0.95, 1.0])
def test_equal_rows_follow_the_first(at):
    halves = np.concatenate([at_angles(*[40] * 50), at_angles(170)])
    order = np.roll(np.arange(51), 7)
    found = find_leaders(halves, order, at)
    assert (found.leader[:50] == order[order < 50][0]).all()
    assert found.leader[50] == 50
    assert found.cosine.tolist() == [1.0] * 51
    assert found.near.tolist() == [True] * 50 + [False]


def test_from_1_on_only_equal_rows_are_near():
    found = find_leaders(at_angles(0, 0.2, 0), np.arange(3), 1.0)
    assert found.leader.tolist() == [0, 1, 0]
    assert found.near.tolist() == [True, False, True]


def test_who_may_follow_is_asked():
    asked = []

    def agrees(row, mates, cosines):
        asked.append((row, mates.tolist(), cosines.tolist()))
        return mates != 2

    halves = at_angles(0, 9, 10, 0)
    found = find_leaders(halves, np.array([3, 0, 1, 2]), COS_12, agrees=agrees)
    assert found.leader.tolist() == [3, 3, 2, 3]  # equal rows follow unasked
    cosines = [pytest.approx(np.cos(np.radians(angle)), abs=1e-3) for angle in (9, 10)]
    assert asked == [(3, [1, 2], cosines)]


@pytest.mark.parametrize("count", [0, 1])
def test_few_rows(count):
    found = find_leaders(at_angles(*[5] * count), np.arange(count), 0.9)
    assert found.leader.tolist() == list(range(count))
    assert not found.near.any()


@pytest.mark.parametrize("at", [0.8, 0.9, 0.97])
@pytest.mark.parametrize("batch", [7, 1024])
def test_leaders_are_those_of_all_pairs(monkeypatch, at, batch):
    monkeypatch.setattr(leaders, "_MOST_QUERIES", batch)
    halves = clustered()
    order = np.random.default_rng(1).permutation(len(halves))
    told = []
    found = find_leaders(halves, order, at, lambda *done: told.append(done))
    leader, near = reference(halves, order.tolist(), at)
    assert found.leader.tolist() == leader.tolist()
    assert found.near.tolist() == near.tolist()
    assert 1 < len(set(leader.tolist())) < len(halves)
    assert told[-1][0] <= told[-1][1] < len(halves)  # equal rows are one
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_lists_find_nearly_the_same(monkeypatch):
    monkeypatch.setattr(leaders, "_EXACT_UP_TO", 100)
    monkeypatch.setattr(leaders, "_PROBES", 8)
    halves = clustered(4000, 500)
    order = np.arange(len(halves))
    found = find_leaders(halves, order, 0.95)
    leader, near = reference(halves, order.tolist(), 0.95)
    assert (found.leader == leader).mean() > 0.97
    assert (found.near == near).mean() > 0.97
    rows = unit_rows(halves)
    followed = np.flatnonzero(found.leader != order)
    cosines = (rows[followed] * rows[found.leader[followed]]).sum(axis=1)
    assert cosines.min() >= 0.95 - 1e-3
    assert found.cosine[followed] == pytest.approx(cosines, abs=1e-5)
    assert (found.leader[found.leader] == found.leader).all()  # who is followed leads
