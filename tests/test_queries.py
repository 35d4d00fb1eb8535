"""Queries as values: what they refuse, what they come to, and which hits they give."""

import itertools
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEncoder, as_stored, save_picture
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.catalogue import Catalogue
from retrieval.errors import EncoderError, QueryError, RankingGoneError
from retrieval.filters.language import parse_where
from retrieval.index import open_index
from retrieval.ingest import index_folder
from retrieval.records import Picture
from retrieval.search import LikeTerm, PictureTerm, Query, Searcher, TextTerm
from retrieval.search.combining import combine
from retrieval.search.hits import Place
from retrieval.search.hybrid import Blend
from retrieval.search.query import FOLD_AT, MAX_RANKED, MAX_TERMS, WITHOUT_WEIGHT
from retrieval.search.query_rows import QueryRows
from retrieval.search.reranking import DIVERSIFIED, diversify, fold, rank
from retrieval.search.windows import WINDOW, windows
from retrieval.service.collection import KEPT_RANKINGS

COUNT = 12
PAGE = (Path(__file__).parents[1] / "docs" / "queries.md").read_text(encoding="utf-8")


class CountingEncoder(FakeEncoder):
    """Notes the texts of each pass."""

    def __init__(self, **options):
        super().__init__(**options)
        self.passes = []

    def encode_text(self, texts):
        self.passes.append(list(texts))
        return super().encode_text(texts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pictures = tmp_path_factory.mktemp("pictures") / "图片"
    for i in range(COUNT):
        save_picture(pictures / f"{i:02}.png", i)
    lines = [{"file_name": f"{i:02}.png", "n": i} for i in range(COUNT)]
    text = "\n".join(map(json.dumps, lines))
    (pictures / "metadata.jsonl").write_text(text, encoding="utf-8")
    return pictures


@pytest.fixture(scope="module")
def index_dir(folder):
    index_folder(folder, folder.parent / "index", FakeEncoder())
    return folder.parent / "index"


@pytest.fixture
def encoder():
    return CountingEncoder()


@pytest.fixture
def searcher(index_dir, encoder):
    with Searcher.open(index_dir, encoder) as opened:
        yield opened


def brute_force(folder, encoder, query):
    """All pictures as name and score, best first."""
    query = query / np.linalg.norm(query)
    scored = [
        (path.name, float(query @ as_stored(encoder.encode_file(path))))
        for path in sorted(folder.glob("*.png"))
    ]
    return sorted(scored, key=lambda pair: -pair[1])


def assert_hits(hits, expected):
    assert [hit.image_id for hit in hits] == [name for name, _ in expected]
    assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected], abs=1e-5)


class TestBadInput:
    @pytest.mark.parametrize(
        "weight",
        [math.nan, math.inf, -math.inf, 0, 0.0, "1", None, True, 10**400],
        ids=lambda weight: str(weight)[:8] if weight != 10**400 else "googols",
    )
    @pytest.mark.parametrize("make", [TextTerm, LikeTerm, lambda x, w: PictureTerm(x.encode(), w)])
    def test_weights(self, make, weight):
        with pytest.raises(QueryError, match="finite weight other than 0"):
            make("x", weight)

    @pytest.mark.parametrize("text", ["", " ", "　\n", None, 3, b"cat", ["cat"]])
    def test_texts(self, text):
        with pytest.raises(QueryError, match="expected a text to search for"):
            TextTerm(text)

    @pytest.mark.parametrize("picture", [None, True, 1.5, b"id"])
    def test_what_names_no_picture(self, picture):
        with pytest.raises(QueryError, match="row or the id"):
            LikeTerm(picture)
        if picture != b"id":
            with pytest.raises(QueryError, match="file or its bytes"):
                PictureTerm(picture)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"terms": ()}, "something to look for, got nothing"),
            ({"terms": "狗"}, "tuple of terms, got str"),
            ({"terms": ["狗"]}, "TextTerm, PictureTerm or LikeTerm, got str"),
            ({"terms": [TextTerm("狗")] * (MAX_TERMS + 1)}, f"at most {MAX_TERMS} .* got 33"),
            ({"terms": [TextTerm("雪", -1.0)]}, "only what to stay away from"),
            ({"where": "n = 1"}, "a filter as where, got str"),
            ({"top_k": 0}, "top_k of at least 1, got 0"),
            ({"offset": -1}, "offset of at least 0, got -1"),
            ({"offset": 1.0}, "offset of at least 0, got 1.0"),
            ({"offset": True}, "offset of at least 0"),
            ({"fold": 0}, "fold to be a cosine above 0 and up to 1, got 0"),
            ({"fold": 1.01}, "fold to be"),
            ({"fold": math.nan}, "fold to be"),
            ({"fold": True}, "fold to be"),
            ({"diversity": 1}, "diversity to be at least 0 and below 1, got 1"),
            ({"diversity": -0.1}, "diversity to be"),
            ({"diversity": math.nan}, "diversity to be"),
            ({"diversity": "0.3"}, "diversity to be"),
            ({"fold": 0.9, "offset": MAX_RANKED}, f"{MAX_RANKED} together .* got 1010"),
        ],
    )
    def test_settings(self, change, message):
        with pytest.raises(QueryError, match=message):
            Query(**{"terms": (TextTerm("狗"),), **change})

    def test_one_text_where_a_list_belongs(self, searcher):
        for options in ({"like": "a.png"}, {"without": "雪"}, {"without": 3}):
            with pytest.raises(QueryError, match="a list as"):
                Query.of("狗", **options)
        with pytest.raises(QueryError, match="got one query"):
            searcher.answers(Query.of("狗"))

    @pytest.mark.parametrize(
        ("beside", "told"),
        [
            ({"where": parse_where("n < 3")}, "got where beside"),
            ({"hybrid": True}, "got hybrid beside"),
            ({"where": parse_where("n < 3"), "hybrid": Blend()}, "got where and hybrid beside"),
        ],
    )
    def test_what_a_query_says_itself_is_not_said_beside_it(self, searcher, beside, told):
        for ask in (searcher.search, searcher.answer, lambda *a, **b: searcher.answers([*a], **b)):
            with pytest.raises(QueryError, match=told):
                ask(Query.of("狗"), **beside)
            assert ask("狗", **beside)

    @pytest.mark.parametrize("like", ["nowhere.png", 0, -1, 10**30, 999, "\ud800", "a" * 500, "\0"])
    def test_pictures_that_are_not_in_the_index(self, searcher, encoder, like):
        with pytest.raises(QueryError, match="of a picture in the index, got") as caught:
            searcher.search(Query.of("狗", like=[like]))
        assert len(str(caught.value)) < 250
        assert encoder.passes == []

    def test_pictures_that_cannot_be_read(self, searcher, folder, tmp_path):
        broken = tmp_path / "broken.jpg"
        broken.write_bytes(b"no picture")
        for picture, message in [
            (tmp_path / "gone.png", "gone.png.*No such file.*Check the path"),
            (folder, "Check the path"),
            (broken, "broken.jpg.*expected a picture, got 10 other bytes"),
            (b"", "got 0 bytes, of which is said: expected a picture"),
        ]:
            with pytest.raises(QueryError, match=message):
                searcher.search(Query.of(picture))

    def test_terms_that_cancel(self, searcher, folder):
        for query in (
            Query((TextTerm("狗", 2.0), TextTerm("狗", -2.0))),
            Query((LikeTerm(1), LikeTerm("00.png", -1.0))),
            Query((TextTerm("狗", 1e300), TextTerm("狗", -1e300), TextTerm("猫", 1.0))),
        ):
            with pytest.raises(QueryError, match="cancel one another"):
                searcher.search(query)

    def test_an_encoder_that_breaks_its_promise_over_pictures_is_blamed(self, index_dir, folder):
        class Careless(FakeEncoder):
            def encode_pixels(self, pixels):
                return super().encode_pixels(pixels) * 3

        with (
            Searcher.open(index_dir, Careless()) as searcher,
            pytest.raises(EncoderError, match="length 3"),
        ):
            searcher.search(Query.of(folder / "00.png"))


class TestCombining:
    def test_is_the_unit_row_of_the_weighted_sum(self):
        rows = np.eye(3, dtype=np.float32)
        expected = np.array([2, -1, 2]) / 3
        np.testing.assert_allclose(combine(rows, [2.0, -1.0, 2.0]), expected, atol=1e-7)
        np.testing.assert_allclose(combine(rows, [2e300, -1e300, 2e300]), expected, atol=1e-7)
        np.testing.assert_allclose(combine(rows, [2e-300, -1e-300, 2e-300]), expected, atol=1e-7)

    def test_a_row_alone_stays_as_it_is(self):
        row = np.array([[0.6, 0.8000001]], np.float32)
        assert combine(row, [5.0]) is not None
        np.testing.assert_array_equal(combine(row, [5.0]), row[0])

    def test_texts_pictures_and_negatives_find_what_brute_force_finds(
        self, searcher, folder, encoder
    ):
        dog, snow = FakeEncoder().encode_text(["狗", "雪"])
        outside = save_picture(folder.parent / "outside.png", 77)
        picture = encoder.encode_file(outside)
        expected = brute_force(folder, encoder, dog + picture - WITHOUT_WEIGHT * snow)[:5]
        for source in (outside, outside.read_bytes()):
            query = Query.of("狗", source, without=["雪"], top_k=5)
            assert_hits(searcher.search(query), expected)
        weighted = Query((TextTerm("狗", 3.0), TextTerm("雪", -2.0)), top_k=COUNT)
        assert_hits(searcher.search(weighted), brute_force(folder, encoder, 3 * dog - 2 * snow))

    def test_a_picture_finds_itself(self, searcher, folder):
        (hit, *_) = searcher.search(Query.of(folder / "05.png"))
        assert (hit.image_id, hit.score) == ("05.png", pytest.approx(1.0, abs=1e-5))


class TestMoreLikeThis:
    def test_leaves_the_picture_itself_out(self, searcher, folder, encoder):
        row = as_stored(encoder.encode_file(folder / "05.png"))
        expected = [pair for pair in brute_force(folder, encoder, row) if pair[0] != "05.png"]
        for like in ("05.png", 6):
            hits = searcher.search(Query.of(like=[like], top_k=4))
            assert_hits(hits, expected[:4])
            assert [hit.rank for hit in hits] == [1, 2, 3, 4]
        everything = searcher.search(Query.of(like=["05.png"], top_k=50))
        assert_hits(everything, expected)

    def test_goes_with_filters_offsets_and_several_pictures(self, searcher, folder, encoder):
        rows = [as_stored(encoder.encode_file(folder / name)) for name in ("05.png", "07.png")]
        expected = [
            pair
            for pair in brute_force(folder, encoder, rows[0] + rows[1])
            if pair[0] not in ("05.png", "07.png") and int(pair[0][:2]) >= 3
        ]
        query = Query.of(like=[6, "07.png"], where=parse_where("n >= 3"), top_k=3, offset=2)
        hits = searcher.search(query)
        assert_hits(hits, expected[2:5])
        assert [hit.rank for hit in hits] == [3, 4, 5]

    def test_an_id_that_several_folders_have_is_refused(self, tmp_path, encoder):
        for name in ("a", "b"):
            save_picture(tmp_path / name / "x.png", ord(name))
            index_folder(tmp_path / name, tmp_path / "index", encoder)
        with Searcher.open(tmp_path / "index", encoder) as searcher:
            with pytest.raises(QueryError, match="an id that one picture has"):
                searcher.search(Query.of(like=["x.png"]))
            assert len(searcher.search(Query.of(like=[1]))) == 1


class TestSeveralQueries:
    def test_one_pass_encodes_the_texts_of_all(self, searcher, encoder):
        where = parse_where("n < 6")
        queries = [
            "狗",
            Query.of("猫", without=["雪"], where=where),
            Query.of(like=[3]),
            Query.of("海", fold=0.9, diversity=0.2, top_k=3, offset=1),
        ]
        together = searcher.answers(queries, top_k=4)
        assert encoder.passes == [["狗", "猫", "雪", "海"]]
        for query, answer in zip(queries, together, strict=True):
            alone = searcher.answer(query, top_k=4)
            assert [hit.row for hit in answer.hits] == [hit.row for hit in alone.hits]
        assert [len(answer.hits) for answer in together] == [4, 6, 10, 3]

    def test_the_category_is_that_of_the_only_text_looked_for(self, index_dir, encoder):
        def classify(texts):
            return encoder.encode_text(texts), [(text, 0.5) for text in texts]

        with Searcher.open(index_dir, encoder, classify) as searcher:
            queries = ["狗", Query.of("猫", without=["雪"]), Query.of("a", "b"), Query.of(like=[1])]
            categories = [answer.category for answer in searcher.answers(queries)]
        assert categories == [("狗", 0.5), ("猫", 0.5), None, None]


def angles(*degrees):
    """Unit rows in the plane."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


class TestFolding:
    def test_a_row_is_folded_into_the_first_that_is_not_folded_itself(self):
        # cos 10° = 0.985, cos 20° = 0.940
        assert fold(angles(0, 10, 20, 90, 100, 5), 0.98).tolist() == [0, 0, 2, 3, 3, 0]
        assert fold(angles(0, 10, 20, 90, 100, 5), 0.93).tolist() == [0, 0, 0, 3, 3, 0]
        assert fold(angles(), 0.9).tolist() == []

    def test_hits_list_what_they_fold(self, tmp_path):
        encoder = FakeEncoder(embed_dim=2)
        fill(tmp_path, encoder, angles(0, 10, 90, 80, 45, 5))
        with Searcher.open(tmp_path, encoder) as searcher:
            query = Query((LikeTerm(1, 1.0), TextTerm("x", 1e-9)), fold=0.98)
            # 0° is left out; the others by their angle: 5, 10, 45, 80, 90
            hits = searcher.search(query)
            assert [(h.rank, h.row, [f.row for f in h.folded]) for h in hits] == [
                (1, 6, [2]),
                (2, 5, []),
                (3, 4, [3]),
            ]
            second = Query(query.terms, fold=0.98, top_k=1, offset=1)
            assert [(h.rank, h.row) for h in searcher.search(second)] == [(2, 5)]

    def test_does_not_read_a_large_index_whole_for_a_query_that_folds_all(self):
        hits = [Place(i + 1, 1.0 - i / 100_000, i) for i in range(50_000)]
        asked, same = [], angles(0)[0]

        def find(k):
            asked.append(k)
            return hits[:k]

        query = Query((TextTerm("x"),), None, 10, 0, 0.01)
        (only,) = rank(query, find, lambda rows: dict.fromkeys(rows, same))
        assert only.row == 0
        assert max(asked) == 16_384

    @pytest.mark.parametrize("gone", [{1000}, set(range(50))])
    @pytest.mark.parametrize("diversity", [None, 0.01])
    def test_looks_on_behind_any_number_of_near_duplicates(self, monkeypatch, diversity, gone):
        monkeypatch.setattr("retrieval.search.reranking.LISTED", 50)
        monkeypatch.setattr("retrieval.search.reranking._PAGE", 40)
        # 500 of one picture, 500 of another, then three of a third and two of a fourth
        degrees = [*np.linspace(0, 1, 500), *np.linspace(40, 41, 500), 80, 80, 80, 120, 120]
        features = angles(*degrees)
        hits = [Place(i + 1, 1.0 - i / 2000, i) for i in range(len(features))]
        read = []

        def features_of(rows):
            read.extend(rows)
            return {row: features[row] for row in rows if row not in gone}

        def ranked(top_k, offset=0):
            query = Query((TextTerm("x"),), None, top_k, offset, 0.98, diversity)
            return rank(query, lambda k: hits[:k], features_of)

        whole = ranked(10)
        shown = [0, 500, 1001, 1003] if 1000 in gone else [50, 500, 1000, 1003]
        assert [hit.rank for hit in whole] == [1, 2, 3, 4]
        assert {hit.row: len(hit.folded) for hit in whole} == {
            row: 49 if row == 0 else 0 for row in shown
        }
        assert diversity or [hit.row for hit in whole] == shown
        assert ranked(1, 2) == whole[2:3]
        read.clear()
        if diversity is None:
            assert ranked(2) == whole[:2]
            assert max(read) < 600  # no further than it had to


class TestDiversity:
    def test_orders_by_marginal_relevance(self):
        features = angles(0, 10, 60, 90)
        scores = np.array([0.9, 0.85, 0.6, 0.3], np.float32)
        # After 0°: 0.5 · (0.85 - cos 10°) = -0.067, 0.5 · (0.6 - cos 60°) = 0.05, and
        # 0.5 · (0.3 - cos 90°) = 0.15. After 90°: 0.6 - cos 30° = -0.266, 0.85 - 0.985 = -0.135.
        assert diversify(scores, features, 0.5) == [0, 3, 1, 2]
        # 0.9 · 0.85 - 0.0985 = 0.666, 0.9 · 0.6 - 0.05 = 0.49
        assert diversify(scores, features, 0.1) == [0, 1, 2, 3]

    def test_none_leaves_the_order_and_ties_go_to_the_first(self):
        scores = np.array([0.5, 0.5, 0.5], np.float32)
        assert diversify(scores, angles(0, 10, 20), 0.0) == [0, 1, 2]
        assert diversify(scores, angles(0, 0, 0), 0.5) == [0, 1, 2]

    def test_unlikeness_below_zero_counts(self):
        scores = np.array([0.5, 0.2, 0.1], np.float32)
        # after 0°, 0.5 · (0.2 - cos 90°) = 0.1 and 0.5 · (0.1 - cos 180°) = 0.55
        assert diversify(scores, angles(0, 90, 180), 0.5) == [0, 2, 1]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, DIVERSIFIED + 60),
    fold_at=st.none() | st.floats(0.3, 1.0),
    diversity=st.none() | st.floats(0.0, 0.99),
    page=st.integers(8, 100),
)
def test_pages_one_after_another_are_the_whole(seed, count, fold_at, diversity, page):
    draw = np.random.default_rng(seed)
    features = draw.standard_normal((count, 3))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    scores = np.sort(draw.uniform(-1, 1, count).astype(np.float32))[::-1]
    hits = [Place(i + 1, float(score), i) for i, score in enumerate(scores)]

    def asked(offset, top_k):
        query = Query((TextTerm("x"),), None, top_k, offset, fold_at, diversity)
        return rank(query, lambda k: hits[:k], lambda rows: {row: features[row] for row in rows})

    whole = asked(0, 500)
    assert [hit.rank for hit in whole] == list(range(1, len(whole) + 1))
    paged = [hit for offset in range(0, count + page, page) for hit in asked(offset, page)]
    assert [(hit.rank, hit.row) for hit in paged] == [(hit.rank, hit.row) for hit in whole]
    shown = [each.row for hit in whole for each in (hit, *hit.folded)]
    assert sorted(shown) == list(range(count))  # each picture once, shown or folded
    if fold_at is not None and len(whole) > 1:
        kept = features[[hit.row for hit in whole]]
        assert (kept @ kept.T)[np.triu_indices(len(kept), 1)].max() < fold_at + 1e-6


def fill(index_dir, encoder, features):
    """Write features as pictures without files, of rows from 1 up."""
    with (
        Catalogue.create_or_open(
            index_dir, fingerprint=encoder.fingerprint, embed_dim=encoder.embed_dim
        ) as catalogue,
        catalogue.transaction(),
    ):
        return [catalogue.add(item(), feature) for feature in features]


_numbers = itertools.count()


def item():
    return Picture(None, None, f"id-{next(_numbers)}", None, None, None, None, None, None, "{}")


class TestPaging:
    def test_offsets_pass_over_hits(self, searcher):
        everything = searcher.search("狗", COUNT)
        for offset in (0, 3, COUNT - 1, COUNT, 10**9):
            hits = searcher.search(Query.of("狗", offset=offset, top_k=4))
            assert hits == everything[offset : offset + 4]

    def test_a_ranking_refuses_what_is_no_page(self, searcher):
        with pytest.raises(QueryError, match="depth of at most 1000"):
            searcher.rank("狗", MAX_RANKED + 1)
        ranking = searcher.rank(Query.of("狗", top_k=2, offset=5), 7)
        assert len(ranking) == 7
        for offset in (-1, 0.5, True):
            with pytest.raises(QueryError, match="offset of at least 0"):
                ranking.page(offset)
        with pytest.raises(QueryError, match="top_k of at least 1"):
            ranking.page(0, 0)
        assert ranking.page(0, 3) == searcher.search("狗", 3)
        assert ranking.page(7) == []

    def test_a_ranking_ends_with_the_index_that_it_is_of(self, tmp_path):
        encoder, rows = FakeEncoder(embed_dim=4), np.eye(4, dtype=np.float32)
        fill(tmp_path / "index", encoder, rows)
        with Searcher.open(tmp_path / "index", encoder) as searcher:
            ranking = searcher.rank("狗")
            shutil.rmtree(tmp_path / "index")
            assert len(ranking.page()) == 4  # as long as that is what is searched
            fill(tmp_path / "index", encoder, rows[:3])
            assert searcher.refresh()
            with pytest.raises(RankingGoneError, match="Rank the query again"):
                ranking.page()
            assert len(searcher.rank("狗").page()) == 3

    @settings(max_examples=8, deadline=None)
    @given(data=st.data())
    def test_each_hit_comes_once_while_a_writer_works(self, tmp_path_factory, data):
        index_dir = tmp_path_factory.mktemp("paged")
        encoder = FakeEncoder(embed_dim=4)
        draw = np.random.default_rng(data.draw(st.integers(0, 10**6)))

        def some(count):
            rows = draw.standard_normal((count, 4))
            return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

        fill(index_dir, encoder, some(30))
        options = {"fingerprint": encoder.fingerprint, "embed_dim": 4}
        fold_at = data.draw(st.none() | st.just(0.9))
        with (
            Searcher.open(index_dir, encoder) as searcher,
            Catalogue.create_or_open(index_dir, **options) as writer,
        ):
            ranking = searcher.rank(Query.of("狗", fold=fold_at))
            expected = [hit.row for hit in ranking.page(0, 100)]
            seen, removed_before = [], {}
            offset = 0
            while offset < len(ranking):
                page = data.draw(st.integers(1, 8))
                hits = ranking.page(offset, page)
                assert [hit.rank for hit in hits] == sorted(hit.rank for hit in hits)
                seen += [hit.row for hit in hits]
                offset += page
                with writer.transaction():
                    gone = data.draw(st.sets(st.sampled_from(expected), max_size=2))
                    writer.remove(gone)
                    for row in gone:
                        removed_before.setdefault(row, offset)
                    for feature in some(2):
                        writer.add(item(), feature)
                searcher.refresh()
            place = {row: i for i, row in enumerate(expected)}
            assert seen == [
                row for row in expected if place[row] < removed_before.get(row, math.inf)
            ]


class TestWindows:
    def test_a_short_text_stays_as_it_is(self):
        assert windows(" 一只狗。 ") == [" 一只狗。 "]
        assert windows("字" * 48) == ["字" * 48]
        assert windows("a dog runs. " * 13) == ["a dog runs. " * 13]  # 156 · 0.3 = 46.8

    def test_a_long_text_is_cut_at_its_signs(self):
        one, two, three = "一" * 29 + "。", "二" * 17 + "，", "三" * 19
        assert windows(one + two + three) == [one + two, three]
        assert windows(one + " \n " + one) == [one, one]

    def test_what_has_no_signs_is_cut_anywhere(self):
        assert windows("字" * 100) == ["字" * 48, "字" * 48, "字" * 4]
        assert windows("。" * 100) == ["。" * 48, "。" * 48, "。" * 4]

    @given(st.text(st.sampled_from("字a 。,\n"), min_size=1, max_size=300))
    def test_nothing_is_lost(self, text):
        cut = windows(text)
        assert "".join("".join(cut).split()) == "".join(text.split())
        assert len(cut) == 1 or all(part.strip() for part in cut)

    def test_a_query_is_the_mean_of_its_windows(self):
        encoder = CountingEncoder()
        rows_of = QueryRows(encoder, None, 16, 4)
        one, two = "一" * 30 + "。", "二" * 30
        rows, categories = rows_of([one + two, "短"])
        assert encoder.passes == [[one, two, "短"]]
        first, second, short = FakeEncoder().encode_text([one, two, "短"])
        mean = (first + second) / np.linalg.norm(first + second)
        np.testing.assert_allclose(rows[0], mean, atol=1e-6)
        np.testing.assert_array_equal(rows[1], short)
        assert list(categories) == [None, None]
        kept, _ = rows_of([one + two])
        np.testing.assert_array_equal(kept[0], rows[0])
        assert len(encoder.passes) == 1  # a long text is kept like any other


def test_a_catalogue_gives_features_by_row(index_dir, folder):
    with Catalogue.open(index_dir) as catalogue:
        found = catalogue.features_of([3, 1, 999])
        index, _ = open_index(index_dir, catalogue)
        assert sorted(found) == [1, 3]
        np.testing.assert_array_equal(
            found[3], as_stored(FakeEncoder().encode_file(folder / "02.png"))
        )
        assert index.search(found[3][None], 1)[1].tolist() == [[3]]
        assert catalogue.features_of([]) == {}


class TestThePage:
    def test_its_python_runs(self, searcher):
        blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
        assert len(blocks) == 2
        for block in blocks:
            names = {"searcher": searcher}
            exec(compile(block, "docs/queries.md", "exec"), names)
        assert [hit.rank for hit in names["first"]] == list(range(1, COUNT + 1))
        assert names["second"] == []

    def test_it_names_the_measured_defaults_and_the_limits(self):
        assert f"`--not` weighs -{WITHOUT_WEIGHT}." in PAGE
        assert f"a cosine of {FOLD_AT} with" in PAGE
        assert f"the best {DIVERSIFIED} anew" in PAGE
        assert f"more than {MAX_TERMS} terms" in PAGE
        assert f"further down than {MAX_RANKED:,} hits" in PAGE
        assert f"longer than about {WINDOW} Chinese characters" in PAGE
        assert f"{KEPT_RANKINGS} orders" in PAGE

    def test_what_is_refused_is_refused_in_those_words(self, searcher):
        for query in (
            Query.of(like=["gone.jpg"]),
            Query((TextTerm("狗"), TextTerm("狗", -1.0))),
        ):
            with pytest.raises(QueryError) as caught:
                searcher.search(query)
            assert f"error: {caught.value}\n" in PAGE
