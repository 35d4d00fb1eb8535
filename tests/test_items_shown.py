"""Hits without a file: in a table, as JSON, on a sheet and over HTTP."""

import asyncio
import json

import httpx
import pytest
from fakes import FakeEncoder, save_picture
from PIL import Image

from clip_text_cli import wiring
from retrieval.ingest import IndexWriter
from retrieval.search import Searcher
from retrieval.service.app import create_app
from retrieval.sheet import contact_sheet

ENCODER = FakeEncoder()


@pytest.fixture
def index_dir(tmp_path):
    files = [save_picture(tmp_path / f"{i}.png", i) for i in range(2)]
    with IndexWriter.open(tmp_path / "index", ENCODER) as writer:
        writer.add("[kept] 0", path=files[0])
        writer.add("[sent] 1", data=files[1].read_bytes(), caption="一只猫")
    return tmp_path / "index"


def test_on_the_command_line(run, index_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(wiring, "load_encoder", lambda model, **_: ENCODER)
    code, out, err = run("search", "猫", "--index", index_dir, "--sheet", tmp_path / "sheet.png")
    assert code == 0
    assert str(tmp_path / "0.png") in "".join(out.split())  # long ones go over several lines
    assert "[sent] 1" in out  # in the place of a path
    assert "missing" not in out + err
    _, out, _ = run("search", "猫", "--index", index_dir, "--json")
    hits = {hit["image_id"]: hit for hit in json.loads(out)["hits"]}
    assert hits["[kept] 0"]["path"] == str(tmp_path / "0.png")
    assert (hits["[sent] 1"]["path"], hits["[sent] 1"]["missing"]) == (None, False)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 300


def test_on_a_sheet_its_id_stands_for_the_picture(index_dir, tmp_path):
    with Searcher.open(index_dir, ENCODER) as searcher:
        hits = searcher.search("猫", 2)
    drawn = []
    for hit in hits:
        contact_sheet([("猫", [hit])], tmp_path / f"{hit.row}.png")
        with Image.open(tmp_path / f"{hit.row}.png") as sheet:
            drawn.append(sheet.convert("RGB").tobytes())
    assert drawn[0] != drawn[1]


def test_over_http_it_is_found_but_cannot_be_fetched(index_dir):
    async def ask(method, url, **options):
        transport = httpx.ASGITransport(create_app(searcher))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, url, **options)

    with Searcher.open(index_dir, ENCODER) as searcher:
        found = asyncio.run(ask("POST", "/v1/search", json={"query": "猫"})).json()
        hits = {hit["image_id"]: hit for hit in found["hits"]}
        kept, sent = hits["[kept] 0"], hits["[sent] 1"]
        assert (sent["caption"], sent["missing"]) == ("一只猫", False)
        assert asyncio.run(ask("GET", kept["thumbnail_url"])).status_code == 200
        for url in (sent["image_url"], sent["thumbnail_url"]):
            answer = asyncio.run(ask("GET", url))
            assert answer.status_code == 404
            assert "whose picture has a file" in answer.json()["error"]["message"]
