"""Workers that hang, and a signal that comes before there is anybody to hear it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
import time

import httpx
import pytest
from test_service_workers import (  # noqa: F401  (folder is a fixture)
    configure,
    folder,
    linux,
    search,
    serving,
    until,
    workers_of,
)

from retrieval.service.batching import Batcher


def replaced(process, before):
    return until(lambda: (now := workers_of(process)) != before and len(now) == 2 and now)


@linux
def test_a_worker_that_does_not_answer_is_killed_and_replaced(folder):  # noqa: F811
    with serving(folder, workers=2, hung_s=1, timeout_s=0.5) as (process, client):
        before = workers_of(process)
        time.sleep(2.5)  # several looks
        assert workers_of(process) == before, "none that answers is ended"
        os.kill(before[0], signal.SIGSTOP)
        after = replaced(process, before)
        assert (before[0] in after, before[1] in after) == (False, True)
        log = (folder / "log").read_text()
        assert f"worker process {before[0]} is ended: it hangs" in log
        assert "It is started again." in log
        until(lambda: client.get("/readyz").status_code == 200)


@linux
def test_a_worker_whose_search_hangs_is_replaced_though_it_still_refuses(folder):  # noqa: F811
    with serving(folder, workers=2, hung_s=1, timeout_s=0.5, slow=60) as (process, client):
        before = workers_of(process)
        assert search(client, "一只狗").status_code == 503
        after = replaced(process, before)
        assert len(set(before) & set(after)) == 1
        assert "expected searches of 'default' within 1 seconds" in (folder / "log").read_text()

        def answers():
            with contextlib.suppress(httpx.TransportError):
                return search(client).status_code == 200

        until(answers)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal here")
def test_a_signal_while_the_indexes_are_opened_opens_them_anew_afterwards(folder):  # noqa: F811
    opened = folder / "opened"
    told = []

    def tell():
        until(lambda: opened.exists() and told)
        told[0].send_signal(signal.SIGHUP)

    # the process is to be known before it tells its address
    begin = subprocess.Popen

    def begun(*args, **options):
        told.append(begin(*args, **options))
        return told[0]

    teller = threading.Thread(target=tell)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", begun)
        teller.start()
        with serving(folder, opening=1) as (process, client):
            teller.join()
            until(lambda: len(opened.read_text().splitlines()) == 2)
            assert process.poll() is None
            assert search(client).status_code == 200
            configure(folder, "index", "first")


def test_a_batcher_says_how_long_its_oldest_batch_has_been_at_work():
    begun, end = threading.Event(), threading.Event()

    def work(asked):
        begun.set()
        assert end.wait(20)
        return asked

    async def run():
        batcher = Batcher(work, most=4, waiting=8, patience_s=9)
        assert batcher.oldest_s() == 0
        waiting = batcher.submit(1)
        await asyncio.to_thread(begun.wait, 20)
        await asyncio.sleep(0.05)
        assert 0.05 <= batcher.oldest_s() < 20
        end.set()
        await waiting
        batcher.close()
        assert batcher.oldest_s() == 0

    asyncio.run(run())
