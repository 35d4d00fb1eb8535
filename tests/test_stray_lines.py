"""What commands print is theirs: no notice, warning or bar of another library."""

import json
import os
import re
import subprocess
import sys

import pytest
from pictures_data import coloured
from test_entities import TEXTS as SENTENCES
from test_entities import lesson

from clip_text.data.tags import spell
from clip_text.training.trainer import KEPT, step_of

PROGRAM = """
import json, sys
sys.path.insert(0, {root!r})
from clip_text_cli.main import main
for words in json.load(sys.stdin):
    sys.argv = ["clip-text", *words]
    try:
        main()
    except SystemExit as stop:
        if stop.code:
            raise
    sys.stderr.write("\\x1e")
"""
OURS = {
    "contrastive": r"(learning from|warning: measured|before training:|text, step|\d+% of the way)",
    "ner": r"(\d+ texts to learn from|\d+ epochs of|  step )",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lines")
    coloured(folder, "train", 3, 0)
    coloured(folder, "val", 2, 1)
    tagged = [
        {"text": list(text), "label": spell(len(text), lesson(text).entities)} for text in SENTENCES
    ]
    (folder / "names.jsonl").write_text("\n".join(map(json.dumps, tagged * 4)), encoding="utf-8")
    return folder


def told(folder, root, commands):
    """What each of some commands writes to stderr, run from another folder as a user would."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(root=str(root))],
        input=json.dumps([list(map(str, words)) for words in commands]),
        env=environment | {"COLUMNS": "200", "HF_HUB_OFFLINE": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *told_by_each, rest = done.stderr.split("\x1e")
    assert rest == ""
    return [lines.splitlines() for lines in told_by_each]


@pytest.fixture(scope="module")
def told_by(folder, tiny_folder, pytestconfig):
    """What each command told, by its name."""
    data = {
        "contrastive": ["train.jsonl", "--val", "val.jsonl", "--lr", "1e-3", "--epochs", 2],
        "ner": ["names.jsonl", "--val", "names.jsonl", "--epochs", 4, "--export", "exported"],
    }
    commands = [
        ["train", name, *options, "-m", tiny_folder, "--out", f"{name}-model"]
        for name, options in data.items()
    ]
    return dict(zip(data, told(folder, pytestconfig.rootpath, commands), strict=True))


@pytest.mark.parametrize("name", OURS)
def test_nothing_is_said_that_is_not_ours(name, told_by):
    assert told_by[name]
    for line in told_by[name]:
        assert re.match(OURS[name], line), line


@pytest.mark.usefixtures("told_by")
def test_of_many_checkpoints_the_newest_and_the_best_stay(folder):
    runs = {path.parent for path in folder.glob("**/checkpoint-*")}
    assert len(runs) == 2
    for run in runs:
        steps = sorted(map(step_of, run.glob("checkpoint-*")))
        state = json.loads((run / f"checkpoint-{steps[-1]}/trainer_state.json").read_text())
        assert len(steps) == KEPT
        assert state["global_step"] == steps[-1] > KEPT
        assert step_of(run / state["best_model_checkpoint"]) in steps
