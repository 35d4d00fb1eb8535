"""A process indexing is killed at any moment; the next run makes good, and nothing shows."""

import json
import random
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEncoder, as_stored, save_picture
from indexing_process import BATCH_SIZE, start_process
from older_catalogues import as_schema_1

from retrieval.catalogue.catalogue import CATALOGUE_NAME, Catalogue
from retrieval.errors import IndexLockedError, IndexNotFoundError
from retrieval.index import compact
from retrieval.ingest import index_folder
from retrieval.search import Searcher

EVENLY = 80
"""Of the hundreds of statements of a run, so many are those that it is killed at."""


class Nursery:
    """Runs indexing processes one after the other, each forked from one with warm imports."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] = start_process()

    def run(self, mode: str, folder: Path, index_dir: Path, number: int = 0) -> tuple[int, str]:
        """Exit code (negative: killed by that signal) and the last line printed before."""
        assert self._process.stdin
        assert self._process.stdout
        arguments = json.dumps([mode, str(folder), str(index_dir), str(number)])
        self._process.stdin.write(arguments + "\n")
        self._process.stdin.flush()
        last = ""
        while not (line := self._process.stdout.readline()).startswith("status"):
            assert line, "the nursery died"
            last = line
        return int(line.split()[1]), last

    def close(self) -> None:
        self._process.communicate()


def dump(index_dir: Path) -> tuple[list[object], list[object]]:
    """All that is stored but for what may differ: which transaction wrote it, and when."""
    database = sqlite3.connect(index_dir / CATALOGUE_NAME)
    try:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        images = database.execute(
            "SELECT images.*, feature FROM images LEFT JOIN features USING (row) ORDER BY row"
        ).fetchall()
        orphans = database.execute(
            "SELECT row FROM features WHERE row NOT IN (SELECT row FROM images)"
        ).fetchall()
        failures = database.execute(
            "SELECT path, size, mtime_ns, reason FROM failures ORDER BY path"
        ).fetchall()
    finally:
        database.close()
    assert orphans == []
    return images, failures


def check_sound(index_dir: Path) -> None:
    """Whatever the moment of death: no half row, no wrong feature, and it can be searched."""
    encoder = FakeEncoder()
    try:
        catalogue = Catalogue.open(index_dir)
    except IndexNotFoundError:
        return  # killed before its first commit
    with catalogue:
        stored = list(catalogue.features())
        records = list(catalogue)
    rows = [row for page, _ in stored for row in page.tolist()]
    assert rows == [record.row for record in records]
    if not rows:
        return
    features = np.concatenate([page for _, page in stored])
    for record, feature in zip(records, features, strict=True):
        if record.path.name.startswith("same"):  # the others may have changed since
            expected = as_stored(encoder.encode_file(record.path))
            assert feature.tobytes() == expected.tobytes()
    with Searcher.open(index_dir, encoder) as searcher:
        # Each picture finds itself: the index holds what the catalogue holds, no older state.
        for row, hits in zip(rows, searcher.search_features(features, 999), strict=True):
            scores = {hit.row: hit.score for hit in hits}
            assert sorted(scores) == rows
            assert scores[row] == pytest.approx(1.0, abs=1e-6)


class Case:
    """A folder whose index lags behind: pictures came, changed, moved, broke and went."""

    def __init__(self, base: Path, nursery: Nursery) -> None:
        self.base = base
        self.run = nursery.run
        self.folder = base / "p"
        save_picture(self.folder / "moving.png", 99)
        for i in range(11):
            save_picture(self.folder / f"same{i:02}.png", i)
        for i in range(4):
            save_picture(self.folder / f"going{i}.png", 100 + i)
            save_picture(self.folder / f"changing{i}.png", 200 + i)
        index_folder(self.folder, base / "lagging", FakeEncoder())
        (self.folder / "metadata.jsonl").write_text('{"file_name": "same03.png", "text": "新"}')
        (self.folder / "sub").mkdir()
        for i in range(4):
            save_picture(self.folder / f"changing{i}.png", 300 + i, size=(5, 5 + i))
            (self.folder / f"going{i}.png").unlink()
            save_picture(self.folder / f"new{i}.png", 400 + i)
            (self.folder / f"broken{i}.png").write_bytes(b"broken")
            shutil.copy(self.folder / f"new{i}.png", self.folder / "sub")
        (self.folder / "moving.png").rename(self.folder / "sub" / "moving.png")
        code, last = self.run("count", self.folder, self.lagging("whole"))
        assert code == 0
        self.statements = int(last.split()[-1])
        self.expected = dump(base / "whole")

    def lagging(self, name: str) -> Path:
        """A fresh copy of the index that lags behind."""
        return Path(shutil.copytree(self.base / "lagging", self.base / name))

    def check_resumed(self, index_dir: Path) -> None:
        check_sound(index_dir)
        index_folder(self.folder, index_dir, FakeEncoder(), batch_size=BATCH_SIZE)
        assert dump(index_dir) == self.expected
        check_sound(index_dir)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    nursery = Nursery()
    yield Case(tmp_path_factory.mktemp("crash"), nursery)
    nursery.close()


def kill_at_statements(case: Case, tmp_path: Path, moments: list[int]) -> None:
    for moment in moments:
        index_dir = case.lagging(f"{tmp_path.name}-{moment}")
        code, _ = case.run("kill-at", case.folder, index_dir, moment)
        assert code == -signal.SIGKILL, f"at statement {moment}"
        case.check_resumed(index_dir)


def test_killed_within_a_transaction(case, tmp_path):
    moments = random.Random(25).sample(range(1, case.statements + 1), 25)
    kill_at_statements(case, tmp_path, moments)


@pytest.mark.slow
def test_killed_within_a_transaction_from_its_first_statement_to_the_last(case, tmp_path):
    moments = np.linspace(1, case.statements, EVENLY).round().astype(int).tolist()
    kill_at_statements(case, tmp_path, moments)


@pytest.mark.parametrize("lines", [1, 2, 4])
def test_killed_from_outside_at_moments_nobody_chose(case, tmp_path, lines):
    index_dir = case.lagging(tmp_path.name)
    process = start_process("plain", case.folder, index_dir)
    assert process.stdout
    for _ in range(lines):
        process.stdout.readline()
    process.kill()  # somewhere in the batch after
    process.communicate()
    case.check_resumed(index_dir)


@pytest.mark.parametrize("sealed_before", [False, True])
def test_killed_while_the_index_is_sealed(case, tmp_path, sealed_before):
    index_dir = case.lagging(f"{tmp_path.name}-{sealed_before}")
    if sealed_before:
        compact(index_dir)
    code, _ = case.run("kill-in-seal", case.folder, index_dir)
    assert code == -signal.SIGKILL
    assert dump(index_dir) == case.expected
    assert list((index_dir / "vectors").glob("*.partial"))
    case.check_resumed(index_dir)
    compact(index_dir)
    assert not list((index_dir / "vectors").glob("*.partial"))
    check_sound(index_dir)


def test_killed_again_and_again_it_still_gets_there(case, tmp_path):
    index_dir = case.lagging(tmp_path.name)
    chance = random.Random(1)
    for _ in range(20):
        moment = chance.randint(case.statements // 3, case.statements)
        code, _ = case.run("kill-at", case.folder, index_dir, moment)
        check_sound(index_dir)
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert code == 0
    assert dump(index_dir) == case.expected


def test_a_new_index_killed_at_its_birth(case, tmp_path):
    for moment in range(1, 30, 2):
        index_dir = tmp_path / str(moment)
        code, _ = case.run("kill-at", case.folder, index_dir, moment)
        assert code == -signal.SIGKILL
        check_sound(index_dir)
        report = index_folder(case.folder, index_dir, FakeEncoder())
        assert (report.added, report.duplicates, report.failed) == (20, 4, 4)


def test_an_index_of_schema_1_killed_while_it_is_upgraded(case, tmp_path):
    older = case.lagging(f"{tmp_path.name}-older")
    before = dump(older)
    as_schema_1(older)
    versions = []
    for moment in range(1, 62, 4):
        index_dir = Path(shutil.copytree(older, older.with_name(f"{tmp_path.name}-{moment}")))
        code, _ = case.run("kill-at", case.folder, index_dir, moment)
        assert code == -signal.SIGKILL
        with Catalogue.open(index_dir) as catalogue:
            versions.append(catalogue.schema_version)
            assert len(catalogue.rows()) == len(before[0])
        case.check_resumed(index_dir)
    assert versions == sorted(versions)
    assert set(versions) == {1, 2}


def test_a_second_process_is_locked_out_until_the_first_is_dead(case, tmp_path):
    index_dir = tmp_path / "index"
    process = start_process("gated", case.folder, index_dir)
    assert process.stdout
    while not process.stdout.readline().startswith("batch"):
        assert process.poll() is None
    with pytest.raises(IndexLockedError, match="another one at work"):
        index_folder(case.folder, index_dir, FakeEncoder())
    process.kill()
    process.communicate()
    assert index_folder(case.folder, index_dir, FakeEncoder()).added == 20
