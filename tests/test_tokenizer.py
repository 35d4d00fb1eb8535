"""The tokeniser contract, row by row, and what no text may break."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import (
    CLS,
    CONTEXT_LENGTH,
    MASK,
    PAD,
    SEP,
    UNK,
    VOCABULARY,
    bert_tokenizer,
    tiny_tokenizer,
)

from clip_text.tokenizer import Tokenizer, check_texts, normalise

TOKENIZER = tiny_tokenizer()


def tokens(text: str, tokenizer: Tokenizer = TOKENIZER) -> list[str]:
    """The tokens of one text, its [CLS] and [SEP] checked and taken off."""
    (row,) = tokenizer.token_ids([text])
    assert (row[0], row[-1]) == (CLS, SEP)
    return [VOCABULARY[token] for token in row[1:-1]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("“红”", ['"', "红", '"'], id="curly double quotes"),
        pytest.param('"红"', ['"', "红", '"'], id="straight quotes are the same"),
        pytest.param("Ａ１", ["a", "##1"], id="full-width letter and digit"),
        pytest.param("ＤＯＧ ｄｏｇ", ["dog", "dog"], id="full-width word"),
        pytest.param(
            "０９ＡＺａｚ", list("0") + [f"##{c}" for c in "9azaz"], id="full-width limits"
        ),
        pytest.param("dog\u3000cat", ["dog", "cat"], id="ideographic space"),
        pytest.param("红，心！？", ["红", "，", "心", "！", "？"], id="wide punctuation stays"),
        pytest.param("红,心!?", ["红", ",", "心", "!", "?"], id="ASCII punctuation is another"),
        pytest.param("。《》", ["。", "《", "》"], id="Chinese punctuation"),
        pytest.param("狗…—", ["狗", "…", "—"], id="ellipsis and dash stay"),
        pytest.param("￥5", ["￥", "##5"], id="yen sign stays"),
        pytest.param("DOG Cat", ["dog", "cat"], id="lower case"),
        pytest.param("dóg cãt", ["dog", "cat"], id="accents stripped"),
        pytest.param("do\u0301g", ["dog"], id="combining accent stripped"),
        pytest.param("d\x00o\x07g\x7f", ["dog"], id="control characters dropped"),
        pytest.param("d\u200bo\u200dg\ufeff", ["dog"], id="zero-width characters dropped"),
        pytest.param("dog\tcat\ncat\r\ndog", ["dog", "cat", "cat", "dog"], id="whitespace"),
        pytest.param("dog红cat", ["dog", "红", "cat"], id="a Chinese character stands alone"),
        pytest.param("running", ["run", "##ning"], id="WordPiece"),
        pytest.param("狗🐶😀", ["狗", "[UNK]"], id="an emoji run is one word, unknown here"),
        pytest.param("狗 🐶 😀", ["狗", "🐶", "[UNK]"], id="a known emoji"),
        pytest.param("‘红’", ["[UNK]", "红", "[UNK]"], id="single curly quotes stay"),
        pytest.param("", [], id="empty"),
        pytest.param(" \u3000\n", [], id="only spaces"),
        pytest.param("\u200b", [], id="only zero-width"),
        pytest.param("\ud83d", ["?"], id="lone surrogate"),
        pytest.param("狗\udc36跑", ["狗", "?", "跑"], id="lone surrogate within"),
    ],
)
def test_contract(text, expected):
    assert tokens(text) == expected


@pytest.mark.parametrize("special", ["[MASK]", "[PAD]", "[CLS]", "[SEP]", "[UNK]"])
def test_a_typed_special_token_is_plain_text(special):
    (row,) = TOKENIZER.token_ids([f"红{special}"])
    word = special[1:-1].lower()
    assert row[1:3] == [VOCABULARY.index("红"), VOCABULARY.index("[")]
    assert row[-2:] == [VOCABULARY.index("]"), SEP]
    inside = row[3:-2]
    assert not {PAD, UNK, CLS, SEP, MASK} & set(inside)
    assert "".join(VOCABULARY[token].removeprefix("##") for token in inside) == word


def test_normalise_is_the_table_and_nothing_more():
    text = "“”Ａｚ０９\u3000，！？…—￥‘’「」、～％ａé"
    assert normalise(text) == '""Az09 ，！？…—￥‘’「」、～％aé'
    plain = "".join(chr(code) for code in range(0x20, 0x7F))
    assert normalise(plain) == plain


def test_ids_equal_the_tokenizer_underneath_on_plain_text():
    texts = ["一只狗在草地上跑", "red dog, running", ""]
    assert TOKENIZER.token_ids(texts) == bert_tokenizer()(texts)["input_ids"]


def test_a_long_text_is_cut_at_context_length_and_keeps_its_ends():
    (row,) = TOKENIZER.token_ids(["红" * 10_000])
    assert row == [CLS, *[VOCABULARY.index("红")] * (CONTEXT_LENGTH - 2), SEP]


@pytest.mark.parametrize(("characters", "length"), [(13, 15), (14, 16), (15, 16), (16, 16)])
def test_the_cut_is_exact(characters, length):
    (row,) = TOKENIZER.token_ids(["狗" * characters])
    assert len(row) == length
    assert row.count(VOCABULARY.index("狗")) == length - 2


def test_chinese_clip_default_is_52():
    (row,) = Tokenizer(bert_tokenizer()).token_ids(["红" * 100])
    assert len(row) == 52


@pytest.mark.parametrize("context_length", [-1, 0, 2])
def test_a_context_without_room_for_a_token_is_refused(context_length):
    with pytest.raises(ValueError, match=r"expected a context_length above 2 .*, got .*\. Use 52"):
        Tokenizer(bert_tokenizer(), context_length)


def test_pad_fills_the_end():
    padded = TOKENIZER.pad([[CLS, 7, SEP], [CLS, SEP], []])
    assert padded.dtype == torch.int64
    assert padded.tolist() == [[CLS, 7, SEP], [CLS, SEP, PAD], [PAD, PAD, PAD]]
    assert TOKENIZER.pad([[CLS, SEP]], length=4).tolist() == [[CLS, SEP, PAD, PAD]]
    assert TOKENIZER.pad([]).shape == (0, 0)


def test_no_texts_no_rows():
    assert TOKENIZER.token_ids([]) == []
    assert TOKENIZER([]).shape == (0, CONTEXT_LENGTH)


@pytest.mark.parametrize("wrong", ["狗", b"dog"])
def test_one_string_is_refused(wrong):
    with pytest.raises(TypeError, match=r"expected a list of str, got one (str|bytes)\. Wrap it"):
        TOKENIZER.token_ids(wrong)


@pytest.mark.parametrize("wrong", [None, 3, b"dog", ["狗"]])
def test_something_else_than_a_string_is_refused_and_placed(wrong):
    with pytest.raises(TypeError, match=r"got (NoneType|int|bytes|list) at position 1\. Drop"):
        check_texts(["狗", wrong])


def test_open_clip_calls_it_like_its_own():
    """One string or several; int64 [n, context_length]; a context_length of the call wins."""
    dog = [CLS, VOCABULARY.index("dog"), SEP]
    one = TOKENIZER("dog")
    assert one.dtype == torch.int64
    assert one.tolist() == [dog + [PAD] * (CONTEXT_LENGTH - 3)]
    assert TOKENIZER(["dog", ""]).shape == (2, CONTEXT_LENGTH)
    short = TOKENIZER(["dog", "红绿蓝黄黑白"], context_length=5)
    red, green, blue = (VOCABULARY.index(c) for c in "红绿蓝")
    assert short.tolist() == [[*dog, PAD, PAD], [CLS, red, green, blue, SEP]]
    assert TOKENIZER(["dog"], context_length=20).shape == (1, 20)


def test_save_and_read_back(tmp_path):
    TOKENIZER.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path, CONTEXT_LENGTH)
    texts = ["“红”Ａ１", "running [MASK]", "", "狗" * 50]
    assert again.token_ids(texts) == TOKENIZER.token_ids(texts)
    assert (again.pad_id, again.vocab_size) == (PAD, len(VOCABULARY))


_KNOWN = [token for token in VOCABULARY if len(token) == 1]
ANY_TEXT = st.text(st.characters() | st.sampled_from([*_KNOWN, *"“”Ａ１\u3000\ud83d\u200b"]))


@given(ANY_TEXT)
def test_never_longer_than_context_length(text):
    (row,) = TOKENIZER.token_ids([text])
    assert 2 <= len(row) <= CONTEXT_LENGTH
    assert (row[0], row[-1]) == (CLS, SEP)
    assert not {PAD, CLS, SEP, MASK} & set(row[1:-1])
    assert max(row) < TOKENIZER.vocab_size


@given(st.lists(ANY_TEXT, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_neither_the_batch_nor_its_order_changes_a_text(texts, random):
    alone = [TOKENIZER.token_ids([text])[0] for text in texts]
    assert TOKENIZER.token_ids(texts) == alone
    order = random.sample(range(len(texts)), len(texts))
    assert TOKENIZER.token_ids([texts[at] for at in order]) == [alone[at] for at in order]
    padded = TOKENIZER(texts)
    assert [[token for token in row if token != PAD] for row in padded.tolist()] == alone
