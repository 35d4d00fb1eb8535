"""A service that is written to: killed at random instants, shared with other writers, and for long.

Its processes are real ones, and so are its sockets.
"""

import os
import random
import signal
import ssl
import statistics
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from item_operations import png, unit_row
from killed_service import nursery
from test_api import eventually

from retrieval.index import verify
from retrieval.service.uploads import UPLOADS_NAME

GONE = None
WRITERS = 4


@pytest.fixture
def server(tmp_path):
    with nursery(tmp_path / "server.log") as started:
        yield started
    log = (tmp_path / "server.log").read_text()
    assert "Traceback" not in log, log


def client_of(address):
    # reading certificates that nobody asks for takes longer than such a server lives
    transport = httpx.HTTPTransport(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    return httpx.Client(base_url=address, transport=transport, timeout=60)


@dataclass
class Writer:
    """One that writes items of its own until the service is gone.

    What it knows of each id is [seed, n] or GONE; ``open`` has what it asked last, and was not
    answered, and ``touched`` what it wrote since the last check.
    """

    name: str
    chance: random.Random
    known: dict = field(default_factory=dict)
    open: tuple | None = None
    touched: set = field(default_factory=set)
    answered: int = 0
    failures: list = field(default_factory=list)

    def run(self, address):
        with client_of(address) as client:
            while True:
                image_id, state = self._choose()
                self.open = image_id, state
                self.touched.add(image_id)
                try:
                    response = self._ask(client, image_id, state)
                except httpx.TransportError:
                    return
                if response.status_code not in (200, 201, 204):
                    self.failures.append(response.text)
                    return
                self.known[image_id], self.open = state, None
                self.answered += 1

    def _choose(self):
        there = [image_id for image_id, state in self.known.items() if state is not GONE]
        what = self.chance.choices(["add", "replace", "patch", "delete"], [5, 2, 2, 1])[0]
        if what == "add" or not there:
            return f"{self.name}/图 {len(self.known)}", (self.chance.randrange(10**9), 0)
        image_id = self.chance.choice(there)
        seed, n = self.known[image_id]
        if what == "delete":
            return image_id, GONE
        return image_id, (seed, n + 1) if what == "patch" else (self.chance.randrange(10**9), 0)

    def _ask(self, client, image_id, state):
        if state is GONE:
            return client.delete(f"/v1/items/{image_id}")
        seed, n = state
        if n:
            return client.patch(f"/v1/items/{image_id}", json={"metadata": {"n": n}})
        parts = {"id": image_id, "metadata": '{"n": 0}', "caption": "一张图"}
        return client.post("/v1/items", data=parts, files={"image": png(seed)})


def check_stored(client, writer, ids):
    """Hold what is stored against what a writer was told; take over what it was not."""
    for image_id in sorted(ids):
        may_be = [writer.known.get(image_id, GONE)]
        if writer.open is not None and writer.open[0] == image_id:
            may_be.append(writer.open[1])
        found = client.get(f"/v1/items/{image_id}")
        if found.status_code == 404:
            assert GONE in may_be, (image_id, may_be)
            writer.known[image_id] = GONE
            continue
        item = found.json()
        assert item["missing"] is False
        content = client.get(item["image_url"]).content
        is_so = [
            one
            for one in may_be
            if one and (png(one[0]), one[1]) == (content, item["metadata"]["n"])
        ]
        assert is_so, (image_id, may_be, item)
        writer.known[image_id] = is_so[0]
    writer.open = None
    writer.touched.clear()


def check_found(client, writer, count):
    """Find pictures by themselves, each once."""
    there = [image_id for image_id, state in writer.known.items() if state is not GONE]
    for image_id in writer.chance.sample(there, min(count, len(there))):
        sent = {"image": png(writer.known[image_id][0])}
        hits = client.post("/v1/search/upload", files=sent).json()["hits"]
        assert hits[0]["image_id"] == image_id
        assert hits[0]["score"] > 0.999
        assert Counter(hit["image_id"] for hit in hits)[image_id] == 1


def kept_files(index_dir):
    return {path.name for path in (index_dir / UPLOADS_NAME).rglob("*") if path.is_file()}


def kill_and_check(server, index_dir, kills, seed):
    chance = random.Random(seed)
    writers = [Writer(f"w{number}", random.Random(seed + number)) for number in range(WRITERS)]
    cut_off = 0
    for _ in range(kills):
        address = server.start(index_dir, lock_rest_s=0.1)
        with client_of(address) as client:
            for writer in writers:
                check_stored(client, writer, writer.touched)
            there = sum(state is not GONE for one in writers for state in one.known.values())
            assert client.get("/v1/collections/default").json()["total"] == there
            check_found(client, chance.choice(writers), 3)
        threads = [threading.Thread(target=writer.run, args=[address]) for writer in writers]
        for thread in threads:
            thread.start()
        answered = sum(writer.answered for writer in writers) + chance.randrange(3, 40)
        eventually(lambda: sum(writer.answered for writer in writers) >= answered)  # noqa: B023
        time.sleep(chance.uniform(0, 0.03))
        assert server.kill() == -signal.SIGKILL
        for thread in threads:
            thread.join()
        assert [failure for writer in writers for failure in writer.failures] == []
        cut_off += sum(writer.open is not None for writer in writers)
    with client_of(server.start(index_dir, lock_rest_s=0.1)) as client:
        for writer in writers:
            check_stored(client, writer, writer.known.keys() | writer.touched)
            check_found(client, writer, 5)
        # the first one to write sweeps what was cut off
        client.post("/v1/items", data={"id": "last"}, files={"image": png(1)})
        wanted = {
            writer.known[image_id][0]
            for writer in writers
            for image_id in writer.known
            if writer.known[image_id]
        }
        eventually(lambda: len(kept_files(index_dir)) <= len(wanted) + 1)
        assert len(kept_files(index_dir)) == len(wanted) + 1
    assert server.kill(signal.SIGTERM) == 0
    assert verify(index_dir).problems == []
    assert cut_off, "no write was at work at any kill"
    answered = sum(writer.answered for writer in writers)
    print(f"\n{kills} kills: {answered} writes answered, {cut_off} cut off")  # noqa: T201


def test_what_was_answered_is_there_after_kills(server, tmp_path):
    kill_and_check(server, tmp_path / "index", 3, seed=1)


@pytest.mark.slow
def test_what_was_answered_is_there_after_many_kills(server, tmp_path):
    kill_and_check(server, tmp_path / "index", 50, seed=2)


# For long


class Traffic:
    """Threads that search, upload, change, delete and look at pictures, and what they were told."""

    def __init__(self, address, seed, pause_s):
        self.address, self.seed, self.pause_s = address, seed, pause_s
        self.answers = Counter()
        self.wrong = []
        self.ending = threading.Event()
        self._lock = threading.Lock()

    def run(self, number):
        chance = random.Random(self.seed * 100 + number)
        actions = [self.search, self.upload, self.change, self.delete, self.look, self.bulk]
        with client_of(self.address) as client:
            while not self.ending.wait(self.pause_s):
                action = chance.choices(actions, [8, 4, 3, 1, 6, 1])[0]
                try:
                    response = action(client, chance, f"t{number}/{chance.randrange(40)}")
                except httpx.TransportError as error:
                    self.wrong.append(repr(error))
                    continue
                with self._lock:
                    self.answers[action.__name__, response.status_code] += 1
                if response.status_code >= 500 or response.status_code in (400, 413, 415, 422):
                    self.wrong.append(response.text)

    def search(self, client, chance, image_id):
        if chance.random() < 0.2:
            sent = {"image": png(chance.randrange(1000))}
            return client.post("/v1/search/upload", files=sent)
        body = {
            "query": chance.choice(["猫", "狗", "红色的心", "海边"]) + str(chance.randrange(50))
        }
        if chance.random() < 0.3:
            body |= {"facets": ["n"], "where": "n >= 1"}
        return client.post("/v1/search", json=body)

    def upload(self, client, chance, image_id):
        parts = {"id": image_id, "caption": "一只猫", "metadata": '{"n": 1}'}
        return client.post("/v1/items", data=parts, files={"image": png(chance.randrange(1000))})

    def change(self, client, chance, image_id):
        return client.patch(f"/v1/items/{image_id}", json={"metadata": {"n": chance.randrange(9)}})

    def delete(self, client, chance, image_id):
        return client.delete(f"/v1/items/{image_id}")

    def look(self, client, chance, image_id):
        found = client.get(f"/v1/items/{image_id}")
        if found.status_code != 200 or found.json()["image_url"] is None:
            return found
        address = found.json()[chance.choice(["image_url", "thumbnail_url"])]
        return client.get(address)  # 404 and 410 where it was deleted meanwhile

    def bulk(self, client, chance, image_id):
        items = [
            {"id": f"{image_id}/{n}", "feature": unit_row(chance.randrange(10**6)).tolist()}
            for n in range(10)
        ]
        return client.post("/v1/items/bulk", json=items)


def resident_mib(pid):
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def mixed_traffic(server, index_dir, seconds, pause_s):
    """Give the slope of the server's memory in MiB a minute, and how its open files changed."""
    # n is a field once an item has it
    address = server.start(index_dir)
    with client_of(address) as client:
        first = {"id": "first", "metadata": '{"n": 1}'}
        assert client.post("/v1/items", data=first, files={"image": png(0)}).status_code == 201
    traffic = Traffic(address, seed=7, pause_s=pause_s)
    threads = [threading.Thread(target=traffic.run, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    began, samples = time.monotonic(), []
    while (since := time.monotonic() - began) < seconds:
        time.sleep(min(1.0, seconds / 30))
        files = len(list(Path(f"/proc/{server.pid}/fd").iterdir()))
        samples.append((since, resident_mib(server.pid), files))
    traffic.ending.set()
    for thread in threads:
        thread.join()
    # at first it grows: caches fill, and so does the index
    times, memory, files = zip(*samples[len(samples) // 3 :], strict=True)
    slope = 60 * statistics.linear_regression(times, memory).slope
    half = len(times) // 2
    late = 60 * statistics.linear_regression(times[half:], memory[half:]).slope
    print(  # noqa: T201
        f"\n{seconds:g} s: {traffic.answers.total()} requests, {memory[-1]:.0f} MiB, "
        f"{slope:+.2f} MiB a minute, {late:+.2f} in the last third, {files[0]} to {files[-1]} "
        f"files open; {dict(traffic.answers)}"
    )
    assert traffic.wrong == []
    assert server.kill(signal.SIGTERM) == 0
    assert verify(index_dir).problems == []
    for action in ("search", "upload", "change", "delete", "look", "bulk"):
        assert any(traffic.answers[action, status] for status in (200, 201, 204)), action
    return slope, max(files) - min(files)


def test_mixed_traffic_with_writes_meets_no_error(server, tmp_path):
    _, files = mixed_traffic(server, tmp_path / "index", 6, pause_s=0.02)
    assert files <= 16  # sockets, and files that are just being read


@pytest.mark.slow
def test_mixed_traffic_leaks_nothing(server, tmp_path):
    seconds = float(os.environ.get("CLIP_TEXT_TRAFFIC_SECONDS", "1800"))
    slope, files = mixed_traffic(server, tmp_path / "index", seconds, pause_s=0.01)
    assert files <= 24
    assert slope < 1.0
