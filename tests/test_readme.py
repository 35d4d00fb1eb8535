"""Every block of the README runs: Python as doctest, shell in bash; README.zh.md has the same."""

import doctest
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README.zh.md")


def blocks_of(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


BLOCKS = blocks_of("README.md")
SHELL = [text for language, text in BLOCKS if language == "bash"]
MAKE = [text for text in SHELL if text.startswith("make ")]
RUN = [text for text in SHELL if text not in MAKE]
# as our commands alone, these need no shell
PLAIN = re.compile(r"(?:(?:clip-text|python scripts/\w+\.py)( [^|&;<>$\\\n]+)\n)+")
SERVICE = [text for language, text in blocks_of("docs/service.md") if language == "bash"]


def test_readme_has_blocks_of_each_kind():
    assert {language for language, _ in BLOCKS} == {"bash", "python", ""}
    assert len(MAKE) == 1, "the two commands stand together, once"


def test_both_languages_have_the_same_blocks_figures_and_links():
    ours, theirs = ([block for block in blocks_of(name) if block[0]] for name in READMES)
    assert ours == theirs, "what runs in one runs in the other"
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in READMES]
    for pattern in (r"\d+\.\d+%", r"\(docs/\w+\.md\)", r"clip-text\[[\w-]+\]", r"`[\w/]+\.md`"):
        first, second = (sorted(set(re.findall(pattern, text))) for text in texts)
        assert first == second, pattern
    for name, other in zip(READMES, READMES[::-1], strict=True):
        head = (ROOT / name).read_text(encoding="utf-8").split("\n")[:3]
        assert f"({other})" in head[2]


def test_links_lead_somewhere():
    for name in READMES:
        text = (ROOT / name).read_text(encoding="utf-8")
        targets = re.findall(r"\]\((?!http)([^)#]+)\)", text)
        assert targets
        assert [target for target in targets if not (ROOT / target).exists()] == []


def test_python_block_prints_what_it_says(monkeypatch):
    monkeypatch.chdir(ROOT)
    source = "".join(text for language, text in BLOCKS if language == "python")
    example = doctest.DocTestParser().get_doctest(source, {}, "README", "README.md", 0)
    assert len(example.examples) == 6
    result = doctest.DocTestRunner().run(example)
    assert result.failed == 0


@pytest.mark.parametrize("command", MAKE[0].split("\n")[:-1])
def test_the_two_commands_are_make_targets(command):
    # `make test` would run this test again; what demo does is tested in test_installed.py
    dry = subprocess.run(
        [*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {"demo": "clip-text demo", "test": "pytest"}[command.split()[1]] in dry.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all blocks, as for a reader; what they write stays out of the tree."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("scripts", "retrieval", "clip_text"):
        (folder / name).symlink_to(ROOT / name)
    return folder


BLOCKS_RUN = [*RUN, *(pytest.param(block, marks=pytest.mark.slow) for block in SERVICE)]


@pytest.fixture(autouse=True)
def as_users_machines_compute(monkeypatch):
    monkeypatch.delenv("CLIP_TEXT_RUNTIME", raising=False)


@pytest.mark.parametrize("block", BLOCKS_RUN, ids=lambda block: block.split("\n")[0])
def test_shell_block_runs(block, folder, run, monkeypatch):
    if "curl " in block and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    searches = "--index my.index" in block and "clip-text index" not in block
    if searches and not (folder / "my.index").exists():  # whichever test comes first
        built = next(line for line in "".join(RUN).split("\n") if "--index my.index" in line)
        block = f"{built}\n{block}"
    if PLAIN.fullmatch(block):  # one after the other in this process, which has loaded torch
        monkeypatch.chdir(folder)
        for line in block.splitlines():
            run_line(line, run, monkeypatch)
        return
    output = run_in_bash(block, folder)
    if "curl " in block:
        assert '"hits"' in output


def run_line(line, run, monkeypatch):
    """Run a line of ours as if it had been typed."""
    program, *words = shlex.split(line)
    if program == "clip-text":
        code, out, err = run(*words)
        assert code == 0, out + err
        return
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(words[0], run_name="__main__")
    assert not stop.value.code, line


def run_in_bash(block, folder):
    scripts = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": scripts + os.pathsep + os.environ["PATH"]}
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", "set -m\n" + block],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
