"""Text files as people have them: encodings, byte order marks, line ends; and no such file."""

import logging
import random
from pathlib import Path

import pytest

from clip_text.data.collection import OTHER_ENCODINGS
from clip_text.data.labelled_texts import read_labelled_texts
from clip_text.data.masking import Segmenter
from clip_text.data.parallel import read_parallel
from clip_text.data.plain_text import read_lines
from clip_text.data.questions import read_questions
from clip_text.data.tagged_text import read_tagged
from clip_text.data.text_files import (
    json_objects,
    read_entries,
    read_text,
    text_lines,
)
from clip_text.errors import DataError, NoFileError
from clip_text.evaluation.classes import read_classes
from clip_text.evaluation.labelled import read_labelled
from clip_text.evaluation.templates import read_templates
from clip_text_cli.tokens import read_texts

SIMPLIFIED = ["一只羊驼在草地上", "合格品", "T恤，蓝色；“新款”", "螃蟹和馄饨", "海滩"]
TRADITIONAL = ["一隻羊駝在草地上", "我們國家的鐵路", "臺灣的夜市"]
FOREIGN = {
    "cp1252": ["Müller fährt über die Brücke", "un café à Paris, déjà vu", "el niño y la niña"],
    "cp1251": ["собака бежит по траве", "кошка", "два красных яблока на столе"],
    "shift_jis": ["犬が草の上を走っている", "ねこ", "海辺の写真です"],
    "euc_kr": ["개가 풀밭에서 달리고 있다", "고양이 두 마리", "바닷가의 아이들과 노란 우산"],
}


@pytest.fixture(autouse=True)
def told(caplog):
    caplog.set_level(logging.WARNING, "clip_text")
    return caplog


@pytest.mark.parametrize(
    ("codec", "name", "texts"),
    [
        ("utf-8", None, SIMPLIFIED),
        ("utf-8-sig", None, SIMPLIFIED),
        ("utf-16", "UTF-16", SIMPLIFIED),  # with a mark, as Excel's "Unicode text"
        ("utf-16-le", "UTF-16", [*SIMPLIFIED, "1.jpg,a dog", "2.jpg,a cat"]),
        ("utf-16-be", "UTF-16", [*SIMPLIFIED, "1.jpg,a dog", "2.jpg,a cat"]),
        ("utf-32", "UTF-32", SIMPLIFIED),
        ("gbk", "GB18030", SIMPLIFIED),
        ("gb18030", "GB18030", [*SIMPLIFIED, "𠮷野家😀"]),
        ("gb18030", "GB18030", TRADITIONAL),
        ("cp950", "Big5", TRADITIONAL),
    ],
)
def test_encodings_and_line_ends(codec, name, texts, tmp_path, told):
    for end in ("\n", "\r\n", "\r"):
        file = tmp_path / f"{len(end)} {ord(end[0])}.txt"
        file.write_bytes(end.join(["", "a", *texts, ""]).encode(codec))
        assert read_entries(file) == ["a", *texts]
        assert read_entries(file) == ["a", *texts]
        assert told.messages == ([f"{file}: read as {name}, not UTF-8"] if name else [])  # once
        told.clear()
        problems = []
        lines = [text for _, text in text_lines(file, problems=problems)]
        assert lines == ["\n", "a\n", *(f"{text}\n" for text in texts)]
        assert [problem.kind for problem in problems] == ([OTHER_ENCODINGS] if name else [])


@pytest.mark.parametrize("text", [*SIMPLIFIED[:2], "狗", "的", "，好"])
def test_one_short_text_is_enough(text, tmp_path):
    (tmp_path / "a.txt").write_bytes(text.encode("gbk"))
    assert read_entries(tmp_path / "a.txt") == [text]


@pytest.mark.parametrize("codec", FOREIGN)
def test_other_encodings_are_not_taken_for_chinese(codec, tmp_path):
    (tmp_path / "a.txt").write_bytes("\n".join(FOREIGN[codec]).encode(codec))
    with pytest.raises(DataError, match=r"expected UTF-8 in .*a\.txt, line 1, got byte 0x.*Save"):
        read_text(tmp_path / "a.txt")


def test_a_broken_line_makes_no_other_encoding(tmp_path):
    """Of one file in two encodings, what is not UTF-8 is named."""
    file = tmp_path / "a.txt"
    lines = [line.encode() for line in SIMPLIFIED] + ["海滩".encode("gbk")]
    file.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=r"a\.txt, line 6, got byte 0xba\. Save"):
        read_text(file)
    problems = []
    assert len(list(text_lines(file, problems=problems))) == 5
    assert [problem.offenders for problem in problems] == [("line 6",)]
    file.write_bytes(b"\n".join([*(line.encode("gbk") for line in SIMPLIFIED * 10), b"\xff\xff"]))
    with pytest.raises(DataError, match=r"expected GB18030 in .*, line 51, got byte 0xff"):
        read_text(file)
    file.write_bytes("狗\n猫".encode("utf-16")[:-1])
    with pytest.raises(DataError, match=r"expected UTF-16 in .*, line 2, got byte 0x2b"):
        read_text(file)


def test_what_is_told_late(tmp_path):
    """Megabytes of ASCII come first, and the sample ends in the midst of a character."""
    for codec in ("utf-8", "gbk"):
        late = tmp_path / codec
        late.write_bytes(b"a dog\n" * 400_000 + "一只羊驼在草地上\n".encode(codec) * 300_000)
        lines = text_lines(late)
        assert next(lines) == (1, "a dog\n")
        *_, last = lines
        assert last == (700_000, "一只羊驼在草地上\n")
        one = tmp_path / f"{codec} in one line"
        one.write_bytes(("x" + "一只羊驼在草地上 " * 200_000).encode(codec))
        assert read_text(one).count("羊驼") == 200_000


def test_a_mark_in_the_midst_is_no_text(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("\ufeff好评\n\ufeff差评\n", encoding="utf-8")  # two files put together
    assert read_entries(file) == ["好评", "差评"]
    assert read_classes(file)[0].label == "好评"
    assert [line.text.strip() for line in read_lines(file)] == ["好评", "差评"]


def test_a_dictionary_of_words(tmp_path):
    (tmp_path / "words.txt").write_bytes("\ufeff羊驼在草 1000\r\n".encode("utf-16"))
    assert Segmenter(tmp_path / "words.txt")("羊驼在草地上")[:2] == [0, 4]


def test_zip_archives_are_named(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"PK\x03\x04rest")
    with pytest.raises(DataError, match=r"a\.csv, which is a zip archive, as \.xlsx"):
        read_text(tmp_path / "a.csv")


def test_json_lists_of_objects(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('\n [{"a": 1},\n {"a": 2}, 3]', encoding="utf-8")
    problems = []
    assert list(json_objects(file, problems)) == [("entry 1", {"a": 1}), ("entry 2", {"a": 2})]
    assert "a.json, entry 3, got int" in problems[0].message
    file.write_text('{"a": 1}\n{"a": 2}\n', encoding="utf-8")
    assert [place for place, _ in json_objects(file)] == ["line 1", "line 2"]


READERS = {
    "labelled texts.csv": read_labelled_texts,
    "labelled texts.jsonl": read_labelled_texts,
    "labelled texts.xlsx": read_labelled_texts,
    "tags.txt": read_tagged,
    "tags.json": read_tagged,
    "questions.json": read_questions,
    "parallel.tsv": lambda file: read_parallel(file, ["en", "zh"]),
    "parallel.jsonl": lambda file: read_parallel(file, ["en", "zh"]),
    "text.txt": lambda file: list(read_lines(file)),
    "text.csv": lambda file: list(read_lines(file)),
    "words.txt": Segmenter,
    "classes.txt": read_classes,
    "labels.jsonl": read_labelled,
    "texts.txt": read_texts,
}


@pytest.mark.parametrize("name", READERS)
def test_files_that_are_not_there(name, tmp_path, monkeypatch):
    file, read = tmp_path / name, READERS[name]
    with pytest.raises(
        NoFileError, match=r"expected a file at .*, got nothing there. Check"
    ) as error:
        read(file)
    assert isinstance(error.value, OSError)
    file.mkdir()
    if name != "labels.jsonl":  # a folder of pictures, by class
        with pytest.raises(NoFileError, match=r"got a folder\. Name a file in it"):
            read(file)
    file.rmdir()
    file.touch()

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(NoFileError, match=r"may be read at .*, got one that may not. Change"):
        read(file)


@pytest.mark.parametrize("name", [n for n in READERS if n not in ("texts.txt", "words.txt")])
def test_empty_files(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"^expected .*, got:? .*\. \w.*\.$"):
        READERS[name](tmp_path / name)


def test_templates_that_are_a_folder(tmp_path):
    with pytest.raises(NoFileError, match="got a folder"):
        read_templates(tmp_path)


def test_the_same_whatever_the_encoding(tmp_path):
    """Small files, at random: what was written is read."""
    rng = random.Random(0)
    letters = (
        "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年"
    )
    for number in range(200):
        texts = ["".join(rng.choices(letters, k=rng.randint(1, 12))) for _ in range(5)]
        for codec in ("utf-8", "gb18030", "utf-16"):
            file = tmp_path / f"{number} {codec}"
            file.write_bytes("\n".join(texts).encode(codec))
            assert read_entries(file) == texts
