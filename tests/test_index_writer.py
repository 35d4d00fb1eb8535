"""Pictures from elsewhere than a folder: added, changed and taken away by ids of the caller's."""

import math
import shutil
import sqlite3

import numpy as np
import pytest
from fakes import FakeEncoder, as_stored, decode, save_picture

from retrieval.catalogue import CATALOGUE_NAME, Catalogue
from retrieval.errors import (
    EncoderError,
    IndexLockedError,
    IndexMismatchError,
    IndexNotFoundError,
    ItemError,
    ItemNotFoundError,
    StorageError,
)
from retrieval.index import open_index
from retrieval.ingest import IndexWriter, Item, index_folder
from retrieval.search import Searcher

WIDTH = 16


@pytest.fixture
def encoder():
    return FakeEncoder(WIDTH)


@pytest.fixture
def index_dir(tmp_path):
    return tmp_path / "index"


@pytest.fixture
def writer(index_dir, encoder):
    with IndexWriter.open(index_dir, encoder) as opened:
        yield opened


def unit_row(seed: int, width: int = WIDTH) -> np.ndarray:
    row = np.random.default_rng(seed).standard_normal(width)
    return (row / np.linalg.norm(row)).astype(np.float32)


def found(index_dir, encoder, feature, k=99):
    with Searcher.open(index_dir, encoder) as searcher:
        return searcher.search_features(feature[None], k)[0]


def test_a_path_bytes_and_a_feature_are_found_like_files_of_a_folder(
    writer, index_dir, encoder, tmp_path
):
    files = [save_picture(tmp_path / f"{i}.png", i, size=(12 + i, 9)) for i in range(3)]
    rows = [
        writer.add("产品/1", path=files[0], caption="一只猫", metadata={"tags": ["猫"], "n": 1.5}),
        writer.add("b", data=files[1].read_bytes()),
        writer.add("c", feature=encoder.encode_file(files[2]), metadata={"price": None}),
    ]
    assert rows == [1, 2, 3]
    for file, name, path in zip(files, ["产品/1", "b", "c"], [files[0], None, None], strict=True):
        first = found(index_dir, encoder, as_stored(encoder.encode_file(file)))[0]
        assert (first.image_id, first.path) == (name, path)
        assert first.score == pytest.approx(1, abs=1e-6)
        assert not first.missing
    first, *_ = found(index_dir, encoder, encoder.encode_file(files[0]))
    assert (first.caption, first.metadata) == ("一只猫", {"tags": ["猫"], "n": 1.5})
    stored = [writer.find(name).picture for name in ("产品/1", "b", "c")]
    sizes = [file.stat().st_size for file in files]
    assert [(one.size, one.width, one.height) for one in stored] == [
        (sizes[0], 12, 9),
        (sizes[1], 13, 9),
        (None, None, None),
    ]


def test_an_id_added_again_is_replaced_in_its_row(writer, index_dir, encoder):
    assert writer.add("a", feature=unit_row(1), caption="旧", metadata={"x": 1}) == 1
    writer.add("b", feature=unit_row(2))
    assert writer.add("a", feature=unit_row(3)) == 1
    assert len(writer) == 2
    first, second = found(index_dir, encoder, unit_row(3))
    assert (first.image_id, first.row, first.caption, first.metadata) == ("a", 1, None, {})
    assert first.score == pytest.approx(1, abs=1e-6)
    assert second.image_id == "b"


def test_what_is_said_of_an_item_changes_without_its_feature(writer, encoder, index_dir):
    writer.add("a", feature=unit_row(1), caption="旧", metadata={"x": 1})
    before = Catalogue.open(index_dir)
    generation = before.generation
    writer.update("a", caption="新")
    record = writer.find("a")
    assert (record.picture.caption, record.metadata) == ("新", {"x": 1})
    writer.update("a", caption=None, metadata={"y": [2]})
    record = writer.find("a")
    assert (record.picture.caption, record.metadata) == (None, {"y": [2]})
    assert before.generation == generation
    before.close()


def test_deleted_items_are_gone_and_their_rows_are_not_used_again(writer, index_dir, encoder):
    writer.add_many([Item(str(i), feature=unit_row(i)) for i in range(5)])
    writer.delete(["4", "1"])
    assert "1" not in writer
    assert "2" in writer
    assert {hit.image_id for hit in found(index_dir, encoder, unit_row(1))} == {"0", "2", "3"}
    assert writer.add("1", feature=unit_row(1)) == 6


def test_known_content_is_not_encoded_again(writer, encoder, tmp_path):
    photos = tmp_path / "p"
    file = save_picture(photos / "a.png", 1)
    writer.add("a", path=file)
    writer.add_many([Item("b", data=file.read_bytes()), Item("c", path=file)])
    writer.add("a", path=file, caption="again")
    assert encoder.seen == 1
    twice = save_picture(tmp_path / "b.png", 2).read_bytes()
    writer.add_many([Item("d", data=twice), Item("e", data=twice)])
    assert encoder.seen == 2


def test_many_are_encoded_batch_by_batch_and_stored_at_once(tmp_path, index_dir):
    batches = []
    encoder = FakeEncoder(WIDTH, before_batch=batches.append)
    files = [save_picture(tmp_path / f"{i}.png", i) for i in range(70)]
    with IndexWriter.open(index_dir, encoder) as writer:
        writer.add_many(Item(file.name, path=file) for file in files)
        assert batches == [64, 6]
        with Catalogue.open(index_dir) as catalogue:
            assert catalogue.generation == 1
    for number in (0, 69):
        first, *_ = found(index_dir, encoder, encoder.encode_file(files[number]))
        assert first.image_id == f"{number}.png"


def test_pictures_of_folders_and_items_live_side_by_side(index_dir, encoder, tmp_path):
    folder = tmp_path / "photos"
    for i in range(3):
        save_picture(folder / f"{i}.png", i)
    index_folder(folder, index_dir, encoder)
    with IndexWriter.open(index_dir, encoder) as writer:
        writer.add("0.png", path=folder / "0.png", caption="an item of its own")
        writer.add("elsewhere", path=tmp_path / "gone.png", feature=unit_row(1))
        with pytest.raises(ItemError, match=r"'1.png', a picture of the folder .*metadata.jsonl"):
            writer.update("1.png", caption="x")
    assert encoder.seen == 3
    report = index_folder(folder, index_dir, encoder)
    assert (report.unchanged, report.removed, report.total) == (3, 0, 5)
    # A folder that moves takes its own pictures along, and no item.
    moved = folder.rename(tmp_path / "moved")
    report = index_folder(moved, index_dir, encoder, prune=True)
    assert (report.moved, report.encoded, report.removed, report.total) == (3, 0, 0, 5)
    with IndexWriter.open(index_dir) as writer:
        assert writer.find("0.png").path == folder / "0.png"
        writer.delete(["0.png"])  # the item first: it is the caller's own id
        assert len(writer) == 4
        writer.delete(["0.png"])  # and then the folder's
        assert len(writer) == 3
    shutil.rmtree(moved)
    report = index_folder(moved, index_dir, encoder, allow_empty=True)
    assert (report.removed, report.total) == (2, 1)


def test_an_item_whose_folder_is_indexed_later_stays_an_item(index_dir, encoder, tmp_path):
    folder = tmp_path / "photos"
    files = [save_picture(folder / f"{i}.png", i) for i in range(2)]
    with IndexWriter.open(index_dir, encoder) as writer:
        writer.add("mine", path=files[0], caption="我的")
        before = writer.find("mine")
    report = index_folder(folder, index_dir, encoder)
    assert (report.added, report.duplicates, report.encoded, report.total) == (1, 1, 1, 3)
    files[0].unlink()
    report = index_folder(folder, index_dir, encoder)
    assert (report.unchanged, report.removed, report.total) == (1, 1, 2)
    with IndexWriter.open(index_dir) as writer:
        assert writer.find("mine") == before


def test_an_id_that_several_folders_have_is_no_address(index_dir, encoder, tmp_path):
    for name in ("p", "q"):
        save_picture(tmp_path / name / "a.png", 1)
        index_folder(tmp_path / name, index_dir, encoder)
    with (
        IndexWriter.open(index_dir) as writer,
        pytest.raises(ItemError, match=rf"'a.png', .* {tmp_path}/p/a.png, {tmp_path}/q/a.png"),
    ):
        writer.delete(["a.png"])


BAD = {
    "no id": (Item("", feature=[1.0]), "1 to 1000 characters, got 0"),
    "a long id": (Item("x" * 1001, feature=[1.0]), "got 1001"),
    "an id of two lines": (Item("a\nb", feature=[1.0]), r"one line, got 'a\\nb'"),
    "half a pair": (Item("a\ud800", feature=[1.0]), "one line"),
    "a number as id": (Item(3, feature=[1.0]), "text, got int"),
    "nothing": (Item("a"), "expected a path, data or a feature for 'a', got none"),
    "no picture": (Item("a", data=b"no picture"), "expected a picture for 'a'.*stored"),
    "no file": (Item("a", path="nowhere.png"), "'a', got: No such file"),
    "a folder": (Item("a", path="/"), "'a', got: "),
    "no unit row": (Item("a", feature=np.ones(WIDTH)), "unit rows, got length 4"),
    "NaN": (Item("a", feature=np.full(WIDTH, math.nan)), "unit rows, got length nan"),
    "too wide": (Item("a", feature=unit_row(1, 17)), r"width 16 .*got 17"),
    "a matrix": (Item("a", feature=unit_row(1)[None]), r"shape \[16\], got \[1, 16\]"),
    "words": (Item("a", feature=["x"]), "feature of numbers"),
    "a caption": (Item("a", feature=unit_row(1), caption=3), "text, got int"),
    "half a caption": (Item("a", feature=unit_row(1), caption="\udfff"), "Unicode"),
    "metadata": (Item("a", feature=unit_row(1), metadata=[1]), "mapping, got list"),
    "not JSON": (Item("a", feature=unit_row(1), metadata={"a": {1}}), "JSON can hold"),
    "no number": (Item("a", feature=unit_row(1), metadata={"a": math.inf}), "JSON can"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_refused_and_nothing_stored(name, writer, index_dir):
    writer.add("before", feature=unit_row(0))
    item, told = BAD[name]
    with pytest.raises(ItemError, match=told):
        writer.add_many([Item("beside it", feature=unit_row(2)), item])
    assert len(writer) == 1
    with Catalogue.open(index_dir) as catalogue:
        assert catalogue.generation == 1


def test_ids_that_are_not_there_change_nothing(writer):
    writer.add("a", feature=unit_row(1))
    with pytest.raises(ItemNotFoundError, match=r"got 'x', 'y'. Nothing was changed"):
        writer.delete(["x", "a", "y"])
    with pytest.raises(ItemNotFoundError, match="'x'"):
        writer.update("x", caption="c")
    with pytest.raises(ItemError, match="one text"):
        writer.delete("a")
    with pytest.raises(ItemError, match=r"different ids, got 2 items with 1"):
        writer.add_many([Item("b", feature=unit_row(1)), Item("b", feature=unit_row(2))])
    with pytest.raises(ItemError, match="JSON"):
        writer.update("a", caption="new", metadata={"a": {1}})
    assert (len(writer), writer.find("a").picture.caption) == (1, None)


def test_an_encoder_that_breaks_its_promise_stores_nothing(writer, encoder, tmp_path, monkeypatch):
    file = save_picture(tmp_path / "a.png", 1)
    monkeypatch.setattr(encoder, "encode_pixels", lambda pixels: np.ones((1, WIDTH), np.float32))
    with pytest.raises(EncoderError, match="unit rows"):
        writer.add("a", path=file)
    assert len(writer) == 0


def test_without_an_encoder_there_are_finished_features(index_dir, encoder, tmp_path):
    with pytest.raises(IndexNotFoundError, match="Name an encoder"):
        IndexWriter.open(index_dir)
    assert not index_dir.exists()
    with IndexWriter.open(index_dir, fingerprint="fake-1", embed_dim=WIDTH) as writer:
        writer.add("a", feature=unit_row(1).tolist())
        with pytest.raises(ItemError, match="nobody can encode"):
            writer.add("b", path=save_picture(tmp_path / "a.png", 1))
    with IndexWriter.open(index_dir) as writer:
        writer.add("b", feature=unit_row(2))
    with pytest.raises(IndexMismatchError):
        IndexWriter.open(index_dir, fingerprint="other", embed_dim=WIDTH)
    with IndexWriter.open(index_dir, encoder) as writer:  # the lock was released each time
        assert len(writer) == 2


def test_there_is_one_writer_and_readers_see_what_it_has_acknowledged(index_dir, encoder):
    with IndexWriter.open(index_dir, encoder) as writer:
        writer.add("a", feature=unit_row(1))
        with pytest.raises(IndexLockedError):
            IndexWriter.open(index_dir, encoder)
        with Searcher.open(index_dir, encoder) as searcher:
            assert len(searcher.search_features(unit_row(1)[None])[0]) == 1
            writer.add("b", feature=unit_row(2))
            assert len(searcher.search_features(unit_row(1)[None])[0]) == 1
            searcher.refresh()
            assert len(searcher.search_features(unit_row(1)[None])[0]) == 2
        writer.close()  # and once more at the end of the block
    assert not (index_dir / "vectors").exists()  # not for two


def test_closing_seals_what_is_due(index_dir, encoder, monkeypatch):
    monkeypatch.setattr("retrieval.index.lifecycle._TAIL_ROWS", 1)
    with IndexWriter.open(index_dir, encoder) as writer:
        writer.add("a", feature=unit_row(1))
        writer.add("b", feature=unit_row(2))
    with Catalogue.open(index_dir) as catalogue:
        index, _ = open_index(index_dir, catalogue)
    assert (index.sealed, index.tail) == (2, 0)


def test_a_file_that_is_written_while_it_is_read_is_refused(index_dir, tmp_path):
    """Else its new pixels' feature would be that of whatever has its old content."""
    file, other = save_picture(tmp_path / "a.png", 1), save_picture(tmp_path / "b.png", 1)

    def load(source):
        if source == file:
            save_picture(file, 2, size=(20, 20))
        return decode(source)

    encoder = FakeEncoder(WIDTH, load=load)
    with IndexWriter.open(index_dir, encoder) as writer:
        with pytest.raises(ItemError, match="for 'a', got: It was written while it was read"):
            writer.add("a", path=file)
        writer.add("b", path=other)
    best, *_ = found(index_dir, encoder, as_stored(encoder.encode_file(other)))
    assert (best.image_id, best.score) == ("b", pytest.approx(1, abs=1e-6))


def test_what_is_written_stays_acknowledged_where_no_thread_can_be_had(
    index_dir, monkeypatch, caplog
):
    monkeypatch.setattr("retrieval.index.background._WORTH_A_LOOK", 1)

    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    with IndexWriter.open(index_dir, fingerprint="f", embed_dim=WIDTH) as writer:
        assert writer.add("a", feature=unit_row(1)) == 1
        assert "can't start new thread" in caplog.text
        assert len(writer) == 1


def test_a_writer_that_fails_to_close_is_closed(index_dir, monkeypatch):
    def fail(*_):
        raise StorageError("the disk is failing")

    monkeypatch.setattr("retrieval.stores.opening.seal_if_due", fail)
    writer = IndexWriter.open(index_dir, fingerprint="f", embed_dim=WIDTH)
    writer.add("a", feature=unit_row(1))
    with pytest.raises(StorageError, match="the disk is failing"):
        writer.close()
    writer.close()
    with IndexWriter.open(index_dir) as again:
        assert len(again) == 1


def test_acknowledged_writes_are_on_the_disk(writer):
    (synchronous,) = writer._catalogue.connection.db.execute("PRAGMA synchronous").fetchone()
    assert synchronous == 2  # FULL: the log is flushed by every commit


def test_features_of_items_are_kept_in_halves(writer, index_dir):
    writer.add("a", feature=unit_row(1))
    database = sqlite3.connect(index_dir / CATALOGUE_NAME)
    stored = database.execute(
        "SELECT id, length(feature) FROM (SELECT image_id AS id, feature "
        "FROM images JOIN features USING (row))"
    ).fetchall()
    database.close()
    assert stored == [("a", 2 * WIDTH)]
