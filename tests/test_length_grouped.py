"""The sampler of like lengths."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_text.data.length_grouped import LengthGrouped

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=200)


@given(LENGTHS, st.integers(1, 9), st.integers(0, 3))
def test_an_epoch_shows_every_example_once(lengths, batch_size, epoch):
    batches = LengthGrouped(lengths, batch_size, seed=5)
    batches.set_epoch(epoch)
    shown = list(batches)
    assert sorted(at for batch in shown for at in batch) == list(range(len(lengths)))
    assert len(batches) == len(shown)
    assert sorted(len(batch) for batch in shown)[1:] == [batch_size] * (len(shown) - 1)
    assert list(batches) == shown


@given(LENGTHS, st.integers(1, 9))
def test_a_rest_may_wait_for_another_epoch(lengths, batch_size):
    batches = LengthGrouped(lengths, batch_size, seed=5, drop_last=True)
    shown = list(batches)
    assert len(batches) == len(shown) == max(1, len(lengths) // batch_size)
    if len(lengths) >= batch_size:
        assert {len(batch) for batch in shown} == {batch_size}
    else:
        assert [len(batch) for batch in shown] == [len(lengths)]
    assert len({at for batch in shown for at in batch}) == sum(map(len, shown))


def test_lengths_are_alike_within_a_batch_and_mixed_between_them():
    lengths = np.random.default_rng(0).permutation(np.arange(320))  # 20 batches of 16
    shown = list(LengthGrouped(lengths, 16, seed=1))
    # 16 batches are sorted together, and then the 4 that are left; drawn blindly they span 280
    assert max(np.ptp(lengths[batch]) for batch in shown) < 120
    means = [lengths[batch].mean() for batch in shown]
    assert means != sorted(means)


def test_epochs_and_seeds_differ_and_a_draw_is_followed():
    def batches(seed=0, epoch=0, **options):
        sampler = LengthGrouped([1] * 40, 8, seed, **options)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches() != batches(epoch=1)
    assert batches() != batches(seed=1)
    drawn = batches(draw=lambda rng: rng.permutation(40)[:20] // 2)
    assert sum(map(len, drawn)) == 20
    assert {at for batch in drawn for at in batch} <= set(range(20))


@pytest.mark.parametrize("drop_last", [False, True])
def test_nothing_to_show(drop_last):
    batches = LengthGrouped([], 4, drop_last=drop_last)
    assert len(batches) == 0
    assert list(batches) == []
