"""What PostgreSQL's tables hold, against an index in a folder that holds the same."""

import json
import threading

import numpy as np
import pytest
from generated_filters import questions
from hypothesis import HealthCheck, given, settings

from retrieval.catalogue import Catalogue, Facet
from retrieval.errors import QueryError
from retrieval.filters import Compare, Exists, In, Not, Or, Prefix
from retrieval.filters.language import parse_where
from retrieval.filters.tree import OWN_FIELDS
from retrieval.records import Picture
from retrieval.stores import connect
from retrieval.stores.postgresql.adapting import escaped, unescaped

pytestmark = pytest.mark.engines

FEATURE = np.array([1, 0], np.float32)
EVIL = [
    "'",
    '"',
    "a' OR '1'='1",
    "x); DELETE FROM t1; --",
    "{pictures}",
    "{}",
    "%s",
    "%",
    "$1",
    ":x",
]
MODEL = {"fingerprint": "f", "embed_dim": 2}


def picture(name, metadata=None, **changes):
    said = json.dumps(metadata or {}, ensure_ascii=False)
    made = Picture(b"/p", b"/p/" + name.encode(), name, 1, 2, name.encode(), 3, 4, None, said)
    return made._replace(**changes)


def item(name, metadata=None, **changes):
    return picture(name, metadata, root=None, path=None, **changes)


def put(store, these):
    with store.transaction():
        store.remove([record.row for record in list(store)])
        return [store.add(each, FEATURE) for each in these]


def answered(do, *arguments):
    """What is given, or what is said of why nothing is."""
    try:
        found = do(*arguments)
    except QueryError as error:
        return str(error)
    return found


@pytest.fixture
def store(table):
    with connect(table, **MODEL) as opened:
        yield opened


@pytest.fixture
def twin(tmp_path):
    with Catalogue.create_or_open(tmp_path, **MODEL) as opened:
        yield opened


def test_filters_facets_and_fields_are_the_catalogues(store, twin):
    @settings(max_examples=25, suppress_health_check=list(HealthCheck), database=None)
    @given(questions())
    def check(asked):
        these, filters = asked
        here, there = put(store, these), put(twin, these)
        known = [field.name for field in twin.filters.fields()]
        assert store.filters.fields() == twin.filters.fields()
        for field in (*known, *OWN_FIELDS, "none such"):
            asked = (field, None, 5)
            assert answered(store.filters.facets, *asked) == answered(twin.filters.facets, *asked)
        for where in filters:
            found = answered(store.filters.rows, where)
            expected = answered(twin.filters.rows, where)
            if isinstance(expected, str):
                assert found == expected
                continue
            selected = [there.index(row) for row in expected]
            assert [here.index(row) for row in found.tolist()] == selected
            assert len(found) == len(selected)
            assert store.filters.fields(where) == twin.filters.fields(where)
            for field in (*known, *OWN_FIELDS):
                assert store.filters.facets(field, where) == twin.filters.facets(field, where)
            _, rows = store.search(FEATURE[None], 9, found)
            assert sorted(rows[0].tolist()) == [here[place] for place in selected]

    check()


def test_folders_are_what_stands_before_the_last_slash(store):
    rows = put(store, [picture(name) for name in ("a", "a/b", "a/b/c", "a/\nb/c d", "x//y")])
    found = store.filters.facets("folder")
    assert sorted(facet.value for facet in found) == ["", "a", "a/\nb", "a/b", "x/"]
    assert store.filters.rows(Compare("folder", "=", "a/b")).tolist() == [rows[2]]


@pytest.mark.parametrize("evil", EVIL)
def test_what_would_be_sql_is_text(store, evil):
    rows = put(store, [item("a", {evil: evil, "b": [evil, "x"]}), item(f"{evil}/b")])
    for where in (
        Compare(evil, "=", evil),
        Compare("b", ">=", evil),
        In("b", (evil, "y")),
        In("b", (evil, *map(str, range(40)))),
        Prefix(evil, evil),
        Exists(evil),
        Or((Not(Exists("b")), Compare("b", "=", evil))),
    ):
        selected = store.filters.rows(where)
        assert set(selected.tolist()) >= set(rows[:1])
        assert set(store.search(FEATURE[None], 5, selected)[1][0].tolist()) >= set(rows[:1])
        store.words.rank(evil, 5, selected)
    assert store.filters.rows(Compare("path", "=", f"{evil}/b")).tolist() == rows[1:]
    assert store.filters.rows(Prefix("folder", evil)).tolist() == rows[1:]
    assert store.filters.facets(evil) == [Facet(evil, 1)]
    assert len(store) == 2


@pytest.mark.parametrize("text", ["", "\0", "\1", "a\0\1\2b", "\1\1", "\0\0", "\ue000\U0010ffff"])
def test_texts_are_kept_that_postgresql_takes_in_no_column(store, text):
    assert unescaped(escaped(text)) == text
    assert "\0" not in escaped(text)
    (row,) = put(store, [item("a", {"k": text, text: 1}, caption=text)])
    record = store.records([row])[row]
    assert (record.picture.caption, record.metadata) == (text, {"k": text, text: 1})
    for field in ("k", "caption"):
        assert store.filters.rows(Compare(field, "=", text)).tolist() == [row]
        assert store.filters.rows(Prefix(field, text[:1])).tolist() == [row]


def test_escaped_texts_keep_their_order():
    texts = ["", "\0", "\0\0", "\0a", "\1", "\1\0", "\2", "a", "a\0", "a\1", "b"]
    assert sorted(texts) == sorted(texts, key=escaped)
    for text in texts:
        for other in texts:
            assert text.startswith(other) == escaped(text).startswith(escaped(other))


def test_what_is_longer_than_an_index_takes_is_found(store):
    rng = np.random.default_rng(0)  # nothing to compress

    def long(n, end):
        return "".join(map(chr, rng.integers(0x4E00, 0x9FFF, n))) + end

    name, word = long(1000, ""), "".join(map(chr, rng.integers(0x3B1, 0x3C9, 9000)))
    value = long(3000, "x")
    path = b"/p/" + rng.integers(1, 255, 5000).astype(np.uint8).tobytes().replace(b"/", b"_")
    first, second, third = put(
        store,
        [
            item(name, {"k": value, value: [1]}, caption=word, content_hash=None),
            item(f"{name[:-1]}.", {"k": f"{value}y"}, content_hash=None),
            picture("long", path=path, caption=value),
        ],
    )
    assert store.find_item(name).row == first
    assert store.find(path).row == third
    assert store.paths_under(b"/p", "images") == [path]
    assert store.filters.rows(Compare("path", "=", name)).tolist() == [first]
    assert store.filters.rows(Compare("k", "=", value)).tolist() == [first]
    assert store.filters.rows(Compare("k", ">", value)).tolist() == [second]
    assert store.filters.rows(Compare("k", "<=", value)).tolist() == [first]
    assert store.filters.rows(Prefix("k", value)).tolist() == [first, second]
    assert store.filters.rows(In("k", (value, f"{value}y"))).tolist() == [first, second]
    assert store.filters.rows(Exists(value)).tolist() == [first]
    assert store.filters.rows(Compare("caption", "=", value)).tolist() == [third]
    assert store.words.rank(word, 5).rows.tolist() == [first]
    with store.transaction():
        store.fail(path, 1, 2, "broken")
        store.sources.assign(first, value)
    assert store.failure(path).reason == "broken"
    assert store.sources.counts() == {value: 1}


def test_large_filters_are_no_trouble(store):
    rows = put(store, [item(f"{n}", {"n": n, "t": f"{n}"}) for n in range(3)])
    assert store.filters.rows(In("n", tuple(range(1, 10_000)))).tolist() == rows[1:]
    assert store.filters.rows(In("t", tuple(map(str, range(1, 10_000))))).tolist() == rows[1:]
    many = Or(tuple(Compare("t", "=", str(n)) for n in range(1, 900)))
    assert store.filters.rows(many).tolist() == rows[1:]
    deep = Compare("n", "=", 1)
    for _ in range(31):
        deep = Not(deep)
    assert store.filters.rows(deep).tolist() == [rows[0], rows[2]]


def test_words_rank_as_in_a_folder(store, twin):
    rng = np.random.default_rng(3)
    words = ["海边", "日落", "dog", "cat", "自行车", "42", "灯塔", "red"]
    these = [
        item(f"{n}", {"said": " ".join(rng.choice(words, rng.integers(0, 5)))}, caption=f"{n} 号")
        for n in range(60)
    ]
    here, there = put(store, these), put(twin, these)
    for query in ("海边日落", "a dog and a cat", "自行车 42", "灯塔 unicorn", "的照片", "none", ""):
        found, expected = store.words.rank(query, 20), twin.words.rank(query, 20)
        assert [here.index(row) for row in found.rows] == [
            there.index(row) for row in expected.rows
        ]
        assert found.scores.tolist() == pytest.approx(expected.scores.tolist())
        assert found.shares.tolist() == pytest.approx(expected.shares.tolist())
    where = parse_where('path >= "3"')
    found = store.words.rank("海边", 9, store.filters.rows(where))
    expected = twin.words.rank("海边", 9, twin.filters.rows(where))
    assert [here.index(row) for row in found.rows] == [there.index(row) for row in expected.rows]
    some = np.array(here[:30], np.int64)
    assert set(store.words.rank("海边", 99, some).rows.tolist()) <= set(here[:30])


def test_what_was_read_in_pictures_stays_with_their_content(store):
    first, second = put(store, [picture("a", content_hash=b"x"), picture("b", content_hash=b"x")])
    put_others = [picture(f"{n}") for n in range(4)]
    with store.transaction():
        for other in put_others:
            store.add(other, FEATURE)
    assert store.words.unread(b"/p")[0] == (b"0", b"/p/0")
    with store.transaction():
        store.keep_recognised(b"x", "灯塔")
    assert store.words.rank("灯塔", 5).rows.tolist() == [first, second]
    assert store.records_and_texts([first])[1] == {first: "灯塔"}
    with store.transaction():
        store.describe(first, picture("a", content_hash=b"x", caption="日落"))
    assert first in store.words.rank("灯塔", 5).rows
    with store.transaction():
        store.remove([first])
    assert store.records_and_texts([second])[1] == {second: "灯塔"}
    with store.transaction():
        store.remove([second])
    assert store.read("SELECT FROM {recognised}") == []


def test_what_was_read_in_pictures_goes_where_their_content_changes(store):
    first, second = put(store, [picture("a", content_hash=b"x"), picture("b", content_hash=b"x")])
    with store.transaction():
        store.keep_recognised(b"x", "灯塔")
    with store.transaction():
        store.replace(first, picture("a", content_hash=b"y"), FEATURE)
    assert store.records_and_texts([first, second])[1] == {second: "灯塔"}
    with store.transaction():  # the last of that content goes, and another comes
        store.replace(second, picture("b", content_hash=b"y"), FEATURE)
        third = store.add(picture("c", content_hash=b"x"), FEATURE)
    assert store.records_and_texts([third])[1] == {third: "灯塔"}
    with store.transaction():
        store.replace(third, picture("c", content_hash=b"z"), FEATURE)
    assert store.read("SELECT FROM {recognised}") == []
    (again,) = put(store, [picture("d", content_hash=b"x")])
    assert store.records_and_texts([again])[1] == {}


def test_rows_are_not_given_twice(table, store):
    rows = put(store, [item("a"), item("b")])
    with store.transaction():
        store.remove(rows)
    with connect(table, **MODEL) as other:
        again = put(other, [item("c")])
    assert len({*rows, *again, *put(store, [item("d")])}) == 4


class TestTransactions:
    def test_paths_may_go_from_one_to_another(self, store):
        a, b = put(store, [picture("a"), picture("b")])
        with store.transaction():
            store.describe(b, picture("c"))
            store.describe(a, picture("b"))
            new = store.add(picture("a"), FEATURE)
            assert store.find(b"/p/a").row == new
            assert store.find(b"/p/b").row == a
        assert [store.find(path).row for path in (b"/p/a", b"/p/b", b"/p/c")] == [new, a, b]

    def test_reads_inside_see_what_was_written_inside(self, store):
        with store.transaction():
            row = store.add(picture("a", {"n": 1}), FEATURE)
            assert store.find_content(b"a")[0].row == row
            assert store.filters.rows(Compare("n", "=", 1)).tolist() == [row]
            assert store.search(FEATURE[None], 1)[1].tolist() == [[row]]
            store.fail(b"/p/x", 1, 2, "broken")
            assert store.failure(b"/p/x").reason == "broken"
            store.forgive(b"/p/x")
            assert store.failure(b"/p/x") is None
            store.sources.assign(row, "set")
            assert store.sources.is_seen(row)
            assert store.sources.of(row) == "set"
            store.mark_seen([b"/p/a"])
            assert store.unseen_under(b"/p") == []
            assert store.forget_under(b"/p") == 1
            assert len(store) == 0
        assert store.sources.counts() == {}

    def test_what_one_that_fails_saw_is_forgotten(self, store):
        (row,) = put(store, [picture("a")])

        def fail():
            with store.transaction():
                store.mark_seen([b"/p/a"])
                store.sources.assign(row, "set")
                store.add(item("new", {"another field": 1}), FEATURE)
                store.find_item("new")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert store.unseen_under(b"/p") == [b"/p/a"]
        assert not store.sources.is_seen(row)
        put(store, [item("b", {"another field": 1})])  # its number is not the one of before
        assert len(store.filters.rows(Exists("another field"))) == 1

    def test_others_see_nothing_before_its_end(self, table, store):
        with connect(table) as reader, store.transaction():
            store.add(item("a"), FEATURE)
            store.find_item("a")  # it was sent
            assert len(reader) == 0
            assert reader.search(FEATURE[None], 5)[1].shape == (1, 0)

    def test_a_snapshot_is_of_one_moment(self, table, store):
        put(store, [item("a")])
        with connect(table) as reader, reader.snapshot():
            assert len(reader) == 1
            put(store, [item("b"), item("c")])
            assert len(reader) == 1
            assert [record.picture.image_id for record in reader] == ["a"]

    def test_writers_take_turns_and_one_picture_stays_of_each(self, table):
        names = [f"{n}" for n in range(40)]
        wrong = []

        def write(own):
            order = np.random.default_rng(own).permutation(names)
            with connect(table, **MODEL) as store:
                for start in range(0, 40, 5):
                    with store.transaction():
                        for name in order[start : start + 5]:
                            # as a run over a folder, which looked before the transaction
                            store.add(picture(str(name), {"own": own}), FEATURE)
                            store.add(item(str(name), {"own": own}), FEATURE)

        def guarded(own):
            try:
                write(own)
            except Exception as error:  # noqa: BLE001  (told below)
                wrong.append(error)

        threads = [threading.Thread(target=guarded, args=(own,)) for own in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        with connect(table) as store:
            assert sorted(r.picture.image_id for r in store) == sorted(names * 2)
            assert len(store.rows()) == 80
            assert len(store.filters.rows(Exists("own"))) == 80

    def test_a_folders_picture_that_another_added_meanwhile_is_changed(self, table, store):
        with connect(table, **MODEL) as other:
            (row,) = put(other, [picture("a", {"n": 1})])
        with store.transaction():
            given = store.add(picture("a", {"n": 2}, caption="mine"), FEATURE)
            store.sources.assign(given, "set")
            store.describe(given, picture("a", {"n": 3}, caption="mine"))
        assert [record.row for record in store] == [row]
        assert store.filters.rows(Compare("n", "=", 3)).tolist() == [row]
        assert store.sources.of(row) == "set"


class TestReadAhead:
    def test_a_run_over_a_folder_asks_by_pages(self, table, store):
        put(store, [picture(f"{n:04}") for n in range(300)])
        with connect(table, **MODEL) as run:
            asked = []
            read = run.connections.read
            run.connections.read = lambda *arguments: asked.append(arguments) or read(*arguments)
            for n in range(300):
                assert run.find(b"/p/%04d" % n).picture.image_id == f"{n:04}"
                assert run.find(b"/p/%04dx" % n) is None
            assert len(asked) < 15

    def test_what_it_wrote_itself_is_known(self, store):
        put(store, [picture(f"{n:04}") for n in range(50)])
        for n in range(20):
            store.find(b"/p/%04d" % n)
        with store.transaction():
            store.describe(store.find(b"/p/0030").row, picture("0030", caption="new"))
            store.remove([store.find(b"/p/0031").row])
            store.add(picture("0032a"), FEATURE)
        assert store.find(b"/p/0030").picture.caption == "new"
        assert store.find(b"/p/0031") is None
        assert store.find(b"/p/0032a") is not None

    def test_items_are_asked_one_by_one_but_in_a_run_over_a_data_set(self, table, store):
        put(store, [item(f"{n}") for n in range(50)])
        with connect(table, **MODEL) as writer:
            for n in range(20):
                writer.find_item(f"{n}")
            put(store, [item("30", {"new": 1})])
            assert writer.find_item("30").metadata == {"new": 1}  # at once
            with writer.transaction():
                writer.sources.assign(writer.find_item("30").row, "set")
            assert writer.find_item("30").metadata == {"new": 1}
            assert writer.find_item("31") is None
