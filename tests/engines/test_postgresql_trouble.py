"""What goes wrong between a program and PostgreSQL, and what is said of it."""

import threading
import time
from urllib.parse import quote

import numpy as np
import psycopg
import pytest
from conftest import served
from test_postgresql_tables import FEATURE, MODEL, item, put

from retrieval.errors import (
    CorruptIndexError,
    IndexMismatchError,
    IndexNotFoundError,
    StorageError,
    StoreAccessError,
    StoreAddressError,
    StoreUnavailableError,
)
from retrieval.stores import as_location, connect
from retrieval.stores.postgresql import opening

pytestmark = pytest.mark.engines


@pytest.fixture
def own():
    """A server that may be killed."""
    yield from served(18)


def refused(text, error, **model):
    with pytest.raises(error) as caught:
        connect(as_location(text), **model)
    message = str(caught.value)
    assert message.startswith("expected ")
    assert "\n" not in message
    return message


class TestRefusals:
    def test_a_wrong_password_is_named_and_never_shown(self, postgresql):
        known = {name for (name,) in postgresql.admin("SELECT rolname FROM pg_roles")}
        if "guarded" not in known:
            password = postgresql.password.replace("'", "''")
            postgresql.admin(f"CREATE ROLE guarded SUPERUSER LOGIN PASSWORD '{password}'")
        right = f"guarded:{quote(postgresql.password, safe='')}"
        connect(as_location(postgresql.address("guarded", user=right)), **MODEL).close()
        for user in ("guarded:n0t-it", "guarded"):
            message = refused(postgresql.address("guarded", user=user), StoreAccessError)
            assert "n0t-it" not in message
        assert "nobody" in refused(postgresql.address("t", user="nobody"), StoreAccessError)

    def test_addresses_of_nothing(self, postgresql, tmp_path):
        message = refused(postgresql.address("none_such"), IndexNotFoundError)
        assert "clip-text index FOLDER --index postgresql://" in message
        refused(postgresql.address("t", database="none_such"), StoreAddressError, **MODEL)
        refused(postgresql.address("t", schema="none_such"), StoreAddressError, **MODEL)
        refused(postgresql.address("t", sslmode="odd"), StoreAddressError)
        refused(postgresql.address("t", timeout="odd"), StoreAddressError)
        refused("postgresql://postgres@localhost/t", StoreAddressError)
        began = time.monotonic()
        refused(f"postgresql://a@/b/t?host={tmp_path}", StoreUnavailableError)
        assert time.monotonic() - began < 10

    def test_another_model_is_refused(self, table):
        connect(table, **MODEL).close()
        for other in ({**MODEL, "fingerprint": "g"}, {**MODEL, "embed_dim": 3}):
            with pytest.raises(IndexMismatchError):
                connect(table, **other)

    def test_tables_of_others_and_of_newer_versions_are_left_alone(self, postgresql, table):
        connect(table, **MODEL).close()
        postgresql.admin(f"UPDATE {table.name}_meta SET value = '99' WHERE key = 'schema_version'")
        for model in ({}, MODEL):
            with pytest.raises(CorruptIndexError, match="got 99, which a newer clip-text wrote"):
                connect(table, **model)
        postgresql.admin("CREATE TABLE IF NOT EXISTS theirs (x int)")
        for model in ({}, MODEL):
            refused(postgresql.address("theirs"), CorruptIndexError, **model)

    def test_what_is_too_old_is_named_with_what_is_needed(self, table, monkeypatch):
        monkeypatch.setattr(opening, "OLDEST_SERVER", 99)
        with pytest.raises(StoreAccessError, match="PostgreSQL 99 or later"):
            connect(table, **MODEL)
        monkeypatch.undo()
        monkeypatch.setattr(opening, "OLDEST_EXTENSION", (99, 0))
        with pytest.raises(StoreAccessError, match=r"pgvector 99.0 or later .* got 0.8"):
            connect(table, **MODEL)

    def test_a_server_without_pgvector_is_told_so(self):
        for server in served(15):
            message = refused(server.address("t"), StoreAccessError, **MODEL)
            assert "pgvector 0.8 or later" in message
            assert "CREATE EXTENSION vector" in message

    def test_other_schemas_hold_collections_of_the_same_name(self, postgresql, table):
        postgresql.admin('CREATE SCHEMA IF NOT EXISTS "Odd one"')
        there = as_location(postgresql.address(table.name, schema="Odd%20one"))
        with connect(table, **MODEL) as here, connect(there, **MODEL) as other:
            put(here, [item("a", {"n": 1})])
            put(other, [item("b"), item("c")])
            assert (len(here), len(other)) == (1, 2)


def test_an_older_collection_gets_the_steps_that_it_lacks(table, monkeypatch):
    with connect(table, **MODEL) as store:
        put(store, [item("a")])
    steps = [*opening.migrations(), (2, "")]
    steps[1] = (2, 'ALTER TABLE :"failures" ADD COLUMN more halfvec(:embed_dim);')
    monkeypatch.setattr(opening, "migrations", lambda: steps)
    with connect(table, **MODEL) as store:
        assert store.noted("schema_version") == "2"
        assert len(store) == 1
        assert store.read("SELECT more FROM {failures}") == []
    connect(table, **MODEL).close()  # once


def test_several_who_make_it_at_once_make_one(table):
    made, wrong = [], []

    def make():
        try:
            with connect(table, **MODEL) as store:
                made.append(store.uid)
        except Exception as error:  # noqa: BLE001  (told below)
            wrong.append(error)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(made) == 6
    assert len(set(made)) == 1


class TestServersThatGoAway:
    def test_a_store_recovers_by_itself(self, own):
        with connect(as_location(own.address("t")), **MODEL) as store:
            put(store, [item("a")])
            own.stop()
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError):
                store.search(FEATURE[None], 1)
            assert time.monotonic() - began < 10
            with pytest.raises(StoreUnavailableError):
                put(store, [item("b")])
            own.start()
            assert store.search(FEATURE[None], 1)[1].shape == (1, 1)
            put(store, [item("b")])
            own.stop()
            own.start()
            assert len(store) == 1  # its connections were dead
            own.stop()
            own.start()
            put(store, [item("c")])  # likewise

    def test_a_server_that_stands_still_is_waited_for_no_longer_than_said(self, own):
        with connect(as_location(own.address("t", timeout="1")), **MODEL) as store:
            put(store, [item("a")])
            own.freeze()
            try:
                began = time.monotonic()
                with pytest.raises(StoreUnavailableError, match="nothing within 1 s"):
                    len(store)
                assert time.monotonic() - began < 5
            finally:
                own.freeze(still=False)
            assert len(store) == 1

    def test_a_collection_that_was_dropped_is_not_there(self, postgresql, table):
        with connect(table, **MODEL) as store:
            postgresql.admin(f"DROP TABLE {table.name}_meta")
            for ask in (store.state, lambda: put(store, [item("a")])):
                with pytest.raises(IndexNotFoundError):
                    ask()

    def test_what_was_acknowledged_survives_the_servers_death(self, own):
        address = as_location(own.address("t"))
        rng = np.random.default_rng(0)
        acknowledged, stop = [], threading.Event()

        def write():
            with connect(address, **MODEL) as store:
                for start in range(0, 100_000, 7):
                    names = [f"{n}" for n in range(start, start + 7)]
                    try:
                        with store.transaction():
                            for name in names:
                                store.add(item(name, {"n": int(name)}), FEATURE)
                    except StorageError:
                        break
                    acknowledged.extend(names)
                    if stop.is_set():
                        break

        for _ in range(3):
            connect(address, **MODEL).close()
            del acknowledged[:]
            with connect(address, **MODEL) as store, store.transaction():
                store.remove([record.row for record in list(store)])
            writer = threading.Thread(target=write)
            writer.start()
            time.sleep(0.5 + rng.random())
            own.kill()
            stop.set()
            writer.join()
            stop.clear()
            own.start()
            with connect(address) as store:
                there = [record.picture.image_id for record in store]
                assert acknowledged
                assert len(set(there)) == len(there)
                assert set(acknowledged) <= set(there)
                assert len(there) % 7 == 0
                assert len(there) - len(acknowledged) <= 7
                assert len(store.rows()) == len(there)
                assert store.search(FEATURE[None], 10**6)[1].shape == (1, len(there))

    def test_errors_of_the_server_are_told_in_one_line(self, table, postgresql):
        with connect(table, **MODEL) as store:
            put(store, [item("a")])
            postgresql.admin(f"ALTER TABLE {table.name} ADD CHECK (image_id <> 'b')")
            with pytest.raises(StorageError, match="got: new row for relation"):
                put(store, [item("b")])
            assert [record.picture.image_id for record in store] == ["a"]
            with pytest.raises(psycopg.Error):
                postgresql.admin("SELECT none_such")
