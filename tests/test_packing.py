"""Text files to sequences: reading, tokenising once, packing."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import CLS, SEP, tiny_tokenizer

from clip_text.data import corpus, packing, plain_text
from clip_text.data.corpus import tokenise
from clip_text.data.packing import DOCUMENT, LINE, STOP, WORD, lines, pack, render, split
from clip_text.data.plain_text import Line, read_lines, text_files
from clip_text.errors import DataError

TOKENIZER = tiny_tokenizer(12)


def row(*documents):
    """Flags of documents, given as lengths of their lines; every token is a word."""
    flags = []
    for document in documents:
        for at, length in enumerate(document):
            flags += [WORD | LINE | (0 if at else DOCUMENT), *[WORD] * (length - 1)]
    return np.array(flags, np.uint8)


def packed(flags, length=10, mode="document"):
    return list(pack(flags, length, mode))


# Packing, by hand


def test_whole_lines_as_many_as_fit():
    # [CLS] 3 [SEP] 4 [SEP] = 10; the third line begins the next
    assert packed(row([3, 4, 2])) == [(0, 7, 10), (7, 9, 4)]
    assert packed(row([3, 5, 2])) == [(0, 3, 5), (3, 10, 10)]
    assert packed(row([8])) == [(0, 8, 10)]
    assert packed(np.zeros(0, np.uint8)) == []


def test_a_sequence_ends_with_its_document_or_says_that_it_does_not():
    flags = row([2], [2], [1])
    assert packed(flags) == [(0, 2, 4), (2, 4, 4), (4, 5, 3)]
    # [CLS] 2 [SEP] [SEP] 2 [SEP] = 8, and one more document of one token would be 11
    assert packed(flags, 10, "full") == [(0, 4, 8), (4, 5, 3)]
    assert packed(flags, 11, "full") == [(0, 5, 11)]


def test_a_long_line_is_cut_behind_a_sentence_before_a_word_or_anywhere():
    flags = row([20])
    flags[1:] = 0
    assert split(flags, 8) == [8, 16, 20]
    flags[[3, 6, 8]] |= WORD
    # a word begins behind the room: so it is cut there
    assert split(flags, 8) == [8, 16, 20]
    flags[8] = 0
    assert split(flags, 8) == [6, 14, 20]
    flags[4] |= STOP
    assert split(flags, 8) == [5, 6, 14, 20]
    assert packed(flags, 10) == [(0, 6, 8), (6, 14, 10), (14, 20, 8)]


def test_what_is_left_of_a_long_line_shares_a_sequence_with_the_next():
    flags = row([10, 3])
    assert packed(flags) == [(0, 8, 10), (8, 13, 8)]
    ids, starts = render(np.arange(100, 113)[8:], flags[8:], CLS, SEP)
    assert ids.tolist() == [CLS, 108, 109, SEP, 110, 111, 112, SEP]
    assert starts.all()


def test_a_sequence_written_out():
    flags = row([2, 1], [1])
    flags[1] = 0
    ids, starts = render(np.array([100, 101, 102, 103]), flags, CLS, SEP)
    assert ids.tolist() == [CLS, 100, 101, SEP, 102, SEP, SEP, 103, SEP]
    assert starts.tolist() == [True, True, False, True, True, True, True, True, True]
    # a sequence that begins within a word begins one of its own
    assert render(np.array([101]), flags[1:2], CLS, SEP)[1].tolist() == [True] * 3


def test_lines_are_the_same_however_the_row_is_cut(monkeypatch):
    flags = row([3, 5], [1], [9, 2, 2])
    whole = list(lines(flags))
    assert whole == [(0, 3), (3, 8), (8, 9), (9, 18), (18, 20), (20, 22)]
    for size in (1, 3, 8):
        monkeypatch.setattr(packing, "_CHUNK", size)
        assert list(lines(flags)) == whole


DOCUMENTS = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=6), max_size=8)


@given(DOCUMENTS, st.integers(3, 20), st.sampled_from(["document", "full"]), st.randoms())
def test_every_token_is_in_one_sequence_that_fits(documents, length, mode, chance):
    flags = row(*documents)
    for at in range(len(flags)):
        flags[at] = (flags[at] & (LINE | DOCUMENT)) | chance.choice([0, WORD, WORD | STOP])
    found = packed(flags, length, mode)
    assert [begin for begin, _, _ in found] == [0, *(end for _, end, _ in found)][: len(found)]
    assert not found or found[-1][1] == len(flags)
    for begin, end, size in found:
        ids, starts = render(np.arange(begin, end) + 1000, flags[begin:end], CLS, SEP)
        assert len(ids) == len(starts) == size <= length
        assert ids[ids >= 1000].tolist() == list(range(begin + 1000, end + 1000))
        inner = flags[begin + 1 : end]
        if mode == "document":
            assert not (inner & DOCUMENT).any()
        separators = (inner & LINE > 0).sum() + (inner & DOCUMENT > 0).sum() + 1
        assert (ids == SEP).sum() == separators
    # no document's end is joined to another's beginning without being told
    crossed = [(flags[begin + 1 : end] & DOCUMENT).any() for begin, end, _ in found]
    assert mode == "full" or not any(crossed)


# Reading


def read(path, **options):
    return [(line.text.strip(), line.new_document) for line in read_lines(path, **options)]


def test_plain_text_has_documents_between_blank_lines(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("\ufeff红\n绿\n\n \n蓝\n", encoding="utf-8")
    assert read(file) == [("红", True), ("绿", False), ("蓝", True)]
    assert [new for _, new in read(file, line_documents=True)] == [True] * 3


def test_fields_and_columns_hold_documents(tmp_path):
    file = tmp_path / "a.jsonl"
    entries = [{"zh": ["红", "绿"], "mt": "蓝\n黄"}, {"zh": "黑", "mt": ""}]
    file.write_text("\n".join(map(json.dumps, entries)), encoding="utf-8")
    assert read(file, fields=["zh", "mt"]) == [
        *(("红", True), ("绿", False), ("蓝", True), ("黄", False), ("黑", True)),
    ]
    table = tmp_path / "a.csv"
    table.write_text('label,review\n1,"红\n绿"\n0,蓝\n', encoding="utf-8")
    assert read(table) == [("红", True), ("绿", False), ("蓝", True)]
    table = tmp_path / "a.tsv"
    table.write_text("text\tlabel\n红\t1\n", encoding="utf-8")
    assert read(table) == [("红", True)]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b"", r"expected text in .*a\.txt, got none"),
        ("a.txt", b" \n\n", "got none"),
        ("a.txt", "红\n".encode() + "绿\n".encode("gbk"), r"a\.txt, line 2, got byte 0xc2"),
        ("a.jsonl", b'{"text": "a"}\n{"text": 5}\n', r"line 2, got int"),
        ("a.jsonl", b'{"text": "a"}\n{"zh": "b"}\n', r"field 'text' in .*line 2, got zh"),
        ("a.jsonl", b'{"text": "a"}\n[]\n', "line 2"),
        ("a.csv", b"text,label\na,1\nb\n", r"2 fields in .*line 3, as in the header, got 1"),
        ("a.csv", b"title,label\na,1\n", r"field 'text' in .*line 2, got title, label"),
    ],
)
def test_a_broken_file_is_told_with_its_line(name, content, told, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=told):
        read(tmp_path / name)


def test_files_and_folders_are_listed(tmp_path):
    for name in ("b.txt", "deep/a.jsonl", "picture.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a")
    found = text_files([tmp_path, tmp_path / "b.txt"])
    assert [file.name for file in found] == ["b.txt", "a.jsonl", "b.txt"]
    for wrong, told in [("picture.png", "another kind"), ("no.txt", "no such file")]:
        with pytest.raises(DataError, match=told):
            text_files([tmp_path / wrong])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="got none"):
        text_files([tmp_path / "empty"])


def test_a_very_long_line_is_read_in_parts_that_stay_one_line(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    text = "红色的狗。" * 20_000 + "\n蓝"
    file.write_text(text, encoding="utf-8")
    found = list(read_lines(file))
    assert "".join(line.text for line in found) == text
    assert [line.new_line for line in found] == [True, False, True]
    assert all(line.text.endswith("。") for line in found[:1])
    monkeypatch.setattr(plain_text, "_LONGEST", 7)
    parts = list(read_lines(file))
    assert "".join(line.text for line in parts) == text
    assert sum(line.new_line for line in parts) == 2


# Tokenising


def tokens_of(folder, **options):
    return tokenise(text_files([folder / "a.txt"]), TOKENIZER, folder / "cache", **options)


def test_text_becomes_ids_and_flags(tmp_path):
    (tmp_path / "a.txt").write_text("红色的\n\t\x07\n小狗。\n\n猫", encoding="utf-8")
    learnt, held = tokens_of(tmp_path)
    spelt = TOKENIZER.backend.convert_ids_to_tokens(learnt.ids.tolist())
    assert spelt == list("红色的小狗。猫")
    assert learnt.ids.dtype == np.uint16
    begins = WORD | LINE | DOCUMENT
    # the line without tokens ended no document, but was no line either
    assert learnt.flags.tolist() == [begins, 0, WORD, WORD | LINE, 0, WORD | STOP, begins]
    assert (learnt.documents, held.documents, len(held.ids)) == (2, 0, 0)
    assert learnt.sequences(12).tolist() == [[0, 6, 9], [6, 7, 3]]
    assert learnt.sequences(12).tolist() == [[0, 6, 9], [6, 7, 3]]  # from its file
    assert learnt.sequences(12, "full").tolist() == [[0, 7, 12]]


def test_memory_holds_a_batch_and_batches_change_nothing(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("红色的狗。\n小猫\n\n" * 20, encoding="utf-8")
    whole, _ = tokens_of(tmp_path)
    monkeypatch.setattr(corpus, "_BATCH", 3)
    parts, _ = tokenise(
        text_files([tmp_path / "a.txt"]), TOKENIZER, tmp_path / "other", held_out=0.0
    )
    assert (parts.ids == whole.ids).all()
    assert (parts.flags == whole.flags).all()


def test_a_document_of_100_000_characters(tmp_path):
    (tmp_path / "a.txt").write_text("红色的狗在草地上跑。" * 10_000, encoding="utf-8")
    learnt, _ = tokens_of(tmp_path)
    assert len(learnt.ids) == 100_000
    assert (learnt.documents, (learnt.flags & LINE > 0).sum()) == (1, 1)
    found = learnt.sequences(12)
    assert (found[:, 2] <= 12).all()
    assert len(found) == 10_000  # a sentence each


def test_tokens_are_kept_by_all_they_depend_on(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    file.write_text("红色的狗\n\n猫", encoding="utf-8")
    told = []
    first, _ = tokens_of(tmp_path, on_progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (file.stat().st_size, file.stat().st_size)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    with monkeypatch.context() as patch:
        patch.setattr(corpus, "Annotator", None)  # nothing is tokenised again
        assert tokens_of(tmp_path)[0].path == first.path
    words = tmp_path / "words.txt"
    words.write_text("的狗\n", encoding="utf-8")
    others = [
        tokens_of(tmp_path, user_dict=words)[0].path,
        tokens_of(tmp_path, line_documents=True)[0].path,
        tokenise([file], tiny_tokenizer(9), tmp_path / "cache")[0].path,
    ]
    file.write_text("红色的狗\n\n鸟", encoding="utf-8")
    others.append(tokens_of(tmp_path)[0].path)
    # the context is not asked for: sequences are packed of the same tokens
    assert others[2] == first.path
    assert len({first.path, *others}) == 4


def test_nothing_half_written_is_left(tmp_path):
    (tmp_path / "a.txt").write_bytes("红\n\n".encode() * 9 + b"\xff\n")
    with pytest.raises(DataError, match="line 19"):
        tokens_of(tmp_path)
    assert list((tmp_path / "cache").iterdir()) == []


RACE = """
import sys
from pathlib import Path
from models import tiny_tokenizer
from clip_text.data.corpus import tokenise
folder = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
learnt, _ = tokenise([folder / "a.txt"], tiny_tokenizer(12), folder / "cache")
print("tokens", flush=True)
sys.stdin.readline()
print(len(learnt.ids), int(learnt.ids.sum()), len(learnt.sequences(12)), flush=True)
"""


def test_processes_that_race_get_the_same(tmp_path):
    (tmp_path / "a.txt").write_text("红色的狗在草地上跑。\n小猫\n\n" * 8_000, encoding="utf-8")
    root = Path(__file__).parents[1]
    known = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, tmp_path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=known,
        )
        for _ in range(2)
    ]
    said = []
    try:
        for _ in range(2):  # they tokenise at once, then they pack at once
            said.append([racer.stdout.readline() for racer in racers])
            for racer in racers:
                racer.stdin.write("go\n")
                racer.stdin.flush()
        ends = [racer.communicate(timeout=120)[0] for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    assert said == [["ready\n"] * 2, ["tokens\n"] * 2]
    learnt, _ = tokens_of(tmp_path)  # of the cache
    whole = f"{len(learnt.ids)} {learnt.ids.sum()} {len(learnt.sequences(12))}\n"
    assert ends == [whole] * 2
    assert len(learnt.ids) == 12 * 8_000
    # only the first one's is left
    assert [each.name for each in (tmp_path / "cache").iterdir()] == [learnt.path.parent.name]
    assert {each.name for each in learnt.path.iterdir()} == {
        "ids",
        "flags",
        "sequences-12-document",
        "sequences-12-document.key.json",
    }


def test_a_slower_process_uses_what_the_faster_one_made(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("红色的狗\n\n猫", encoding="utf-8")
    faster = []

    def overtaken(*_):
        if not faster:
            faster.append(None)
            found, _ = tokens_of(tmp_path)
            faster[:] = [found.path / "ids", (found.path / "ids").stat()]

    learnt, _ = tokens_of(tmp_path, on_progress=overtaken)
    assert faster[0] == learnt.path / "ids"
    assert os.path.samestat(faster[1], faster[0].stat())  # nothing was put in its place
    real, other = corpus.pack, []

    def slow(*arguments):
        monkeypatch.setattr(corpus, "pack", real)
        learnt.sequences(12)
        other.append((learnt.path / "sequences-12-document").stat())
        return real(*arguments)

    monkeypatch.setattr(corpus, "pack", slow)
    assert learnt.sequences(12).tolist() == [[0, 4, 6], [4, 5, 3]]
    assert os.path.samestat(other[0], (learnt.path / "sequences-12-document").stat())
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert len(list(learnt.path.iterdir())) == 4


def test_what_killed_processes_left_goes_after_a_day(tmp_path):
    (tmp_path / "a.txt").write_text("红色的狗\n\n猫", encoding="utf-8")
    learnt, _ = tokens_of(tmp_path)
    key, day = learnt.path.parent, time.time() - 25 * 3600
    left = [key.with_name(f"{key.name}.{name}partial") for name in ("old.", "", "growing.", "new.")]
    for folder in left:
        folder.mkdir()
        (folder / "ids").write_bytes(b"")
    for path in [*left[:3], left[0] / "ids", left[1] / "ids"]:
        os.utime(path, (day, day))
    other = key.with_name("another.old.partial")
    other.mkdir()
    os.utime(other, (day, day))
    packed = [learnt.path / f"sequences-12-document.{name}.partial" for name in ("old", "new")]
    for file in packed:
        file.write_bytes(b"")
    os.utime(packed[0], (day, day))
    tokens_of(tmp_path)[0].sequences(12)
    assert [each.exists() for each in left] == [False, False, True, True]
    assert [each.exists() for each in packed] == [False, True]
    assert other.exists()  # of another text


def test_held_out_documents_are_whole_and_equal_ones_stay_together(tmp_path):
    documents = [f"{word}狗{number}\n的\n" for number in range(100) for word in "红绿蓝黄"]
    (tmp_path / "a.txt").write_text("\n".join(documents * 2), encoding="utf-8")
    learnt, held = tokens_of(tmp_path, held_out=0.2)
    assert learnt.documents + held.documents == 800
    assert 0.2 - 4 * 0.02 < held.documents / 800 < 0.2 + 4 * 0.02  # 400 draws, sigma 0.02

    def whole(tokens):
        starts = np.flatnonzero(tokens.flags & DOCUMENT)
        return {each.tobytes() for each in np.split(np.asarray(tokens.ids), starts[1:])}

    assert len(whole(learnt)) * 2 == learnt.documents
    assert not whole(learnt) & whole(held)
    again, _ = tokens_of(tmp_path, held_out=0.2, seed=1)
    assert whole(again) != whole(learnt)


def test_a_single_document_cannot_be_held_out(tmp_path):
    (tmp_path / "a.txt").write_text("红\n绿\n", encoding="utf-8")
    with pytest.raises(DataError, match="a blank line ends a document"):
        tokens_of(tmp_path, held_out=0.02)


def test_a_line_is_what_it_was_said_to_be():
    assert Line("红", True) == Line("红", True, True)
