"""What is computed once and kept: under which key, for whom, and when it is not trusted."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from clip_text import storage
from clip_text.errors import StorageError
from clip_text.lengths import by_length
from clip_text.progress import counted, part_of, silent
from clip_text.storage import (
    STAMP,
    digest,
    keep,
    keep_array,
    keep_json,
    partial_file,
    partial_folder,
)

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


class Counting:
    """Gives a value, and counts how often it was asked."""

    def __init__(self, value):
        self.value, self.asked = value, 0

    def __call__(self):
        self.asked += 1
        return self.value


@pytest.mark.parametrize("mapped", [False, True])
def test_an_array_is_computed_once_for_a_key(mapped, tmp_path):
    file, compute = tmp_path / "deep" / "rows.npy", Counting(ROWS)
    for key in ({"a": 1, "b": (2, 3)}, {"b": [2, 3], "a": 1}):  # the same, as JSON has it
        rows = keep_array(file, key, compute, mapped=mapped)
        assert (rows == ROWS).all()
        assert rows.dtype == np.float32
        assert isinstance(rows, np.memmap) == mapped
    assert compute.asked == 1
    assert {path.name for path in file.parent.iterdir()} == {"rows.npy", f"rows.npy.{STAMP}"}
    other = keep_array(file, {"a": 2}, lambda: ROWS + 1, mapped=mapped)
    assert (other == ROWS + 1).all()
    assert (rows == ROWS).all()  # who has the earlier one mapped goes on reading it
    assert keep_array(file, {"a": 1, "b": [2, 3]}, compute).tolist() == ROWS.tolist()
    assert compute.asked == 2


def test_a_value_is_kept_as_json_has_it(tmp_path):
    compute = Counting({"recall": 0.1 + 0.2, "词": ("猫",)})
    for _ in range(2):
        value = keep_json(tmp_path / "start.json", "key", compute)
        assert value == {"recall": 0.1 + 0.2, "词": ["猫"]}
    assert compute.asked == 1
    with pytest.raises(TypeError):
        keep_json(tmp_path / "start.json", Path("a key that JSON has not"), compute)


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-1])


def one_bit(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def foreign(file):
    np.save(file, ROWS + 1)


def no_stamp(file):
    file.with_name(f"{file.name}.{STAMP}").unlink()


def broken_stamp(file):
    file.with_name(f"{file.name}.{STAMP}").write_bytes(b"[\xff")


def empty_stamp(file):
    stamp = file.with_name(f"{file.name}.{STAMP}")
    stamp.write_text(json.dumps({"key": "key", "content": {}}))


DAMAGES = [cut_short, one_bit, foreign, no_stamp, broken_stamp, empty_stamp, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_is_damaged_or_foreign_is_computed_again(damage, tmp_path):
    file, compute = tmp_path / "rows.npy", Counting(ROWS)
    keep_array(file, "key", compute)
    damage(file)
    for _ in range(2):
        assert (keep_array(file, "key", compute) == ROWS).all()
    assert compute.asked == 2


@pytest.mark.parametrize("place", [0, 70_000, 5_000_000, -200_000])
def test_of_a_large_file_blocks_and_size_are_looked_at(place, tmp_path):
    file, rows = tmp_path / "rows.npy", np.zeros(6_000_000, np.uint8)
    compute = Counting(rows)
    keep_array(file, "key", compute)
    changed = rows.copy()
    changed[place : place + 200_000 or None] = 1  # more than lies between two blocks
    np.save(file, changed)
    assert keep_array(file, "key", compute).sum() == 0
    assert compute.asked == 2


def folder_of(text):
    def make(folder):
        (folder / "deep").mkdir()
        (folder / "deep" / "a.txt").write_text(text)

    return make


def text_in(folder):
    return (folder / "deep" / "a.txt").read_text()


def test_a_folder_is_kept_whole(tmp_path):
    place = tmp_path / "folder"
    assert keep(place, 1, folder_of("one"), text_in, folder=True) == "one"
    (place / "later").write_bytes(b"")  # what is put there later stays, and disturbs nobody
    assert keep(place, 1, folder_of("two"), text_in, folder=True) == "one"
    assert (place / "later").exists()
    (place / "deep" / "a.txt").write_text("odd")
    assert keep(place, 1, folder_of("three"), text_in, folder=True) == "three"
    assert keep(place, 2, folder_of("four"), text_in, folder=True) == "four"
    assert not (place / "later").exists()  # of the other key
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_of_two_at_once_the_first_to_end_is_used_by_both(tmp_path):
    file, folder = tmp_path / "rows.npy", tmp_path / "folder"

    def overtaken():
        keep_array(file, "key", lambda: ROWS)
        seen.append(file.stat())
        return ROWS + 1

    def folder_overtaken(own):
        keep(folder, 1, folder_of("first"), text_in, folder=True)
        folder_of("second")(own)

    seen = []
    assert (keep_array(file, "key", overtaken) == ROWS).all()
    assert os.path.samestat(seen[0], file.stat())
    assert keep(folder, 1, folder_overtaken, text_in, folder=True) == "first"
    assert {path.name for path in tmp_path.iterdir()} == {
        "folder",
        "rows.npy",
        f"rows.npy.{STAMP}",
    }


def test_who_asks_for_another_key_meanwhile_never_gets_the_wrong_rows(tmp_path, monkeypatch):
    """The other process puts its file between ours and our stamp."""
    file, real, others = tmp_path / "rows.npy", storage.write_json, [ROWS + 1]

    def late(path, value):
        real(path, value)
        if others:
            np.save(file, others.pop())

    monkeypatch.setattr(storage, "write_json", late)
    real_replace = Path.replace

    def replace(path, target):
        real_replace(path, target)
        if target == file and others:
            np.save(file, others.pop())

    monkeypatch.setattr(Path, "replace", replace)
    assert (keep_array(file, "key", lambda: ROWS) == ROWS).all()
    others[:] = [ROWS + 1] * 9
    with pytest.raises(StorageError, match=r"expected .*rows\.npy to stay .* got something else"):
        keep_array(file, "other", lambda: ROWS)


PROCESS = """
import sys, time
import numpy as np
from pathlib import Path
from clip_text.storage import keep_array, partial_file
sys.stdin.readline()
def compute():
    time.sleep(0.05)
    return np.full(300_000, int(sys.argv[2]))
print(keep_array(Path(sys.argv[1]) / "rows.npy", "key", compute, mapped=True)[[0, -1]].tolist())
for _ in range(50):
    with partial_file(Path(sys.argv[1]) / "same") as partial:
        partial.write_text("whole" * 1000)
"""


def test_processes_at_once_do_not_disturb_each_other(tmp_path):
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, tmp_path, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        for number in range(3)
    ]
    try:
        for racer in racers:
            racer.stdin.write("go\n")
            racer.stdin.flush()
        ends = [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    assert all(first == last for first, last in ends)
    assert (tmp_path / "same").read_text() == "whole" * 1000
    names = {"rows.npy", f"rows.npy.{STAMP}", "same"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_failure_keeps_what_was_there(tmp_path):
    def fail():
        raise ZeroDivisionError

    keep_array(tmp_path / "rows.npy", "older", lambda: ROWS)
    with pytest.raises(ZeroDivisionError):
        keep_array(tmp_path / "rows.npy", "newer", fail)
    assert (keep_array(tmp_path / "rows.npy", "older", fail) == ROWS).all()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.fixture
def read_only(tmp_path):
    """A folder that this process may read and not write, whoever runs the tests."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    keep_array(folder / "rows.npy", "key", lambda: ROWS)
    parents = [tmp_path, *list(tmp_path.parents)[:2]]
    modes = {path: path.stat().st_mode for path in parents}
    for path in parents:
        path.chmod(0o755)
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)  # nobody
    yield folder
    if root:
        os.seteuid(0)
    folder.chmod(0o755)
    for path, mode in modes.items():
        path.chmod(mode)


@pytest.mark.skipif(os.name == "nt", reason="folders have no such modes there")
def test_a_read_only_place_is_read_and_says_early_that_it_cannot_be_written(read_only):
    compute = Counting(ROWS)
    assert (keep_array(read_only / "rows.npy", "key", compute) == ROWS).all()
    for file in (read_only / "rows.npy", read_only / "deep" / "rows.npy"):
        with pytest.raises(StorageError, match=rf"write {file}, got: Permission denied\. Name a"):
            keep_array(file, "other", compute)
    assert compute.asked == 0
    with (
        pytest.raises(StorageError, match="Name a folder that can be written"),
        partial_folder(read_only / "new"),
    ):
        pass


def test_what_killed_processes_left_goes_after_a_day(tmp_path):
    day = time.time() - 25 * 3600
    left = [tmp_path / name for name in ("a[1].npy.0f.partial", "a[1].npy.1f.partial", "b.partial")]
    for path in left:
        path.write_bytes(b"half")
    for path in (left[0], left[2]):
        os.utime(path, (day, day))
    with partial_file(tmp_path / "a[1].npy") as partial:
        partial.write_bytes(b"whole")
    assert [path.exists() for path in left] == [False, True, True]


def test_digests_tell_values_apart():
    assert digest(["猫", 1]) == digest(("猫", 1))
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    values = [["a", "b"], ["ab"], ["a,b"], "a", ["a"], None, [None], "\ud800", "", [], {}, 1, "1"]
    assert len({digest(value) for value in values}) == len(values)
    parts = [("a", "b"), ("ab",), (b"ab",), ("a", b"b"), (), ("a", "", "b")]
    assert len({digest(*those) for those in parts}) == len(parts)
    # it names files and runs: it stays what it is
    assert digest("狗", b"1", [1]) == "5b73d437689dd7469e00c463ee601ae7"


# Progress, and texts of like length


def test_progress_counts_up_and_nests():
    heard = []
    advance = counted("texts", 5, lambda *told: heard.append(told))
    advance(2)
    advance(3)
    part_of("all", 10, 15, lambda *told: heard.append(told))("texts", 5, 5)
    silent("texts", 1, 2)
    assert heard == [("texts", 2, 5), ("texts", 5, 5), ("all", 15, 15)]


def test_texts_of_like_length_come_together_each_once():
    lengths = [5, 1, 5, 3, 1]
    assert list(by_length(lengths, 2)) == [[1, 4], [3, 0], [2]]
    assert list(by_length(np.array(lengths), 9)) == [[1, 4, 3, 0, 2]]
    assert list(by_length([], 2)) == []
    with pytest.raises(ValueError, match="batch_size of at least 1, got 0"):
        list(by_length(lengths, 0))
