"""Servers of the tests' own: each is started once, by whoever asks for it first."""

import itertools
import shutil
import tempfile
from pathlib import Path

import pytest

from retrieval.stores import as_location

_numbers = itertools.count(1)
# Of these tests, what needs nothing that make test-engines installs.
_ALWAYS = {"test_embedded.py"}


def pytest_ignore_collect(collection_path, config):
    """Pass over, where no engine is asked for, files that import what runs them."""
    is_test = collection_path.name.startswith("test_")
    asked = config.option.markexpr
    is_asked = "engines" in asked and "not engines" not in asked
    return True if is_test and not is_asked and collection_path.name not in _ALWAYS else None


def served(version):
    """Run a PostgreSQL server; its folder is not pytest's, whose path may be too long."""
    from postgresql_server import Server

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
