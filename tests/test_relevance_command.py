"""``clip-text index calibrate``, and what ``search`` and the service say of probabilities."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEncoder, save_picture

from clip_text_cli import wiring
from retrieval.catalogue import Catalogue
from retrieval.ingest import index_folder
from retrieval.search import Calibration, Searcher
from retrieval.search.relevance import Logistic, calibration_of, store_calibration

COUNT = 240


class Knowing(FakeEncoder):
    """Knows which picture a caption is of, not quite; of other texts, nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def _text_row(self, text):
        file = self.folder / f"{text.removeprefix('图 ')}.png"
        noise = super()._text_row(text)
        if not file.exists():
            return noise
        row = self.encode_file(file) + 0.6 * noise
        return row / np.linalg.norm(row)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures with a caption each, all but the first ten of them indexed."""
    folder = tmp_path_factory.mktemp("data")
    lines = []
    for i in range(COUNT):
        save_picture(folder / "images" / f"{i:03}.png", i)
        lines.append(json.dumps({"image": f"{i:03}.png", "zh": [f"图 {i:03}"]}))
    (folder / "val.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for i in range(10, COUNT + 20):
        save_picture(folder / "photos" / f"{i:03}.png", i)
    index_folder(folder / "photos", folder / "index", Knowing(folder / "images"))
    return folder


@pytest.fixture(autouse=True)
def encoder(data, monkeypatch):
    encoder = Knowing(data / "images")
    monkeypatch.setattr(wiring, "load_encoder", lambda *_, **__: encoder)
    return encoder


@pytest.fixture
def index_dir(data):
    yield data / "index"
    store_calibration(data / "index", None)


def test_it_measures_stores_draws_and_encodes_only_what_is_new(
    run, data, index_dir, encoder, tmp_path
):
    command = ("index", "calibrate", data / "val.jsonl", "--index", index_dir)
    files = ("--plot", tmp_path / "reliability.png", "--out", tmp_path / "own.json")
    code, out, err = run(*command, *files)
    assert code == 0, err
    assert encoder.seen == 10
    for words in ("log-loss", "flat cosine", "Nothing matches below"):
        assert words in out
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
    with Catalogue.open(index_dir) as catalogue:
        stored = calibration_of(catalogue)
    assert stored == Calibration.from_json((tmp_path / "own.json").read_text(encoding="utf-8"))
    # 240 captioned pictures, and twenty that only the index has: a half, and no eighth
    assert (stored.queries, stored.sizes) == (COUNT, (130, 130))
    assert stored.fingerprint == encoder.fingerprint


def test_a_report_stores_nothing(run, data, index_dir):
    command = ("index", "calibrate", data / "val.jsonl", "--index", index_dir, "--report", "--json")
    code, out, _ = run(*command)
    told = json.loads(out)
    assert (code, told["stored"]) == (0, False)
    (half, pooled) = told["discrimination"]
    assert (half["size"], pooled["name"]) == (130, "all")
    assert half["probability"] == pytest.approx(pooled["probability"])
    assert half["probability"] > 0.75
    assert told["hit_reliability"]["error"] < 0.05
    with Catalogue.open(index_dir) as catalogue:
        assert catalogue.calibration is None
    _, out, _ = run(*command, "--alone")
    assert json.loads(out)["discrimination"][0]["size"] == COUNT // 2


CALIBRATION = Calibration(
    fingerprint="fake-1",
    hit=Logistic({"score": 10.0}, -5.0),
    answer=Logistic({"score": 20.0}, -14.0),
    nothing_below=0.3,
    fitted_on="made up",
    queries=1,
    sizes=(20, 20),
)


def test_search_tells_probabilities_and_that_nothing_matches(run, index_dir, encoder):
    search = ("search", "--index", index_dir, "-k", "3")
    store_calibration(index_dir, CALIBRATION)
    code, out, err = run(*search, "图 020")
    assert (code, out.split()[:4]) == (0, ["rank", "score", "path", "probability"])
    assert "nothing matches" not in err
    with Searcher.open(index_dir, encoder) as searcher:
        hits = searcher.search("图 020", 3)
    assert f"{hits[0].probability:.0%}" in out
    code, out, err = run(*search, "没有的东西")
    assert code == 0
    ranks = [line.split()[0] for line in out.splitlines() if line[:4].strip()]
    assert ranks == ["rank", "1", "2", "3"]  # the nearest are shown all the same
    assert "没有匹配 / nothing matches; these are the nearest" in err
    _, out, _ = run(*search, "没有的东西", "--json")
    told = json.loads(out)
    assert told["nothing_matches"] is True
    assert 0.0 < told["probability"] < 0.3
    assert all(0.0 < hit["probability"] < 1.0 for hit in told["hits"])


def test_hits_may_be_asked_for_by_their_probability(run, index_dir):
    search = ("search", "图 020", "--index", index_dir, "--json")
    code, _, err = run(*search, "--min-probability", "0.5")
    assert code == 2
    assert "clip-text index calibrate" in " ".join(err.split())
    store_calibration(index_dir, dataclasses.replace(CALIBRATION, nothing_below=0.0))
    _, out, _ = run(*search)
    everything = [hit["probability"] for hit in json.loads(out)["hits"]]
    least = (everything[0] + everything[1]) / 2
    _, out, _ = run(*search, "--min-probability", least)
    assert [hit["probability"] for hit in json.loads(out)["hits"]] == everything[:1]
    code, out, err = run("search", "图 020", "--index", index_dir, "--min-probability", "1")
    assert (code, len(out.split())) == (0, 3)
    assert "没有匹配 / nothing matches: the best hit" in err


def test_the_service_tells_them(index_dir, encoder):
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from retrieval.service.app import create_app

    store_calibration(index_dir, CALIBRATION)
    with Searcher.open(index_dir, encoder) as searcher, TestClient(create_app(searcher)) as client:
        found = client.post("/v1/search", json={"query": "没有的东西", "top_k": 2}).json()
        answer = searcher.answer("没有的东西", 2)
    assert found["nothing_matches"] is True
    assert found["probability"] == pytest.approx(answer.probability, abs=1e-4)
    assert [hit["probability"] for hit in found["hits"]] == pytest.approx(
        [hit.probability for hit in answer.hits], abs=1e-4
    )
