"""What a service refuses to take on: bodies it has no room for, and two indexes of one name."""

import asyncio
import socket
import threading

import httpx
import pytest
from fakes import FakeEncoder
from stub_searcher import StubSearcher
from test_api import ask, assert_error

from retrieval.errors import RetrievalError
from retrieval.service import fetching
from retrieval.service.app import Served, create_app
from retrieval.service.room import Held, Room, RoomFullError
from retrieval.service.settings import Settings

JSON = {"content-type": "application/json"}


@pytest.fixture
def stub(tmp_path):
    return StubSearcher(tmp_path / "pictures")


class SlowEncoder(FakeEncoder):
    """Encodes when it is told to."""

    def __init__(self):
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()

    def encode_text(self, texts):
        self.begun.set()
        assert self.go_on.wait(20)
        return super().encode_text(texts)


def test_a_room_is_shared_and_given_back():
    room = Room(100)
    first, second = Held(room), Held(room)
    first.take(300)  # alone, whatever it is
    first.take(10)
    with pytest.raises(RoomFullError, match="Try again in a moment"):
        second.take(1)
    first.give_back()
    assert room.used == 0
    second.take(60)
    first.take(40)
    with pytest.raises(RoomFullError):
        first.check(1)
    assert room.used == 100
    second.give_back()
    first.give_back()
    first.give_back()
    assert room.used == 0


def test_large_requests_leave_room_for_small_ones():
    room = Room(800, small=10)
    large, growing, small = Held(room), Held(room), Held(room)
    large.take(600)
    with pytest.raises(RoomFullError):
        growing.check(101)  # as it says beforehand
    growing.take(5)
    growing.take(95)
    assert room.used == 700
    with pytest.raises(RoomFullError):
        growing.take(1)
    for _ in range(10):
        Held(room).take(10)
    with pytest.raises(RoomFullError):
        small.take(1)
    large.give_back()
    small.take(10)
    with pytest.raises(RoomFullError):
        small.take(600)  # it is no small one any more


def test_searches_go_on_while_pictures_take_all_the_room_that_they_may(stub):
    app = create_app(stub, settings=Settings(held_bytes=80_000, body_bytes=1024))
    room = app.state.service.room
    taken = asyncio.Event()

    async def run():
        end = asyncio.Event()

        async def picture():
            yield b" " * 70_000
            taken.set()
            await end.wait()

        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            sent = {"content": picture(), "headers": JSON}
            slow = asyncio.ensure_future(client.post("/v1/embeddings", **sent))
            await asyncio.wait_for(taken.wait(), 20)
            found = await client.post("/v1/search", json={"query": "红"})
            refused = await client.post("/v1/embeddings", json={"input": ["x" * 1_100]})
            end.set()
            return found, refused, await slow

    found, refused, slow = asyncio.run(run())
    assert found.status_code == 200
    assert_error(refused, 503, "overloaded")
    assert slow.status_code == 422
    assert room.used == 0


def test_bodies_that_wait_have_a_bound_together(stub):
    encoder = SlowEncoder()
    app = create_app(Served(stub, encoder=encoder), settings=Settings(held_bytes=10_000))
    room = app.state.service.room
    large = {"input": ["狗" * 1_000] * 2}  # some 6 KB in UTF-8

    async def pieces(count):  # of a body whose length is not said
        yield b'{"input": ["'
        for _ in range(count):
            yield b"x" * 1_000
        yield b'"]}'

    async def run():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            first = asyncio.ensure_future(client.post("/v1/embeddings", json=large))
            await asyncio.to_thread(encoder.begun.wait, 20)
            held = room.used
            refused = await client.post("/v1/embeddings", json=large)
            unsaid = await client.post(
                "/v1/embeddings",
                content=pieces(6),
                headers=JSON,
            )
            small = asyncio.ensure_future(client.post("/v1/embeddings", json={"input": "狗"}))
            encoder.go_on.set()
            return held, refused, unsaid, await first, await small

    held, refused, unsaid, first, small = asyncio.run(run())
    assert 6_000 < held < 10_000
    for answer in (refused, unsaid):
        assert_error(answer, 503, "overloaded", "Try again in a moment")
        assert answer.headers["retry-after"] == "1"
    assert (first.status_code, small.status_code) == (200, 200)
    assert room.used == 0, "all is given back"


def test_what_is_refused_gives_back_what_it_held(stub):
    app = create_app(stub, settings=Settings(body_bytes=1024))
    for content, *refusal in (
        (b"x" * 2_000, 413, "request_too_large"),
        (b"{", 422, "invalid_request"),
    ):
        answer = asyncio.run(ask(app, "POST", "/v1/search", content=content, headers=JSON))
        assert_error(answer, *refusal)
    assert app.state.service.room.used == 0


def test_two_indexes_of_one_name_are_refused(stub):
    with pytest.raises(RetrievalError, match=r"several called '二'\. Name them: Served\(.*name="):
        create_app(Served(stub, "二"), Served(stub), Served(stub, "二"))
    with pytest.raises(RetrievalError, match="several called 'default'"):
        create_app(stub, stub)


def test_two_of_one_name_are_no_reload_either(stub):
    app = create_app(stub, reopen=lambda: [Served(stub), Served(stub)])
    service = app.state.service
    before = service.collections

    with pytest.raises(RetrievalError, match="several called 'default'"):
        asyncio.run(service.reload())
    assert service.collections is before


def test_names_that_nobody_answers_for_keep_no_other_work_waiting(monkeypatch):
    answered, asked = threading.Event(), threading.Semaphore(0)

    def slow(host, port, **_):
        asked.release()
        assert answered.wait(20)
        return [(None, None, None, None, ("93.184.215.14", port))]

    monkeypatch.setattr(socket, "getaddrinfo", slow)

    async def run():
        lookups = [
            asyncio.ensure_future(fetching._resolve(f"{number}.example", 80))
            for number in range(64)  # more than the event loop has threads
        ]
        await asyncio.to_thread(asked.acquire, timeout=20)
        others = [asyncio.to_thread(int, number) for number in "123"]
        done = await asyncio.wait_for(asyncio.gather(*others), 10)
        answered.set()
        return done, await asyncio.gather(*lookups)

    done, found = asyncio.run(run())
    assert done == [1, 2, 3]
    assert found == [["93.184.215.14"]] * 64
