"""Rows of queries that are kept: the same hits as without, from several threads, and no more."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fakes import FakeEncoder, save_picture

from retrieval.errors import EncoderError, QueryError
from retrieval.ingest import index_folder
from retrieval.search import Searcher
from retrieval.search.query_rows import QueryRows


class Counting(FakeEncoder):
    """An encoder whose last digits depend on the texts beside a text, as a model's do."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def encode_text(self, texts):
        self.calls.append(list(texts))
        rows = super().encode_text(texts)
        return rows if len(texts) == 1 else np.nextafter(rows, np.float32(2))


@pytest.fixture
def encoder():
    return Counting()


@pytest.fixture(scope="module")
def index_dir(tmp_path_factory):
    base = tmp_path_factory.mktemp("index")
    for seed in range(12):
        save_picture(base / "p" / f"{seed}.png", seed)
    index_folder(base / "p", base / "index", FakeEncoder())
    return base / "index"


def test_a_query_that_comes_again_is_not_encoded_again_and_finds_the_same(index_dir, encoder):
    queries = ["狗", "猫", "狗", "狗 ", "猫", "狗"]
    with Searcher.open(index_dir, Counting()) as plain:
        expected = [plain.answer(query, 4) for query in queries]
        assert plain.cache_info() == (0, 0, 0, 0)
    with Searcher.open(index_dir, encoder, cached_queries=8) as searcher:
        assert [searcher.answer(query, 4) for query in queries] == expected
        assert encoder.calls == [["狗"], ["猫"], ["狗 "]]
        assert searcher.cache_info() == (3, 3, 3, 8)


def test_what_was_asked_longest_ago_goes_first(index_dir, encoder):
    with Searcher.open(index_dir, encoder, cached_queries=2) as searcher:
        for query in ("a", "b", "a", "c", "a", "b"):
            searcher.search(query)
        assert encoder.calls == [["a"], ["b"], ["c"], ["b"]]
        assert searcher.cache_info() == (2, 4, 2, 2)


def test_queries_in_company_take_kept_rows_and_leave_theirs(index_dir, encoder):
    with Searcher.open(index_dir, Counting()) as plain:
        alone, together = plain.answer("狗"), plain.answers(["狗", "猫", "鸟"])
        assert alone != together[0]  # in the last digits
    with Searcher.open(index_dir, encoder, cached_queries=8) as searcher:
        assert searcher.answer("狗") == alone
        found = searcher.answers(["猫", "狗", "鸟", "猫"])
        assert found == [together[1], alone, together[2], together[1]]
        assert searcher.answer("猫") == together[1]
        assert encoder.calls == [["狗"], ["猫", "鸟"]]
        assert searcher.cache_info() == (2, 4, 3, 8)


def plain_answer(index_dir, query):
    with Searcher.open(index_dir, Counting()) as plain:
        return plain.answer(query)


def test_categories_are_kept_with_their_rows(index_dir, encoder):
    asked = []

    def classify(texts):
        asked.append(list(texts))
        return encoder.encode_text(texts), [("animal", 0.5) for _ in texts]

    with Searcher.open(index_dir, encoder, classify, cached_queries=4) as searcher:
        answers = [searcher.answer("狗") for _ in range(3)]
    assert asked == [["狗"]]
    assert [answer.category for answer in answers] == [("animal", 0.5)] * 3
    assert answers[0].hits == answers[2].hits == plain_answer(index_dir, "狗").hits


def test_threads_asking_at_once_get_their_own_hits(index_dir, encoder):
    queries = [f"问题{number % 7}" for number in range(200)]
    with Searcher.open(index_dir, encoder) as plain:
        expected = {query: plain.search(query, 3) for query in set(queries)}
    with Searcher.open(index_dir, encoder, cached_queries=5) as searcher:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda query: searcher.search(query, 3), queries))
        assert found == [expected[query] for query in queries]
        info = searcher.cache_info()
    assert info.hits + info.misses == len(queries)
    assert (info.held, info.most) == (5, 5)


def test_a_row_that_is_none_is_not_kept(index_dir, encoder, monkeypatch):
    with Searcher.open(index_dir, encoder, cached_queries=4) as searcher:
        with monkeypatch.context() as patch:
            patch.setattr(encoder, "encode_text", lambda texts: np.zeros((1, 16), np.float32))
            with pytest.raises(EncoderError, match="unit rows"):
                searcher.search("狗")
        assert searcher.search("狗") == plain_answer(index_dir, "狗").hits
        assert searcher.cache_info() == (0, 2, 1, 4)


def test_a_row_that_is_kept_keeps_no_others_in_memory(encoder):
    rows_of = QueryRows(encoder, None, encoder.embed_dim, 2)
    rows_of(["狗", "猫", "鸟"])
    kept = [row for row, _ in rows_of._kept.values()]
    assert [row.base for row in kept] == [None, None]
    assert rows_of(["鸟"])[0] == pytest.approx(np.stack(kept)[1:])


def test_fewer_than_none_cannot_be_kept(index_dir, encoder):
    with pytest.raises(QueryError, match="expected cached_queries of at least 0, got -1"):
        Searcher.open(index_dir, encoder, cached_queries=-1)
