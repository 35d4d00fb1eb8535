"""``clip-text embed``, and ``clip-text index`` of what it wrote."""

import json
from functools import partial

import pytest
from fakes import FakeEncoder, as_stored, save_picture

from clip_text.errors import MissingPackageError
from clip_text_cli import wiring
from retrieval.catalogue import Catalogue

pytest.importorskip("pyarrow")


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
    one = FakeEncoder()
    monkeypatch.setattr(wiring, "load_encoder", lambda model, **_: one)
    return one


@pytest.fixture
def source(tmp_path):
    for seed in range(5):
        save_picture(tmp_path / "pictures" / f"{seed}.png", seed)
    return tmp_path / "pictures"


@pytest.fixture
def embed(run, source, tmp_path):
    """Run ``clip-text embed`` in one process; gives its JSON, and checks the exit code."""

    def call(*args, code=0):
        small = ("--shard-size", 2, "--workers", 1, "--json")
        found, out, err = run("embed", source, tmp_path / "out", *small, *args)
        assert found == code, err
        return json.loads(out) if code in (0, 3) else err

    return call


def test_shards_are_made_once_and_indexed_with_their_model(embed, run, source, encoder, tmp_path):
    told = embed()
    assert (told["shards"], told["rows"], told["encoded"], told["failed"]) == (3, 5, 5, 0)
    assert told["pictures_per_second"] > 0
    encoder.loaded.clear()
    told = embed()
    assert (told["done_before"], told["encoded"], encoder.loaded) == (3, 0, [])
    index = ("--index", tmp_path / "store")
    code, out, err = run("index", tmp_path / "out", *index, "--json")
    assert (code, json.loads(out)["added"], encoder.loaded) == (0, 5, []), err
    with Catalogue.open(tmp_path / "store") as catalogue:
        by_id = {one.picture.image_id: one for one in catalogue}
        assert set(by_id) == {f"{n}.png" for n in range(5)}
        row = by_id["3.png"].row
        stored = catalogue.features_of([row])[row]
    expected = as_stored(encoder.encode_file(source / "3.png"))
    assert (as_stored(stored) == expected).all()
    _, out, _ = run("search", "x", *index, "--json")
    assert {hit["path"] for hit in json.loads(out)["hits"]} == {
        str(source / f"{n}.png") for n in range(5)
    }


def test_another_model_is_refused_when_shards_are_indexed(embed, run, tmp_path, monkeypatch):
    embed()
    monkeypatch.setattr(wiring, "load_encoder", lambda *_, **__: FakeEncoder(fingerprint="fake-2"))
    code, _, err = run("index", tmp_path / "out", "--index", tmp_path / "store")
    assert code == 2
    assert "expected the model of the features" in " ".join(err.replace("│", " ").split())


def test_shards_that_are_not_all_done_are_not_indexed(embed, run, tmp_path):
    embed()
    (tmp_path / "out" / "done" / "shard-000001.json").unlink()
    code, _, err = run("index", tmp_path / "out", "--index", tmp_path / "store")
    assert code == 1
    assert "got no whole shard-000001" in err


def test_pictures_set_aside_are_told_of_by_the_exit_code(embed, run, source, tmp_path):
    (source / "5.png").write_bytes(b"no picture")
    told = embed(code=3)
    assert told["failures"] == [
        {"id": "5.png", "reason": "expected a picture, got 10 other bytes."}
    ]
    code, out, _ = run("embed", source, tmp_path / "out", "--workers", 1)
    assert code == 3
    assert "5 features in 3 shards, 3 of them before: nothing to do" in out
    assert "5.png: expected a picture" in out


def test_what_is_asked_for_otherwise_than_before_is_one_line(embed):
    embed()
    err = embed("--dtype", "float16", code=1)
    assert "dtype of" in err
    assert "Traceback" not in err


def test_an_address_without_ray_is_refused(embed):
    assert "without --engine ray" in " ".join(embed("--address", "auto", code=2).split())


def test_a_missing_package_is_named(embed, monkeypatch):
    import clip_text.embedding.ray as engine

    def missing():
        raise MissingPackageError("Run: pip install 'clip-text[ray]'.")

    monkeypatch.setattr(engine, "_ray", missing)
    assert "pip install 'clip-text[ray]'" in embed("--engine", "ray", code=1)


def test_ray_missing_says_how_to_install_it(monkeypatch):
    import sys

    import clip_text.embedding.ray as engine

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'clip-text\[ray\]'"):
        partial(engine.RayActors, 1)()
