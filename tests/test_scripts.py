"""What is run by path from a checkout behaves like the command."""

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from clip_text_cli.main import app

ROOT = Path(__file__).parents[1]
RUN_BY_PATH = [
    file for file in sorted((ROOT / "scripts").glob("*.py")) if "__main__" in file.read_text()
]
TRAINING = {
    "train_contrastive.py": "contrastive",
    "train_classifier.py": "classifier",
    "train_ner.py": "ner",
    "train_pairs.py": "pairs",
    "train_qa.py": "qa",
    "distill_text.py": "distill",
    "pretrain_mlm.py": "mlm",
}


def run(script, *arguments, folder=ROOT):
    return subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def run_here(monkeypatch, capsys):
    """Run a script as :func:`run` does, in this process, which has loaded torch."""

    def call(script, *arguments, folder=ROOT):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(script), run_name="__main__")
        told = capsys.readouterr()
        return SimpleNamespace(returncode=stop.value.code or 0, stdout=told.out, stderr=told.err)

    return call


@pytest.mark.parametrize("script", RUN_BY_PATH, ids=lambda file: file.name)
def test_every_script_has_help_with_an_example(script, tmp_path, run_here):
    loads_torch = "\nimport torch" in script.read_text()
    done = (run_here if loads_torch else run)(script, "--help", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage:" in done.stdout
    assert "Example" in done.stdout


def test_every_training_command_has_its_script():
    commands = typer.main.get_command(app).commands["train"].commands
    assert set(TRAINING.values()) == set(commands)
    assert set(TRAINING) <= {script.name for script in RUN_BY_PATH}


def check_error(run, script, folder):
    more = ["--from", "en", "--to", "zh"] if script == "distill_text.py" else []
    done = run(ROOT / "scripts" / script, "nowhere.jsonl", *more, "--out", "m", folder=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "nowhere.jsonl" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(folder.iterdir())


@pytest.mark.parametrize("script", TRAINING)
def test_an_error_is_one_line(script, tmp_path, run_here):
    check_error(run_here, script, tmp_path)


@pytest.mark.parametrize(
    "script",
    [  # all are the same few lines; each takes seconds to import torch
        script if name == "classifier" else pytest.param(script, marks=pytest.mark.slow)
        for script, name in TRAINING.items()
    ],
)
def test_an_error_is_one_line_in_a_process_of_its_own(script, tmp_path):
    check_error(run, script, tmp_path)
