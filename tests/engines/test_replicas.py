"""Two services over one index on a server: what becomes of requests, whichever of them ends."""

import re
import shutil
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from fakes import FakeEncoder, save_picture
from milvus_server import MilvusServer, milvus_binaries  # noqa: F401  (a fixture)
from postgresql_server import Server
from replica import Balancer, Replica

from clip_text_client import Client
from retrieval.ingest import IndexWriter
from retrieval.stores import as_location, open_for_reading

pytestmark = pytest.mark.engines

ENCODER = FakeEncoder()
# What makes a server that is there look older than what is needed.
TOO_OLD = {
    "milvus": "from retrieval.stores.milvus import server; server._OLDEST = (99, 0);",
    "postgresql": "from retrieval.stores.postgresql import opening; opening.OLDEST_SERVER = 99;",
}
PATIENCE_S = 90.0  # a loaded machine is slow, not wrong


class Engine:
    """A server with a password that may be killed, and addresses on it."""

    def kill(self):
        self.server.kill()

    @contextmanager
    def away(self):
        """Killed meanwhile."""
        self.kill()
        try:
            yield
        finally:
            self.start()


class Milvus(Engine):
    kind = "milvus"

    def __init__(self, folder, binaries):
        self.server = MilvusServer(folder, binaries, authorized=True)

    def at(self, name, password="Milvus", database=""):
        return f"milvus://root:{password}@127.0.0.1:{self.server.port}/{database}{name}"

    def nowhere(self):
        return "milvus://127.0.0.1:9/photos"

    def start(self):
        self.server.start()


class Postgresql(Engine):
    kind = "postgresql"

    def __init__(self, folder):
        self.server = Server(folder, 18)

    def at(self, name, password=None, database="postgres/"):
        password = quote(password or self.server.password, safe="")
        user = f"guarded:{password}"
        return self.server.address(name, database=database.rstrip("/"), user=user)

    def nowhere(self):
        return f"postgresql://postgres@/postgres/photos?host={self.server.folder}/none"

    def start(self):
        self.server.start()
        password = self.server.password.replace("'", "''")
        self.server.admin(
            "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'guarded') THEN "
            f"CREATE ROLE guarded SUPERUSER LOGIN PASSWORD '{password}'; END IF; END $$"
        )


@pytest.fixture(scope="module", params=["postgresql", "milvus"])
def engine(request, tmp_path_factory):
    folder = Path(tempfile.mkdtemp(prefix="rep-"))  # pytest's may be too long for a socket
    if request.param == "milvus":
        made = Milvus(folder, request.getfixturevalue("milvus_binaries"))
    else:
        made = Postgresql(folder)
    try:
        made.start()
        yield made
    finally:
        made.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def place(engine):
    """The address of an index with one picture."""
    with IndexWriter.open(as_location(engine.at("photos")), ENCODER) as writer:
        writer.add("first", feature=feature_of("第一"))
    return engine.at("photos")


@pytest.fixture
def two(place, tmp_path):
    """Two replicas at work."""
    with ExitStack() as ending:
        replicas = []
        for number in range(2):
            replicas.append(Replica(place, tmp_path / f"log {number}"))
            ending.callback(replicas[-1].kill)
        yield [replica.wait() for replica in replicas]


def feature_of(text):
    return ENCODER.encode_text([text])[0].tolist()


def found(replica, text, **said):
    """The ids that a search finds, and how near the first of them is."""
    answer = replica.ask("POST", "/v1/search", json={"query": text, "top_k": 50, **said})
    assert answer.status_code == 200, answer.text
    hits = answer.json()["hits"]
    return [hit["image_id"] for hit in hits], hits[0]["score"] if hits else None


def reached(first, second, number):
    """Wait until both lists are of some length; gives their lengths then."""
    deadline = time.monotonic() + PATIENCE_S
    while min(len(first), len(second)) < number:
        assert time.monotonic() < deadline, (len(first), len(second))
        time.sleep(0.05)
    return len(first), len(second)


def eventually(ask, wanted):
    """Ask again and again until an answer has a status; gives the answer, and all statuses."""
    deadline, statuses = time.monotonic() + PATIENCE_S, []
    while True:
        answer = ask()
        statuses.append(answer.status_code)
        if answer.status_code == wanted:
            return answer, statuses
        assert time.monotonic() < deadline, (answer.text, statuses)
        time.sleep(0.1)


class TestTwo:
    def test_what_is_done_through_one_is_seen_through_the_other(self, two, tmp_path):
        for number in range(6):
            one, other = two if number % 2 else two[::-1]
            name, text = f"灯/{number}", f"红色的灯 {number}"
            item = {"id": name, "feature": feature_of(text), "caption": "灯", "metadata": {"n": 1}}
            assert one.ask("POST", "/v1/items", json=item).status_code == 201
            ids, score = found(other, text)
            assert ids[0] == name
            assert score == pytest.approx(1, abs=2e-3)
            told = other.ask("GET", f"/v1/items/{name}")
            assert told.status_code == 200
            assert told.json() == one.ask("GET", f"/v1/items/{name}").json()

            patch = {"caption": "台灯", "metadata": {"n": number, "new": True}}
            assert other.ask("PATCH", f"/v1/items/{name}", json=patch).status_code == 200
            told = one.ask("GET", f"/v1/items/{name}").json()
            assert (told["caption"], told["metadata"]) == ("台灯", {"n": number, "new": True})
            assert name in found(one, text, where=f"n = {number} and new = true")[0]

            assert other.ask("DELETE", f"/v1/items/{name}").status_code == 204
            assert one.ask("GET", f"/v1/items/{name}").status_code == 404
            assert name not in found(one, text)[0]

        one, other = two
        data = save_picture(tmp_path / "1.png", 1).read_bytes()
        sent = {"data": {"id": "sent"}, "files": {"image": ("1.png", data)}}
        assert one.ask("POST", "/v1/items", **sent).status_code == 201
        answer = other.ask("POST", "/v1/search/upload", files={"image": ("1.png", data)})
        assert answer.json()["hits"][0]["image_id"] == "sent"
        assert other.ask("DELETE", "/v1/items/sent").status_code == 204

    def test_both_outlast_their_server(self, two, engine, place):
        one, other = two
        item = {"id": "just before", "feature": feature_of("刚才")}
        assert one.ask("POST", "/v1/items", json=item).status_code == 201
        with engine.away():
            for replica in two:
                began = time.monotonic()
                search = replica.ask("POST", "/v1/search", json={"query": "刚才"})
                assert search.status_code == 503
                assert search.json()["error"]["type"] == "store_unavailable"
                assert int(search.headers["retry-after"]) >= 1
                assert time.monotonic() - began < 15
            late = {"id": "too late", "feature": feature_of("太晚")}
            write = one.ask("POST", "/v1/items", json=late)
            assert (write.status_code, write.json()["error"]["type"]) == (503, "store_unavailable")
            for replica in two:
                ready, _ = eventually(lambda at=replica: at.ask("GET", "/readyz"), 503)
                assert ready.json()["error"]["type"] == "store_unavailable"
                assert replica.ask("GET", "/healthz").status_code == 200
                said = replica.log.read_text()
                assert "expected an answer from" in said or "expected the server at" in said
                assert "Traceback" not in said
                assert place not in said  # with the password
        for replica in two:
            eventually(lambda at=replica: at.ask("POST", "/v1/search", json={"query": "刚才"}), 200)
            eventually(lambda at=replica: at.ask("GET", "/readyz"), 200)
            assert found(replica, "刚才")[0][0] == "just before"
        assert other.ask("POST", "/v1/items", json=late).status_code in {200, 201}
        assert found(one, "太晚")[0][0] == "too late"
        for name in ("just before", "too late"):
            assert other.ask("DELETE", f"/v1/items/{name}").status_code == 204

    def test_one_that_is_killed_takes_no_request_along(self, two, place):
        balancer = Balancer(two)
        acknowledged, searches, wrong, stop = [], [], [], threading.Event()

        def write(client, name):
            client.add(id=name, feature=feature_of(name))
            acknowledged.append(name)

        def search(client, _):
            answer = client.search("第一")
            assert answer.hits[0].image_id == "first"
            searches.append(1)

        def go_on(number, do):
            with Client("http://balanced", transport=balancer) as client:
                for turn in range(10_000):
                    if stop.is_set():
                        return
                    try:
                        do(client, f"{number}/{turn}")
                    except Exception as error:  # noqa: BLE001  (told below)
                        wrong.append(repr(error))

        threads = [
            threading.Thread(target=go_on, args=(number, do))
            for number, do in enumerate((write, write, write, search, search))
        ]
        for thread in threads:
            thread.start()
        try:
            before = reached(acknowledged, searches, 10)
            two[0].kill()
            reached(acknowledged, searches, 10 + max(before))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        balancer.end()
        assert wrong == [], two[1].log.read_text()[-3000:]
        assert balancer.failed > 0  # it had been asked when it died, or was asked then
        with open_for_reading(as_location(place)) as store:
            there = Counter(record.picture.image_id for record in store)
            assert set(there.values()) == {1}
            assert set(acknowledged) <= set(there)
            assert len(there) == len(acknowledged) + 1
        for name in acknowledged[:: len(acknowledged) // 5]:
            assert found(two[1], name)[0][0] == name


def test_what_keeps_one_from_starting_is_told_in_one_line(engine, place, tmp_path):
    with IndexWriter.open(as_location(engine.at("others")), FakeEncoder(16, "fake-2")) as writer:
        writer.add("a", feature=feature_of("a"))
    expected = {
        "wrong password": (engine.at("photos", "n0t-it"), "", "accept|password"),
        "nobody there": (engine.nowhere(), "", "expected an answer|expected the server"),
        "no such index": (engine.at("none"), "", "expected an index at .* clip-text index FOLDER"),
        "no such database": (engine.at("photos", database="none/"), "", "database"),
        "another model": (engine.at("others"), "", "fingerprint fake-2.* got fake-1"),
        "too old": (place, TOO_OLD[engine.kind], "99.* got "),
    }
    with ExitStack() as ending:
        started = {}
        for name, (address, first, _) in expected.items():
            started[name] = Replica(address, tmp_path / "log", first=first)
            ending.callback(started[name].kill)
        for name, (address, _, pattern) in expected.items():
            code, said = started[name].refusal()
            assert code == 1, (name, said)
            assert re.fullmatch(r"error: expected .+, got:? .+\. .+\n", said), (name, said)
            assert re.search(pattern, said), (name, said)
            assert address not in said or "@" not in address, name
            assert "n0t-it" not in said
