"""``clip-text index`` of data sets and finished features: what is a folder, what is data."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from data_sets import write_lines, write_tar
from fakes import FakeEncoder, as_stored, save_picture
from light_process import HIDDEN
from PIL import Image

from clip_text_cli import wiring
from retrieval.catalogue import Catalogue

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
    one = FakeEncoder()
    monkeypatch.setattr(wiring, "load_encoder", lambda model, **_: one)
    return one


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def index(run, store):
    """Run ``clip-text index ARGS``; gives the report, and checks the exit code."""

    def call(*args, code=0):
        found, out, err = run("index", *args, "--index", store, "--json")
        assert found == code, err
        told = json.loads(out)
        return {name: n for name, n in told.items() if n and name not in ("seconds", "total")}

    return call


@pytest.fixture
def refused(run, store):
    def call(match, *args, code=None):
        found, _, err = run("index", *args, "--index", store)
        assert found == (code or found)
        assert found in (1, 2)
        assert "Traceback" not in err
        told = " ".join(err.replace("│", " ").split())
        assert match in told, told

    return call


def records(store):
    with Catalogue.open(store) as catalogue:
        return {one.picture.image_id: one for one in catalogue}


def png(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


def test_a_tar_is_indexed_searched_and_brought_up_to_date(run, index, store, tmp_path, encoder):
    members = {"a.png": png(1), "a.txt": "狗\n一只狗".encode(), "b.png": png(2)}
    path = write_tar(tmp_path / "t.tar", members)
    found = index(path)
    assert (found["added"], found["encoded"]) == (2, 2)
    assert (records(store)["a"].picture.caption, records(store)["a"].metadata) == (
        "狗",
        {"caption": ["狗", "一只狗"]},
    )
    _, out, _ = run("search", "x", "--index", store, "--json")
    hits = json.loads(out)["hits"]
    assert {hit["image_id"]: hit["path"] for hit in hits} == {"a": None, "b": None}
    encoder.loaded.clear()
    write_tar(path, members | {"b.txt": "猫".encode()})
    found = index(path)
    assert (found["unchanged"], found["updated"], encoder.loaded) == (1, 1, [])
    assert records(store)["b"].picture.caption == "猫"
    write_tar(path, {"b.png": png(2), "b.txt": "猫".encode(), "c.png": png(3)})
    assert "1 pictures in the index are not in" in index(path)["notes"][0]
    found = index(path, "--prune")
    assert (found["removed"], set(records(store))) == (1, {"b", "c"})
    _, out, _ = run("index", "info", "--index", store)
    assert f"{path}(2)" in "".join(out.split())  # over several lines where it is long
    run("index", "remove", "--source", path, "--index", store)
    assert records(store) == {}


def test_broken_parts_are_told_of_and_the_rest_is_indexed(index, run, store, tmp_path):
    path = write_tar(tmp_path / "t.tar", {f"{n}.png": png(n) for n in range(4)})
    path.write_bytes(path.read_bytes()[: 3 * 1024 + 700])
    found = index(path, code=3)
    assert (found["added"], found["failed"]) == (3, 2)
    assert [one["path"] for one in found["failures"]] == [str(path), "3"]
    assert "expected a tar that can be read" in found["failures"][0]["reason"]
    assert "got" in found["failures"][1]["reason"]
    found = index(path, "--prune", code=3)
    assert "removed" not in found


def test_a_data_set_is_removed_by_the_path_it_was_indexed_by(
    run, index, store, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_tar(tmp_path / "t.tar", {"a.png": png(1)})
    index("t.tar")
    (tmp_path / "t.tar").unlink()
    code, _, err = run("index", "remove", "--source", "t.tar", "--index", store)
    assert (code, records(store)) == (0, {}), err


def test_pictures_of_a_tar_that_is_cut_off_later_stay(index, store, tmp_path):
    path = write_tar(tmp_path / "t.tar", {f"{n}.png": png(n) for n in range(4)})
    index(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: 3 * 1024 + 700])
    found = index(path, "--prune", code=3)
    assert (found["unchanged"], "removed" in found) == (3, False)
    assert list(records(store)) == ["0", "1", "2", "3"]
    path.write_bytes(whole)
    assert index(path)["unchanged"] == 4


def test_captions_of_several_kinds(index, store, tmp_path):
    save_picture(tmp_path / "images" / "a.png", 1)
    path = write_lines(
        tmp_path / "t.jsonl", {"image": "a.png", "zh": ["狗", "一只狗"], "en": ["a dog"], "n": 1}
    )
    index(path)
    said = {"zh": ["狗", "一只狗"], "en": ["a dog"], "n": 1}
    one = records(store)["a.png"]
    assert (one.picture.caption, one.metadata, one.path) == (
        "狗",
        said,
        tmp_path / "images" / "a.png",
    )
    assert index(path, "--kinds", "en,zh")["updated"] == 1
    assert records(store)["a.png"].picture.caption == "a dog"
    assert records(store)["a.png"].metadata == {"zh": ["狗", "一只狗"], "n": 1}


def test_pictures_that_are_missing_fail_and_bad_lines_too(index, store, tmp_path):
    save_picture(tmp_path / "a.png", 1)
    path = write_lines(tmp_path / "t.jsonl", {"image": "a.png"}, {"image": "b.png"}, {"image": 1})
    found = index(path, code=3)
    assert found["added"] == 1
    assert [(one["path"], one["reason"][:8]) for one in found["failures"]] == [
        ("line 3", "expected"),
        ("b.png", "No such "),
    ]


def test_odd_ids(index, store, tmp_path):
    names = ["a/b", "狗 1", "", "x\ny", "../z", "é"]
    columns = {"image_id": names, "image": [png(n) for n in range(6)]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    found = index(tmp_path / "t.parquet", code=3)
    assert list(records(store)) == ["a/b", "狗 1", "../z", "é"]
    assert [one["path"] for one in found["failures"]] == ["", "x\\ny"]
    found = index(tmp_path / "t.parquet", "--prefix", "new/", code=3)
    assert (found["duplicates"], found["added"], found["failed"]) == (4, 1, 1)
    assert "new/" in records(store)


def test_a_folder_of_pictures_stays_one_whatever_lies_beside_them(index, store, tmp_path):
    folder = tmp_path / "p"
    save_picture(folder / "sub" / "a.png", 1)
    write_tar(folder / "t.tar", {"b.png": png(2)})
    write_lines(folder / "val.jsonl", {"image": "sub/a.png", "zh": ["狗"]})
    assert index(folder)["added"] == 1
    assert records(store)["sub/a.png"].picture.root is not None
    assert index(folder, "--format", "webdataset")["added"] == 1
    assert index(folder / "val.jsonl")["duplicates"] == 1
    with Catalogue.open(store) as catalogue:
        assert len(catalogue) == 3
        assert len(catalogue.find_all_content(next(iter(catalogue)).picture.content_hash)) == 1
    (folder / "sub" / "a.png").unlink()  # no picture now, but an indexed folder still
    assert index(folder, "--allow-empty")["removed"] == 1


def test_a_folder_without_pictures_may_hold_a_data_set(index, refused, tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    assert index(folder) == {}
    write_tar(folder / "train-0.tar", {"b.png": png(2)})
    assert index(folder)["added"] == 1
    write_tar(folder / "val-0.tar", {"c.png": png(3)})
    refused("expected one of the splits", folder, code=1)
    assert index(folder, "--split", "val")["added"] == 1
    assert index(folder, "--split", "train")["unchanged"] == 1


def test_an_empty_data_set_and_one_of_texts_alone(refused, tmp_path):
    refused("expected pictures in", write_tar(tmp_path / "e.tar", {}), code=1)
    refused("expected one picture in", write_tar(tmp_path / "t.tar", {"a.txt": b"x"}), code=1)
    (tmp_path / "t.csv").write_text("text,label\nx,y\n")
    refused("The columns there are: text, label", tmp_path / "t.csv", code=1)
    (tmp_path / "e.jsonl").write_text("")
    refused("got an empty file", tmp_path / "e.jsonl", code=1)
    refused("got nothing there", tmp_path / "none.tar", code=1)
    refused("expected a folder", tmp_path / "none", code=1)


def test_options_without_a_use_are_refused(refused, tmp_path):
    path = write_tar(tmp_path / "t.tar", {"a.png": png(1)})
    save_picture(tmp_path / "p" / "a.png", 1)
    for option in ("--follow-links", "--ocr", "--retry-failed"):
        refused(f"expected no {option}", path, option, code=2)
    for option in ("--ids", "--metadata"):
        refused(f"expected no {option}", path, option, path, code=2)
    refused("expected no --feature-field", path, "--feature-field", "x", code=2)
    refused("expected no --split", tmp_path / "p", "--format", "pictures", "--split", "x", code=2)
    refused("expected no split", tmp_path / "p", "--split", "x", code=1)
    refused("expected no --prefix", tmp_path / "p", "--prefix", "x/", code=2)


UNITS = np.random.default_rng(3).standard_normal((4, 16))
UNITS /= np.linalg.norm(UNITS, axis=1, keepdims=True)


@pytest.fixture
def features(tmp_path):
    np.save(tmp_path / "f.npy", UNITS)
    (tmp_path / "ids.txt").write_text("a\nb\nc\nd\n")
    return [tmp_path / "f.npy", "--ids", tmp_path / "ids.txt", "--model", "mine"]


def test_finished_features_are_stored_and_no_model_is_run(
    index, features, store, tmp_path, encoder
):
    picture = save_picture(tmp_path / "a.png", 1)
    lines = [{"id": "a", "caption": "狗", "path": "a.png"}, {"id": "c", "n": 3}]
    said = write_lines(tmp_path / "m.jsonl", *lines)
    assert index(*features, "--metadata", said)["added"] == 4
    assert (encoder.loaded, encoder.seen) == ([], 0)
    found = records(store)
    assert (found["a"].picture.caption, found["a"].path) == ("狗", picture)
    assert (found["c"].metadata, found["d"].path) == ({"n": 3}, None)
    with Catalogue.open(store) as catalogue:
        stored = catalogue.features_of([found["b"].row])[found["b"].row]
    assert np.array_equal(stored, as_stored(UNITS[1].astype(np.float32)))
    found = index(*features, "--metadata", said)
    assert set(found) == {"unchanged", "images_per_second"}
    assert found["unchanged"] == 4


def test_rows_that_are_no_features_are_named_and_lengths_told_once(index, features):
    rows = UNITS * 3
    rows[2] = np.nan
    np.save(features[0], rows.astype(np.float16))
    found = index(*features, code=3)
    assert found["notes"] == [
        f"3 of 4 rows of {features[0]} were not of unit length, and were set to it."
    ]
    ((name, reason),) = [(one["path"], one["reason"]) for one in found["failures"]]
    assert (name, reason[:23]) == ("c (row 2)", "expected finite numbers")


def test_finished_features_of_another_model_are_refused(refused, run, features, store, tmp_path):
    refused("Name it: --model", *features[:3], code=2)
    refused("expected --ids", features[0], "--model", "mine", code=2)
    np.save(features[0], UNITS[:, :8])
    refused("expected features of width 16, as the model or index has it, got 8", *features, code=2)
    np.save(features[0], UNITS[:3])
    refused("expected 3 ids", *features, code=1)
    assert not store.exists()
    Catalogue.create_or_open(store, fingerprint="another", embed_dim=16).close()
    np.save(features[0], UNITS)
    refused("expected the model with fingerprint another", *features, code=1)


def test_features_in_parquet(index, refused, store, tmp_path):
    features = [list(row) for row in UNITS]
    columns = {"id": ["a", "b", "c", "d"], "feature": features, "caption": ["狗", None, "", "猫"]}
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns | {"price": [1, 2, 3, 4]}), path)
    refused("Name it: --model", path, code=2)
    assert index(path, "--model", "mine")["added"] == 4
    found = records(store)
    assert [found[name].picture.caption for name in "abcd"] == ["狗", None, None, "猫"]
    assert found["b"].metadata == {"price": 2}
    del columns["id"]
    pq.write_table(pa.table(columns), path)
    refused("expected a column image_id or id or key", path, "--model", "mine", code=1)


def test_a_folder_of_parquet_with_a_damaged_file(index, refused, store, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for n in range(2):
        columns = {"image_id": [f"{n}"], "image": [png(n)]}
        pq.write_table(pa.table(columns), folder / f"{n}.parquet")
    (folder / "0.parquet").write_bytes(b"cut off")
    found = index(folder, code=3)
    assert (found["added"], list(records(store))) == (1, ["1"])
    assert found["failures"][0]["path"] == str(folder / "0.parquet")
    (folder / "1.parquet").write_bytes(b"cut off, too")
    refused("expected a Parquet file that can be read", folder, code=1)
    pq.write_table(pa.table({"id": ["a"], "feature": [[1.0]]}), folder / "1.parquet")
    refused("expected a Parquet file that can be read", folder, "--model", "mine", code=1)


def test_a_data_set_is_indexed_without_loading_what_only_training_needs(tmp_path):
    """The command's own start: readers of data sets import neither torch nor what stands on it."""
    code = (
        "import sys\n"
        "from clip_text_cli import sources\n"
        "from clip_text_cli.sources import Asked\n"
        "data = sources.read(Asked(sys.argv[1]))\n"
        "items = list(data.items())\n"
        "assert len(items) == 2, items\n"
        f"assert not set({HIDDEN!r}) & sys.modules.keys()\n"
    )
    path = write_tar(tmp_path / "t.tar", {"a.png": png(1), "b.png": png(2)})
    subprocess.run([sys.executable, "-c", code, path], check=True)
