"""Servers of the tests' own: each is started once, by whoever asks for it first."""

import itertools
import shutil
import tempfile
from pathlib import Path

import pytest
from postgresql_server import Server

from retrieval.stores import as_location

_numbers = itertools.count(1)


def served(version):
    """Run a PostgreSQL server; its folder is not pytest's, whose path may be too long."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        server = Server(folder, version)
        try:
            yield server.start()
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgresql():
    """A server of PostgreSQL 18 with pgvector."""
    yield from served(18)


@pytest.fixture
def table(postgresql):
    """Where no collection is yet, on the server that all tests share."""
    return as_location(postgresql.address(f"t{next(_numbers)}"))
