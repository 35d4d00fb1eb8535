"""A Milvus 2.3.5 of our own: the standalone binary that the package milvus carries."""

import ctypes
import importlib.util
import lzma
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

START_SECONDS = 120


class MilvusServer:
    """A server on data of its own; started, killed and started again on the same ports.

    What it serves is on 127.0.0.1. The ports that its parts talk over it opens on every interface,
    whatever its settings say; all are chosen here, and free.

    Args:
        folder: For its data, settings and logs.
        binaries: Where the unpacked binary is, or shall be.
        authorized: True for one that asks for a password: ``root`` and ``Milvus`` at first.
    """

    def __init__(self, folder: Path, binaries: Path, *, authorized: bool = False) -> None:
        self.folder = folder
        self.binaries = binaries
        self.authorized = authorized
        self.process = None
        _unpack(binaries)
        self.port = self._configure()

    @property
    def address(self) -> str:
        return f"milvus://127.0.0.1:{self.port}"

    def start(self) -> "MilvusServer":
        env = {
            **os.environ,
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(self.health),
            "MILVUS_RUN_DIR": str(self.folder / "run"),
            "LD_LIBRARY_PATH": str(self.binaries),
            "ETCD_CONFIG_PATH": str(self.folder / "configs" / "etcd.yaml"),
        }
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [str(self.binaries / "milvus"), "run", "standalone"],
                cwd=self.folder,
                env=env,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  (it calls the system alone)
            )
        self._wait()
        return self

    def kill(self) -> None:
        """End it at once, as a machine without power would."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def _end(self, number: int) -> None:
        if self.process is None:
            return
        self.process.send_signal(number)
        self.process.wait(30)
        self.process = None

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        url = f"http://127.0.0.1:{self.health}/healthz"
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    if b"OK" in answer.read():
                        return
            except OSError:
                pass
            time.sleep(0.1)
        tail = (self.folder / "output").read_text(errors="replace")[-2000:]
        self.kill()
        pytest.fail(f"Milvus did not start within {START_SECONDS} s:\n{tail}")

    def _configure(self) -> int:
        """Write its settings; gives the port that it serves on."""
        template = (_data() / "config.yaml.template").read_text()
        logs, data = self.folder / "logs", self.folder / "data"
        values = {
            "etcd_log_path": logs / "etcd.log",
            "etcd_log_level": "error",
            "local_storage_dir": data,
            "etcd_data_dir": data / "etcd.data",
            "rocksmq_data_dir": data / "rocksmq",
            "system_log_path": logs,
            "authorization_enabled": str(self.authorized).lower(),
        }
        names = [name for name in re.findall(r"\{\{ (\w+)", template) if name.endswith("_port")]
        self.health, peer, *ports = _free_ports(len(names) + 2)
        values |= dict(zip(names, ports, strict=True))

        def fill(match):
            inside = match[1].strip()
            name = re.match(r"\w+", inside)[0]
            return str(values[name] if name in values else inside.partition(":")[2].strip())

        text = re.sub(r"\{\{(.*?)\}\}", fill, template)
        text = re.sub(r"(?m)^  ip:.*$", "  ip: 127.0.0.1", text)
        text = re.sub(r"(?m)^    level: debug", "    level: error", text)
        etcd, configs = values["etcd_port"], self.folder / "configs"
        text = text.replace("etcd:\n", f"etcd:\n  config:\n    path: {configs / 'etcd.yaml'}\n", 1)
        for made in (configs, logs, data):
            made.mkdir(parents=True, exist_ok=True)
        (configs / "milvus.yaml").write_text(text)
        (configs / "etcd.yaml").write_text(
            "name: default\n"
            f"data-dir: {data / 'etcd.data'}\n"
            f"listen-client-urls: http://127.0.0.1:{etcd}\n"
            f"advertise-client-urls: http://127.0.0.1:{etcd}\n"
            f"listen-peer-urls: http://127.0.0.1:{peer}\n"
            f"initial-advertise-peer-urls: http://127.0.0.1:{peer}\n"
            f"initial-cluster: default=http://127.0.0.1:{peer}\n"
            "log-level: error\n"
        )
        shutil.copy(_data() / "glog.conf", configs / "glog.conf")
        return values["proxy_port"]


def _die_with_parent() -> None:
    """Have the server be killed with the tests, however they end."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _data() -> Path:
    spec = importlib.util.find_spec("milvus")
    if spec is None:
        pytest.fail("expected the package milvus 2.3.5, got none: pip install 'clip-text[engines]'")
    return Path(spec.origin).parent / "data"


def _unpack(binaries: Path) -> None:
    binaries.mkdir(parents=True, exist_ok=True)
    for packed in (_data() / "bin").glob("*.lzma"):
        target = binaries / packed.stem
        if not target.exists():
            part = target.with_suffix(".part")
            part.write_bytes(lzma.decompress(packed.read_bytes()))
            part.chmod(0o755)
            part.rename(target)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@pytest.fixture(scope="session")
def milvus_binaries(tmp_path_factory):
    return tmp_path_factory.mktemp("milvus-binaries")


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory, milvus_binaries):
    server = MilvusServer(tmp_path_factory.mktemp("milvus"), milvus_binaries)
    try:
        yield server.start()
    finally:
        server.kill()  # what it keeps is thrown away
