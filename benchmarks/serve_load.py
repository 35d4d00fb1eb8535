"""A service as a process, and the load that public tools put on it from others: wrk and hey."""

import contextlib
import csv
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Load", "Served", "Told", "overload", "press", "served"]

_PATIENCE_S = 180
_SCRIPT = """
local bodies = {}
for line in io.lines("%(bodies)s") do bodies[#bodies + 1] = line end
local next_one = 0
request = function()
  next_one = next_one %% #bodies + 1
  return wrk.format("POST", "%(path)s", {["Content-Type"] = "application/json"}, bodies[next_one])
end
"""
_REPORT = """
done = function(summary, latency, requests)
  io.write(string.format("FIGURES %%d %%d %%d %%f %%f %%f\\n", summary.requests, summary.duration,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked for.

    Args:
        path: Such as ``/v1/search``.
        bodies: Of POST requests, asked for in turn; GET without any.
    """

    path: str
    bodies: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Told:
    """How it went.

    Args:
        per_second: Requests answered by 2xx.
        p50, p95, p99: Milliseconds, of all answers.
        failed: Other answers, such as 429, and connections that broke.
        cpu_ms: The processor's time that the service took for a request.
    """

    per_second: float
    p50: float
    p95: float
    p99: float
    failed: int
    cpu_ms: float

    def figures(self, name: str) -> dict[str, float]:
        """Name them."""
        return {
            f"{name}_per_second": self.per_second,
            f"{name}_p50_ms": self.p50,
            f"{name}_p95_ms": self.p95,
            f"{name}_p99_ms": self.p99,
            f"{name}_failed": self.failed,
            f"{name}_cpu_ms": self.cpu_ms,
        }


@dataclass(frozen=True, slots=True)
class Served:
    """A service at work: its address, and its process."""

    address: str
    process: "subprocess.Popen[str]"

    def cpu_seconds(self) -> float:
        """The processor's time that it and its children have taken."""
        return sum(_cpu_seconds(pid) for pid in _family(self.process.pid))

    def resident_bytes(self) -> int:
        """The memory that it and its children take, pages they share counted once each."""
        total = 0
        for pid in _family(self.process.pid):
            status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
            found = re.search(r"VmRSS:\s+(\d+) kB", status)
            total += int(found[1]) * 1024 if found else 0
        return total


@contextlib.contextmanager
def served(
    command: Sequence[str], ready: str, environment: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """Start a service and wait until it answers.

    Args:
        command: With ``{port}`` where its port belongs.
        ready: The path that is answered once it is ready.
        environment: Beside this process's.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [part.replace("{port}", str(port)) for part in command],
            stdout=log,
            stderr=log,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + _PATIENCE_S
            while not _answers(address + ready):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    sys.exit(f"the service did not start:\n{log.read()[-2000:]}")
                time.sleep(0.2)
            yield Served(address, process)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def press(service: Served, load: Load, connections: int, seconds: float) -> Told:
    """Let wrk ask over so many connections, each one request after another."""
    _check_tool("wrk")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "load.lua"
        text = _REPORT % ()
        if load.bodies:
            bodies = Path(folder) / "bodies.txt"
            lines = (json.dumps(body, ensure_ascii=False) for body in load.bodies)
            bodies.write_text("\n".join(lines) + "\n", encoding="utf-8")
            text += _SCRIPT % {"bodies": bodies, "path": load.path}
        script.write_text(text, encoding="utf-8")
        before = service.cpu_seconds()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "60s"]
        command += ["-s", str(script), service.address + load.path]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        taken = service.cpu_seconds() - before
    figures = re.search(r"FIGURES (.+)", ran.stdout)
    assert figures, ran.stdout
    requests, microseconds, failed, *shares = map(float, figures[1].split())
    p50, p95, p99 = (share / 1000 for share in shares)
    rate = (requests - failed) / microseconds * 1e6
    return Told(rate, p50, p95, p99, int(failed), taken * 1000 / max(requests, 1))


def overload(
    service: Served, load: Load, connections: int, seconds: float
) -> tuple[dict[int, int], float]:
    """Let hey ask over so many connections, each for one and the same.

    Returns:
        How many answers there were of each status; and the 99th percentile of the milliseconds
        that answers of status 200 took.
    """
    _check_tool("hey")
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body.json"
        body.write_text(json.dumps(load.bodies[0], ensure_ascii=False), encoding="utf-8")
        command = ["hey", "-o", "csv", "-z", f"{seconds:g}s", "-c", str(connections), "-t", "60"]
        command += ["-m", "POST", "-T", "application/json", "-D", str(body)]
        ran = subprocess.run(
            [*command, service.address + load.path], capture_output=True, text=True, check=True
        )
    statuses: dict[int, int] = {}
    accepted = []
    for row in csv.DictReader(ran.stdout.splitlines()):
        status = int(row["status-code"])
        statuses[status] = statuses.get(status, 0) + 1
        if status == 200:
            accepted.append(float(row["response-time"]) * 1000)
    accepted.sort()
    return statuses, accepted[int(len(accepted) * 0.99)] if accepted else float("nan")


def _check_tool(name: str) -> None:
    if shutil.which(name) is None:
        sys.exit(
            f"expected the load generator {name} on the path, got none. Install it, such as by: "
            f"apt-get install {name}."
        )


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  (an address of this machine)
            return bool(answer.status == 200)
    except OSError:
        return False


def _family(pid: int) -> list[int]:
    """Name a process and all below it."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
