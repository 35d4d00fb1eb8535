"""``clip-text serve`` over an index on a server, several times; and what shares requests out."""

import subprocess
import sys
import threading
from pathlib import Path

import httpx
from test_serve import COMMAND

_SECONDS = 60


class Replica:
    """One process of the command.

    Args:
        address: Of the index.
        log: The file that gets what it says.
        options: Of the command.
        first: Python that is run before it.
    """

    def __init__(self, address: str, log: Path, *options: str, first: str = "") -> None:
        self.log = log
        self.address = ""
        self._logging: threading.Thread | None = None
        self.process = subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-c",
                    f"{COMMAND.replace('main.main(', first + 'main.main(')}",
                ),
                *("", "--index", address, "--port", "0", *options),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        )

    def wait(self) -> "Replica":
        """Wait until it says where it is; what it says later goes into the log."""
        line = self.process.stderr.readline()
        _, _, rest = line.partition("Page: ")
        assert rest, line + self.process.stderr.read()
        self.address = rest.split()[0].rstrip("/")
        self._logging = threading.Thread(target=self._write_log, daemon=True)
        self._logging.start()
        return self

    def refusal(self) -> tuple[int, str]:
        """Give the exit code, and what is said, of one that does not start."""
        _, said = self.process.communicate(timeout=_SECONDS)
        return self.process.returncode, said

    def ask(self, method: str, path: str, **said: object) -> httpx.Response:
        """Send one request, once."""
        return httpx.request(method, self.address + path, trust_env=False, timeout=30, **said)

    def kill(self) -> None:
        """End it at once, as a machine without power would; twice is once."""
        self.process.kill()
        self.process.wait(_SECONDS)
        if self._logging is not None:
            self._logging.join()
        self.process.stderr.close()

    def _write_log(self) -> None:
        with self.log.open("a") as written:
            for line in self.process.stderr:
                written.write(line)
                written.flush()


class Balancer(httpx.BaseTransport):
    """Sends requests to replicas in turn, and none to one that did not answer.

    A request that failed is not sent again here: who asked does that, and it goes to another.
    It serves several clients, and stays open when one of them closes: :meth:`end` ends it.
    """

    def __init__(self, replicas: list[Replica]) -> None:
        self._turn = [httpx.URL(replica.address) for replica in replicas]
        self._choosing = threading.Lock()
        self._sending = httpx.HTTPTransport()
        self.failed = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with self._choosing:
            self._turn.append(self._turn.pop(0))
            at = self._turn[0]
        request.url = request.url.copy_with(host=at.host, port=at.port)
        request.headers["host"] = f"{at.host}:{at.port}"
        try:
            return self._sending.handle_request(request)
        except httpx.TransportError:
            with self._choosing:
                self.failed += 1
                if at in self._turn and len(self._turn) > 1:
                    self._turn.remove(at)
            raise

    def end(self) -> None:
        """End its connections."""
        self._sending.close()
