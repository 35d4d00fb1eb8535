"""The one rule for holding out, and who works by it."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_text.data.labelled_texts import LabelledTexts, hold_out
from clip_text.data.splits import held_out_places, known_only, places_without
from clip_text.errors import DataError
from clip_text.training import AnswerData, EntityData, ParallelData


@pytest.mark.parametrize(
    ("total", "options", "number"),
    [
        *((2, {}, 1), (14, {}, 1), (16, {}, 2), (70, {}, 7), (9_994, {}, 999), (20_000, {}, 1000)),
        *((20_000, {"most": 5000}, 2000), (20_000, {"most": None}, 2000), (10, {"number": 9}, 9)),
        *((100, {"share": 0.02}, 2), (10, {"share": 0.02}, 1), (20_000, {"number": 1500}, 1500)),
    ],
)
def test_how_many(total, options, number):
    places = held_out_places(total, **options)
    assert len(places) == number
    assert places == sorted(set(places))
    assert set(places) <= set(range(total))


def test_the_draw_is_that_of_earlier_versions():
    for seed in range(3):
        expected = sorted(random.Random(seed).sample(range(50), 5))
        assert held_out_places(50, seed=seed) == expected
    assert held_out_places(50, seed=0) != held_out_places(50, seed=1)
    lines = [line for line in range(50) for _ in range(line % 3)]
    some = set(random.Random(1).sample(sorted(set(lines)), 3))
    expected = [place for place, line in enumerate(lines) if line in some]
    assert held_out_places(len(lines), seed=1, groups=lines) == expected


@given(st.lists(st.integers(0, 8), min_size=2), st.integers(0, 5))
def test_groups_stay_together(groups, seed):
    if len(set(groups)) < 2:
        with pytest.raises(DataError, match="expected at least 2 texts"):
            held_out_places(len(groups), groups=groups)
        return
    held = held_out_places(len(groups), seed=seed, groups=groups)
    rest = places_without(len(groups), held)
    assert held
    assert sorted(held + rest) == list(range(len(groups)))
    assert not {groups[place] for place in held} & {groups[place] for place in rest}


@given(st.lists(st.sets(st.sampled_from("abcdef"), max_size=3), min_size=2), st.data())
def test_a_label_held_out_whole_is_learnt(labels, data):
    number = data.draw(st.integers(1, len(labels) - 1))
    drawn = held_out_places(len(labels), number, seed=1)
    held = held_out_places(len(labels), number, seed=1, labels=labels)
    assert set(held) <= set(drawn)
    assert held == known_only(drawn, places_without(len(labels), drawn), labels)
    known = set().union(*(labels[place] for place in places_without(len(labels), held)))
    assert known == set().union(*labels)


@pytest.mark.parametrize("number", [0, 5, 6, -1])
def test_something_is_learnt_and_something_is_measured_on(number):
    message = rf"between 1 and 4 of 5 pictures in x, got {number}\. Hold out fewer, or"
    with pytest.raises(DataError, match=message):
        held_out_places(5, number, what="pictures in x")
    for total in (0, 1):
        with pytest.raises(DataError, match=rf"at least 2 texts to hold some out of, got {total}"):
            held_out_places(total)


def test_of_labelled_texts_a_tenth():
    names = [str(at) for at in range(60)]
    texts = LabelledTexts(names, [(str(at % 2),) for at in range(60)], names)
    learnt, held = hold_out(texts, seed=2)
    assert held.texts == [str(at) for at in sorted(random.Random(2).sample(range(60), 6))]
    assert len(learnt) == 54


def test_entities_of_a_type_that_would_not_be_learnt(tmp_path):
    lines = []
    for at in range(40):
        label = f"RARE{at % 10}" if at < 20 else "COMMON"
        entity = {"start": 0, "end": 1, "label": label}
        lines.append(json.dumps({"text": f"甲{at}", "entities": [entity]}))
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    moved = 0
    for seed in range(12):
        read = [EntityData.read(file, texts=texts, seed=seed) for texts in (None, 10, 5)]
        for data, number in zip(read, (None, 10, 5), strict=True):
            learnt, held = (
                [text.text for text in side.texts] for side in (data.train, data.validation)
            )
            assert not set(learnt) & set(held)
            assert set(data.validation.labels) <= set(data.train.labels)
            if number is None:
                assert len(learnt) + len(held) == 40
            else:
                moved += len(learnt) - number
        ten, five = ([text.text for text in data.train.texts] for data in read[1:])
        assert ten[:5] == five[:5]  # fewer texts are a part of more
    assert moved > 0


def test_passages_and_lines_are_held_out_whole(tmp_path):
    file = tmp_path / "qa.json"
    answers = [{"text": "第", "answer_start": 0}]
    asked = [{"id": which, "question": which, "answers": answers} for which in "甲乙丙"]
    paragraphs = [{"context": f"第{at}段", "qas": asked} for at in range(20)]
    file.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}), encoding="utf-8")
    data = AnswerData.read(file, seed=1)
    learnt, held = (
        [each.passage for each in side.questions] for side in (data.train, data.validation)
    )
    assert (len(held), len(learnt)) == (6, 54)
    assert not set(learnt) & set(held)
    few = AnswerData.read(file, val_questions=4, seed=1)
    assert len(few.validation.questions) == 4
    assert set(few.validation.questions) < set(data.validation.questions)

    file = tmp_path / "pairs.jsonl"
    rows = [
        json.dumps({"en": [f"a{at}", f"b{at}"], "zh": [f"甲{at}", f"乙{at}"]}) for at in range(30)
    ]
    file.write_text("\n".join(rows), encoding="utf-8")
    parallel = ParallelData.read(file, "en", ["zh"], number=2, seed=1)
    held = parallel.validation.by_language["en"]
    assert held == [f"a{at}" for at in sorted(random.Random(1).sample(range(30), 2))]
    assert len(parallel.train) == 56
