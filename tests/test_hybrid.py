"""Features and words joined: reciprocal ranks by hand, and what a search with both finds."""

import json
import threading

import numpy as np
import pytest
from fakes import FakeEncoder, as_stored, save_picture

from clip_text_cli import wiring
from retrieval.catalogue import Catalogue
from retrieval.catalogue.words import Worded
from retrieval.errors import IndexLockedError, QueryError
from retrieval.filters.language import parse_where
from retrieval.ingest import IndexWriter, Item, index_folder, recognise_texts
from retrieval.search import Blend, Query, Searcher
from retrieval.search.hybrid import blend_of, join
from retrieval.stores import copy_index


def worded(*pairs: tuple[int, float]) -> Worded:
    rows, shares = zip(*pairs, strict=True) if pairs else ((), ())
    return Worded(np.array(rows, np.int64), np.ones(len(rows)), np.array(shares, float))


class TestJoin:
    def test_points_are_reciprocal_ranks(self):
        # by features 10, 11, 12; by words 12, 13: with k = 60
        # 10: 1/61 = .016393;  11: 1/62 = .016129;  12: 1/63 + 1/61 = .032266;  13: 1/62, like 11
        assert join([10, 11, 12], worded((12, 1.0), (13, 1.0)), Blend()) == [12, 10, 13, 11]

    def test_a_share_counts_for_its_part(self):
        # k = 1; 10: 1/2, 11: 1/3 + .8/2 = .733, 12: .7/3 = .233
        words = worded((11, 0.8), (12, 0.7))
        assert join([10, 11], words, Blend(k=1)) == [11, 10, 12]
        # the half of it: 11: 1/3 + .2 = .533; a quarter: .433
        assert join([10, 11], words, Blend(k=1, words=0.5)) == [11, 10, 12]
        assert join([10, 11], words, Blend(k=1, words=0.25)) == [10, 11, 12]

    def test_small_shares_are_passed_over_and_take_no_place(self):
        # k = 0; without 12, 13 is the first by words: 1, like 10, but by words
        words = worded((12, 0.5), (13, 1.0))
        assert join([10], words, Blend(k=0)) == [13, 10]
        # with it: 13 is the second, 1/2; 12 has .5 as well, and stood before it
        assert join([10], words, Blend(k=0, least_share=0)) == [10, 12, 13]

    def test_the_nearest_stays_before_what_only_a_part_is_said_of(self):
        assert join([10], worded((11, 0.99)), Blend()) == [10, 11]
        assert join([10], worded((11, 1.0)), Blend()) == [11, 10]

    def test_one_list_alone(self):
        assert join([3, 1, 2], worded(), Blend()) == [3, 1, 2]
        assert join([], worded((5, 1.0), (4, 1.0)), Blend()) == [5, 4]
        assert join([3], worded((5, 1.0)), Blend(words=0)) == [3]
        assert join([], worded(), Blend()) == []

    @pytest.mark.parametrize("wrong", [{"words": -1}, {"k": -1}, {"least_share": 1.1}])
    def test_blends_that_mean_nothing_are_refused(self, wrong):
        with pytest.raises(QueryError, match="expected words and k of at least 0"):
            Blend(**wrong)

    def test_options(self):
        assert blend_of(False) is None
        assert blend_of(True) == Blend()
        assert blend_of(Blend(k=1)) == Blend(k=1)


COUNT = 130  # more than are looked at by features


@pytest.fixture(scope="module")
def index_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hybrid") / "pictures"
    for i in range(COUNT):
        save_picture(folder / f"{i:03}.png", i)
    lines = [
        {"file_name": "007.png", "caption": "宫保鸡丁", "year": 2020},
        {"file_name": "008.png", "caption": "宫保鸡丁和米饭", "year": 2021},
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    index_folder(folder, folder.parent / "index", FakeEncoder())
    return folder.parent / "index"


@pytest.fixture
def searcher(index_dir):
    with Searcher.open(index_dir, FakeEncoder()) as searcher:
        yield searcher


def test_what_is_said_of_pictures_is_found_beside_what_they_look_like(searcher):
    plain = searcher.search("宫保鸡丁", COUNT)
    hits = searcher.search("宫保鸡丁", 4, hybrid=True)
    assert {hits[0].image_id, hits[1].image_id} == {"007.png", "008.png"}
    assert [hit.rank for hit in hits] == [1, 2, 3, 4]
    # others in the order of their features, and every score a cosine
    others = [hit.image_id for hit in plain if hit.image_id not in ("007.png", "008.png")]
    assert [hit.image_id for hit in hits[2:]] == others[:2]
    cosines = {hit.image_id: hit.score for hit in plain}
    for hit in hits:
        assert hit.score == pytest.approx(cosines[hit.image_id], abs=1e-6)
    assert [hit.word_score is None for hit in hits] == [False, False, True, True]
    assert all(hit.word_score is None for hit in plain)


def test_a_number_finds_a_picture_that_is_far_from_the_query_by_features(searcher):
    def place_of_its_own(number):
        hits = searcher.search(number, COUNT)
        return next(hit for hit in hits if hit.image_id == f"{number}.png")

    far = next(hit for i in range(COUNT) if (hit := place_of_its_own(f"{i:03}")).rank > 100)
    found = searcher.search(far.image_id.removesuffix(".png"), 2, hybrid=True)
    (hit,) = [hit for hit in found if hit.image_id == far.image_id]
    assert hit.score == pytest.approx(far.score, abs=1e-6)
    assert hit.word_score > 0


@pytest.mark.parametrize("query", ["？！", "独角兽", "📷"])
def test_where_words_say_nothing_features_decide(searcher, query):
    assert searcher.search(query, 5, hybrid=True) == searcher.search(query, 5)


def test_filters_hold_of_both_lists(searcher):
    where = parse_where("year = 2021")
    assert [hit.image_id for hit in searcher.search("宫保鸡丁", 5, where, hybrid=True)] == [
        "008.png"
    ]


def test_several_queries_at_once_and_top_k(searcher):
    queries = ["宫保鸡丁", "狗", "007"]
    answers = searcher.answers(queries, 3, hybrid=True)
    for query, answer in zip(queries, answers, strict=True):
        alone = searcher.search(query, 3, hybrid=True)
        assert [hit.image_id for hit in answer.hits] == [hit.image_id for hit in alone]
    assert len(searcher.search("宫保鸡丁", 1000, hybrid=True)) == COUNT
    assert searcher.answers([], hybrid=True) == []


def test_a_blend_says_how_much_words_count(searcher):
    none = searcher.search("宫保鸡丁", 5, hybrid=Blend(words=0))
    plain = searcher.search("宫保鸡丁", 5)
    assert [hit.row for hit in none] == [hit.row for hit in plain]


def test_pages_and_folds_of_both_lists_go_on_where_the_ones_before_end(searcher):
    query = "宫保鸡丁"
    whole = searcher.search(Query.of(query, hybrid=True, top_k=12))
    parts = [searcher.search(Query.of(query, hybrid=True, top_k=4, offset=at)) for at in (0, 4, 8)]
    assert [hit for part in parts for hit in part] == whole
    assert searcher.search(Query.of(query, hybrid=True, top_k=100))[:12] == whole
    folded = searcher.search(Query.of(query, hybrid=True, top_k=12, fold=1.0))
    assert [hit.row for hit in folded] == [hit.row for hit in whole]
    ranking = searcher.rank(Query.of(query, hybrid=True))
    assert ranking.page(0, 12) == whole
    assert any(hit.word_score for hit in whole)


def test_words_go_with_one_text_and_in_one_order():
    with pytest.raises(QueryError, match="expected one text to search for in words, got 2 terms"):
        Query.of("狗", without=["雪"], hybrid=True)
    with pytest.raises(QueryError, match="either hybrid or diversity"):
        Query.of("狗", diversity=0.2, hybrid=True)


def test_what_is_written_after_the_last_refresh_is_left_out(index_dir, tmp_path):
    row = as_stored(FakeEncoder().encode_text(["x"])[0])
    copy = tmp_path / "index"
    with IndexWriter.open(copy, FakeEncoder()) as writer:
        writer.add("a", feature=row, caption="鱼")
        for name in "bcd":
            writer.add(name, feature=row)
    with Searcher.open(copy, FakeEncoder()) as searcher:
        with IndexWriter.open(copy, FakeEncoder()) as writer:
            writer.add("e", feature=row, caption="猫头鹰")
            writer.delete(["a"])
        assert {hit.image_id for hit in searcher.search("猫头鹰", hybrid=True)} == set("bcd")
        assert searcher.refresh()
        assert searcher.search("猫头鹰", hybrid=True)[0].image_id == "e"
        assert searcher.search("鱼", hybrid=True)[0].word_score is None


def test_where_nearly_all_that_is_found_was_removed_the_next_best_stand_in(index_dir, tmp_path):
    rows = FakeEncoder().encode_text([f"{i}" for i in range(120)])
    with IndexWriter.open(tmp_path, FakeEncoder()) as writer:
        writer.add_many(Item(f"{i}", feature=row) for i, row in enumerate(rows))
    with Searcher.open(tmp_path, FakeEncoder()) as searcher:
        order = [hit.image_id for hit in searcher.search("x", 120)]
        with IndexWriter.open(tmp_path, FakeEncoder()) as writer:
            writer.delete(order[:98])
        hits = searcher.search("x", 10, hybrid=True)
        assert [hit.image_id for hit in hits] == order[98:108]
        assert [hit.rank for hit in hits] == list(range(1, 11))


class TestReadText:
    @pytest.fixture
    def folder(self, tmp_path):
        for i in range(6):
            save_picture(tmp_path / "pictures" / f"{i}.png", i)
        index_folder(tmp_path / "pictures", tmp_path / "index", FakeEncoder())
        return tmp_path / "pictures"

    @staticmethod
    def read(path):
        return "营业中\nOPEN" if path.name == "3.png" else ""

    def test_it_is_searched_and_shown(self, folder):
        index_dir = folder.parent / "index"
        told = []
        report = recognise_texts(folder, index_dir, self.read, lambda *at: told.append(at))
        assert (report.read, report.with_text, report.failed) == (6, 1, 0)
        assert told == [(i, 6) for i in range(1, 7)]
        with Searcher.open(index_dir, FakeEncoder()) as searcher:
            first = searcher.search("营业", hybrid=True)[0]
            assert (first.image_id, first.recognised) == ("3.png", "营业中\nOPEN")
            shown = {hit.image_id: hit.recognised for hit in searcher.search("狗")}
            assert shown == {f"{i}.png": "营业中\nOPEN" if i == 3 else None for i in range(6)}

    def test_it_is_read_with_the_pictures(self, folder):
        """No search pays for it with a statement of its own."""
        index_dir = folder.parent / "index"
        statements = []
        with Searcher.open(index_dir, FakeEncoder()) as searcher:
            searcher.search("狗")
            searcher._state.catalogue.connection.db.set_trace_callback(statements.append)
            searcher.search("狗")
        reading = [each for each in statements if "FROM images" in each]
        assert len(reading) == 1, statements
        assert not [each for each in statements if "recognised" in each and each not in reading]

    def test_only_what_nobody_has_read_is_read(self, folder):
        index_dir = folder.parent / "index"
        recognise_texts(folder, index_dir, self.read)
        save_picture(folder / "new.png", 9)
        save_picture(folder / "0.png", 10)
        (folder / "1.png").rename(folder / "moved.png")
        (folder / "copy.png").write_bytes((folder / "3.png").read_bytes())
        index_folder(folder, index_dir, FakeEncoder())
        seen = []
        recognise_texts(folder, index_dir, lambda path: seen.append(path.name) or "")
        assert seen == ["0.png", "new.png"]
        with Searcher.open(index_dir, FakeEncoder()) as searcher:
            hits = searcher.search("open", 2, hybrid=True)
        assert {hit.image_id for hit in hits} == {"3.png", "copy.png"}

    def test_a_run_that_is_cut_short_goes_on(self, folder):
        index_dir, seen = folder.parent / "index", []

        def stop(path):
            if len(seen) == 4:
                raise KeyboardInterrupt
            seen.append(path.name)
            return "字"

        with pytest.raises(KeyboardInterrupt):
            recognise_texts(folder, index_dir, stop)
        report = recognise_texts(folder, index_dir, lambda path: seen.append(path.name) or "")
        assert report.read == 2
        assert seen == [f"{i}.png" for i in range(6)]
        with Catalogue.open(index_dir) as catalogue:
            texts = catalogue.records_and_texts(range(1, 7))[1]
            assert list(texts.values()) == ["字"] * 4 + [""] * 2

    def test_a_copy_knows_which_pictures_have_no_text(self, folder):
        index_dir, copy = folder.parent / "index", folder.parent / "copy"
        recognise_texts(folder, index_dir, lambda path: "字" if path.name == "0.png" else "")
        copy_index(index_dir, copy)
        assert recognise_texts(folder, copy, lambda _: "read again").read == 0
        with Searcher.open(copy, FakeEncoder()) as searcher:
            read = {hit.image_id: hit.recognised for hit in searcher.search("x", 6)}
        assert read == {"0.png": "字"} | dict.fromkeys(f"{i}.png" for i in range(1, 6))

    def test_what_cannot_be_read_is_told_and_tried_again(self, folder):
        index_dir = folder.parent / "index"
        (folder / "0.png").write_bytes(b"changed since")
        (folder / "1.png").unlink()

        def fail(path):
            if path.name == "2.png":
                raise ValueError("no picture")
            return "字"

        report = recognise_texts(folder, index_dir, fail)
        assert (report.read, report.failed) == (3, 2)
        assert [(path.name, why) for path, why in report.failures] == [
            ("1.png", "No such file or directory"),
            ("2.png", "no picture"),
        ]
        assert recognise_texts(folder, index_dir, self.read).read == 1

    def test_one_writes_at_a_time(self, folder):
        index_dir = folder.parent / "index"
        inside, go_on = threading.Event(), threading.Event()

        def wait(path):
            inside.set()
            assert go_on.wait(30)
            return ""

        thread = threading.Thread(target=recognise_texts, args=(folder, index_dir, wait))
        thread.start()
        assert inside.wait(30)
        try:
            with pytest.raises(IndexLockedError):
                recognise_texts(folder, index_dir, self.read)
        finally:
            go_on.set()
            thread.join()


class TestCommands:
    @pytest.fixture(autouse=True)
    def fakes(self, monkeypatch):
        monkeypatch.setattr(wiring, "load_encoder", lambda model, **_: FakeEncoder())
        monkeypatch.setattr(wiring, "text_reader", lambda: TestReadText.read)

    def test_hits_by_words_and_by_text_in_pictures(self, run, tmp_path):
        for i in range(6):
            save_picture(tmp_path / "pictures" / f"{i}.png", i)
        index = ["--index", tmp_path / "index"]
        code, out, _ = run("index", tmp_path / "pictures", *index, "--ocr", "--json")
        told = json.loads(out)["ocr"]
        assert (code, told["read"], told["with_text"], told["failures"]) == (0, 6, 1, [])
        code, out, _ = run("index", tmp_path / "pictures", *index, "--ocr")
        assert "0 pictures read" in out
        code, out, _ = run("search", "营业中", *index, "--hybrid", "--json", "-k", 2)
        first, second = json.loads(out)["hits"]
        assert (first["image_id"], first["recognised"]) == ("3.png", "营业中\nOPEN")
        assert first["word_score"] > 0
        assert second["word_score"] is second["recognised"] is None
        code, out, _ = run("search", "营业中", *index, "--hybrid")
        assert "text in it" in out
        assert "营业中 OPEN" in out

    def test_what_was_indexed_is_told_before_text_is_read(self, run, tmp_path, monkeypatch):
        def stop(path):
            raise KeyboardInterrupt

        monkeypatch.setattr(wiring, "text_reader", lambda: stop)
        save_picture(tmp_path / "pictures" / "a.png", 1)
        code, out, _ = run("index", tmp_path / "pictures", "--index", tmp_path / "i", "--ocr")
        assert code == 130
        assert out.startswith("1 pictures in the index: 1 added")

    def test_words_of_ones_own(self, run, index_dir, tmp_path):
        words = tmp_path / "words.txt"
        words.write_text("宫保鸡丁\n", encoding="utf-8")
        code, out, _ = run("index", "text", "--index", index_dir, "--words", words, "--json")
        assert (code, json.loads(out)) == (0, {"pictures": COUNT})
        words.write_text("a b c\n", encoding="utf-8")
        code, _, err = run("index", "text", "--index", index_dir, "--words", words)
        assert code == 1
        assert "in line 1 of the words" in err
        code, _, err = run("index", "text", "--index", index_dir, "--words", tmp_path / "none")
        assert code == 2
        assert "expected a file of words" in err
        code, out, _ = run("search", "x", "--index", index_dir, "--hybrid", "--json")
        assert code == 0
