"""What docs/service_safety.md says is so."""

import re
import shlex
from pathlib import Path

import pytest

from retrieval.service.key_file import SCOPES, read_keys
from retrieval.service.settings import DEFAULTS, Settings

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "service_safety.md").read_text(encoding="utf-8")
SOURCES = "".join(
    path.read_text(encoding="utf-8") for path in (ROOT / "retrieval" / "service").rglob("*.py")
)


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_its_blocks_run(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (shell,) = blocks("bash")
    for line in shell.splitlines():
        program, *words = shlex.split(line)
        assert program == "clip-text"
        code, out, err = run(*words)
        assert code == 0, out + err
    assert [key.name for key in read_keys(Path("keys.toml")).keys] == ["page"]
    (python,) = blocks("python")
    said: dict = {}
    exec(compile(python, "docs/service_safety.md", "exec"), said)
    assert [key.name for key in read_keys(Path("keys.toml")).keys] == ["page", "robot"]
    assert said["settings"].rate == "600/minute"


def test_scopes_and_types_are_those_that_there_are():
    assert tuple(re.findall(r"^\| `(\w+)` \| [^|]+ \|$", PAGE, re.MULTILINE)) == SCOPES
    types = re.findall(
        r"`(\w+)`", "".join(re.findall(r"^\| \d{3} \|([^|]+)\|", PAGE, re.MULTILINE))
    )
    assert len(types) >= 11
    for each in types:
        assert f'"{each}"' in SOURCES, each


@pytest.mark.parametrize(
    ("setting", "default"), re.findall(r"^\| `(\w+)` \| ([^|]+) \| [^|]+ \|$", PAGE, re.MULTILINE)
)
def test_defaults_are_as_it_says(setting, default):
    value = getattr(DEFAULTS, setting)
    number = re.match(r"([\d,]+)(?: ([KM])iB)?", default)
    unit = {"K": 1024, "M": 1024**2, None: 1}
    said = None if number is None else int(number[1].replace(",", "")) * unit[number[2]]
    assert said == value


def test_settings_that_it_names_are_there():
    assert "fetch_bytes` (16 MiB)" in PAGE
    assert DEFAULTS.fetch_bytes == 16 * 1024**2
    assert f"`fetch_s` ({DEFAULTS.fetch_s:g} seconds)" in PAGE
    ours = {"keys", "session_s", "rate", "allowed_hosts", "cors_origins", "fetch_images", "log"}
    assert ours <= set(Settings.model_fields)
    assert all(f"`{name}`" in PAGE for name in ours)
