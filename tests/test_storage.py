"""What is computed once and kept; see test_full_disk.py for disks that are full."""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from clip_text.errors import StorageError
from clip_text.storage import (
    digest,
    is_kept,
    keep,
    keep_array,
    keep_json,
    partial_file,
    partial_folder,
)

KEY = {"model": "a", "length": 52}

CHILD = """
import os, sys
from pathlib import Path
import numpy as np
from clip_text.storage import keep, keep_array
place = Path(sys.argv[1])
def say(words):
    print(words, flush=True)
    sys.stdin.readline()
def half_a_folder(partial):
    partial.mkdir()
    (partial / "first").write_text("1")
    say("half")
    (partial / "second").write_text("2")
def own_number():
    say("computing")
    return np.array([os.getpid()])
if sys.argv[2] == "folder":
    print(sorted(path.name for path in keep(place, "key", half_a_folder).iterdir()))
else:
    print(keep_array(place, "key", own_number)[0])
"""


def child(place, kind):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, place, kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class Compute:
    """Gives a value, and counts how often."""

    def __init__(self, value):
        self.value, self.times = value, 0

    def __call__(self):
        self.times += 1
        return self.value


def folder_of(content):
    """A folder with a file, and one below it."""

    def write(partial):
        assert not partial.exists()
        (partial / "deep").mkdir(parents=True)
        (partial / "one").write_text(content, encoding="utf-8")
        (partial / "deep" / "two").write_text(content * 2, encoding="utf-8")

    return write


def never(*_):
    raise AssertionError("computed again")


def test_an_array_is_computed_once(tmp_path):
    file, compute = tmp_path / "new" / "rows.npy", Compute(np.arange(6.0).reshape(2, 3))
    for key in (KEY, dict(reversed(KEY.items()))):
        np.testing.assert_array_equal(keep_array(file, key, compute), compute.value)
    assert compute.times == 1
    assert names(file.parent) == ["rows.npy", "rows.npy.key.json"]
    mapped = keep_array(file, KEY, never, mapped=True)
    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable


def test_a_value_is_computed_once(tmp_path):
    file = tmp_path / "start.json"
    for compute in (lambda: {"recall@1": 0.25, "说": [None, "狗"]}, never):
        assert keep_json(file, ["a", 1], compute) == {"recall@1": 0.25, "说": [None, "狗"]}


def test_a_folder_is_computed_once_and_may_get_more(tmp_path):
    place = tmp_path / "folder"
    assert keep(place, KEY, folder_of("a")) == place
    (place / "deep" / "later").write_text("derived", encoding="utf-8")
    keep(place, KEY, never)
    assert (place / "deep" / "two").read_text(encoding="utf-8") == "aa"
    assert names(tmp_path) == ["folder"]


def test_another_key_computes_anew(tmp_path):
    file, place = tmp_path / "a.json", tmp_path / "folder"
    for number, key in enumerate([{"a": 1}, {"a": "1"}, [], None, [float("nan")]]):
        assert not is_kept(file, key)
        assert keep_json(file, key, lambda number=number: number) == number
        assert is_kept(file, key)
        keep(place, key, folder_of(str(number)))
        assert (place / "one").read_text(encoding="utf-8") == str(number)
    assert names(tmp_path) == ["a.json", "a.json.key.json", "folder"]


def cut(file):
    file.write_bytes(file.read_bytes()[:-9])


def flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
@pytest.mark.parametrize("name", ["a.npy", "a.npy.key.json", "folder/deep/two", "folder/key.json"])
def test_what_is_damaged_is_computed_anew(name, damage, tmp_path):
    file, place, compute = tmp_path / "a.npy", tmp_path / "folder", Compute(np.ones(3))
    keep_array(file, KEY, compute)
    keep(place, KEY, folder_of("a"))
    damage(tmp_path / name)
    np.testing.assert_array_equal(keep_array(file, KEY, compute), np.ones(3))
    assert compute.times == (2 if name.startswith("a.npy") else 1)
    assert (place / "one").exists()
    keep(place, KEY, folder_of("b"))
    expected = "b" if name.startswith("folder") else "a"
    assert (place / "one").read_text(encoding="utf-8") == expected
    assert names(tmp_path) == ["a.npy", "a.npy.key.json", "folder"]


@pytest.mark.parametrize("stamp", ["", "[]", "{}", '{"key": 1}', '{"key": 1, "content": {"": 0}}'])
def test_what_is_not_ours_is_not_trusted(stamp, tmp_path):
    file = tmp_path / "a.json"
    file.write_text('"foreign"', encoding="utf-8")
    (tmp_path / "a.json.key.json").write_text(stamp, encoding="utf-8")
    assert keep_json(file, 1, lambda: "ours") == "ours"
    place = tmp_path / "folder"
    place.mkdir()
    (place / "one").write_text("foreign", encoding="utf-8")
    (place / "key.json").write_text(stamp, encoding="utf-8")
    keep(place, 1, folder_of("ours"))
    assert (place / "one").read_text(encoding="utf-8") == "ours"


def test_an_error_leaves_what_was_there(tmp_path):
    file, place = tmp_path / "a.json", tmp_path / "folder"
    keep_json(file, 1, lambda: "older")
    keep(place, 1, folder_of("older"))

    def breaks(partial):
        folder_of("newer")(partial)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        keep(place, 2, breaks)
    with pytest.raises(TypeError, match="JSON"):
        keep_json(file, 2, lambda: {1, 2})
    assert keep_json(file, 1, never) == "older"
    keep(place, 1, never)
    assert names(tmp_path) == ["a.json", "a.json.key.json", "folder"]


def test_of_two_processes_the_first_to_end_gives_the_value_of_both(tmp_path):
    file = tmp_path / "a.npy"
    pair = [child(file, "array") for _ in range(2)]
    try:
        # both compute before either has ended
        assert [process.stdout.readline() for process in pair] == ["computing\n"] * 2
        ends = [process.communicate("\n", timeout=60)[0] for process in pair]
    finally:
        for process in pair:
            process.kill()
            process.wait()
    assert ends == [f"{pair[0].pid}\n"] * 2
    assert keep_array(file, "key", never).tolist() == [pair[0].pid]
    assert names(tmp_path) == ["a.npy", "a.npy.key.json"]


def test_of_two_folders_the_first_that_is_whole_stays(tmp_path):
    place = tmp_path / "folder"

    def overtaken(partial):
        folder_of("slower")(partial)
        keep(place, KEY, folder_of("faster"))

    keep(place, KEY, overtaken)
    assert (place / "one").read_text(encoding="utf-8") == "faster"
    (place / "one").unlink()  # damaged, and found so by two
    keep(place, KEY, overtaken)
    assert (place / "one").read_text(encoding="utf-8") == "faster"
    assert names(tmp_path) == ["folder"]


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    place = tmp_path / "folder"
    process = child(place, "folder")
    try:
        assert process.stdout.readline() == "half\n"
        (left,) = tmp_path.iterdir()
        assert names(left) == ["first"]

        def beside(partial):
            assert left.exists()  # its process is alive
            folder_of("a")(partial)

        keep(tmp_path / "folder", "other", beside)
        assert left.exists()
    finally:
        process.kill()
        process.communicate()
    assert left.exists()
    keep(place, "other", never)
    assert names(tmp_path) == ["folder"]


def test_what_other_machines_left_goes_after_a_day(tmp_path):
    place = tmp_path / "a.json"
    keep_json(place, 1, lambda: 1)
    owner = "00000000-1-00000000"
    left = [tmp_path / f"{name}.{owner}.partial" for name in ("a.json", "b.json")]
    for partial in left:
        partial.mkdir()
        (partial / "half").touch()
    day = time.time() - 25 * 3600
    os.utime(left[0], (day, day))
    keep_json(place, 1, never)
    assert left[0].exists()  # it still grows
    os.utime(left[0] / "half", (day, day))
    keep_json(place, 1, never)
    assert [partial.exists() for partial in left] == [False, True]


def test_a_place_that_cannot_be_written_is_told_before_anything_is_computed(tmp_path, caplog):
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "a.json"
    with pytest.raises(StorageError, match=rf"expected to write {place}, got: .+\. Allow it, or"):
        keep_json(place, 1, never)
    compute = Compute([1])
    with caplog.at_level(logging.WARNING):
        assert keep_json(place, 1, compute, optional=True) == [1]
    assert compute.times == 1
    assert f"computed, but not kept: expected to write {place}" in caplog.text


def test_two_that_write_the_same_do_not_meet(tmp_path):
    with partial_file(tmp_path / "a") as first, partial_file(tmp_path / "a") as second:
        first.write_text("first", encoding="utf-8")
        second.write_text("second", encoding="utf-8")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "first"  # it ended last
    with partial_folder(tmp_path / "b") as first, partial_folder(tmp_path / "b") as second:
        for partial, name in ((first, "first"), (second, "second")):
            (partial / name).write_text(name, encoding="utf-8")
            (partial / "both").write_text(name, encoding="utf-8")
    assert names(tmp_path / "b") == ["both", "first", "second"]
    assert (tmp_path / "b" / "both").read_text(encoding="utf-8") == "first"
    assert names(tmp_path) == ["a", "b"]


def test_the_stamp_holds_the_key_for_people_to_read(tmp_path):
    keep_json(tmp_path / "a.json", KEY, lambda: 1)
    stamp = json.loads((tmp_path / "a.json.key.json").read_text(encoding="utf-8"))
    assert stamp["key"] == KEY


def test_a_digest_tells_parts_and_kinds_apart():
    alike = [("ab",), ("a", "b"), ("", "ab"), (["a", "b"],), (b"ab",), (b"a", b"b"), (1,), ("1",)]
    alike += [(1.0,), (True,), (None,), (), ("\ud800",), ("?",), ({"a": 1},), ([["a", 1]],)]
    digests = {digest(*parts) for parts in alike}
    assert len(digests) == len(alike)
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in digests)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(("a", "b")) == digest(["a", "b"])
    with pytest.raises(TypeError, match="JSON"):
        digest({1, 2})


def test_digests_stay_what_they_were():
    assert digest("狗", b"1", [1]) == "5b73d437689dd7469e00c463ee601ae7"
