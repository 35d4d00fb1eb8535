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
for encoding, commands in json.load(open(sys.argv[1], encoding="utf-8")):
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding=encoding, errors="strict")
    for arguments in commands:
        sys.argv = ["clip-text", *arguments]
        try:
            main()
            codes.append(0)
        except SystemExit as stop:
            codes.append(stop.code or 0)
        for stream in (sys.stdout, sys.stderr):
            stream.write("\\x1e")
            stream.flush()
sys.stdout.write(json.dumps(codes))
"""
NAMES = ["🐶 狗.png", "œuvre.png", "日.png"]
ENCODINGS = ("gbk", "cp1252", "ascii")
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


def cases(pictures, tiny_folder, index_dir):
    """Commands by what they are called here."""
    model, index = ["-m", str(tiny_folder)], ["--index", str(index_dir)]
    captions = [str(pictures / "captions.jsonl"), "--images", str(pictures)]
    return {
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


@pytest.fixture(scope="module")
def told_in(pictures, tiny_folder, tmp_path_factory):
    """By encoding: of each command, what it wrote to stdout and stderr and its exit code."""
    folder = tmp_path_factory.mktemp("encodings")
    commands = {name: cases(pictures, tiny_folder, folder / name) for name in ENCODINGS}
    given = [(name, list(of_one.values())) for name, of_one in commands.items()]
    (folder / "cases.json").write_text(json.dumps(given), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, folder / "cases.json"],
        env=os.environ | {"COLUMNS": "200", "HF_HUB_OFFLINE": "1"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    *outputs, codes = done.stdout.split(b"\x1e")
    *errors, _ = done.stderr.split(b"\x1e")
    results = iter(zip(outputs, errors, json.loads(codes), strict=True))
    return {
        encoding: {
            name: (out.decode(encoding), err.decode(encoding), code)
            for name, (out, err, code) in zip(of_one, results, strict=False)
        }
        for encoding, of_one in commands.items()
    }


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_cannot_be_written_is_escaped(encoding, told_in):
    told = {name: out for name, (out, _, _) in told_in[encoding].items()}
    codes = {name: code for name, (_, _, code) in told_in[encoding].items()}
    assert codes == dict.fromkeys(told, 0) | {"index": 3, "index again": 3, "error": 1}
    assert not [err for _, err, _ in told_in[encoding].values() if "Traceback" in err]
    hits = json.loads(told["search as json"])
    assert hits["query"] == "🐶"
    names = {Path(hit["path"]).name for hit in hits["hits"]}
    assert names == {*NAMES, r"\xff\xfe.png"}
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
