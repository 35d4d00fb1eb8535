"""Token for token what cn_clip, transformers and open_clip give."""

import json
import random
import sys
import unicodedata
from pathlib import Path

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, ChineseCLIPImageProcessor, ChineseCLIPProcessor

from clip_text.checkpoints import resolve
from clip_text.tokenizer import CONTEXT_LENGTH, Tokenizer

CAPTIONS = Path(__file__).parents[2] / "shared" / "data" / "flickr8k-cn" / "train.jsonl"

HARD = [
    *("", " ", "\n", "\u3000", "\u200b", "\x00", "\ufffd", "\u2028", "\x85", "\x1c", "\ufeff"),
    *("“红色”的‘心’", "等等……再见——", "￥100 ¥100 $100", "ＡＢＣ１２３，！？", "狗\u3000猫"),
    *("漢字與髮型", "👍🏽👨‍👩‍👧 ❤️ 🇨🇳", "零\u200b宽\u200d连\u2060接", "𠮷野家", "㐂丼", "豈更"),
    *("[MASK]", "红[MASK]色", "[mask]", "[CLS][SEP][PAD][UNK]", "[MA SK]", " [MASK]! ", "##ing"),
    *("ＭＡＳＫ", "Straße ẞ İstanbul ıi", "ΑΣ ΣΑΣ. Σ", "café cafe\u0301 Å", "ﬁ ﬀ ½ ①"),
    *(
        "한국어 テスト ﾃｽﾄ ｱﾞ",
        "नमस्ते ภาษาไทย עברית العربية",
        "हि\u093fन\u0301",
        "\u0301a",
        "a\u0301\u0327",
    ),
    *(
        "1,000.5% #tag @user a_b-c/d\\e",
        "http://例子.中国/?q=1&amp;b=2",
        "&lt;b&gt; &amp;amp; &#20013;",
    ),
    *(
        "schÃ¶n â€œquotedâ€\x9d",
        "ä½ å¥½",
        "l’humanitÃ©",
        "a\tb\rc\nd\x0be\x0cf",
        "\x1b[31mred\x1b[0m",
    ),
    *("a" * 99, "a" * 100, "a" * 101, "a" * 199, "a" * 200, "a" * 201, "ü" * 100 + " b"),
    *("狗" * 49, "狗" * 50, "狗" * 51, "狗" * 3000, "unaffordable " * 30, "！" * 200, "dog" * 80),
    *("\ue000x\U000f0000", "\u0378a\U0001fae9", "x\U0010fffey", "\u00ad\u061c\u180e\u2066soft"),
]
"""Where the libraries differ from each other, or a careless copy would from its library."""

HALF_EMOJI = ["\ud83d", "狗\ud83d", "a\udc36b", "\ud83d\udc36", "x\udfff y"]
"""Lone surrogates: no valid UTF-8."""


def starter_folder() -> Path:
    """The bundled checkpoint, whose vocabulary is Chinese-CLIP's 21,128 tokens."""
    return resolve("starter")


@pytest.fixture(scope="module")
def chinese_clip_folder(tmp_path_factory):
    """A folder with the files OFA-Sys publishes, without weights."""
    folder = tmp_path_factory.mktemp("chinese-clip-vit-base-patch16")
    vocabulary = AutoTokenizer.from_pretrained(starter_folder()).get_vocab()
    lines = sorted(vocabulary, key=vocabulary.__getitem__)
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": "chinese_clip"}))
    ChineseCLIPImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cn_clip_tokenize():
    """cn_clip's own function, with its own vocabulary."""
    return pytest.importorskip("cn_clip.clip").tokenize


@pytest.fixture(scope="module")
def transformers_tokenize(chinese_clip_folder):
    """What a user of ChineseCLIPProcessor gets."""
    processor = ChineseCLIPProcessor.from_pretrained(chinese_clip_folder)

    def tokenize(texts, context_length=CONTEXT_LENGTH):
        options = {"truncation": True, "max_length": context_length, "padding": "max_length"}
        return processor(text=texts, return_tensors="pt", **options)["input_ids"]

    return tokenize


@pytest.fixture(scope="module")
def open_clip_tokenize():
    """What a user of open_clip gets for a checkpoint folder."""
    return open_clip.get_tokenizer(f"local-dir:{starter_folder()}")


@pytest.fixture(scope="module")
def ours(chinese_clip_folder):
    """One tokenizer for each contract."""
    return {
        "hf": Tokenizer.from_folder(chinese_clip_folder, compat="hf"),
        "cn_clip": Tokenizer.from_folder(starter_folder(), compat="cn_clip"),
        "open_clip": Tokenizer.from_folder(starter_folder(), compat="open_clip"),
        "clip_text": Tokenizer.from_folder(starter_folder()),
    }


@pytest.fixture(scope="module", params=["cn_clip", "hf", "open_clip"])
def pair(request, ours):
    """Our tokenizer and the library's, of one contract; each takes texts and a length."""
    names = {"cn_clip": "cn_clip_tokenize", "hf": "transformers_tokenize"}
    theirs = request.getfixturevalue(names.get(request.param, "open_clip_tokenize"))
    return ours[request.param], theirs


def assert_same(texts, pair, context_length=CONTEXT_LENGTH):
    """Compare all texts at once; name the first that differs."""
    tokenizer, theirs = pair
    got, expected = tokenizer(texts, context_length), theirs(texts, context_length=context_length)
    assert got.dtype == expected.dtype == torch.int64
    differs = (got != expected).any(1).nonzero().flatten().tolist()
    words = tokenizer.backend.convert_ids_to_tokens
    assert not differs, (
        f"{len(differs)} texts differ, first {texts[differs[0]]!r}: "
        f"{words(got[differs[0]].tolist())} is not {words(expected[differs[0]].tolist())}"
    )


# Every character by itself would be uniform over a million, of which most are unassigned; these
# weights put the places where tokenizers differ beside each other.
_ALPHABETS = [
    *("红色的狗猫飞机在草地上跑", "漢髮㐂豈𠮷", "abcXYZ", "éÅßİıΣσς", "０９ＡＺａｚ", "0123456789"),
    *("，。！？、；：（）《》【】", "“”‘’…—￥·", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
    *(
        "    ",
        "\t\n\r\x0b\x0c\x1c\x85\xa0\u2028\u2029\u3000\u2003",
        "\x00\x07\x7f\xad\u200b\u200d\ufeff\ufffd",
    ),
    *(
        "\u0301\u0327\u0483\u20dd\ufe0f\u3099",
        "👍🏽👨👩❤🇨🇳😀🐶①½™",
        "にほんゴﾊﾟ한국नมע",
        "\ue000\u0378\U0010fffd\ufdd0",
    ),
]
_WORDS = [
    "[MASK]",
    "[SEP]",
    "[UNK]",
    "running",
    "&amp;",
    "&lt;",
    "â€œ",
    "Ã©",
    "dog",
    "##s",
    "http://",
]


def mixture(source: random.Random) -> str:
    """One text of up to eleven runs of like characters."""
    runs = []
    for _ in range(source.randint(1, 11)):
        if source.random() < 0.15:
            runs.append(source.choice(_WORDS))
        else:
            runs.append("".join(source.choices(source.choice(_ALPHABETS), k=source.randint(1, 6))))
    return "".join(runs)


def test_hard_cases(pair):
    assert_same(HARD, pair)


@pytest.mark.parametrize("context_length", [3, 4, 17, 77])
def test_at_another_length(pair, context_length):
    assert_same(HARD, pair, context_length)


def test_ten_thousand_mixtures(pair):
    source = random.Random(4)
    texts = [mixture(source) for _ in range(10_000)]
    assert len(set(texts)) > 9_500
    assert_same(texts, pair)


@pytest.mark.data
def test_captions(pair):
    if not CAPTIONS.is_file():
        pytest.skip(f"no {CAPTIONS}")
    texts = []
    with CAPTIONS.open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            texts += [*record["zh"], *record["zh_mt"], *record["en"]]
    texts = random.Random(4).sample(sorted(set(texts)), 5_000)
    assert_same(texts, pair)


_CHARACTERS = st.characters(exclude_categories=["Cs"]) | st.sampled_from("".join(_ALPHABETS))


@settings(max_examples=40)
@given(texts=st.lists(st.text(_CHARACTERS) | st.sampled_from(_WORDS), min_size=1, max_size=30))
def test_whatever_hypothesis_finds(pair, texts):
    assert_same([*texts, "".join(texts)], pair)


def test_every_character_of_the_basic_plane(cn_clip_tokenize, ours):
    """In a word, whose neighbours tell whether it splits, vanishes, or spoils the word."""
    characters = [chr(code) for code in range(0x10000)]
    assigned = [char for char in characters if unicodedata.category(char) not in {"Lo", "Co", "Cs"}]
    assert len(assigned) > 10_000
    assert_same([f"aΣ{char}b" for char in assigned], (ours["cn_clip"], cn_clip_tokenize))


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["{}", "ab{}cd", "aΣ{}b", "\u0301{}\u0323x", "狗{}狗"])
def test_every_character_there_is(cn_clip_tokenize, ours, shape):
    for start in range(0, sys.maxunicode + 1, 0x8000):
        texts = [shape.format(chr(code)) for code in range(start, start + 0x8000)]
        assert_same(texts, (ours["cn_clip"], cn_clip_tokenize))


def test_half_an_emoji(ours, cn_clip_tokenize, open_clip_tokenize, transformers_tokenize):
    """The one class of texts where a library gives nothing to be equal to: transformers refuses."""
    assert_same(HALF_EMOJI, (ours["cn_clip"], cn_clip_tokenize))
    assert_same(HALF_EMOJI, (ours["open_clip"], open_clip_tokenize))
    for text in HALF_EMOJI:
        with pytest.raises(TypeError):
            transformers_tokenize([text])
        asked = "".join("?" if unicodedata.category(char) == "Cs" else char for char in text)
        assert ours["hf"].token_ids([text]) == ours["hf"].token_ids([asked])
        assert ours["clip_text"].token_ids([text]) == ours["clip_text"].token_ids([asked])


def test_the_default_is_what_cn_clip_trained_on(ours, cn_clip_tokenize):
    """cn_clip straightens double quotes when it trains, and not in clip.tokenize.

    Full-width letters apart: the default makes them the same word as the ordinary ones.
    """
    source = random.Random(5)
    texts = [*HARD, *(mixture(source) for _ in range(500))]
    kept = {*"０９ＡＺａｚΣ", *"\ue000\u0378\U0010fffd\ufdd0\U0001fae9\U000f0000\U0010fffe"}
    texts = [text for text in texts if not kept & set(unicodedata.normalize("NFC", text))]
    texts = [text for text in texts if max(map(len, text.split()), default=0) <= 100]
    assert len(texts) > 200
    # cn_clip/training/data.py, _preprocess_text, which cannot be imported without lmdb
    trained = [text.lower().replace("“", '"').replace("”", '"') for text in texts]
    expected = cn_clip_tokenize(trained)
    assert (ours["clip_text"](texts) == expected).all()
    assert not (ours["cn_clip"](texts) == expected).all()
