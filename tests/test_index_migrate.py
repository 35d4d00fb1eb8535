"""An index moved to another model: what it has then, and what whoever uses it meanwhile sees."""

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEncoder, as_stored, save_picture
from item_operations import png
from migrating_process import NumberedEncoder
from models import tiny_checkpoint
from older_catalogues import as_schema_1
from service_thread import Running, Service

from clip_text import Encoder
from clip_text.checkpoints import save_checkpoint
from retrieval.catalogue import Catalogue, IndexLock
from retrieval.catalogue.exchange import exchange_features
from retrieval.catalogue.halves import as_stored as halves_of
from retrieval.errors import (
    CorruptIndexError,
    EncoderError,
    IndexLockedError,
    IndexMismatchError,
    IndexNotFoundError,
    StorageError,
)
from retrieval.index import Recipe, compact, describe, verify
from retrieval.ingest import (
    IndexWriter,
    Item,
    abandon_migration,
    index_folder,
    index_items,
    migrate_index,
    migrating,
)
from retrieval.search import Searcher
from retrieval.search.query import LikeTerm, Query, TextTerm
from retrieval.service.app import Served, create_app
from retrieval.service.settings import Settings

OLD, NEW = NumberedEncoder(0), NumberedEncoder(1)
COUNT = 12


@pytest.fixture
def photos(tmp_path):
    """Pictures with captions, one of them twice, one in a folder, and a file that is none."""
    folder = tmp_path / "photos"
    for number in range(COUNT - 2):
        save_picture(folder / f"{number}.png", number)
    save_picture(folder / "below" / "deep.png", 50)
    (folder / "again.png").write_bytes((folder / "3.png").read_bytes())
    (folder / "broken.png").write_bytes(b"broken")
    lines = [
        {"file_name": f"{number}.png", "caption": f"第{number}只猫", "year": 2000 + number}
        for number in range(5)
    ]
    said = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (folder / "metadata.jsonl").write_text(said, encoding="utf-8")
    return folder


def build(index_dir, photos, encoder):
    """An index of a folder, a data set and an item; gives its folder."""
    index_folder(photos, index_dir, encoder)
    below = [Item(f"set-{i}", path=photos / f"{i}.png", caption="一套") for i in range(2)]
    index_items(below, index_dir, encoder, source="a set")
    with IndexWriter.open(index_dir, encoder) as writer:
        writer.add("own", path=photos / "9.png", metadata={"tags": ["红", "新"]})
    return index_dir


@pytest.fixture
def index_dir(tmp_path, photos):
    return build(tmp_path / "index", photos, OLD)


def held(index_dir):
    """All that an index says of its pictures, in the order of their rows."""
    with Catalogue.open(index_dir) as catalogue:
        records = list(catalogue)
        features = catalogue.features_of([record.row for record in records])
        assert len(features) == len(records)
        told = [(*record.picture, catalogue.sources.of(record.row)) for record in records]
        return told, np.stack([features[record.row] for record in records])


def left_beside(index_dir):
    return sorted(path.name for path in index_dir.parent.glob(f"{index_dir.name}.*"))


def hits_of(index_dir, encoder, query="猫", **options):
    with Searcher.open(index_dir, encoder) as searcher:
        return [(hit.row, hit.image_id, hit.score) for hit in searcher.search(query, 50, **options)]


def is_of(index_dir, encoder):
    with Catalogue.open(index_dir) as catalogue:
        return (catalogue.fingerprint, catalogue.embed_dim) == (
            encoder.fingerprint,
            encoder.embed_dim,
        )


def test_it_is_what_indexing_anew_makes(index_dir, photos, tmp_path):
    with Catalogue.open_for_writing(index_dir) as catalogue, catalogue.transaction():
        content = next(iter(catalogue)).picture.content_hash
        catalogue.keep_recognised(content, "出口")
    compact(index_dir, Recipe("exact"))
    before, words = held(index_dir)[0], hits_of(index_dir, OLD, "猫", hybrid=True)
    with Catalogue.open_for_writing(index_dir) as catalogue, catalogue.transaction():
        catalogue.set_calibration("of the model before")
    with Catalogue.open(index_dir) as catalogue:
        rows, failures = catalogue.rows().tolist(), catalogue.failures()
        counts = catalogue.sources.counts()
    encoder, told = NumberedEncoder(1), []
    report = migrate_index(index_dir, encoder, on_progress=told.append)
    assert (report.is_moved, report.total, report.encoded) == (True, COUNT + 3, COUNT - 1)
    assert (report.known, report.missing, encoder.seen) == (4, [], COUNT - 1)
    assert (told[-1].done, told[-1].total, told[-1].encoded) == (COUNT + 3, COUNT + 3, COUNT - 1)

    anew = build(tmp_path / "anew", photos, NEW)
    (said, features), (said_anew, expected) = held(index_dir), held(anew)
    assert said == said_anew == before
    np.testing.assert_allclose(features, expected, atol=1e-6)
    with Catalogue.open(index_dir) as catalogue:
        assert catalogue.rows().tolist() == rows
        assert (catalogue.failures(), catalogue.sources.counts()) == (failures, counts)
        assert catalogue.calibration is None
        records, texts = catalogue.records_and_texts(rows)
        assert set(texts.values()) == {"出口"}
        assert len(records) == len(rows)
    hits, hits_anew = hits_of(index_dir, NEW), hits_of(anew, NEW)
    assert [hit[:2] for hit in hits] == [hit[:2] for hit in hits_anew]
    assert [hit[2] for hit in hits] == pytest.approx([hit[2] for hit in hits_anew], abs=1e-6)
    # the words of captions rank as they did, whatever the model thinks of them
    by_words = hits_of(index_dir, NEW, "猫", hybrid=True)
    assert {hit[0] for hit in by_words} == {hit[0] for hit in words}
    assert verify(index_dir).problems == []
    assert describe(index_dir).vectors["state"] == "up to date"

    assert left_beside(index_dir) == ["index.before-migration"]
    kept = tmp_path / "index.before-migration"
    assert report.kept == kept.resolve()
    assert held(kept)[0] == before
    assert is_of(kept, OLD)
    assert verify(kept).problems == []


def test_it_goes_on_after_indexing_as_any_index(index_dir, photos):
    migrate_index(index_dir, NEW)
    report = index_folder(photos, index_dir, NEW)
    assert (report.unchanged, report.encoded, report.updated) == (COUNT, 0, 0)
    with pytest.raises(IndexMismatchError, match="expected a model of width 24"):
        index_folder(photos, index_dir, OLD)


def test_the_old_index_is_deleted_if_so_asked(index_dir):
    report = migrate_index(index_dir, NEW, keep_old=False)
    assert (report.is_moved, report.kept, report.old_bytes > 4096) == (True, None, True)
    assert left_beside(index_dir) == []


def test_going_back_encodes_only_what_came_since(index_dir, photos, tmp_path):
    before = held(index_dir)
    migrate_index(index_dir, NEW)
    save_picture(photos / "new.png", 99)
    index_folder(photos, index_dir, NEW)
    encoder = NumberedEncoder(0)
    report = migrate_index(index_dir, encoder)
    assert (encoder.seen, report.encoded, report.known) == (1, 1, COUNT + 3)
    said, features = held(index_dir)
    assert said[: len(before[0])] == before[0]
    np.testing.assert_array_equal(features[:-1], before[1])
    np.testing.assert_array_equal(features[-1], as_stored(OLD.encode_file(photos / "new.png")))
    # nothing that was kept is ever replaced
    assert left_beside(index_dir) == ["index.before-migration", "index.before-migration-2"]
    assert held(tmp_path / "index.before-migration")[0] == before[0]


def test_another_index_may_have_the_features(index_dir, photos, tmp_path):
    pictures = tmp_path / "as-bytes"
    with IndexWriter.open(index_dir, OLD) as writer:
        writer.add("bytes", data=png(7))
    with IndexWriter.open(pictures, NEW) as writer:
        writer.add("whatever", data=png(7))
    with pytest.raises(
        IndexMismatchError, match=f"expected features of the model {NEW.fingerprint}"
    ):
        migrate_index(index_dir, NEW, features_from=[tmp_path / "index"])
    assert not migrate_index(index_dir, NEW).is_moved
    report = migrate_index(index_dir, NEW, features_from=[pictures])
    assert (report.is_moved, report.encoded, report.known) == (True, 0, COUNT + 4)
    assert held(index_dir)[1][-1].tobytes() == held(pictures)[1][0].tobytes()


def in_the_middle(act):
    """A model that does something while it encodes its second batch."""

    def before_batch(_):
        if encoder.seen == 4:
            act()

    encoder = NumberedEncoder(1)
    encoder._before_batch = before_batch
    return encoder


def test_what_is_written_meanwhile_is_in_it(index_dir, photos):
    told = []

    def write():
        with IndexWriter.open(index_dir, OLD) as writer:
            writer.add("late", path=save_picture(photos.parent / "late.png", 77), caption="晚")
            writer.add("own", path=save_picture(photos.parent / "other.png", 78))
            writer.update("set-1", caption="变了")
            writer.delete(["set-0"])
        (photos / "7.png").unlink()
        save_picture(photos / "2.png", 80)
        (photos / "4.png").rename(photos / "moved.png")
        index_folder(photos, index_dir, OLD)
        told.append(held(index_dir)[0])
        assert [hit[0] for hit in hits_of(index_dir, OLD)] != []

    report = migrate_index(index_dir, in_the_middle(write), batch_size=4, workers=1)
    assert report.is_moved
    said, features = held(index_dir)
    assert said == told[0]
    for picture, feature in zip(said, features, strict=True):
        expected = NEW.encode_file(Path(os.fsdecode(picture[1])))
        np.testing.assert_array_equal(feature, as_stored(expected))
    assert verify(index_dir).problems == []


def test_who_writes_at_the_end_is_waited_for(index_dir, photos, monkeypatch):
    """Others hold the lock, and add pictures under it: those are encoded as well."""
    monkeypatch.setattr(migrating, "_CAUGHT_UP_S", 0.02)
    waiting = threading.Event()

    def write():
        with IndexWriter.open(index_dir, OLD) as writer:
            ready.set()
            waiting.wait(20)
            for number in range(6):
                writer.add(
                    f"late-{number}",
                    path=save_picture(photos.parent / f"{number}.png", number + 60),
                )

    ready = threading.Event()
    thread = threading.Thread(target=write)
    thread.start()
    ready.wait(20)
    waits = []

    def on_wait():
        waits.append(1)
        waiting.set()

    report = migrate_index(index_dir, NEW, on_wait=on_wait)
    thread.join()
    assert (report.is_moved, report.total, waits) == (True, COUNT + 9, [1])
    for picture, feature in zip(*held(index_dir), strict=True):
        expected = NEW.encode_file(Path(os.fsdecode(picture[1])))
        np.testing.assert_array_equal(feature, as_stored(expected))


def test_much_that_came_at_the_end_is_encoded_without_the_lock(index_dir, photos, monkeypatch):
    monkeypatch.setattr(migrating, "_MOST_AT_THE_END", 2)
    opened, real = [], migrating.open_for_writing

    def late(*args, **options):
        """Let another one have been quicker to the lock."""
        if not opened:
            with IndexWriter.open(index_dir, OLD) as writer:
                for number in range(5):
                    writer.add(
                        f"l-{number}",
                        path=save_picture(photos.parent / f"{number}.png", number + 60),
                    )
        opened.append(1)
        return real(*args, **options)

    monkeypatch.setattr(migrating, "open_for_writing", late)
    report = migrate_index(index_dir, NEW)
    assert (report.is_moved, report.total, len(opened)) == (True, COUNT + 8, 2)


def test_what_cannot_be_encoded_is_told_and_only_left_out_if_so_asked(index_dir, photos):
    with IndexWriter.open(index_dir, OLD) as writer:
        writer.add("feature", feature=OLD.encode_text(["a"])[0])
        writer.add("bytes", data=png(7))
    (photos / "5.png").unlink()
    save_picture(photos / "6.png", 500)
    before, hits = held(index_dir), hits_of(index_dir, OLD)
    report = migrate_index(index_dir, NEW)
    assert (report.is_moved, report.encoded, report.kept) == (False, COUNT - 3, None)
    root = photos.resolve()
    assert [(Path(name).name, why) for name, why in report.missing] == [
        ("5.png", "No such file or directory"),
        ("6.png", "its file is another picture by now"),
        ("feature", "it came as a finished feature, without a picture"),
        ("bytes", "it came without a file, from a data set or as bytes"),
    ]
    assert report.missing[0][0] == root / "5.png"
    after = held(index_dir)
    assert after[0] == before[0]
    np.testing.assert_array_equal(after[1], before[1])
    assert hits_of(index_dir, OLD) == hits

    save_picture(photos / "5.png", 5)  # it is back: what had been encoded is not encoded again
    encoder = NumberedEncoder(1)
    report = migrate_index(index_dir, encoder, drop_missing=True)
    assert (report.is_moved, encoder.seen, report.dropped, report.total) == (True, 1, 3, COUNT + 2)
    assert [Path(name).name for name, _ in report.missing] == ["6.png", "feature", "bytes"]
    gone = {"6.png", "feature", "bytes"}
    assert held(index_dir)[0] == [one for one in before[0] if one[2] not in gone]
    assert verify(index_dir).problems == []


def test_a_copy_stands_for_a_file_that_is_gone(index_dir, photos):
    (photos / "3.png").unlink()  # again.png has its content
    report = migrate_index(index_dir, NEW)
    assert (report.is_moved, report.total) == (True, COUNT + 3)


def test_a_model_that_cannot_read_a_picture_says_why(index_dir, photos):
    def load(source):
        if Path(source).name == "7.png":
            raise ValueError("expected\na square, got none.")
        return NEW.load_pixels(source)

    report = migrate_index(index_dir, NumberedEncoder(1, load=load))
    assert [(Path(name).name, why) for name, why in report.missing] == [
        ("7.png", "expected a square, got none.")
    ]


def test_features_that_are_none_end_it_and_leave_the_index(index_dir):
    class Wrong(NumberedEncoder):
        def encode_pixels(self, pixels):
            return 2 * super().encode_pixels(pixels)

    with pytest.raises(EncoderError, match="unit rows"):
        migrate_index(index_dir, Wrong(1))
    assert is_of(index_dir, OLD)
    assert migrate_index(index_dir, NEW).is_moved


def test_a_full_disk_leaves_the_index_as_it_was(index_dir, monkeypatch):
    before, hits = held(index_dir), hits_of(index_dir, OLD)
    wide = FakeEncoder(2000, "wide")

    def exchange(catalogue, *args):
        (pages,) = catalogue.connection.db.execute("PRAGMA page_count").fetchone()
        catalogue.connection.db.execute(f"PRAGMA max_page_count = {pages + 2}")
        exchange_features(catalogue, *args)

    with monkeypatch.context() as full:
        full.setattr(migrating, "exchange_features", exchange)
        with pytest.raises(StorageError, match=r"is full.*what was stored before stays"):
            migrate_index(index_dir, wide)
    after = held(index_dir)
    assert after[0] == before[0]
    np.testing.assert_array_equal(after[1], before[1])
    assert hits_of(index_dir, OLD) == hits
    report = migrate_index(index_dir, wide)
    assert (report.is_moved, report.encoded) == (True, 0)
    assert left_beside(index_dir) == ["index.before-migration"]


def test_what_was_begun_with_another_model_is_finished_or_forgotten_first(index_dir, photos):
    (photos / "5.png").unlink()
    assert not migrate_index(index_dir, NEW, model="the-new-one").is_moved
    message = r"expected to go on to the-new-one .*, got another .*\. .*--abandon"
    for options in ({}, {"cut": True}):
        with pytest.raises(IndexMismatchError, match=message):
            migrate_index(index_dir, NumberedEncoder(2), model="another", **options)
    # the index's own model: nothing to do, and nothing is lost of what was begun
    report = migrate_index(index_dir, OLD)
    assert (report.is_same, report.is_moved) == (True, False)
    assert left_beside(index_dir) == ["index.migrating"]
    assert abandon_migration(index_dir) > 4096
    assert left_beside(index_dir) == []
    with pytest.raises(IndexNotFoundError, match="There is nothing to forget"):
        abandon_migration(index_dir)
    assert migrate_index(index_dir, NumberedEncoder(2), drop_missing=True).is_moved


def test_a_damaged_file_of_it_is_told_and_may_be_forgotten(index_dir, photos):
    (photos / "5.png").unlink()
    migrate_index(index_dir, NEW)
    (gathered,) = index_dir.parent.glob("*.migrating/features.sqlite")
    for path in gathered.parent.glob("features.sqlite*"):
        path.write_bytes(b"no database at all" * 1000)
    with pytest.raises(CorruptIndexError, match="--abandon"):
        migrate_index(index_dir, NEW)
    abandon_migration(index_dir)
    assert migrate_index(index_dir, NEW, drop_missing=True).is_moved


def test_the_same_model_is_nothing_to_do(index_dir):
    encoder = NumberedEncoder(0)
    before = (index_dir / "catalogue.sqlite").read_bytes()
    report = migrate_index(index_dir, encoder)
    assert (report.is_same, report.is_moved, encoder.seen) == (True, False, 0)
    assert (index_dir / "catalogue.sqlite").read_bytes() == before
    assert left_beside(index_dir) == []


def test_one_moves_it_at_a_time_and_none_is_made(index_dir, tmp_path):
    with IndexLock(tmp_path / "index.migrating"):
        for call in (lambda: migrate_index(index_dir, NEW), lambda: abandon_migration(index_dir)):
            with pytest.raises(IndexLockedError, match="expected to be the only one that moves"):
                call()
    with pytest.raises(IndexNotFoundError):
        migrate_index(tmp_path / "none", NEW)
    assert left_beside(tmp_path / "none") == []


class CutEncoder(NumberedEncoder):
    """The first dimensions of the old model, made unit rows again."""

    def __init__(self, embed_dim):
        super().__init__(0)
        self.embed_dim, self.fingerprint = embed_dim, f"model-0-{embed_dim}"

    def encode_pixels(self, pixels):
        rows = super().encode_pixels(pixels)[:, : self.embed_dim]
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_rows_of_the_same_model_are_cut(index_dir, photos, tmp_path):
    compact(index_dir)
    encoder = CutEncoder(6)
    report = migrate_index(index_dir, encoder, cut=True)
    assert (report.is_moved, report.encoded, report.known, encoder.seen) == (True, 0, COUNT + 3, 0)
    anew = build(tmp_path / "anew", photos, encoder)
    (said, features), (said_anew, expected) = held(index_dir), held(anew)
    assert said == said_anew
    np.testing.assert_allclose(features, expected, atol=2e-3)  # of fp16
    assert features.shape == (COUNT + 3, 6)
    assert verify(index_dir).problems == []
    assert describe(index_dir).vectors["sealed"] == COUNT + 3
    assert is_of(report.kept, OLD)
    assert left_beside(index_dir) == ["index.before-migration"]


def test_an_index_of_schema_1_is_upgraded_and_moved(photos, tmp_path):
    index_dir = tmp_path / "old"
    index_folder(photos, index_dir, OLD)
    before = held(index_dir)[0]
    as_schema_1(index_dir)
    report = migrate_index(index_dir, NEW)
    assert (report.is_moved, report.total) == (True, COUNT)
    said, features = held(index_dir)
    assert said == before
    for picture, feature in zip(said, features, strict=True):
        expected = NEW.encode_file(Path(os.fsdecode(picture[1])))
        np.testing.assert_array_equal(feature, as_stored(expected))


def test_recipes_are_kept_where_they_fit(index_dir):
    recipe = Recipe("IVF2,SQfp16", probes=2, candidates=32)
    compact(index_dir, recipe)
    migrate_index(index_dir, NumberedEncoder(2))  # as wide
    assert describe(index_dir).vectors["recipe"] == "IVF2,SQfp16"
    assert describe(index_dir).vectors["sealed"] == COUNT + 3
    migrate_index(index_dir, NEW)  # wider
    assert describe(index_dir).vectors["recipe"] == "exact"
    assert describe(index_dir).vectors["state"] == "up to date"
    assert verify(index_dir).problems == []


def test_a_reader_from_before_never_takes_other_features_for_its_own(index_dir):
    with Catalogue.open(index_dir) as reader:
        row = int(reader.rows()[0])
        picture = reader.records([row])[row].picture
        migrate_index(index_dir, NEW)
        assert reader.is_replaced
        assert reader.records([row])[row].picture == picture
        for read in (
            lambda: reader.features_of([row]),
            lambda: list(reader.features()),
            lambda: reader.draw(3),
            lambda: list(reader.stored_features(8)),
        ):
            with pytest.raises(IndexMismatchError, match="to which the index was moved"):
                read()


def test_a_searcher_goes_on_until_the_moved_index_is_written_to(index_dir, photos, caplog):
    with Searcher.open(index_dir, OLD) as searcher:
        before = searcher.search("猫", 50)
        migrate_index(index_dir, NEW)
        for _ in range(2):
            assert searcher.refresh() is False
            assert searcher.search("猫", 50) == before
        assert caplog.text.count("was moved to the model with fingerprint model-1") == 1
        for query in (Query((LikeTerm("own"),)), Query((TextTerm("猫"),), diversity=0.5)):
            with pytest.raises(IndexMismatchError, match="to which the index was moved"):
                searcher.search(query)
        with IndexWriter.open(index_dir, NEW) as writer:
            writer.delete(["own"])
        with pytest.raises(IndexMismatchError):
            searcher.refresh()


def test_a_searcher_that_lagged_behind_does_not_go_on(index_dir, photos):
    with Searcher.open(index_dir, OLD) as searcher:
        with IndexWriter.open(index_dir, OLD) as writer:
            writer.add("own", path=photos / "8.png")  # another picture in this row
        migrate_index(index_dir, NEW)
        with pytest.raises(IndexMismatchError):
            searcher.refresh()


def test_a_service_answers_from_the_old_index_until_it_is_opened_anew(tmp_path):
    index_dir = tmp_path / "index"
    with Service(index_dir, OLD) as service:
        for number in range(4):
            assert service.add(f"item-{number}", png(number)).status_code == 201
        before = service.search()
        uploads = sorted(path.name for path in (index_dir / "uploads").rglob("*.png"))
        report = migrate_index(index_dir, NEW)
        assert (report.is_moved, report.encoded) == (True, 4)
        service.searcher.refresh(at_once=True)
        assert service.search()["hits"] == before["hits"]
        assert service.client.get("/readyz").status_code == 200
        refused = service.add("more", png(9))
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "index_mismatch")
    with Service(index_dir, NEW) as service:
        assert service.ids() == [f"item-{number}" for number in range(4)]
        assert service.add("more", png(9)).status_code == 201
        assert len(service.ids()) == 5
        image = service.search()["hits"][0]["image_url"]
        assert service.client.get(image).status_code == 200
    kept = sorted(path.name for path in (index_dir / "uploads").rglob("*.png"))
    assert set(uploads) < set(kept)


def test_a_service_whose_moved_index_is_written_to_says_so(tmp_path):
    index_dir = tmp_path / "index"
    with Service(index_dir, OLD) as service:
        service.add("a", png(1))
        migrate_index(index_dir, NEW)
        with IndexWriter.open(index_dir, NEW) as writer:
            writer.add("b", data=png(2))
        for _ in range(200):
            if service.client.get("/readyz").status_code == 503:
                break
            threading.Event().wait(0.05)
        answer = service.client.post("/v1/search", json={"query": "猫"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "index_mismatch")


def test_a_service_reloads_the_moved_index_without_a_pause(tmp_path, photos):
    """As one does by SIGHUP: the configuration names the other model, and it is opened by that."""
    index_dir = build(tmp_path / "index", photos, OLD)
    now = [OLD]

    def opened():
        searcher = Searcher.open(index_dir, now[0])
        return [Served(searcher, encoder=now[0], index_dir=index_dir, runtime="fake")]

    app = create_app(*opened(), settings=Settings(lock_rest_s=0.05), reopen=opened)
    with Running(app) as client:
        asked = {"query": "猫", "top_k": 50}
        before = client.post("/v1/search", json=asked).json()["hits"]
        migrate_index(index_dir, NEW)
        refused = client.post("/v1/admin/reload", headers={"content-type": "application/json"})
        assert (refused.status_code, refused.json()["error"]["type"]) == (409, "reload_failed")
        assert client.post("/v1/search", json=asked).json()["hits"] == before
        now[0] = NEW
        reloaded = client.post("/v1/admin/reload", headers={"content-type": "application/json"})
        assert reloaded.status_code == 200
        after = client.post("/v1/search", json=asked).json()["hits"]
        assert [hit["row"] for hit in after] == [hit[0] for hit in hits_of(index_dir, NEW)]
        assert [hit["row"] for hit in after] != [hit["row"] for hit in before]
        assert client.get("/readyz").status_code == 200


@pytest.fixture(scope="module")
def two_models(tmp_path_factory):
    """Two real models, tiny and random, of other widths."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "two")):
        save_checkpoint(tiny_checkpoint(seed=seed), folder / name)
    return folder / "one", folder / "two"


def test_the_command_moves_an_index_of_a_real_model(photos, tmp_path, two_models, run):
    one, two = two_models
    index = tmp_path / "index"
    assert run("index", photos, "--index", index, "--model", one)[0] == 3  # broken.png
    code, out, _ = run("index", "migrate", "--to", two, "--index", index, "--json")
    told = json.loads(out)
    assert (code, told["is_moved"], told["total"], told["encoded"]) == (0, True, COUNT, COUNT - 1)
    assert told["kept"] == str((tmp_path / "index.before-migration").resolve())
    run("index", photos, "--index", tmp_path / "anew", "--model", two)
    np.testing.assert_allclose(held(index)[1], held(tmp_path / "anew")[1], atol=1e-3)
    hits = [
        json.loads(run("search", "猫", "--index", where, "--model", two, "--json")[1])["hits"]
        for where in (index, tmp_path / "anew")
    ]
    assert [hit["image_id"] for hit in hits[0]] == [hit["image_id"] for hit in hits[1]]
    code, out, err = run("search", "猫", "--index", index, "--model", one)
    assert (code, "expected the model with fingerprint" in err) == (1, True)
    code, out, _ = run("index", "migrate", "--to", two, "--index", index)
    assert (code, "already: nothing to do" in out) == (0, True)


def test_the_command_cuts_the_rows_of_its_own_model(photos, tmp_path, two_models, run):
    one, _ = two_models
    index, options = tmp_path / "index", ["--index", tmp_path / "index"]
    run("index", photos, *options, "--model", one)
    code, out, _ = run("index", "migrate", "--to", one, *options, "--dimensions", 8, "--delete-old")
    assert (code, "of 8 dimensions" in out, "are gone" in out) == (0, True, True)
    code, out, _ = run("index", "migrate", "--to", one, *options, "--dimensions", 4, "--json")
    assert (code, json.loads(out)["encoded"], json.loads(out)["known"]) == (0, 0, COUNT)
    with Searcher.open(index, Encoder.from_pretrained(one, dimensions=4)) as searcher:
        assert len(searcher.search("猫", 50)) == COUNT


def test_the_command_says_what_is_missing_and_what_to_do(photos, tmp_path, two_models, run):
    one, two = two_models
    index = ["--index", tmp_path / "index"]
    run("index", photos, *index, "--model", one)
    (photos / "5.png").unlink()
    code, out, err = run("index", "migrate", "--to", two, *index)
    assert code == 1
    assert f"missing: {photos.resolve() / '5.png'}: No such file or directory" in out
    assert "got 1 that cannot; the index stays as it is" in err
    assert "--drop-missing" in err
    code, out, _ = run("index", "migrate", "--to", two, *index, "--drop-missing")
    assert (code, "1 left out" in out, "left out: " in out) == (0, True, True)
    code, _, err = run("index", "migrate", "--abandon", *index)
    assert (code, "got none. There is nothing to forget." in err) == (1, True)
    for options, message in (
        ([], "expected the model to move to, got none"),
        (["--to", one, "--abandon"], "got both"),
    ):
        code, _, err = run("index", "migrate", *options, *index)
        assert code == 2
        assert message in " ".join(err.replace("│", " ").split())
    code, _, err = run("index", "migrate", "--to", one, "--index", "milvus://localhost:1/photos")
    assert code == 2
    assert "which is on a server" in " ".join(err.replace("│", " ").split())


def test_halves_taken_over_are_the_very_halves(index_dir, photos):
    """What an index keeps goes through a migration back and forth without a digit changed."""
    with Catalogue.open(index_dir) as catalogue:
        blobs = [blob for page in catalogue.stored_features(100) for _, blob in page]
    migrate_index(index_dir, NEW)
    migrate_index(index_dir, OLD)
    with Catalogue.open(index_dir) as catalogue:
        again = [blob for page in catalogue.stored_features(100) for _, blob in page]
    assert [halves_of(blob).tobytes() for blob in again] == blobs
