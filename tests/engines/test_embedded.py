"""The contract of engines, held by the one that others are held against."""

import pytest
from contract import EngineContract


class TestEmbedded(EngineContract):
    @pytest.fixture
    def place(self, tmp_path):
        return tmp_path / "index"
