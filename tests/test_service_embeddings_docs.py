"""The blocks of docs/service_embeddings.md and docs/client.md run; the pages name what there is."""

import re
import shutil
from pathlib import Path

import httpx
import pytest
from fakes import FakeEncoder, save_picture
from listening import listening
from test_readme import blocks_of, folder, run_in_bash  # noqa: F401  a fixture

import clip_text_client
from retrieval.ingest import index_folder
from retrieval.search import Searcher
from retrieval.service.app import Served, create_app
from retrieval.service.messages.embeddings import (
    MAX_INPUTS,
    MAX_PICTURES,
    MAX_TEXT_CHARACTERS,
    EmbeddingsRequest,
)
from retrieval.service.settings import DEFAULTS

PAGES = ("docs/service_embeddings.md", "docs/client.md")
PYTHON = [(page, text) for page in PAGES for kind, text in blocks_of(page) if kind == "python"]
SHELL = [text for kind, text in blocks_of(PAGES[0]) if kind == "bash"]
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    base = tmp_path_factory.mktemp("docs")
    for number in range(3):
        save_picture(base / "p" / f"{number}.png", seed=number)
    index_folder(base / "p", base / "index", FakeEncoder())
    encoder = FakeEncoder()
    with Searcher.open(base / "index", encoder) as searcher:
        app = create_app(Served(searcher, encoder=encoder, index_dir=base / "index"))
        with listening(app) as address:
            yield address


@pytest.mark.parametrize(("page", "block"), PYTHON)
def test_python_block_runs(page, block, address, tmp_path, monkeypatch):
    if "images=" in block:
        paths = httpx.get(f"{address}/openapi.json", trust_env=False).json()["paths"]
        if "/v1/search/upload" not in paths:
            pytest.skip("this service takes no pictures yet")
        block = block.replace(", where='not tags = \"截图\"'", "")  # these pictures have no tags
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    save_picture(tmp_path / "dog.webp", seed=5)
    said = block.replace("http://127.0.0.1:8000", address)
    said = said.replace("Client()", f'Client("{address}")')
    assert address in said
    exec(compile(said, page, "exec"), {})


@pytest.mark.slow
@pytest.mark.parametrize("block", SHELL, ids=["serve"])
def test_shell_block_runs(block, folder):  # noqa: F811
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    said = run_in_bash(block, folder)
    assert '"embedding":[' in said
    assert '"text":"american-football-stadium","kind":"name"' in said


def test_the_page_names_what_requests_may_say():
    page = (ROOT / PAGES[0]).read_text(encoding="utf-8")
    for name in EmbeddingsRequest.model_fields:
        assert f"`{name}`" in page or f'"{name}":' in page or f'"{name}": true' in page, name
    for limit in (MAX_INPUTS, MAX_PICTURES, MAX_TEXT_CHARACTERS, DEFAULTS.suggestions):
        assert f"{limit:,}" in page
    assert f"{DEFAULTS.batch} texts by default" in page


def test_the_page_names_every_method_and_error_of_the_client():
    page = (ROOT / PAGES[1]).read_text(encoding="utf-8")
    methods = [name for name in vars(clip_text_client.Client) if not name.startswith("_")]
    for name in methods:
        assert re.search(rf"`{name}\(", page) or name == "close", name
    for name in clip_text_client.__all__:
        assert not name.endswith("Error") or f"`{name}`" in page, name
