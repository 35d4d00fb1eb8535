"""Serves indexes in processes that a test kills: ``python tests/killed_service.py``.

Reads lines of JSON from stdin. ``["start", INDEX, {SETTINGS}]`` forks a process that serves the
index, and says ``PID ADDRESS``; ``["kill", SIGNAL]`` ends it, and says its exit code. Forking saves
the imports, and reading jieba's dictionary, which take longer than such a process lives.
"""

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent


def _say(*words: object, to: int = 1) -> None:
    os.write(to, (" ".join(map(str, words)) + "\n").encode())


def _serve(index_dir: Path, settings: dict) -> None:
    from fakes import FakeEncoder

    from retrieval.ingest import IndexWriter
    from retrieval.search import Searcher
    from retrieval.service.app import Served
    from retrieval.service.serving import serve
    from retrieval.service.settings import Settings

    told = os.dup(1)
    os.dup2(2, 1)  # uvicorn writes its log to both
    encoder = FakeEncoder()
    encoder.loaded = deque(maxlen=1)  # else all paths that it ever read stay in memory
    if not index_dir.exists():
        IndexWriter.open(index_dir, encoder).close()
    with Searcher.open(index_dir, encoder, cached_queries=64) as searcher:
        served = Served(searcher, encoder=encoder, index_dir=index_dir)
        chosen = Settings(**settings)
        serve(
            served, settings=chosen, port=0, on_listening=lambda at: _say(os.getpid(), at, to=told)
        )


def main() -> None:
    import uvicorn  # noqa: F401  what is imported here is there in each

    from retrieval.catalogue.segmentation import Segmenter, Settings
    from retrieval.service import serving  # noqa: F401

    Segmenter.of(Settings.usual())("一只猫")
    child = 0
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        if what == "start":
            child = os.fork()
            if child == 0:
                try:
                    _serve(Path(arguments[0]), arguments[1])
                finally:
                    os._exit(0)
        else:
            os.kill(child, arguments[0])
            _, status = os.waitpid(child, 0)
            _say(os.waitstatus_to_exitcode(status))


class Server:
    """Forks a server, and ends it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = 0
        self.address = ""

    def start(self, index_dir: Path, **settings: object) -> str:
        """Give the address of a server of an index, which is made if there is none."""
        pid, self.address = self._ask("start", str(index_dir), settings).split()
        self.pid = int(pid)
        return self.address

    def kill(self, number: int = signal.SIGKILL) -> int:
        """End it, and give its exit code."""
        self.pid = 0
        return int(self._ask("kill", number))

    def _ask(self, *words: object) -> str:
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


@contextmanager
def nursery(log: Path) -> Iterator[Server]:
    """Give what starts servers, one at a time; their log is written to a file."""
    with (
        log.open("ab") as errors,
        subprocess.Popen(
            [sys.executable, HERE / "killed_service.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"},
        ) as process,
    ):
        server = Server(process)
        try:
            yield server
        finally:
            if server.pid:
                server.kill()
            process.stdin.close()


if __name__ == "__main__":
    main()
