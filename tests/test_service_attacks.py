"""What a service meets that anybody reaches: each attack is refused, and it goes on serving.

A real server on a real socket, and bytes as they are, which a client would put right.
"""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from attacked_service import PUBLIC
from attacks import (
    ATTACKS,
    CLOSED,
    FORGERY,
    HEADS,
    ON_THE_INTERNET,
    PICTURES,
    SEARCHES,
    SLOW,
    SMUGGLING,
    TRAVERSAL,
    fetch,
    png,
    request,
    search,
)
from fakes import FakeEncoder, save_picture

from retrieval.ingest import index_folder

HERE = Path(__file__).parent
LARGE = 64 * 1024 * 1024  # more than lies in the buffers between two programs


@pytest.fixture(scope="module")
def internet():
    """A host that answers as the table says; gives its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection):
        with connection:
            path = connection.recv(4_096).split(b" ")[1].decode()
            connection.sendall(ON_THE_INTERNET[path])
            if path == "/slow":
                connection.recv(1)  # until the other side has had enough

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory, internet):
    """The service as a process; gives its address, and ends with no error in its log."""
    base = tmp_path_factory.mktemp("attacked")
    for number in range(3):
        save_picture(base / "pictures" / f"{number}.png", seed=number)
    (base / "pictures" / "metadata.jsonl").write_text('{"file_name": "0.png", "n": 1}\n')
    index_folder(base / "pictures", base / "index", FakeEncoder())
    (base / "pictures" / "0.png").write_bytes(png(65_000, 65_000))
    with (base / "pictures" / "1.png").open("r+b") as large:
        large.truncate(LARGE)
    log = (base / "log").open("w+")
    process = subprocess.Popen(
        [sys.executable, HERE / "attacked_service.py", base / "index", str(internet)],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=os.environ | {"PYTHONPATH": str(HERE.parent)},
    )
    try:
        port = int(process.stdout.readline())
        yield "127.0.0.1", port
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()
        log.seek(0)
        said = log.read()
        log.close()
    assert "Traceback" not in said, said
    assert " 500 " not in said
    assert "root:" not in said


def send(address, sent, patience_s=20.0):
    """Send bytes, and give all that comes back until the connection ends."""
    got = b""
    with socket.create_connection(address, timeout=patience_s) as connection:
        try:
            for piece in sent if isinstance(sent, list) else [sent]:
                if isinstance(piece, float):
                    # what comes meanwhile is the answer
                    connection.settimeout(piece)
                    try:
                        got += connection.recv(65_536)
                    except TimeoutError:
                        continue
                    if got:
                        break
                else:
                    connection.settimeout(patience_s)
                    connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has heard enough
        connection.settimeout(patience_s)
        try:
            while piece := connection.recv(65_536):
                got += piece
        except ConnectionResetError:
            pass  # bytes of ours that it did not read
    return got


def check(service, attack):
    answer = send(service, attack.sent)
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    status = int(found[1]) if found else CLOSED
    assert status in attack.expected, (attack.name, answer[:500])
    assert answer.count(b"HTTP/1.1 ") <= 1, "one answer to one request"
    assert b"root:" not in answer
    assert b"Traceback" not in answer
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"set-cookie" not in head.lower()
    if status:
        assert set(json.loads(body)["error"]) == {"type", "message"}, body
        assert b"expected " in body
    assert_alive(service)


def assert_alive(service):
    assert send(service, request()).startswith(b"HTTP/1.1 200 ")


@pytest.fixture(scope="module")
def routes(service):
    address = f"http://127.0.0.1:{service[1]}"
    return set(httpx.get(f"{address}/openapi.json", trust_env=False).json()["paths"])


@pytest.mark.parametrize(
    "kind",
    [TRAVERSAL, FORGERY, SEARCHES, PICTURES, SMUGGLING, HEADS],
    ids=["traversal", "forgery", "searches", "pictures", "smuggling", "heads"],
)
def test_each_attack_is_refused_and_the_service_goes_on(service, routes, kind):
    wrong = []
    for attack in kind:
        if attack.route is None or attack.route in routes:
            try:
                check(service, attack)
            except (AssertionError, OSError, ValueError) as error:
                wrong.append(f"{attack.name}: {error}")
    assert not wrong, "\n".join(wrong)


def test_there_are_attacks_enough():
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) > 150


def test_slow_callers_are_cut_off_and_hold_up_nobody(service):
    wrong = []

    def attack_with(attack):
        began = time.monotonic()
        try:
            check(service, attack)
        except (AssertionError, OSError, ValueError) as error:
            wrong.append(f"{attack.name}: {error}")
        if time.monotonic() - began > 10:
            wrong.append(f"{attack.name} took long")

    threads = [threading.Thread(target=attack_with, args=(attack,)) for attack in SLOW]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong, "\n".join(wrong)


def test_who_does_not_read_is_cut_off(service):
    with socket.create_connection(service, timeout=20) as connection:
        connection.sendall(request("/v1/images/2"))
        assert connection.recv(17) == b"HTTP/1.1 200 OK\r\n"
        time.sleep(3)
        assert_alive(service)
        got = 0
        try:
            while piece := connection.recv(1_000_000):
                got += len(piece)
        except ConnectionResetError:
            pass
        assert got < LARGE
    with socket.create_connection(service, timeout=20) as connection:
        connection.sendall(request("/v1/images/2"))
        got = 0
        while piece := connection.recv(1_000_000):  # who does, gets all of it
            got += len(piece)
        assert got > LARGE


@pytest.mark.parametrize("rest", [b"x" * 999, b"x"], ids=["that ends", "without an end"])
def test_who_is_answered_before_its_body_has_come_is_cut_off(service, rest):
    """Nobody reads the rest, so nobody else waits for it either."""
    with socket.create_connection(service, timeout=20) as connection:
        head = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx"
        connection.sendall(head)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 404 ")
        began = time.monotonic()
        connection.sendall(rest)
        connection.settimeout(0.2)
        while time.monotonic() - began < 10:
            try:
                if not connection.recv(65_536):
                    break
            except TimeoutError:
                if len(rest) == 1:
                    connection.sendall(rest)
            except ConnectionError:
                break
        assert time.monotonic() - began < 5


def test_a_second_request_that_is_none_is_told_so(service):
    with socket.create_connection(service, timeout=20) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        first = b""
        while not first.endswith(b"}"):
            first += connection.recv(65_536)
        assert first.startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"no request\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 400 ")


def test_nothing_but_the_public_host_was_connected_to(service):
    for path in ("/good", "/round"):
        assert b'{"bytes":3}' in send(service, fetch(f"http://pictures.example{path}"))
    dialled = json.loads(send(service, request("/v1/dialled")).partition(b"\r\n\r\n")[2])
    assert set(dialled) == {PUBLIC}


def test_what_is_right_is_answered_by_every_name_of_this_machine(service):
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]", "[::1]:80", "localhost."):
        assert send(service, request(host=host)).startswith(b"HTTP/1.1 200 "), host
    found = send(service, search({"query": "狗", "top_k": 1}))
    assert found.startswith(b"HTTP/1.1 200 ")
    assert b'"rank":1' in found
