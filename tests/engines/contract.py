"""What an index does wherever it is kept: one suite, through the public functions, for all engines.

A test class of an engine inherits :class:`EngineContract` and gives a fixture ``place``: where a
fresh index is to be. Each result is held against that of a folder given the same pictures.
"""

import json
import os
import threading

import numpy as np
import pytest
from fakes import FakeEncoder, save_picture
from generated_filters import questions
from hypothesis import HealthCheck, given, settings

from retrieval.errors import (
    IndexMismatchError,
    IndexNotFoundError,
    ItemError,
    ItemNotFoundError,
    QueryError,
)
from retrieval.filters import Compare
from retrieval.filters.language import parse_where
from retrieval.ingest import IndexWriter, Item, index_folder, index_items, remove_pictures
from retrieval.overview import find_duplicates, take_statistics
from retrieval.search import Query, Searcher
from retrieval.stores import copy_index, open_for_reading, open_for_writing

WIDTH = 16
COLOURS = ("红", "绿", "蓝")
ODD_TEXTS = (
    "O'Brien",
    'a "quoted" word',
    "back\\slash",
    "percent % and _",
    "'; DROP TABLE images; --",
    "line\nend\ttab",
    "emoji 😀 和中文",
    "{{ }} {0} $1 :name ?",
    "",
)


def unit_rows(number, seed=0, width=WIDTH):
    rows = np.random.default_rng(seed).standard_normal((number, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def said(number):
    """Metadata of a picture by its number."""
    return {
        "year": 2000 + number % 20,
        "colour": COLOURS[number % 3],
        "tags": [f"t{number % 5}", f"t{number % 7}"],
        "score": number / 7,
        **({"rare": True} if number % 50 == 0 else {}),
    }


def shown(hits):
    """What of hits must be the same wherever the index is: rows, by which equals stand, need not.

    Equals are as scores are to two places, which is all that is compared of these.
    """
    told = [(hit.image_id, hit.caption, hit.metadata, round(hit.score, 2)) for hit in hits]
    return sorted(told, key=lambda one: (-one[3], one[0]))


def pictured(record):
    """What of a picture is the same in every index, in an order."""
    picture = record.picture
    return (picture.image_id, picture.path or b"", *map(str, picture))


def ids(hits):
    return [hit.image_id for hit in hits]


def refused_or(do, *arguments):
    """Give what is done, or what a QueryError says of why it is not."""
    try:
        return do(*arguments), None
    except QueryError as error:
        return None, str(error)


class EngineContract:
    """Of one engine."""

    has_words = True
    """Whether hybrid searches can be answered."""

    @pytest.fixture
    def encoder(self):
        return FakeEncoder(WIDTH)

    @pytest.fixture
    def place(self):
        raise NotImplementedError

    @pytest.fixture
    def folder(self, tmp_path):
        """Twelve pictures, two of one content, with captions; and a file that is none."""
        root = tmp_path / "图片"
        for number in range(11):
            save_picture(root / "a" / f"{number:02}.png", number)
        save_picture(root / "b" / "copy of 3.png", 3)
        (root / "broken.png").write_bytes(b"no picture")
        lines = [
            {"file_name": f"a/{number:02}.png", "caption": f"第{number}张 海边", "n": number}
            for number in range(0, 10, 2)
        ]
        text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
        (root / "metadata.jsonl").write_text(text, encoding="utf-8")
        return root

    @pytest.fixture
    def twin(self, tmp_path):
        """The folder of the index that results are held against."""
        return tmp_path / "twin"

    @pytest.fixture
    def filled(self, place, twin, encoder):
        """400 items with finished features, there and in the twin."""
        features = unit_rows(400, seed=5)
        for location in (twin, place):
            with IndexWriter.open(location, encoder) as writer:
                writer.add_many(
                    Item(f"p/{n:03}", None, None, features[n], f"张{n}", said(n))
                    for n in range(400)
                )
        return place

    # Folders

    def test_a_folder_is_indexed_and_searched_as_in_a_folder(self, place, twin, folder, encoder):
        reports = [index_folder(folder, location, encoder) for location in (twin, place)]
        counts = [(r.added, r.duplicates, r.failed, r.total) for r in reports]
        assert counts[0] == counts[1] == (11, 1, 1, 12)
        with Searcher.open(twin, encoder) as there, Searcher.open(place, encoder) as here:
            assert len(here) == 12
            for text in ("海边", "另一个"):
                assert shown(here.search(text, 20)) == shown(there.search(text, 20))
            hit = here.search("海边", 1)[0]
            assert hit.path == folder / hit.image_id
            assert here.record(hit.row).picture.content_hash is not None

    def test_a_second_run_encodes_nothing(self, place, folder, encoder):
        index_folder(folder, place, encoder)
        seen = encoder.seen
        report = index_folder(folder, place, encoder)
        assert (report.unchanged, report.failed, report.added) == (12, 1, 0)
        assert encoder.seen == seen

    def test_what_changed_came_moved_and_went_is_followed(self, place, folder, encoder):
        index_folder(folder, place, encoder)
        with Searcher.open(place, encoder) as searcher:
            row = searcher.find("a/05.png")[0].row
        save_picture(folder / "a" / "01.png", 101)
        save_picture(folder / "new.png", 102)
        (folder / "a" / "05.png").rename(folder / "b" / "moved.png")
        (folder / "a" / "07.png").unlink()
        save_picture(folder / "broken.png", 103)
        report = index_folder(folder, place, encoder)
        told = (report.updated, report.added, report.moved, report.removed, report.failed)
        assert told == (1, 2, 1, 1, 0)
        with Searcher.open(place, encoder) as searcher:
            assert searcher.find("b/moved.png")[0].row == row
            assert not searcher.find("a/07.png")
            assert len(searcher) == 13
            newest = encoder.encode_file(folder / "a" / "01.png")
            assert searcher.search_features(newest[None], 1)[0][0].image_id == "a/01.png"
        with open_for_writing(place) as (store, _):
            assert store.failures() == []
            assert store.count_under(os.fsencode(folder / "b")) == 2

    def test_pictures_are_removed_by_id_folder_and_root(self, place, folder, encoder):
        index_folder(folder, place, encoder)
        assert remove_pictures(place, ids=["a/00.png"]) == 1
        assert remove_pictures(place, folders=[folder / "b"]) == 1
        with pytest.raises(ItemNotFoundError):
            remove_pictures(place, ids=["a/01.png", "none such"])
        with Searcher.open(place, encoder) as searcher:
            assert len(searcher) == 10
        assert remove_pictures(place, roots=[folder]) == 10
        with Searcher.open(place, encoder) as searcher:
            assert searcher.search("海边") == []

    # Items

    def test_items_are_added_found_changed_and_deleted(self, place, encoder, tmp_path):
        file = save_picture(tmp_path / "1.png", 1)
        with IndexWriter.open(place, encoder) as writer:
            row = writer.add("猫/1", path=file, caption="一只猫", metadata={"tags": ["猫"], "n": 1})
            other = writer.add("2", data=save_picture(tmp_path / "2.png", 2).read_bytes())
            writer.add("3", feature=unit_rows(1)[0], metadata={"n": 2.5, "deep": {"x": [1, None]}})
            assert len({row, other}) == 2
            assert 0 < row < 2**53
            assert len(writer) == 3
            assert "2" in writer
            with Searcher.open(place, encoder) as searcher:
                (hit,) = searcher.search_features(encoder.encode_file(file)[None], 1)[0]
                assert (hit.row, hit.image_id, hit.path, hit.caption) == (
                    *(row, "猫/1", file, "一只猫"),
                )
                assert hit.score == pytest.approx(1, abs=2e-3)
                assert hit.metadata == {"tags": ["猫"], "n": 1}

                writer.update("猫/1", caption=None, metadata={"n": 7})
                searcher.refresh(at_once=True)
                changed = searcher.search_features(encoder.encode_file(file)[None], 1)[0][0]
                assert (changed.row, changed.caption, changed.metadata) == (row, None, {"n": 7})

                again = save_picture(tmp_path / "4.png", 4)
                assert writer.add("猫/1", path=again, caption="狗") == row
                searcher.refresh(at_once=True)
                assert len(searcher) == 3
                best = searcher.search_features(encoder.encode_file(again)[None], 3)[0]
                assert (best[0].row, best[0].caption) == (row, "狗")

                writer.delete(["2"])
                searcher.refresh(at_once=True)
                assert len(searcher) == 2
                assert "2" not in ids(searcher.search("x", 9))
                assert searcher.record(other) is None

    def test_a_call_that_fails_stores_nothing(self, place, encoder):
        with IndexWriter.open(place, encoder) as writer:
            writer.add("a", feature=unit_rows(1)[0])
            with pytest.raises(ItemError):
                writer.add_many(
                    [
                        Item("b", None, None, unit_rows(1, 2)[0], None, {}),
                        Item("c", None, b"no picture", None, None, {}),
                    ]
                )
            with pytest.raises(ItemNotFoundError):
                writer.delete(["a", "none such"])
            assert [record.picture.image_id for record in writer] == ["a"]

    def test_odd_texts_come_back_and_are_found_as_they_are(self, place, encoder):
        with IndexWriter.open(place, encoder) as writer:
            for number, text in enumerate(ODD_TEXTS):
                writer.add(
                    f"id {number} {text}".strip().replace("\n", " ").replace("\t", " "),
                    feature=unit_rows(1, number)[0],
                    caption=text or None,
                    metadata={"said": text, text: number},
                )
        with Searcher.open(place, encoder) as searcher:
            for number, text in enumerate(ODD_TEXTS):
                (hit,) = searcher.search_features(unit_rows(1, number), 1)[0]
                assert hit.metadata == {"said": text, text: number}
                assert hit.caption == (text or None)
                found = searcher.search("x", 9, Compare("said", "=", text))
                assert [one.metadata["said"] for one in found] == [text]

    def test_what_one_writes_another_finds_at_once(self, place, encoder):
        with IndexWriter.open(place, encoder) as first:
            first.add("a", feature=unit_rows(1, 1)[0])
        with Searcher.open(place, encoder) as searcher:
            with IndexWriter.open(place, encoder) as writer:
                for number in range(2, 12):
                    writer.add(f"{number}", feature=unit_rows(1, number)[0])
                    searcher.refresh(at_once=True)
                    (hit,) = searcher.search_features(unit_rows(1, number), 1)[0]
                    assert hit.image_id == f"{number}"
            searcher.refresh(at_once=True)
            assert len(searcher) == 11

    def test_many_items_are_searched_as_exactly_as_in_a_folder(self, filled, twin, encoder):
        wanted = unit_rows(5, seed=9)
        with Searcher.open(twin, encoder) as there, Searcher.open(filled, encoder) as here:
            for k in (1, 10, 400, 1000):
                for found, expected in zip(
                    here.search_features(wanted, k), there.search_features(wanted, k), strict=True
                ):
                    assert len(found) == min(k, 400)
                    assert [hit.score for hit in found] == pytest.approx(
                        [hit.score for hit in expected], abs=2e-3
                    )
                    assert len(set(ids(found)) & set(ids(expected))) >= 0.98 * len(expected)

    # Data sets

    def test_a_data_set_is_brought_up_to_date(self, place, encoder):
        rows = unit_rows(30)
        items = [Item(f"d/{n}", None, None, rows[n], f"图{n}", {"n": n}) for n in range(30)]
        report = index_items(items, place, encoder, source="set")
        assert (report.added, report.total) == (30, 30)
        again = index_items(items, place, encoder, source="set")
        assert (again.unchanged, again.added) == (30, 0)
        kept = index_items(items[:20], place, encoder, source="set")
        assert kept.removed == 0
        fewer = index_items(items[:20], place, encoder, source="set", prune=True)
        assert (fewer.removed, fewer.total) == (10, 20)
        taken = [Item("d/0", None, None, unit_rows(1, 99)[0], None, {})]
        other = index_items(taken, place, encoder, source="other")
        assert other.failed == 1  # its id is that of another data set
        with open_for_writing(place) as (store, _):
            assert store.sources.counts() == {"set": 20}
        assert remove_pictures(place, sources=["set"]) == 20

    def test_a_copy_has_all_and_is_brought_up_to_date(self, place, folder, encoder, tmp_path):
        first, back = tmp_path / "first", tmp_path / "back"
        index_folder(folder, first, encoder)
        rows = unit_rows(30)
        items = [Item(f"d/{n}", None, None, rows[n], f"图{n}", {"n": n}) for n in range(30)]
        index_items(items, first, encoder, source="set")
        with open_for_writing(first) as (store, _), store.transaction():
            store.set_calibration('{"a": 1}')
        for here, there in ((first, place), (place, back)):
            report = copy_index(here, there)
            assert (report.pictures, report.written) == (42, 42)
            assert copy_index(here, there).written == 0
            with open_for_writing(here) as (one, _), open_for_writing(there) as (other, _):
                assert sorted(map(pictured, one)) == sorted(map(pictured, other))
                assert one.sources.counts() == other.sources.counts() == {"set": 30}
                assert (one.calibration, one.precisions) == (other.calibration, other.precisions)
                assert [failure[:4] for failure in one.failures()] == [
                    failure[:4] for failure in other.failures()
                ]
        seen = encoder.seen
        for index in (place, back):
            report = index_folder(folder, index, encoder)
            assert (report.unchanged, report.failed, encoder.seen) == (12, 1, seen)
            assert index_items(items, index, encoder, source="set").unchanged == 30
        for index in (first, place):
            with open_for_writing(index) as (store, _), store.transaction():
                store.set_calibration(None)  # no real one
        with IndexWriter.open(first, encoder) as writer:
            writer.delete(["d/3", "d/4"])
            writer.add("d/3", feature=unit_rows(1, 77)[0])
            writer.add("d/4", feature=rows[4], caption="另一张")
        assert copy_index(first, place).written == 2
        with Searcher.open(place, encoder) as searcher:
            assert searcher.search_features(unit_rows(1, 77), 1)[0][0].image_id == "d/3"
            assert searcher.search_features(rows[4:5], 1)[0][0].caption == "另一张"
        other = tmp_path / "other"
        IndexWriter.open(other, FakeEncoder(WIDTH, "fake-2")).close()
        with pytest.raises(IndexMismatchError):
            copy_index(other, place)

    # Searches

    def test_a_collection_as_a_whole_is_that_of_a_folder(self, filled, twin):
        for where in (None, parse_where("year >= 2010")):
            here, there = (take_statistics(index, where) for index in (filled, twin))
            assert (here.pictures, here.captioned) == (there.pictures, there.captioned)
            assert (here.folders, here.scripts, here.fields) == (
                *(there.folders, there.scripts, there.fields),
            )
            assert here.features.centroid_cosine == pytest.approx(there.features.centroid_cosine)
            here, there = (find_duplicates(index, 0.5, where) for index in (filled, twin))
            assert here.pictures == there.pictures
            assert here.extra_pictures == there.extra_pictures

    def test_filters_facets_and_fields_are_those_of_a_folder(self, filled, twin, encoder):
        asked = (
            "year >= 2010",
            'year = 2003 and colour = "红"',
            'tags = "t1" and not tags = "t2"',
            "score < 10.5 or rare = true",
            "exists(rare)",
            "not exists(rare) and year in (2001, 2002)",
            'path = "p/007"',
            "year > 3000",
        )
        with Searcher.open(twin, encoder) as there, Searcher.open(filled, encoder) as here:
            for text in asked:
                where = parse_where(text)
                found = sorted(ids(here.search("x", 400, where)))
                assert found == sorted(ids(there.search("x", 400, where))), text
                assert shown(here.search("x", 5, where)) == shown(there.search("x", 5, where))
            assert here.fields() == there.fields()
            where = parse_where("year >= 2010")
            for field in ("colour", "year", "tags", "rare"):
                assert here.facets(field) == there.facets(field)
                assert here.facets(field, where, 3) == there.facets(field, where, 3)
            for wrong in ("yeer = 2001", 'year = "2001"'):
                with pytest.raises(QueryError) as refused:
                    here.search("x", 5, parse_where(wrong))
                with pytest.raises(QueryError) as expected:
                    there.search("x", 5, parse_where(wrong))
                assert str(refused.value) == str(expected.value)

    def test_filters_hold_of_what_they_hold_of_in_a_folder(self, place, twin, encoder):
        shared = {"fingerprint": encoder.fingerprint, "embed_dim": WIDTH}
        with (
            open_for_writing(place, **shared) as (here, _),
            open_for_writing(twin, **shared) as (there, _),
            Searcher.open(place, encoder) as searcher,
        ):

            @settings(max_examples=40, suppress_health_check=list(HealthCheck), database=None)
            @given(questions())
            def check(asked):
                drawn, filters = asked
                for store in (here, there):
                    with store.transaction():
                        store.remove([record.row for record in store])
                        for picture in drawn:
                            store.add(picture, unit_rows(1)[0])
                searcher.refresh(at_once=True)
                for where in filters:
                    rows, refusal = refused_or(there.filters.rows, where)
                    assert refused_or(here.filters.rows, where)[1] == refusal
                    if rows is None:
                        continue
                    named = there.records(rows.tolist()).values()
                    expected = sorted(record.picture.image_id for record in named)
                    assert sorted(ids(searcher.search("x", 9, where))) == expected
                    assert len(here.filters.rows(where)) == len(expected)

            check()

    def test_a_query_of_several_terms_pages_folds_and_finds_more_alike(self, filled, twin, encoder):
        queries = (
            Query.of("海", like=["p/003"], without=["山"]),
            Query.of("海", offset=20, top_k=7),
            Query.of(like=["p/003", "p/004"], where=parse_where("year >= 2005")),
            Query.of("海", fold=0.9),
            Query.of("海", diversity=0.5),
        )
        with Searcher.open(twin, encoder) as there, Searcher.open(filled, encoder) as here:
            for query in queries:
                found, expected = here.search(query), there.search(query)
                assert ids(found) == ids(expected)
                assert [hit.rank for hit in found] == [hit.rank for hit in expected]
            together = here.answers(list(queries[:3]))
            assert [ids(a.hits) for a in together] == [ids(here.search(q)) for q in queries[:3]]
            ranking = here.rank("海", 100)
            pages = [hit for start in range(0, 100, 30) for hit in ranking.page(start, 30)]
            assert ids(pages) == ids(there.search("海", 100))
            with pytest.raises(QueryError):
                here.search(Query.of(like=["none such"]))

    def test_words_find_what_is_said(self, filled, twin, encoder):
        with Searcher.open(twin, encoder) as there, Searcher.open(filled, encoder) as here:
            if not self.has_words:
                with pytest.raises(QueryError, match="hybrid"):
                    here.search("张7", hybrid=True)
                return
            for where in (None, parse_where("year >= 2005")):
                found = here.search("张7", 10, where, hybrid=True)
                expected = there.search("张7", 10, where, hybrid=True)
                assert ids(found)[0] == ids(expected)[0]
                assert len(set(ids(found)) & set(ids(expected))) >= 9

    def test_searches_from_several_threads_are_those_of_one(self, filled, encoder):
        with Searcher.open(filled, encoder) as searcher:
            expected = {text: ids(searcher.search(text, 10)) for text in map(str, range(12))}
            wrong = []

            def ask(text):
                for _ in range(5):
                    if ids(searcher.search(text, 10)) != expected[text]:
                        wrong.append(text)

            threads = [threading.Thread(target=ask, args=(text,)) for text in expected]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert wrong == []

    # What an index is

    def test_one_of_another_model_is_refused(self, filled, encoder):
        for other in (FakeEncoder(WIDTH, "fake-2"), FakeEncoder(WIDTH * 2)):
            with pytest.raises(IndexMismatchError):
                Searcher.open(filled, other)
            with pytest.raises(IndexMismatchError):
                IndexWriter.open(filled, other)

    def test_none_is_told_so_and_made_by_nobody_who_reads(self, place, encoder):
        for _ in range(2):
            with pytest.raises(IndexNotFoundError):
                Searcher.open(place, encoder)
            with pytest.raises(IndexNotFoundError):
                open_for_reading(place)

    def test_it_remembers_what_it_is(self, filled, encoder):
        with open_for_reading(filled) as store:
            uid = store.uid
            assert (store.fingerprint, store.embed_dim, len(store)) == ("fake-1", WIDTH, 400)
            rows, features = store.draw(50)
            assert len(set(rows.tolist())) == len(features) == 50
            np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-3)
            assert store.rows().tolist() == sorted(record.row for record in store)
        with open_for_writing(filled) as (store, _):
            before = store.generation
            with store.transaction():
                store.add_precision("bfloat16")
                store.set_calibration('{"a": 1}')
                store.remove(store.rows()[:1].tolist())
            assert store.generation != before
        with open_for_reading(filled) as store:
            assert (store.uid, store.calibration, len(store)) == (uid, '{"a": 1}', 399)

    def test_a_transaction_that_raises_leaves_nothing(self, filled):
        with open_for_writing(filled) as (store, _):
            record = next(iter(store))

            def fail():
                with store.transaction():
                    store.remove([record.row])
                    store.add(record.picture._replace(image_id="new"), unit_rows(1)[0])
                    assert store.find_item("new") is not None
                    assert store.find_item(record.picture.image_id) is None
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                fail()
            assert len(store) == 400
            assert store.find_item("new") is None
            assert store.find_item(record.picture.image_id) == record
