"""Bulk embedding on a Ray cluster of two nodes, each on a loopback address of its own."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import ray
from embedding_process import embed_fake
from fakes import FakeEncoder, save_picture

from clip_text.embedding import embed
from clip_text.embedding.local import Local
from clip_text.errors import ClipTextError

pytestmark = pytest.mark.engines

TESTS = Path(__file__).parents[1]
HEAD, OTHER = "127.0.0.2", "127.0.0.3"  # 127.0.0.1 is taken for no address
PICTURES = 40  # ten shards of two batches


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """What nodes and drivers run in: they find the tests' modules, and no other cluster."""
    before = dict(os.environ)
    paths = [
        str(TESTS.parent),
        str(TESTS),
        str(TESTS / "engines"),
        os.environ.get("PYTHONPATH", ""),
    ]
    own = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "RAY_AUTH_MODE": "disabled",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    os.environ.update(own)
    os.environ.pop("RAY_ADDRESS", None)
    yield os.environ
    os.environ.clear()
    os.environ.update(before)


class Node:
    """A node of a cluster, with one CPU."""

    def __init__(self, log, *arguments):
        self._log = log
        command = [Path(sys.executable).with_name("ray"), "start", *arguments]
        common = ["--num-cpus=1", "--disable-usage-stats", "--block"]
        with log.open("w", encoding="utf-8") as out:
            self._process = subprocess.Popen(
                [str(word) for word in (*command, *common)], stdout=out, stderr=out
            )
        deadline = time.monotonic() + 120
        while "--block" not in (text := log.read_text(encoding="utf-8")):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"no node of Ray: {text}")
            time.sleep(0.2)

    @property
    def address(self):
        text = self._log.read_text(encoding="utf-8")
        return text.partition("--address='")[2].partition("'")[0]

    def kill(self):
        """Kill -9 all of the node at once, its workers too."""
        processes = [self._process.pid]
        try:
            parent = psutil.Process(self._process.pid)
            processes += [child.pid for child in parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            pass
        for pid in processes:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()


@pytest.fixture(scope="module")
def head(environment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    arguments = ["--head", f"--node-ip-address={HEAD}", "--port=0", "--include-dashboard=false"]
    # a socket's path may have 107 characters: not below pytest's folders
    short = Path(os.environ.get("TMPDIR", "/tmp")) / f"r{os.getpid()}"
    node = Node(folder / "head.log", *arguments, f"--temp-dir={short}")
    yield node
    node.kill()


@pytest.fixture
def other(head, tmp_path):
    node = Node(tmp_path / "other.log", f"--address={head.address}", f"--node-ip-address={OTHER}")
    yield node
    node.kill()


@pytest.fixture
def source(tmp_path):
    for seed in range(PICTURES):
        save_picture(tmp_path / "pictures" / f"{seed:02d}.png", seed)
    (tmp_path / "pictures" / "05x.png").write_bytes(b"no picture")
    return tmp_path / "pictures"


@pytest.fixture
def whole(source, tmp_path):
    """What one process makes of it."""
    embed_fake(source, tmp_path / "whole", Local(1))
    return contents(tmp_path / "whole")


def contents(out):
    files = (path for path in out.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def start(*arguments):
    command = [sys.executable, "-u", TESTS / "embedding_process.py", *arguments]
    return subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True)


def lines_until(process, beginning):
    """Read a process's lines until one begins so."""
    for line in process.stdout:
        if line.startswith(beginning):
            return line
    raise AssertionError("it ended before")


@pytest.fixture
def cluster(head):
    """A pool of this process's own."""
    from clip_text.embedding.ray import RayActors

    actors = RayActors(2, head.address)
    yield actors
    actors.close()


def test_a_node_dies_in_the_midst_and_all_of_it_is_done(head, other, source, whole, tmp_path):
    out = tmp_path / "out"
    process = start(source, out, 2, 0.7, head.address)
    lines_until(process, "4 of 11")
    other.kill()  # there is no room to start its worker again
    assert lines_until(process, "end") == "end 40 0\n"
    process.stdout.close()
    assert process.wait() == 0
    assert contents(out) == whole


def test_the_cluster_is_on_loopback_addresses_alone(head, other, cluster):
    addresses = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    assert addresses == {HEAD, OTHER}
    assert head.address.startswith(f"{HEAD}:")


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_it_goes_on_after_the_driver_was_killed(engine, head, source, whole, tmp_path):
    out = tmp_path / "out"
    process = start(source, out, 1, 0.3, head.address)
    lines_until(process, "3 of 11")
    process.kill()
    process.wait()
    process.stdout.close()
    time.sleep(1.0)
    marks = {path: path.stat().st_mtime_ns for path in (out / "done").glob("*.json")}
    assert 3 <= len(marks) < 11
    again = start(source, out, 1, 0, "local" if engine == "local" else head.address)
    ended = lines_until(again, "end").split()
    again.stdout.close()
    assert again.wait() == 0
    assert int(ended[2]) >= len(marks)
    assert {path: path.stat().st_mtime_ns for path in marks} == marks
    assert contents(out) == whole


class Deadly(FakeEncoder):
    """Dies over one picture."""

    def encode_pixels(self, pixels):
        rows = super().encode_pixels(pixels)
        fatal = self.encode_file(Path(os.environ["FATAL"]))
        if (rows == fatal).all(axis=1).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return rows


def load_deadly(fatal, runtime):
    os.environ["FATAL"] = fatal
    return Deadly()


def load_nothing(runtime):
    raise ClipTextError("expected a model, got none. Name one.")


def test_a_shard_that_kills_its_workers_is_named(cluster, source, tmp_path):
    from clip_text.embedding import Settings

    load = partial(load_deadly, str(source / "30.png"))
    settings = Settings(4, 2)
    with pytest.raises(ClipTextError, match=r"got 3 or more that died over shard-000007"):
        embed(str(source), tmp_path / "out", load, cluster, settings=settings)
    assert (tmp_path / "out" / "done" / "shard-000000.json").is_file()
    assert not (tmp_path / "out" / "done" / "shard-000007.json").exists()


def test_what_keeps_a_worker_from_its_model_is_told_as_it_was_raised(cluster, source, tmp_path):
    with pytest.raises(ClipTextError, match=r"^expected a model, got none. Name one.$"):
        embed(str(source), tmp_path / "out", load_nothing, cluster)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_the_command_starts_a_ray_of_its_own(environment, run, source, tmp_path):
    code, out, err = run(
        *("embed", source, tmp_path / "out", "--engine", "ray", "--workers", 1, "--json")
    )
    assert code == 3, err
    assert '"rows": 40' in out
    assert not ray.is_initialized()
    code, _, err = run("embed", source, tmp_path / "out", "--engine", "local", "--workers", 1)
    assert code == 3, err


def test_no_cluster_is_one_line(environment, run, source, tmp_path):
    code, _, err = run(
        "embed", source, tmp_path / "o", "--engine", "ray", "--address", "127.0.0.4:9"
    )
    assert (code, "expected a Ray cluster at 127.0.0.4:9" in err) == (1, True), err
