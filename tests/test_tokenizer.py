"""The tokeniser contract, row by row, and what no text may break."""

import itertools
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import tokenizers
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
    shared_checkpoint,
    tiny_tokenizer,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from clip_text import Encoder
from clip_text.checkpoints import resolve
from clip_text.tokenizer import Tokenizer, check_texts, normalise
from clip_text.tokenizer.contracts import PREPARE, origins, valid_unicode

ROOT = Path(__file__).parents[1]
TOKENIZER = tiny_tokenizer()
BACKEND = bert_tokenizer()
COMPATS = ["clip_text", "cn_clip", "hf", "open_clip"]
APART = ["“红”", "ＡＢ１", "狗[MASK]", "&amp;", "dog\u3000cat，", "", "红" * 60]
"""Texts that no two contracts read alike."""

TABLE = [
    ("“红”", "curly double quotes"),
    ("‘红’", "curly single quotes"),
    ("你好……", "Chinese ellipsis"),
    ("再见——", "Chinese dash"),
    ("￥100", "full-width yen sign"),
    ("ＡＢＣ", "full-width letters"),
    ("１２３", "full-width digits"),
    ("红，绿！", "full-width punctuation"),
    ("狗\u3000猫", "ideographic space"),
    ("漢字", "traditional characters"),
    ("好👍", "emoji the vocabulary has"),
    ("狗🐶", "emoji it has not"),
    ("好👍🐶", "both in one word"),
    ("红\u200b色", "zero-width space"),
    ("do\u200dg", "zero-width joiner"),
    ("[MASK]", "special token, typed by a user"),
    ("Café", "accent, capital"),
    ("ΟΔΟΣ", "sigma at the end of a word"),
    ("a\ue000b", "private-use character"),
    ("&lt;3", "HTML entity"),
    ("schÃ¶n", "wrongly decoded text"),
    ("\x07", "control character alone"),
]
"""The rows of the table in docs/tokenizer.md."""


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


def test_a_context_length_of_the_call_wins_both_ways():
    texts = ["dog", "红" * 30]
    for length in (3, 9, 25):
        expected = Tokenizer(bert_tokenizer(), length).token_ids(texts)
        assert TOKENIZER.token_ids(texts, length) == expected
        assert TOKENIZER(texts, length).shape == (2, length)
    for length in (0, 1, 2):
        with pytest.raises(ValueError, match="expected a context_length above 2"):
            TOKENIZER(texts, length)


def test_save_and_read_back(tmp_path):
    TOKENIZER.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path, CONTEXT_LENGTH)
    texts = ["“红”Ａ１", "running [MASK]", "", "狗" * 50]
    assert again.token_ids(texts) == TOKENIZER.token_ids(texts)
    assert (again.pad_id, again.vocab_size) == (PAD, len(VOCABULARY))


@pytest.mark.parametrize("compat", COMPATS)
def test_the_contract_is_saved_with_the_files(compat, tmp_path):
    tokenizer = Tokenizer(bert_tokenizer(), CONTEXT_LENGTH, compat)
    tokenizer.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path, CONTEXT_LENGTH)
    assert (again.compat, again.contract) == (compat, f"{compat}/1")
    assert again.token_ids(APART) == tokenizer.token_ids(APART)
    other = Tokenizer.from_folder(tmp_path, CONTEXT_LENGTH, "hf")
    assert other.compat == "hf"
    # saved again under another one, by us and by transformers
    other.save(tmp_path)
    assert Tokenizer.from_folder(tmp_path).compat == "hf"
    AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    assert Tokenizer.from_folder(tmp_path / "again").compat == "hf"


def test_the_contracts_do_differ():
    rows = [Tokenizer(bert_tokenizer(), 40, compat).token_ids(APART) for compat in COMPATS]
    assert all(a != b for a, b in itertools.combinations(rows, 2))


def test_a_folder_that_names_no_contract_has_the_default_one(tmp_path):
    bert_tokenizer().save_pretrained(tmp_path)
    assert Tokenizer.from_folder(tmp_path).compat == "clip_text"


def test_transformers_and_open_clip_pass_over_the_contract(tmp_path):
    Tokenizer(bert_tokenizer(), 16, "cn_clip").save(tmp_path)
    text = "“红”[MASK]"
    assert AutoTokenizer.from_pretrained(tmp_path)(text) == bert_tokenizer()(text)
    config = {"text_cfg": {"context_length": 16, "hf_tokenizer_name": "."}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    theirs = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    assert torch.equal(theirs(text), Tokenizer(bert_tokenizer(), 16, "open_clip")(text))


def test_an_unknown_contract_is_refused(tmp_path):
    expected = r"expected compat clip_text, cn_clip, hf, open_clip, got 'other'\. Choose"
    with pytest.raises(ValueError, match=expected):
        Tokenizer(bert_tokenizer(), 16, "other")
    TOKENIZER.save(tmp_path)
    config = (tmp_path / "tokenizer_config.json").read_text()
    assert '"clip_text_compat": "clip_text"' in config
    (tmp_path / "tokenizer_config.json").write_text(
        config.replace('_compat": "clip_text"', '_compat": "other"')
    )
    with pytest.raises(ValueError, match=expected):
        Tokenizer.from_folder(tmp_path)


def test_cn_clip_has_no_tokens_for_another_kind_of_vocabulary():
    model = tokenizers.models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0)
    backend = PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(model), unk_token="<unk>", pad_token="<pad>"
    )
    with pytest.raises(ValueError, match=r"expected a WordPiece .* got Unigram"):
        Tokenizer(backend, 16, "cn_clip")
    assert Tokenizer(backend, 4).token_ids(["aab"]) == [[1, 1, 0]]


def test_a_slow_tokenizer_is_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    slow = BertTokenizerLegacy(str(tmp_path / "vocab.txt"))
    with pytest.raises(ValueError, match="expected a fast tokenizer, got BertTokenizerLegacy"):
        Tokenizer(slow, 16)


def test_the_backend_stays_as_it_was():
    """Its owner may have set it up for something else, and other threads may be using it."""
    backend = bert_tokenizer()
    backend.backend_tokenizer.enable_truncation(5)
    backend.backend_tokenizer.enable_padding(length=30)
    before = backend.backend_tokenizer.to_str()
    for compat in COMPATS:
        tokenizer = Tokenizer(backend, 16, compat)
        assert tokenizer.token_ids(["红绿蓝黄黑白", "[MASK]"])[0][1:-1] == [
            VOCABULARY.index(c) for c in "红绿蓝黄黑白"
        ]
    assert backend.backend_tokenizer.to_str() == before
    assert backend.backend_tokenizer.encode_special_tokens is False


def test_many_threads_share_a_tokenizer():
    tokenizer = tiny_tokenizer()
    texts = [["“红”[MASK]", "dog " * at, "running"] for at in range(64)]
    lengths = [3 + at % 20 for at in range(64)]
    expected = [tokenizer.token_ids(*one) for one in zip(texts, lengths, strict=True)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(tokenizer.token_ids, texts, lengths)) == expected


@pytest.mark.parametrize("compat", COMPATS)
def test_a_copy_for_another_process(compat):
    tokenizer = Tokenizer(bert_tokenizer(), 16, compat)
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.token_ids(APART) == tokenizer.token_ids(APART)


def test_an_index_of_another_contract_is_refused():
    fingerprints = {
        Encoder(replace(shared_checkpoint(), tokenizer=tokenizer), "cpu").fingerprint
        for tokenizer in (Tokenizer(bert_tokenizer(), 16, compat) for compat in COMPATS)
    }
    assert len(fingerprints) == len(COMPATS)
    assert Encoder(shared_checkpoint(), "cpu").fingerprint in fingerprints


@pytest.mark.parametrize(
    ("compat", "text", "unknown", "lost"),
    [
        ("clip_text", "红的狗", (), ""),
        ("clip_text", "“红” 啊 a\u00e9 喵喵", ("啊", "喵", "喵"), ""),
        ("clip_text", "红" * 14 + " 绿蓝 ", (), "绿蓝"),
        ("clip_text", "红" * 13 + " running dog", (), "ning dog"),
        ("clip_text", "啊" + "红" * 13 + "啊", ("啊",), "啊"),
        ("clip_text", "[UNK]", (), ""),
        ("hf", "狗[UNK]！", ("[UNK]",), ""),
        ("hf", "“Ａ”", ("“", "Ａ", "”"), ""),
        ("cn_clip", "“Café\u0301” ＸＹ！", ("“", "”", "ＸＹ"), ""),
        ("cn_clip", "é\u0301x\ud83d 红", ("é\u0301x\ud83d",), ""),
        ("cn_clip", "红" * 13 + "\u200b running狗", (), "ning狗"),
        ("cn_clip", "红" * 14 + " \x00ＡＢ", (), "ＡＢ"),
        ("open_clip", "&lt;&#21834;&gt;  ", ("啊",), ""),
    ],
)
def test_report_of_one_text(compat, text, unknown, lost):
    vocabulary = [*VOCABULARY, "<", ">"]
    report = Tokenizer(bert_tokenizer(vocabulary), 16, compat).report([text])
    (one,) = report.texts
    assert one.text == text
    assert (one.unknown, one.lost) == (unknown, lost)
    assert one.is_cut == bool(lost)


def test_report_counts():
    report = TOKENIZER.report(["红绿", "啊" + "红" * 19, "", "dog 啊"])
    assert [(one.tokens, one.kept) for one in report.texts] == [(4, 4), (22, 16), (2, 2), (4, 4)]
    assert (report.words, report.words_read) == (24, 18)
    assert [one.text[0] for one in report.with_unknown] == ["啊", "d"]
    assert [one.text[0] for one in report.cut] == ["啊"]
    assert report.unknown_share == 2 / 18
    assert report.lost_share == 6 / 24
    assert (report.context_length, report.compat) == (16, "clip_text")


def test_report_of_nothing():
    report = TOKENIZER.report([])
    assert (report.words, report.unknown_share, report.lost_share) == (0, 0, 0)
    assert report.with_unknown == report.cut == []


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


@given(ANY_TEXT, st.sampled_from(["clip_text", "cn_clip", "hf"]))
def test_every_prepared_character_has_an_origin(text, compat):
    origin = origins(text, compat)
    assert len(origin) == len(valid_unicode(PREPARE[compat](text)))
    assert origin == sorted(origin)
    assert set(origin) <= set(range(len(text)))


@given(st.lists(ANY_TEXT, max_size=4), st.sampled_from(COMPATS))
def test_report_and_tokens_agree(texts, compat):
    tokenizer = Tokenizer(BACKEND, 9, compat)
    rows, report = tokenizer.token_ids(texts), tokenizer.report(texts)
    assert [one.kept for one in report.texts] == [len(row) for row in rows]
    assert [len(one.unknown) for one in report.texts] == [row.count(UNK) for row in rows]


def contract_table() -> str:
    """The table of docs/tokenizer.md, made anew with the real vocabulary."""
    tokenizers = [Tokenizer.from_folder(resolve("starter"), compat=compat) for compat in COMPATS]
    lines = [
        f"| typed | | {' | '.join(f'`{compat}`' for compat in COMPATS)} |",
        f"|---|---|{'---|' * len(COMPATS)}",
    ]
    for text, what in TABLE:
        cells = []
        for tokenizer in tokenizers:
            (row,) = tokenizer.token_ids([text])
            words = tokenizer.backend.convert_ids_to_tokens(row)[1:-1]
            cells.append(" ".join(f"`{word}`" for word in words) or "(nothing)")
        lines.append(f"| {shown(text)} | {what} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def shown(text: str) -> str:
    """A text with its invisible characters written out."""
    visible = [c if c.isprintable() else f"\\u{ord(c):04x}" for c in text]
    return f"`{''.join('U+3000' if c == chr(0x3000) else c for c in visible)}`"


def test_the_documented_table_is_what_the_contracts_give():
    """On failure: put the table this prints into docs/tokenizer.md, and say so in CHANGELOG.md."""
    page = (ROOT / "docs" / "tokenizer.md").read_text(encoding="utf-8")
    table = contract_table()
    assert table in page, table


@pytest.mark.parametrize("compat", COMPATS)
def test_files_read_without_transformers_give_the_same(compat, tmp_path):
    tokenizer = Tokenizer(bert_tokenizer(), CONTEXT_LENGTH, compat)
    tokenizer.save_files(tmp_path)
    again = Tokenizer.from_files(tmp_path, CONTEXT_LENGTH)
    texts = [*APART, *(text for text, _ in TABLE), "\ud83d"]
    assert again.token_ids(texts) == tokenizer.token_ids(texts)
    assert again.report(texts) == tokenizer.report(texts)
    assert torch.equal(again(texts), tokenizer(texts))
    ours, theirs = again.backend, tokenizer.backend
    assert (again.contract, again.pad_id, again.vocab_size) == (
        *(tokenizer.contract, tokenizer.pad_id),
        tokenizer.vocab_size,
    )
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.convert_ids_to_tokens([CLS, 7]) == theirs.convert_ids_to_tokens([CLS, 7])
    assert sorted(ours.all_special_ids) == sorted(theirs.all_special_ids)
    for role in ("pad", "unk", "cls", "sep", "mask"):
        assert getattr(ours, f"{role}_token_id") == getattr(theirs, f"{role}_token_id")
    (tmp_path / "again").mkdir()
    again.save(tmp_path / "again")
    shorter = Tokenizer.from_files(tmp_path / "again", 9)
    assert shorter.token_ids(texts) == tokenizer.token_ids(texts, 9)
    assert pickle.loads(pickle.dumps(again)).token_ids(texts) == tokenizer.token_ids(texts)
    # transformers reads the same files
    assert AutoTokenizer.from_pretrained(tmp_path)(APART[3]) == bert_tokenizer()(APART[3])


def test_damaged_files_are_told(tmp_path):
    TOKENIZER.save_files(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    with pytest.raises(ValueError, match=r"expected a tokenizer in .*tokenizer\.json, got: .*"):
        Tokenizer.from_files(tmp_path, CONTEXT_LENGTH)


def test_files_are_read_without_torch_or_transformers(tmp_path):
    TOKENIZER.save_files(tmp_path)
    code = (
        "import sys; from pathlib import Path; from clip_text.tokenizer import Tokenizer; "
        f"rows = Tokenizer.from_files(Path({str(tmp_path)!r}), 16).token_ids(['红狗']); "
        "print(rows, [name for name in ('torch', 'transformers', 'open_clip') "
        "if name in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    ).stdout
    assert told.strip() == f"{TOKENIZER.token_ids(['红狗'])} []"
