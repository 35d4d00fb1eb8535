"""Labelled pairs of texts, in the forms that LCQMC, AFQMC and BQ come in."""

import pytest

from clip_text import DataError
from clip_text.data.labelled_pairs import PairColumns, read_labelled_pairs
from clip_text.data.labelled_texts import hold_out, labels_of, without

PAIRS = [("怎么还款", "如何还款"), ("狗在跑", "猫"), ("红, 绿", "蓝")]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lcqmc.tsv", "怎么还款\t如何还款\t1\n狗在跑\t猫\t0\n红, 绿\t蓝\t0\n"),
        ("lcqmc.txt", "怎么还款\t如何还款\t1\n狗在跑\t猫\t0\n\n红, 绿\t蓝\t0\n"),
        ("h.tsv", "text_a\ttext_b\tlabel\n怎么还款\t如何还款\t1\n狗在跑\t猫\t0\n红, 绿\t蓝\t0\n"),
        (
            "bq.csv",
            'sentence1,sentence2,label\n怎么还款,如何还款,1\n狗在跑,猫,0\n"红, 绿",蓝,0\n',
        ),
        (
            "afqmc.json",
            '{"sentence1": "怎么还款", "sentence2": "如何还款", "label": "1"}\n'
            '{"sentence1": "狗在跑", "sentence2": "猫", "label": "0"}\n'
            '{"sentence1": "红, 绿", "sentence2": "蓝", "label": 0}\n',
        ),
    ],
)
def test_usual_forms(name, text, tmp_path):
    pairs = read_labelled_pairs(write(tmp_path / name, text))
    assert pairs.texts == PAIRS
    assert pairs.labels == [("1",), ("0",), ("0",)]
    assert pairs.places[0] == f"{tmp_path / name}, line {1 if name[0] in 'la' else 2}"
    assert labels_of(pairs, multi_label=False) == ("0", "1")
    named = read_labelled_pairs(tmp_path / name, PairColumns(names=("不同", "相同")))
    assert named.labels == [("相同",), ("不同",), ("不同",)]


def test_other_columns(tmp_path):
    file = write(tmp_path / "a.csv", "id,q,r,same,label\n1,狗,猫,no,x\n")
    pairs = read_labelled_pairs(file, PairColumns("q", "r", "same"))
    assert (pairs.texts, pairs.labels) == ([("狗", "猫")], [("no",)])
    with pytest.raises(DataError, match=r"column sentence1 or .* among id, q, r, .* by --first\."):
        read_labelled_pairs(file)


def test_parts(tmp_path):
    lines = "".join(f"第{number}\t第{number % 4}\t{number % 2}\n" for number in range(20))
    pairs = read_labelled_pairs(write(tmp_path / "a.tsv", lines))
    learnt, held = hold_out(pairs, 6, seed=1)
    assert (len(learnt), len(held)) == (14, 6)
    assert sorted(learnt.texts + held.texts) == sorted(pairs.texts)
    assert without(pairs, held).texts == learnt.texts


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.tsv", "狗\t猫\t1\n狗\t1\n", r"expected first<TAB>second<TAB>label .* line 2, got 2 f"),
        ("a.tsv", "狗\t \t1\n", "expected a second text in .*line 1, got an empty one"),
        ("a.tsv", "狗\t猫\t \n", "expected a label in .*line 1, got none"),
        ("a.jsonl", '{"text1": 3, "text2": "a", "label": 1}', "expected a first text .* got int"),
        (
            "a.jsonl",
            '{"text1": "b", "text2": "a", "label": 1.5}',
            "or a number as label in .* float",
        ),
        (
            "a.jsonl",
            '{"text1": "b", "label": 1}',
            "expected one column sentence2 or .* by --second",
        ),
        ("a.csv", "sentence1,sentence2,label\n", "expected labelled pairs in .* got none"),
        ("a.dat", "", "expected a .jsonl, .csv or .tsv file of labelled pairs"),
    ],
)
def test_what_is_refused(name, text, told, tmp_path):
    with pytest.raises(DataError, match=told):
        read_labelled_pairs(write(tmp_path / name, text))
