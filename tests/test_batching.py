"""Requests that arrive together: worked on together, refused in time, forgotten once they left."""

import asyncio
import threading

import pytest

from retrieval.service.batching import Batcher, OverloadedError


class Gate:
    """Work that doubles numbers, waits where it is told to, and remembers its batches."""

    def __init__(self):
        self.batches = []
        self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.is_held = True

    def __call__(self, numbers):
        self.batches.append(list(numbers))
        self.begun.release()
        if self.is_held:
            assert self.go_on.acquire(timeout=20)
        return [ValueError(f"no {number}") if number < 0 else 2 * number for number in numbers]


def batcher_of(work, **options):
    return Batcher(work, **{"most": 4, "waiting": 8, "patience_s": 10.0, **options})


async def begun(gate):
    assert await asyncio.to_thread(gate.begun.acquire, timeout=20)


def test_who_comes_alone_waits_for_nobody_and_who_comes_meanwhile_goes_together():
    async def run():
        gate = Gate()
        batcher = batcher_of(gate)
        first = asyncio.ensure_future(batcher(1))
        await begun(gate)
        others = [batcher.submit(number) for number in (2, 3, 4, 5, 6)]
        assert batcher.load().waiting == 5
        gate.is_held = False
        gate.go_on.release()
        assert [await first, *[await other for other in others]] == [2, 4, 6, 8, 10, 12]
        return gate.batches

    assert asyncio.run(run()) == [[1], [2, 3, 4, 5], [6]]


def test_an_error_is_given_to_who_made_it():
    async def run():
        gate = Gate()
        gate.is_held = False
        batcher = batcher_of(gate)
        return await asyncio.gather(batcher(1), batcher(-2), batcher(3), return_exceptions=True)

    first, second, third = asyncio.run(run())
    assert (first, third) == (2, 6)
    assert isinstance(second, ValueError)
    assert str(second) == "no -2"


def test_work_that_fails_as_a_whole_fails_each_and_the_next_goes_on():
    failing = [RuntimeError("out of memory")]

    def work(numbers):
        if failing:
            raise failing.pop()
        return numbers

    async def run():
        batcher = batcher_of(work)
        with pytest.raises(RuntimeError, match="out of memory"):
            await batcher(1)
        return await batcher(2)

    assert asyncio.run(run()) == 2


def test_work_that_gives_too_little_fails_each_and_the_next_goes_on():
    async def run():
        batcher = batcher_of(lambda numbers: [number for number in numbers if number > 1])
        with pytest.raises(ValueError, match="shorter"):
            await asyncio.wait_for(batcher(1), 10)
        return await asyncio.wait_for(batcher(2), 10)

    assert asyncio.run(run()) == 2


def test_more_than_may_wait_are_refused_and_it_recovers_at_once():
    async def run():
        gate = Gate()
        batcher = batcher_of(gate, waiting=3)
        accepted = [batcher.submit(0)]
        await begun(gate)
        accepted += [batcher.submit(number) for number in (1, 2, 3)]
        with pytest.raises(OverloadedError, match=r"^expected fewer .+, got more .+\. Try again"):
            batcher.submit(4)
        gate.is_held = False
        gate.go_on.release()
        given = await asyncio.gather(*accepted)
        return given, await batcher(5)

    assert asyncio.run(run()) == ([0, 2, 4, 6], 10)


def test_who_would_wait_longer_than_patience_is_refused_but_not_within_the_first_batch():
    async def run():
        gate = Gate()
        batcher = batcher_of(gate, most=2, waiting=100, patience_s=0.1)
        first = batcher.submit(0)
        await begun(gate)
        await asyncio.sleep(0.2)  # so long does one take
        gate.go_on.release()
        await first
        assert batcher.load().each_s >= 0.2
        accepted = [batcher.submit(1)]
        await begun(gate)
        accepted += [batcher.submit(2), batcher.submit(3)]  # a batch of two
        with pytest.raises(OverloadedError) as refused:
            batcher.submit(4)
        assert refused.value.retry_after_s >= 0.4
        gate.is_held = False
        gate.go_on.release()
        return await asyncio.gather(*accepted)

    assert asyncio.run(run()) == [2, 4, 6]


def test_who_left_is_not_worked_for():
    async def run():
        gate = Gate()
        batcher = batcher_of(gate)
        first = batcher.submit(1)
        await begun(gate)
        leaving, staying = batcher.submit(2), batcher.submit(3)
        leaving.cancel()
        gate.is_held = False
        gate.go_on.release()
        assert await first == 2
        assert await staying == 6
        return gate.batches

    assert asyncio.run(run()) == [[1], [3]]


def test_the_end_waits_for_what_was_accepted():
    async def run():
        gate = Gate()
        batcher = batcher_of(gate)
        accepted = [batcher.submit(number) for number in range(6)]
        gate.is_held = False
        gate.go_on.release()
        await asyncio.to_thread(batcher.close)
        return await asyncio.gather(*accepted)

    assert asyncio.run(run()) == [0, 2, 4, 6, 8, 10]


def test_batches_are_told_of():
    told = []

    async def run():
        gate = Gate()
        batcher = batcher_of(gate, observe=lambda *of: told.append(of))
        first = batcher.submit(1)
        await begun(gate)
        others = [batcher.submit(2), batcher.submit(3)]
        gate.is_held = False
        gate.go_on.release()
        await asyncio.gather(first, *others)
        await asyncio.to_thread(batcher.close)

    asyncio.run(run())
    assert [size for size, _, _ in told] == [1, 2]
    assert [len(waits) for _, waits, _ in told] == [1, 2]
    assert all(took >= 0 for _, _, took in told)
