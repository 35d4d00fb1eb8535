"""Searches that are to be paged, as the page sends them, answered together with all others."""

import json

import numpy as np
import pytest
from fakes import FakeEncoder

from retrieval.catalogue import Catalogue
from retrieval.catalogue.filters import Facet
from retrieval.filters.tree import Compare
from retrieval.index import SegmentedIndex
from retrieval.ingest import IndexWriter, Item
from retrieval.search import Query, Searcher, answering
from retrieval.service.asked import Pages, Search, answer_searches
from retrieval.service.given import Addresses
from retrieval.service.messages.search import SearchRequest

COUNT = 40


class CountingEncoder(FakeEncoder):
    """Notes the texts of each pass."""

    def __init__(self):
        super().__init__()
        self.passes = []

    def encode_text(self, texts):
        self.passes.append(list(texts))
        return super().encode_text(texts)


@pytest.fixture
def encoder():
    return CountingEncoder()


@pytest.fixture
def index_dir(tmp_path, encoder):
    rows = np.random.default_rng(0).standard_normal((COUNT, encoder.embed_dim))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    with IndexWriter.open(
        tmp_path, fingerprint=encoder.fingerprint, embed_dim=encoder.embed_dim
    ) as writer:
        writer.add_many(
            Item(f"{i:02}", feature=row, metadata={"n": i, "kind": f"k{i % 3}"})
            for i, row in enumerate(rows)
        )
    return tmp_path


@pytest.fixture
def searcher(index_dir, encoder):
    with Searcher.open(index_dir, encoder) as opened:
        yield opened


def search(**body):
    return Search(SearchRequest(**body), Addresses(), 0.0)


def answered(searcher, pages, *searches):
    return [
        each if isinstance(each, Exception) else json.loads(each)
        for each in answer_searches(searcher, pages, searches)
    ]


def rows_of(answer):
    return [hit["row"] for hit in answer["hits"]]


def lookups(monkeypatch):
    """Note how many queries each look into the index is for, and how deep it goes."""
    noted, look = [], SegmentedIndex.search

    def noting(self, features, k, among=None):
        noted.append((len(features), k))
        return look(self, features, k, among)

    monkeypatch.setattr(SegmentedIndex, "search", noting)
    return noted


def test_one_pass_encodes_and_one_look_ranks_those_whose_filters_agree(
    searcher, encoder, monkeypatch
):
    noted = lookups(monkeypatch)
    where = "n >= 10"  # read anew for each of them
    answers = answered(
        *(searcher, Pages(9)),
        search(query="狗", paged=True, top_k=3),
        search(query="猫", top_k=3),
        search(query="海", paged=True, top_k=5, where=where),
        search(query="山", paged=True, top_k=5, where=where),
        search(query="车", paged=True, top_k=3),
    )
    assert [sorted(texts) for texts in encoder.passes] == [sorted("狗猫海山车")]
    assert sorted(noted) == [(1, 3), (2, 1000), (2, 1000)]
    monkeypatch.undo()
    for answer, query in zip(answers, "狗猫海山车", strict=True):
        is_filtered = query in "海山"
        condition = Compare("n", ">=", 10.0) if is_filtered else None
        alone = searcher.search(query, 5 if is_filtered else 3, condition)
        assert rows_of(answer) == [hit.row for hit in alone]
        assert [hit["rank"] for hit in answer["hits"]] == [hit.rank for hit in alone]
    assert [bool(answer["page"]) for answer in answers] == [True, False, True, True, True]


def test_further_pages_go_on_with_the_order(searcher):
    pages = Pages(9)
    whole = [hit.row for hit in searcher.search("狗", COUNT)]
    (first,) = answered(searcher, pages, search(query="狗", paged=True, top_k=7))
    seen = rows_of(first)
    for offset in range(7, COUNT, 7):
        further = search(page=first["page"], offset=offset, top_k=7)
        answer, beside = answered(searcher, pages, further, search(query="猫", paged=True))
        assert (answer["page"], len(beside["hits"])) == (first["page"], 10)
        seen += rows_of(answer)
    assert seen == whole


def test_one_that_cannot_be_answered_leaves_the_others_alone(searcher):
    bad, good, gone = answered(
        *(searcher, Pages(9)),
        search(like=["none of this name"], paged=True),
        search(query="狗", paged=True),
        search(page="no such token"),
    )
    assert "the id of a picture in the index" in str(bad)
    assert len(good["hits"]) == 10
    assert "the page of a recent answer" in str(gone)


def test_only_the_pictures_of_the_page_are_read(searcher, monkeypatch):
    read, records = [], Catalogue.records_and_texts

    def noting(self, rows):
        read.append(len(rows := list(rows)))
        return records(self, rows)

    monkeypatch.setattr(Catalogue, "records_and_texts", noting)
    searcher.answers(["狗", "猫", "海"], 4)
    assert read == [12]  # of all of them at once
    read.clear()
    ranking = searcher.rank("狗")
    assert (read, len(ranking)) == ([], COUNT)
    ranking.page(8, 6)
    assert read == [6]


def test_pictures_that_were_removed_make_room_in_answers_and_orders(searcher, index_dir):
    whole = [hit.row for hit in searcher.search("狗", COUNT)]
    with Catalogue.open_for_writing(index_dir) as writer, writer.transaction():
        writer.remove(whole[:3])
    hits = searcher.search("狗", 5)  # nothing has been taken over yet
    assert [(hit.rank, hit.row) for hit in hits] == list(enumerate(whole[3:8], start=1))
    ranking = searcher.rank("狗")
    assert [hit.row for hit in ranking.page(0, 99)] == whole[3:]
    assert len(ranking) == COUNT - 3


def test_a_picture_that_goes_between_looking_and_reading_makes_room(
    searcher, index_dir, monkeypatch
):
    whole = [hit.row for hit in searcher.search("狗", COUNT)]
    other = [hit.row for hit in searcher.search("猫", 2)]
    read, left = answering._read, [whole[:1], whole[1:2]]

    def reading(state, places_of):
        if left:
            with Catalogue.open_for_writing(index_dir) as writer, writer.transaction():
                writer.remove(set(left.pop(0)) - set(other))
        return read(state, places_of)

    monkeypatch.setattr(answering, "_read", reading)
    gone = set(whole[:2]) - set(other)
    expected = [row for row in whole if row not in gone][:4]
    first, second = searcher.answers([Query.of("狗", top_k=4), Query.of("猫", top_k=2)])
    assert gone
    assert [(hit.rank, hit.row) for hit in first.hits] == list(enumerate(expected, start=1))
    assert [hit.row for hit in second.hits] == other
    assert not left


def test_values_are_counted_once_until_something_is_written(index_dir):
    statements = []
    with Catalogue.open_for_writing(index_dir) as catalogue:
        catalogue.connection.db.set_trace_callback(statements.append)

        def counted(*asked):
            statements.clear()
            facets = catalogue.filters.facets(*asked)
            return facets, any("FROM fields WHERE name" in each for each in statements)

        expected = [Facet("k0", 14), Facet("k1", 13), Facet("k2", 13)]
        assert counted("kind") == (expected, True)
        given, is_anew = counted("kind")
        assert (given, is_anew) == (expected, False)
        given.clear()  # the caller's own
        assert counted("kind") == (expected, False)
        assert counted("kind", None, 1) == (expected[:1], True)
        assert counted("kind", Compare("n", "<", 1.0)) == ([Facet("k0", 1)], True)
        with catalogue.transaction():
            catalogue.remove([1])
        assert counted("kind") == ([Facet("k0", 13), Facet("k1", 13), Facet("k2", 13)], True)
