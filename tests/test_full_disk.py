"""A disk that is full is one line and exit code 1, and the same command goes on when it is not."""

import errno
import json
import os
import resource
import sqlite3
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FakeEncoder, save_picture
from models import tiny_checkpoint
from older_catalogues import as_schema_1
from pictures_data import coloured
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from clip_text.checkpoints import save_checkpoint
from clip_text.errors import StorageError
from clip_text.features import cached_features
from clip_text.storage import disk_trouble, partial_file, partial_folder
from clip_text_cli import main, wiring
from retrieval.catalogue import CATALOGUE_NAME, Catalogue
from retrieval.errors import StorageError as RoomError
from retrieval.index import Recipe, compact, verify
from retrieval.index.sealed import current
from retrieval.ingest import IndexWriter, Item

FULL = "File too large"  # how the limit below reads; a full disk reads No space left on device


@contextmanager
def full_after(size: int):
    """Have every file end at ``size`` bytes; the system refuses to write more, as when full.

    Python ignores the signal that goes with it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model, and pictures with captions."""
    made = tmp_path_factory.mktemp("data")
    save_checkpoint(tiny_checkpoint(pooler="cls"), made / "model")
    coloured(made, "train", 3, 0)
    coloured(made, "val", 2, 1)
    return made


def check_told(outcome):
    code, out, err = outcome
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert (code, len(errors)) == (1, 1), (out, err)
    assert FULL in errors[0] or "could not be written whole" in errors[0] or "disk" in errors[0]
    assert "Traceback" not in err


COMMANDS = {
    "convert hf": ["convert", "{data}/model", "{out}/m", "--to", "hf"],
    "convert open_clip": ["convert", "{data}/model", "{out}/m", "--to", "open_clip"],
    "train contrastive": [
        *("train", "contrastive", "{data}/train.jsonl", "--val", "{data}/val.jsonl"),
        *("-m", "{data}/model", "--out", "{out}/m", "--epochs", "1", "--batch-size", "6"),
        *("--set", "warmup_steps=2", "--set", "bf16=false"),
    ],
}


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *[("convert hf", 0), ("convert hf", 200), ("convert open_clip", 5_000)],
        *[("train contrastive", 200), ("train contrastive", 250_000)],
    ],
)
def test_a_command_that_finds_the_disk_full(name, size, folder, run, tmp_path):
    args = [each.format(data=folder, out=tmp_path) for each in COMMANDS[name]]
    with full_after(size):
        outcome = run(*args)
    check_told(outcome)
    code, out, err = run(*args)
    assert code == 0, (out, err)


# Indexing


@pytest.fixture
def photos(tmp_path):
    for i in range(40):
        save_picture(tmp_path / "photos" / f"{i:02}.png", i)
    return tmp_path / "photos"


@pytest.fixture
def encoder(monkeypatch):
    monkeypatch.setattr(wiring, "load_encoder", lambda model, **_: FakeEncoder(embed_dim=512))


@pytest.mark.parametrize("size", [0, 50_000, 400_000])
@pytest.mark.usefixtures("encoder")
def test_what_was_committed_before_the_disk_was_full_is_searchable(photos, run, tmp_path, size):
    store = tmp_path / "store"
    args = ["index", photos, "--index", store, "--batch-size", 4]
    with full_after(size):
        check_told(outcome := run(*args))
        assert str(store / CATALOGUE_NAME) in outcome[2]
        before = 0
        if size > 50_000:
            code, out, err = run("search", "x", "--index", store, "--json", "-k", 99)
            assert code == 0, err
            before = len(json.loads(out)["hits"])
            assert 4 <= before < 40
    code, out, _ = run(*args, "--json")
    report = json.loads(out)
    assert (code, report["total"]) == (0, 40)
    assert report["unchanged"] >= before


@pytest.mark.usefixtures("encoder")
def test_sealing_that_finds_no_room_is_tried_again(photos, run, tmp_path, caplog, monkeypatch):
    store = tmp_path / "store"
    run("index", photos, "--index", store)
    monkeypatch.setattr("retrieval.index.lifecycle._TAIL_ROWS", 0)
    with full_after(40_000):  # the log of SQLite needs 32,768, the features 40,960
        code, out, _ = run("index", photos, "--index", store, "--json")
        assert (code, json.loads(out)["unchanged"]) == (0, 40)
        assert FULL in caplog.text
        code, out, _ = run("search", "x", "--index", store, "--json", "-k", 99)
        assert (code, len(json.loads(out)["hits"])) == (0, 40)
    assert {path.name for path in (store / "vectors").iterdir()} <= {"sealing.lock"}
    assert run("index", photos, "--index", store)[0] == 0
    assert (store / "vectors" / "CURRENT").exists()


@pytest.mark.parametrize("size", [40_000, 90_000])
@pytest.mark.usefixtures("encoder")
def test_an_older_index_that_finds_no_room_to_be_upgraded_stays_as_it_was(
    photos, run, tmp_path, size
):
    store = tmp_path / "store"
    run("index", photos, "--index", store)
    as_schema_1(store)
    save_picture(photos / "new.png", 99)
    with full_after(size):
        check_told(run("index", photos, "--index", store))
        with Catalogue.open(store) as catalogue:
            assert (catalogue.schema_version, len(catalogue.rows())) == (1, 40)
    code, out, _ = run("index", photos, "--index", store, "--json")
    report = json.loads(out)
    assert (code, report["unchanged"], report["encoded"]) == (0, 40, 1)


def test_an_item_that_finds_no_room_is_not_stored_and_those_before_stay(tmp_path):
    rows = np.eye(512, dtype=np.float32)
    with IndexWriter.open(tmp_path, fingerprint="f", embed_dim=512) as writer:
        acknowledged = []

        def add_all() -> None:
            for number, row in enumerate(rows):
                acknowledged.append(writer.add(f"{number}", feature=row, caption="一只猫"))

        with full_after(600_000), pytest.raises(RoomError, match=CATALOGUE_NAME):
            add_all()
        stored = len(acknowledged)
        assert len(writer) == stored > 2
        writer.add("after", feature=rows[stored])
        assert len(writer) == stored + 1


@pytest.fixture
def store(tmp_path):
    """An index of 200 items of width 512 with captions: features of 204,928 bytes."""
    rows = np.random.default_rng(0).standard_normal((200, 512))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with IndexWriter.open(tmp_path / "store", fingerprint="fake-1", embed_dim=512) as writer:
        writer.add_many(
            Item(f"{i}", feature=row, caption=f"第{i}张 一只猫 {'词' * 400} w{i}")
            for i, row in enumerate(rows)
        )
    return tmp_path / "store"


def contents(store):
    """What is stored of each item, and what a search in words finds."""
    with Catalogue.open(store) as catalogue:
        told = {record.picture.image_id: record.picture.caption for record in catalogue}
        return told, catalogue.words.rank("w7", 5).rows.tolist(), catalogue.generation


LISTS = Recipe("IVF4,SQfp16", 4, 32)


@pytest.mark.parametrize(
    ("recipe", "size"),
    [(None, 40_000), (LISTS, 40_000), (LISTS, 210_000)],  # the last: within the lists
)
def test_compacting_that_finds_no_room_leaves_what_was_sealed(store, recipe, size):
    before = contents(store)
    compact(store)
    old = current(store)
    with full_after(size), pytest.raises(RoomError, match=rf"vectors to {store}.*{FULL}.*Free"):
        compact(store, recipe)
    assert (current(store), contents(store)) == (old, before)
    assert {path.name for path in (store / "vectors").iterdir()} == {"CURRENT", "sealing.lock", old}
    assert verify(store).problems == []
    compact(store, recipe)
    assert current(store) != old


def test_compacting_by_the_command_that_finds_no_room(store, run):
    with full_after(40_000):
        outcome = run("index", "compact", "--index", store)
    check_told(outcome)
    assert "nothing stored is lost" in outcome[2]


def test_sealing_beside_a_writer_that_finds_no_room_leaves_the_writer_alone(
    store, monkeypatch, caplog
):
    monkeypatch.setattr("retrieval.index.background._WORTH_A_LOOK", 1)
    monkeypatch.setattr("retrieval.index.lifecycle._TAIL_ROWS", 0)
    with IndexWriter.open(store) as writer:
        with full_after(200_000):  # less than the features, more than the log needs for one
            writer.delete(["199"])
            writer._sealer.wait()
        assert FULL in caplog.text
        assert len(writer) == 199
    assert verify(store).problems == []
    assert current(store) != ""  # at the end there was room


@pytest.mark.parametrize("size", [0, 40_000, 100_000])
def test_a_text_index_that_finds_no_room_to_be_made_stays_as_it_was(store, run, tmp_path, size):
    before = contents(store)
    (tmp_path / "words.txt").write_text("一只猫\n", encoding="utf-8")
    with full_after(size):
        outcome = run("index", "text", "--words", tmp_path / "words.txt", "--index", store)
        check_told(outcome)
        assert str(store / CATALOGUE_NAME) in outcome[2]
    assert contents(store) == before
    assert verify(store).problems == []
    assert run("index", "text", "--index", store)[0] == 0
    assert contents(store) == before


def test_whatever_is_written_that_finds_no_room_has_not_happened(store):
    before = contents(store)
    row = np.eye(512, dtype=np.float32)[0]
    long = "字 " * 30_000
    with IndexWriter.open(store) as writer:
        for write in (
            lambda: writer.add("new", feature=row, caption=long),
            lambda: writer.add("7", feature=row, caption=long),
            lambda: writer.update("7", caption=long),
            lambda: writer.add_many(Item(f"n{i}", feature=row) for i in range(100)),
            lambda: writer.delete([f"{i}" for i in range(200)]),
        ):
            with full_after(40_000), pytest.raises(RoomError, match=CATALOGUE_NAME):
                write()
            assert contents(store) == before
        writer.update("7", caption="w7 w8")
    assert contents(store)[0] == before[0] | {"7": "w7 w8"}
    assert verify(store).problems == []


@pytest.mark.usefixtures("encoder")
def test_a_sheet_that_finds_no_room(photos, run, tmp_path):
    run("index", photos, "--index", tmp_path / "store")
    with full_after(1000):
        outcome = run("search", "x", "--index", tmp_path / "store", "--sheet", tmp_path / "a.png")
        check_told(outcome)


@pytest.mark.usefixtures("encoder")
def test_an_output_that_is_full(photos, run, tmp_path, monkeypatch):
    run("index", photos, "--index", tmp_path / "store")
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        code, _, err = run("search", "x", "--index", tmp_path / "store", "--json")
    assert (code, "No space left on device" in err) == (1, True)


def test_an_error_of_sqlite_itself_is_one_line(capsys):
    def hindered() -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(SystemExit, match="1"):
        main.run(hindered)
    assert capsys.readouterr().err == "error: database or disk is full\n"


# The kinds of error


def by_safetensors(path):
    save_file({"a": torch.zeros(10_000)}, path)


def by_torch(path):
    torch.save({"a": torch.zeros(10_000)}, path)


def by_old_torch(path):
    torch.save({"a": torch.zeros(10_000)}, path, _use_new_zipfile_serialization=False)


def by_tokenizers(path):
    words = {f"w{i}": i for i in range(2000)} | {"[UNK]": 2000}
    Tokenizer(models.WordLevel(words, unk_token="[UNK]")).save(str(path))


def by_numpy(path):
    np.save(path.with_suffix(".npy"), np.zeros(10_000))


def by_pillow(path):
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    Image.fromarray(noise).save(path, "PNG")


def by_pyarrow(path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.core.pa.table({"a": np.random.default_rng(0).random(10_000)})
    parquet.write_table(table, path)


def by_matplotlib(path):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    figure.savefig(path, format="png")


def by_python(path):
    path.write_bytes(bytes(10_000))


WRITERS = [
    *(by_safetensors, by_torch, by_old_torch, by_tokenizers, by_numpy, by_pillow, by_pyarrow),
    *(by_matplotlib, by_python),
]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_whatever_a_library_raises_names_the_file_and_leaves_none(write, tmp_path):
    file = tmp_path / "deep" / "file"
    with (
        full_after(1000),
        pytest.raises(StorageError, match=rf"expected to write {file}, got: .*\. Free"),
        partial_file(file) as partial,
    ):
        write(partial)
    with (
        full_after(1000),
        pytest.raises(StorageError, match=rf"expected to write {file.parent}, got"),
        partial_folder(file.parent) as partial,
    ):
        write(partial / "file")
    assert not file.exists()


def test_what_has_nothing_to_do_with_the_disk_stays_what_it_is(tmp_path):
    others = [
        ValueError("100 requested"),
        RuntimeError("expected scalar type"),
        FileNotFoundError(errno.ENOENT, "No such file"),
        OSError("no number"),
    ]
    for other in others:
        assert disk_trouble(other) is None
        with pytest.raises(type(other)) as caught, partial_file(tmp_path / "x"):
            raise other
        assert caught.value is other
    assert disk_trouble(OSError(errno.ENOSPC, "x")) == os.strerror(errno.ENOSPC)


def test_features_take_their_room_before_they_are_computed(tmp_path):
    """A file that grows only where it is written ends, on a full disk, in a bus error."""
    computed = []

    def compute(pixels):
        computed.append(len(pixels))
        return torch.ones(len(pixels), 64)

    def features():
        pictures = [np.zeros((2, 2, 3), np.uint8)] * 100
        return cached_features(
            tmp_path / "f.npy", "key", [*pictures, None], lambda one: one, compute, batch_size=10
        )

    with full_after(5_000), pytest.raises(StorageError, match=r"f\.npy"):
        features()
    assert computed == [10]
    assert list(tmp_path.iterdir()) == []
    rows = features()
    assert (rows[:100] == 1).all()
    assert np.isnan(rows[100]).all()


def test_an_error_that_says_already_what_to_do_is_left_as_it_is(tmp_path):
    told = StorageError("expected room, got none.")
    with pytest.raises(StorageError) as caught, partial_folder(tmp_path / "x"):
        raise told from OSError(errno.ENOSPC, "full")
    assert caught.value is told
