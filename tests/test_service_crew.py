"""What one of several workers asks of the others: not for ever, and not more than they can do."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from types import SimpleNamespace

import httpx
import pytest
from stub_searcher import StubSearcher

from retrieval.errors import IndexLockedError, QueryError
from retrieval.service import supervisor
from retrieval.service.app import Served, create_app
from retrieval.service.batching import Load, OverloadedError
from retrieval.service.line import Line
from retrieval.service.measures import Measures
from retrieval.service.settings import Settings
from retrieval.service.supervisor import Supervisor
from retrieval.service.worker import _Crew, go_on

JSON = {"content-type": "application/json"}
PAGE = {"page": "1.of-another"}  # a token of the other worker's


@pytest.fixture
def searcher(tmp_path):
    return StubSearcher(tmp_path)


class OtherWorker:
    """Stands where the other worker's server does; its searches fail as they are told to."""

    def __init__(self, failure):
        self.failure = failure
        self.service = SimpleNamespace(
            collection=lambda _name: SimpleNamespace(searches=self._search),
            settings=Settings(),
        )

    async def _search(self, _search):
        raise self.failure

    def within(self, work, _timeout_s):
        return asyncio.run(work)


def run(app, work, threads=2):
    """Do some work with a client, on an event loop whose own threads are few."""

    async def do():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(threads))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await work(client)

    return asyncio.run(do())


@pytest.mark.parametrize(
    ("failure", "status", "kind", "after"),
    [
        (OverloadedError(6.2), 429, "overloaded", "7"),
        (QueryError("expected a query, got none. Ask."), 400, "invalid_query", None),
        (IndexLockedError("expected an index at rest"), 503, "index_locked", "1"),
    ],
)
def test_what_keeps_another_worker_from_a_page_is_told_as_it_is(
    searcher, failure, status, kind, after
):
    other = OtherWorker(failure)
    ours, theirs = Pipe()
    line = Line(ours, lambda *_: None)
    far = Line(theirs, lambda _question, value: go_on(other, *value[1:]))
    app = create_app(searcher, crew=_Crew(line, 0, 2, 30.0))
    answer = run(app, lambda client: client.post("/v1/search", json=PAGE))
    line.close()
    far.close()
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
    assert answer.headers.get("retry-after") == after


class SlowCrew:
    """Another worker that hangs until it is let go on, and reloads that ask for this one's."""

    slot, size = 0, 2

    def __init__(self):
        self.let_go_on = threading.Event()
        self.asked = 0
        self.service = self.loop = None
        self._lock = threading.Lock()

    def go_on(self, *_):
        self.asked += 1
        assert self.let_go_on.wait(20)
        return b"{}"

    def metrics(self):
        return b"figures"

    def reload(self):
        with self._lock:  # one after the other, as the supervisor does
            work = self.service.reload()
            asyncio.run_coroutine_threadsafe(work, self.loop).result(5)


def test_a_worker_that_hangs_keeps_neither_figures_waiting_nor_ever_more_requests(searcher):
    crew = SlowCrew()
    app = create_app(searcher, settings=Settings(waiting=3), crew=crew)

    async def ask(client):
        pages = [asyncio.ensure_future(client.post("/v1/search", json=PAGE)) for _ in range(9)]
        while crew.asked < 2:
            await asyncio.sleep(0.01)
        figures = await asyncio.wait_for(client.get("/metrics"), 5)
        crew.let_go_on.set()
        return figures, [answer.status_code for answer in await asyncio.gather(*pages)]

    figures, statuses = run(app, ask)
    assert figures.text == "figures"
    assert sorted(statuses)[:5] == [200] * 5
    assert 429 in statuses


def test_many_reloads_at_once_are_done(searcher):
    crew = SlowCrew()
    app = create_app(searcher, reopen=lambda: [Served(searcher)], crew=crew)

    async def ask(client):
        crew.service, crew.loop = app.state.service, asyncio.get_running_loop()
        many = (client.post("/v1/admin/reload", headers=JSON) for _ in range(4))
        return await asyncio.gather(*many)

    assert [answer.status_code for answer in run(app, ask)] == [200] * 4


def test_a_reload_does_not_wait_for_a_worker_that_died_while_it_began(monkeypatch):
    monkeypatch.setattr(supervisor, "_LOOKED_S", 0.01)
    asked = []

    class Dying:
        looks = 0

        def is_alive(self):
            self.looks += 1
            return self.looks < 3

    line = SimpleNamespace(ask=lambda question, **_: asked.append(question))
    looking_after = Supervisor(SimpleNamespace(settings=Settings()), [], 2)
    ready = supervisor._Worker(SimpleNamespace(is_alive=lambda: True), line)
    ready.ready.set()
    looking_after._workers = [supervisor._Worker(Dying(), line), ready]
    reloading = threading.Thread(target=looking_after.reload, daemon=True)
    reloading.start()
    reloading.join(10)
    assert not reloading.is_alive()
    assert asked == ["reload"]  # of the one that is ready


def test_figures_of_all_take_no_longer_than_those_of_one(monkeypatch):
    monkeypatch.setattr(supervisor, "FIGURES_S", 0.5)
    patience = []

    def ask(_question, timeout_s):
        patience.append(timeout_s)
        time.sleep(timeout_s)
        raise supervisor.LineError("nothing")

    looking_after = Supervisor(SimpleNamespace(settings=Settings()), [], 4)
    hanging = SimpleNamespace(ask=ask)
    looking_after._workers = [supervisor._Worker(SimpleNamespace(), hanging) for _ in range(4)]
    assert looking_after.metrics() == b""
    assert patience[0] <= 0.5
    assert patience[1:] == [supervisor._LOOKED_S] * 3


class Answering:
    """A pipe whose other end answers the first question and is gone at once."""

    def __init__(self):
        self._asked = threading.Event()
        self._given = iter([("answer", 0, True, "狗")])
        self.closed = False

    def send(self, _message):
        if self.closed:
            raise OSError("handle is closed")
        self._asked.set()

    def recv(self):
        self._asked.wait()
        for each in self._given:
            return each
        raise EOFError

    def close(self):
        self.closed = True

    def fileno(self):
        raise OSError("none")


def test_an_end_right_after_an_answer_is_heard_of():
    ended = threading.Event()
    line = Line(Answering(), lambda *_: None, ended.set)
    given = []
    asking = threading.Thread(target=lambda: given.append(line.ask("say", timeout_s=5)))
    asking.start()
    assert ended.wait(5)
    asking.join()
    assert given == ["狗"]


def test_figures_are_told_while_a_reload_adds_some():
    measures = Measures()

    def load():
        measures.watch("search", "fresh", lambda: Load(2, 0, 0.0))
        return Load(1, 0, 0.0)

    measures.watch("search", "default", load)
    assert b'clip_text_waiting{collection="default",stage="search"} 1.0' in measures.text()
    assert b'clip_text_waiting{collection="fresh",stage="search"} 2.0' in measures.text()
