"""``clip-text index compact``, ``build`` and ``advise``, and what recipes they choose from."""

import json
import shutil

import numpy as np
import pytest
from fakes import FakeEncoder, save_picture

from clip_text_cli import wiring
from clip_text_cli.index.sealing import read_bytes
from retrieval.catalogue import CATALOGUE_NAME, Catalogue
from retrieval.index import (
    Recipe,
    Trial,
    best_of,
    choose_recipe,
    compact,
    open_index,
    try_recipes,
)
from retrieval.index.recipes import EXACT, factories
from retrieval.ingest import IndexWriter, index_folder
from retrieval.search import Searcher

ENCODER = FakeEncoder()


@pytest.fixture(autouse=True)
def fake_encoder(monkeypatch):
    monkeypatch.setattr(wiring, "load_encoder", lambda model, **_: ENCODER)


@pytest.fixture(scope="module")
def features():
    """Features around centres, and queries anywhere."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((50, 32))
    rows = centres[rng.integers(0, 50, 6000)] + rng.standard_normal((6000, 32))
    queries = rng.standard_normal((30, 32))
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (rows, queries)]
    return unit[0].astype(np.float16), unit[1].astype(np.float32)


def test_recipes_by_the_number_of_rows():
    assert choose_recipe(50_000, 512) == EXACT
    assert choose_recipe(50_001, 512) == Recipe("IVF447,PQ256x4fs", 89, 300)
    assert choose_recipe(1_000_000, 512) == Recipe("IVF2000,PQ256x4fs", 400, 300)
    assert choose_recipe(1_000_000, 511) == Recipe("IVF2000,SQfp16", 400, 32)


def test_each_recipe_is_measured_against_exact_search(features, monkeypatch):
    monkeypatch.setattr("retrieval.index.advisor._PROBES", (1, 4, 16))
    told = []
    trials = try_recipes(*features, on_trial=told.append)
    assert told == trials
    assert trials[0].recipe == EXACT
    assert (trials[0].recall, trials[0].memory) == (1.0, features[0].nbytes)
    for factory, _ in factories(6000, 32):
        own = [trial for trial in trials if trial.recipe.factory == factory]
        recalls = [trial.recall for trial in own]
        assert recalls == sorted(recalls)
        assert recalls[-1] >= 0.99
        assert recalls[0] < 1.0
        assert [trial.recipe.probes for trial in own] == [1, 4, 16, 154][: len(own)]
        assert all(0 < trial.p50_ms <= trial.p95_ms for trial in own)
    codes, fine = (
        next(trial.memory for trial in trials if kind in trial.recipe.factory)
        for kind in ("PQ", "SQ")
    )
    assert codes < fine / 2


def test_the_best_is_the_quickest_that_is_good_enough():
    trials = [
        Trial(EXACT, 1.0, 9.0, 10.0, 1000, 0.1),
        Trial(Recipe("a", 8, 1), 0.95, 1.0, 2.0, 200, 1.0),
        Trial(Recipe("a", 16, 1), 0.99, 2.0, 3.0, 200, 1.0),
        Trial(Recipe("b", 8, 1), 0.995, 1.5, 3.0, 2000, 1.0),
    ]
    assert best_of(trials, 0.9) is trials[1]
    assert best_of(trials, 0.99) is trials[3]
    assert best_of(trials, 0.99, memory=1000) is trials[2]
    assert best_of(trials, 1.0) is trials[0]
    assert best_of(trials, 1.0, memory=999) is None


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("500 mb", 5 * 10**8), ("1.5g", 15 * 10**8), ("7", 7), (None, None)],
)
def test_sizes_are_read(text, size):
    assert read_bytes(text) == size


# The commands


@pytest.fixture
def index_dir(tmp_path):
    for i in range(12):
        save_picture(tmp_path / "p" / f"{i:02}.png", i)
    lines = [json.dumps({"file_name": f"{i:02}.png", "caption": f"图{i}"}) for i in range(12)]
    (tmp_path / "p" / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    index_folder(tmp_path / "p", tmp_path / "index", ENCODER)
    return tmp_path / "index"


def sealed(index_dir):
    with Catalogue.open(index_dir) as catalogue:
        index, _ = open_index(index_dir, catalogue)
    return index.sealed, index.tail


def test_compact_seals_and_hits_stay(run, index_dir):
    with Searcher.open(index_dir, ENCODER) as searcher:
        before = searcher.search("猫")
    assert sealed(index_dir) == (0, 12)
    code, out, _ = run("index", "compact", "--index", index_dir)
    assert (code, "12 pictures sealed in" in out, "exact" in out) == (0, True, True)
    assert sealed(index_dir) == (12, 0)
    code, out, _ = run("index", "compact", "--index", index_dir, "--json")
    assert (code, json.loads(out)["pictures"]) == (0, 12)
    with Searcher.open(index_dir, ENCODER) as searcher:
        assert searcher.search("猫") == before


def test_build_takes_the_best_and_advise_tells_of_all(run, index_dir, tmp_path):
    code, out, err = run("index", "build", "--recall", 1.0, "--index", index_dir, "--json")
    assert (code, json.loads(out)["recall"]) == (0, 1.0), err
    assert sealed(index_dir) == (12, 0)
    (tmp_path / "asked.txt").write_text("猫\n\n狗\n猫\n", encoding="utf-8")
    arguments = ["--queries", tmp_path / "asked.txt", "--index", index_dir]
    code, out, _ = run("index", "advise", *arguments, "--draw", tmp_path / "a.png", "--json")
    trials = json.loads(out)
    assert (code, trials[0]["recipe"]["factory"], trials[0]["recall"]) == (0, "exact", 1.0)
    assert {trial["recipe"]["factory"][:3] for trial in trials[1:]} == {"IVF"}
    assert (tmp_path / "a.png").stat().st_size > 1000
    code, out, _ = run("index", "advise", *arguments)
    assert (code, "recall@10" in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["build", "--memory", "many"], "expected a size like 500MB or 2GB, got 'many'"),
        (["build", "--recall", "1.0", "--memory", "10"], "expected a recipe of recall 1.0 within"),
        (["advise", "--draw", "a.doc"], "expected a picture's name"),
    ],
)
def test_what_cannot_be_had_is_said(run, index_dir, arguments, told):
    code, _, err = run("index", *arguments, "--index", index_dir)
    assert (code > 0, told in err) == (True, True), err
    assert sealed(index_dir) == (0, 12)


def test_without_captions_or_pictures_queries_are_asked_for(run, tmp_path):
    with IndexWriter.open(tmp_path / "index", ENCODER) as writer:
        code, _, err = run("index", "advise", "--index", tmp_path / "index")
        assert (code, "expected pictures in the index, got none" in err) == (1, True)
        writer.add("a", feature=np.eye(16, dtype=np.float32)[0])
    code, _, err = run("index", "advise", "--index", tmp_path / "index")
    assert (code, "Name a file of them: --queries" in err) == (1, True)
    code, _, err = run("index", "compact", "--index", tmp_path / "none")
    assert (code, "expected an index in" in err) == (1, True)


def test_a_catalogue_put_back_from_a_copy_has_no_vectors_of_what_came_after(tmp_path, features):
    rows = features[0].astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index_dir, copy = tmp_path / "index", tmp_path / "copy.sqlite"
    made = {"fingerprint": "f", "embed_dim": 32}

    def add(*numbers):
        with IndexWriter.open(index_dir, **made) as writer:
            for number in numbers:
                writer.add(str(number), feature=rows[number])

    add(*range(5))
    shutil.copy(index_dir / CATALOGUE_NAME, copy)
    add(5, 6, 7)
    assert compact(index_dir).generation == 8
    shutil.copy(copy, index_dir / CATALOGUE_NAME)
    add(15, 16, 17, 18)  # generation 9, in rows that were of others
    with Catalogue.open(index_dir) as catalogue:
        index, generation = open_index(index_dir, catalogue)
        assert (generation, len(index), index.sealed) == (9, 9, 0)
        for row, page in [(6, 15), (7, 16), (9, 18)]:
            scores, found = index.search(rows[page][None], 1)
            assert (found[0, 0], scores[0, 0]) == (row, pytest.approx(1.0, abs=1e-3))
