"""The report behind ``clip-text tokens``."""

import io
import json
import sys
from types import SimpleNamespace

import pytest
from models import tiny_tokenizer
from rich.console import Console

from clip_text import DataError
from clip_text_cli.tokens import as_json, as_table, read_texts, summary

TEXTS = ["红绿", "dog 啊[b]", "", "红" * 14 + "[b]啊", "啊啊"]


def test_a_text_a_line_whatever_else_is_in_it(tmp_path, monkeypatch):
    raw = "\ufeff红\r\n\n a\u2028b\x0bc \n狗".encode()
    (tmp_path / "texts").write_bytes(raw)
    expected = ["红", "", " a\u2028b\x0bc ", "狗"]
    assert read_texts(tmp_path / "texts") == expected
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(raw + b"\n")))
    assert read_texts(tmp_path.__class__("-")) == expected
    (tmp_path / "none").write_bytes(b"")
    assert read_texts(tmp_path / "none") == []


def test_a_line_that_is_no_text_is_named(tmp_path):
    (tmp_path / "texts").write_bytes("红\n".encode() + "红".encode("gbk"))
    with pytest.raises(DataError, match=r"expected UTF-8 in .*texts, line 2, got byte 0xba\. Save"):
        read_texts(tmp_path / "texts")


def test_summary_and_table():
    report = tiny_tokenizer().report(TEXTS)
    assert summary(report) == [
        "5 texts, 27 tokens without the special ones, contract clip_text",
        "2 texts with [UNK]: 13.04% of the tokens read",
        "1 text cut at 16 tokens: 14.81% of all tokens lost",
        "most often unknown: 啊 (3)",
    ]
    page = io.StringIO()
    Console(file=page, width=80).print(as_table(report))
    header, *lines = [line.split() for line in page.getvalue().splitlines()]
    assert header == ["line", "tokens", "[UNK]", "cut", "off"]
    assert lines == [["2", "7", "啊"], ["4", "20", "[b]啊"], ["5", "4", "啊"]]


@pytest.mark.parametrize(
    ("compat", "unknown"), [(None, []), ("cn_clip", ["“", "”"]), ("open_clip", [])]
)
def test_the_contract_can_be_chosen(compat, unknown, tiny_folder, tmp_path, run):
    (tmp_path / "texts").write_text("“红”\n", encoding="utf-8")
    chosen = ["--compat", compat] if compat else []
    code, out, err = run("tokens", tmp_path / "texts", "--model", tiny_folder, "--json", *chosen)
    assert code == 0, err
    report = json.loads(out)
    assert report["contract"] == (compat or "clip_text")
    assert [part for line in report["lines"] for part in line["unknown"]] == unknown


def test_an_unknown_contract_is_a_wrong_option(tmp_path, run):
    (tmp_path / "texts").write_text("红\n", encoding="utf-8")
    code, _, err = run("tokens", tmp_path / "texts", "--compat", "clip")
    assert code == 2
    assert "open_clip" in err


def test_json():
    flat = as_json(tiny_tokenizer().report(TEXTS))
    assert flat["lines"] == [
        {"line": 2, "tokens": 7, "unknown": ["啊"], "lost": ""},
        {"line": 4, "tokens": 20, "unknown": [], "lost": "[b]啊"},
        {"line": 5, "tokens": 4, "unknown": ["啊", "啊"], "lost": ""},
    ]
    assert flat["unknown_share"] == 3 / 23
    assert flat["lost_share"] == 4 / 27
    assert (flat["texts"], flat["tokens"], flat["with_unknown"], flat["cut"]) == (5, 27, 2, 1)
    assert (flat["contract"], flat["context_length"]) == ("clip_text", 16)
