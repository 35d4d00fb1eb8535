"""The text index: how texts are cut, how words rank, and that it stays with the pictures."""

import importlib
import math
import sqlite3
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.catalogue import Catalogue
from retrieval.catalogue.remaking import remake_words
from retrieval.catalogue.segmentation import Segmenter, Settings, check_user_words
from retrieval.errors import IndexNotFoundError, QueryError, RetrievalError
from retrieval.records import Picture

FEATURE = np.array([1, 0], np.float32)
cut = Segmenter.of(Settings(simplify=True))


def picture(name: str, caption: str | None = None, metadata: str = "{}", **changes) -> Picture:
    path = f"/p/{name}".encode()
    made = Picture(b"/p", path, name, 1, 2, path, 3, 4, caption, metadata)
    return made._replace(**changes)


def opened(index_dir):
    return Catalogue.create_or_open(index_dir, fingerprint="f", embed_dim=2)


@pytest.fixture
def catalogue(tmp_path):
    with opened(tmp_path) as catalogue:
        yield catalogue


def fill(catalogue, *pictures):
    with catalogue.transaction():
        return [catalogue.add(each, FEATURE) for each in pictures]


def rows_of(catalogue, query, limit=10, among=None):
    return catalogue.words.rank(query, limit, among).rows.tolist()


class TestCutting:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("下雨天的自行车", ["下雨", "雨天", "下雨天", "的", "自行", "行车", "自行车"]),
            ("IMG_0042.JPG", ["img", "42", "jpg"]),
            ("iPhone15 Pro", ["iphone", "15", "pro"]),
            ("２０２４年", ["2024", "年"]),  # full-width digits
            ("000", ["0"]),
            ("Café Ünïcode", ["cafe", "unicode"]),
            ("狗dog狗", ["狗", "dog", "狗"]),
            ("🍓草莓", ["🍓", "草莓"]),
            ("にっこり", ["にっ", "っこ", "こり"]),
            ("の", ["の"]),
            ("हिन्दी", ["हिन्दी"]),
            ("한국어 사진", ["한국어", "사진"]),
            ("。、！？ …—\n\0", []),
            ("", []),
        ],
    )
    def test_words_of_many_scripts(self, text, words):
        assert cut(text) == words

    def test_traditional_characters_are_simplified_ones(self):
        assert cut("長城與自行車") == cut("长城与自行车")
        assert Segmenter.of(Settings(simplify=False))("長城") != cut("长城")

    def test_without_opencc_texts_stay_as_they_are(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "opencc", None)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert "长" not in "".join(Segmenter(Settings(simplify=True))("長城"))
        assert Settings.usual() == Settings(simplify=False)

    def test_a_name_is_cut_alike_alone_and_among_other_words(self):
        name = cut("李雷和韩梅梅")
        around = cut("昨天李雷和韩梅梅去海边")
        assert name == around[1 : 1 + len(name)]

    def test_words_of_ones_own(self):
        assert "油焖大虾" not in cut("油焖大虾")
        own = Segmenter.of(Settings(simplify=True, user_words="油燜大蝦 10 n"))
        assert "油焖大虾" in own("油焖大虾")
        with pytest.raises(RetrievalError, match="in line 2 of the words"):
            check_user_words("虾\n虾 x y\n")
        assert check_user_words("\ufeff虾 3\n\n 大虾\n") == "虾 3\n大虾"

    @given(st.text())
    def test_a_word_can_never_be_syntax(self, text):
        for word in cut(text):
            assert word
            assert all(char.isalnum() or ord(char) > 127 for char in word)
            assert not any(char.isspace() for char in word)


class TestRanking:
    def test_order_and_scores_are_bm25s(self, catalogue):
        # lengths 2, 4 and 1, and more pictures that have the words not at all
        others = [picture(f"{i}", "x", image_id="·") for i in range(4)]
        texts = ["dog beach", "dog dog dog cat", "dog"]
        fill(catalogue, *(picture(text, text, image_id="·") for text in texts), *others)

        total, average = 7, (2 + 4 + 1 + 4) / 7
        idf = math.log((total - 3 + 0.5) / (3 + 0.5))  # as FTS5 has it

        def bm25(count, length):
            return idf * count * 2.2 / (count + 1.2 * (1 - 0.75 + 0.75 * length / average))

        found = catalogue.words.rank("Dog", 10)
        expected = {1: bm25(1, 2), 2: bm25(3, 4), 3: bm25(1, 1)}
        assert dict(zip(found.rows.tolist(), found.scores.tolist(), strict=True)) == pytest.approx(
            expected
        )
        assert found.rows.tolist() == sorted(expected, key=lambda row: -expected[row])
        assert found.shares.tolist() == [1, 1, 1]

    def test_shares_say_how_much_of_the_query_is_said(self, catalogue):
        fill(catalogue, picture("a", "red dog"), picture("b", "red"), *map(picture, "cdef"))
        found = catalogue.words.rank("red dog unicorn", 10)

        def idf(count):
            return math.log(1 + (6 - count + 0.5) / (count + 0.5))

        whole = idf(2) + idf(1) + idf(0)
        assert found.rows.tolist() == [1, 2]
        assert found.shares == pytest.approx([(idf(2) + idf(1)) / whole, idf(2) / whole])

    def test_all_that_is_said_counts(self, catalogue):
        metadata = (
            '{"tags": ["海边", {"x": "灯塔"}], "iso": 400, "ok": true, "url": "https://a.b/c"}'
        )
        fill(catalogue, picture("旅行/IMG_0042.jpg", "日落", metadata), *map(picture, "abcd"))
        for query in ("旅行", "img 42", "0042", "日落", "海边", "灯塔", "400"):
            assert rows_of(catalogue, query) == [1], query
        for query in ("jpg", "https", "tags", "true"):
            assert rows_of(catalogue, query) == [], query

    def test_an_id_of_the_callers_own_is_whole(self, catalogue):
        fill(catalogue, picture("sku.4711", root=None, path=None), *map(picture, "abcd"))
        assert rows_of(catalogue, "4711") == [1]

    def test_words_that_only_ask_do_not_count_beside_others(self, catalogue):
        fill(catalogue, picture("a", "宫保鸡丁"), picture("b", "我的照片"), *map(picture, "cdef"))
        for query in ("我想看宫保鸡丁的照片", "a picture of 宫保鸡丁"):
            found = catalogue.words.rank(query, 10)
            assert (found.rows.tolist(), found.shares.tolist()) == ([1], [1]), query
        assert rows_of(catalogue, "照片") == [2]

    def test_words_of_more_than_half_tell_nothing(self, catalogue):
        fill(catalogue, *(picture(f"{i}", "一只狗" + "猫" * (i < 2)) for i in range(5)))
        assert rows_of(catalogue, "狗") == []
        assert rows_of(catalogue, "狗和猫") == [1, 2]

    def test_equals_go_by_row_and_the_limit_holds(self, catalogue):
        fill(
            catalogue, *(picture(f"{'猫' if i % 2 else '鱼'}", path=b"/p/%d" % i) for i in range(9))
        )
        assert rows_of(catalogue, "猫") == [2, 4, 6, 8]
        assert rows_of(catalogue, "猫", limit=2) == [2, 4]
        assert rows_of(catalogue, "猫", among=np.array([1, 4, 8])) == [4, 8]
        assert rows_of(catalogue, "猫", among=np.empty(0, np.int64)) == []

    @pytest.mark.parametrize(
        "query",
        [
            *('"', "'", '猫"', '"猫', "猫 OR 狗", "NOT", "AND AND", "NEAR(猫 狗, 2)", "猫*", "^猫"),
            *("caption:猫", "caption : 猫", "{caption name}: 猫", "-猫", "(猫", "猫)", "猫\0狗"),
            *('") OR 1=1 --', "'; DROP TABLE words; --", "猫 + 狗", "*", "🍓", "\ud800", "？"),
        ],
    )
    def test_no_query_is_syntax(self, catalogue, query):
        fill(catalogue, picture("a", "猫"), *(picture(name, "鱼") for name in "bcd"))
        assert rows_of(catalogue, query) == ([1] if "猫" in query else [])
        assert len(catalogue) == 4

    def test_long_queries(self, catalogue):
        fill(catalogue, picture("a", "猫"), *map(picture, "bcd"))
        many = " ".join(f"w{chr(0x4E00 + i)}" for i in range(3000))
        assert rows_of(catalogue, "猫 " + many) == [1]

    def test_nothing_is_found_where_nothing_is_said(self, catalogue):
        assert rows_of(catalogue, "猫") == []
        fill(catalogue, picture("a"))
        assert rows_of(catalogue, "猫") == []


class TestTransactions:
    def test_words_come_change_and_go_with_the_picture(self, catalogue):
        fill(catalogue, picture("a", "猫"), picture("b", "狗"), *map(picture, "cde"))
        with catalogue.transaction():
            catalogue.describe(1, picture("a", "鱼"))
            catalogue.replace(2, picture("b", "鸟"), FEATURE)
        assert [rows_of(catalogue, word) for word in "猫狗鱼鸟"] == [[], [], [1], [2]]
        with catalogue.transaction():
            catalogue.remove([1])
            catalogue.forget_under(b"/p/b")
        assert rows_of(catalogue, "鱼") == []
        with catalogue.transaction():
            catalogue.forget_root(b"/p")
        assert catalogue.connection.read("SELECT count(*) FROM words") == [(0,)]

    def test_what_is_undone_was_never_said(self, catalogue):
        fill(catalogue, picture("a", "猫"), *map(picture, "cde"))

        def half():
            with catalogue.transaction():
                catalogue.add(picture("b", "狗"), FEATURE)
                catalogue.remove([1])
                raise KeyError

        with pytest.raises(KeyError):
            half()
        assert [rows_of(catalogue, word) for word in "猫狗"] == [[1], []]

    def test_readers_see_what_is_committed(self, catalogue, tmp_path):
        fill(catalogue, picture("a", "猫"), *map(picture, "cde"))
        with Catalogue.open(tmp_path) as reader:
            assert rows_of(reader, "猫") == [1]
            fill(catalogue, picture("b", "猫"))
            assert rows_of(reader, "猫") == [1, 5]

    def test_text_read_in_pictures_is_kept_by_content(self, catalogue):
        same = {"content_hash": b"h"}
        fill(catalogue, picture("a", **same), picture("b", **same), *map(picture, "cdefg"))
        assert (b"h", b"/p/a") in catalogue.words.unread(b"/p")
        with catalogue.transaction():
            catalogue.keep_recognised(b"h", "小心地滑\nWET FLOOR")
            catalogue.keep_recognised(b"/p/c", "")
        assert rows_of(catalogue, "地滑") == rows_of(catalogue, "wet") == [1, 2]
        text = "小心地滑\nWET FLOOR"
        assert catalogue.records_and_texts([1, 2, 3, 99])[1] == {1: text, 2: text, 3: ""}
        assert [path for _, path in catalogue.words.unread(b"/p")] == [
            b"/p/" + name for name in (b"d", b"e", b"f", b"g")
        ]
        with catalogue.transaction():  # moved, and described: the text stays
            catalogue.describe(1, picture("x/a", "新", **same))
            catalogue.remove([2])
        assert rows_of(catalogue, "地滑") == [1]
        assert catalogue.records_and_texts([1])[1] == {1: text}
        with catalogue.transaction():  # other content
            catalogue.replace(1, picture("x/a", content_hash=b"i"), FEATURE)
        assert rows_of(catalogue, "地滑") == []
        left = catalogue.connection.read("SELECT content_hash FROM recognised")
        assert left == [(b"/p/c",)]
        with catalogue.transaction():
            catalogue.remove([3])
        assert catalogue.connection.read("SELECT count(*) FROM recognised") == [(0,)]


class TestRemaking:
    @pytest.fixture
    def index_dir(self, tmp_path):
        with opened(tmp_path) as catalogue:
            fill(catalogue, picture("a", "油焖大虾"), *map(picture, "bcd"))
            with catalogue.transaction():
                catalogue.keep_recognised(b"/p/b", "营业中")
        return tmp_path

    def test_an_index_from_before_says_what_to_do_and_is_filled_by_who_writes(self, index_dir):
        with sqlite3.connect(index_dir / "catalogue.sqlite") as db:
            db.execute("DELETE FROM meta WHERE key IN ('follower_words', 'words_settings')")
        db.close()
        with Catalogue.open(index_dir) as reader:
            with pytest.raises(QueryError, match="clip-text index text"):
                reader.words.rank("虾", 5)
            assert reader.records_and_texts([2])[1] == {2: "营业中"}
            assert remake_words(index_dir) == 4
            assert rows_of(reader, "大虾") == [1]
            assert rows_of(reader, "营业") == [2]  # what was read is still there

    def test_words_of_ones_own_stay_with_the_index(self, index_dir):
        def known(reader):
            sql = "SELECT term FROM words_known WHERE term = '油焖大虾'"
            return reader.connection.read(sql) != []

        with Catalogue.open(index_dir) as reader:
            assert not known(reader)
            remake_words(index_dir, "油焖大虾\n")
            assert known(reader)
            assert rows_of(reader, "油焖大虾") == [1]
            remake_words(index_dir)
            assert known(reader)
            remake_words(index_dir, "")
            assert not known(reader)
            with pytest.raises(RetrievalError, match="line 1"):
                remake_words(index_dir, "a b c d")

    def test_an_index_cut_without_opencc_is_asked_as_it_was_cut(self, tmp_path, monkeypatch):
        monkeypatch.setattr("retrieval.catalogue.segmentation.can_simplify", lambda: False)
        with opened(tmp_path) as catalogue:
            fill(catalogue, picture("a", "長城"), *map(picture, "bcd"))
        monkeypatch.undo()
        with Catalogue.open(tmp_path) as reader:
            assert rows_of(reader, "長城") == [1]
            remake_words(tmp_path)
            assert rows_of(reader, "长城") == rows_of(reader, "長城") == [1]

    def test_no_index(self, tmp_path):
        with pytest.raises(IndexNotFoundError):
            remake_words(tmp_path / "none")
