"""Exact match and F1 as CMRC 2018's evaluation counts them, by hand."""

import pytest

from clip_text.evaluation.cmrc import (
    common_run,
    exact,
    f1,
    remove_signs,
    score_answers,
    segments,
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("光荣和ω-Force", ["光", "荣", "和", "ωforce"]),  # signs go first, then words
        ("2010年，河南", ["2010", "年", "河", "南"]),
        ("《Windows 98》", ["windows", "98"]),
        ("1,000.5米", ["1,000.5", "米"]),
        ("a(b)，c", ["a", "(", "b", ")", "c"]),
        (" 。！ ", []),
        ("", []),
        ("‘好’…", ["‘", "好", "…"]),  # of these two quotes only one is in the list
    ],
)
def test_mixed_segmentation(text, found):
    assert segments(text) == found


def test_signs():
    assert remove_signs(" ABC，d-e。（f）") == "abcdef"
    assert remove_signs("a b") == "a b"  # spaces within stay


def test_the_longest_common_substring():
    assert common_run("abcxde", "abcde") == 3  # a subsequence would be five
    assert common_run("", "a") == common_run("a", "") == common_run("a", "b") == 0
    assert common_run("aab", "ab") == 2


def test_f1_by_hand():
    # a run of 3 of 4 and 5 characters: precision 3/5, recall 3/4
    assert f1(["河南建业"], "在南建业队") == pytest.approx(2 * 3 / 9)
    # the same characters in another order: only a run counts
    assert f1(["上海北京"], "北京上海") == pytest.approx(0.5)
    assert f1(["北京。"], "《北京》") == 1.0
    assert f1(["北京", "北京市"], "北京市") == 1.0  # the best of several
    assert f1(["Windows 98"], "WINDOWS 98") == 1.0
    assert f1(["windows 98"], "windows98") == 0.0
    assert f1(["北京"], "") == 0.0
    assert f1(["。"], "。") == 0.0  # as the script: nothing is left to agree


def test_exact_match_by_hand():
    assert exact(["北京。"], " 北京")
    assert exact(["上海", "北京"], "北京")
    assert exact(["ω-force"], "Ωforce")
    assert not exact(["北京"], "北京市")


def test_scores():
    scores = score_answers([["北京"], ["上海市"], [], []], ["北京", "上海", "", "错"])
    assert scores.em == 0.5  # 北京, and no answer where there is none
    assert scores.f1 == pytest.approx((1 + 0.8 + 1 + 0) / 4)
    assert (scores.questions, scores.no_answer) == (4, 0.25)
    assert score_answers([], []).f1 == 0
    with pytest.raises(ValueError, match="expected an answer for each of 1 questions, got 0"):
        score_answers([["a"]], [])
