"""The examples of docs/training.md train, on a handful of lines each."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
from pictures_data import coloured

from clip_text import Encoder, training
from clip_text.checkpoints import load_answers, load_entities
from clip_text.training.masked_models import load_masked_lm

TEXT = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
BLOCKS = {
    re.search(r"\btrain_\w+", block)[0]: block
    for block in re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
}
WRITTEN = {  # what the example of each writes, and what reads that
    "train_contrastive": ("pairs", Encoder.from_pretrained),
    "train_classifier": ("reviews", lambda out: Encoder.from_pretrained(out).classify(["好"])),
    "train_entities": ("names", load_entities),
    "train_answers": ("questions", load_answers),
    "train_pairs": (
        "same",
        lambda out: Encoder.from_pretrained(out).classify_pairs([("狗在跑", "猫")]),
    ),
    "train_distillation": ("french", Encoder.from_pretrained),
    "train_masked_lm": ("field", load_masked_lm),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All files that the examples name."""
    folder = tmp_path_factory.mktemp("docs")
    coloured(folder, "photos", 1, 0)
    coloured(folder, "val", 1, 1)
    reviews = "".join(f"很好吃{at},好评\n太难吃{at},差评\n" for at in range(10))
    lines = {
        "reviews.csv": "text,label\n" + reviews,
        "same.tsv": "".join(
            f"第{at}只狗\t第{at}只{'狗猫'[at % 2]}\t{at % 2}\n" for at in range(20)
        ),
        "names.jsonl": "".join(
            json.dumps(
                {"text": f"{name}住在北京。", "entities": [{"start": 0, "end": 2, "label": "人"}]}
            )
            + "\n"
            for name in ("小明", "小红", "小强", "小丽") * 3
        ),
        "translations.jsonl": "".join(
            json.dumps({"zh": f"{colour}{thing}", "fr": f"{thing} {colour} x"}) + "\n"
            for colour in "红绿蓝黄黑"
            for thing in "狗猫鸟鱼"
        ),
        "field.txt": "\n".join(
            f"第{at}只红色的小狗在草地上跑，绿色的小鸟在天上看。" for at in range(40)
        ),
    }
    passages = [f"{name}住在北京，今年八岁。" for name in ("小明", "小红", "小强")]
    asked = [{"text": passage[:2], "answer_start": 0} for passage in passages]
    paragraphs = [
        {
            "context": passage,
            "qas": [{"id": str(at), "question": "谁住在北京？", "answers": [answer]}],
        }
        for at, (passage, answer) in enumerate(zip(passages, asked, strict=True))
    ]
    lines["questions.json"] = json.dumps({"data": [{"paragraphs": paragraphs}]})
    for name, text in lines.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def run(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    names = {}
    exec(compile(BLOCKS[name], f"docs/training.md: {name}", "exec"), names)
    return names["trained"]


def test_there_is_an_example_of_each_of_at_most_eight_lines():
    functions = {name for name in training.__all__ if name.startswith("train_")}
    assert BLOCKS.keys() == functions == WRITTEN.keys()
    assert len(functions) == 7
    for block in BLOCKS.values():
        assert len(block.splitlines()) <= 8


@pytest.mark.parametrize("name", BLOCKS)
def test_the_example_trains_and_goes_on_where_it_was(name, folder, monkeypatch, capsys):
    trained = run(name, folder, monkeypatch)
    assert trained.metrics
    assert all(math.isfinite(value) for value in trained.metrics.values())
    out, read = WRITTEN[name]
    read(out)
    place = folder / f"{out}.run"
    assert json.loads((place / "report.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(trained.report)
    )
    (end,) = place.rglob("finished.safetensors")
    written = end.stat().st_mtime_ns
    for checkpoint in place.rglob("checkpoint-*"):
        shutil.rmtree(checkpoint)  # at its end a run needs none
    again = run(name, folder, monkeypatch)
    assert {**again.report, "minutes": 0} == {**trained.report, "minutes": 0}
    assert again.metrics == trained.metrics
    assert end.stat().st_mtime_ns == written, "nothing was trained again"
    printed = capsys.readouterr().out
    assert printed.count("\n") == 2  # of the examples, not of the library
