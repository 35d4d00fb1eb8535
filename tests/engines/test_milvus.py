"""The contract of engines, held by a real Milvus 2.3.5."""

import itertools

import pytest
from contract import EngineContract
from milvus_server import milvus_binaries, milvus_server  # noqa: F401  (fixtures)

from retrieval.stores import as_location

pytestmark = pytest.mark.engines

NAMES = (f"index_{number}" for number in itertools.count())


@pytest.fixture
def place(milvus_server):  # noqa: F811
    return as_location(f"{milvus_server.address}/{next(NAMES)}")


class TestMilvus(EngineContract):
    has_words = False

    @pytest.fixture
    def place(self, place):
        return place
