"""Linear probe and few-shot on frozen features."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_text import DataError
from clip_text.errors import ClipTextError
from clip_text.evaluation import probe
from clip_text.evaluation.probe import Examples, FewShot, few_shot, linear_probe, split


def clouds(each, classes=3, width=8, spread=0.25, seed=0):
    """Unit rows around one direction for each class."""
    rng = np.random.default_rng(seed)
    right = np.repeat(np.arange(classes), each)
    rows = np.eye(classes, width)[right] + spread * rng.normal(size=(len(right), width))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Examples(rows.astype(np.float32), right)


def test_what_can_be_told_apart_is():
    found = linear_probe(clouds(20), clouds(5, seed=1), clouds(6, seed=2))
    assert found.accuracy == found.mean_per_class == 1
    assert (found.trained_on, found.validated_on, found.tested_on) == (78, 18, 15)


def test_a_probe_equals_scikit_learn_with_the_same_c():
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score

    train, validation = clouds(12, spread=0.8), clouds(8, spread=0.8, seed=2)
    test = clouds(50, spread=0.8, seed=1).at(np.arange(20, 150))  # of one class fewer
    found = linear_probe(train, test, validation)
    scores = {}
    for strength in probe.STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1000)
        model.fit(train.features.astype(float), train.classes)
        scores[strength] = model.score(validation.features.astype(float), validation.classes)
    best = max(scores.values())
    assert found.strength == min(c for c, score in scores.items() if score == best)
    assert len(set(scores.values())) > 1
    model = LogisticRegression(C=found.strength, max_iter=1000)
    joined = train.joined(validation)
    model.fit(joined.features.astype(float), joined.classes)
    assert found.accuracy == model.score(test.features.astype(float), test.classes)
    answers = model.predict(test.features.astype(float))
    expected = balanced_accuracy_score(test.classes, answers)
    assert found.mean_per_class == pytest.approx(expected, abs=1e-12)
    assert found.mean_per_class != found.accuracy


def test_two_classes():
    train = clouds(10, classes=2)
    assert linear_probe(train, clouds(5, classes=2, seed=1)).accuracy == 1
    swapped = Examples(train.features, 1 - train.classes)
    assert linear_probe(swapped, clouds(5, classes=2, seed=1)).accuracy == 0


def test_features_that_say_nothing_are_worth_chance():
    flat = Examples(np.tile(np.float32([[1, 0]]), (12, 1)), np.repeat([0, 1, 2], 4))
    assert linear_probe(flat, flat).accuracy == pytest.approx(1 / 3)


def test_the_test_part_has_no_say_in_the_strength(monkeypatch):
    seen = []
    real = probe._fit_and_test

    def watched(train, test, strength):
        seen.append(test)
        return real(train, test, strength)

    monkeypatch.setattr(probe, "_fit_and_test", watched)
    test = clouds(5, seed=1)
    linear_probe(clouds(10), test)
    assert [part is test for part in seen] == [False] * len(probe.STRENGTHS) + [True]


def test_more_shots_help_and_seeds_spread():
    pool, test = clouds(24, spread=0.6), clouds(60, spread=0.6, seed=1)
    few, more = few_shot(pool, test, (16, 1), seeds=range(3), strengths=(1, 100))
    assert (few.shots, more.shots) == (1, 16)
    assert len(few.accuracies) == len(few.strengths) == 3
    assert few.mean < more.mean
    assert few.std > 0
    assert few == few_shot(pool, test, [1], seeds=range(3), strengths=(1, 100))[0]


def test_mean_and_deviation_by_hand():
    found = FewShot(1, (0.5, 0.7, 0.9), (1, 1, 1))
    assert found.mean == pytest.approx(0.7)
    assert found.std == pytest.approx(0.2)
    assert np.isnan(FewShot(1, (0.5,), (1,)).std)


def test_shots_are_shots(monkeypatch):
    seen = []
    real = probe._fit_and_test

    def watched(train, test, strength):
        seen.append((train, test))
        return real(train, test, strength)

    monkeypatch.setattr(probe, "_fit_and_test", watched)
    pool, test = clouds(12), clouds(3, seed=1)
    few_shot(pool, test, (1, 8), seeds=[0], strengths=[1.0])
    (one, held), (last, final), (eight, held_of_eight), _ = seen
    assert [np.bincount(part.classes).tolist() for part in (one, held)] == [[1] * 3, [1] * 3]
    assert last is one
    assert final is test
    assert np.bincount(eight.classes).tolist() == [8] * 3
    assert np.bincount(held_of_eight.classes).tolist() == [4] * 3
    rows = {
        part: {row.tobytes() for row in data.features}
        for part, data in zip("nvo", (eight, held_of_eight, one), strict=True)
    }
    assert not rows["n"] & rows["v"]
    assert rows["o"] < rows["n"]


@settings(max_examples=30)
@given(st.integers(0, 1000), st.lists(st.integers(3, 9), min_size=2, max_size=4))
def test_a_split_loses_and_repeats_nothing(seed, sizes):
    classes = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.arange(len(classes), dtype=np.float32)[:, None]
    parts = split(Examples(rows, classes), (0.6, 0.2, 0.2), seed)
    together = np.concatenate([part.features[:, 0] for part in parts])
    assert sorted(together.tolist()) == rows[:, 0].tolist()
    for part in parts:
        assert set(part.classes.tolist()) == set(range(len(sizes)))
        assert (classes[part.features[:, 0].astype(int)] == part.classes).all()
    assert len(parts[0]) >= len(parts[1]) == len(parts[2])


def test_bad_parts_are_refused():
    good = clouds(6)
    broken = clouds(6)
    broken.features[4, 1] = np.nan
    with pytest.raises(DataError, match=r"finite features in the train.* part, got 1 .*'row 4'"):
        linear_probe(broken, good)
    with pytest.raises(DataError, match="finite features in the validation or test part"):
        linear_probe(good, broken)
    with pytest.raises(DataError, match=r"at least two classes in the train.*, got 1"):
        linear_probe(clouds(6, classes=1), good)
    with pytest.raises(
        DataError, match="expected pictures in the validation or test part, got none"
    ):
        linear_probe(good, good.at(np.array([], int)))
    with pytest.raises(DataError, match="expected a class for each of 18 rows"):
        linear_probe(good, Examples(good.features, good.classes[:-1]))
    strange = Examples(good.features, good.classes + 2, ("a", "b", "c", "鸟", "鱼"))
    with pytest.raises(DataError, match=r"classes of the training part in .*got 2 .*'鸟', '鱼'"):
        linear_probe(good, strange)


def test_too_few_examples_are_counted():
    rows = np.arange(17)  # 6, 6 and 5 examples
    pool = Examples(clouds(6).features[rows], clouds(6).classes[rows], ("狗", "猫", "鸟"))
    with pytest.raises(DataError, match=r"6 examples a class in .*got 1 without: '鸟 \(5\)'\. Ask"):
        few_shot(pool, clouds(3), (1, 3))
    with pytest.raises(DataError, match=r"at least 8 examples a class .*got 3 .*狗 \(6\)"):
        split(pool, (1 / 8,) * 8)
    with pytest.raises(ValueError, match="at least 1 shot"):
        few_shot(pool, clouds(3), (0, 1))


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ClipTextError, match=r"scikit-learn .*pip install 'clip-text\[evaluate\]'"):
        linear_probe(clouds(6), clouds(3))
