"""Filters in the catalogue against brute force over its pictures."""

import contextlib
import json
import sqlite3
import threading
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from generated_filters import FIELDS, questions
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from older_catalogues import as_schema_1, without_followers

from retrieval.catalogue import CATALOGUE_NAME, Catalogue, Facet
from retrieval.catalogue.fields import FOLDER
from retrieval.catalogue.filters import Filters
from retrieval.catalogue.followers import FIELDS as FOLLOWER
from retrieval.errors import QueryError
from retrieval.filters import OWN_FIELDS, Compare, Exists, In, Not, Prefix, matches
from retrieval.filters.language import parse_where
from retrieval.filters.matching import FieldsOf
from retrieval.filters.tree import leaves_of
from retrieval.filters.values import TEXT, as_value, stored_name
from retrieval.records import Picture

FEATURE = np.array([1, 0], np.float32)
EVIL = ["'", '"', "`", "a' OR '1'='1", "x); DELETE FROM images; --", "{}", "?", "%s", ":start"]


def picture(image_id, metadata=None, **changes):
    path = b"/p/" + image_id.encode()
    said = json.dumps(metadata or {}, ensure_ascii=False)
    return Picture(b"/p", path, image_id, 1, 0, b"", 3, 4, None, said)._replace(**changes)


def put(catalogue, these):
    """Make these the pictures of a catalogue; gives their rows."""
    with catalogue.transaction():
        catalogue.remove([record.row for record in list(catalogue)])
        return [catalogue.add(each, FEATURE) for each in these]


def known_of(catalogue):
    """The kinds of values of each field of metadata, read from the pictures themselves."""
    known = {}
    for record in catalogue:
        for name, values in FieldsOf(record.picture).metadata.items():
            known.setdefault(name, set()).update(kind for kind, _ in values)
    return known


def is_refused(leaf, known):
    """Whether no picture has the field, or none a value of a kind that it is compared with."""
    name = stored_name(leaf.field)
    if name is None:
        return False
    if isinstance(leaf, Exists):
        return not any(f"{held}.".startswith(f"{name}.") for held in known)
    if name not in known:
        return True
    asked = {TEXT} if isinstance(leaf, Prefix) else set()
    if isinstance(leaf, Compare | In):
        values = leaf.values if isinstance(leaf, In) else (leaf.value,)
        asked = {as_value(value)[0] for value in values if value is not None}
    return not asked <= known[name]


def brute_force(catalogue, where):
    """The rows a filter holds of, ascending; None if it has to be refused."""
    known = known_of(catalogue)
    if any(is_refused(leaf, known) for leaf in leaves_of(where)):
        return None
    return [record.row for record in catalogue if matches(where, record)]


def selected(catalogue, where):
    try:
        return catalogue.filters.rows(where).tolist()
    except QueryError:
        return None


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One catalogue for all examples of a property; each puts its own pictures in."""
    folder = tmp_path_factory.mktemp("shared")
    with Catalogue.create_or_open(folder, fingerprint="f", embed_dim=2) as opened:
        opened.connection.db.execute("PRAGMA synchronous = OFF")
        yield opened


@pytest.fixture
def catalogue(tmp_path):
    with Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=2) as opened:
        yield opened


@settings(max_examples=40)
@given(questions())
def test_a_filter_selects_what_brute_force_selects(shared, question):
    these, filters = question
    put(shared, these)
    for where in filters:
        assert selected(shared, where) == brute_force(shared, where)


@settings(max_examples=30)
@given(questions(lambda leaf: leaf), st.data())
def test_it_does_so_whatever_is_changed_in_between(shared, question, data):
    these, filters = question
    rows = put(shared, these)
    for where in filters:
        assert selected(shared, where) == brute_force(shared, where)
        if not rows:
            return
        row = data.draw(st.sampled_from(rows))
        record = shared.records([row])[row]
        other = data.draw(st.sampled_from(these))
        with shared.transaction():
            match data.draw(st.sampled_from(["describe", "replace", "remove"])):
                case "describe":
                    shared.describe(row, record.picture._replace(metadata=other.metadata))
                case "replace":
                    shared.replace(row, record.picture._replace(metadata=other.metadata), FEATURE)
                case "remove":
                    shared.remove([row])
                    rows.remove(row)
        assert selected(shared, where) == brute_force(shared, where)


@settings(max_examples=30)
@given(questions(), st.data(), st.integers(1, 4))
def test_facets_count_what_brute_force_counts(shared, question, data, limit):
    these, filters = question
    put(shared, these)
    where = data.draw(st.sampled_from([None, *filters]))
    field = data.draw(st.sampled_from(sorted(known_of(shared))) if known_of(shared) else FIELDS)
    field = data.draw(st.sampled_from([f"metadata.{field}", field]) | FIELDS)
    assume(field != "date")  # counted by years
    known, name = known_of(shared), stored_name(field)
    rows = {record.row for record in shared} if where is None else brute_force(shared, where)
    if rows is None or (name is not None and name not in known):
        with pytest.raises(QueryError):
            shared.filters.facets(field, where, limit)
        return
    counts = Counter(
        value
        for record in shared
        if record.row in rows
        for value in FieldsOf(record.picture).values(field)
    )
    expected = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit]
    facets = shared.filters.facets(field, where, limit)
    assert [(as_value(facet.value), facet.count) for facet in facets] == expected


@settings(max_examples=30)
@given(questions(), FIELDS)
def test_a_catalogue_without_the_table_gives_the_same(shared, question, field):
    """As one of before is, until somebody writes to it again."""
    these, (where, *_) = question
    put(shared, these)

    def answers(filters):
        said = []
        for ask in (
            lambda: filters.rows(where).tolist(),
            lambda: filters.facets(field),
            lambda: filters.facets(field, where),
        ):
            try:
                said.append(ask())
            except QueryError as error:
                said.append(sorted(str(error)))  # names it may tell in another order
        return said

    with_table = answers(Filters(shared.connection))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retrieval.catalogue.filters.has_fields", lambda *_: False)
        assert answers(Filters(shared.connection)) == with_table


def test_by_hand(catalogue):
    rows = put(
        catalogue,
        [
            picture("2024/a.png", {"year": 2020, "tags": ["海边", "狗"]}, mtime_ns=10**18),
            picture("b.png", {"year": 2021, "tags": "海边"}, caption="一只狗"),
            picture("c.png", {"year": 2019, "gps": {"lat": 1}}, width=None),
        ],
    )

    def found(text):
        return [rows.index(row) for row in catalogue.filters.rows(parse_where(text))]

    assert found('year >= 2020 and tags = "海边"') == [0, 1]
    assert found('not tags = "海边"') == [2]
    assert found('tags != "海边"') == []
    assert found("exists(gps) or exists(caption)") == [1, 2]
    assert found('path startswith "2024/" or not exists(width)') == [0, 2]
    assert found("date = 1970") == [1, 2]
    assert found("date >= 2001-09-09 and date < 2001-09-10") == [0]
    assert catalogue.filters.rows(Compare("year", "<", 0)).dtype == np.int64


def test_facets_by_hand(catalogue):
    put(
        catalogue,
        [
            picture("x/a.png", {"tags": ["b", "a", "a"], "n": 1}, mtime_ns=-1),
            picture("x/b.png", {"tags": ["b"], "n": 1.0}),
            picture("c.png", {"tags": [True, None], "n": 2}, mtime_ns=10**18),
        ],
    )
    facets = catalogue.filters.facets
    assert facets("tags") == [Facet("b", 2), Facet(None, 1), Facet(True, 1), Facet("a", 1)]
    assert facets("tags", limit=1) == [Facet("b", 2)]
    assert facets("n", Compare("tags", "=", "b")) == [Facet(1, 2)]
    assert facets("folder") == [Facet("x", 2), Facet("", 1)]
    assert facets("date") == [Facet(1969, 1), Facet(1970, 1), Facet(2001, 1)]
    assert facets("date", Not(Compare("date", "=", 1970))) == [Facet(1969, 1), Facet(2001, 1)]
    assert facets("width") == [Facet(3, 3)]
    assert facets("caption") == []
    with pytest.raises(QueryError, match="limit of at least 1, got 0"):
        facets("tags", limit=0)


@pytest.mark.parametrize("evil", EVIL)
def test_what_would_be_sql_is_text(catalogue, evil):
    rows = put(catalogue, [picture("a.png", {evil: evil, "b": [evil, "x"]}), picture(f"{evil}/b")])
    for where in (
        Compare(evil, "=", evil),
        Compare("b", ">=", evil),
        In("b", (evil, "y")),
        Prefix(evil, evil),
        Exists(evil),
    ):
        assert catalogue.filters.rows(where).tolist() == rows[:1]
    assert catalogue.filters.rows(Compare("path", "=", f"{evil}/b")).tolist() == rows[1:]
    assert catalogue.filters.rows(Prefix("folder", evil)).tolist() == rows[1:]
    assert catalogue.filters.facets(evil) == [Facet(evil, 1)]
    assert len(catalogue) == 2


def test_a_picture_without_a_file_has_no_date(catalogue):
    rows = put(catalogue, [picture("a", root=None, path=None, mtime_ns=None), picture("b")])

    def found(text):
        return [rows.index(row) for row in catalogue.filters.rows(parse_where(text))]

    assert found("date < 9999 or date >= 0001 or date != 1999") == [1]
    assert found("exists(date)") == [1]
    assert found("not date = 1970") == [0]
    assert catalogue.filters.facets("date") == [Facet(1970, 1)]


def test_a_folder_is_what_stands_before_the_last_slash(catalogue):
    ids = ["a//b", "s3://k", "//x", "a/", "a//", "/", "x/y", "x"]
    rows = dict(zip(ids, put(catalogue, [picture(one) for one in ids]), strict=True))
    folders = {facet.value: facet.count for facet in catalogue.filters.facets("folder")}
    assert folders == {"a/": 2, "s3:/": 1, "/": 1, "a": 1, "": 2, "x": 1}
    where = Compare("folder", "=", "s3:/")
    assert catalogue.filters.rows(where).tolist() == [rows["s3://k"]]


def test_fields_as_they_were_made_before_are_read_until_somebody_writes(
    catalogue, tmp_path, monkeypatch
):
    put(catalogue, [picture("a//b", {"n": 1})])
    catalogue.close()
    with contextlib.closing(sqlite3.connect(tmp_path / CATALOGUE_NAME)) as db, db:
        old = "rtrim(rtrim(image_id, replace(image_id, '/', '')), '/')"
        db.execute("DROP INDEX fields_folder")
        db.execute(f"CREATE INDEX fields_folder ON images ({old})")
        db.execute("UPDATE meta SET value = '1' WHERE key = 'follower_fields'")
    with monkeypatch.context() as patched, Catalogue.open(tmp_path) as reader:
        patched.setattr(Filters, "_all_fields", None)  # it need not read all pictures
        assert reader.filters.facets("n") == [Facet(1, 1)]
        assert reader.filters.facets("folder") == [Facet("a/", 1)]
    with Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=2) as writer:
        sql = f"EXPLAIN QUERY PLAN SELECT row FROM images WHERE {FOLDER} = ?"
        assert "INDEX fields_folder" in writer.connection.read(sql, ("a/",))[0][-1]


class TestRefusals:
    @pytest.fixture
    def catalogue(self, catalogue):
        described = {"year": 2020, "tags": ["a"], "gps": {"lat": 1.5, "lon": 2}, "odd": [1, "x"]}
        put(catalogue, [picture("a.png", described)])
        return catalogue

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("yaer = 2020", "a field that some picture has, got yaer. Did you mean year?"),
            ("exists(tag)", "a field that some picture has, got tag. Did you mean tags?"),
            ("gps = 1", "got gps. Did you mean gps.lat or gps.lon?"),
            ("pth = 'a'", "got pth. Did you mean path?"),
            ("zzzzzz = 1", "There are gps.lat, gps.lon, odd, tags, year, path, folder, date and 3"),
            ("a = 1 or not zzzzzz = 1", "expected a field that some picture has, got"),
            ('year >= "2020"', 'numbers for year, as its values are, got "2020". Compare it'),
            ("tags in ('a', 3)", "texts for tags, as its values are, got 3. Compare it"),
            ("tags = true", "texts for tags, as its values are, got true"),
            ("odd = false", "numbers or texts for odd, as its values are, got false"),
            ('year startswith "20"', 'numbers for year, as its values are, got "20"'),
        ],
    )
    def test_they_say_what_there_is(self, catalogue, text, message):
        with pytest.raises(QueryError) as caught:
            catalogue.filters.rows(parse_where(text))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_null_may_always_be_asked_for(self, catalogue):
        assert catalogue.filters.rows(parse_where("year = null")).tolist() == []
        assert catalogue.filters.rows(parse_where("year != null")).tolist() == [1]

    def test_a_field_is_unknown_again_when_its_last_picture_is_gone(self, catalogue):
        put(catalogue, [picture("b.png", {"month": 5})])
        with pytest.raises(QueryError, match=r"got year. There are month"):
            catalogue.filters.rows(parse_where("year = 2020"))

    def test_deep_filters_are_refused_before_anything_is_read(self, catalogue):
        where = Exists("year")
        for _ in range(1_000):
            where = Not(where)
        with pytest.raises(QueryError, match="at most 32 conditions in one another"):
            catalogue.filters.rows(where)
        with pytest.raises(QueryError, match="at most 32 conditions in one another"):
            catalogue.filters.facets("year", where)


def test_long_lists_are_more_than_sqlite_takes_at_once(catalogue):
    rows = put(catalogue, [picture(f"{i}.png", {"n": i}) for i in range(3)])
    where = In("n", tuple(range(1, 10_000)))
    assert catalogue.filters.rows(where).tolist() == rows[1:]


def test_a_reader_sees_what_another_connection_writes(catalogue, tmp_path):
    where = Compare("year", "=", 2020)
    (row,) = put(catalogue, [picture("a.png", {"year": 2020})])
    with Catalogue.open(tmp_path) as reader:
        assert reader.filters.rows(where).tolist() == [row]
        generation = reader.generation
        with catalogue.transaction():
            catalogue.describe(row, picture("a.png", {"year": 2021}))
        assert reader.generation == generation  # what is said changed, no feature
        assert reader.filters.rows(where).tolist() == []
        with catalogue.transaction():
            catalogue.add(picture("b.png", {"year": 2020}), FEATURE)
        assert reader.filters.rows(where).tolist() == [row + 1]


def test_what_was_selected_is_kept_until_something_is_written(catalogue):
    put(catalogue, [picture("a.png", {"year": 2020, "tags": ["x"]})])
    seen = []
    catalogue.connection.db.set_trace_callback(seen.append)
    filters = catalogue.filters
    filters.rows(parse_where('year = 2020 and not tags = "x"'))
    first = sum("group_concat" in sql for sql in seen)
    seen.clear()
    filters.rows(parse_where('tags = "x" or year = 2020 and year != 2020'))
    assert (first, sum("group_concat" in sql for sql in seen)) == (3, 1)  # having a year is new
    with catalogue.transaction():
        catalogue.add(picture("b.png", {"year": 2020}), FEATURE)
    assert len(filters.rows(parse_where("year = 2020"))) == 2


def test_true_is_not_mistaken_for_the_one_that_is_kept(catalogue):
    rows = put(catalogue, [picture("a.png", {"n": 1}), picture("b.png", {"n": True})])
    assert catalogue.filters.rows(Compare("n", "=", 1)).tolist() == rows[:1]
    assert catalogue.filters.rows(Compare("n", "=", True)).tolist() == rows[1:]
    assert catalogue.filters.rows(Compare("n", "=", 1.0)).tolist() == rows[:1]


def test_what_is_kept_does_not_grow_without_end(catalogue, monkeypatch):
    monkeypatch.setattr("retrieval.catalogue.filters._KEPT_BYTES", 8)
    rows = put(catalogue, [picture(f"{i}.png", {"n": i}) for i in range(20)])
    for i in range(20):
        assert catalogue.filters.rows(Compare("n", "=", i)).tolist() == [rows[i]]
    assert len(catalogue.filters._kept) <= 2


def test_several_threads_may_ask_at_once(catalogue, tmp_path):
    put(catalogue, [picture(f"{i}.png", {"n": i % 7}) for i in range(100)])
    wrong = []

    def ask(reader, n):
        for _ in range(20):
            if len(reader.filters.rows(Compare("n", "=", n))) != len(range(n, 100, 7)):
                wrong.append(n)

    with Catalogue.open(tmp_path) as reader:
        threads = [threading.Thread(target=ask, args=(reader, n)) for n in range(7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_transaction_that_fails_leaves_the_fields_as_they_were(catalogue):
    put(catalogue, [picture("a.png", {"n": 1})])

    def half() -> None:
        with catalogue.transaction():
            catalogue.describe(1, picture("a.png", {"n": 2}))
            catalogue.add(picture("a.png"), FEATURE)  # the same path twice

    with pytest.raises(sqlite3.IntegrityError):
        half()
    assert catalogue.filters.rows(Compare("n", "=", 1)).tolist() == [1]


def test_metadata_that_is_no_json_has_no_fields(catalogue):
    deep = "[" * 100_000
    rows = put(
        catalogue, [picture("a.png", metadata=None)._replace(metadata=deep), picture("b", {"n": 1})]
    )
    assert catalogue.filters.rows(Exists("n")).tolist() == rows[1:]


class TestCataloguesOfBefore:
    """Those that were written before there was a table of fields."""

    @pytest.fixture(params=[1, 2], ids=["schema 1", "schema 2"])
    def before(self, tmp_path, request):
        with Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=2) as opened:
            put(opened, [picture("a.png", {"n": 1}), picture("b.png", {"n": 2, "m": ["x"]})])
        if request.param == 1:
            as_schema_1(tmp_path)
        else:
            db = sqlite3.connect(tmp_path / CATALOGUE_NAME)
            without_followers(db)
            db.close()
        return tmp_path

    def test_are_filtered_picture_by_picture(self, before):
        with Catalogue.open(before) as reader:
            assert reader.filters.rows(Compare("n", ">", 1)).tolist() == [2]
            assert reader.filters.facets("m") == [Facet("x", 1)]
            with pytest.raises(QueryError, match="Did you mean n"):
                reader.filters.rows(Compare("nn", ">", 1))

    def test_get_the_table_by_the_next_writer(self, before):
        with Catalogue.create_or_open(before, fingerprint="f", embed_dim=2) as writer:
            db = writer.connection.db
            assert db.execute("SELECT count(*) FROM fields").fetchone() == (3,)
            assert writer.filters.rows(Compare("n", ">", 1)).tolist() == [2]
            with writer.transaction():
                writer.remove([2])
            assert db.execute("SELECT count(*) FROM fields").fetchone() == (1,)

    def test_stay_as_they_were_if_that_fails_halfway(self, before, monkeypatch):
        def fail(*_args):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(
            "retrieval.catalogue.followers.FOLLOWERS", [replace(FOLLOWER, written=fail)]
        )
        with pytest.raises(OSError, match="No space left"):
            Catalogue.create_or_open(before, fingerprint="f", embed_dim=2)
        db = sqlite3.connect(before / CATALOGUE_NAME)
        assert db.execute("SELECT name FROM sqlite_master WHERE name = 'fields'").fetchall() == []
        db.close()


def test_every_own_field_has_a_column():
    from retrieval.catalogue.conditions import COLUMNS

    assert list(COLUMNS) == list(OWN_FIELDS)
