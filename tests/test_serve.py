"""``clip-text serve`` as a process: its address, its end, and what keeps it from starting."""

import contextlib
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from fakes import FakeEncoder, save_picture

from retrieval.errors import AddressError
from retrieval.ingest import index_folder
from retrieval.service.listening import address_of, listen

HERE = Path(__file__).parent
# The command with a small encoder in place of a model; the first argument hides a package.
COMMAND = (
    f"import sys; sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent)!r}];"
    "hidden = sys.argv.pop(1); sys.modules |= {hidden: None} if hidden else {};"
    "from fakes import FakeEncoder; from clip_text_cli import main, wiring;"
    "wiring.load_encoder = lambda model, **_: FakeEncoder();"
    "wiring.query_classifier = wiring.query_runtime = lambda encoder, head: None;"
    "main.main('serve')"
)


@pytest.fixture(scope="module")
def index_dir(tmp_path_factory):
    base = tmp_path_factory.mktemp("serve")
    for number in range(3):
        save_picture(base / "p" / f"{number}.png", seed=number)
    index_folder(base / "p", base / "index [1]", FakeEncoder())
    return base / "index [1]"


def start(index_dir, *options, hidden=""):
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, hidden, "--index", str(index_dir), *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "40"},
    )


@contextlib.contextmanager
def serving(index_dir, *options):
    """The command at work; gives the process and the address that it printed."""
    process = start(index_dir, *options)
    try:
        line = process.stderr.readline()
        found = re.fullmatch(r"3 pictures\. Page: (http://\S+)/ {3}API: \1/docs\n", line)
        assert found, line + process.stderr.read()
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


def search(address):
    response = httpx.post(f"{address}/v1/search", json={"query": "狗"}, trust_env=False, timeout=60)
    return len(response.json()["hits"])


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def fails(index_dir, *options, hidden=""):
    """What the command says that ends by itself, in one line and with exit code 1."""
    process = start(index_dir, *options, hidden=hidden)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert out == ""
    assert re.fullmatch(r"error: expected .+, got .+\. .+\n", err), err
    return err


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_port_0_tells_the_port_it_got_and_a_signal_ends_it(index_dir, sent):
    with serving(index_dir, "--port", 0) as (process, address):
        assert not address.endswith(":0")
        assert search(address) == 3  # bound before it was told: no waiting, no trying again
        process.send_signal(sent)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Traceback" not in out + err


@pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")
def test_an_ipv6_address_is_told_in_brackets(index_dir):
    with serving(index_dir, "--host", "::1", "--port", 0) as (_, address):
        assert re.fullmatch(r"http://\[::1\]:\d+", address)
        assert search(address) == 3


def test_a_port_in_use_is_one_line(index_dir):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        assert fails(index_dir, "--port", port) == (
            f"error: expected a free port, got {port}, which is in use. "
            "Name another with --port, or 0 for a free one.\n"
        )


def test_a_host_that_leads_nowhere_is_one_line(index_dir):
    assert "'nosuch.invalid'" in fails(index_dir, "--host", "nosuch.invalid")


@pytest.mark.parametrize("package", ["fastapi", "fastapi_offline", "uvicorn", "starlette"])
def test_a_missing_extra_is_one_line(index_dir, package):
    said = fails(index_dir, "--port", 0, hidden=package)
    assert package in said
    assert "pip install 'clip-text[serve]'" in said


def test_no_index_is_one_line(tmp_path):
    assert "clip-text index FOLDER" in fails(tmp_path / "none", "--port", 0)


@pytest.mark.parametrize("host", ["nosuch.invalid", "..", "a b", "x" * 70, "\0"])
def test_hosts_that_are_none(host):
    with pytest.raises(AddressError, match="name or address of a host"):
        listen(host, 0)


def test_a_host_elsewhere_is_refused():
    with pytest.raises(AddressError, match=r"address of this machine, got 192\.0\.2\.1"):
        listen("192.0.2.1", 0)


def test_a_port_that_needs_rights_is_refused(monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(AddressError, match="may listen on, got 80"):
        listen("127.0.0.1", 80)


def test_every_address_of_a_name_has_the_same_port():
    sockets = listen("localhost", 0)
    try:
        ports = {one.getsockname()[1] for one in sockets}
        assert len(ports) == 1
        assert address_of(sockets[0], "localhost") == f"http://localhost:{ports.pop()}"
        assert sockets[0].family == socket.AF_INET
    finally:
        for one in sockets:
            one.close()
