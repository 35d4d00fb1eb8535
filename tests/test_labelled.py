"""Templates, class names and labels: read from files, and refused when they are wrong."""

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from clip_text import DataError
from clip_text.evaluation.classes import NamedClass, named_classes, read_classes, truth_matrix
from clip_text.evaluation.labelled import read_labelled
from clip_text.evaluation.templates import ORIGINAL, SETS, fill, read_templates

ROOT = Path(__file__).parents[1]
GALLERY = ROOT / "retrieval" / "gallery"


def paint(path, colour="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), colour).save(path)


def test_the_published_templates_are_the_published_ones():
    pytest.importorskip("cn_clip", reason="pip install --no-deps cn_clip six")
    from cn_clip.eval.cvinw_zeroshot_templates import openai_templates
    from cn_clip.eval.imagenet_zeroshot_templates import openai_imagenet_template

    assert list(ORIGINAL) == [template("{}") for template in openai_imagenet_template]
    assert list(SETS["elevater"]) == [template("{}") for template in openai_templates]


def test_sets_of_templates():
    assert len(SETS["original"]) == 80
    assert len(SETS["deduplicated"]) == len(set(SETS["original"])) == 78
    assert SETS["none"] == ("{}",)
    for name, templates in SETS.items():
        assert all(template.count("{}") == 1 for template in templates), name
        assert name in ("original", "elevater") or len(set(templates)) == len(templates), name


def test_braces_in_a_name_stay():
    assert fill("一张{}的照片。", "{0} {x}") == "一张{0} {x}的照片。"


def test_templates_from_a_file(tmp_path):
    file = tmp_path / "templates.txt"
    file.write_text("\ufeff{}的照片。\n\n  a photo of {}  \n", encoding="utf-8")
    assert read_templates(str(file)) == ("{}的照片。", "a photo of {}")
    assert read_templates("none") == ("{}",)
    file.write_text("{}\n照片\na photo\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"expected a \{\} for the name in .*got 2 .*照片.*a photo"):
        read_templates(file)
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="expected a template"):
        read_templates(file)
    file.write_bytes("{}照".encode("gb18030"))
    assert read_templates(file) == ("{}照",)
    file.write_bytes(b"{}\xff")
    with pytest.raises(DataError, match=r"expected UTF-8 in .*line 1, got byte 0xff"):
        read_templates(file)
    with pytest.raises(DataError, match=r"one of original, .*got 'nosuch'\. Name"):
        read_templates("nosuch")


def test_classes_from_a_file(tmp_path):
    file = tmp_path / "classes.txt"
    accented = unicodedata.normalize("NFD", "café")
    file.write_bytes(f"\ufeff狗\r\n\r\n猫|猫咪\r\n003\t 鸟 |飞鸟\t小鸟\n{accented}\n".encode())
    assert read_classes(file) == [
        NamedClass("狗", ("狗",)),
        NamedClass("猫", ("猫", "猫咪")),
        NamedClass("003", ("鸟", "飞鸟", "小鸟")),
        NamedClass("café", ("café",)),
    ]


def test_two_classes_may_share_a_name(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("crane bird\tcrane\ncrane machine\tcrane\n", encoding="utf-8")
    assert [one.names for one in read_classes(file)] == [("crane",), ("crane",)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("狗\n猫\n狗\n", "expected classes that differ in .*got 1 without: '狗'. Rename"),
        ("狗|\n猫\n", r"a name for every class in .*got 1 without: 'class 1 \(狗\)'"),
        ("狗\t\n\t猫\n鸟\n", r"got 2 without: 'class 1 \(狗\)', 'class 2 \(no label\)'"),
        ("狗|犬|狗\n", "synonyms that differ in .*'狗: 狗'"),
        ("\n \n", "expected a class in .*got none"),
        ("a\na\nb\nb\nc\nc\nd\nd", "got 4 without: 'a', 'b', 'c', …"),
    ],
)
def test_bad_classes(tmp_path, text, message):
    file = tmp_path / "classes.txt"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_classes(file)


def test_truth_by_hand():
    classes = named_classes(["狗", "猫", "鸟"])
    assert truth_matrix([["猫"], ["狗", "鸟"], [], ["猫", "猫"]], classes).tolist() == [
        [False, True, False],
        [True, False, True],
        [False, False, False],
        [False, True, False],
    ]


def test_numbered_folders_are_positions():
    classes = named_classes(["狗", "猫", "鸟"])
    truth = truth_matrix([["000"], ["002"], ["1"]], classes)
    assert truth.argmax(1).tolist() == [0, 2, 1]
    # counted from 1, or past the end: nothing is guessed
    for labels in (["1", "2"], ["0", "3"]):
        with pytest.raises(DataError, match="labels of the class list"):
            truth_matrix([[label] for label in labels], classes)
    # labels that are numbers themselves stay what they are
    digits = named_classes(["1", "0"])
    assert truth_matrix([["0"], ["1"]], digits).argmax(1).tolist() == [1, 0]


def test_labels_of_no_class_are_counted():
    labels = [["狗"], ["马"], ["马"], ["牛"]]
    message = r"in farm, got 2 without: '马 \(2 pictures\)', '牛 \(1 picture\)'\. Add"
    with pytest.raises(DataError, match=message):
        truth_matrix(labels, named_classes(["狗"]), "farm")
    with pytest.raises(DataError, match="expected labelled pictures in farm, got none"):
        truth_matrix([], named_classes(["狗"]), "farm")


def test_a_folder_of_classes(tmp_path):
    paint(tmp_path / "data" / "狗" / "b.png")
    paint(tmp_path / "data" / "狗" / "deeper" / "a.JPG")
    paint(tmp_path / "data" / "猫" / "a.webp")
    paint(tmp_path / "data" / "猫" / ".hidden.png")
    paint(tmp_path / "data" / ".cache" / "a.png")
    (tmp_path / "data" / "狗" / "notes.txt").write_text("no picture")
    paint(tmp_path / "data" / "stray.png")
    found = read_labelled(tmp_path / "data")
    assert found.labels == [("狗",), ("狗",), ("猫",)]
    assert [path.name for path in found.paths] == ["b.png", "a.JPG", "a.webp"]
    assert not found.multi_label
    (tmp_path / "data" / "鸟").mkdir()
    with pytest.raises(DataError, match=r"pictures in every sub-folder in .*got 1 without: '鸟'"):
        read_labelled(tmp_path / "data")
    with pytest.raises(DataError, match="expected a sub-folder of pictures for each class"):
        read_labelled(tmp_path / "data" / "猫")


def test_a_file_of_labels(tmp_path):
    for name in "abc":
        paint(tmp_path / f"{name}.png")
    file = tmp_path / "labels.jsonl"
    file.write_text(
        '\ufeff{"image": "a.png", "label": " 狗 "}\n\n{"file_name": "b.png", "label": 7}\n',
        encoding="utf-8",
    )
    found = read_labelled(file)
    assert found.labels == [("狗",), ("7",)]
    assert found.paths == [tmp_path / "a.png", tmp_path / "b.png"]
    with file.open("a", encoding="utf-8") as lines:
        lines.write('{"image": "c.png", "label": []}\n')
    assert read_labelled(file).labels[2] == ()
    assert read_labelled(file).multi_label
    with pytest.raises(
        DataError, match=r"the pictures of labels.jsonl in .*got 3 without: 'a.png'"
    ):
        read_labelled(file, images=tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "expected a JSON object in .*line 1"),
        ("[1]", "expected a JSON object in .*line 1, got list"),
        ('{"label": "狗"}', "expected a file name in field 'image' of .*line 1, got None"),
        ('{"image": "a.png"}', "list of labels in field 'label' of .*got None.*there are: image"),
        ('{"image": "a.png", "label": " "}', "list of labels in field 'label'"),
        ('{"image": "a.png", "label": true}', "list of labels in field 'label'"),
        ('{"image": "a.png", "label": ["狗", 1.5]}', "list of labels in field 'label'"),
        ("", "expected labelled pictures in .*got none"),
    ],
)
def test_bad_lines(tmp_path, line, message):
    paint(tmp_path / "a.png")
    (tmp_path / "labels.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_labelled(tmp_path / "labels.jsonl")


def test_a_file_that_is_not_text(tmp_path):
    (tmp_path / "labels.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"expected UTF-16 in .*line 1, got byte 0x00"):
        read_labelled(tmp_path / "labels.jsonl")
    with pytest.raises(OSError, match="nowhere"):
        read_labelled(tmp_path / "nowhere")
