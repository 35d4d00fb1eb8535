"""Indexes a folder in a process of its own, for tests that kill it or look on.

    python tests/indexing_process.py MODE FOLDER INDEX [NUMBER]

plain         prints a line after every batch
gated         prints a line before every batch and waits for one on stdin
kill-at       kills itself (SIGKILL) before the SQL statement of that number
kill-in-seal  kills itself when it seals the index, before the first file of it is on the disk
count         prints how many SQL statements the run takes

Without arguments, it reads them from stdin, as JSON lists, and forks a process for each,
which saves the imports; it prints the exit status of each.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from fakes import FakeEncoder

import retrieval.catalogue.opening
import retrieval.index.lifecycle
from retrieval.ingest import index_folder

BATCH_SIZE = 4


def start_process(*arguments: object) -> "subprocess.Popen[str]":
    """Start this file as a process, with pipes to it."""
    here = Path(__file__)
    return subprocess.Popen(
        [sys.executable, here, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(here.parents[1])},
    )


def _say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def _wait_for_leave(count: int) -> None:
    _say("batch", count)
    sys.stdin.readline()


class _Watched:
    """Counts the statements of the writing connection, and may kill the process at one."""

    def __init__(self, fatal: int | None) -> None:
        self.count = 0
        self._fatal = fatal

    def __call__(self, statement: str) -> None:
        self.count += 1
        if self.count == self._fatal:
            _die()


def _watch_statements(fatal: int | None) -> _Watched:
    watched = _Watched(fatal)
    connect = retrieval.catalogue.opening._connect

    def connect_watched(target: str | Path) -> sqlite3.Connection:
        connection = connect(target)
        connection.set_trace_callback(watched)
        return connection

    retrieval.catalogue.opening._connect = connect_watched
    return watched


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(mode: str, folder: str, index_dir: str, number: str = "0") -> None:
    watched = None
    if mode in {"kill-at", "count"}:
        watched = _watch_statements(int(number) if mode == "kill-at" else None)
    if mode == "kill-in-seal":
        retrieval.index.lifecycle._TAIL_ROWS = retrieval.index.lifecycle._TAIL_SHARE = 0
        os.fsync = _die
    encoder = FakeEncoder(before_batch=_wait_for_leave if mode == "gated" else None)
    report = index_folder(
        Path(folder),
        Path(index_dir),
        encoder,
        batch_size=BATCH_SIZE,
        workers=2,
        on_progress=lambda progress: _say("done", progress.done, progress.total),
    )
    _say("end", report.added, watched.count if watched else 0)


def fork_on_demand() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                main(*json.loads(line))
                status = 0
            finally:
                os._exit(status)
        _, wait_status = os.waitpid(child, 0)
        _say("status", os.waitstatus_to_exitcode(wait_status))


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) > 1 else fork_on_demand()
