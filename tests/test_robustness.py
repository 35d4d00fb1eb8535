"""Perturbations by hand, and what they do to recall with an encoder one can do in the head."""

import importlib
import io
import re
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from clip_text import Encoder
from clip_text.errors import ClipTextError
from clip_text.evaluation import Text, retrieval_set
from clip_text.evaluation import perturbations as module
from clip_text.evaluation.perturbations import PERTURBATIONS, Perturbation, select
from clip_text.evaluation.robustness import robustness
from clip_text.evaluation.synonyms import SYNONYMS
from clip_text_cli.evaluate import robustness as evaluate_robustness
from clip_text_cli.evaluate import sets as retrieval_sets

BY_HAND = [
    ("traditional", "一只红色的气球，里面有灯", "一隻紅色的氣球，裡面有燈"),
    ("traditional", "头发和发现", "頭髮和發現"),  # by word, not by character
    ("traditional", " a red heart ", " a red heart "),
    ("full-width", "T恤 3.5!", "Ｔ恤 ３．５！"),
    ("full-width", "红色的心", "红色的心"),
    ("half-width", "Ｔ恤　３．５！", "T恤 3.5!"),
    ("half-width", "“狗”，猫、鸟。￥9", '"狗",猫,鸟.¥9'),
    ("half-width", "《红》… a", "《红》… a"),  # these have no half width
    ("no-punctuation", " 狗，猫。", "狗猫"),
    ("no-punctuation", "a cat,a dog - don't!", "a cat a dog dont"),
    ("no-punctuation", "T-shirt和“帽子”", "T shirt和帽子"),
    ("no-punctuation", "개,고양이", "개 고양이"),
    ("no-punctuation", " 红  心 ", " 红  心 "),
    ("no-punctuation", "？！", "？！"),
    ("full-stop", "一只狗", "一只狗。"),
    ("full-stop", "a dog ", "a dog. "),
    ("full-stop", "犬のT", "犬のT。"),
    ("full-stop", "他说“好！”", "他说“好！”"),
    ("full-stop", "कुत्ता।", "कुत्ता।"),
    ("full-stop", "一只狗，", "一只狗，。"),
    ("words-reversed", "小狗在海边，奔跑。", "奔跑海边在，小狗。"),
    ("words-reversed", " a red-hot dog's heart!", " heart dog's red-hot a!"),
    ("words-reversed", "montaña y río", "río y montaña"),
    ("words-reversed", "लाल दिल", "दिल लाल"),  # marks stay on their letters
    ("words-reversed", "红心", "红心"),
    ("synonyms", "自行车厂的妈妈", "自行车厂的母亲"),  # a word of its own is not touched
    ("synonyms", "男子汉 a man", "男子汉 a man"),
    ("spaces", "红色的T恤 很大", "红 色 的T恤 很 大"),
    ("spaces", "犬の顔, red", "犬 の 顔, red"),
    ("spaces", "개 고양이", "개 고양이"),
    ("upper-case", "红 heart é ß", "红 HEART É SS"),
    ("lower-case", "红 HEART É", "红 heart é"),
    ("dropped", "红", "红"),
    ("dropped", "！红！", "！红！"),
    ("swapped", "红红", "红红"),
    ("swapped", "红，心 a", "红，心 a"),  # neighbours only
    ("swapped", "（红心）", "（心红）"),
    ("homophone", "🐶 ひらがな a, b!", "🐶 ひらがな a, b!"),
]


@pytest.mark.parametrize(("name", "text", "expected"), BY_HAND)
def test_by_hand(name, text, expected):
    assert PERTURBATIONS[name](text) == expected


def test_every_perturbation_is_tested_by_hand_or_by_chance():
    assert {name for name, _, _ in BY_HAND} | {"words-shuffled"} == set(PERTURBATIONS)


def outcomes(name, text, seeds=200):
    return {PERTURBATIONS[name](text, seed) for seed in range(seeds)}


def test_all_that_chance_may_do():
    assert outcomes("dropped", " 红T恤。") == {" T恤。", " 红恤。", " 红T。"}
    assert outcomes("dropped", "नी है") == {" है", "नी "}  # with its vowel sign
    assert outcomes("swapped", "红的心，ab") == {"的红心，ab", "红心的，ab", "红的心，ba"}
    assert outcomes("words-shuffled", "a b, c") == {
        "a c, b",
        "b a, c",
        "b c, a",
        "c a, b",
        "c b, a",
    }
    assert outcomes("words-shuffled", "a a!") == {"a a!"}
    assert outcomes("synonyms", "小孩和狗") == {
        f"{child}{joint}{dog}" for child in ("孩子", "儿童") for joint in ("与",) for dog in ("犬",)
    }


def test_a_typo_is_a_common_character_of_the_same_reading():
    from pypinyin import lazy_pinyin

    found = outcomes("homophone", "她 在！")
    assert "他 在！" in found
    assert "她 再！" in found
    for text in found:
        assert lazy_pinyin(text, errors=list) == lazy_pinyin("她 在！", errors=list)
        assert sum(a != b for a, b in zip(text, "她 在！", strict=True)) == 1
    # 行 is read háng here, by the word it is in
    assert {text[1] for text in outcomes("homophone", "银行") if text[0] == "银"} & set("航杭")
    assert len({text[0] for text in outcomes("homophone", "是")}) <= module.HOMOPHONES


def test_homophones_come_common_first():
    for readings in module._homophones().values():
        counts = [count for _, count in readings]
        assert counts == sorted(counts, reverse=True)
    assert module._homophones()["de"][0][0] == "的"
    assert sum(map(len, module._homophones().values())) <= 3755


def test_synonyms_are_words_and_in_one_group():
    import jieba

    words = [word for group in SYNONYMS for word in group]
    assert len(words) == len(set(words))
    assert all(len(group) >= 2 for group in SYNONYMS)
    assert [word for word in words if jieba.lcut(word) != [word]] == []
    assert PERTURBATIONS["traditional"]("") == ""


texts = st.one_of(
    st.text(max_size=12),
    st.text(alphabet="红色的心男人银行，。ab'-. Ｔの개नी\u3000", max_size=12),
)


@settings(max_examples=60)
@given(texts, st.integers(0, 3))
@example("", 0)
@example("〇々ー・\ufe0f", 0)
@example("红\x00灯", 0)
@example("\x00", 0)
def test_none_fails_forgets_or_empties(text, seed):
    for perturbation in PERTURBATIONS.values():
        changed = perturbation(text, seed)
        assert perturbation(text, seed) == changed
        assert bool(changed.strip()) == bool(text.strip())


@given(texts, st.integers(0, 3))
def test_what_moves_keeps_its_letters(text, seed):
    for name in ("swapped", "words-reversed", "words-shuffled"):
        assert sorted(PERTURBATIONS[name](text, seed)) == sorted(text)
    assert PERTURBATIONS["spaces"](text, seed).replace(" ", "") == text.replace(" ", "")
    assert len(PERTURBATIONS["homophone"](text, seed)) == len(text)
    assert len(PERTURBATIONS["dropped"](text, seed)) <= len(text)


def test_chance_is_the_same_in_every_process():
    # seeded by text, not by hash(): these are what any machine gives
    assert PERTURBATIONS["dropped"]("红色的心", 1) == "色的心"
    assert PERTURBATIONS["dropped"]("红色的心", 2) == "红的心"


@pytest.mark.parametrize("library", ["opencc", "pypinyin", "jieba"])
def test_a_missing_library_is_named(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        ImportError, match=re.escape(f"expected the package {library} for this perturbation")
    ):
        module._library(library)
    with pytest.raises(ImportError, match=re.escape("pip install 'clip-text[robustness]'.")):
        module._library(library)


def test_importing_reads_no_library():
    assert "clip_text.evaluation.robustness" in sys.modules
    assert not {"opencc", "pypinyin", "jieba"} & set(vars(importlib.import_module(module.__name__)))


def test_an_unknown_name_is_refused():
    assert [one.name for one in select(["swapped", "spaces"])] == ["swapped", "spaces"]
    with pytest.raises(ValueError, match=r"among traditional, .*, got 'no-such'\. Correct"):
        select(["swapped", "no-such"])


# The measure

ROWS = {"a": (1, 0, 0), "b": (0, 1, 0), "c": (0, 0, 1), "A": (0.6, 0.8, 0), "B": (0, 1, 0)}


def encode(texts):
    return np.array([ROWS[text] for text in texts], np.float32)


def small_set():
    images = {str(at): np.zeros((2, 2, 3), np.uint8) for at in range(3)}
    return retrieval_set("toy", images, [Text(t, t, (str(at),)) for at, t in enumerate("abc")])


def test_robustness_by_hand():
    def raised(text, _):
        return text.upper() if text in "ab" else text

    perturbations = [Perturbation("raised", raised, ""), Perturbation("none", lambda t, _: t, "")]
    pictures = np.eye(3, dtype=np.float32)
    raised, none = robustness(encode, small_set(), pictures, perturbations, (1, 2))
    assert (raised.perturbation, raised.texts, raised.changed) == ("raised", 3, 2)
    assert raised.clean == {1: 1, 2: 1}
    # A points at picture b first and at its own second; c is not asked again
    assert raised.perturbed == {1: pytest.approx(2 / 3), 2: 1}
    assert (raised.changed_clean, raised.changed_perturbed) == ({1: 1, 2: 1}, {1: 0.5, 2: 1})
    assert raised.change == {1: -0.5, 2: 0}
    assert raised.cosine == pytest.approx((0.6 + 1) / 2)
    assert (none.changed, none.clean, none.perturbed) == (0, {1: 1, 2: 1}, {1: 1, 2: 1})
    assert np.isnan([*none.changed_clean.values(), *none.change.values(), none.cosine]).all()


def test_features_of_other_pictures_are_refused():
    with pytest.raises(ValueError, match=r"each of the 3 pictures of toy, got 2\. Encode"):
        robustness(encode, small_set(), np.eye(3, dtype=np.float32)[:2], [])


def test_table_json_and_picture(tmp_path):
    perturbations = [
        Perturbation("raised", lambda text, _: text.upper() if text in "ab" else text, ""),
        Perturbation("none", lambda text, _: text, ""),
    ]
    results = robustness(encode, small_set(), np.eye(3, dtype=np.float32), perturbations, (1,))
    page = io.StringIO()
    Console(file=page, width=100).print(evaluate_robustness.as_table(results))
    _, raised, none = [re.split(r"\s{2,}", line.strip()) for line in page.getvalue().splitlines()]
    assert raised == ["raised", "2 of 3", "100.0 → 50.0", "-50.0", "100.0 → 66.7", "0.800"]
    assert none == ["none", "0 of 3", "100.0 → 100.0"]
    flat = evaluate_robustness.as_json(results)
    assert flat["texts"] == 3
    assert (flat["raised_changed"], flat["raised_change@1"]) == (2, -0.5)
    assert flat["raised_changed_perturbed@1"] == 0.5
    assert (flat["none_change@1"], flat["none_cosine"], flat["none_clean@1"]) == (None, None, 1)
    evaluate_robustness.draw(results, tmp_path / "new" / "bars.png")
    with Image.open(tmp_path / "new" / "bars.png") as picture:
        assert picture.width > 600
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    assert (0xB9, 0x3A, 0x29) in colours  # a loss is red


def test_a_missing_library_stops_the_command_in_a_line(monkeypatch):
    monkeypatch.setattr(module, "_opencc", lambda: module._library("no_such_module"))
    with pytest.raises(ClipTextError, match=r"no_such_module .*'clip-text\[robustness\]'"):
        evaluate_robustness.command(None)


def test_the_starter_on_gallery_emoji():
    encoder = Encoder.from_pretrained("starter", device="cpu")
    emoji = retrieval_sets.gallery_emoji(["zh"], pictures=40)
    pictures = retrieval_sets.encode_pictures(encoder, emoji)
    rows = {one.perturbation: one for one in robustness(encoder.encode_text, emoji, pictures)}
    assert list(rows) == list(PERTURBATIONS)
    assert rows["spaces"].changed > 30
    assert rows["spaces"].cosine == pytest.approx(1, abs=1e-5)  # Chinese is read by character
    assert rows["spaces"].change[10] == 0
    assert rows["upper-case"].changed == 0
    assert rows["dropped"].cosine < 0.98
    assert 0 < rows["traditional"].changed < 40
    assert rows["full-stop"].clean[10] > 0.5
