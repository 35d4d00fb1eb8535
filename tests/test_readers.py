"""Reading retrieval data sets that lie in files: jsonl, the gallery's, tables, sidecar texts."""

import json
from collections import UserDict
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from clip_text.data.readers import read_retrieval_set
from clip_text.errors import DataError
from clip_text.evaluation import Text, retrieval_set

GALLERY = Path(__file__).parents[1] / "retrieval" / "gallery"


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2), "red").save(path)


def write(path, *lines, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


def objects(path, *entries):
    return write(path, *(json.dumps(entry, ensure_ascii=False) for entry in entries))


def pictures(folder, *names):
    for name in names:
        picture(folder / name)


@pytest.fixture
def captions(tmp_path):
    """The project's own layout, two splits."""
    folder = tmp_path / "flickr"
    pictures(folder / "images", "a.png", "b.png")
    objects(
        folder / "val.jsonl",
        {"image": "a.png", "zh": ["一只狗", "狗在跑"], "zh_mt": ["一条狗"], "en": "a dog"},
        {"image": "b.png", "zh": "猫", "zh_mt": [], "en": ["a cat", "cat"]},
    )
    objects(folder / "train.jsonl", {"image": "a.png", "zh": "狗"})
    return folder


def test_own_jsonl(captions):
    for path, split in ((captions / "val.jsonl", None), (captions, "val")):
        found = read_retrieval_set(path, split=split)
        assert found.name == "flickr val"
        assert found.image_ids == ["a.png", "b.png"]
        assert list(found.images) == [captions / "images" / "a.png", captions / "images" / "b.png"]
        assert found.texts == [
            Text("a.png#zh-0", "一只狗", ("a.png",), "zh"),
            Text("a.png#zh-1", "狗在跑", ("a.png",), "zh"),
            Text("b.png#zh-0", "猫", ("b.png",), "zh"),
        ]
        assert found.answers == [[0], [0], [1]]


def test_own_jsonl_of_several_kinds(captions):
    found = read_retrieval_set(captions / "val.jsonl", kinds=["zh_mt", "en"], name="mine")
    assert [(text.text_id, text.kind) for text in found.texts] == [
        ("a.png#zh_mt-0", "zh_mt"),
        ("a.png#en-0", "en"),
        ("b.png#en-0", "en"),
        ("b.png#en-1", "en"),
    ]
    assert found.of_kind("zh_mt").image_ids == ["a.png"]
    assert found.name == "mine"


def test_pictures_elsewhere_and_lines_of_the_same_picture(tmp_path):
    pictures(tmp_path / "photos", "a.png")
    lines = [{"file": "a.png", "zh": "狗"}, {"file": "a.png", "zh": "一只狗"}]
    path = objects(tmp_path / "x.jsonl", *lines)
    found = read_retrieval_set(path, images=tmp_path / "photos", image_field="file")
    assert [text.text_id for text in found.texts] == ["a.png#zh-0", "a.png#zh-1"]
    assert found.answers == [[0], [0]]


def test_own_jsonl_with_other_names_of_fields(tmp_path):
    pictures(tmp_path, "a.png")
    path = objects(tmp_path / "x.jsonl", {"filepath": "a.png", "text": "狗"})
    assert read_retrieval_set(path).texts == [Text("a.png#text-0", "狗", ("a.png",), "text")]
    path = objects(tmp_path / "x.jsonl", {"path": "a.png", "caption": ["猫"], "zh": "狗"})
    assert [text.text for text in read_retrieval_set(path).texts] == ["狗"]


def test_hard_negatives(tmp_path):
    """Captions that look right and are wrong; of a picture named twice, those of both lines."""
    pictures(tmp_path, "a.png", "b.png")
    lines = [
        {"image": "a.png", "zh": "狗", "negatives": "猫"},
        {"image": "b.png", "zh": "鸟", "en": "bird"},
        {"image": "a.png", "zh": "一只狗", "negatives": ["两只狗", "鱼"]},
    ]
    found = read_retrieval_set(objects(tmp_path / "x.jsonl", *lines), kinds=["zh"])
    assert found.negatives == [["猫", "两只狗", "鱼"], []]
    assert [text.text for text in found.texts] == ["狗", "鸟", "一只狗"]
    lines[0]["en"] = []
    lines[2]["en"] = []
    found = read_retrieval_set(objects(tmp_path / "x.jsonl", *lines), kinds=["zh", "en"])
    assert (found.of_kind("en").image_ids, found.of_kind("en").negatives) == (["b.png"], [[]])
    refused(
        "field 'negatives' of .*x.jsonl, line 1, got 3",
        objects(tmp_path / "x.jsonl", {"image": "a.png", "zh": "狗", "negatives": 3}),
    )
    table = write(
        tmp_path / "t.csv", "image,zh,negatives", "a.png,狗,猫", "a.png,犬,鱼", "b.png,鸟,"
    )
    assert read_retrieval_set(table).negatives == [["猫", "鱼"], []]
    gallery = {"file_name": "a.png", "caption": "狗", "negatives": ["猫"]}
    objects(tmp_path / "metadata.jsonl", gallery)
    assert read_retrieval_set(tmp_path).negatives == [["猫"]]


def test_negatives_of_some_pictures_only():
    images = {"a": b"1", "b": b"2"}
    texts = [Text("1", "狗", ("a",)), Text("2", "猫", ("b",))]
    assert retrieval_set("x", images, texts).negatives == [[], []]
    found = retrieval_set("x", images, texts, negatives={"b": ["鱼"]})
    assert found.negatives == [[], ["鱼"]]
    with pytest.raises(DataError, match="negatives of each of 1 pictures in x, got 2 lists"):
        replace(found, image_ids=["a"], images=[b"1"], texts=texts[:1], answers=[[0]])


def test_a_part_of_one_kind_reads_no_picture():
    class Lazy(UserDict):
        def __getitem__(self, image_id):
            read.append(image_id)
            return super().__getitem__(image_id)

    read = []
    images = Lazy({"a": b"1", "b": b"2", "c": b"3"})
    texts = [Text(i, i, (i,), k) for i, k in (("a", "zh"), ("b", "en"), ("c", "zh"))]
    part = retrieval_set("x", images, texts).of_kind("zh").of_kind("zh")
    assert read == []
    assert (part.image_ids, list(part.images), read) == (["a", "c"], [b"1", b"3"], ["a", "c"])


def test_gallery_form(tmp_path):
    pictures(tmp_path, "emoji/1.png", "emoji/2.png")
    names = [{"zh": "狗脸", "de": "Hund"}, {"zh": "狗"}]
    objects(
        tmp_path / "metadata.jsonl",
        {"file_name": "emoji/1.png", "caption": "狗", "names": names[0], "tags": ["动物", "脸"]},
        {"file_name": "emoji/2.png", "text": "小狗", "names": names[1], "tags": ["动物"]},
    )
    for path in (tmp_path, tmp_path / "metadata.jsonl"):
        found = read_retrieval_set(path)
        assert [(text.text, text.kind) for text in found.texts] == [
            ("狗", "caption"),
            ("小狗", "caption"),
        ]
        assert found.images[1] == tmp_path / "emoji" / "2.png"
    several = read_retrieval_set(tmp_path, kinds=["zh", "de", "tags"])
    assert [(text.text_id, text.image_ids) for text in several.texts if text.kind == "tags"] == [
        ("#tags-动物", ("emoji/1.png", "emoji/2.png")),
        ("#tags-脸", ("emoji/1.png",)),
    ]
    assert several.of_kind("de").image_ids == ["emoji/1.png"]


def test_the_bundled_gallery():
    found = read_retrieval_set(GALLERY, kinds=["zh", "th"])
    assert len(found.image_ids) == len(found.of_kind("zh").texts) > 2000
    assert 1000 < len(found.of_kind("th").texts) < len(found.image_ids)
    assert found.name == "gallery"


@pytest.mark.parametrize(("ending", "separator"), [("csv", ","), ("tsv", "\t")])
def test_table(ending, separator, tmp_path):
    pictures(tmp_path, "a.png", "b.png")
    rows = [
        ("id", "image", "caption", "en"),
        ("1", "a.png", '"一只狗\n在跑"', "dog"),
        ("2", "b.png", "猫", ""),
        (),
        ("3", "a.png", '"他说""狗"""', "a dog"),
    ]
    path = write(tmp_path / f"t.{ending}", *map(separator.join, rows), encoding="utf-8-sig")
    found = read_retrieval_set(path)
    assert found.texts == [
        Text("a.png#0", "一只狗\n在跑", ("a.png",)),
        Text("b.png#0", "猫", ("b.png",)),
        Text("a.png#1", '他说"狗"', ("a.png",)),
    ]
    assert found.images[0] == tmp_path / "a.png"
    several = read_retrieval_set(path, kinds=["caption", "en"])
    assert [text.text for text in several.texts if text.kind == "en"] == ["dog", "a dog"]


def test_folder_of_pictures(tmp_path):
    pictures(tmp_path / "p", "a.png", "in/b.JPG")
    write(tmp_path / "p" / "a.txt", "一只狗 ", "", "狗在跑", "")
    write(tmp_path / "p" / "in" / "b.txt", "猫")
    found = read_retrieval_set(tmp_path / "p")
    assert found.name == "p"
    assert found.image_ids == ["a.png", "in/b.JPG"]
    assert [text.text for text in found.texts] == ["一只狗", "狗在跑", "猫"]
    assert found.answers == [[0], [0], [1]]


def test_pictures_without_a_text_on_request(tmp_path):
    pictures(tmp_path, "a.png", "b.png")
    write(tmp_path / "b.txt", "猫")
    with pytest.raises(DataError, match=r"caption for every picture .* 1 without: 'a.png \(a.txt"):
        read_retrieval_set(tmp_path)
    found = read_retrieval_set(tmp_path, allow_distractors=True)
    assert found.image_ids == ["a.png", "b.png"]
    assert found.answers == [[1]]


# --- bad input ---


def refused(match, path, **options):
    with pytest.raises(DataError, match=match):
        read_retrieval_set(path, **options)


def test_splits_that_are_not_there(captions):
    refused("splits of .* got none. There are: train, val", captions)
    refused("splits of .* got test. There are: train, val", captions, split="test")
    refused("which is one file, got train", captions / "val.jsonl", split="train")
    pictures(captions.parent / "p", "a.png")
    refused("expected no split", captions.parent / "p", split="val")
    objects(captions.parent / "p" / "metadata.jsonl", {"file_name": "a.png", "caption": "狗"})
    refused("expected no split", captions.parent / "p", split="val")


def test_files_that_differ_by_their_ending(tmp_path):
    pictures(tmp_path, "a.png")
    objects(tmp_path / "val.jsonl", {"image": "a.png", "zh": "狗"})
    write(tmp_path / "val.csv", "image,caption", "a.png,猫")
    refused("There are: val.csv, val.jsonl", tmp_path, split="val")
    assert read_retrieval_set(tmp_path, split="val.csv").texts[0].text == "猫"


def test_nothing_known(tmp_path):
    refused("got nothing there", tmp_path / "nothing")
    refused("none of them", tmp_path)
    refused("none of them", write(tmp_path / "a.xml", "<a/>"))
    refused("folder of pictures at", write(tmp_path / "a.csv", ""), images=tmp_path / "nothing")


def test_kinds_that_make_no_sense(captions):
    with pytest.raises(TypeError, match="got one str"):
        read_retrieval_set(captions / "val.jsonl", kinds="zh")
    with pytest.raises(ValueError, match="at least one kind"):
        read_retrieval_set(captions / "val.jsonl", kinds=[])
    refused("The fields there are: image, zh, zh_mt, en", captions / "val.jsonl", kinds=["de"])


def test_options_without_use(tmp_path):
    pictures(tmp_path, "a.png")
    refused("expected no kinds", tmp_path, kinds=["zh"])
    refused("expected no image_field", tmp_path, image_field="x")
    objects(tmp_path / "metadata.jsonl", {"file_name": "a.png", "caption": "狗"})
    refused("expected no image_field", tmp_path, image_field="x")


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('{"image": "a.png"', "JSON object in .*v.jsonl, line 3, got"),
        ("[1]", "v.jsonl, line 3, got list"),
        ('{"image": "a.png", "zh": [1]}', "field 'zh' of .*v.jsonl, line 3, got"),
        ('{"image": "a.png", "zh": ["狗", " "]}', "v.jsonl, got 1 without: 'line 3'"),
        ('{"image": "c.png", "zh": []}', r"picture in .*v.jsonl, got 1 without: 'c.png \(line 3"),
        ("[" * 100_000, "JSON object in .*v.jsonl, line 3"),
    ],
)
def test_broken_jsonl(line, match, tmp_path):
    pictures(tmp_path, "a.png", "c.png")
    refused(match, write(tmp_path / "v.jsonl", '{"image": "a.png", "zh": "狗"}', "", line))


def test_no_utf_8(tmp_path):
    pictures(tmp_path, "a.png")
    line = '{"image": "a.png", "zh": "狗"}'
    path = tmp_path / "v.jsonl"
    path.write_bytes(b"\n".join([line.encode(), line.encode("gbk")]))
    refused("UTF-8 in .*v.jsonl, line 2", path)
    refused("line 2, got byte 0xb9. Save the file", path)
    (tmp_path / "v.csv").write_bytes(b"image,caption\na.png,\xff")
    refused("UTF-8 in .*v.csv, line 2", tmp_path / "v.csv")
    path.unlink()
    (tmp_path / "v.csv").unlink()
    (tmp_path / "a.txt").write_bytes(b"\xff")
    refused("UTF-8 in .*a.txt, line 1", tmp_path)


def test_empty_files(tmp_path):
    for name in ("v.jsonl", "metadata.jsonl"):
        refused(f"captions in .*{name}, got an empty", write(tmp_path / name, ""))
    refused("header of .*v.csv, got none", write(tmp_path / "v.csv", ""))
    refused("got 0 pictures and 0 texts", write(tmp_path / "w.csv", "image,caption"))


def test_missing_pictures(tmp_path):
    pictures(tmp_path, "a.png")
    names = ["a.png", "b.png", "c.png", "d.png", "e" * 5000]
    path = objects(tmp_path / "v.jsonl", *({"image": name, "zh": "狗"} for name in names))
    refused("v.jsonl, got 4 without: 'b.png', 'c.png', 'd.png', …", path)


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ({"caption": "狗"}, "field 'file_name' of .*line 2, got None"),
        ({"file_name": "a.png", "caption": 1}, "field 'caption' of .*line 2, got 1"),
        ({"file_name": "a.png", "names": ["狗"]}, "field 'names' of .*line 2"),
        ({"file_name": "a.png", "names": {"zh": 1}}, "field 'zh' of .*line 2"),
        ({"file_name": "a.png", "tags": [None]}, "field 'tags' of .*line 2"),
        ({"file_name": "b.png", "names": {"zh": "狗"}}, r"got 1 without: 'b.png \(line 2"),
    ],
)
def test_broken_gallery_form(entry, match, tmp_path):
    pictures(tmp_path, "a.png", "b.png")
    good = {"file_name": "a.png", "caption": "狗", "names": {"zh": "狗"}}
    refused(match, objects(tmp_path / "metadata.jsonl", good, entry))


def test_languages_that_are_not_there(tmp_path):
    good = {"file_name": "a.png", "caption": "狗", "names": {"zh": "狗"}}
    path = objects(tmp_path / "metadata.jsonl", good)
    refused("got none of de, tags. There are: zh, caption", path, kinds=["zh", "de", "tags"])


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (["picture,caption", "a.png,狗"], "column image or .*columns there are: picture, caption"),
        (["image,words", "a.png,狗"], "column caption or .*columns there are: image, words"),
        (["image,caption,image", "a.png,狗,a.png"], "got 2 of that name"),
        (["image,caption", "a.png,狗", "a.png,狗,在跑"], "2 fields in .*line 3.* got 3"),
        (["image,caption", 'a.png,"一只\n狗"', "a.png"], "2 fields in .*line 4.* got 1"),
        (["image,caption", " ,狗"], "file name in column 'image' of .*line 2"),
        (["image,caption", "a.png,狗", "a.png,"], "words in .*got 1 without: 'line 3'"),
        (["image,caption", 'a.png,"狗'], "broken line 2: unexpected end of data"),
    ],
)
def test_broken_table(lines, match, tmp_path):
    pictures(tmp_path, "a.png")
    refused(match, write(tmp_path / "t.csv", *lines))


def test_broken_folder(tmp_path):
    pictures(tmp_path, "a.png")
    write(tmp_path / "a.txt", "狗")
    write(tmp_path / "b.txt", "猫")
    refused(r"a picture for every .txt in .*, got 1 without: 'b.txt'", tmp_path)
    pictures(tmp_path, "b.png", "b.jpg")
    refused("got 1 without: 'b.jpg and b.png'", tmp_path)
