"""The index of vectors in PostgreSQL: what it finds, when it is made, and collections swapped."""

import numpy as np
import pytest
from test_postgresql_tables import item

from retrieval.errors import IndexNotFoundError, StorageError
from retrieval.filters.language import parse_where
from retrieval.stores import as_location, connect
from retrieval.stores.postgresql import searching, store, upkeep

pytestmark = pytest.mark.engines

WIDTH, COUNT = 32, 1500
MODEL = {"fingerprint": "f", "embed_dim": WIDTH}


def unit(number, seed=0):
    rows = np.random.default_rng(seed).standard_normal((number, WIDTH)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def fill(opened, features):
    rows = []
    for start in range(0, len(features), 500):
        with opened.transaction():
            rows += [
                opened.add(item(f"{n}", {"n": n, "even": n % 2 == 0}), features[n])
                for n in range(start, min(len(features), start + 500))
            ]
    return np.array(rows, np.int64)


def best(features, rows, query, k):
    halves = features.astype(np.float16).astype(np.float32)
    return set(rows[np.argsort(-(halves @ query))[:k]].tolist())


@pytest.fixture
def small(monkeypatch):
    """Have so few be many."""
    monkeypatch.setattr(upkeep, "LEAST", 1000)
    monkeypatch.setattr(searching, "FEW", 200)
    monkeypatch.setattr(store, "_MANY", 400)
    monkeypatch.setattr(store, "_BULK_SECONDS", 0.0)  # nothing here is a bulk load


@pytest.fixture
def filled(table, small):
    features = unit(COUNT)
    with connect(table, **MODEL) as opened:
        rows = fill(opened, features)
        opened._builder.join()
        yield opened, features, rows


def test_a_bulk_load_makes_the_index_at_its_end(table, small, monkeypatch):
    monkeypatch.setattr(store, "_BULK_SECONDS", 60.0)
    with connect(table, **MODEL) as opened:
        fill(opened, unit(COUNT))
        assert opened._builder is None
        assert opened.vectors()["state"] == "exact"
    with connect(table) as opened:
        assert opened.vectors()["index_rows"] == COUNT


def plan(opened, where, k=10):
    """How the server would search."""
    selection = opened.filters.rows(parse_where(where))
    template, values, by_index = opened._statement(k, selection)
    sql = opened.names.statement(f"EXPLAIN {template}")
    vector = searching.HalfVector(unit(1)[0])
    with opened.connections.alone() as connection:
        lines = connection.execute(sql, (*values, vector, k)).fetchall()
    return by_index, "\n".join(line for (line,) in lines)


def test_an_index_is_made_by_whoever_brings_many(table, small):
    with connect(table, **MODEL) as opened:
        fill(opened, unit(COUNT))
    with connect(table) as opened, opened.connections.alone() as connection:
        assert len(opened._vector_indexes(connection)) == 1
        assert int(opened.noted("index_rows")) >= 1000
        assert not opened.is_due()


def test_all_is_found_where_there_is_an_index(filled):
    opened, features, rows = filled
    assert opened.compact().startswith(f"ivfflat of {COUNT} vectors in ")
    with opened.connections.alone() as connection:
        assert len(opened._vector_indexes(connection)) == 1
    queries = unit(20, seed=1)
    scores, found = opened.search(queries, 10)
    recalls = [
        len(best(features, rows, query, 10) & set(own.tolist())) / 10
        for query, own in zip(queries, found, strict=True)
    ]
    assert np.mean(recalls) >= 0.3  # of noise, a tenth of the lists has no more
    opened.set_probes(upkeep.lists_for(COUNT))
    scores, found = opened.search(queries, 10)
    for query, own, of_own in zip(queries, found, scores, strict=True):
        assert set(own.tolist()) == best(features, rows, query, 10)
        assert (np.diff(of_own) <= 0).all()
        assert of_own[0] == pytest.approx(max(features @ query), abs=1e-3)
    assert opened.search(queries[:2], 5000)[1].shape == (2, COUNT)
    assert sorted(opened.search(queries[:1], COUNT)[1][0].tolist()) == rows.tolist()


def test_filters_leave_as_many_as_were_asked_for(filled):
    opened, features, rows = filled
    opened.set_probes(1)  # far too few: the server goes on by itself
    many, few = parse_where("even = true"), parse_where("n < 50")
    for where, held in ((many, rows[::2]), (few, rows[:50])):
        selection = opened.filters.rows(where)
        assert len(selection) == len(held)
        scores, found = opened.search(unit(3, seed=2), 40, selection)
        assert found.shape == (3, 40)
        assert set(found.ravel().tolist()) <= set(held.tolist())
        assert (scores > -1.01).all()
    query = unit(1, seed=3)[0]
    _, found = opened.search(query[None], 10, opened.filters.rows(few))
    assert set(found[0].tolist()) == best(features[:50], rows[:50], query, 10)
    scores, found = opened.search(query[None], 5, np.array([rows[3], rows[7], 10**9]))
    assert set(found[0].tolist()) == {rows[3], rows[7]}
    none = opened.filters.rows(parse_where("n < 0"))
    assert opened.search(query[None], 5, none)[1].shape == (1, 0)


def test_few_are_gone_over_and_many_looked_up(filled):
    opened, _, _ = filled
    by_index, lines = plan(opened, "n < 50")
    assert not by_index
    assert "ivfflat" not in lines
    assert "feature_idx" not in lines
    by_index, lines = plan(opened, "even = true")
    assert by_index


def test_equal_pictures_come_by_their_rows(table):
    with connect(table, **MODEL) as opened:
        rows = fill(opened, np.repeat(unit(2), 30, axis=0))
        scores, found = opened.search(unit(2)[1:], 40)
        assert found[0].tolist() == [*rows[30:].tolist(), *rows[:10].tolist()]
        assert len(set(scores[0].tolist())) == 2


def test_advice_says_what_more_lists_find(filled):
    opened, _, _ = filled
    trials = opened.advise(unit(10, seed=4), 10)
    assert trials[0][:2] == ("exact", 1.0)
    recalls = [recall for _, recall, _ in trials[1:]]
    assert len(recalls) >= 3
    assert recalls[0] < recalls[-1] <= 1
    assert all(ms > 0 for _, _, ms in trials)


def test_collections_take_one_anothers_place(postgresql, table):
    other = as_location(postgresql.address(f"{table.name}_new"))
    with (
        connect(table, **MODEL) as opened,
        connect(other, **{**MODEL, "fingerprint": "new"}) as new,
        connect(table) as reader,
    ):
        fill(opened, unit(3))
        fill(new, unit(5, seed=5))
        state = reader.state()
        with pytest.raises(IndexNotFoundError):
            opened.swap("none_such")
        opened.swap(other.name)
        assert reader.state() != state
        assert len(reader) == 5
        with pytest.raises(StorageError, match="got another in its place"):
            fill(opened, unit(1))
    with connect(table) as opened:
        assert (opened.fingerprint, len(opened)) == ("new", 5)
    with connect(other, **MODEL) as opened:
        fill(opened, unit(1))
        opened.swap(table.name)
        assert (len(opened.rows()), connect_len(table)) == (5, 3)


def connect_len(place):
    with connect(place) as opened:
        return len(opened)


def test_a_new_calibration_is_another_state(table):
    with connect(table, **MODEL) as opened:
        states = [opened.state()]
        for text in ("{}", '{"a": 1}', None):
            with opened.transaction():
                opened.set_calibration(text)
            states.append(opened.state())
        assert len(set(states)) == 3
        assert states[0] == states[-1]


def test_queries_of_another_width_are_refused(table):
    with connect(table, **MODEL) as opened:
        with pytest.raises(ValueError, match="expected features of shape"):
            opened.search(np.zeros((1, 3), np.float32), 1)
        with pytest.raises(ValueError, match="expected k of at least 1"):
            opened.search(unit(1), 0)
