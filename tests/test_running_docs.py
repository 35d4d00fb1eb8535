"""docs/service_running.md: its block runs, and what it names is there."""

import re
import shutil
from pathlib import Path

import pytest
from test_readme import blocks_of, run_in_bash

from clip_text_cli.serve_config import ServeConfig

ROOT = Path(__file__).parents[1]
PAGE = "docs/service_running.md"
(BLOCK,) = [text for language, text in blocks_of(PAGE) if language == "bash"]


@pytest.mark.slow
def test_the_block_runs(tmp_path, monkeypatch):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    monkeypatch.delenv("CLIP_TEXT_RUNTIME", raising=False)
    (tmp_path / "retrieval").symlink_to(ROOT / "retrieval")
    output = run_in_bash(BLOCK, tmp_path)
    assert re.search(r'"hits":\[\{"rank":1,', output)
    shown = next(text for _, text in blocks_of(PAGE) if text.startswith("port = "))
    for line in shown.splitlines():
        assert line in output.splitlines()


def test_fields_and_files_that_it_names_are_there():
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    table = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    fields = [name for cell in table for name in re.findall(r"`(\w+)`", cell)]
    assert len(fields) > 15
    assert set(fields) <= set(ServeConfig.model_fields)
    files = re.findall(r"`(deploy/[\w.-]+)`", text)
    assert len(set(files)) == 7
    assert all((ROOT / name).is_file() for name in files)
    targets = re.findall(r"\]\(([\w.]+\.md)(?:#[\w-]+)?\)", text)
    assert targets
    assert all((ROOT / "docs" / target).is_file() for target in targets)
