"""What all tests share."""

import gc
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub reads it: no test downloads
# Before torch reads it. Threads of models so small wait for each other more than they compute, on
# a loaded machine many times more; what reads a thousand pictures asks for all cores itself.
os.environ["OMP_NUM_THREADS"] = "1"

# Tiny models are tested by plain torch; what tests other runtimes names them.
os.environ.setdefault("CLIP_TEXT_RUNTIME", "torch")

import pytest
from hypothesis import settings

# Longest first: with files dealt out whole, a long one at the end leaves the other workers idle.
LONGEST = (
    "test_installed.py",
    "test_page_album.py",
    "test_page.py",
    "test_page_looks.py",
    "test_readme.py",
    "test_adapters.py",
    "test_finetune.py",
    "test_stray_lines.py",
    "test_train_pairs.py",
    "test_head_commands.py",
    "test_formats.py",
    "test_base_installation.py",
    "test_training.py",
    "test_classification.py",
    "test_masked_lm.py",
    "test_output_encoding.py",
    "test_scripts.py",
    "test_ingest_crash.py",
)

# Nothing that an import makes is garbage, and every pass looks at all there is so far.
gc.disable()

# A loaded machine is slow, not wrong.
settings.register_profile("clip-text", deadline=None)
settings.load_profile("clip-text")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first."""
    turn = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: turn.get(item.path.name, len(turn)))


def pytest_collection_finish() -> None:
    """Leave what the imports made, millions of objects, out of all later collections.

    Each training asks for a full one, which takes most of a small model's training otherwise.
    """
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what runtimes compile and choose out of the user's cache."""
    os.environ["CLIP_TEXT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def folders_that_other_accounts_reach(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let tests that give up their rights come to the files they were given."""
    below = Path(tempfile.gettempdir()).resolve()
    base = tmp_path_factory.getbasetemp().resolve()
    for folder in (base, *base.parents):
        if below in folder.parents:
            folder.chmod(0o755)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved checkpoint of a tiny random model, in the ordinary format; do not write to it."""
    from models import shared_checkpoint

    from clip_text.checkpoints import save_checkpoint

    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    save_checkpoint(shared_checkpoint(), folder)
    return folder


@pytest.fixture
def run(monkeypatch, capsys):
    """Run ``clip-text ARGS``; returns exit code, stdout and stderr."""

    from clip_text_cli import main as cli

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["clip-text", *map(str, args)])
        monkeypatch.setenv("COLUMNS", "200")
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
