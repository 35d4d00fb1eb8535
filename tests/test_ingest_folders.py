"""What becomes of pictures whose files or folders move, nest, or are gone."""

import json
import os
import shutil
import sqlite3

import pytest
from fakes import FakeEncoder, save_picture
from indexing_bench import Bench

from retrieval.catalogue import CATALOGUE_NAME, Catalogue
from retrieval.errors import FolderError
from retrieval.ingest import index_folder
from retrieval.search import Searcher


@pytest.fixture
def bench(tmp_path):
    for i in range(6):
        save_picture(tmp_path / "p" / f"{i}.png", i)
    return Bench(tmp_path / "p", tmp_path / "index")


def search(bench):
    """Every hit of the index, by image_id."""
    with Searcher.open(bench.index_dir, FakeEncoder()) as searcher:
        return {hit.image_id: hit for hit in searcher.search("x", 1000)}


def annotate(folder, *lines):
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")


# Moved


def test_a_renamed_folder_keeps_its_rows_and_leaves_nothing_behind(bench):
    bench.run()
    before = bench.contents()
    with Catalogue.open(bench.index_dir) as catalogue:
        generation = catalogue.generation
    bench.folder = bench.folder.rename(bench.folder.with_name("moved"))
    bench.run()
    assert bench.counts() == {"moved": 6}
    assert bench.encoder.loaded == []
    assert bench.contents() == before
    assert bench.report.notes == []
    assert all(hit.path.parent == bench.folder for hit in search(bench).values())
    with Catalogue.open(bench.index_dir) as catalogue:
        assert catalogue.generation == generation, "features are as they were"
        assert catalogue.roots() == [os.fsencode(bench.folder)]
    bench.run()
    assert bench.counts() == {"unchanged": 6}


def test_a_renamed_folder_brings_its_captions(bench):
    annotate(bench.folder, {"file_name": "0.png", "caption": "甲", "licence": "CC0"})
    bench.run()
    bench.folder = bench.folder.rename(bench.folder.with_name("moved"))
    bench.run()
    assert bench.captions() == {"0.png": ("甲", {"licence": "CC0"})}


def test_copies_that_move_keep_each_its_own_row(bench):
    for name in ("a", "b", "c"):
        (bench.folder / name).mkdir()
        shutil.copy(bench.folder / "0.png", bench.folder / name / f"{name}.png")
    bench.run(batch_size=2)
    before = bench.contents()
    bench.folder = bench.folder.rename(bench.folder.with_name("moved"))
    bench.run(batch_size=2)
    assert bench.counts() == {"moved": 9}
    assert bench.contents() == before


def test_a_copy_stays_a_copy(bench):
    bench.run()
    shutil.copytree(bench.folder, bench.folder.with_name("copy"))
    bench.run(bench.folder.with_name("copy"))
    assert bench.counts() == {"duplicates": 6}
    with Catalogue.open(bench.index_dir) as catalogue:
        assert len(catalogue) == 12


def test_one_file_moved_to_two_places_is_moved_once_and_copied_once(bench):
    bench.run()
    shutil.copy(bench.folder / "0.png", bench.folder / "x.png")
    (bench.folder / "0.png").rename(bench.folder / "y.png")
    bench.run(batch_size=1)
    assert bench.counts() == {"moved": 1, "duplicates": 1, "unchanged": 5}
    assert bench.contents()["x.png"] == 1


def test_a_file_moved_over_another_one_takes_its_row_along(bench):
    bench.run()
    (bench.folder / "0.png").replace(bench.folder / "5.png")
    bench.run()
    assert bench.counts() == {"moved": 1, "unchanged": 4}
    assert bench.contents() == {"5.png": 1, "1.png": 2, "2.png": 3, "3.png": 4, "4.png": 5}


def test_what_cannot_be_looked_at_was_not_moved(bench, monkeypatch):
    bench.run()
    shutil.copy(bench.folder / "0.png", bench.folder / "x.png")
    real = os.stat

    def stat(path, **options):
        if os.fsencode(path).endswith(b"0.png"):
            raise OSError(5, "Input/output error", path)
        return real(path, **options)

    monkeypatch.setattr("retrieval.ingest.folders.os.stat", stat)
    index_folder(bench.folder, bench.index_dir, FakeEncoder())
    monkeypatch.undo()
    assert len(bench.contents()) == 7


# Gone


def test_a_hit_without_its_file_is_marked(bench):
    bench.run()
    (bench.folder / "0.png").unlink()
    assert [name for name, hit in search(bench).items() if hit.missing] == ["0.png"]
    bench.folder.rename(bench.folder.with_name("elsewhere"))
    assert all(hit.missing for hit in search(bench).values())


def test_a_folder_that_is_gone_is_told_and_kept_until_it_is_pruned(bench, tmp_path):
    bench.run()
    other = Bench(tmp_path / "other", bench.index_dir)
    save_picture(other.folder / "a.png", 50)
    away = bench.folder.rename(tmp_path / "not mounted")
    other.run()
    assert other.report.notes == [
        f"{bench.folder} is gone, with 6 pictures that are in the index. Is it mounted? If it is "
        "gone for good, --prune forgets it."
    ]
    assert other.report.total == 7
    away.rename(bench.folder)
    bench.run()
    assert bench.counts() == {"unchanged": 6}
    shutil.rmtree(bench.folder)
    other.run(prune=True)
    assert other.counts() == {"unchanged": 1, "removed": 6}
    assert other.report.notes == []
    assert set(other.contents()) == {"a.png"}


def test_pruning_forgets_failures_too_and_no_folder_that_is_there(bench, tmp_path):
    (bench.folder / "bad.png").write_bytes(b"bad")
    bench.run()
    empty = tmp_path / "empty"
    save_picture(empty / "a.png", 50)
    bench.run(empty)
    (empty / "a.png").unlink()
    shutil.rmtree(bench.folder)
    save_picture(tmp_path / "third" / "b.png", 51)
    bench.run(tmp_path / "third", prune=True)
    with Catalogue.open(bench.index_dir) as catalogue:
        assert catalogue.failures() == []
        assert {record.path.name for record in catalogue} == {"a.png", "b.png"}


@pytest.mark.parametrize("option", ["allow_empty", "prune"])
def test_a_folder_that_is_gone_can_be_forgotten_by_name(bench, tmp_path, option):
    bench.run()
    save_picture(tmp_path / "other" / "a.png", 50)
    bench.run(tmp_path / "other")
    shutil.rmtree(bench.folder)
    with pytest.raises(FolderError, match="--allow-empty"):
        bench.run()
    bench.run(**{option: True})
    assert bench.counts() == {"removed": 6}
    assert bench.report.total == 1
    assert set(search(bench)) == {"a.png"}


def test_a_folder_nobody_indexed_cannot_be_forgotten(bench, tmp_path):
    with pytest.raises(FolderError, match="no index"):
        index_folder(tmp_path / "x", tmp_path / "none", FakeEncoder(), allow_empty=True)
    assert not (tmp_path / "none").exists()
    bench.run()
    gone = bench.folder.rename(tmp_path / "gone")
    with pytest.raises(FolderError, match=rf"nothing there.*gone: {bench.folder}\."):
        bench.run(tmp_path / "nothing there", allow_empty=True)
    gone.rename(bench.folder)
    assert len(bench.contents()) == 6


def test_roots_are_looked_up_by_an_index(bench):
    bench.run()
    database = sqlite3.connect(bench.index_dir / CATALOGUE_NAME)
    plan = database.execute("EXPLAIN QUERY PLAN SELECT root FROM images WHERE root > '' LIMIT 1")
    assert "images_by_root" in str(plan.fetchall())
    database.close()


# One in another


@pytest.fixture
def nested(bench):
    save_picture(bench.folder / "in" / "a.png", 30)
    save_picture(bench.folder / "in" / "b.png", 31)
    annotate(bench.folder, {"file_name": "in/a.png", "caption": "甲", "licence": "CC0"})
    return bench


def test_a_folder_in_an_indexed_folder_keeps_ids_and_captions(nested):
    nested.run()
    before, captions = nested.contents(), nested.captions()
    nested.run(nested.folder / "in")
    assert nested.counts() == {"unchanged": 2}
    assert (nested.contents(), nested.captions()) == (before, captions)
    assert nested.report.notes == [
        f"{nested.folder / 'in'} lies in {nested.folder}, which is indexed: its pictures belong "
        "there, and their ids are paths below it."
    ]
    (nested.folder / "in" / "b.png").unlink()
    save_picture(nested.folder / "in" / "c.png", 32)
    nested.run(nested.folder / "in")
    assert nested.counts() == {"added": 1, "removed": 1, "unchanged": 1, "encoded": 1}
    assert "in/c.png" in nested.contents()


def test_a_folder_around_an_indexed_folder_takes_its_pictures_over_and_says_so(nested):
    nested.run(nested.folder / "in")
    assert nested.contents() == {"a.png": 1, "b.png": 2}
    assert nested.captions() == {}, "of the folder around it nobody spoke"
    nested.run()
    assert nested.counts() == {"added": 6, "updated": 2, "encoded": 6}
    assert nested.contents()["in/a.png"] == 1
    assert nested.captions() == {"in/a.png": ("甲", {"licence": "CC0"})}
    assert nested.report.notes == [
        f"2 pictures of {nested.folder / 'in'}, which was indexed by itself, belong to "
        f"{nested.folder} now: their ids are paths below it."
    ]
    nested.run()
    assert (nested.counts(), nested.report.notes) == ({"unchanged": 8}, [])


@pytest.mark.parametrize("order", ["outer first", "inner first"])
def test_of_two_files_that_name_a_picture_the_nearest_counts(nested, order):
    annotate(nested.folder / "in", {"file_name": "a.png", "caption": "乙"})
    for folder in sorted([nested.folder, nested.folder / "in"], reverse=order == "inner first"):
        nested.run(folder)
        assert nested.report.ignored == 0
    assert nested.captions() == {"in/a.png": ("乙", {})}


def test_bad_lines_of_a_folder_within_are_told_with_its_name(nested):
    (nested.folder / "in" / "metadata.jsonl").write_text("{broken")
    nested.run()
    assert nested.report.notes[0].startswith("in/metadata.jsonl line 1: ")
    assert nested.captions() == {"in/a.png": ("甲", {"licence": "CC0"})}


def test_only_lines_about_the_folder_that_is_indexed_are_missed(nested):
    annotate(
        nested.folder,
        {"file_name": "gone.png", "caption": "x"},
        {"file_name": "in/gone.png", "caption": "x"},
    )
    nested.run()
    nested.run(nested.folder / "in")
    assert "1 lines name no picture here, as in/gone.png" in nested.report.notes[-1]


# Links to folders


@pytest.fixture
def linked(bench, tmp_path):
    save_picture(tmp_path / "album" / "a.png", 40)
    (bench.folder / "album").symlink_to(tmp_path / "album")
    return bench


def test_a_link_to_a_folder_that_is_not_entered_is_told(linked):
    linked.run()
    assert linked.counts() == {"added": 6, "ignored": 1, "encoded": 6}
    assert linked.report.notes == [
        f"1 links to folders were not entered, as {linked.folder / 'album'}. --follow-links enters "
        "them. What is indexed below stays."
    ]


def test_pictures_below_a_link_stay_where_it_is_not_followed_or_not_mounted(linked, tmp_path):
    linked.run(follow_directory_links=True)
    assert linked.contents()["album/a.png"] == 7
    assert linked.report.notes == []
    linked.run()
    assert linked.counts() == {"unchanged": 6, "ignored": 1}
    away = (tmp_path / "album").rename(tmp_path / "away")
    linked.run(follow_directory_links=True)
    assert linked.report.total == 7
    assert "leads to a folder that is gone; its 1 pictures stay" in linked.report.notes[0]
    away.rename(tmp_path / "album")
    assert len(linked.contents()) == 7
    (linked.folder / "album").unlink()
    linked.run(follow_directory_links=True)
    assert linked.counts() == {"unchanged": 6, "removed": 1}


def test_a_picture_behind_a_link_stays_where_its_drive_is_not_mounted(bench, tmp_path):
    save_picture(tmp_path / "drive" / "a.png", 40)
    (bench.folder / "a.png").symlink_to(tmp_path / "drive" / "a.png")
    bench.run()
    before = bench.contents()
    away = (tmp_path / "drive").rename(tmp_path / "away")
    for _ in range(2):
        bench.run()
        assert bench.counts() == {"unchanged": 6, "failed": 1}
        assert bench.report.failures == [(bench.folder / "a.png", "No such file or directory")]
    away.rename(tmp_path / "drive")
    bench.run()
    assert bench.counts() == {"unchanged": 7}
    assert bench.contents() == before
    (bench.folder / "a.png").unlink()
    bench.run()
    assert bench.counts() == {"unchanged": 6, "removed": 1}


def test_a_link_to_a_folder_within_is_not_a_second_way_to_it(bench):
    save_picture(bench.folder / "real" / "a.png", 40)
    (bench.folder / "best").symlink_to(bench.folder / "real")
    (bench.folder / "whole").symlink_to(bench.folder)
    (bench.folder / "around").symlink_to(bench.folder.parent)
    bench.run()
    assert bench.report.notes == []
    (bench.folder / "around").unlink()
    bench.run(follow_directory_links=True)
    assert bench.counts() == {"unchanged": 7}
    assert "real/a.png" in bench.contents()


# Names in metadata.jsonl that are spelled otherwise on the disk

COMPOSED, DECOMPOSED = "caf\u00e9.png", "cafe\u0301.png"


@pytest.mark.parametrize(
    ("said", "on_disk"),
    [
        (COMPOSED, DECOMPOSED),
        (DECOMPOSED, COMPOSED),
        ("sub\\a.png", "sub/a.png"),
        (".\\sub\\caf\u00e9.png", "sub/cafe\u0301.png"),
        ("./sub//a.png", "sub/a.png"),
    ],
)
def test_a_name_means_the_one_file_it_fits(bench, said, on_disk):
    save_picture(bench.folder / on_disk, 60)
    annotate(bench.folder, {"file_name": said, "caption": "甲"})
    for _ in range(2):
        bench.run()
        assert list(bench.captions().values()) == [("甲", {})]
        assert bench.report.notes == []


def test_a_name_that_fits_two_files_means_none_unless_it_is_spelled_so(bench):
    save_picture(bench.folder / "sub" / COMPOSED, 60)
    save_picture(bench.folder / "sub" / DECOMPOSED, 61)
    annotate(bench.folder, {"file_name": f"sub\\{COMPOSED}", "caption": "甲"})
    bench.run()
    assert bench.captions() == {}
    assert "got 2 and 1. Spell it as on the disk." in bench.report.notes[0]
    annotate(bench.folder, {"file_name": f"sub/{COMPOSED}", "caption": "甲"})
    bench.run()
    assert bench.captions() == {f"sub/{COMPOSED}": ("甲", {})}
    assert bench.report.notes == []


def test_a_backslash_in_a_name_means_itself_where_there_is_such_a_file(bench):
    save_picture(bench.folder / "a" / "b.png", 60)
    save_picture(bench.folder / "a\\b.png", 61)
    annotate(bench.folder, {"file_name": "a\\b.png", "caption": "甲"})
    bench.run()
    assert bench.captions() == {"a\\\\b.png": ("甲", {})}


def test_of_several_captions_the_first_is_the_caption_and_all_are_kept(bench):
    annotate(
        bench.folder,
        {"file_name": "0.png", "caption": ["一只猫", "猫在睡觉"], "n": 1},
        {"file_name": "1.png", "text": ["一只狗"]},
        {"file_name": "2.png", "text": ["", " ", "鱼", "一条鱼"]},
        {"file_name": "3.png", "caption": [], "n": 2},
        {"image": "4.png", "caption": "鸟"},
    )
    bench.run()
    assert bench.report.notes == []
    assert bench.captions() == {
        "0.png": ("一只猫", {"n": 1, "caption": ["一只猫", "猫在睡觉"]}),
        "1.png": ("一只狗", {}),
        "2.png": ("鱼", {"text": ["鱼", "一条鱼"]}),
        "3.png": (None, {"n": 2}),
        "4.png": ("鸟", {}),
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_marks_at_the_start_and_ends_of_lines_of_windows(bench, encoding):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    lines = [{"file_name": f"{i}.png", "caption": f"甲\u2028{i}"} for i in range(2)]
    text = "\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (bench.folder / "metadata.jsonl").write_bytes(f"{mark}{text}\r\n".encode(encoding))
    bench.run()
    assert bench.captions() == {f"{i}.png": (f"甲\u2028{i}", {}) for i in range(2)}
    assert bench.report.notes == []
