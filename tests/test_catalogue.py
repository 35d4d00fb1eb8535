import contextlib
import multiprocessing
import os
import shutil
import sqlite3
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from older_catalogues import as_schema_1

from retrieval.catalogue import IndexLock
from retrieval.catalogue.catalogue import CATALOGUE_NAME, Catalogue
from retrieval.catalogue.connection import Connection
from retrieval.errors import (
    CorruptIndexError,
    EncoderError,
    IndexLockedError,
    IndexMismatchError,
    IndexNotFoundError,
    StorageError,
)
from retrieval.records import Picture, bounds_under


def picture(path: bytes, **changes: object) -> Picture:
    base = Picture(b"/p", path, "id", 1, 2, b"hash-" + path, 3, 4, None, "{}")
    return base._replace(**changes)


def row_of(*values: float) -> np.ndarray:
    """A unit row in this direction."""
    row = np.array(values, np.float64)
    return (row / (np.linalg.norm(row) or 1)).astype(np.float32)


def slopes(features: np.ndarray) -> list[float]:
    """Tell rows of two apart, to the digits that are stored."""
    return [round(float(y / x), 2) for x, y in features]


@pytest.fixture
def catalogue(tmp_path):
    with Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=2) as opened:
        yield opened


def test_what_is_stored_comes_back(catalogue):
    feature = row_of(0.1, -1 / 3)
    stored = picture(b"/p/\xff\n.jpg", caption="一只猫", metadata='{"a": [1]}', width=None)
    with catalogue.transaction():
        row = catalogue.add(stored, feature)
    found = catalogue.find(b"/p/\xff\n.jpg")
    assert (found.row, found.picture) == (row, stored)
    assert os.fsencode(found.path) == b"/p/\xff\n.jpg"
    assert found.metadata == {"a": [1]}
    ((rows, features),) = catalogue.features()
    assert rows.tolist() == [row]
    assert features[0] == pytest.approx(feature, abs=2e-4)
    assert catalogue.find_content(stored.content_hash)[1].tolist() == feature.astype("f2").tolist()
    assert catalogue.find(b"/p/other") is None
    assert catalogue.find_content(b"other") is None


def test_rows_are_never_used_again(catalogue):
    with catalogue.transaction():
        first = catalogue.add(picture(b"/p/a"), row_of(1, 0))
        second = catalogue.add(picture(b"/p/b"), row_of(0, 1))
    with catalogue.transaction():
        catalogue.remove([first, second])
    with catalogue.transaction():
        assert catalogue.add(picture(b"/p/c"), row_of(1, 0)) > second


def test_a_transaction_happens_as_a_whole_or_not_at_all(catalogue):
    with catalogue.transaction():
        catalogue.add(picture(b"/p/a"), row_of(1, 0))
        catalogue.fail(b"/p/x", 1, 2, "reason")
    before = (catalogue.generation, list(catalogue), catalogue.failures())

    def half() -> None:
        with catalogue.transaction():
            catalogue.add(picture(b"/p/b"), row_of(0, 1))
            catalogue.forgive(b"/p/x")
            catalogue.remove([1])
            catalogue.add(picture(b"/p/b"), row_of(0, 1))  # the same path twice

    with pytest.raises(sqlite3.IntegrityError):
        half()
    assert (catalogue.generation, list(catalogue), catalogue.failures()) == before


def test_writing_outside_a_transaction_is_refused(catalogue):
    with pytest.raises(RuntimeError, match="transaction"):
        catalogue.add(picture(b"/p/a"), row_of(1, 0))
    assert len(catalogue) == 0


def test_the_generation_counts_changes_of_features_only(catalogue):
    assert catalogue.generation == 0
    with catalogue.transaction():
        row = catalogue.add(picture(b"/p/a"), row_of(1, 0))
    assert catalogue.generation == 1
    with catalogue.transaction():
        catalogue.describe(row, picture(b"/p/a", caption="新"))
        catalogue.fail(b"/p/x", None, None, "reason")
    assert catalogue.generation == 1
    with catalogue.transaction():
        catalogue.replace(row, picture(b"/p/a"), row_of(0, 1))
        catalogue.add(picture(b"/p/b"), row_of(0, 1))
    assert catalogue.generation == 2
    with catalogue.transaction():
        catalogue.remove([row])
    assert catalogue.generation == 3


def test_features_since_a_generation(catalogue):
    for i, path in enumerate([b"/p/a", b"/p/b", b"/p/c"]):
        with catalogue.transaction():
            catalogue.add(picture(path), row_of(1, i))
    with catalogue.transaction():
        catalogue.replace(1, picture(b"/p/a"), row_of(1, 7))
    assert catalogue.rows().tolist() == [1, 2, 3]
    assert catalogue.rows(since=2).tolist() == [1, 3]
    ((rows, features),) = catalogue.features(since=2)
    assert rows.tolist() == [1, 3]
    assert slopes(features) == [7, 2]
    assert list(catalogue.features(since=4)) == []


def test_features_come_page_by_page(catalogue, monkeypatch):
    monkeypatch.setattr("retrieval.catalogue.reading._FEATURE_PAGE", 2)
    monkeypatch.setattr("retrieval.catalogue.reading._PAGE", 2)
    with catalogue.transaction():
        for i in range(5):
            catalogue.add(picture(b"/p/%d" % i), row_of(1, i))
    pages = list(catalogue.features())
    assert [rows.tolist() for rows, _ in pages] == [[1, 2], [3, 4], [5]]
    assert slopes(np.concatenate([features for _, features in pages])) == [0, 1, 2, 3, 4]
    assert [record.row for record in catalogue] == [1, 2, 3, 4, 5]
    assert sorted(catalogue.records([5, 1, 3, 99])) == [1, 3, 5]


def change_of(catalogue: Catalogue, since: int) -> tuple[int, list[int], list[int], list[float]]:
    with catalogue.changes(since) as change:
        features = {
            row: slope
            for rows, page in change.features
            for row, slope in zip(rows.tolist(), slopes(page), strict=True)
        }
        assert list(features) == change.written.tolist()
        return (
            change.generation,
            change.removed.tolist(),
            change.written.tolist(),
            list(features.values()),
        )


def three_changed(catalogue: Catalogue) -> None:
    """Generation 1: rows 1 to 4. 2: row 1 goes. 3: row 2 changes, 3 goes, 5 comes."""
    with catalogue.transaction():
        for i in range(4):
            catalogue.add(picture(b"/p/%d" % i), row_of(1, i))
    with catalogue.transaction():
        catalogue.remove([1])
    with catalogue.transaction():
        catalogue.replace(2, picture(b"/p/1"), row_of(1, 7))
        catalogue.remove([3])
        catalogue.add(picture(b"/p/new"), row_of(1, 8))


def test_changes_since_a_generation(catalogue):
    three_changed(catalogue)
    assert change_of(catalogue, 1) == (3, [1, 3], [2, 5], [7, 8])
    assert change_of(catalogue, 2) == (3, [3], [2, 5], [7, 8])
    assert change_of(catalogue, 3) == (3, [], [], [])
    assert change_of(catalogue, 0) == (3, [], [2, 4, 5], [7, 3, 8])


def test_a_transaction_undone_leaves_no_removal(catalogue):
    three_changed(catalogue)

    def half() -> None:
        with catalogue.transaction():
            catalogue.remove([4])
            catalogue.add(picture(b"/p/1"), row_of(0, 1))  # a path that is there

    with pytest.raises(sqlite3.IntegrityError):
        half()
    assert change_of(catalogue, 2) == (3, [3], [2, 5], [7, 8])


def test_what_code_that_knows_no_record_removes_is_recorded(catalogue, tmp_path):
    three_changed(catalogue)
    database = sqlite3.connect(tmp_path / CATALOGUE_NAME)
    with database:
        database.execute("DELETE FROM images WHERE path = ?", (b"/p/3",))
        database.execute("UPDATE meta SET value = '4' WHERE key = 'generation'")
    database.close()
    assert change_of(catalogue, 3) == (4, [4], [], [])


def test_what_a_change_costs_follows_what_changed(tmp_path):
    def steps(count: int) -> int:
        """What SQLite does, in its own steps, to tell of two changes among many pictures."""
        with Catalogue.create_or_open(tmp_path / str(count), fingerprint="f", embed_dim=2) as one:
            with one.transaction():
                for i in range(count):
                    one.add(picture(b"/p/%d" % i), row_of(1, i))
            with one.transaction():
                one.add(picture(b"/p/new"), row_of(1, 0))
                one.remove([5])
            done = 0

            def step() -> int:
                nonlocal done
                done += 1
                return 0

            one.connection.db.set_progress_handler(step, 1)
            assert change_of(one, 1)[:3] == (2, [5], [count + 1])
            return done

    assert steps(4_000) < 1.1 * steps(100)


def test_a_feature_of_another_width_is_refused(catalogue):
    with pytest.raises(EncoderError, match=r"\[2\].*got \[3\]"), catalogue.transaction():
        catalogue.add(picture(b"/p/a"), row_of(1, 0, 0))
    assert len(catalogue) == 0


def test_unseen_paths_below_a_folder(catalogue):
    paths = [b"/p/a", b"/p/a/b", b"/p/ab", b"/p", b"/p0", b"/p/\xff\xff", b"/q/a"]
    with catalogue.transaction():
        for path in paths:
            catalogue.add(picture(path), row_of(1, 0))
            catalogue.fail(path, 1, 1, "reason")
        catalogue.mark_seen([b"/p/a"])
        catalogue.mark_seen([b"/p/a", b"/elsewhere"])
    assert catalogue.unseen_under(b"/p") == [b"/p/a/b", b"/p/ab", b"/p/\xff\xff"]
    assert catalogue.unseen_under(b"/p/a", "failures") == [b"/p/a/b"]
    assert catalogue.unseen_under(b"/") == sorted(set(paths) - {b"/p/a"})
    assert catalogue.count_under(b"/p") == 4


@given(folder=st.binary(min_size=1, max_size=3), other=st.binary(min_size=1, max_size=5))
def test_bounds_hold_exactly_the_paths_below(folder, other):
    folder, path = b"/" + folder.strip(b"/"), b"/" + other
    low, high = bounds_under(folder)
    below = path.startswith(folder if folder.endswith(b"/") else folder + b"/")
    assert (low <= path < high) == below


def test_failures_keep_the_state_they_were_in(catalogue):
    with catalogue.transaction():
        catalogue.fail(b"/p/b", 10, 20, "first")
        catalogue.fail(b"/p/b", 11, 21, "second")
        catalogue.fail(b"/p/a", None, None, "unreadable")
    assert [failure[:4] for failure in catalogue.failures()] == [
        (b"/p/a", None, None, "unreadable"),
        (b"/p/b", 11, 21, "second"),
    ]
    with catalogue.transaction():
        catalogue.forgive(b"/p/b")
    assert catalogue.failure(b"/p/b") is None


def test_another_model_is_refused_and_nothing_harmed(tmp_path):
    with Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=2) as first:
        with first.transaction():
            first.add(picture(b"/p/a"), row_of(1, 0))
        uid = first.uid
    with pytest.raises(IndexMismatchError, match=r"fingerprint f, .* got g"):
        Catalogue.create_or_open(tmp_path, fingerprint="g", embed_dim=2)
    with pytest.raises(IndexMismatchError, match=r"width 2 .* got 3"):
        Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=3)
    with Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=2) as again:
        assert (again.uid, len(again)) == (uid, 1)


def test_no_catalogue_names_the_command(tmp_path):
    with pytest.raises(IndexNotFoundError, match="clip-text index FOLDER"):
        Catalogue.open(tmp_path)
    (tmp_path / CATALOGUE_NAME).touch()  # what a process leaves that is killed at once
    with pytest.raises(IndexNotFoundError):
        Catalogue.open(tmp_path)
    with Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=2) as catalogue:
        assert len(catalogue) == 0


def test_damaged_and_foreign_files_are_told_apart_from_ours(tmp_path):
    def both() -> None:
        with pytest.raises(CorruptIndexError, match=CATALOGUE_NAME):
            Catalogue.open(tmp_path)
        with pytest.raises(CorruptIndexError, match=CATALOGUE_NAME):
            Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=2)

    path = tmp_path / CATALOGUE_NAME
    path.write_bytes(b"this is no database, but it is long enough to be one" * 100)
    both()
    path.unlink()
    with sqlite3.connect(path) as foreign:
        foreign.execute("CREATE TABLE other (x)")
    foreign.close()
    both()
    with sqlite3.connect(path) as later:
        later.execute("CREATE TABLE meta (key, value)")
        later.execute("INSERT INTO meta VALUES ('schema_version', '99')")
    later.close()
    with pytest.raises(CorruptIndexError, match="got 99"):
        Catalogue.open(tmp_path)


def test_a_reader_sees_one_moment_while_another_connection_writes(tmp_path):
    with Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=2) as writer:
        with writer.transaction():
            writer.add(picture(b"/p/a"), row_of(1, 0))
        with Catalogue.open(tmp_path) as reader:
            with reader.snapshot():
                assert reader.generation == 1
                with writer.transaction():
                    writer.add(picture(b"/p/b"), row_of(0, 1))
                assert reader.generation == 1
                with reader.snapshot():  # the moment of the outer one
                    assert reader.rows().tolist() == [1]
                assert reader.rows().tolist() == [1]
            assert reader.generation == 2
            assert reader.rows().tolist() == [1, 2]


def test_a_copy_that_sqlite_made_is_written_beside_its_readers(tmp_path):
    options = {"fingerprint": "f", "embed_dim": 2}
    with Catalogue.create_or_open(tmp_path / "a", **options) as catalogue:
        (tmp_path / "b").mkdir()
        catalogue.connection.read("VACUUM INTO ?", (str(tmp_path / "b" / CATALOGUE_NAME),))
    with (
        Catalogue.create_or_open(tmp_path / "b", **options) as writer,
        Catalogue.open(tmp_path / "b") as reader,
        reader.snapshot(),
    ):
        assert len(reader) == 0
        with writer.transaction():  # it would wait for the reader half a minute, and give up
            writer.add(picture(b"/p/a"), row_of(1, 0))
        assert len(reader) == 0


def test_a_replaced_file_is_noticed(tmp_path):
    Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=2).close()
    with Catalogue.open(tmp_path) as reader:
        assert not reader.is_replaced
        for left in tmp_path.iterdir():
            left.unlink()
        assert reader.is_replaced
        Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=2).close()
        assert reader.is_replaced


def test_threads_share_one_catalogue(catalogue):
    with catalogue.transaction():
        for i in range(50):
            catalogue.add(picture(b"/p/%d" % i), row_of(1, i))
    wrong: list[object] = []

    def read() -> None:
        for i in range(50):
            found = catalogue.find(b"/p/%d" % i)
            if found is None or found.row != i + 1:
                wrong.append(found)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    with catalogue.transaction():
        catalogue.add(picture(b"/p/more"), row_of(0, 1))
    for thread in threads:
        thread.join()
    assert wrong == []


def _read_as_nobody(index_dir: str) -> None:
    if os.geteuid() == 0:
        os.setuid(65534)
    with Catalogue.open(Path(index_dir)) as catalogue:
        features = sum(len(page) for _, page in catalogue.features())
        sys.exit(len(catalogue) + features + 10 * catalogue.schema_version)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
@pytest.mark.parametrize("schema", [1, 2])
def test_an_index_in_a_folder_that_cannot_be_written_can_be_read(tmp_path, schema):
    index_dir = tmp_path / "index"
    catalogue = Catalogue.create_or_open(index_dir, fingerprint="f", embed_dim=2)
    with catalogue, catalogue.transaction():
        catalogue.add(picture(b"/p/a"), row_of(1, 0))
    if schema == 1:
        as_schema_1(index_dir)
    assert not list(index_dir.glob("*-wal")), "the log is folded in when the last one closes"
    tmp_path.chmod(0o755)
    index_dir.chmod(0o555)
    try:
        # Forked, so that the child needs no right to read the interpreter's files.
        child = multiprocessing.get_context("fork").Process(
            target=_read_as_nobody, args=(str(index_dir),)
        )
        child.start()
        child.join()
    finally:
        index_dir.chmod(0o755)
    assert child.exitcode == 2 + 10 * schema


def _read_a_log_as_nobody(index_dir: str) -> None:
    if os.geteuid() == 0:
        os.setuid(65534)
    try:
        with Catalogue.open(Path(index_dir)) as catalogue:
            sys.exit(len(catalogue))
    except StorageError:
        sys.exit(70)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
@pytest.mark.parametrize(("suffixes", "told"), [(("-wal", "-shm"), 2), (("-wal",), 70)])
def test_what_a_killed_writer_left_in_its_log_is_read_or_said_to_be_out_of_reach(
    tmp_path, suffixes, told
):
    index_dir = tmp_path / "index"
    with Catalogue.create_or_open(tmp_path / "i", fingerprint="f", embed_dim=2) as catalogue:
        with catalogue.transaction():
            catalogue.add(picture(b"/p/a"), row_of(1, 0))
        catalogue.connection.read("PRAGMA wal_checkpoint(TRUNCATE)")
        with catalogue.transaction():
            catalogue.add(picture(b"/p/b"), row_of(0, 1))
        index_dir.mkdir()
        for suffix in ("", *suffixes):  # as they lie there when it is killed now
            shutil.copy(tmp_path / "i" / f"{CATALOGUE_NAME}{suffix}", index_dir)
    tmp_path.chmod(0o755)
    index_dir.chmod(0o555)
    try:
        child = multiprocessing.get_context("fork").Process(
            target=_read_a_log_as_nobody, args=(str(index_dir),)
        )
        child.start()
        child.join()
    finally:
        index_dir.chmod(0o755)
    assert child.exitcode == told
    with Catalogue.open(index_dir) as catalogue:
        assert len(catalogue) == 2


class Interrupted(sqlite3.Connection):
    """Stopped by Ctrl-C while it waits for a transaction to begin."""

    def execute(self, sql, *values):
        done = super().execute(sql, *values)
        if sql.startswith("BEGIN"):
            raise KeyboardInterrupt
        return done


def test_a_transaction_that_is_stopped_as_it_begins_is_ended(tmp_path):
    Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=2).close()
    path = tmp_path / CATALOGUE_NAME
    with contextlib.closing(sqlite3.connect(path, factory=Interrupted, isolation_level=None)) as db:
        connection = Connection(db, path)
        for begin in (connection.snapshot, connection.transaction):
            with pytest.raises(KeyboardInterrupt), begin():
                pass
            assert not db.in_transaction


def test_nothing_is_written_to_a_file_that_is_gone(tmp_path, tmp_path_factory):
    Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=2).close()
    copy = shutil.copy(tmp_path / CATALOGUE_NAME, tmp_path_factory.mktemp("copy"))
    with Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=2) as catalogue:
        with catalogue.transaction():
            catalogue.add(picture(b"/p/a"), row_of(1, 0))
        shutil.rmtree(tmp_path)

        def add() -> None:
            with catalogue.transaction():
                catalogue.add(picture(b"/p/b"), row_of(0, 1))

        with pytest.raises(StorageError, match=r"got none or another in its place\. Open"):
            add()
        tmp_path.mkdir()
        shutil.copy(copy, tmp_path / CATALOGUE_NAME)
        with pytest.raises(StorageError, match=r"got none or another in its place\. Open"):
            add()
        (tmp_path / CATALOGUE_NAME).unlink()
        Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=2).close()
        with pytest.raises(StorageError, match=r"got none or another in its place\. Open"):
            add()


def test_a_file_that_is_numbered_anew_is_written_to(tmp_path):
    with Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=2) as catalogue:
        catalogue.connection._identity = (0, 0)
        for name in (b"/p/a", b"/p/b"):
            with catalogue.transaction():
                catalogue.add(picture(name), row_of(1, 0))
        assert len(catalogue) == 2


def test_the_lock_is_released_by_whichever_thread(tmp_path):
    lock = IndexLock(tmp_path)
    lock.__enter__()
    thread = threading.Thread(target=lock.__exit__)
    thread.start()
    thread.join()
    with IndexLock(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"a folder to write an index to, got .*file/index: Not"):
        IndexLock(tmp_path / "file" / "index").__enter__()


def test_one_writer_holds_the_lock_whichever_thread_asks(tmp_path):
    asked: list[str] = []

    def ask() -> None:
        try:
            with IndexLock(tmp_path):
                asked.append("taken")
        except IndexLockedError:
            asked.append("refused")

    def ask_elsewhere() -> None:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()

    with IndexLock(tmp_path):
        ask()
        ask_elsewhere()
    ask()
    ask_elsewhere()
    assert asked == ["refused", "refused", "taken", "taken"]
