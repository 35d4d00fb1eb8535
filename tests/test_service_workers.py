"""Several workers at one address, indexes opened anew under load, and a service that ends."""

import asyncio
import contextlib
import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import httpx
import pytest
from fakes import FakeEncoder, save_picture
from stub_searcher import StubSearcher

from retrieval.errors import RetrievalError
from retrieval.ingest import index_folder
from retrieval.search import Searcher
from retrieval.service.app import Served, create_app
from retrieval.service.line import Line, LineError
from retrieval.service.turnover import Turnover

HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(HERE.parent)}
JSON = {"content-type": "application/json"}


def build(folder, pictures, fingerprint, index="index"):
    """An index of so many pictures in ``folder``, by a model of a fingerprint."""
    for number in range(pictures):
        save_picture(folder / f"p{pictures}" / f"{number}.png", seed=number)
    shutil.rmtree(folder / index, ignore_errors=True)
    index_folder(folder / f"p{pictures}", folder / index, FakeEncoder(fingerprint=fingerprint))


def configure(folder, index, fingerprint):
    (folder / "config").write_text(f"{index} {fingerprint}")


@pytest.fixture
def folder(tmp_path):
    build(tmp_path, 3, "first")
    configure(tmp_path, "index", "first")
    return tmp_path


@contextlib.contextmanager
def serving(folder, **given):
    """The service at work; gives the process and a client of it."""
    pairs = [f"{key}={value}" for key, value in given.items()]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, HERE / "serving_process.py", folder, *pairs],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=ENVIRONMENT,
        )
    try:
        address, _, total = process.stdout.readline().partition(" ")
        assert total == "3\n", (folder / "log").read_text()
        with httpx.Client(base_url=address, trust_env=False, timeout=30) as client:
            yield process, client
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A service of two workers for all that leave it as it is."""
    folder = tmp_path_factory.mktemp("two")
    build(folder, 3, "first")
    configure(folder, "index", "first")
    with serving(folder, workers=2) as at_work:
        yield at_work


def search(client, query="狗"):
    return client.post("/v1/search", json={"query": query, "top_k": 9})


def workers_of(process):
    """Process numbers of the workers, by what the system says of children."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    commands: dict[int, bytes] = {}
    for each in children:
        with contextlib.suppress(OSError):  # it has just ended
            commands[int(each)] = Path(f"/proc/{each}/cmdline").read_bytes()
    return sorted(pid for pid, command in commands.items() if b"spawn_main" in command)


def until(holds, seconds=30.0):
    ends = time.monotonic() + seconds
    while not (held := holds()):
        assert time.monotonic() < ends, "it did not come to hold"
        time.sleep(0.05)
    return held


class Traffic:
    """Searches without a pause from several threads, over connections that stay open."""

    def __init__(self, address, threads=2):
        self.totals, self.began, self.wrong = [], [], []
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._threads = [
            threading.Thread(target=self._search, args=(address,)) for _ in range(threads)
        ]

    def _search(self, address):
        with httpx.Client(base_url=address, trust_env=False, timeout=30) as client:
            while not self._ended.is_set():
                began = time.monotonic()
                try:
                    answer = search(client)
                    thumbnail = client.get("/v1/images/1/thumbnail")
                except httpx.HTTPError as error:
                    self.wrong.append(repr(error))
                    return
                for each in (answer, thumbnail):
                    if each.status_code != 200:
                        self.wrong.append((each.status_code, each.text[:200]))
                if answer.status_code == 200:
                    with self._lock:
                        self.totals.append((answer.json()["total"], len(answer.json()["hits"])))
                        self.began.append(began)

    def since(self, moment):
        """What searches found that began after a moment; 20 of them."""
        until(lambda: sum(began > moment for began in self.began) > 20)
        pairs = zip(self.totals, self.began, strict=False)
        return [total for total, began in pairs if began > moment]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        for thread in self._threads:
            thread.join()


linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")


@linux
def test_no_request_fails_while_an_index_of_another_model_is_opened(folder):
    """The heart of it: two workers, callers without a pause, another index and model."""
    with serving(folder, workers=2) as (process, client):
        workers = workers_of(process)
        assert len(workers) == 2
        with Traffic(str(client.base_url)) as traffic:
            until(lambda: len(traffic.totals) > 20)
            build(folder, 5, "second", "beside")
            configure(folder, "beside", "second")
            answer = client.post("/v1/admin/reload", headers=JSON)
            assert (answer.status_code, answer.json()) == (200, {"collections": {"default": 5}})
            last = traffic.since(time.monotonic())
        assert not traffic.wrong
        assert set(last) == {(5, 5)}, "all workers answer from the new one"
        assert set(traffic.totals) <= {(3, 3), (5, 5)}
        assert workers_of(process) == workers, "none was replaced by another"
        fingerprints = {client.get("/version").json()["fingerprint"] for _ in range(5)}
        assert fingerprints == {"second"}


def test_an_index_built_anew_in_its_place_by_another_model_is_refused_until_then(folder):
    with serving(folder) as (process, client):
        build(folder, 5, "second")
        until(lambda: search(client).status_code == 503)
        configure(folder, "index", "second")
        process.send_signal(signal.SIGHUP)
        until(lambda: search(client).status_code == 200)
        assert search(client).json()["total"] == 5


ONE_AND_TWO = pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])


@ONE_AND_TWO
def test_a_signal_opens_the_index_anew_and_what_cannot_be_opened_changes_nothing(folder, workers):
    with (
        serving(folder, workers=workers) as (process, client),
        Traffic(str(client.base_url)) as traffic,
    ):
        until(lambda: len(traffic.totals) > 5)
        configure(folder, "nowhere", "first")
        process.send_signal(signal.SIGHUP)
        until(lambda: "cannot reload: " in (folder / "log").read_text())
        answer = client.post("/v1/admin/reload", headers=JSON)
        assert (answer.status_code, answer.json()["error"]["type"]) == (409, "reload_failed")
        assert str(folder) not in answer.text
        configure(folder, "index", "first")
        save_picture(folder / "p3" / "more.png", seed=9)
        index_folder(folder / "p3", folder / "index", FakeEncoder(fingerprint="first"))
        process.send_signal(signal.SIGHUP)
        until(lambda: set(traffic.since(time.monotonic())) == {(4, 4)})
    assert not traffic.wrong


@linux
def test_a_worker_that_dies_is_replaced_and_figures_are_of_each(two):
    process, client = two
    before = workers_of(process)
    os.kill(before[0], signal.SIGKILL)
    after = until(lambda: (now := workers_of(process)) != before and len(now) == 2 and now)
    assert len(set(before) & set(after)) == 1

    def both():
        text = client.get("/metrics").text
        return re.findall(r'^clip_text_in_flight\{worker="(\d)"\} \d', text, re.MULTILINE)

    def count(name):
        text = client.get("/metrics").text
        assert text.count("# TYPE clip_text_requests_total counter") == 1
        found = re.findall(rf"^{name}(?<=[{{,])worker=\"\d\".*\}} (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))

    until(lambda: sorted(both()) == ["0", "1"])
    searches = r'clip_text_requests_total\{route="/v1/search",status="200",'
    batches = r'clip_text_batch_size_count\{stage="search",'
    before = count(searches), count(batches)
    for number in range(20):  # a connection each, so that both may get some
        with httpx.Client(base_url=client.base_url, trust_env=False) as fresh:
            assert search(fresh, f"狗{number}").status_code == 200
    assert count(searches) - before[0] == 20
    assert count(batches) - before[1] == 20  # one after the other: each alone
    assert client.get("/readyz").status_code == 200


def test_pages_go_on_whichever_worker_is_asked(two):
    _, client = two

    def asked(**body):  # a connection each, so that either worker may get it
        with httpx.Client(base_url=client.base_url, trust_env=False, timeout=30) as fresh:
            return fresh.post("/v1/search", json=body)

    first = asked(query="狗", paged=True, top_k=1).json()
    page = first["page"]
    assert re.fullmatch(r"[01]\..{16}", page)
    elsewhere = f"{1 - int(page[0])}{page[1:]}"
    for number in range(10):
        answer = asked(page=page, offset=number % 3, top_k=1)
        assert answer.status_code == 200, answer.text
        assert answer.json()["hits"][0]["rank"] == number % 3 + 1
        assert answer.json()["page"] == page
        for token in (elsewhere, "7" + page[1:], "none", "1.", "9999999.x"):
            gone = asked(page=token)
            assert (gone.status_code, gone.json()["error"]["type"]) == (410, "page_gone")
        wrong = asked(page=page, query="猫")
        assert (wrong.status_code, wrong.json()["error"]["type"]) == (400, "invalid_query")


@pytest.mark.slow
@linux
def test_workers_end_with_their_supervisor(folder):
    with serving(folder, workers=2) as (process, _):
        workers = workers_of(process)
        process.kill()
        process.wait()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 20)


@ONE_AND_TWO
def test_what_was_accepted_is_answered_when_the_service_ends(folder, workers):
    with serving(folder, workers=workers, slow=1.0, shutdown_s=8) as (process, client):
        answers = []
        asking = threading.Thread(target=lambda: answers.append(search(client, "慢的")))
        asking.start()
        time.sleep(0.4)
        process.send_signal(signal.SIGTERM)
        asking.join()
        assert process.wait(20) == 0
    assert (answers[0].status_code, len(answers[0].json()["hits"])) == (200, 3)


def test_a_service_that_ends_says_so_first_and_cuts_no_connection_off(folder):
    with serving(folder, drain_s=1.5) as (process, client):
        assert client.get("/readyz").status_code == 200
        process.send_signal(signal.SIGTERM)
        answer = until(lambda: (each := client.get("/readyz")).status_code == 503 and each, 5)
        assert answer.json()["error"]["type"] == "service_ending"
        assert answer.headers["connection"] == "close"
        assert search(client).status_code == 200
        assert process.wait(20) == 0


def test_what_takes_longer_than_the_service_has_is_told_so(folder):
    with serving(folder, slow=4.0, shutdown_s=1) as (process, client):
        answers = []
        asking = threading.Thread(target=lambda: answers.append(search(client, "慢的")))
        asking.start()
        time.sleep(0.4)
        process.send_signal(signal.SIGTERM)
        asking.join()
        assert process.wait(20) == 0
    assert answers[0].status_code == 503
    assert answers[0].json()["error"]["type"] == "service_ending"


@pytest.mark.parametrize("workers", [1, 2])
def test_what_cannot_be_opened_ends_the_start(folder, workers):
    configure(folder, "index", "another")
    done = subprocess.run(
        [sys.executable, HERE / "serving_process.py", folder, f"workers={workers}"],
        capture_output=True,
        text=True,
        timeout=60,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 1
    assert "another model" in done.stderr or "fingerprint" in done.stderr
    assert done.stdout == ""


# In process


def ask(app, method, path, **more):
    async def one():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **more)

    return asyncio.run(one())


def test_a_service_that_was_handed_open_indexes_cannot_reload(tmp_path):
    app = create_app(StubSearcher(tmp_path))
    answer = ask(app, "POST", "/v1/admin/reload", headers=JSON)
    assert (answer.status_code, answer.json()["error"]["type"]) == (409, "not_reloadable")


def test_a_page_of_another_site_cannot_reload(tmp_path):
    app = create_app(StubSearcher(tmp_path), reopen=lambda: [Served(StubSearcher(tmp_path))])
    for kind in ({}, {"content-type": "text/plain"}):
        answer = ask(app, "POST", "/v1/admin/reload", headers=kind)
        assert answer.status_code == 415
    assert ask(app, "POST", "/v1/admin/reload", headers=JSON).status_code == 200


def test_collections_come_and_go_and_those_from_before_are_closed_after_their_last_request(folder):
    encoder = FakeEncoder(fingerprint="first")
    closed = []

    def opened(name):
        searcher = Searcher.open(folder / "index", encoder)
        searcher.close = lambda closing=searcher.close: (closed.append(name), closing())
        return Served(searcher, name, owned=True)

    app = create_app(opened("one"), opened("two"), reopen=lambda: [opened("two"), opened("three")])
    service = app.state.service

    async def run():
        era = service.turnover.enter()  # a request that is at work meanwhile
        held = service.collection("one").searcher
        await service.reload()
        await asyncio.sleep(0.2)
        assert closed == []
        assert len(held.search("狗", 3)) == 3
        assert list(service.collections) == ["two", "three"]
        later = service.turnover.enter()
        service.turnover.leave(era)
        await asyncio.sleep(0.2)
        assert sorted(closed) == ["one", "two"]
        assert len(service.collection("three").searcher.search("狗", 3)) == 3
        service.turnover.leave(later)
        text = service.measures.text().decode()
        assert 'collection="three"' in text
        assert 'collection="one"' not in text
        await service.close()
        assert sorted(closed) == ["one", "three", "two", "two"]

    asyncio.run(run())


def test_a_model_of_the_start_is_freed_by_a_reload(tmp_path):
    class Circular(FakeEncoder):
        def __init__(self):
            super().__init__()
            self.own = self

    def opened():
        return [Served(StubSearcher(tmp_path), encoder=Circular())]

    app = create_app(*opened(), reopen=opened)
    first = weakref.ref(app.state.service.collection(None).encoder)

    async def run():
        await app.state.service.reload()
        await app.state.service.close()

    gc.freeze()  # as a process does that begins to serve
    try:
        asyncio.run(run())
        assert first() is None
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_what_was_replaced_is_closed_when_no_older_request_is_left():
    turnover, closed = Turnover(), []
    first = turnover.enter()
    turnover.begin_anew(lambda: closed.append(1))
    second = turnover.enter()
    turnover.begin_anew(lambda: closed.append(2))
    turnover.leave(second)
    assert closed == []  # the first, older one may have come to use what the second did
    turnover.leave(first)
    assert closed == [1, 2]
    turnover.begin_anew(lambda: closed.append(3))
    assert closed == [1, 2, 3]


@pytest.fixture
def line():
    """Two ends in this process: one that answers, and one that hears what is asked."""
    from multiprocessing import Pipe

    def answer(question, value):
        if question == "refuse":
            raise RetrievalError("expected another question, got this. Ask another.")
        if question == "slow":
            time.sleep(value)
        return value

    ours, theirs = Pipe()
    ended = threading.Event()
    one, other = Line(ours, answer), Line(theirs, answer, ended.set)
    yield one, other, ended
    one.close()
    other.close()


def test_both_ends_ask_and_a_slow_answer_holds_nothing_up(line):
    one, other, _ = line
    slow = threading.Thread(target=lambda: one.ask("slow", 1.0, timeout_s=5))
    slow.start()
    began = time.monotonic()
    assert [one.ask("say", n, timeout_s=5) for n in range(50)] == list(range(50))
    assert other.ask("say", {"狗": 1}, timeout_s=5) == {"狗": 1}
    assert time.monotonic() - began < 0.9
    slow.join()


def test_a_line_tells_what_went_wrong_and_that_nobody_is_there(line):
    one, other, ended = line
    with pytest.raises(LineError, match=r"^expected another question, got this\."):
        one.ask("refuse", timeout_s=5)
    with pytest.raises(LineError, match="got nothing"):
        one.ask("slow", 0.5, timeout_s=0.05)
    time.sleep(0.6)
    one.close()
    with pytest.raises(LineError):
        other.ask("say", 1, timeout_s=2)
    assert ended.wait(5)
