"""Sealed vectors are derived from the catalogue, appear whole, and are believed only when sound."""

import contextlib
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEncoder, save_picture

from retrieval.catalogue import Catalogue
from retrieval.errors import IndexLockedError, StorageError
from retrieval.index import (
    BackgroundSealer,
    Recipe,
    SegmentedIndex,
    compact,
    follow,
    open_index,
    seal_if_due,
    state_of,
    sync,
    verify,
)
from retrieval.index import background as background_module
from retrieval.index import lifecycle as lifecycle_module
from retrieval.index.sealed import _sealing_alone, current, read_manifest
from retrieval.ingest import index_folder
from retrieval.records import Picture

LISTS = Recipe("IVF4,PQ4x4fs", probes=4, candidates=50)


def unit_rows(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, 8))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def picture(name: str) -> Picture:
    path = f"/p/{name}".encode()
    return Picture(b"/p", path, name, 1, 1, path, None, None, None, "{}")


def change(catalogue: Catalogue, seed: int = 0) -> None:
    """Remove a row, give another one a new feature, and add a third."""
    rows = catalogue.rows().tolist()
    with catalogue.transaction():
        catalogue.remove(rows[1:2])
        catalogue.replace(rows[2], picture(f"r{seed}"), unit_rows(1, 77 + seed)[0])
        catalogue.add(picture(f"new{seed}"), unit_rows(1, 88 + seed)[0])


@pytest.fixture
def catalogue(tmp_path):
    with Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=8) as opened:
        with opened.transaction():
            for i, feature in enumerate(unit_rows(60, 0)):
                opened.add(picture(str(i)), feature)
        yield opened


def answers(index: SegmentedIndex) -> list[list[object]]:
    return [part.tolist() for part in index.search(unit_rows(4, 9), 99)]


def same_as_catalogue(index: SegmentedIndex, catalogue: Catalogue) -> bool:
    fresh, _ = sync(SegmentedIndex(8), 0, catalogue)
    return answers(index) == answers(fresh)


def vectors_in(index_dir: Path) -> set[str]:
    return {path.name for path in (index_dir / "vectors").iterdir()} - {"sealing.lock"}


@pytest.mark.parametrize("recipe", [None, LISTS], ids=["exact", "lists"])
def test_sealed_and_opened_it_holds_what_the_catalogue_holds(tmp_path, catalogue, recipe):
    manifest = compact(tmp_path, recipe)
    assert (manifest.generation, manifest.count) == (catalogue.generation, 60)
    assert manifest.recipe == (recipe or Recipe("exact"))
    assert vectors_in(tmp_path) == {"CURRENT", current(tmp_path)}
    index, generation = open_index(tmp_path, catalogue)
    assert (index.sealed, index.tail, index.tombstones) == (60, 0, 0)
    assert generation == catalogue.generation
    assert same_as_catalogue(index, catalogue)
    assert verify(tmp_path).problems == []
    change(catalogue)
    index, _ = open_index(tmp_path, catalogue)
    assert (index.sealed, index.tail, index.tombstones, len(index)) == (60, 2, 2, 60)
    assert same_as_catalogue(index, catalogue)


def test_an_empty_index_can_be_sealed(tmp_path):
    with Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=8) as catalogue:
        assert compact(tmp_path).count == 0
        assert answers(open_index(tmp_path, catalogue)[0]) == [[[]] * 4] * 2


def test_few_pictures_need_no_files_and_many_are_sealed_when_due(tmp_path, catalogue, monkeypatch):
    assert seal_if_due(tmp_path, catalogue) is None
    assert not (tmp_path / "vectors").exists()
    monkeypatch.setattr(lifecycle_module, "_TAIL_ROWS", 4)
    built = seal_if_due(tmp_path, catalogue)
    assert built is not None
    assert seal_if_due(tmp_path, catalogue) is None
    change(catalogue)  # two came, two went
    assert seal_if_due(tmp_path, catalogue) is None
    change(catalogue, 1)
    built = seal_if_due(tmp_path, catalogue)
    assert built is not None
    assert built.generation == catalogue.generation
    monkeypatch.setattr(lifecycle_module, "_TAIL_SHARE", 0.2)
    change(catalogue, 2)
    change(catalogue, 3)  # eight of 60: more than 4, but not a fifth
    assert seal_if_due(tmp_path, catalogue) is None


def test_the_one_file_of_before_is_deleted_by_who_writes(tmp_path, catalogue):
    (tmp_path / "features.faiss").write_bytes(b"old")
    assert same_as_catalogue(open_index(tmp_path, catalogue)[0], catalogue)
    assert (tmp_path / "features.faiss").exists()
    seal_if_due(tmp_path, catalogue)
    assert not (tmp_path / "features.faiss").exists()


def test_following_costs_what_changed(tmp_path, catalogue, monkeypatch):
    compact(tmp_path, LISTS)
    index, generation = open_index(tmp_path, catalogue)
    assert follow(tmp_path, index, generation, catalogue) == (index, generation)
    before = answers(index)
    change(catalogue)
    added = []
    real_add = SegmentedIndex.add

    def watched_add(self, rows, features):
        added.extend(rows.tolist())
        real_add(self, rows, features)

    monkeypatch.setattr(SegmentedIndex, "add", watched_add)
    later, at = follow(tmp_path, index, generation, catalogue)
    assert added == [3, 61]
    assert at == catalogue.generation == generation + 1
    assert same_as_catalogue(later, catalogue)
    assert later._sealed.segment is index._sealed.segment
    assert answers(index) == before


def test_a_segment_sealed_meanwhile_is_followed_and_the_old_one_still_answers(tmp_path, catalogue):
    compact(tmp_path, LISTS)
    index, generation = open_index(tmp_path, catalogue)
    before = answers(index)
    change(catalogue)
    compact(tmp_path, LISTS)
    later, at = follow(tmp_path, index, generation, catalogue)
    assert later.origin == current(tmp_path) != index.origin
    assert (later.tail, later.tombstones, at) == (0, 0, catalogue.generation)
    assert same_as_catalogue(later, catalogue)
    assert answers(index) == before  # its files are gone, what it has mapped stays


def test_a_segment_replaced_while_it_is_opened_is_not_missed(tmp_path, catalogue, monkeypatch):
    compact(tmp_path)
    stale = current(tmp_path)
    compact(tmp_path)
    names = iter([stale])
    monkeypatch.setattr(lifecycle_module, "current", lambda _: next(names, current(tmp_path)))
    assert open_index(tmp_path, catalogue)[0].origin == current(tmp_path)


def test_a_segment_of_another_catalogue_or_a_later_state_is_not_believed(tmp_path, catalogue):
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path, kept, ignore=shutil.ignore_patterns("kept"))
    change(catalogue)
    compact(tmp_path)
    other = tmp_path / "other"
    with Catalogue.create_or_open(other, fingerprint="f", embed_dim=8):
        pass
    for index_dir in (kept, other):
        shutil.copytree(tmp_path / "vectors", index_dir / "vectors")
        with Catalogue.open(index_dir) as opened:
            index, _ = open_index(index_dir, opened)
            assert index.origin == ""
            assert same_as_catalogue(index, opened)


# Damage


def sealed_folder(index_dir: Path) -> Path:
    return index_dir / "vectors" / current(index_dir)


@pytest.mark.parametrize("file", ["manifest.json", "rows.npy", "features.npy", "lists.faiss"])
@pytest.mark.parametrize("how", ["missing", "short", "longer", "empty"])
def test_files_of_another_size_are_passed_over_and_said_so(tmp_path, catalogue, file, how, caplog):
    compact(tmp_path, LISTS)
    path = sealed_folder(tmp_path) / file
    sound = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes({"short": sound[:-2], "longer": sound + b"}", "empty": b""}[how])
    index, _ = open_index(tmp_path, catalogue)
    assert index.origin == ""
    assert "without the sealed vectors" in caplog.text
    assert same_as_catalogue(index, catalogue)
    assert len(verify(tmp_path).problems) == 1
    compact(tmp_path)
    assert verify(tmp_path).problems == []
    assert open_index(tmp_path, catalogue)[0].origin == current(tmp_path)


def test_damaged_files_are_read_once_by_who_follows(tmp_path, catalogue, caplog):
    compact(tmp_path)
    path = sealed_folder(tmp_path) / "rows.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    index, generation = open_index(tmp_path, catalogue)
    for seed in range(3):
        change(catalogue, seed)
        index, generation = follow(tmp_path, index, generation, catalogue)
        assert same_as_catalogue(index, catalogue)
    assert caplog.text.count("without the sealed vectors") == 1
    compact(tmp_path)
    index, _ = follow(tmp_path, index, generation, catalogue)
    assert index.origin == current(tmp_path)


def test_a_recipe_for_more_rows_than_there_are_gives_way(tmp_path, catalogue):
    assert compact(tmp_path, Recipe("IVF60,SQfp16", 8, 32)).recipe.lists == 60
    assert compact(tmp_path, Recipe("IVF61,SQfp16", 8, 32)).recipe.is_exact


@pytest.mark.parametrize("file", ["rows.npy", "features.npy", "lists.faiss"])
def test_a_flipped_bit_is_found_by_verify(tmp_path, catalogue, file, caplog):
    compact(tmp_path, LISTS)
    path = sealed_folder(tmp_path) / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)
    (problem,) = verify(tmp_path).problems
    assert f"{file} (its digest does not fit)" in problem.what
    assert "clip-text index compact" in problem.what
    if file != "features.npy":
        # FAISS may end the process over lists, and other rows are other pictures
        assert open_index(tmp_path, catalogue)[0].origin == ""
        assert "digest" in caplog.text


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"..", b"../../x", b"sealed-1", b"sealed-1-000000000000"]
)
def test_a_pointer_that_leads_nowhere_is_none(tmp_path, catalogue, content):
    compact(tmp_path)
    (tmp_path / "vectors" / "CURRENT").write_bytes(content)
    index, _ = open_index(tmp_path, catalogue)
    assert index.origin == ""
    assert same_as_catalogue(index, catalogue)


@pytest.mark.parametrize(
    "lie", [{"count": 59}, {"embed_dim": 4}, {"format": "x"}, {"recipe": 3}, {"files": []}]
)
def test_a_manifest_that_does_not_fit_is_passed_over(tmp_path, catalogue, lie):
    compact(tmp_path)
    path = sealed_folder(tmp_path) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | lie))
    index, _ = open_index(tmp_path, catalogue)
    assert index.origin == ""
    assert same_as_catalogue(index, catalogue)


# A full disk, a second process, and death at any moment


def test_one_process_seals_at_a_time(tmp_path, catalogue, monkeypatch):
    compact(tmp_path)
    monkeypatch.setattr(lifecycle_module, "_TAIL_ROWS", -1)
    monkeypatch.setattr(lifecycle_module, "_TAIL_SHARE", -1)
    with _sealing_alone(tmp_path / "vectors"):
        with pytest.raises(IndexLockedError, match="only process sealing"):
            compact(tmp_path)
        assert seal_if_due(tmp_path, catalogue) is None
    assert seal_if_due(tmp_path, catalogue) is not None


def test_a_full_disk_leaves_the_segment_before(tmp_path, catalogue, monkeypatch, caplog):
    compact(tmp_path)
    before = vectors_in(tmp_path)
    change(catalogue)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"vectors to .*vectors, got: No space"):
        compact(tmp_path)
    monkeypatch.setattr(lifecycle_module, "_TAIL_ROWS", 0)
    monkeypatch.setattr(lifecycle_module, "_TAIL_SHARE", 0)
    assert seal_if_due(tmp_path, catalogue) is None
    assert "No space left" in caplog.text
    assert vectors_in(tmp_path) == before
    assert same_as_catalogue(open_index(tmp_path, catalogue)[0], catalogue)


class Death(BaseException):
    """From here on, nothing this process does reaches the disk."""


OPERATIONS = [
    *((os, name) for name in ("fsync", "unlink", "rmdir", "mkdir", "rename", "replace")),
    *((Path, name) for name in ("open", "mkdir", "unlink", "rename", "replace")),
    (shutil, "rmtree"),
]


@contextlib.contextmanager
def dying_at(moment: int, monkeypatch):
    """Let the operation on files of that number, and all after it, not happen."""
    done = [0]

    def watched(real):
        def operation(*args, **named):
            done[0] += 1
            if done[0] >= moment:
                raise Death
            return real(*args, **named)

        return operation

    with monkeypatch.context() as patch:
        for place, name in OPERATIONS:
            patch.setattr(place, name, watched(getattr(place, name)))
        with contextlib.suppress(Death):
            yield done


@pytest.mark.parametrize("recipe", [None, LISTS], ids=["exact", "lists"])
def test_death_between_any_two_operations_leaves_the_old_state_or_the_new_one(
    tmp_path, catalogue, monkeypatch, recipe
):
    with dying_at(10**9, monkeypatch) as done:
        compact(tmp_path, recipe)
    old = current(tmp_path)
    change(catalogue)
    assert done[0] > 10
    seen = set()
    for moment in range(1, done[0] + 20):
        with dying_at(moment, monkeypatch) as done:
            compact(tmp_path, recipe)
        name = current(tmp_path)
        seen.add((name == old, done[0] < moment))
        index, _ = open_index(tmp_path, catalogue)
        assert index.origin == name != ""
        assert verify(tmp_path).problems == []
        assert same_as_catalogue(index, catalogue)
        old = name
    assert seen == {(True, False), (False, False), (False, True)}
    compact(tmp_path, recipe)  # which removes what the dead have left
    assert vectors_in(tmp_path) == {"CURRENT", current(tmp_path)}
    assert read_manifest(tmp_path, current(tmp_path)).generation == catalogue.generation


# Beside a writer


def test_much_that_is_written_is_sealed_beside_the_writer(tmp_path, catalogue, monkeypatch):
    monkeypatch.setattr(lifecycle_module, "_TAIL_ROWS", 10)
    monkeypatch.setattr(background_module, "_WORTH_A_LOOK", 50)
    sealer = BackgroundSealer(tmp_path)
    sealer.note(49)
    sealer.wait()
    assert current(tmp_path) == ""
    sealer.note(1)
    sealer.wait()
    assert open_index(tmp_path, catalogue)[0].sealed == 60
    first = current(tmp_path)
    for seed in range(6):  # twelve came and went: a fifth, which is enough at the end
        change(catalogue, seed)
    sealer.note(50)
    sealer.wait()
    assert current(tmp_path) == first
    assert seal_if_due(tmp_path, catalogue) is not None


def test_a_writer_goes_on_where_nothing_can_be_sealed(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(background_module, "_WORTH_A_LOOK", 1)
    sealer = BackgroundSealer(tmp_path / "gone")
    sealer.note(1)
    sealer.wait()
    assert "cannot seal the vectors" in caplog.text


def test_indexing_seals_while_it_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(lifecycle_module, "_TAIL_ROWS", 3)
    monkeypatch.setattr(background_module, "_WORTH_A_LOOK", 4)
    for i in range(12):
        save_picture(tmp_path / "p" / f"{i:02}.png", i)
    seen = []

    def look(progress) -> None:
        if progress.done == 8:
            for thread in threading.enumerate():
                if thread.name == "clip-text-seal":
                    thread.join()
            seen.append(current(tmp_path / "index"))

    index_folder(tmp_path / "p", tmp_path / "index", FakeEncoder(), batch_size=4, on_progress=look)
    assert seen != [""]
    with Catalogue.open(tmp_path / "index") as opened:
        told = state_of(tmp_path / "index", opened)
    assert (told["state"], told["sealed"]) == ("up to date", 12)


def test_the_state_of_the_files_is_told(tmp_path, catalogue):
    assert state_of(tmp_path, catalogue) == {
        "state": "not sealed",
        "sealed": 0,
        "tail": 60,
        "tombstones": 0,
    }
    manifest = compact(tmp_path)
    told = state_of(tmp_path, catalogue)
    assert told == {
        "state": "up to date",
        "generation": 1,
        "recipe": "exact",
        "sealed": 60,
        "tail": 0,
        "tombstones": 0,
        "bytes": manifest.bytes,
    }
    change(catalogue)
    told = state_of(tmp_path, catalogue)
    assert (told["state"], told["tail"], told["tombstones"]) == ("behind", 2, 2)
    (sealed_folder(tmp_path) / "rows.npy").unlink()
    assert state_of(tmp_path, catalogue) == {"state": "damaged"}
