"""An index in PostgreSQL does what one in a folder does."""

import numpy as np
import pytest
from contract import EngineContract, unit_rows
from fakes import FakeEncoder, save_picture

from retrieval.ingest import Item, index_folder, index_items, recognise_texts
from retrieval.search import Searcher
from retrieval.stores.postgresql.connections import Connections

pytestmark = pytest.mark.engines


class TestPostgresql(EngineContract):
    @pytest.fixture
    def place(self, table):
        return table


def test_text_in_pictures_is_read_once_and_found(table, tmp_path):
    encoder, read = FakeEncoder(), []
    for number in range(3):
        save_picture(tmp_path / "p" / f"{number}.png", number)
    index_folder(tmp_path / "p", table, encoder)

    def reader(path):
        read.append(path.name)
        return "小心地滑" if path.name == "1.png" else ""

    report = recognise_texts(tmp_path / "p", table, reader)
    assert (report.read, report.with_text) == (3, 1)
    assert recognise_texts(tmp_path / "p", table, reader).read == 0
    assert sorted(read) == ["0.png", "1.png", "2.png"]
    with Searcher.open(table, encoder) as searcher:
        hit = searcher.search("地滑", 1, hybrid=True)[0]
        assert (hit.image_id, hit.recognised) == ("1.png", "小心地滑")


def test_finished_features_are_loaded_by_few_questions(table, monkeypatch):
    asked, run = [], Connections.run

    def counted_run(self, work):
        asked.append(1)
        return run(self, work)

    monkeypatch.setattr(Connections, "run", counted_run)
    rows = unit_rows(600, width=16)
    for counted in ("added", "unchanged"):
        items = [Item(f"{n}", None, None, np.array(rows[n]), None, {"n": n}) for n in range(600)]
        report = index_items(items, table, FakeEncoder(), source="set")
        assert getattr(report, counted) == 600
    assert len(asked) < 100
