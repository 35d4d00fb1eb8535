"""An index in PostgreSQL does what one in a folder does."""

import pytest
from contract import EngineContract

pytestmark = pytest.mark.engines


class TestPostgresql(EngineContract):
    @pytest.fixture
    def place(self, table):
        return table
