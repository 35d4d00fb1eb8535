"""Every command on a model of another library: index, search, serve, evaluate, info."""

import json

import numpy as np
import pytest
from fakes import save_picture
from fastapi.testclient import TestClient
from library_models import quiet, write_open_clip, write_sentence_transformers, write_transformers

from clip_text import load_encoder
from clip_text.model_info import describe_model
from clip_text_cli.serving import Opener
from retrieval.search import Searcher
from retrieval.service.app import create_app


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Names as users write them, by library."""
    root = tmp_path_factory.mktemp("models")
    write_open_clip(root / "open")
    quiet(lambda: write_transformers(root / "siglip2", "siglip2"))
    quiet(lambda: write_sentence_transformers(root / "words", "text"))
    return {
        "open_clip": f"open_clip:{root / 'open'}",
        "transformers": str(root / "siglip2"),  # told by its files
        "halves": f"text=sentence_transformers:{root / 'words'},image=open_clip:{root / 'open'}",
        "texts": f"sentence_transformers:{root / 'words'}",
    }


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, size in enumerate([(60, 40), (9, 31), (33, 33)]):
        save_picture(folder / f"{i}.png", size=size, seed=i)
    return folder


@pytest.mark.parametrize("library", ["open_clip", "transformers", "halves"])
def test_an_index_is_built_searched_and_refused_by_another_model(
    library, models, photos, tmp_path, run
):
    store = tmp_path / "store"
    model = ["--index", store, "--model", models[library]]
    code, out, err = run("index", photos, *model, "--json")
    assert (code, json.loads(out)["added"]) == (0, 3), err
    code, out, err = run("search", "一只狗", *model, "--json", "--top-k", 3)
    assert code == 0, err
    hits = json.loads(out)["hits"]
    encoder = load_encoder(models[library])
    files = [photos / f"{i}.png" for i in range(3)]
    scores = encoder.encode_image(files) @ encoder.encode_text(["一只狗"])[0]
    assert [hit["image_id"] for hit in hits] == [f"{i}.png" for i in np.argsort(-scores)]
    np.testing.assert_allclose([hit["score"] for hit in hits], -np.sort(-scores), atol=1e-3)
    other = models["open_clip" if library != "open_clip" else "transformers"]
    code, _, err = run("search", "狗", "--index", store, "--model", other)
    assert code == 1
    assert "model" in err


def test_the_service_answers_by_it(models, photos, tmp_path, run):
    store = tmp_path / "store"
    run("index", photos, "--index", store, "--model", models["transformers"])
    served = Opener({"index": {"pictures": str(store)}, "model": models["transformers"]}, None)()
    with TestClient(create_app(*served), base_url="http://localhost") as client:
        found = client.post("/v1/search", json={"query": "一只狗"}).json()
        assert len(found["hits"]) == 3
        row = client.post("/v1/embeddings", json={"model": "siglip2", "input": "一只狗"}).json()
    expected = load_encoder(models["transformers"]).encode_text(["一只狗"])[0]
    np.testing.assert_allclose(row["data"][0]["embedding"], expected, atol=1e-5)


def test_fewer_dimensions_are_found_by_the_index(models, photos, tmp_path, run):
    store = tmp_path / "store"
    model = ["--index", store, "--model", models["open_clip"]]
    run("index", photos, *model, "--dimensions", 8)
    code, out, err = run("search", "狗", *model, "--json")
    assert code == 0, err
    assert len(json.loads(out)["hits"]) == 3
    cut = load_encoder(models["open_clip"], dimensions=8)
    with Searcher.open(store, cut) as searcher:
        assert len(searcher.search("狗", 5)) == 3


def test_it_is_measured_as_any_other(models, photos, tmp_path, run):
    lines = [{"image": f"{i}.png", "zh": text} for i, text in enumerate(["狗", "猫", "花"])]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    kinds = ["--images", photos, "--kind", "zh"]
    model = ["--model", models["halves"], "--json"]
    code, out, err = run("evaluate", "retrieval", data, *kinds, *model, "--against", "starter")
    assert code == 0, err
    told = json.loads(out)
    assert told["t2i_queries"] == 3
    assert told["model"] == models["halves"]
    code, out, err = run("evaluate", "languages", data, *kinds, *model)
    assert code == 0, err
    assert json.loads(out)["zh_unknown"] is None


def test_info_tells_of_it(models, run):
    code, out, err = run("info", models["transformers"], "--json", "--measure")
    assert code == 0, err
    told = json.loads(out)
    assert told["format"] == "transformers' Siglip2Model"
    assert (told["embed_dim"], told["context_length"], told["contract"]) == (32, 24, None)
    assert told["fingerprint"] == load_encoder(models["transformers"]).fingerprint
    assert "max_num_patches 16" in told["looks"]
    assert told["bytes"] > 10_000
    assert all(each["milliseconds"]["torch"][0] > 0 for each in told["runtimes"].values())
    code, out, _ = run("info", models["texts"])
    assert code == 0
    assert "pictures         it reads none" in out
    assert "image" not in told["name"]
    whole = describe_model(models["open_clip"])
    assert whole.parameters == sum(
        each.numel() for each in load_encoder(models["open_clip"]).model.text.module.parameters()
    )


def test_what_needs_our_tokeniser_says_so(models, tmp_path, run):
    texts = tmp_path / "texts.txt"
    texts.write_text("狗\n", encoding="utf-8")
    code, _, err = run("tokens", texts, "--model", models["open_clip"])
    assert code == 1
    assert "expected a model with this package's tokeniser" in " ".join(err.split())


def test_texts_alone_index_no_pictures(models, photos, tmp_path, run):
    code, _, err = run("index", photos, "--index", tmp_path / "store", "--model", models["texts"])
    assert code == 1
    assert "reads pictures, got sentence_transformers:" in " ".join(err.split())
