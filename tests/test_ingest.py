import errno
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEncoder, as_stored, decode, save_picture
from indexing_bench import Bench

from retrieval.catalogue import Catalogue
from retrieval.errors import (
    EncoderError,
    FolderError,
    IndexLockedError,
    IndexMismatchError,
)
from retrieval.ingest import IndexWriter, Progress, index_folder
from retrieval.ingest.walk import Walk
from retrieval.records import displayed, displayed_id
from retrieval.search import Searcher

DAY = 86_400 * 10**9


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        save_picture(tmp_path / "p" / f"{i}.png", i)
    return tmp_path / "p"


@pytest.fixture
def bench(folder, tmp_path):
    return Bench(folder, tmp_path / "index")


def test_everything_new_is_added_in_the_order_of_the_paths(bench):
    save_picture(bench.folder / "5" / "a.png", 10)
    save_picture(bench.folder / "5-" / "a.png", 11)
    bench.run(batch_size=4)
    assert bench.counts() == {"added": 8, "encoded": 8}
    names = ["0.png", "1.png", "2.png", "3.png", "4.png", "5-/a.png", "5.png", "5/a.png"]
    assert bench.contents() == {name: row for row, name in enumerate(names, start=1)}
    assert bench.report.total == 8


def test_nothing_changed_is_not_even_read(bench, monkeypatch):
    bench.run()

    def unread(*_):
        raise AssertionError("a file was read")

    monkeypatch.setattr("retrieval.ingest.examine.hash_file", unread)
    bench.run()
    assert bench.counts() == {"unchanged": 6}


def test_a_touched_file_is_hashed_but_not_decoded(bench):
    bench.run()
    os.utime(bench.folder / "2.png", ns=(DAY, DAY))
    bench.run()
    assert bench.counts() == {"unchanged": 6}
    assert bench.encoder.loaded == []
    with Catalogue.open(bench.index_dir) as catalogue:
        record = catalogue.find(os.fsencode(bench.folder / "2.png"))
        assert record.picture.mtime_ns == DAY


@pytest.mark.parametrize("mtime_ns", [2**63 + 10**12, -(2**63) - 10**12])
def test_a_time_that_64_bits_do_not_hold_becomes_the_nearest(bench, mtime_ns):
    broken = bench.folder / "broken.png"
    broken.write_bytes(b"none")
    for path in (bench.folder / "2.png", broken):
        os.utime(path, ns=(0, mtime_ns))
    for counts in (
        {"added": 6, "failed": 1, "encoded": 6},
        {"unchanged": 6, "failed": 1},
    ):
        bench.run()
        assert bench.counts() == counts
    with IndexWriter.open(bench.index_dir, bench.encoder) as writer:
        row = writer.add("item", path=save_picture_at(bench.folder.parent / "i.png", 50, mtime_ns))
    with Catalogue.open(bench.index_dir) as catalogue:
        stored = catalogue.find(os.fsencode(bench.folder / "2.png"))
        nearest = max(-(2**63 - 1), min((bench.folder / "2.png").stat().st_mtime_ns, 2**63 - 1))
        assert stored.picture.mtime_ns == nearest
        assert catalogue.records([row])[row].picture.mtime_ns == nearest
        assert catalogue.failure(os.fsencode(broken)).mtime_ns == nearest


def save_picture_at(path, seed, mtime_ns):
    save_picture(path, seed)
    os.utime(path, ns=(0, mtime_ns))
    return path


def test_a_changed_file_is_encoded_again_in_its_row(bench):
    bench.run()
    before = bench.contents()
    save_picture(bench.folder / "2.png", 20, size=(30, 20))
    bench.run()
    assert bench.counts() == {"updated": 1, "unchanged": 5, "encoded": 1}
    assert bench.contents() == before
    with Catalogue.open(bench.index_dir) as catalogue:
        changed = catalogue.find(os.fsencode(bench.folder / "2.png")).picture
        assert (changed.width, changed.height) == (30, 20)


def test_a_change_that_keeps_size_and_length_is_seen_by_the_time(bench):
    save_picture(bench.folder / "x.bmp", 1)
    bench.run()
    save_picture(bench.folder / "x.bmp", 2)  # BMP: the same number of bytes
    os.utime(bench.folder / "x.bmp", ns=(DAY, DAY))
    bench.run()
    assert bench.counts() == {"updated": 1, "unchanged": 6, "encoded": 1}
    bench.contents()


def test_a_vanished_file_is_removed(bench):
    bench.run()
    (bench.folder / "0.png").unlink()
    (bench.folder / "5.png").unlink()
    bench.run()
    assert bench.counts() == {"removed": 2, "unchanged": 4}
    assert list(bench.contents()) == ["1.png", "2.png", "3.png", "4.png"]
    save_picture(bench.folder / "0.png", 0)
    bench.run()
    assert bench.contents()["0.png"] == 7, "rows are never used again"


def test_a_moved_file_is_not_encoded_again(bench):
    bench.run()
    (bench.folder / "sub").mkdir()
    (bench.folder / "3.png").rename(bench.folder / "sub" / "moved.png")
    bench.run()
    assert bench.counts() == {"moved": 1, "unchanged": 5}
    assert bench.encoder.loaded == []
    assert bench.contents()["sub/moved.png"] == 4, "the row of 3.png"


def test_copies_are_encoded_once_within_a_batch_and_across(bench):
    for i in range(20):
        shutil.copy(bench.folder / "0.png", bench.folder / f"copy{i:02}.png")
    bench.run(batch_size=3, workers=4)
    assert bench.counts() == {"added": 6, "duplicates": 20, "encoded": 6}
    shutil.copy(bench.folder / "1.png", bench.folder / "2.png")  # a change into a copy
    shutil.copy(bench.folder / "1.png", bench.folder / "another.png")
    bench.run()
    assert bench.counts() == {"duplicates": 2, "unchanged": 25}
    assert len(bench.contents()) == 27


def test_content_that_moves_on_while_it_is_taken_over(bench):
    """0 changes, and what 0 held before is new elsewhere: known when read, gone when stored."""
    bench.run()
    (bench.folder / "0.png").rename(bench.folder / "z.png")
    save_picture(bench.folder / "0.png", 50)
    bench.run(batch_size=1)
    assert bench.report.failed == 0
    assert len(bench.contents()) == 7


def test_two_files_swap_their_content(bench):
    bench.run()
    before = bench.contents()
    a, b, c = (bench.folder / name for name in ("0.png", "1.png", "c"))
    a.rename(c)
    b.rename(a)
    c.rename(b)
    os.utime(a, ns=(DAY, DAY))
    os.utime(b, ns=(DAY, DAY))
    bench.run(batch_size=1)
    assert bench.contents() == before


# metadata.jsonl


def write_lines(folder: Path, *lines: object) -> None:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")


def test_captions_and_metadata_come_from_the_file(bench):
    save_picture(bench.folder / "猫" / "a.png", 30)
    write_lines(
        bench.folder,
        {"file_name": "0.png", "caption": "一只猫", "text": "a cat", "n": 1},
        {"file_name": "1.png", "text": "一只狗"},
        {"file_name": "./猫/a.png", "caption": None, "tags": ["x", {"y": None}]},
        "",
    )
    bench.run()
    assert bench.captions() == {
        "0.png": ("一只猫", {"text": "a cat", "n": 1}),
        "1.png": ("一只狗", {}),
        "猫/a.png": (None, {"tags": ["x", {"y": None}]}),
    }
    assert bench.report.notes == []
    assert bench.report.ignored == 0


def test_a_change_of_metadata_updates_rows_without_reading_pictures(bench):
    bench.run()
    with Catalogue.open(bench.index_dir) as catalogue:
        generation = catalogue.generation
    write_lines(bench.folder, {"file_name": "0.png", "caption": "甲"})
    bench.run()
    assert bench.counts() == {"updated": 1, "unchanged": 5}
    assert bench.encoder.loaded == []
    (bench.folder / "metadata.jsonl").unlink()
    bench.run()
    assert bench.counts() == {"updated": 1, "unchanged": 5}
    assert bench.captions() == {}
    with Catalogue.open(bench.index_dir) as catalogue:
        assert catalogue.generation == generation


def test_bad_lines_are_told_by_number_and_passed_over(bench):
    write_lines(
        bench.folder,
        "\ufeff" + json.dumps({"file_name": "0.png", "caption": "甲"}),
        "{broken",
        "[1]",
        {"caption": "no name"},
        {"file_name": 5},
        {"file_name": "1.png", "caption": ["list", 5]},
        '{"file_name": "1.png", "score": NaN}',
        '{"file_name": "1.png", "score": [{"x": -1e999}]}',
        '{"file_name": "1.png", "caption": "\\ud83d"}',
        "[" * 100_000,
        {"file_name": "gone.png", "caption": "no such picture"},
        {"file_name": "0.png", "caption": "乙"},
    )
    with (bench.folder / "metadata.jsonl").open("ab") as file:
        file.write(b'\n{"file_name": "2.png", "caption": "\xff"}\n')
        file.write(json.dumps({"file_name": "2.png", "caption": "丙"}).encode())
    bench.run()
    assert bench.captions() == {"0.png": ("乙", {}), "2.png": ("丙", {})}
    told = [note.split(":")[0] for note in bench.report.notes]
    bad = [*range(2, 11), 12, 13]
    assert told == [f"metadata.jsonl line {n}" for n in bad] + ["metadata.jsonl"]
    assert "1 lines name no picture here, as gone.png" in bench.report.notes[-1]
    assert all("\n" not in note for note in bench.report.notes)


def test_a_flood_of_bad_lines_is_cut_short(bench):
    write_lines(bench.folder, *["rubbish"] * 1000)
    bench.run()
    assert len(bench.report.notes) == 21
    assert "980 more" in bench.report.notes[-1]


def test_metadata_that_cannot_be_read_wipes_nothing(bench):
    write_lines(bench.folder, {"file_name": "0.png", "caption": "甲"})
    bench.run()
    (bench.folder / "metadata.jsonl").unlink()
    os.mkfifo(bench.folder / "metadata.jsonl")
    with pytest.raises(FolderError, match=r"metadata\.jsonl.*no regular file"):
        bench.run()
    assert bench.captions() == {"0.png": ("甲", {})}


# What must not be lost


@pytest.mark.parametrize("how", ["missing", "empty", "a file"])
def test_a_folder_that_lost_everything_is_an_error(bench, how):
    bench.run()
    before = bench.contents()
    kept = bench.folder.rename(bench.folder.with_name("elsewhere"))
    if how == "empty":
        bench.folder.mkdir()
    elif how == "a file":
        bench.folder.write_text("no folder")
    with pytest.raises(FolderError, match=r"mounted"):
        bench.run()
    if how == "a file":
        bench.folder.unlink()
    if how == "empty":
        bench.folder.rmdir()
    kept.rename(bench.folder)
    assert bench.contents() == before


def test_an_empty_folder_is_accepted_on_request(bench):
    bench.run()
    for path in bench.folder.iterdir():
        path.unlink()
    bench.run(allow_empty=True)
    assert bench.counts() == {"removed": 6}
    assert bench.report.total == 0
    bench.run()  # and is no error any more


def test_a_folder_that_cannot_be_read_keeps_what_lies_below(bench, monkeypatch):
    save_picture(bench.folder / "locked" / "a.png", 40)
    save_picture(bench.folder / "locked" / "deep" / "b.png", 41)
    save_picture(bench.folder / "lockedness.png", 42)
    bench.run()
    (bench.folder / "lockedness.png").unlink()
    real = os.scandir

    def scandir(path):
        if os.fsencode(path).rstrip(b"/").endswith(b"locked"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    bench.run()
    assert bench.counts() == {"unchanged": 6, "removed": 1}
    assert "locked: Permission denied" in bench.report.notes[0]
    assert {"locked/a.png", "locked/deep/b.png"} <= set(bench.contents())


def test_a_picture_that_cannot_be_read_for_now_stays(bench):
    bench.run()
    before = bench.contents()
    os.utime(bench.folder / "1.png", ns=(DAY, DAY))

    class Hindered(FakeEncoder):
        def __init__(self):
            super().__init__(load=self.refuse)

        def refuse(self, path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    save_picture(bench.folder / "1.png", 60)
    report = index_folder(bench.folder, bench.index_dir, Hindered())
    assert report.failures == [(bench.folder / "1.png", "Permission denied")]
    assert report.total == len(before)
    bench.run()  # tried again though nothing about the file has changed
    assert bench.counts() == {"updated": 1, "unchanged": 5, "encoded": 1}
    assert bench.contents() == before


# Failures


def test_a_broken_file_is_set_aside_and_retried_when_it_changes(bench):
    bad = bench.folder / "bad.png"
    bad.write_bytes(b"no picture")
    bench.run()
    assert bench.counts() == {"added": 6, "failed": 1, "encoded": 6}
    assert bench.report.failures == [(bad, "expected a picture, got 10 other bytes.")]
    bench.run()
    assert bench.encoder.loaded == []
    assert bench.report.failures == [(bad, "expected a picture, got 10 other bytes.")]
    bench.run(retry_failed=True)
    assert bench.encoder.loaded == [bad]
    save_picture(bad, 70)
    bench.run()
    assert bench.counts() == {"added": 1, "unchanged": 6, "encoded": 1}
    with Catalogue.open(bench.index_dir) as catalogue:
        assert catalogue.failures() == []


def test_a_picture_that_breaks_is_no_longer_found(bench):
    bench.run()
    (bench.folder / "1.png").write_bytes(b"now broken")
    bench.run()
    assert bench.counts() == {"failed": 1, "unchanged": 5}
    assert "1.png" not in bench.contents()
    (bench.folder / "1.png").unlink()
    bench.run()
    assert bench.counts() == {"unchanged": 5}
    with Catalogue.open(bench.index_dir) as catalogue:
        assert catalogue.failures() == []


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OSError(errno.EMFILE, "Too many open files"), OSError(errno.ENOMEM, "x")],
)
def test_the_machines_trouble_is_no_broken_file(bench, error):
    def load(path):
        if path.name == "4.png":
            raise error
        return decode(path)

    with pytest.raises(type(error)):
        index_folder(bench.folder, bench.index_dir, FakeEncoder(load=load), batch_size=2)
    with Catalogue.open(bench.index_dir) as catalogue:
        assert (len(catalogue), catalogue.failures()) == (4, [])
    bench.run()
    assert bench.counts() == {"added": 2, "unchanged": 4, "encoded": 2}


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda rows: rows[:-1], "expected 6 features, got 5"),
        (lambda rows: rows * 2, "unit rows, got length 2"),
        (lambda rows: rows * np.nan, "unit rows"),
        (lambda rows: rows[:, :3], "width 16 .* got 3"),
    ],
)
def test_an_encoder_that_breaks_its_promise_stops_the_run(bench, spoil, what):
    class Careless(FakeEncoder):
        def encode_pixels(self, pixels):
            return spoil(super().encode_pixels(pixels))

    with pytest.raises(EncoderError, match=what):
        index_folder(bench.folder, bench.index_dir, Careless())
    bench.run()
    assert bench.counts() == {"added": 6, "encoded": 6}


# Several runs, folders and models


def test_another_model_is_refused_and_nothing_harmed(bench):
    bench.run()
    before = bench.contents()
    (bench.folder / "0.png").unlink()
    for other in (FakeEncoder(fingerprint="other"), FakeEncoder(embed_dim=8)):
        with pytest.raises(IndexMismatchError):
            index_folder(bench.folder, bench.index_dir, other)
    save_picture(bench.folder / "0.png", 0)
    assert bench.contents() == before


def test_only_one_run_at_a_time(bench):
    refused = []

    def try_a_second(_: int) -> None:
        with pytest.raises(IndexLockedError, match="only process"):
            index_folder(bench.folder, bench.index_dir, FakeEncoder())
        refused.append(True)

    bench.run(before_batch=try_a_second)
    assert refused == [True]
    bench.run()  # the lock is free again
    with pytest.raises(FolderError):
        index_folder(bench.folder / "nothing", bench.index_dir, FakeEncoder())
    bench.run()


def test_folders_share_an_index_and_keep_to_themselves(bench, tmp_path):
    bench.run()
    other = Bench(tmp_path / "p2", bench.index_dir)
    save_picture(tmp_path / "p2" / "a.png", 80)
    other.run()
    assert other.counts() == {"added": 1, "encoded": 1}
    (bench.folder / "0.png").unlink()
    bench.run()
    assert bench.counts() == {"removed": 1, "unchanged": 5}
    assert set(bench.contents()) == {"1.png", "2.png", "3.png", "4.png", "5.png", "a.png"}


def test_the_index_may_lie_inside_the_folder(folder):
    bench = Bench(folder, folder / "index")
    bench.run()
    save_picture(folder / "index" / "thumbnail.png", 90)
    bench.run()
    assert bench.counts() == {"unchanged": 6}


def test_other_files_are_ignored_and_extensions_in_any_case_are_not(bench):
    for name in ("a.txt", "b.svg", "c", ".jpg", "d.jpg.part"):
        (bench.folder / name).write_text("other")
    save_picture(bench.folder / "E.PNG", 100)
    shutil.copy(save_picture(bench.folder / "f.jpg", 101), bench.folder / "g.JPeG")
    bench.run()
    assert bench.counts() == {"added": 8, "duplicates": 1, "ignored": 5, "encoded": 8}


def test_links_to_files_are_followed_and_links_to_folders_on_request(bench, tmp_path):
    save_picture(tmp_path / "outside" / "x.png", 110)
    (bench.folder / "link.png").symlink_to(tmp_path / "outside" / "x.png")
    (bench.folder / "outside").symlink_to(tmp_path / "outside")
    (bench.folder / "outside.png").symlink_to(tmp_path / "outside")
    (bench.folder / "loop").symlink_to(bench.folder)
    bench.run()
    assert bench.counts() == {"added": 7, "ignored": 3, "encoded": 7}
    bench.run(follow_directory_links=True)
    assert bench.counts() == {"unchanged": 7, "duplicates": 1}
    assert "outside.png/x.png" in bench.contents()  # the first of two ways to the same folder
    assert "outside/x.png" not in bench.contents()


def test_a_linked_folder_is_the_folder(bench, tmp_path):
    bench.run()
    (tmp_path / "link").symlink_to(bench.folder)
    index_folder(tmp_path / "link", bench.index_dir, FakeEncoder())
    assert len(bench.contents()) == 6


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"workers": 0}])
def test_numbers_below_one_are_refused(bench, options):
    with pytest.raises(ValueError, match="at least 1"):
        bench.run(**options)


# The run itself


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
@pytest.mark.parametrize("workers", [1, 4])
def test_batches_and_threads_change_nothing(bench, batch_size, workers):
    (bench.folder / "bad.png").write_bytes(b"bad")
    bench.run(batch_size=batch_size, workers=workers)
    assert bench.counts() == {"added": 6, "failed": 1, "encoded": 6}
    assert bench.contents() == {f"{i}.png": i + 1 for i in range(6)}


def test_decoding_runs_ahead_but_not_far(tmp_path):
    """At most batch_size + 2 * workers files wait for the encoder, plus one batch with it."""
    for i in range(60):
        save_picture(tmp_path / "p" / f"{i:02}.png", i, size=(2, 2))
    encoder = FakeEncoder(before_batch=lambda _: ahead.append(len(encoder.loaded) - encoder.seen))
    ahead: list[int] = []
    index_folder(tmp_path / "p", tmp_path / "index", encoder, batch_size=4, workers=2)
    assert encoder.seen == 60
    assert max(ahead) <= 4 + (4 + 2 * 2)


def test_decoding_goes_on_while_the_encoder_works(tmp_path):
    """The encoder waits, within its first batch, for a file of a later batch to be decoded."""
    for i in range(8):
        save_picture(tmp_path / "p" / f"{i}.png", i)
    later = threading.Event()

    def load(path):
        if path.name == "3.png":
            later.set()
        return decode(path)

    encoder = FakeEncoder(load=load, before_batch=lambda _: waited.append(later.wait(60)))
    waited: list[bool] = []
    index_folder(tmp_path / "p", tmp_path / "index", encoder, batch_size=2, workers=1)
    assert waited == [True] * 4


def test_progress_ends_where_it_should(bench):
    seen: list[Progress] = []
    (bench.folder / "bad.png").write_bytes(b"bad")
    bench.run(batch_size=2, on_progress=seen.append)
    done = [progress.done for progress in seen]
    assert done[0] == 0
    assert done == sorted(done)
    last = seen[-1]
    assert (last.done, last.total, last.encoded, last.failed) == (7, 7, 6, 1)
    assert last.seconds_left == 0.0
    assert last.images_per_second > 0
    assert seen[0].seconds_left is None


def test_a_run_stopped_by_its_caller_keeps_its_batches(bench):
    def stop(progress: Progress) -> None:
        if progress.done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.run(batch_size=2, on_progress=stop)
    assert len(bench.contents()) == 4
    bench.run()
    assert bench.counts() == {"added": 2, "unchanged": 4, "encoded": 2}


def test_the_report_reads_well(bench):
    (bench.folder / "坏\n.png").write_bytes(b"bad")
    bench.run()
    lines = str(bench.report).splitlines()
    assert lines[0].startswith("6 pictures in the index: 6 added, 1 failed (")
    assert lines[1].endswith(r"坏\n.png: expected a picture, got 3 other bytes.")
    assert len(lines) == 2
    assert bench.report.images_per_second > 0


def test_names_are_displayed_on_one_line_and_apart():
    assert displayed_id(b"/p", "/p/猫/a b.jpg".encode()) == "猫/a b.jpg"
    assert displayed_id(b"/", b"/a.jpg") == "a.jpg"
    assert displayed(b"a\nb\\c\x1b[0m\xff.jpg") == r"a\nb\\c\x1b[0m\xff.jpg"
    assert displayed("a\u202eb\u2028c👨‍👩‍👧".encode()) == "a\\u202eb\\u2028c👨‍👩‍👧"
    assert displayed(b"\\xff") != displayed(b"\xff")


def test_a_walk_yields_paths_in_byte_order(tmp_path):
    names = ["b/c.png", "b.png", "b-/x.png", "B.png", "b/c/d.png", "é.png", "a/z/y.png", "a.png"]
    for name in names:
        save_picture(tmp_path / name, 1, size=(1, 1))
    walk = Walk(os.fsencode(tmp_path), excluded=tmp_path / "none")
    found = list(walk)
    assert found == sorted(os.fsencode(tmp_path / name) for name in names)
    assert list(walk) == found


def test_a_file_that_is_written_while_it_is_read_waits_for_the_next_run(tmp_path):
    """Else its new pixels' feature would be that of whatever has its old content."""
    folder, index_dir = tmp_path / "p", tmp_path / "index"
    file = save_picture(folder / "a.png", 1)
    save_picture(folder / "b.png", 1)
    written = []

    def load(source):
        if source == file and not written:
            written.append(save_picture(file, 2, size=(20, 20)))
        return decode(source)

    encoder = FakeEncoder(load=load)
    report = index_folder(folder, index_dir, encoder, workers=1)
    assert (report.added, report.failures) == (1, [(file, "It was written while it was read.")])
    report = index_folder(folder, index_dir, encoder)
    assert (report.added, report.unchanged, report.failed) == (1, 1, 0)
    with Searcher.open(index_dir, encoder) as searcher:
        for name in ("a.png", "b.png"):
            row = as_stored(encoder.encode_file(folder / name))
            best, *_ = searcher.search_features(row[None])[0]
            assert (best.image_id, best.score) == (name, pytest.approx(1, abs=1e-6))
