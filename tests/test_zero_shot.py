"""Zero-shot classification: by hand, against scikit-learn, with ties."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_text import DataError
from clip_text.evaluation import zero_shot
from clip_text.evaluation.classes import NamedClass, named_classes
from clip_text.evaluation.templates import fill
from clip_text.evaluation.zero_shot import (
    average_precision,
    class_scores,
    class_weights,
    classify,
    confusion_matrix,
    hits_at_k,
)

ROOT = Path(__file__).parents[1]
GALLERY = ROOT / "retrieval" / "gallery"


class Table:
    """An encoder that knows a row for each text, and counts the texts it was asked for."""

    def __init__(self, rows, fingerprint="table"):
        self.rows = {text: np.asarray(row, np.float32) for text, row in rows.items()}
        self.fingerprint = fingerprint
        self.asked = []

    def encode_text(self, texts):
        self.asked += texts
        return np.stack([self.rows[text] for text in texts])


def one_hot(classes, number):
    return np.eye(number, dtype=bool)[np.asarray(classes)]


def unit_rows(rng, *shape):
    rows = rng.normal(size=shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_weights_by_hand():
    # 狗: the mean of (1, 0) and (0.6, 0.8) is (0.8, 0.4), of length √0.8
    encoder = Table({"狗": [1, 0], "狗。": [0.6, 0.8], "猫": [0, 1], "猫。": [0, 1]})
    weights = class_weights(encoder, named_classes(["狗", "猫"]), ["{}", "{}。"])
    expected = [[0.8 / 0.8**0.5, 0.4 / 0.8**0.5], [0, 1]]
    np.testing.assert_allclose(weights, expected, atol=1e-7)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(weights, axis=1), 1, atol=1e-6)


def test_synonyms_are_averaged():
    encoder = Table({"狗": [1, 0], "犬": [0, 1], "猫": [0, 1]})
    weights = class_weights(
        encoder, [NamedClass("d", ("狗", "犬")), NamedClass("c", ("猫",))], ["{}"]
    )
    np.testing.assert_allclose(weights, [[0.5**0.5, 0.5**0.5], [0, 1]], atol=1e-7)


def test_a_template_that_comes_twice_counts_twice():
    encoder = Table({"狗": [1, 0], "狗。": [0, 1]})
    weights = class_weights(encoder, named_classes(["狗"]), ["{}", "{}", "{}。"])
    np.testing.assert_allclose(weights, [[2 / 5**0.5, 1 / 5**0.5]], atol=1e-7)


def test_weights_do_not_depend_on_how_many_texts_are_encoded_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    classes = [NamedClass(str(at), tuple(f"{at}{s}" for s in range(1 + at % 3))) for at in range(7)]
    texts = [fill(t, name) for one in classes for name in one.names for t in ("{}", "{}。")]
    encoder = Table(dict(zip(texts, unit_rows(rng, len(texts), 5), strict=True)))
    whole = class_weights(encoder, classes, ["{}", "{}。"])
    monkeypatch.setattr(zero_shot, "_TEXTS_AT_ONCE", 3)
    done = []
    assert (class_weights(encoder, classes, ["{}", "{}。"], on_progress=done.append) == whole).all()
    assert sum(done) == 7
    assert len(done) > 2


def test_rows_that_cancel_out_or_are_broken_are_refused():
    encoder = Table({"狗": [1, 0], "反狗": [-1, 0], "猫": [np.nan, 0], "反猫": [0, 1]})
    with pytest.raises(DataError, match=r"finite row for every class .*got 2 without: '狗', '猫'"):
        class_weights(encoder, named_classes(["狗", "猫"]), ["{}", "反{}"])
    with pytest.raises(DataError, match="classes that differ"):
        class_weights(encoder, [NamedClass("a", ("狗",))] * 2, ["{}"])
    with pytest.raises(DataError, match="expected a template"):
        class_weights(encoder, named_classes(["狗"]), [])


def test_weights_are_kept_and_found_again(tmp_path):
    rows = {"狗": [1, 0], "猫": [0.6, 0.8], "狗。": [0, 1], "猫。": [0, 1]}
    encoder, classes = Table(rows), named_classes(["狗", "猫"])
    first = class_weights(encoder, classes, ["{}"], cache=tmp_path / "new")
    assert encoder.asked == ["狗", "猫"]
    done = []
    again = class_weights(encoder, classes, ["{}"], cache=tmp_path / "new", on_progress=done.append)
    assert encoder.asked == ["狗", "猫"]
    assert done == [2]
    assert (first == again).all()
    assert sorted(file.suffix for file in (tmp_path / "new").iterdir()) == [".json", ".npy"]


@pytest.mark.parametrize("changed", ["encoder", "names", "templates", "order"])
def test_what_weights_depend_on_is_in_their_key(tmp_path, changed):
    rows = {"狗": [1, 0], "猫": [0.6, 0.8], "狗。": [0, 1], "猫。": [0, 1]}
    classes = named_classes(["狗", "猫"])
    class_weights(Table(rows), classes, ["{}"], cache=tmp_path)
    other = Table(rows, "other" if changed == "encoder" else "table")
    if changed == "names":
        classes = [NamedClass("狗", ("猫",)), NamedClass("猫", ("狗",))]
    if changed == "order":
        classes = classes[::-1]
    class_weights(other, classes, ["{}。" if changed == "templates" else "{}"], cache=tmp_path)
    assert len(other.asked) == 2


@pytest.mark.parametrize("damage", [b"", b"nonsense", "short", "wrong"])
def test_damaged_kept_weights_are_formed_again(tmp_path, damage):
    encoder, classes = Table({"狗": [1, 0], "猫": [0, 1]}), named_classes(["狗", "猫"])
    expected = class_weights(encoder, classes, ["{}"], cache=tmp_path)
    (file,) = tmp_path.glob("*.npy")
    if damage == "short":
        file.write_bytes(file.read_bytes()[:-3])
    elif damage == "wrong":
        np.save(file, np.full((2, 2), np.nan, np.float32))
    else:
        file.write_bytes(damage)
    assert (class_weights(encoder, classes, ["{}"], cache=tmp_path) == expected).all()
    assert len(encoder.asked) == 4
    assert (np.load(file) == expected).all()


# figures

HITS = [
    # scores, right, k, probability
    ([3, 2, 1], [0], 1, 1),
    ([3, 2, 1], [1], 1, 0),
    ([3, 2, 1], [1], 2, 1),
    ([3, 2, 1], [2], 2, 0),
    ([2, 2, 1], [0], 1, 1 / 2),  # tied with one wrong class
    ([2, 2, 2], [0], 1, 1 / 3),
    ([2, 2, 2], [0], 2, 2 / 3),
    ([2, 2, 2], [0], 3, 1),
    ([9, 2, 2], [1], 1, 0),
    ([9, 2, 2], [1], 2, 1 / 2),
    ([9, 2, 2], [1], 5, 1),  # deeper than there are classes
    ([2, 2, 2, 2], [0, 1], 1, 1 / 2),  # two right among four
    ([2, 2, 2, 2], [0, 1], 2, 1 - 1 / 6),  # both wrong ones first: 2/4 · 1/3
    ([2, 2, 5, 1], [0, 3], 2, 1 / 2),  # the right one below doesn't count
    ([2, 2, 1, 0], [0, 1], 1, 1),
]


@pytest.mark.parametrize(("scores", "right", "k", "expected"), HITS)
def test_hits_by_hand(scores, right, k, expected):
    truth = np.isin(np.arange(len(scores)), right)[None]
    found = hits_at_k(np.array([scores], np.float32), truth, k)
    assert found == pytest.approx([expected], abs=1e-12)


def test_a_picture_in_no_class_has_no_hits():
    assert np.isnan(hits_at_k(np.ones((1, 3)), np.zeros((1, 3), bool), 1)).all()


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=4).flatmap(
        lambda scores: st.tuples(
            st.just(scores),
            st.sets(st.integers(0, len(scores) - 1), min_size=1),
            st.integers(1, 5),
        )
    )
)
def test_hits_are_the_expectation_over_all_orders(case):
    scores, right, k = case
    orders = list(permutations(range(len(scores))))
    hits = [
        any(at in right for at in sorted(order, key=lambda at: -scores[at])[:k]) for order in orders
    ]
    truth = np.isin(np.arange(len(scores)), list(right))[None]
    assert hits_at_k(np.array([scores]), truth, k)[0] == pytest.approx(np.mean(hits), abs=1e-12)


def test_a_model_that_scores_all_alike_is_as_good_as_chance():
    images, weights = (
        np.tile(np.float32([[1, 0]]), (6, 1)),
        np.tile(np.float32([[0.6, 0.8]]), (3, 1)),
    )
    result = classify(images, weights, one_hot([0, 0, 0, 0, 1, 2], 3), "abc", ks=(1, 2, 3))
    assert result.accuracy == pytest.approx({1: 1 / 3, 2: 2 / 3, 3: 1}, abs=1e-12)
    assert result.mean_per_class == pytest.approx(1 / 3, abs=1e-12)
    np.testing.assert_allclose(result.confusion, [[4 / 3] * 3, [1 / 3] * 3, [1 / 3] * 3])
    np.testing.assert_allclose(result.precision, [4 / 6, 1 / 6, 1 / 6])


def test_confusion_and_means_by_hand():
    # classes a, b, c, d; d has no pictures
    scores = np.array([[4, 3, 2, 1], [4, 3, 2, 1], [3, 4, 2, 1], [1, 1, 3, 3], [5, 1, 1, 1]], float)
    truth = one_hot([0, 1, 1, 2, 2], 4)
    assert confusion_matrix(scores, truth).tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 0, 0.5, 0.5],
        [0, 0, 0, 0],
    ]
    result = zero_shot.ZeroShot(
        ("a", "b", "c", "d"),
        5,
        False,
        {1: hits_at_k(scores, truth, 1)},
        confusion_matrix(scores, truth),
        average_precision(scores, truth),
    )
    assert result.per_class[:3].tolist() == [1, 0.5, 0.25]
    assert np.isnan(result.per_class[3])
    assert result.mean_per_class == pytest.approx((1 + 0.5 + 0.25) / 3)
    assert result.accuracy[1] == pytest.approx(2.5 / 5)
    assert result.classes_with_pictures == 3


def test_average_precision_by_hand():
    scores = np.array([[0.9], [0.8], [0.8], [0.1]])
    # right: first, and one of the two tied; thresholds 0.9: P 1, R 1/2; 0.8: P 2/3, R 1
    truth = np.array([[True], [False], [True], [False]])
    assert average_precision(scores, truth) == pytest.approx([1 / 2 + 1 / 2 * 2 / 3], abs=1e-12)
    assert np.isnan(average_precision(scores, np.zeros((4, 1), bool))).all()


@pytest.fixture(scope="module")
def without_ties():
    rng = np.random.default_rng(3)
    images, weights = unit_rows(rng, 400, 16), unit_rows(rng, 9, 16)
    return images, weights, rng.integers(0, 9, 400)


def test_equal_to_scikit_learn_where_nothing_is_tied(without_ties):
    from sklearn import metrics

    images, weights, right = without_ties
    scores = class_scores(images, weights)
    assert len(np.unique(scores)) == scores.size
    result = classify(images, weights, one_hot(right, 9), "abcdefghi", ks=(1, 3, 5))
    for k in (1, 3, 5):
        expected = metrics.top_k_accuracy_score(right, scores, k=k)
        assert result.accuracy[k] == pytest.approx(expected, abs=1e-12)
    answer = scores.argmax(1)
    assert result.mean_per_class == pytest.approx(
        metrics.balanced_accuracy_score(right, answer), abs=1e-12
    )
    assert (result.confusion == metrics.confusion_matrix(right, answer)).all()
    expected = metrics.average_precision_score(one_hot(right, 9), scores, average="macro")
    assert result.mean_average_precision == pytest.approx(expected, abs=1e-12)


def test_scikit_learn_gives_ties_to_the_last_class_and_we_to_none():
    from sklearn import metrics

    scores, right = np.ones((3, 3)), np.array([0, 1, 2])
    # every class alike: by its order of sorting it calls exactly one of three right, here the last
    assert metrics.top_k_accuracy_score(right[2:], scores[2:], k=1, labels=[0, 1, 2]) == 1
    assert metrics.top_k_accuracy_score(right[:1], scores[:1], k=1, labels=[0, 1, 2]) == 0
    assert hits_at_k(scores, one_hot(right, 3), 1) == pytest.approx([1 / 3] * 3, abs=1e-12)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.booleans())
def test_average_precision_equals_scikit_learn_ties_and_all(seed, pictures, coarse):
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (pictures, 5)) if coarse else rng.normal(size=(pictures, 5))
    truth = rng.random((pictures, 5)) < 0.4
    found = average_precision(scores.astype(float), truth)
    for at in range(5):
        if truth[:, at].any():
            expected = average_precision_score(truth[:, at], scores[:, at])
            assert found[at] == pytest.approx(expected, abs=1e-12)
        else:
            assert np.isnan(found[at])


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.booleans())
def test_order_and_blocks_change_nothing(seed, block, coarse):
    rng = np.random.default_rng(seed)
    images, weights = unit_rows(rng, 23, 6), unit_rows(rng, 5, 6)
    if coarse:  # twins among pictures and classes: ties
        images, weights = images[rng.integers(0, 4, 23)], weights[rng.integers(0, 3, 5)]
    right = rng.integers(0, 5, 23)
    whole = classify(images, weights, one_hot(right, 5), "abcde", ks=(1, 2, 3))
    pictures, classes = rng.permutation(23), rng.permutation(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zero_shot, "_BLOCK", block)
        truth = one_hot(right, 5)[pictures][:, classes]
        labels = [whole.labels[at] for at in classes]
        other = classify(images[pictures], weights[classes], truth, labels, ks=(3, 2, 1))
    for k in (1, 2, 3):
        np.testing.assert_allclose(other.hits[k], whole.hits[k][pictures], atol=1e-12)
    np.testing.assert_allclose(other.confusion, whole.confusion[np.ix_(classes, classes)])
    np.testing.assert_allclose(other.precision, whole.precision[classes], atol=1e-12)
    assert whole.accuracy[1] <= whole.accuracy[2] + 1e-12 <= whole.accuracy[3] + 2e-12
    assert whole.confusion.diagonal().sum() / 23 == pytest.approx(whole.accuracy[1], abs=1e-12)


def test_equal_rows_have_equal_scores_wherever_they_stand():
    rng = np.random.default_rng(1)
    images, row = unit_rows(rng, 50, 253), unit_rows(rng, 1, 253)
    scores = class_scores(images, np.tile(row, (37, 1)))
    assert (scores == scores[:, :1]).all()
    assert (class_scores(images[:1], row) == scores[:1, :1]).all()


def test_several_labels_a_picture():
    images = np.float32([[1, 0], [0.8, 0.6], [0, 1], [0.6, 0.8]])
    weights = np.float32([[1, 0], [0, 1]])
    truth = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], bool)
    result = classify(images, weights, truth, "ab", multi_label=True)
    # a: 1, 0.8, 0.6, 0 → right, right; b: 1, 0.8 (no), 0.6 (yes)
    assert result.precision.tolist() == pytest.approx([1, 1 / 2 + 1 / 2 * 2 / 3], abs=1e-12)
    assert result.mean_average_precision == pytest.approx((1 + 5 / 6) / 2, abs=1e-12)
    assert result.accuracy[1] == 1  # over the three that have a label
    assert result.confusion is None
    assert np.isnan(result.mean_per_class)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_features_are_counted(bad):
    images = np.eye(5, dtype=np.float32)
    images[[1, 3]] = bad
    truth = one_hot(range(5), 5)
    with pytest.raises(
        DataError, match=r"finite features in the pictures, got 2 .*'row 1', 'row 3'"
    ):
        classify(images, np.eye(5, dtype=np.float32), truth, "abcde")
    with pytest.raises(DataError, match="finite features in the classes, got 2"):
        classify(np.eye(5, dtype=np.float32), images, truth, "abcde")


def test_calls_that_do_not_fit_are_refused():
    rows = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match=r"expected truth of shape \(3, 3\)"):
        classify(rows, rows, one_hot([0, 1], 3), "abc")
    with pytest.raises(ValueError, match="depths of at least 1"):
        classify(rows, rows, one_hot([0, 1, 2], 3), "abc", ks=(0, 1))
    two = one_hot([0, 1, 2], 3)
    two[1] = True
    with pytest.raises(DataError, match="one label each in the pictures, got 1 without: 'row 1'"):
        classify(rows, rows, two, "abc")
