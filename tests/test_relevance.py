"""Probabilities of hits: what they are made of, how they are fitted, stored and told."""

import dataclasses
import json
import math

import numpy as np
import pytest
from fakes import FakeEncoder, save_picture
from older_catalogues import as_schema_1

from retrieval.catalogue import Catalogue
from retrieval.errors import CorruptIndexError, IndexMismatchError, QueryError
from retrieval.filters.language import parse_where
from retrieval.index import verify
from retrieval.ingest import IndexWriter, index_folder
from retrieval.search import Calibration, Query, Searcher, relevance
from retrieval.search.calibrating import (
    Labelled,
    area_under_curve,
    calibrate,
    fit_logistic,
    reliability,
)
from retrieval.search.relevance import (
    BACKGROUND_ROWS,
    FEWEST_ROWS,
    Judge,
    Logistic,
    calibration_of,
    evidence_of,
    length_of,
    store_calibration,
)

WIDTH = 16
ENCODER = FakeEncoder()


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def drawn(count, seed=0, width=WIDTH):
    return unit(np.random.default_rng(seed).standard_normal((count, width)))


CALIBRATION = Calibration(
    fingerprint=ENCODER.fingerprint,
    hit=Logistic(
        {"score": 4.0, "z": 0.5, "margin": 3.0, "log_size": -0.5, "log_length": 0.3}, 0.25
    ),
    answer=Logistic({"score": 5.0, "log_size": -0.25}, -1.0),
    nothing_below=0.3,
    fitted_on="虚构",
    queries=120,
    sizes=(40, 500),
)


def make_index(folder, count):
    with IndexWriter.open(folder, fingerprint=ENCODER.fingerprint, embed_dim=WIDTH) as writer:
        for i, feature in enumerate(drawn(count)):
            writer.add(f"{i}", feature=feature, metadata={"n": i})
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_index(tmp_path_factory.mktemp("index") / "index", 60)


@pytest.fixture
def index_dir(made, tmp_path):
    """An index of 60 pictures of its own."""
    import shutil

    return shutil.copytree(made, tmp_path / "index")


# what is read of a query's scores


def test_evidence_by_hand():
    scores = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, -0.4]])
    found = evidence_of(scores, np.array([0.1, 0.0]), np.array([0.2, 0.0]), 100, [1, 9])
    assert found["z"][0] == pytest.approx([2.0, 1.0, 0.5])
    assert found["z"][1] == pytest.approx([1e5, 1e5, -4e5])  # no spread is no division by zero
    assert found["margin"] == pytest.approx(np.array([[0.2, -0.2, -0.3], [0.0, 0.0, -0.5]]))
    assert found["log_rank"][1] == pytest.approx([0.0, math.log(2), math.log(3)])
    assert found["log_size"] == pytest.approx(np.full((2, 3), math.log(100)))
    assert found["log_length"][:, 1] == pytest.approx([0.0, math.log(9)])
    assert found["mean"][:, 2] == pytest.approx([0.1, 0.0])
    alone = evidence_of(np.array([[0.5]]), np.array([0.1]), np.array([0.2]), 1, [0])
    assert alone["margin"] == pytest.approx(np.array([[0.4]]))  # above the background, then


def test_a_probability_by_hand():
    model = Logistic({"score": 2.0, "log_size": -1.0}, 0.5)
    evidence = {"score": np.array([[0.25, 0.0]]), "log_size": np.array([[1.0, 500.0]])}
    assert model.probability(evidence) == pytest.approx(np.array([[0.5, 0.0]]), abs=1e-12)
    assert 0.0 < model.probability({"score": np.ones((1, 1)), "log_size": np.ones((1, 1))}) < 1.0


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("一只狗", 3),
        ("a red dog", 3),
        ("猫の顔", 3),
        ("3只cat 在跑。", 5),
        ("🐶", 0),
        ("강아지", 3),
    ],
)
def test_lengths_are_alike_across_scripts(text, length):
    assert length_of(text) == length


# the fit


def test_known_probabilities_are_recovered():
    rng = np.random.default_rng(3)
    evidence = {"score": rng.normal(0.3, 0.1, (20_000, 2)), "z": rng.normal(2.0, 1.0, (20_000, 2))}
    evidence["log_size"] = np.full((20_000, 2), 5.0)  # says nothing: it never varies
    truth = Logistic({"score": 8.0, "z": -0.7}, -1.5)
    came_true = rng.random((20_000, 2)) < truth.probability(evidence)
    fitted = fit_logistic(("score", "z", "log_size"), evidence, came_true)
    assert fitted.weights["score"] == pytest.approx(8.0, rel=0.1)
    assert fitted.weights["z"] == pytest.approx(-0.7, rel=0.1)
    assert fitted.probability(evidence) == pytest.approx(truth.probability(evidence), abs=0.04)
    found = reliability(fitted.probability(evidence).ravel(), came_true.ravel())
    assert found.error < 0.01
    assert found.log_loss < found.base_loss - 0.05
    swapped = Logistic({"score": 8.0, "z": 0.7}, -1.5).probability(evidence)
    assert reliability(swapped.ravel(), came_true.ravel()).error > 0.1


def test_reliability_and_area_by_hand():
    foretold = np.array([0.9, 0.1, 0.2, 0.8])
    came_true = np.array([True, False, True, True])
    found = reliability(foretold, came_true, bins=2)
    assert [(one.foretold, one.came_true, one.count) for one in found.bins] == [
        (pytest.approx(0.15), 0.5, 2),
        (pytest.approx(0.85), 1.0, 2),
    ]
    assert found.error == pytest.approx((0.35 + 0.15) / 2)
    assert found.log_loss == pytest.approx(-np.log([0.9, 0.9, 0.2, 0.8]).mean())
    # of three pairs of true and false all are in order; with a tie half a pair is lost
    assert area_under_curve(foretold, came_true) == 1.0
    assert area_under_curve(np.array([0.9, 0.2, 0.2, 0.8]), came_true) == pytest.approx(2.5 / 3)
    assert math.isnan(area_under_curve(foretold, np.ones(4, bool)))


def collection(count=320, noise=0.15, name="made up", seed=5):
    """Pictures in a cloud, and two queries beside each of them."""
    pictures = drawn(count, seed)
    rng = np.random.default_rng(seed + 1)
    answers = np.repeat(np.arange(count), 2)
    off = noise * rng.standard_normal((2 * count, WIDTH))
    queries = unit(pictures[answers] + off)
    lengths = np.full(2 * count, 9)
    return Labelled(name, queries, lengths, [[at] for at in answers], pictures)


@pytest.fixture(scope="module")
def fitted():
    return calibrate([collection(), collection(noise=0.4, name="harder", seed=50)], "fake-1")


def test_a_fit_tells_queries_with_an_answer_from_those_without(fitted):
    calibration, report = fitted
    sizes = {(row.name, row.size) for row in report.discrimination}
    assert sizes == {("made up", 160), ("made up", 40), ("harder", 160), ("harder", 40)}
    assert calibration.sizes == (40, 160)
    assert (calibration.queries, calibration.fitted_on) == (1280, "made up, harder")
    for row in report.discrimination:
        # half of the pictures are there, then an eighth, four times over
        assert row.queries == pytest.approx(640, abs=1)
        assert row.probability > (0.9 if row.name == "made up" else 0.55)
    assert report.hits.error < 0.02
    # one of ten hits is right where there is an answer: of nearly half of the queries
    right = sum(one.came_true * one.count for one in report.hits.bins)
    assert 0.04 < right / (10 * report.pooled.queries) <= 0.05
    assert report.answers.error < 0.1
    assert report.hits.log_loss == min(report.hit_losses.values()) < report.hits.base_loss
    assert report.answers.log_loss == min(report.answer_losses.values())
    assert sum(one.count for one in report.answers.bins) == report.pooled.queries
    # at most one in twenty of either collection, and just that of the harder one
    assert 0.0 < report.pooled.wrongly_refused < 0.05
    harder = [row.wrongly_refused for row in report.discrimination if row.name == "harder"]
    assert np.mean(harder) == pytest.approx(0.05, abs=0.005)
    assert report.pooled.refused > 2 * report.pooled.wrongly_refused
    assert calibration.hit.weights["log_size"] < 0  # the more pictures, the more rivals


def test_scores_without_information_give_the_base_rate():
    noise = dataclasses.replace(collection(), queries=drawn(640, 99))
    _, report = calibrate([noise], "fake-1")
    assert report.pooled.probability == pytest.approx(0.5, abs=0.05)
    assert report.answers.log_loss == pytest.approx(math.log(2), abs=0.01)
    assert report.hits.error < 0.01


def test_a_fit_is_the_same_each_time(fitted):
    again = calibrate([collection(), collection(noise=0.4, name="harder", seed=50)], "fake-1")
    assert again == fitted


@pytest.mark.parametrize(
    ("few", "message"),
    [(collection(30), "expected at least 80 pictures"), (collection(90), "of at least 100")],
)
def test_too_little_to_learn_from_is_refused(few, message):
    with pytest.raises(QueryError, match=message):
        calibrate([few], "fake-1")


# as it is stored


def test_json_gives_the_calibration_back():
    assert Calibration.from_json(CALIBRATION.to_json()) == CALIBRATION


@pytest.mark.parametrize(
    "change",
    [
        {"format": "clip-text-relevance-9"},
        {"hit": {"weights": {"colour": 1.0}, "bias": 0.0}},
        {"hit": {"weights": {"score": float("nan")}, "bias": 0.0}},
        {"answer": None},
        {"sizes": [1]},
        {"more": 1},
    ],
)
def test_what_is_no_calibration_is_refused(change):
    with pytest.raises(CorruptIndexError, match=r"expected a calibration .* Calibrate again"):
        Calibration.from_json(json.dumps(json.loads(CALIBRATION.to_json()) | change))
    with pytest.raises(CorruptIndexError):
        Calibration.from_json("")


def test_it_is_kept_with_the_index_and_taken_away(index_dir):
    store_calibration(index_dir, CALIBRATION)
    with Catalogue.open(index_dir) as catalogue:
        assert calibration_of(catalogue) == CALIBRATION
        generation = catalogue.generation
    other = dataclasses.replace(CALIBRATION, nothing_below=0.1)
    store_calibration(index_dir, other)
    assert not verify(index_dir).problems
    with Catalogue.open(index_dir) as catalogue:
        assert calibration_of(catalogue) == other
        assert catalogue.generation == generation  # no feature has changed
    store_calibration(index_dir, None)
    with Catalogue.open(index_dir) as catalogue:
        assert calibration_of(catalogue) is None


def test_one_of_another_model_is_refused(index_dir):
    foreign = dataclasses.replace(CALIBRATION, fingerprint="another")
    with pytest.raises(IndexMismatchError, match=r"expected a calibration .* got one of another"):
        store_calibration(index_dir, foreign)
    with pytest.raises(IndexMismatchError):
        Searcher.open(index_dir, ENCODER, calibration=foreign)
    with Catalogue.open(index_dir) as catalogue:
        assert catalogue.calibration is None


# the background


def test_rows_are_drawn_at_random_and_the_same_each_time(index_dir):
    with Catalogue.open(index_dir) as catalogue:
        rows, features = catalogue.draw(10)
        assert len(set(rows.tolist())) == 10
        assert rows.tolist() != sorted(rows)
        everything = dict(zip(*(part.tolist() for part in next(catalogue.features())), strict=True))
        assert [everything[row] for row in rows.tolist()] == features.tolist()
        again, _ = catalogue.draw(10)
        assert again.tolist() == rows.tolist()
        assert sorted(catalogue.draw(999)[0].tolist()) == list(range(1, 61))
        seen = np.concatenate([catalogue.draw(6, seed)[0] for seed in range(200)])
    counts = np.bincount(seen, minlength=61)[1:]
    assert counts.min() > 5  # 20 on average, each row alike
    assert counts.max() < 40
    assert counts[:30].sum() == pytest.approx(600, abs=80)


def test_rows_are_drawn_from_one_moment(index_dir):
    removed, statements = [], []

    def remove_all(statement):
        statements.append(statement)
        is_drawn = any(begun.startswith("SELECT row FROM features") for begun in statements[:-1])
        if is_drawn and not removed:
            with Catalogue.open_for_writing(index_dir) as writer, writer.transaction():
                writer.remove(range(1, 61))
                removed.append(True)

    with Catalogue.open(index_dir) as catalogue:
        expected, _ = catalogue.draw(10)
        catalogue.connection.db.set_trace_callback(remove_all)
        rows, features = catalogue.draw(10)
    assert removed
    assert rows.tolist() == expected.tolist()
    assert len(features) == 10


def test_rows_are_drawn_where_most_were_removed(index_dir):
    with Catalogue.open_for_writing(index_dir) as catalogue:
        with catalogue.transaction():
            catalogue.remove(range(1, 51))
        rows, features = catalogue.draw(5)
        assert len(set(rows.tolist())) == len(features) == 5
        assert rows.min() > 50
        with catalogue.transaction():
            catalogue.remove(range(51, 61))
        assert [len(part) for part in catalogue.draw(5)] == [0, 0]
        assert Judge.of(catalogue, CALIBRATION) is None


def test_rows_are_drawn_from_an_older_catalogue_as_it_is(tmp_path):
    # its features lie in the table of pictures, and only who writes may upgrade it
    for i in range(30):
        save_picture(tmp_path / "photos" / f"{i}.png", i)
    index_folder(tmp_path / "photos", tmp_path / "index", ENCODER)
    with Catalogue.open(tmp_path / "index") as catalogue:
        rows, features = catalogue.draw(7)
    as_schema_1(tmp_path / "index")
    with Catalogue.open(tmp_path / "index") as catalogue:
        assert catalogue.schema_version == 1
        drawn_rows, drawn_features = catalogue.draw(7)
    assert drawn_rows.tolist() == rows.tolist()
    assert drawn_features == pytest.approx(features, abs=1e-6)
    with Searcher.open(tmp_path / "index", ENCODER, calibration=CALIBRATION) as searcher:
        assert searcher.search("猫", 1)[0].probability is not None


# what a search tells


@pytest.fixture
def searcher(index_dir):
    store_calibration(index_dir, CALIBRATION)
    with Searcher.open(index_dir, ENCODER) as opened:
        yield opened


def expected(scores, query, background, size, length=5):
    over = background.astype(np.float64) @ query
    evidence = evidence_of(
        np.array([scores]), np.array([over.mean()]), np.array([over.std()]), size, [length]
    )
    return [
        CALIBRATION.hit.probability(evidence)[0],
        CALIBRATION.answer.probability(evidence)[0, 0],
    ]


def test_hits_have_the_probability_that_the_formula_gives(searcher):
    answer = searcher.answer("一只橘猫 1", 5)
    query = ENCODER.encode_text(["一只橘猫 1"])[0]
    # fewer pictures than a background has: all of them are it
    assert len(searcher) < BACKGROUND_ROWS
    hits, probability = expected([hit.score for hit in answer.hits], query, drawn(60), 60)
    assert [hit.probability for hit in answer.hits] == pytest.approx(hits, abs=1e-3)
    assert answer.probability == pytest.approx(probability, abs=1e-4)
    assert answer.nothing_matches == (probability < CALIBRATION.nothing_below)
    assert searcher.search("一只橘猫 1", 5) == answer.hits
    # it was fitted on texts: of features that are no text's, it says nothing
    (hits_of_features,) = searcher.search_features(query[None], 5)
    assert [hit.score for hit in hits_of_features] == [hit.score for hit in answer.hits]
    assert {hit.probability for hit in hits_of_features} == {None}


def test_probabilities_do_not_depend_on_how_many_hits_are_asked_for(searcher):
    everything = searcher.search("一只橘猫 1", 60)
    for top_k in (1, 2, 7):
        assert searcher.search("一只橘猫 1", top_k) == everything[:top_k]


def test_a_filter_leaves_fewer_rivals(searcher):
    where = parse_where("n < 30")
    answer = searcher.answer("一只橘猫 1", 3, where)
    query = ENCODER.encode_text(["一只橘猫 1"])[0]
    hits, probability = expected([hit.score for hit in answer.hits], query, drawn(60), 30)
    assert [hit.probability for hit in answer.hits] == pytest.approx(hits, abs=1e-3)
    assert answer.probability == pytest.approx(probability, abs=1e-4)
    none = searcher.answer("一只橘猫 1", 3, parse_where("n > 99"))
    assert (none.hits, none.probability, none.nothing_matches) == ([], None, True)


def test_nothing_matches_below_the_threshold(index_dir):
    for threshold, nothing in ((0.0, False), (1.0, True)):
        own = dataclasses.replace(CALIBRATION, nothing_below=threshold)
        with Searcher.open(index_dir, ENCODER, calibration=own) as searcher:
            assert searcher.answer("一只橘猫 1").nothing_matches is nothing


def test_without_a_calibration_nothing_is_said(index_dir):
    with Searcher.open(index_dir, ENCODER) as searcher:
        answer = searcher.answer("一只橘猫 1", 3)
        assert [hit.probability for hit in answer.hits] == [None] * 3
        assert (answer.probability, answer.nothing_matches) == (None, False)


def test_of_a_tiny_index_nothing_is_said(tmp_path):
    folder = make_index(tmp_path / "index", FEWEST_ROWS - 1)
    store_calibration(folder, CALIBRATION)
    with Searcher.open(folder, ENCODER) as searcher:
        assert searcher.search("猫", 1)[0].probability is None
        with IndexWriter.open(folder) as writer:
            writer.add("one more", feature=drawn(1, 7)[0])
        assert searcher.refresh()
        assert searcher.search("猫", 1)[0].probability is not None


def test_a_refresh_takes_over_pictures_and_calibration(searcher, index_dir):
    before = searcher.search("猫", 60)
    with IndexWriter.open(index_dir) as writer:
        for i, feature in enumerate(drawn(40, 8)):
            writer.add(f"new {i}", feature=feature)
    assert searcher.refresh()
    background = np.concatenate([drawn(60), drawn(40, 8)])
    hits = searcher.search("猫", 5)
    query = ENCODER.encode_text(["猫"])[0]
    told, _ = expected([hit.score for hit in hits], query, background, 100, 1)
    assert [hit.probability for hit in hits] == pytest.approx(told, abs=1e-3)
    assert not searcher.refresh()
    store_calibration(index_dir, dataclasses.replace(CALIBRATION, hit=Logistic({}, 0.0)))
    assert searcher.refresh()
    assert {hit.probability for hit in searcher.search("猫", 60)} == {0.5}
    store_calibration(index_dir, None)
    assert searcher.refresh()
    assert searcher.search("猫", 1)[0].probability is None
    assert before[0].probability is not None


def test_a_shipped_calibration_stands_in_until_there_is_an_own_one(index_dir, monkeypatch):
    shipped = dataclasses.replace(CALIBRATION, fitted_on="shipped")
    monkeypatch.setattr(relevance, "_shipped", lambda: {ENCODER.fingerprint: shipped})
    with Catalogue.open(index_dir) as catalogue:
        assert calibration_of(catalogue) == shipped
        store_calibration(index_dir, CALIBRATION)
        assert calibration_of(catalogue) == CALIBRATION


def test_folding_leaves_what_is_said_of_hits(searcher):
    plain = searcher.answer("一只狗", 5)
    folded = searcher.answer(Query.of("一只狗", top_k=5, fold=1.0))
    assert (folded.probability, folded.nothing_matches) == (
        plain.probability,
        plain.nothing_matches,
    )
    assert [hit.probability for hit in folded.hits] == [hit.probability for hit in plain.hits]
    assert None not in [hit.probability for hit in plain.hits]
