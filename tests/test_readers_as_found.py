"""Captions as people have them: COCO's, Excel's, Windows', macOS', and labels as captions."""

import json
import logging
import unicodedata

import numpy as np
import pytest
from openpyxl import Workbook
from PIL import Image

from clip_text.data.check import check
from clip_text.data.readers import read_retrieval_set
from clip_text.errors import DataError
from clip_text.evaluation.labelled import read_labelled


def pictures(folder, *names):
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(noise).save(path)


def texts(path, **options):
    return [(text.text, *text.image_ids) for text in read_retrieval_set(path, **options).texts]


# --- COCO ---

IMAGES = [{"id": 9, "file_name": "9.png"}, {"id": 25, "file_name": "25.png"}]
CAPTIONS = [
    {"image_id": 25, "id": 1, "caption": "一只长颈鹿\n"},
    {"image_id": 9, "id": 2, "caption": "一碗饭"},
    {"image_id": 25, "id": 3, "caption": "两只长颈鹿", "zh": "鹿"},
]


def coco(path, images=IMAGES, annotations=CAPTIONS, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"info": {"year": 2017}, "images": images, "annotations": annotations}
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    return path


@pytest.mark.parametrize("home", ["train2017", "images", "images/train2017", "annotations", "../x"])
def test_coco(home, tmp_path):
    path = coco(tmp_path / "coco" / "annotations" / "captions_train2017.json")
    coco(tmp_path / "coco" / "annotations" / "captions_val2017.json", IMAGES[:1], CAPTIONS[1:2])
    folder = tmp_path / "coco" / home
    pictures(folder, "9.png", "25.png")
    given = {"images": folder} if home == "../x" else {}
    expected = [("一碗饭", "9.png"), ("一只长颈鹿", "25.png"), ("两只长颈鹿", "25.png")]
    assert texts(path, **given) == expected
    found = read_retrieval_set(tmp_path / "coco", split="train2017", **given)
    assert found.image_ids == ["9.png", "25.png"]
    assert found.images[1].resolve() == (folder / "25.png").resolve()
    assert found.answers == [[0], [1], [1]]
    with pytest.raises(DataError, match=r"got none\. There are: train2017, val2017"):
        read_retrieval_set(tmp_path / "coco")


@pytest.mark.parametrize(
    ("images", "annotations", "match"),
    [
        (
            IMAGES,
            [{"image_id": 9, "bbox": [0, 0, 1, 1], "category_id": 1}],
            r"got objects and their boxes\. Take COCO's captions_….json in place of",
        ),
        (IMAGES, [{"image_id": 9, "text": "饭"}], "got none. The fields there are: image_id, text"),
        (IMAGES, CAPTIONS[:1], r"caption for every picture .*: '9.png \(image 9\)'"),
        (IMAGES[:1], CAPTIONS, "images that are there in .*: 'annotations, entry 1: image 25'"),
        ("x", CAPTIONS, "a list of objects in 'images' of .*got str"),
        ([{"id": 9}], CAPTIONS, "a text in 'file_name' of .*, images, entry 1, got None"),
        (IMAGES, [{"image_id": [], "caption": "饭"}], r"'image_id' of .*, entry 1, got \[\]"),
        (IMAGES, [*CAPTIONS, {"image_id": 9, "caption": 1}], "'caption' of .*, entry 4, got 1"),
        (IMAGES, [], "caption for every picture .*got 2"),
    ],
)
def test_broken_coco(images, annotations, match, tmp_path):
    pictures(tmp_path, "9.png", "25.png")
    with pytest.raises(DataError, match=match):
        read_retrieval_set(coco(tmp_path / "captions_x.json", images, annotations))


def test_coco_is_looked_through(tmp_path):
    pictures(tmp_path, "9.png")
    wrong = [{"image_id": 7, "caption": "?"}, {"image_id": 9, "caption": None}]
    path = coco(tmp_path / "captions_x.json", annotations=[*CAPTIONS, *wrong])
    problems = []
    report = check(read_retrieval_set(path, problems=problems), problems=problems)
    assert {finding.kind: finding.offenders for finding in report.harmful} == {
        "unreadable_entries": [f"expected a text in 'caption' of {path}, annotations, entry 5, got "
                               "None. Mend the entry."],
        "texts_without_picture": ["annotations, entry 4: image 7"],
        "missing_pictures": ["25.png"],
    }  # fmt: skip


def test_a_list_of_objects(tmp_path):
    """As image-text files of many repositories are."""
    pictures(tmp_path, "a.png")
    path = tmp_path / "train.json"
    path.write_text(json.dumps([{"image": "a.png", "caption": ["狗", "犬"]}]), encoding="utf-8")
    assert texts(path) == [("狗", "a.png"), ("犬", "a.png")]


# --- tables ---


@pytest.mark.parametrize(
    ("name", "header", "encoding"),
    [
        ("t.csv", "图片,描述", "gbk"),
        ("t.csv", "文件名;标题", "utf-8-sig"),
        ("t.tsv", "Image\tCaption", "utf-16"),
        ("t.txt", "FileName\tTEXT", "utf-16"),  # as Excel's "Unicode text" calls it
    ],
)
def test_tables_of_excel(name, header, encoding, tmp_path, caplog):
    pictures(tmp_path, "0.png", "1.png")
    mark = next(mark for mark in "\t;," if mark in header)
    lines = [header, f"0.png{mark}一只羊驼在草地上", f"1.png{mark}海滩", ""]
    (tmp_path / name).write_bytes("\r\n".join(lines).encode(encoding))
    with caplog.at_level(logging.WARNING):
        assert texts(tmp_path / name) == [("一只羊驼在草地上", "0.png"), ("海滩", "1.png")]
    assert len(caplog.messages) == (encoding != "utf-8-sig")


def test_a_workbook(tmp_path):
    pictures(tmp_path, "0.png", "sub/1.png")
    book = Workbook()
    for row in (["图片", "说明", "negatives"], ["0.png", "羊驼", "狗"], ["sub\\1.png", "海滩"]):
        book.active.append(row)
    book.save(tmp_path / "t.xlsx")
    (tmp_path / "~$t.xlsx").write_bytes(b"that Excel has it open")
    assert texts(tmp_path) == [("羊驼", "0.png"), ("海滩", "sub/1.png")]
    assert read_retrieval_set(tmp_path / "t.xlsx").negatives == [["狗"], []]


def test_a_quotation_mark_that_swallows_rows(tmp_path):
    pictures(tmp_path, "0.jpg", "1.JPG", "2.jpg")
    path = tmp_path / "t.tsv"
    path.write_text('image\tcaption\n0.jpg\t"一只羊驼\n1.JPG\t海滩\n2.jpg\t猫"\n', encoding="utf-8")
    assert [text for text, _ in texts(path)] == ['"一只羊驼', "海滩", '猫"']
    path = tmp_path / "t.csv"
    path.write_text('image,caption\n0.jpg,"一只羊驼\n1.JPG,海滩\n2.jpg,猫"\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"t.csv, line 2, got one that swallows the rows behind"):
        read_retrieval_set(path)


# --- names of pictures ---


@pytest.mark.parametrize("form", ["csv", "jsonl", "metadata"])
def test_names_of_other_systems(form, tmp_path):
    apart, together = (unicodedata.normalize(form, "café/é.png") for form in ("NFD", "NFC"))
    pictures(tmp_path, apart, "sub/a.png", "한.png")
    names = [together, "sub\\a.png", unicodedata.normalize("NFD", "한.png")]
    if form == "csv":
        path = tmp_path / "t.csv"
        path.write_text("\n".join(["image,caption", *(f"{name},x" for name in names)]), "utf-8")
    else:
        path = tmp_path / ("t.jsonl" if form == "jsonl" else "metadata.jsonl")
        field = "image" if form == "jsonl" else "file_name"
        entries = [json.dumps({field: name, "caption": "x"}) for name in names]
        path.write_text("\n".join(entries), "utf-8")
    assert read_retrieval_set(path).image_ids == [apart, "sub/a.png", "한.png"]


def test_a_name_that_is_there_is_meant(tmp_path):
    apart, together = (unicodedata.normalize(form, "é.png") for form in ("NFD", "NFC"))
    pictures(tmp_path, apart, together, "sub\\a.png", "sub/a.png", "í\u0323.png", "ị\u0301.png")
    path = tmp_path / "t.jsonl"

    def write(*names):
        entries = [json.dumps({"image": name, "caption": "x"}) for name in names]
        path.write_text("\n".join(entries), "utf-8")

    write(apart, together, "sub\\a.png")
    found = read_retrieval_set(path)
    assert found.image_ids == [apart, together, "sub\\a.png"]
    assert found.images[2] == tmp_path / "sub\\a.png"
    write("i\u0323\u0301.png")  # two fit
    with pytest.raises(DataError, match=r"picture files below .*, got 1 without"):
        read_retrieval_set(path)
    write("sub\\a.png", "sub/a.png")
    (tmp_path / "sub\\a.png").unlink()
    assert read_retrieval_set(path).answers == [[0], [0]]  # one picture, named in two ways


def test_labels_of_other_systems(tmp_path):
    pictures(tmp_path, "sub/a.png")
    path = tmp_path / "labels.jsonl"
    path.write_bytes(json.dumps({"image": "sub\\a.png", "label": "狗"}).encode("utf-16"))
    assert read_labelled(path).paths == [tmp_path / "sub" / "a.png"]


def test_texts_beside_pictures(tmp_path, caplog):
    apart, together = (unicodedata.normalize(form, "é") for form in ("NFD", "NFC"))
    pictures(tmp_path, "1.png", "2.png", f"{apart}.png")
    (tmp_path / "1.TXT").write_bytes("一只羊驼\r\n".encode("gbk"))
    (tmp_path / "2.txt").write_bytes("海滩\n".encode("utf-16"))
    (tmp_path / f"{together}.Txt").write_text("\ufeff咖啡", "utf-8")
    with caplog.at_level(logging.WARNING):
        found = texts(tmp_path)
    assert found == [("一只羊驼", "1.png"), ("海滩", "2.png"), ("咖啡", f"{apart}.png")]
    assert caplog.messages == [f"{tmp_path}: 2 files read as GB18030 or UTF-16, not UTF-8"]


# --- what data check says of it ---


def test_check_tells_of_encodings_and_rows_over_lines(tmp_path, run):
    pictures(tmp_path, "0.png", "1.png")
    (tmp_path / "t.csv").write_bytes('image,zh\n0.png,"羊驼\n和草地"\n1.png,海滩'.encode("gbk"))
    code, out, err = run("data", "check", tmp_path / "t.csv")
    assert (code, err) == (0, "")
    assert f"files that are not UTF-8: 1\n           {tmp_path / 't.csv'}: GB18030" in out
    assert "rows that go over several lines: 1\n           line 2 to 3" in out
    (tmp_path / "t.csv").write_bytes("image,zh\n2.png".encode("gbk"))
    code, _, err = run("data", "check", tmp_path / "t.csv")
    assert (code, "expected 2 fields" in err) == (1, True)


def test_captions_that_are_labels(tmp_path):
    names = [f"{number}.png" for number in range(12)]
    pictures(tmp_path, *names)
    lines = [f"{name},{'合格品' if number % 4 else '不合格'}" for number, name in enumerate(names)]
    (tmp_path / "t.csv").write_text("\n".join(["image,caption", *lines]), encoding="utf-8")
    findings = {one.kind: one for one in check(read_retrieval_set(tmp_path / "t.csv")).findings}
    assert findings["few_wordings"].offenders == ["合格品 (9 pictures)", "不合格 (3 pictures)"]
    assert findings["few_wordings"].severity == "note"
    lines = [f"{name},{number // 3}" for number, name in enumerate(names)]
    (tmp_path / "t.csv").write_text("\n".join(["image,caption", *lines]), encoding="utf-8")
    report = check(read_retrieval_set(tmp_path / "t.csv"))
    assert "few_wordings" in report.fine  # three pictures a wording: captions that are alike
