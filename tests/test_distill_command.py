"""``clip-text train distill`` from parallel sentences to a model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from models import tiny_tokenizer
from test_distillation import EN, ZH
from test_teachers import pictures, plain_encoder

from clip_text import Encoder
from clip_text.data.parallel import read_parallel
from clip_text.errors import DataError


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_parallel_sentences_of_every_form(tmp_path):
    lists = write(
        tmp_path / "a.jsonl",
        '{"en": ["a dog", "dogs"], "zh": ["狗", "群狗"], "id": 3}\n\n{"en": "cat", "zh": "猫"}\n',
    )
    found = read_parallel(lists, ["en", "zh"])
    assert found.by_language == {"en": ["a dog", "dogs", "cat"], "zh": ["狗", "群狗", "猫"]}
    assert found.groups == [0, 0, 1]
    assert found.first_of_each().by_language == {"en": ["a dog", "cat"], "zh": ["狗", "猫"]}
    for name, mark in (("b.csv", ","), ("b.TSV", "\t")):
        table = f'zh{mark}x{mark}en\n狗{mark}{mark}"a{mark} dog"\n猫{mark}1{mark}cat\n'
        found = read_parallel(write(tmp_path / name, "\ufeff" + table), ["en", "zh"])
        assert found.by_language == {"en": [f"a{mark} dog", "cat"], "zh": ["狗", "猫"]}
        assert found.groups == [0, 1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "", r"expected parallel sentences in .*a\.jsonl, got none\. Check"),
        ("a.csv", "en,zh\n", r"expected parallel sentences in .*a\.csv, got none\. Check"),
        (
            "a.jsonl",
            '{"en": ["a"], "zh": ["b"]}\n{"en": ["a", "b"], "zh": ["c"]}',
            r"expected equally many .*, line 2, got 2 in en, 1 in zh\. Pair",
        ),
        ("a.jsonl", '{"en": "a"}', r"expected a field 'zh' in .*, line 1, got none\. .*: en\."),
        ("a.tsv", "en\tde\na\tb", r"expected a field 'zh' in .*, line 2, got none\. .*: en, de\."),
        ("a.jsonl", '{"en": "a", "zh": 3}', r"expected a sentence or a list .*, got int\. Mend"),
        ("a.jsonl", '{"en": "a", "zh": " "}', r"expected words in 'zh' of .*, line 1, got an em"),
        ("a.jsonl", '{"en": [], "zh": []}', r"expected words in 'en' of .*, got an empty list"),
        ("a.jsonl", "[1]", r"expected a JSON object in .*, line 1, got list\. Mend"),
        ("a.csv", "en,zh\na,b,c", r"expected 2 fields in .*, line 2, .*, got 3\. Quote"),
        ("a.csv", "en,en,zh\na,b,c", r"expected one column 'en' in the header .*, got 2\. Ren"),
        ("a.csv", 'en,zh\n"a,b', r"expected a table in .*, got a broken line 2"),
        ("a.txt", "a b", r"expected a \.jsonl, \.csv or \.tsv file .*, got .*a\.txt\. Write"),
    ],
)
def test_broken_sentences_are_refused(name, text, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_parallel(write(tmp_path / name, text), ["en", "zh"])


@pytest.fixture
def arguments(tmp_path):
    teacher = plain_encoder(tmp_path / "teacher")
    tiny_tokenizer().save(tmp_path / "tokenizer")
    pairs = zip(EN, ZH, ZH[::-1], strict=True)
    lines = [json.dumps({"en": [a, a], "zh": [b, b], "ja": [c, c]}) for a, b, c in pairs]
    data = write(tmp_path / "pairs.jsonl", "\n".join(lines))
    return [
        *("train", "distill", data, "--from", "en", "--to", "zh", "--out", tmp_path / "out"),
        *("--teacher", teacher, "--student", "tiny", "--cache", tmp_path / "cache"),
        *("--tokenizer", tmp_path / "tokenizer", "--batch-size", 8, "--epochs", 2),
        *("--trial-steps", 2, "--evaluations", 2),
    ]


def test_the_command(arguments, run, tmp_path):
    code, stdout, stderr = run(*arguments, "--json")
    assert code == 0, stderr
    report = json.loads(stdout)
    assert report["candidates"] == report["queries"] == 1  # a tenth of sixteen lines
    assert report["pairs"] == 30
    assert report["known_originals"] == 0
    assert report["recall@1"] == 1.0  # among one
    assert {f"trial_{name}_recall@1" for name in ("cls", "mean", "max")} <= report.keys()
    assert "2 steps each, 4 of them for the two not chosen" in stderr
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(report["model"], device="cpu", local_files_only=True)
    assert model.encode(ZH).shape == (16, 16)
    chosen = tmp_path / "out" / report["pooler"]
    logged = [json.loads(line) for line in (chosen / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged if "eval_recall@1" in line][-1] == report["steps"] == 6
    # once more: nothing is trained, the same is said
    code, stdout, _ = run(*arguments)
    assert code == 0
    assert "recall@1 100.0%" in stdout
    assert str(tmp_path / "out" / "model") in stdout
    # another run does not fit into the folder
    code, _, stderr = run(*arguments, "--seed", 3)
    assert code == 1
    assert "got another seed, sentences. Name another folder" in stderr


def test_the_command_with_a_pair_and_two_languages(arguments, run, tmp_path, tiny_folder):
    arguments += ["--val", arguments[2], "--pooler", "cls", "--to", "zh=2,ja=1"]
    code, stdout, stderr = run(*arguments, "--teacher", tiny_folder)
    assert code == 0, stderr
    assert "(16 candidates, 32 queries)" in stdout
    assert "zh       recall@1" in stdout
    assert "16 of the candidates were learnt from, too" in stdout
    encoder = Encoder.from_pretrained(tmp_path / "out" / "model", device="cpu")
    image = encoder.encode_image(pictures())
    assert encoder.encode_text(["狗"]).shape == (1, image.shape[1])
    assert encoder.checkpoint.config.pooler == "cls"


def test_the_command_says_what_is_wrong(arguments, run, tmp_path):
    for more, wrong in [
        (("--to", "fr"), "expected a field 'fr'"),
        (("--teacher", "nowhere"), "got 'nowhere'"),
        (("--student", "huge"), "expected a size (tiny, mini"),
    ]:
        code, _, stderr = run(*arguments, *more)
        assert code == 1
        assert wrong in stderr.replace("\n", " ")
    assert not (tmp_path / "out").exists()
    for wrong in ("zh=x", "", "zh=2,ja"):
        code, _, stderr = run(*arguments, "--to", wrong)
        assert code == 2
        assert "expected languages like" in stderr


def test_help_by_path():
    script = Path(__file__).parents[1] / "scripts" / "distill_text.py"
    command = [sys.executable, script, "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "clip-text train distill captions.jsonl" in done.stdout
