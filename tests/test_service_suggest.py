"""Suggestions: what is found of what is typed, in which order, and how the index is followed."""

import asyncio
import contextlib
import json
import threading
import time

import httpx
import numpy as np
import pytest
from fakes import FakeEncoder
from hypothesis import given
from hypothesis import strategies as st
from listening import listening
from test_api import ask, assert_error, eventually

from retrieval.catalogue import Catalogue
from retrieval.catalogue.sayings import Saying, read_sayings
from retrieval.records import Picture
from retrieval.search import Searcher
from retrieval.service import suggestions as module
from retrieval.service.app import Served, create_app
from retrieval.service.settings import Settings
from retrieval.service.suggestions import Spellings, Suggestions

SAID = [
    ("a/cat.png", "一只猫", {"tags": ["动物", "宠物"], "author": "某人"}),
    ("a/dog.png", "一只狗", {"tags": ["动物", "宠物"], "author": "某人"}),
    ("a/run.png", "狗在跑", {"tags": ["动物"], "author": "某人", "url": "https://example.org/狗"}),
    ("a/heart.png", "红色的心", {"tags": ["心形"], "author": "某人"}),
    ("a/heart 2.png", "红色的心", {"tags": ["心形", "红"], "author": "某人"}),
    ("a/0042.png", "重庆火锅 Hot Pot", {"author": "某人", "year": 2020}),
    ("a/IMG_7.png", None, {"author": "某人"}),
]


def write(index_dir, said):
    feature = np.eye(16, dtype=np.float32)[0]
    with Catalogue.create_or_open(index_dir, fingerprint="fake-1", embed_dim=16) as catalogue:
        with catalogue.transaction():
            for name, caption, metadata in said:
                place = (b"/g", b"/g/" + name.encode(), name)
                line = json.dumps(metadata, ensure_ascii=False)
                catalogue.add(Picture(*place, 1, 0, b"", None, None, caption, line), feature)
        return index_dir


@pytest.fixture(scope="module")
def index_dir(tmp_path_factory):
    return write(tmp_path_factory.mktemp("suggest") / "index", SAID)


@contextlib.contextmanager
def application(index_dir, **settings):
    encoder = FakeEncoder()
    with Searcher.open(index_dir, encoder) as searcher:
        app = create_app(Served(searcher, index_dir=index_dir), settings=Settings(**settings))
        yield app
        asyncio.run(app.state.service.close())


# What is said


def test_what_is_said_of_pictures_is_read_once_the_commonest_first(index_dir):
    with Catalogue.open(index_dir) as catalogue:
        said = read_sayings(catalogue.connection, 100)
        assert said[:4] == [
            Saying("动物", "tag", 3, "tags"),
            Saying("宠物", "tag", 2, "tags"),
            Saying("心形", "tag", 2, "tags"),
            Saying("红色的心", "caption", 2),
        ]
        assert {one.text for one in said if one.kind == "name"} == {
            *("cat", "dog", "run", "heart", "heart 2", "IMG_7"),
        }
        texts = [one.text for one in said]
        assert len(texts) == len(set(texts))
        # neither what all have, nor numbers, nor addresses
        assert not {"某人", "2020", "0042", "https://example.org/狗"} & set(texts)
        assert [one.text for one in read_sayings(catalogue.connection, 2)] == ["动物", "宠物"]


# What is found


TEXTS = ["一只狗", "狗在跑", "红色的心", "重庆火锅 Hot Pot", "Red Heart", "够了", "绿色"]
SPELLINGS = Spellings(TEXTS)


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("狗", ["狗在跑", "一只狗"]),  # beginnings first
        ("gou", ["狗在跑", "够了", "一只狗"]),
        ("go", ["狗在跑", "够了", "一只狗"]),
        ("hsdx", ["红色的心"]),
        ("dx", ["红色的心"]),  # inside, from a syllable on
        ("sdex", ["红色的心"][:0]),  # either syllables or initials
        ("hongse", ["红色的心"]),
        ("hong se de", ["红色的心"]),
        ("HONG'SE", ["红色的心"]),
        ("ong", []),  # no syllable begins so
        ("chongqing", ["重庆火锅 Hot Pot"]),  # as a word, not zhong
        ("zhongqing", []),
        ("hot", ["重庆火锅 Hot Pot"]),
        ("ＨＯＴ　ｐ", ["重庆火锅 Hot Pot"]),  # full width
        ("ot", []),
        ("red h", ["Red Heart"]),
        ("h", ["红色的心", "重庆火锅 Hot Pot", "Red Heart"]),
        ("lv", ["绿色"]),
        ("重庆火锅 hot pot", ["重庆火锅 Hot Pot"]),  # longer than what is sorted
        ("重庆火锅 hot cat", []),
        ("", []),
        (" ", []),
        ("\0", []),
        ("\ud800", []),
        ("龍" * 100, []),
    ],
)
def test_what_is_typed_finds(typed, found):
    assert [TEXTS[number] for number in SPELLINGS(typed, 8)] == found


def test_no_more_are_given_than_asked_for():
    assert len(SPELLINGS("h", 2)) == 2
    assert Spellings([])("x", 8) == []


WORDS = st.text(st.sampled_from("红狗心色 ab"), min_size=1, max_size=30)


@given(st.lists(WORDS, max_size=40), WORDS, st.integers(1, 10))
def test_all_that_have_what_was_typed_are_found_in_order(texts, typed, limit):
    # without pinyin, so that what is right can be said in a line: words begin at their first letter
    def units(text):
        return module._UNIT.findall(module._folded(text))

    wanted = typed.strip()
    starts = [number for number, text in enumerate(texts) if text.strip().startswith(wanted)]
    inside = []
    for number, text in enumerate(texts):
        parts = units(text)
        rests = ["".join(parts[at:]) for at in range(len(parts)) if parts[at].isalnum()]
        if any(rest.startswith(wanted) for rest in rests) and number not in starts:
            inside.append(number)
    expected = [*starts, *inside][:limit] if wanted else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_pinyin", lambda: None)
        patch.setattr(module, "_FEW", 4)  # so that the quick way is taken, too
        spellings = Spellings(texts)
        patch.setattr(module, "_APART", module.re.compile("(?!)"))
        assert spellings(typed, limit) == expected


def test_without_pypinyin_all_else_is_suggested(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pypinyin", None)
    module._pinyin.cache_clear()
    try:
        spellings = Spellings(TEXTS)
    finally:
        module._pinyin.cache_clear()
    assert spellings("gou", 8) == []
    assert [TEXTS[number] for number in spellings("狗", 8)] == ["狗在跑", "一只狗"]


def test_of_many_the_answer_is_quick():
    rng = np.random.default_rng(3)
    letters = np.array(list("一只狗猫在雪地里跑红色的心大小山水天人看飞鸟鱼花草树"))
    texts = ["".join(rng.choice(letters, 12)) for _ in range(5_000)]
    spellings = Spellings(texts)
    took = []
    for typed in ("狗", "gou", "h", "hs", "红色", "hongse", "zzz", texts[0]):
        for _ in range(5):
            began = time.perf_counter()
            spellings(typed, 8)
            took.append(time.perf_counter() - began)
    assert np.median(took) < 0.005


# Over HTTP


def test_suggestions_over_http(index_dir):
    with (
        application(index_dir) as app,
        listening(app) as address,
        httpx.Client(base_url=address, trust_env=False) as http,
    ):

        def found():
            return http.get("/v1/suggest", params={"q": "gou"}).json()["suggestions"]

        assert eventually(found) == [
            {"text": "狗在跑", "kind": "caption", "count": 1, "field": None},
            {"text": "一只狗", "kind": "caption", "count": 1, "field": None},
        ]
        answer = http.get("/v1/suggest", params={"q": "动", "limit": 1})
        assert answer.json()["suggestions"] == [
            {"text": "动物", "kind": "tag", "count": 3, "field": "tags"}
        ]
        assert http.get("/v1/suggest").json() == {"suggestions": []}
        assert_error(http.get("/v1/suggest?q=x&limit=51"), 422, "invalid_request", "limit")
        assert_error(
            http.get("/v1/suggest", params={"q": "x" * 101}), 422, "invalid_request", "100"
        )
        assert_error(http.get("/v1/suggest?q=x&collection=y"), 404, "collection_not_found")


def test_where_nothing_is_to_be_suggested_nothing_is_read(index_dir):
    with application(index_dir, suggestions=0) as app:
        answer = asyncio.run(ask(app, "GET", "/v1/suggest?q=gou"))
        assert answer.json() == {"suggestions": []}
        assert app.state.service.collection(None).suggestions._thread is None


def test_what_is_indexed_meanwhile_is_suggested(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LOOKED_S", 0.0)
    monkeypatch.setattr(module, "_BUILT_SHARE", 0.0)
    index_dir = write(tmp_path / "index", SAID[:1])
    suggestions = Suggestions(index_dir, 100)

    def found(typed):
        suggestions.follow()
        return [one.text for one in suggestions(typed, 8)]

    assert eventually(lambda: found("mao")) == ["一只猫"]
    assert found("gou") == []
    write(index_dir, SAID[1:2])
    assert eventually(lambda: found("gou")) == ["一只狗"]
    built = suggestions._built
    for _ in range(20):
        found("gou")
    assert suggestions._built is built, "nothing has changed, nothing is built"
    with Catalogue.open_for_writing(index_dir) as catalogue, catalogue.transaction():
        (record,) = catalogue.find_id("a/cat.png", 1)
        catalogue.describe(record.row, record.picture._replace(caption="两只鸟"))
    assert eventually(lambda: found("niao")) == ["两只鸟"], "only the words have changed"
    assert found("mao") == []
    suggestions.close()


def test_an_index_that_cannot_be_read_suggests_what_it_did(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "_LOOKED_S", 0.0)
    index_dir = write(tmp_path / "index", SAID[:1])
    suggestions = Suggestions(index_dir, 100)
    suggestions.follow()
    assert eventually(lambda: suggestions("mao", 8))
    for file in index_dir.iterdir():
        file.unlink()
    suggestions._rest_until = 0.0
    suggestions.follow()
    eventually(lambda: "cannot read what to suggest" in caplog.text)
    suggestions.close()
    assert [one.text for one in suggestions("mao", 8)] == ["一只猫"]


def test_the_end_of_the_service_does_not_wait_for_what_is_being_built(tmp_path, monkeypatch):
    index_dir = write(tmp_path / "index", SAID)
    begun, texts = threading.Event(), [Saying(f"{number}号", "name", 1) for number in range(9_999)]

    def slow(units):
        begun.set()
        time.sleep(0.01)
        return [[units]]

    monkeypatch.setattr(module, "_spellings", slow)
    monkeypatch.setattr(module, "read_sayings", lambda *_: texts)
    suggestions = Suggestions(index_dir, 100_000)
    suggestions.follow()
    assert begun.wait(20)
    began = time.monotonic()
    suggestions.close()
    assert time.monotonic() - began < 10, "it would take 100 seconds"
    assert suggestions("0", 8) == []
