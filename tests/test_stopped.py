"""Ctrl-C: a line that says what to do, exit code 130, and what was committed stays."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import FakeEncoder, save_picture

from clip_text_cli import main
from retrieval.catalogue import Catalogue
from retrieval.ingest import index_folder

SAID = "stopped; the same command goes on from here\n"


def test_a_real_signal_while_indexing(tmp_path):
    for i in range(8):
        save_picture(tmp_path / "photos" / f"{i}.png", i)
    store = tmp_path / "store"
    here = Path(__file__).parent
    process = subprocess.Popen(
        [
            *(sys.executable, here / "stopped_process.py", "index", tmp_path / "photos"),
            *("--index", store, "--batch-size", "4"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(here.parent)},
    )
    assert process.stdout
    assert process.stdout.readline() == "second batch\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (main.STOPPED, "", SAID)
    with Catalogue.open(store) as catalogue:
        assert len(catalogue) == 4
    assert index_folder(tmp_path / "photos", store, FakeEncoder()).unchanged == 4


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("index .", SAID),
        ("index folder .", SAID),
        ("demo", SAID),
        ("index map --json", "stopped\n"),
        ("index duplicates", "stopped\n"),
        ("search x", "stopped\n"),
        ("data check .", "stopped\n"),
        ("tokens x", "stopped\n"),
    ],
)
def test_every_command_says_that_it_was_stopped(command, said, run, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    # the first thing each of them does of its own accord
    monkeypatch.setattr("clip_text_cli.wiring.load_encoder", stop)
    monkeypatch.setattr("clip_text.data.readers.read_retrieval_set", stop)
    monkeypatch.setattr("clip_text.tokenizer.Tokenizer.__init__", stop)
    monkeypatch.setattr("retrieval.overview.map_pictures", stop)
    monkeypatch.setattr("retrieval.overview.find_duplicates", stop)
    code, out, err = run(*command.split())
    assert (code, out, err) == (main.STOPPED, "", said)


def test_stopped_before_a_command_begins(capsys):
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="130"):
        main.run(stop)
    assert capsys.readouterr().err == SAID
