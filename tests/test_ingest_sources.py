"""Data sets as sources of an index: items that come, change, go, fail, and are whose."""

import io
import os
import threading

import numpy as np
import pytest
from fakes import FakeEncoder, as_stored, decode, save_picture
from PIL import Image

from retrieval.catalogue import Catalogue
from retrieval.errors import IndexMismatchError, ItemError
from retrieval.index import describe
from retrieval.ingest import (
    IndexWriter,
    Item,
    Unreadable,
    index_folder,
    index_items,
    remove_pictures,
)

WIDTH = 16


def picture(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


def unit(seed):
    row = np.random.default_rng(seed).standard_normal(WIDTH)
    return (row / np.linalg.norm(row)).astype(np.float32)


def item(name, seed=None, **said):
    content = picture(hash_of(name) if seed is None else seed)
    return Item(name, data=lambda: content, **said)


def hash_of(name):
    return int.from_bytes(name.encode(), "big") % 10**6


class Bench:
    """An index and a fresh encoder for every run."""

    def __init__(self, index_dir):
        self.index_dir = index_dir

    def run(self, *items, source="/data/a.tar", **options):
        self.encoder = FakeEncoder(before_batch=options.pop("before_batch", None))
        self.report = index_items(items, self.index_dir, self.encoder, source=source, **options)
        names = ("added", "updated", "unchanged", "duplicates", "removed", "failed", "encoded")
        return {name: n for name in names if (n := getattr(self.report, name))}

    def records(self):
        with Catalogue.open(self.index_dir) as catalogue:
            return {record.picture.image_id: record for record in catalogue}

    def said(self):
        return {n: (one.picture.caption, one.metadata) for n, one in self.records().items()}

    def feature(self, name):
        row = self.records()[name].row
        with Catalogue.open(self.index_dir) as catalogue:
            return catalogue.features_of([row])[row]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "index")


def test_items_are_added_in_their_order_with_what_is_said_of_them(bench):
    items = [item("b", caption="海", metadata={"n": 1}), item("a"), item("c/狗 1")]
    assert bench.run(*items) == {"added": 3, "encoded": 3}
    records = bench.records()
    assert [records[name].row for name in ("b", "a", "c/狗 1")] == [1, 2, 3]
    assert bench.said() == {"b": ("海", {"n": 1}), "a": (None, {}), "c/狗 1": (None, {})}
    stored = records["a"].picture
    assert (stored.root, stored.path, stored.size) == (None, None, len(picture(hash_of("a"))))
    assert (stored.width, stored.height) == (12, 9)
    expected = as_stored(bench.encoder.encode_pixels([decode(picture(hash_of("a")))])[0])
    assert np.array_equal(bench.feature("a"), expected)


def test_a_second_run_encodes_nothing_and_takes_over_what_is_said(bench):
    bench.run(item("a", caption="海"), item("b"))
    assert bench.run(item("a", caption="海"), item("b")) == {"unchanged": 2}
    assert bench.encoder.loaded == []
    assert bench.run(item("a"), item("b", metadata={"n": 2})) == {"updated": 2}
    assert bench.said() == {"a": (None, {}), "b": (None, {"n": 2})}


def test_another_picture_under_the_same_id_keeps_its_row(bench):
    bench.run(item("a"), item("b"))
    before = bench.feature("b")
    assert bench.run(item("a"), item("b", seed=99)) == {
        "unchanged": 1,
        "updated": 1,
        "encoded": 1,
    }
    assert bench.records()["b"].row == 2
    assert not np.array_equal(bench.feature("b"), before)


def test_copies_are_encoded_once(bench):
    items = [item(f"{n}", seed=n % 3) for n in range(30)]
    assert bench.run(*items, batch_size=4) == {"added": 3, "duplicates": 27, "encoded": 3}
    assert bench.run(*items, item("more", seed=1)) == {"unchanged": 30, "duplicates": 1}


def test_what_a_folder_has_is_not_encoded_again(bench, tmp_path):
    path = save_picture(tmp_path / "p" / "x.png", 5)
    index_folder(tmp_path / "p", bench.index_dir, FakeEncoder())
    same = Item("mine", data=path.read_bytes())
    assert bench.run(same) == {"duplicates": 1}
    assert bench.report.total == 2


def test_pictures_that_are_files_are_not_even_read_again(bench, tmp_path, monkeypatch):
    path = save_picture(tmp_path / "p.png", 5)
    assert bench.run(Item("a", path), Item("b", tmp_path / "none.png")) == {
        "added": 1,
        "failed": 1,
        "encoded": 1,
    }
    assert bench.report.failures == [("b", "No such file or directory")]
    assert bench.records()["a"].picture.path == os.fsencode(path)
    monkeypatch.setattr("retrieval.ingest.examine.hash_file", None)
    assert bench.run(Item("a", path)) == {"unchanged": 1}
    monkeypatch.undo()
    save_picture(path, 6)
    assert bench.run(Item("a", path)) == {"updated": 1, "encoded": 1}
    moved = path.rename(tmp_path / "q.png")
    assert bench.run(Item("a", moved)) == {"updated": 1}
    assert bench.records()["a"].path == moved


def test_another_file_of_the_same_size_and_time_is_read(bench, tmp_path):
    files = [save_picture(tmp_path / f"{n}.bmp", n) for n in (1, 2)]
    for file in files:
        os.utime(file, ns=(10**18, 10**18))
    bench.run(Item("a", files[0]))
    assert bench.run(Item("a", files[1])) == {"updated": 1, "encoded": 1}


def test_what_is_gone_stays_until_it_is_asked_for(bench):
    bench.run(item("a"), item("b"), item("c"))
    bench.run(item("z"), source="/data/z.tar")
    assert bench.run(item("b")) == {"unchanged": 1}
    assert bench.report.notes == [
        "2 pictures in the index are not in /data/a.tar any more. --prune forgets them."
    ]
    assert bench.run(item("b"), prune=True) == {"unchanged": 1, "removed": 2}
    assert set(bench.records()) == {"b", "z"}
    assert bench.run(item("b"), prune=True) == {"unchanged": 1}


def test_nothing_is_forgotten_where_not_all_could_be_read(bench):
    bench.run(item("a"), item("b"))
    assert bench.run(item("b"), Unreadable("x.tar", "it is cut off"), prune=True) == {
        "unchanged": 1,
        "failed": 1,
    }
    assert bench.report.failures == [("x.tar", "it is cut off")]
    assert "They stay" in bench.report.notes[0]
    assert set(bench.records()) == {"a", "b"}


def test_nothing_is_forgotten_where_an_item_cannot_be_kept(bench):
    bench.run(item("a"), item("b"))
    odd = item("a", metadata={"n": float("nan")})
    assert bench.run(odd, item("b"), prune=True) == {"unchanged": 1, "failed": 1}
    assert set(bench.records()) == {"a", "b"}


def test_a_data_set_that_lost_all_its_pictures_is_refused(bench):
    assert bench.run() == {}
    bench.run(item("a"))
    for options in ({}, {"prune": True}):
        with pytest.raises(ItemError, match=r"got none.*allow_empty"):
            bench.run(**options)
    assert bench.run(allow_empty=True) == {}
    assert bench.run(prune=True, allow_empty=True) == {"removed": 1}


def test_broken_pictures_are_set_aside_each_time(bench):
    def lost():
        raise OSError(5, "I/O error")

    items = [item("a"), Item("b", data=b"no picture"), Item("c", data=lost), Item("d")]
    assert bench.run(*items) == {"added": 1, "failed": 3, "encoded": 1}
    assert [name for name, _ in bench.report.failures] == ["b", "c", "d"]
    assert bench.run(*items) == {"unchanged": 1, "failed": 3}
    lines = bench.report.lines()
    assert any(line.startswith("  failed: b: expected a picture") for line in lines)


def test_what_becomes_broken_is_forgotten_and_what_cannot_be_read_now_is_kept(bench):
    def lost():
        raise PermissionError(13, "not now")

    bench.run(item("a"), item("b"))
    assert bench.run(Item("a", data=b"broken"), Item("b", data=lost), prune=True) == {"failed": 2}
    assert set(bench.records()) == {"b"}


@pytest.mark.parametrize("first", ["broken", "good"])
def test_an_id_that_comes_broken_and_good_stays(first, bench):
    broken, good = Item("a", data=b"broken"), item("a")
    items = [broken, good] if first == "broken" else [good, broken]
    assert bench.run(*items, prune=True) == {"added": 1, "failed": 1, "encoded": 1}
    row = bench.records()["a"].row
    for _ in range(2):
        assert bench.run(*items, prune=True) == {"unchanged": 1, "failed": 1}
        assert bench.records()["a"].row == row


def test_pictures_whose_files_are_out_of_reach_stay(bench, tmp_path):
    files = [save_picture(tmp_path / "images" / f"{n}.png", n) for n in range(3)]
    items = [Item(file.name, file) for file in files]
    bench.run(*items)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    assert bench.run(*items, prune=True) == {"failed": 3}
    assert len(bench.records()) == 3
    (tmp_path / "elsewhere").rename(tmp_path / "images")
    files[1].unlink()
    files[2].unlink()
    files[2].mkdir()
    assert bench.run(*items) == {"unchanged": 1, "failed": 2}
    assert set(bench.records()) == {"0.png", "1.png"}


@pytest.mark.parametrize(
    ("odd", "match"),
    [
        (Item(""), "an id of 1 to 1000 characters"),
        (Item("a\nb"), "an id on one line"),
        (Item("x" * 1001), "got 1001"),
        (Item("\ud800"), "one line"),
        (Item("a", data=b"", caption="\ud800"), "a caption in Unicode"),
        (Item("a", data=b"", metadata={"n": float("nan")}), "metadata that JSON can hold"),
        (Item("a", "/\0"), "null"),
        (Item("a", feature=[1.0, 2.0]), "shape|width"),
        (Item("a", feature=np.full(WIDTH, np.nan, np.float32)), "unit rows"),
    ],
)
def test_items_that_cannot_be_kept_are_told_of_and_the_others_stored(odd, match, bench):
    assert bench.run(odd, item("good")) == {"added": 1, "failed": 1, "encoded": 1}
    ((_, reason),) = bench.report.failures
    assert any(word in reason for word in match.split("|"))
    "\n".join(bench.report.lines()).encode()


def test_an_id_that_comes_twice_counts_once(bench):
    items = [item("a"), item("a", seed=7), item("b"), item("a")]
    assert bench.run(*items) == {"added": 2, "failed": 2, "encoded": 3}
    assert {reason for _, reason in bench.report.failures} == {
        "expected ids that differ, got one again. The first one counts."
    }
    assert bench.run(*items, batch_size=1)["unchanged"] == 2
    assert bench.records()["a"].row == 1


def test_two_data_sets_with_one_id(bench):
    """The same picture goes to whoever says so last; another picture is refused."""
    bench.run(item("a"), item("b"), source="/data/old.tar")
    assert bench.run(item("a"), item("b", seed=1), source="/data/new.tar") == {
        "updated": 1,
        "failed": 1,
        "encoded": 1,
    }
    ((name, reason),) = bench.report.failures
    assert (name, "/data/old.tar" in reason, "--prefix" in reason) == ("b", True, True)
    assert describe(bench.index_dir).sources == {"/data/new.tar": 1, "/data/old.tar": 1}
    assert bench.run(item("b"), source="/data/old.tar", prune=True) == {"unchanged": 1}
    assert set(bench.records()) == {"a", "b"}


def test_an_item_of_a_program_is_not_replaced_by_another_picture(bench):
    with IndexWriter.open(bench.index_dir, FakeEncoder()) as writer:
        writer.add("a", data=picture(1), caption="mine")
    assert bench.run(item("a", seed=2))["failed"] == 1
    assert "that is of no data set" in bench.report.failures[0][1]
    assert bench.said() == {"a": ("mine", {})}


def test_a_data_set_is_removed_by_its_name(bench):
    bench.run(item("a"), item("b"))
    bench.run(item("z"), source="/data/z.tar")
    with pytest.raises(Exception, match=r"Indexed data sets: /data/a.tar, /data/z.tar"):
        remove_pictures(bench.index_dir, sources=["/data/none.tar"])
    assert remove_pictures(bench.index_dir, sources=["/data/a.tar"]) == 2
    assert set(bench.records()) == {"z"}
    assert describe(bench.index_dir).sources == {"/data/z.tar": 1}


def test_whose_items_are_outlives_another_version_of_the_table(bench, monkeypatch):
    """Nothing else says it, so unlike what is derived it is never dropped."""
    from dataclasses import replace

    from retrieval.catalogue.sources import SOURCES

    bench.run(item("a"))
    newer = replace(SOURCES, version=2)
    monkeypatch.setattr("retrieval.catalogue.followers.FOLLOWERS", [newer])
    monkeypatch.setattr("retrieval.catalogue.sources.SOURCES", newer)
    bench.run(item("b"), source="/data/b.tar")
    assert describe(bench.index_dir).sources == {"/data/a.tar": 1, "/data/b.tar": 1}


def test_an_index_from_before_there_were_data_sets(bench, tmp_path):
    save_picture(tmp_path / "p" / "x.png", 5)
    index_folder(tmp_path / "p", bench.index_dir, FakeEncoder())
    with Catalogue.open_for_writing(bench.index_dir) as catalogue, catalogue.transaction():
        for name in ("TRIGGER source_items_removed", "TABLE source_items", "TABLE sources"):
            catalogue.connection.write(f"DROP {name}", ())
        catalogue.connection.write("DELETE FROM meta WHERE key = 'follower_sources'", ())
    assert describe(bench.index_dir).sources == {}
    assert bench.run(item("a")) == {"added": 1, "encoded": 1}
    assert describe(bench.index_dir).sources == {"/data/a.tar": 1}


def test_finished_features_are_stored_as_they_are(bench):
    items = [Item(f"{n}", feature=unit(n), caption=f"nr {n}") for n in range(5)]
    assert bench.run(*items) == {"added": 5}
    assert bench.encoder.loaded == []
    assert np.array_equal(bench.feature("3"), as_stored(unit(3)))
    assert bench.run(*items) == {"unchanged": 5}
    changed = [Item("0", feature=unit(9)), *items[1:4], Item("4", feature=unit(4))]
    assert bench.run(*changed) == {"unchanged": 3, "updated": 2}
    assert np.array_equal(bench.feature("0"), as_stored(unit(9)))
    with Catalogue.open(bench.index_dir) as catalogue:
        assert catalogue.precisions == ()


def test_an_interrupted_run_keeps_what_was_stored_and_goes_on(bench):
    threads = threading.active_count()  # of all that ran in this process before
    items = [item(f"{n:02}") for n in range(20)]
    batches = []

    def stop(count):
        batches.append(count)
        if len(batches) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.run(*items, batch_size=4, before_batch=stop)
    assert list(bench.records()) == [f"{n:02}" for n in range(8)]
    assert bench.run(*items, batch_size=4) == {"unchanged": 8, "added": 12, "encoded": 12}
    assert threading.active_count() <= threads


def test_no_more_pictures_are_in_memory_than_are_worked_on(bench):
    alive, most = set(), []

    class Content:
        def __init__(self, n):
            self.n = n

        def __call__(self):
            return picture(self.n % 7)

        def __del__(self):
            alive.discard(self.n)

    def items():
        for n in range(500):
            alive.add(n)
            most.append(len(alive))
            yield Item(f"{n}", data=Content(n))

    for expected in ({"added": 7, "duplicates": 493}, {"unchanged": 500}):
        encoder = FakeEncoder()
        report = index_items(items(), bench.index_dir, encoder, source="x", batch_size=8, workers=2)
        assert {name: getattr(report, name) for name in expected} == expected
        assert max(most) <= 8 + 2 * 2 + 4, "read ahead, and those at work"


def test_progress_counts_up_to_the_total(bench):
    told = []
    items = [item(f"{n}") for n in range(5)]
    bench.run(*items, total=5, batch_size=2, on_progress=told.append)
    assert [(one.done, one.total) for one in told] == [(0, 5), (2, 5), (4, 5), (5, 5)]


def test_another_model_is_refused(bench):
    bench.run(item("a"))
    with pytest.raises(IndexMismatchError):
        index_items([], bench.index_dir, FakeEncoder(fingerprint="fake-2"), source="x")


def test_data_that_is_a_function_can_be_written_by_a_program_too(bench):
    with IndexWriter.open(bench.index_dir, FakeEncoder()) as writer:
        writer.add_many([item("a")])
    assert bench.records()["a"].picture.size == len(picture(hash_of("a")))
