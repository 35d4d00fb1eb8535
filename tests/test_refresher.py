"""Searches over HTTP while the index changes under the service."""

import gc
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from fakes import FakeEncoder, save_picture
from indexing_process import start_process
from test_api import Client, assert_error, eventually

from retrieval.catalogue import Catalogue
from retrieval.errors import CorruptIndexError
from retrieval.ingest import index_folder
from retrieval.search import Searcher
from retrieval.service.app import create_app
from retrieval.service.refresher import Refresher

HERE = Path(__file__).parent


class Scripted:
    """A searcher whose refreshes do what a list says, and then nothing."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.refreshed = 0

    def refresh(self):
        self.refreshed += 1
        if self.outcomes and (outcome := self.outcomes.pop(0)):
            raise outcome
        return False


@pytest.fixture
def start():
    started = []

    def begin(*outcomes):
        searcher = Scripted(*outcomes)
        refresher = Refresher(searcher, interval_s=0.001)
        refresher.start()
        started.append(refresher)
        return searcher, refresher

    yield begin
    for refresher in started:
        refresher.stop()


def test_what_fails_once_is_tried_again(start, caplog):
    searcher, refresher = start(OSError("stale file handle"), RuntimeError("x"))
    eventually(lambda: searcher.refreshed > 3)
    refresher.check()
    assert "stale file handle" in caplog.text


def test_a_failure_that_lasts_is_told_to_searches_and_logged_once(start, caplog):
    failure = CorruptIndexError("expected a catalogue, got none. Index again.")
    searcher, refresher = start(*[failure] * 10_000)
    eventually(lambda: searcher.refreshed > 3)
    with pytest.raises(CorruptIndexError, match="expected a catalogue"):
        refresher.check()
    assert caplog.text.count("expected a catalogue") == 1


def test_a_failure_that_is_no_fault_of_the_index_leaves_searches_alone(start):
    searcher, refresher = start(*[OSError("network down")] * 10_000)
    eventually(lambda: searcher.refreshed > 3)
    refresher.check()  # the state before is there to be searched


def test_starting_twice_starts_one_thread(start):
    _, refresher = start()
    first = refresher._thread
    refresher.start()
    assert refresher._thread is first


def test_the_thread_ends_with_what_owns_it():
    refresher = Refresher(Scripted(), interval_s=0.001)
    refresher.start()
    thread = refresher._thread
    del refresher
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()


def test_a_refresher_never_started_can_be_stopped():
    Refresher(Scripted()).stop()


def test_requests_are_answered_while_the_service_refreshes(tmp_path, monkeypatch):
    folder, index_dir = tmp_path / "p", tmp_path / "index"
    for number in range(3):
        save_picture(folder / f"{number}.png", seed=number)
    index_folder(folder, index_dir, FakeEncoder())
    reading, go_on = threading.Event(), threading.Event()
    features = Catalogue.features

    def slow_features(self, since=0):
        for page in features(self, since):
            reading.set()
            assert go_on.wait(60)
            yield page

    with Searcher.open(index_dir, FakeEncoder()) as searcher:
        client = Client(create_app(searcher))
        save_picture(folder / "new.png", seed=99)
        index_folder(folder, index_dir, FakeEncoder())
        monkeypatch.setattr(Catalogue, "features", slow_features)
        try:
            client.search(query="狗")
            assert reading.wait(60)
            # The refresh waits until this is answered: if this waited, too, it would fail.
            found = client.search(query="狗").json()
            assert found["total"] == len(found["hits"]) == 3
            assert client.get(found["hits"][0]["image_url"]).status_code == 200
            assert client.get("/healthz").json()["total"] == 3
        finally:
            go_on.set()
        eventually(lambda: client.search(query="狗").json()["total"] == 4)


@pytest.fixture
def served():
    """Serve an index from a process of its own; gives a client of it."""
    program = (
        "import sys; from pathlib import Path; sys.path[:0] = sys.argv[1:3];"
        "from fakes import FakeEncoder; from retrieval.search import Searcher;"
        "from retrieval.service.serving import serve;"
        "serve(Searcher.open(Path(sys.argv[3]), FakeEncoder()), port=0)"
    )
    started, clients, readers = [], [], []

    def start(index_dir):
        command = [sys.executable, "-c", program, str(HERE), str(HERE.parent), str(index_dir)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        started.append(process)
        for line in process.stderr:
            if found := re.search(r"running on (http://[\d.:]+)", line):
                break
        else:
            pytest.fail("the server ended before it was ready")
        # Its log is read, so that it never waits for somebody to do so.
        readers.append(threading.Thread(target=process.stderr.read))
        readers[-1].start()
        clients.append(httpx.Client(base_url=found[1], trust_env=False, timeout=60))
        return clients[-1]

    yield start
    for client in clients:
        client.close()
    for process in started:
        process.terminate()
    for process, reader in zip(started, readers, strict=True):
        reader.join()
        assert process.wait(30) == 0
        process.stderr.close()


def test_one_process_serves_while_another_indexes(tmp_path, served):
    folder, index_dir = tmp_path / "p", tmp_path / "index"
    for number in range(12):
        save_picture(folder / f"{number:02}.png", seed=number)
    process = start_process("gated", folder, index_dir)
    assert process.stdin
    assert process.stdout

    def reach_batch() -> None:
        while not process.stdout.readline().startswith("batch"):
            assert process.poll() is None

    def allow_batch() -> None:
        process.stdin.write("go\n")
        process.stdin.flush()

    def search():
        response = client.post("/v1/search", json={"query": "猫", "top_k": 50})
        assert response.status_code == 200, response.text
        return response.json()

    reach_batch()
    client = served(index_dir)
    assert search()["hits"] == []
    for stored in (4, 8):
        allow_batch()
        reach_batch()
        started = time.monotonic()
        eventually(lambda: search()["total"] == stored)  # noqa: B023  called at once
        assert time.monotonic() - started < 20  # a second or so, on a machine at rest
        assert len(search()["hits"]) == stored
    allow_batch()
    process.communicate()
    assert process.returncode == 0
    eventually(lambda: len(search()["hits"]) == 12)
    for number in range(3):
        (folder / f"{number:02}.png").unlink()
    index_folder(folder, index_dir, FakeEncoder())
    assert len(search()["hits"]) == 9  # removed pictures are gone at once
    eventually(lambda: search()["total"] == 9)


def test_an_index_that_is_damaged_meanwhile_is_told_and_mended(tmp_path):
    folder, index_dir = tmp_path / "p", tmp_path / "index"
    save_picture(folder / "0.png", seed=0)
    index_folder(folder, index_dir, FakeEncoder())
    catalogue = next(index_dir.glob("*.sqlite"))
    with Searcher.open(index_dir, FakeEncoder()) as searcher:
        client = Client(create_app(searcher))
        assert client.search(query="狗").status_code == 200
        for left in index_dir.iterdir():
            left.unlink()
        catalogue.write_bytes(b"no database at all " * 100)
        eventually(lambda: client.search(query="狗").status_code == 503)
        assert_error(client.search(query="狗"), 503, "index_unavailable")
        catalogue.unlink()
        index_folder(folder, index_dir, FakeEncoder())
        eventually(lambda: client.search(query="狗").status_code == 200)
