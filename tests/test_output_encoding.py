"""Names that the console's encoding has no characters for: escaped, never a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from clip_text.training.runs import REPORT, read_report, write_report

PROGRAM = """
import json, sys
from clip_text_cli.main import main
codes = []
for arguments in json.load(open(sys.argv[1], encoding="utf-8")):
    sys.argv = ["clip-text", *arguments]
    try:
        main()
        codes.append(0)
    except SystemExit as stop:
        codes.append(stop.code or 0)
    sys.stdout.write("\\x1e")
    sys.stdout.flush()
sys.stdout.write(json.dumps(codes))
"""
NAMES = ["🐶 狗.png", "œuvre.png", "日.png"]
CAPTION = "a ★ 狗 🐶 \ud800"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd") / "🐶"
    folder.mkdir()
    lines = []
    for shade, name in enumerate([*NAMES, os.fsdecode(b"\xff\xfe.png")]):
        Image.new("RGB", (40, 40), (60 * shade, 200, 30)).save(folder / name)
        if name in NAMES:
            lines.append({"file_name": name, "caption": CAPTION})
    (folder / "broken 🐱.png").write_bytes(b"\x89PNG")
    written = "".join(json.dumps(line) + "\n" for line in lines).replace("\\ud800", "")
    (folder / "metadata.jsonl").write_text(written, encoding="utf-8")
    captions = [{"image": name, "zh": [CAPTION]} for name in NAMES[:2]]
    text = "".join(json.dumps(line) + "\n" for line in captions)
    (folder / "captions.jsonl").write_text(text, encoding="utf-8")
    (folder / "texts.txt").write_text("狗 🐶 ★ 龘\n" * 30, encoding="utf-8")
    return folder


@pytest.mark.parametrize("encoding", ["gbk", "cp1252", "ascii"])
def test_what_cannot_be_written_is_escaped(encoding, pictures, tiny_folder, tmp_path):
    model, index = ["-m", str(tiny_folder)], ["--index", str(tmp_path / "index")]
    captions = [str(pictures / "captions.jsonl"), "--images", str(pictures)]
    cases = {
        "index": ["index", str(pictures), *index, *model],
        "index again": ["index", str(pictures), *index, *model, "--retry-failed", "--json"],
        "search": ["search", "🐶", *index, *model],
        "search as json": ["search", "🐶", *index, *model, "--json"],
        "tokens": ["tokens", str(pictures / "texts.txt"), *model],
        "tokens as json": ["tokens", str(pictures / "texts.txt"), *model, "--json"],
        "data": ["data", "check", *captions, *model, "--json"],
        "help": ["train", "contrastive", "--help"],
        "error": ["data", "check", "🐶 nowhere"],
    }
    (tmp_path / "cases.json").write_text(json.dumps(list(cases.values())), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "cases.json"],
        env=os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "200", "HF_HUB_OFFLINE": "1"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(encoding)
    assert b"Traceback" not in done.stderr, done.stderr.decode(encoding)
    *outputs, codes = done.stdout.decode(encoding).split("\x1e")
    told = dict(zip(cases, outputs, strict=True))
    expected = dict.fromkeys(cases, 0) | {"index": 3, "index again": 3, "error": 1}
    assert dict(zip(cases, json.loads(codes), strict=True)) == expected
    hits = json.loads(told["search as json"])
    assert hits["query"] == "🐶"
    found = {Path(hit["path"]).name for hit in hits["hits"]}
    assert found == {*NAMES, r"\xff\xfe.png"}
    (failure,) = json.loads(told["index again"])["failures"]
    assert Path(failure["path"]).name == "broken 🐱.png"
    assert json.loads(told["tokens as json"])["with_unknown"] == 30
    assert json.loads(told["data"])["pictures"] == 2
    dog = "狗" if encoding == "gbk" else r"\u72d7"
    assert rf"\U0001f436 {dog}.png" in told["search"]


def test_a_report_of_a_path_that_is_no_text_is_read_again(tmp_path):
    report = {"head": os.fsdecode(b"/out/\xff"), "name": "狗 🐶"}
    write_report(tmp_path, report)
    assert "狗 🐶" in (tmp_path / REPORT).read_text(encoding="utf-8")
    assert read_report(tmp_path) == report
