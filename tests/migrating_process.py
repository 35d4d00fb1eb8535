"""Moves an index to another model in a process of its own, for a test that kills it.

    python tests/migrating_process.py

Reads lines of JSON from stdin, [INDEX, NUMBER, SECONDS, POINT], and forks a process for each,
which moves the index to the model of that number. It is killed (SIGKILL) after so many seconds, or
kills itself at a point; with null for both it ends by itself. Then its exit status is printed.
Forking saves the imports, which take longer than it lives.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from fakes import FakeEncoder

from retrieval.catalogue import Catalogue, exchange
from retrieval.ingest import migrate_index, migrating
from retrieval.ingest.migration_place import MigrationPlace

BATCH = 4


class NumberedEncoder(FakeEncoder):
    """One of many models, each with a projection, and texts, of its own."""

    def __init__(self, number: int, seconds: float = 0.0, **options) -> None:
        embed_dim = 16 + 8 * (number % 2)
        wait = (lambda _: time.sleep(seconds)) if seconds else None
        super().__init__(embed_dim, f"model-{number}", before_batch=wait, **options)
        rng = np.random.default_rng(number)
        self._projection = rng.standard_normal(self._projection.shape)

    def _text_row(self, text: str) -> np.ndarray:
        return super()._text_row(f"{self.fingerprint} {text}")


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _leave_half_a_copy(_: Catalogue, folder: Path) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    (partial / "catalogue.sqlite").write_bytes(b"SQLite format 3\0")
    die()


def _and_die(function):
    def call(*args, **options):
        function(*args, **options)
        die()

    return call


POINTS = {
    "copying": (migrating, "copy_catalogue", _leave_half_a_copy),
    "copied": (migrating, "copy_catalogue", _and_die(exchange.copy_catalogue)),
    "written": (Catalogue, "exchange_features", _and_die(Catalogue.exchange_features)),
    "committed": (exchange, "_shorten_log", die),
    "unsealed": (migrating, "compact", die),
    "sealed": (migrating, "compact", _and_die(migrating.compact)),
    "untidy": (MigrationPlace, "_free_name", die),
    "tidy": (MigrationPlace, "remove", die),
}
"""Where a migration kills itself: what is put in the place of what."""
BEFORE_THE_COMMIT = ("copying", "copied", "written")


def move(index_dir: Path, number: int, seconds: float | None, point: str | None) -> None:
    if point is not None:
        owner, name, value = POINTS[point]
        setattr(owner, name, value)
    encoder = NumberedEncoder(number, 0.0 if seconds is None else 0.004)
    migrate_index(index_dir, encoder, batch_size=BATCH, workers=1)


def main() -> None:
    for line in sys.stdin:
        index_dir, number, seconds, point = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                move(Path(index_dir), number, seconds, point)
                status = 0
            finally:
                os._exit(status)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)  # a zombie, if it has ended
        _, status = os.waitpid(child, 0)
        os.write(1, f"status {os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    main()
