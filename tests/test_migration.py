"""Catalogues of schema 1: read as they are, upgraded by who writes, and kept whole."""

import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEncoder, save_picture
from older_catalogues import as_schema_1

from retrieval.catalogue import CATALOGUE_NAME, Catalogue
from retrieval.errors import CorruptIndexError, IndexMismatchError, StorageError
from retrieval.ingest import index_folder
from retrieval.records import Picture
from retrieval.search import Searcher

REAL = Path(__file__).parent / "data" / "3286393" / "index"
"""An index that commit 3286393 wrote, of FakeEncoder and four pictures."""


@pytest.fixture
def real(tmp_path):
    return Path(shutil.copytree(REAL, tmp_path / "index"))


def contents(index_dir):
    with Catalogue.open(index_dir) as catalogue:
        records = list(catalogue)
        features = [page for _, page in catalogue.features()]
        return records, np.concatenate(features), catalogue.generation


def row_of(angle: float) -> np.ndarray:
    return np.array([np.cos(angle), np.sin(angle)], np.float32)


def picture(name: bytes) -> Picture:
    return Picture(b"/p", b"/p/" + name, name.decode(), 1, 2, b"hash" + name, 3, 4, None, "{}")


def changed(catalogue, since):
    with catalogue.changes(since) as change:
        features = [page for _, page in change.features]
        return change.generation, change.removed.tolist(), change.written.tolist(), features


def build_history(index_dir, removals):
    """Generation 1: rows 1 to 4; 2: row 4, the last, goes; 3: row 2 goes. Then made schema 1."""
    with Catalogue.create_or_open(index_dir, fingerprint="f", embed_dim=2) as catalogue:
        with catalogue.transaction():
            for i in range(4):
                catalogue.add(picture(b"%d" % i), row_of(i))
            catalogue.fail(b"/p/x", 1, 2, "reason")
        for row in (4, 2):
            with catalogue.transaction():
                catalogue.remove([row])
    as_schema_1(index_dir, removals=removals)


def test_a_real_one_is_upgraded_in_place_and_nothing_is_encoded_again(real):
    records, features, generation = contents(real)
    encoder = FakeEncoder()
    with Catalogue.open(real) as reader:
        assert (reader.schema_version, len(records)) == (1, 4)
        uid = reader.uid
    folder = Path(os.fsdecode(records[0].picture.root))
    assert not folder.exists()
    other = real.with_name("other")
    save_picture(other / "new.png", 77)
    report = index_folder(other, real, encoder)
    assert (report.encoded, report.total) == (1, 5)
    after, halves, now = contents(real)
    assert after[:4] == records
    assert now == generation + 1
    assert np.abs(halves[:4] - features).max() < 3e-4
    assert np.abs(np.linalg.norm(halves.astype(np.float64), axis=1) - 1).max() < 1e-6
    with Catalogue.open(real) as reader:
        assert reader.schema_version == 2
        assert reader.uid != uid  # what was derived holds other digits
    database = sqlite3.connect(real / CATALOGUE_NAME)
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    stored = {length for (length,) in database.execute("SELECT length(feature) FROM features")}
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    database.close()
    assert stored == {2 * encoder.embed_dim}
    assert "images_1" not in tables


@pytest.mark.parametrize("removals", [True, False])
def test_rows_failures_and_removals_outlast_the_upgrade(tmp_path, removals):
    build_history(tmp_path, removals)
    with Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=2) as catalogue:
        assert [record.row for record in catalogue] == [1, 3]
        assert [failure.path for failure in catalogue.failures()] == [b"/p/x"]
        # without a record, all rows that are not there are told
        assert changed(catalogue, 2)[:3] == (3, [2] if removals else [2, 4], [])
        with catalogue.transaction():
            assert catalogue.add(picture(b"new"), row_of(9)) == 5  # 4 was the last, and is gone
            catalogue.remove([1])
        assert changed(catalogue, 3)[:3] == (4, [1], [5])


@pytest.mark.parametrize("removals", [True, False])
def test_a_reader_answers_before_during_and_after_the_upgrade(tmp_path, removals):
    build_history(tmp_path, removals)
    with Catalogue.open(tmp_path) as reader:
        assert changed(reader, 2)[1:3] == ([2] if removals else [2, 4], [])
        generation, _, written, (features,) = changed(reader, 0)
        assert (generation, written) == (3, [1, 3])
        assert features == pytest.approx(np.stack([row_of(0), row_of(2)]), abs=2e-4)
        assert not reader.is_replaced
        with reader.snapshot():
            assert reader.schema_version == 1
            Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=2).close()
            assert len(list(reader.features())) == 1  # its moment is the one before
        assert reader.is_replaced
        assert changed(reader, 0)[2] == [1, 3]
        assert sorted(reader.records([1, 2, 3])) == [1, 3]


READS = {
    "rows": lambda reader: [reader.rows()],
    "features": lambda reader: [page for pair in reader.features() for page in pair],
    "features_of": lambda reader: list(reader.features_of([3, 1]).values()),
    "draw": lambda reader: reader.draw(2),
}


@pytest.mark.parametrize("statement", ["FROM meta", "FROM images"])
@pytest.mark.parametrize("name", READS)
def test_a_reader_is_upgraded_under_between_two_of_its_statements(
    tmp_path, name, statement, monkeypatch
):
    monkeypatch.setattr("retrieval.catalogue.reading._FEATURE_PAGE", 1)
    build_history(tmp_path, removals=True)
    upgraded = []

    def upgrade(begun):
        if statement in begun and not upgraded:
            with Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=2) as writer:
                upgraded.append(writer.schema_version)

    with Catalogue.open(tmp_path) as reader:
        before = READS[name](reader)
        reader.connection.db.set_trace_callback(upgrade)
        during = READS[name](reader)
        reader.connection.db.set_trace_callback(None)
        after = READS[name](reader)
    assert upgraded == [2]
    for one, two, three in zip(before, during, after, strict=True):
        assert two == pytest.approx(one, abs=2e-4)
        assert three == pytest.approx(one, abs=2e-4)


def test_a_searcher_at_work_takes_the_upgraded_one_over(tmp_path):
    folder, index_dir, encoder = tmp_path / "p", tmp_path / "index", FakeEncoder()
    for i in range(5):
        save_picture(folder / f"{i}.png", i)
    index_folder(folder, index_dir, encoder)
    as_schema_1(index_dir)
    with Searcher.open(index_dir, encoder) as searcher:
        before = searcher.search("猫", 5)
        save_picture(folder / "5.png", 5)
        assert index_folder(folder, index_dir, encoder).encoded == 1
        assert searcher.refresh()
        after = searcher.search("猫", 6)
        assert len(after) == 6
        kept = [hit for hit in after if hit.image_id != "5.png"]
        assert [hit.image_id for hit in kept] == [hit.image_id for hit in before]
        expected = pytest.approx([hit.score for hit in before], abs=1e-3)
        assert [hit.score for hit in kept] == expected


def test_who_only_reads_changes_nothing(real):
    before = {path.name: path.read_bytes() for path in real.iterdir()}
    with Searcher.open(real, FakeEncoder()) as searcher:
        assert len(searcher.search("猫", 9)) == 4
    # the vectors are derived, and may be written anew
    assert (real / CATALOGUE_NAME).read_bytes() == before[CATALOGUE_NAME]
    with pytest.raises(IndexMismatchError):
        Catalogue.create_or_open(real, fingerprint="other", embed_dim=16)
    assert (real / CATALOGUE_NAME).read_bytes() == before[CATALOGUE_NAME]


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_newer_one_is_refused_and_left_alone(real, mode):
    """A copy made by SQLite is of the mode that keeps no log: the file says which one it is."""
    database = sqlite3.connect(real / CATALOGUE_NAME)
    database.execute(f"PRAGMA journal_mode = {mode}")
    with database:
        database.execute("UPDATE meta SET value = '3' WHERE key = 'schema_version'")
    database.close()
    before = (real / CATALOGUE_NAME).read_bytes()
    told = r"schema version 1 to 2 in .*, got 3, which a newer .* Update clip-text"
    with pytest.raises(CorruptIndexError, match=told):
        Catalogue.open(real)
    with pytest.raises(CorruptIndexError, match=told):
        Catalogue.create_or_open(real, fingerprint="fake-1", embed_dim=16)
    with pytest.raises(CorruptIndexError, match=told):
        Searcher.open(real, FakeEncoder())
    assert (real / CATALOGUE_NAME).read_bytes() == before


def test_a_disk_that_fills_during_the_upgrade_leaves_it_as_it_was(real, monkeypatch):
    records, features, _ = contents(real)

    def full(_blob):
        raise OSError("full")

    monkeypatch.setattr("retrieval.catalogue.migration.to_halves", full)
    with pytest.raises((StorageError, sqlite3.OperationalError)):
        Catalogue.create_or_open(real, fingerprint="fake-1", embed_dim=16)
    after = contents(real)
    assert after[0] == records
    assert (after[1] == features).all()
    with Catalogue.open(real) as reader:
        assert reader.schema_version == 1
