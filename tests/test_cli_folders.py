"""``clip-text index`` and ``search`` where folders moved, are gone, or are links."""

import json
import shutil

import pytest
from fakes import FakeEncoder, save_picture

from clip_text_cli import wiring


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
    monkeypatch.setattr(wiring, "load_encoder", lambda model, **_: FakeEncoder())


@pytest.fixture
def store(tmp_path):
    for i in range(3):
        save_picture(tmp_path / "photos" / f"{i}.png", i)
    return tmp_path / "store"


def report(run, *args):
    code, out, _ = run("index", *args, "--json")
    assert code == 0
    return json.loads(out)


def test_a_moved_folder_answers_from_its_new_place_alone(run, store, tmp_path):
    run("index", tmp_path / "photos", "--index", store)
    (tmp_path / "photos").rename(tmp_path / "moved")
    found = report(run, tmp_path / "moved", "--index", store)
    assert (found["moved"], found["total"], found["encoded"]) == (3, 3, 0)
    _, out, err = run("search", "x", "--index", store, "--json")
    hits = json.loads(out)["hits"]
    assert [hit["missing"] for hit in hits] == [False] * 3
    assert all(hit["path"].startswith(str(tmp_path / "moved")) for hit in hits)
    assert err == ""


def test_hits_whose_files_are_missing_are_marked(run, store, tmp_path):
    run("index", tmp_path / "photos", "--index", store)
    (tmp_path / "photos" / "1.png").unlink()
    _, out, _ = run("search", "x", "--index", store, "--json")
    missing = {hit["image_id"]: hit["missing"] for hit in json.loads(out)["hits"]}
    assert missing == {"0.png": False, "1.png": True, "2.png": False}
    _, out, err = run("search", "x", "--index", store)
    assert [line.split()[-2].rpartition("/")[2] for line in out.splitlines() if "(missing)" in line]
    assert out.count("(missing)") == 1
    assert "1 of these files are missing" in err


def test_folders_that_are_gone_are_offered_to_be_forgotten(run, store, tmp_path):
    run("index", tmp_path / "photos", "--index", store)
    shutil.rmtree(tmp_path / "photos")
    save_picture(tmp_path / "other" / "a.png", 9)
    code, out, _ = run("index", tmp_path / "other", "--index", store)
    assert code == 0
    assert "4 pictures in the index: 1 added" in out
    assert f"note: {tmp_path / 'photos'} is gone, with 3 pictures" in out
    assert "--prune" in out
    code, _, err = run("index", tmp_path / "photos", "--index", store)
    assert code == 1
    assert "--allow-empty" in err
    code, out, _ = run("index", tmp_path / "photos", "--allow-empty", "--index", store)
    assert code == 0
    assert out.startswith("1 pictures in the index: 3 removed")
    found = report(run, tmp_path / "other", "--index", store, "--prune")
    assert (found["total"], found["notes"]) == (1, [])


def test_links_to_folders_are_followed_on_request(run, store, tmp_path):
    save_picture(tmp_path / "album" / "a.png", 9)
    (tmp_path / "photos" / "album").symlink_to(tmp_path / "album")
    first = report(run, tmp_path / "photos", "--index", store)
    assert (first["added"], first["ignored"]) == (3, 1)
    assert "--follow-links" in first["notes"][0]
    second = report(run, tmp_path / "photos", "--index", store, "--follow-links")
    assert (second["added"], second["ignored"], second["notes"]) == (1, 0, [])
