# ruff: noqa: F811
"""What only a server can do to an index: be killed, be away, be written to by several."""

import itertools
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import FakeEncoder
from milvus_server import MilvusServer, milvus_binaries, milvus_server  # noqa: F401  (fixtures)

from retrieval.errors import (
    CorruptIndexError,
    IndexNotFoundError,
    ItemError,
    QueryError,
    StoreAccessError,
    StoreAddressError,
    StoreUnavailableError,
)
from retrieval.ingest import IndexWriter, Item, index_items, recognise_texts
from retrieval.stores import as_location, connect
from retrieval.stores.milvus.server import Server

pytestmark = pytest.mark.engines

WIDTH = 8
NAMES = (f"store_{number}" for number in itertools.count())


def unit_row(seed):
    row = np.random.default_rng(seed).standard_normal(WIDTH)
    return (row / np.linalg.norm(row)).astype(np.float32)


@pytest.fixture
def place(milvus_server):
    return as_location(f"{milvus_server.address}/{next(NAMES)}")


@pytest.fixture
def encoder():
    return FakeEncoder(WIDTH)


def test_all_that_was_acknowledged_survives_the_server_killed_amid_writes(
    tmp_path,
    milvus_binaries,
    encoder,
):
    server = MilvusServer(tmp_path, milvus_binaries).start()
    try:
        place = as_location(f"{server.address}/killed")
        IndexWriter.open(place, encoder).close()
        acknowledged, stopped = [], threading.Event()

        def write(name):
            with IndexWriter.open(place, encoder) as writer:
                for number in itertools.count():
                    if stopped.is_set():
                        return
                    try:
                        writer.add(f"{name}/{number}", feature=unit_row(number))
                    except StoreUnavailableError:
                        return
                    acknowledged.append(f"{name}/{number}")

        threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        while len(acknowledged) < 40:
            time.sleep(0.01)
        server.kill()
        for thread in threads:
            thread.join()
        stopped.set()
        server.start()
        with connect(place) as store:
            found = [record.picture.image_id for record in _patiently(lambda: list(store))]
            assert len(found) == len(set(found)) == len(store)
            assert set(acknowledged) <= set(found)
            # one that was being written may have come through, of each writer
            assert len(found) <= len(acknowledged) + 2
    finally:
        server.kill()


def test_a_store_waits_in_vain_for_a_few_seconds_and_recovers_by_itself(
    tmp_path,
    milvus_binaries,
    encoder,
):
    server = MilvusServer(tmp_path, milvus_binaries).start()
    try:
        place = as_location(f"{server.address}/away")
        with IndexWriter.open(place, encoder) as writer:
            writer.add("a", feature=unit_row(1))
        with connect(place) as store:
            assert store.search(unit_row(1)[None], 1)[0][0, 0] == pytest.approx(1, abs=1e-3)
            server.kill()
            started = time.monotonic()
            with pytest.raises(StoreUnavailableError, match="expected an answer"):
                store.search(unit_row(1)[None], 1)
            assert time.monotonic() - started < 15
            server.start()
            deadline = time.monotonic() + 60
            while True:  # 2.3 may answer as if it were empty for a moment, while it loads
                scores, _ = _patiently(lambda: store.search(unit_row(1)[None], 1))
                if scores.size or time.monotonic() > deadline:
                    break
                time.sleep(0.5)
            if not scores.size:  # known, on a busy machine; not understood yet
                pytest.xfail("Milvus 2.3.5, killed and started again, loaded the collection empty")
            assert scores[0, 0] == pytest.approx(1, abs=1e-3)
    finally:
        server.kill()


def _patiently(do, seconds=60):
    """Do what a server that has just started may refuse for a while."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return do()
        except StoreUnavailableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def test_one_who_may_not_is_refused_without_a_word_of_the_password(
    tmp_path,
    milvus_binaries,
    encoder,
):
    server = MilvusServer(tmp_path, milvus_binaries, authorized=True).start()
    try:
        host = server.address.removeprefix("milvus://")
        with pytest.raises(StoreAccessError) as refused:
            connect(as_location(f"milvus://root:geheim@{host}/x"))
        assert "geheim" not in str(refused.value)
        with pytest.raises(StoreAccessError):
            connect(as_location(f"milvus://{host}/x"))
        place = as_location(f"milvus://root:Milvus@{host}/x")
        with IndexWriter.open(place, encoder) as writer:
            writer.add("a", feature=unit_row(1))
            assert len(writer) == 1
    finally:
        server.kill()


def test_of_two_who_make_an_index_at_once_both_have_the_one(place):
    stores, refused = [], []

    def make():
        try:
            stores.append(connect(place, fingerprint="f", embed_dim=WIDTH))
        except Exception as error:  # noqa: BLE001
            refused.append(error)

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == []
    assert len({store.uid for store in stores}) == 1
    for store in stores:
        store.close()


def test_one_id_added_by_two_at_once_is_one_picture(place, encoder):
    with IndexWriter.open(place, encoder) as first, IndexWriter.open(place, encoder) as second:
        start = threading.Barrier(2)

        def add(writer):
            for number in range(10):
                start.wait()
                writer.add(f"{number}", feature=unit_row(number))

        threads = [threading.Thread(target=add, args=(writer,)) for writer in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(record.picture.image_id for record in first) == sorted(map(str, range(10)))
        assert len(first) == len(second) == 10


def test_names_of_nothing_and_of_others_are_told(place, milvus_server):
    with pytest.raises(IndexNotFoundError, match="clip-text index FOLDER --index milvus://"):
        connect(place)
    with pytest.raises(StoreAddressError, match="database"):
        connect(as_location(f"{milvus_server.address}/nowhere/x"))
    from pymilvus import MilvusClient

    client = MilvusClient(uri=milvus_server.address.replace("milvus", "http"), timeout=10)
    client.create_collection("foreign", dimension=4)
    with pytest.raises(CorruptIndexError, match="another collection"):
        connect(as_location(f"{milvus_server.address}/foreign"), fingerprint="f", embed_dim=4)
    client.close()


def test_two_indexes_change_places(place, milvus_server, encoder):
    other = as_location(f"{milvus_server.address}/{next(NAMES)}")
    for location, image_id in ((place, "old"), (other, "new")):
        with IndexWriter.open(location, encoder) as writer:
            writer.add(image_id, feature=unit_row(1))
    with connect(place) as searching, connect(place) as store:
        before = searching.state()
        store.swap(other.name)
        assert searching.state() != before
        _, rows = searching.search(unit_row(1)[None], 1)
        (record,) = searching.records(rows[0].tolist()).values()
        assert record.picture.image_id == "new"
    with connect(other) as store:
        assert [record.picture.image_id for record in store] == ["old"]


def test_more_than_the_server_holds_of_a_picture_is_refused_and_nothing_is_stored(place, encoder):
    with IndexWriter.open(place, encoder) as writer:
        writer.add("long", feature=unit_row(1), caption="海" * 15_000)
        with pytest.raises(ItemError, match="65280 bytes"):
            writer.add("too long", feature=unit_row(2), caption="海" * 30_000)
        assert [record.picture.image_id for record in writer] == ["long"]


def test_equal_pictures_stand_in_the_order_of_their_rows_and_compacting_tells(place, encoder):
    with IndexWriter.open(place, encoder) as writer:
        rows = [writer.add(f"{number}", feature=unit_row(1)) for number in range(40)]
    with connect(place) as store:
        scores, found = store.search(unit_row(1)[None], 10)
        assert found[0].tolist() == sorted(rows)[:10]
        assert len(set(scores[0].tolist())) == 1
        assert "40 pictures" in store.compact()
        assert store.search(unit_row(1)[None], 10)[1].tolist() == found.tolist()
        among = np.array(sorted(rows)[5:8], np.int64)
        assert store.search(unit_row(1)[None], 10, among)[1].tolist() == [among.tolist()]


def test_finished_features_are_loaded_by_few_questions(place, encoder, monkeypatch):
    asked, run = [], Server.run

    def counted_run(self, *given, **named):
        asked.append(1)
        return run(self, *given, **named)

    monkeypatch.setattr(Server, "run", counted_run)
    for counted in ("added", "unchanged"):
        items = [Item(f"{n}", None, None, unit_row(n), None, {"n": n}) for n in range(600)]
        report = index_items(items, place, encoder, source="set")
        assert getattr(report, counted) == 600
    assert len(asked) < 150


def test_what_the_server_is_loading_is_not_loaded_again(place, monkeypatch):
    """Asked to, 2.3 serves it as an empty one before it has its pictures."""
    loaded, states = [], ["Loading", "NotLoad"]
    with connect(place, fingerprint="f", embed_dim=WIDTH) as store:
        server = store._collection.server
        state = SimpleNamespace(name="")
        monkeypatch.setattr(server._client, "get_load_state", lambda *_, **__: {"state": state})
        monkeypatch.setattr(server._client, "load_collection", lambda *_, **__: loaded.append(1))
        for state.name in states:
            server._load("any")
            assert len(loaded) == (state.name == "NotLoad")


def test_text_in_pictures_has_no_room(place, encoder, tmp_path):
    IndexWriter.open(place, encoder).close()
    with pytest.raises(QueryError, match="no --ocr"):
        recognise_texts(tmp_path, place, str)
