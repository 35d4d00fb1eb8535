"""``clip-text data check``: each thing it looks for, and all of them in one go."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from models import tiny_tokenizer
from PIL import Image

from clip_text.data.check import KINDS, SMALL, check
from clip_text.data.readers import read_retrieval_set
from clip_text.errors import DataError
from clip_text.evaluation import Text, retrieval_set


def noise(seed, size=(40, 40)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))


def png(seed, size=(40, 40)):
    buffer = io.BytesIO()
    noise(seed, size).save(buffer, "PNG")
    return buffer.getvalue()


def made(images, captions, *, name="toy", **options):
    """A set of pictures by name, and captions by the name of their picture."""
    texts = [
        Text(f"{image}#{at}", text, (image,))
        for image, given in captions.items()
        for at, text in enumerate(given)
    ]
    return retrieval_set(name, images, texts, **options)


def found(report):
    return {finding.kind: (finding.count, finding.offenders) for finding in report.findings}


GOOD = {"a": png(1), "b": png(2)}


def test_nothing_is_wrong():
    report = check(made(GOOD, {"a": ["狗", "一只狗"], "b": ["猫"]}), tokenizer=tiny_tokenizer())
    assert (report.pictures, report.texts, report.decoded) == (2, 3, 2)
    assert report.captions_per_picture == (1, 1, 2)
    assert report.harmful == []
    assert set(found(report)) <= {"unknown_words"}  # the tiny tokenizer knows few words
    assert {"missing_pictures", "broken_pictures", "cut_captions"} <= set(report.fine)
    assert not {"leaked_pictures", "wrong_negatives"} & set(report.fine)  # not looked for
    assert report.pictures_per_second > 0


def test_pictures(tmp_path):
    noise(3, (SMALL - 1, 200)).save(tmp_path / "thin.png")
    (tmp_path / "cut.png").write_bytes(png(4)[:-500])
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    names = ["gone.png", "thin.png", "cut.png", "text.jpg", "empty.png", "x" * 5000 + ".png"]
    paths = {name: tmp_path / name for name in names}
    report = check(made(paths, {name: [name] for name in names}), workers=3)
    told = found(report)
    assert told["missing_pictures"] == (1, ["gone.png"])
    assert told["small_pictures"] == (1, [f"thin.png: 200 x {SMALL - 1}"])
    count, who = told["broken_pictures"]
    assert count == 4
    assert [line.partition(":")[0] for line in who] == [*names[2:5], names[5]]
    assert "expected JPEG, PNG" in who[1]
    assert "empty file" in who[2]
    assert "duplicate_pictures" not in told  # what can't be read equals nothing


def test_pictures_that_are_there_twice():
    tiff = io.BytesIO()
    noise(1).save(tiff, "TIFF")
    images = {"a": png(1), "b": png(2), "c": tiff.getvalue(), "d": noise(1)}
    report = check(made(images, {name: [name] for name in images}))
    assert found(report) == {"duplicate_pictures": (2, ["a = c = d"])}


def test_pictures_of_equal_bytes_and_another_shape_differ():
    grey = np.full((40, 80, 3), 7, np.uint8)
    report = check(made({"a": grey, "b": grey.reshape(80, 40, 3)}, {"a": ["1"], "b": ["2"]}))
    assert found(report) == {}


def test_captions():
    images = {name: png(at) for at, name in enumerate("abc")}
    texts = {"a": ["狗", "狗", "x"], "b": ["狗", "猫"], "c": ["猫", "鸟"]}
    report = check(made(images, texts))
    assert found(report) == {
        "repeated_captions": (1, ["a: 狗"]),
        "shared_captions": (5, ["狗 (3 pictures)", "猫 (2 pictures)"]),
    }
    assert report.unknown_share is None


def test_tokens():
    tokenizer = tiny_tokenizer()
    room = tokenizer.context_length - 2
    known = next(word for word in "狗猫一二三人大小" if word in tokenizer.backend.get_vocab())
    texts = {"a": [" ".join([known] * (room + 2))], "b": [known, "ꙮ"]}
    report = check(made(GOOD, texts), tokenizer=tokenizer)
    total = room + 2
    assert found(report)["cut_captions"] == (1, [f"a#0: {total + 2} tokens of {room + 2}"])
    assert found(report)["unknown_words"] == (1, ["b#1: ꙮ"])
    assert report.lost_share == pytest.approx(2 / (room + 4))
    assert report.unknown_share == pytest.approx(1 / (room + 2))


def test_hard_negatives():
    texts = {"a": ["狗"], "b": ["猫"]}
    report = check(made(GOOD, texts, negatives={"a": ["猫", "狗", " "]}))
    assert report.negatives == 3
    assert found(report) == {"wrong_negatives": (2, ["a: 狗", "a:  "])}
    assert report.harmful
    report = check(made(GOOD, texts, negatives={"a": ["猫"]}))
    assert (found(report), "wrong_negatives" in report.fine) == ({}, True)


def test_leaks():
    train = made({**GOOD, "c": b"broken"}, {"a": ["狗"], "b": ["猫", "狗"], "c": ["鸟"]})
    val = made({"x": png(2), "y": png(9), "z": b"broken"}, {"x": ["狗"], "y": ["1"], "z": ["2"]})
    test = made({"t": png(1)}, {"t": ["3"]}, name="test")
    seen = []
    report = check(train, against=[val, test], progress=lambda *told: seen.append(told))
    assert found(report)["leaked_pictures"] == (2, ["b = x of toy", "a = t of test"])
    assert found(report)["leaked_captions"] == (2, ["狗 (toy)"])
    assert seen == [("pictures", number, 7) for number in range(1, 8)]
    assert report.decoded == 7
    assert [finding.kind for finding in report.harmful] == ["broken_pictures", "leaked_pictures"]


# --- reading what is damaged ---


@pytest.fixture
def damaged(tmp_path):
    """Everything that can be wrong with a jsonl, at once."""
    for at, name in enumerate(["a", "b", "same"]):
        noise(min(at, 1)).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(png(5)[:-400])
    entries = [
        {"image": "a.png", "zh": ["狗", " "], "negatives": ["猫"]},
        {"image": "b.png", "zh": "猫"},
        {"image": "same.png", "zh": ["猫"], "negatives": "猫"},
        {"image": "broken.png", "zh": ["鸟"]},
        {"image": "gone.png", "zh": ["鱼"]},
        {"image": "mute.png", "zh": []},
        {"image": "bad.png", "zh": [1]},
    ]
    lines = [json.dumps(entry, ensure_ascii=False).encode() for entry in entries]
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\n".join([*lines, b'{"image', "狗".encode("gbk")]))
    return path


def test_a_jsonl_with_everything(damaged):
    problems = []
    report = check(read_retrieval_set(damaged, problems=problems), problems=problems)
    told = found(report)
    assert list(told) == [kind for kind in KINDS if kind in told]
    assert {kind: count for kind, (count, _) in told.items()} == {
        "unreadable_entries": 3,
        "pictures_without_text": 1,
        "missing_pictures": 2,
        "broken_pictures": 1,
        "duplicate_pictures": 1,
        "empty_captions": 1,
        "shared_captions": 2,
        "wrong_negatives": 1,
    }
    wrong = "\n".join(told["unreadable_entries"][1])
    assert sorted(re.findall(r"jsonl, line (\d)", wrong)) == ["7", "8", "9"]
    assert "UTF-8" in wrong
    assert told["pictures_without_text"][1] == ["mute.png (line 6)"]
    assert told["missing_pictures"][1] == ["gone.png", "mute.png"]
    with pytest.raises(DataError):
        read_retrieval_set(damaged)


def test_a_table_with_bad_rows(tmp_path):
    noise(1).save(tmp_path / "a.png")
    lines = ["image,caption,negatives", "a.png,狗,猫", "a.png,狗", ",x,", "a.png,,", 'a.png,"x']
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    problems = []
    collection = read_retrieval_set(tmp_path / "t.csv", problems=problems)
    assert collection.negatives == [["猫"]]
    told = found(check(collection, problems=problems))
    assert told["unreadable_entries"][0] == 3
    assert told["empty_captions"] == (1, ["a.png#1"])


def test_sidecar_texts(tmp_path):
    for name in ("a.png", "b.png", "b.jpg", "mute.png"):
        noise(len(name)).save(tmp_path / name)
    for name in ("a", "b", "orphan"):
        (tmp_path / f"{name}.txt").write_text("狗")
    problems = []
    told = found(check(read_retrieval_set(tmp_path, problems=problems), problems=problems))
    assert told["pictures_of_one_text"] == (1, ["b.jpg and b.png"])
    assert told["texts_without_picture"] == (1, ["orphan.txt"])
    assert told["pictures_without_text"] == (1, ["mute.png (mute.txt)"])


def test_the_layout_of_chinese_clip(tmp_path):
    texts = [
        {"text_id": 1, "text": "狗", "image_ids": [1, 9]},
        {"text_id": 2, "text": " ", "image_ids": [1]},
        {"text_id": 3, "text": "猫", "image_ids": []},
        {"text_id": 3, "text": "鸟", "image_ids": [2]},
        {"text_id": 4, "text": "鱼", "image_ids": [9]},
    ]
    lines = [json.dumps(text) for text in texts]
    (tmp_path / "valid_texts.jsonl").write_text("\n".join(lines))
    pictures = [f"{at}\t{base64.b64encode(png(at)).decode()}" for at in (1, 2)]
    (tmp_path / "valid_imgs.tsv").write_text("\n".join([*pictures, "3", "4\tQUJ*"]))
    problems = []
    collection = read_retrieval_set(tmp_path, problems=problems)
    assert [text.image_ids for text in collection.texts] == [("1",), ("1",)]
    told = found(check(collection, problems=problems))
    assert told["unreadable_entries"][0] == 2  # an id again, a line without a picture
    assert told["texts_without_picture"] == (3, ["3", "1 → 9", "4 → 9"])
    assert told["broken_pictures"][0] == 1
    assert told["empty_captions"] == (1, ["2"])
    assert "pictures_without_text" not in told  # they are searched among


def test_nothing_that_can_be_read(tmp_path):
    (tmp_path / "t.tar").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"tar that can be read at .*t\.tar"):
        read_retrieval_set(tmp_path / "t.tar", problems=[])


# --- the command ---


def test_a_sound_set(run, tmp_path):
    noise(1).save(tmp_path / "a.png")
    (tmp_path / "t.jsonl").write_text(json.dumps({"image": "a.png", "zh": ["狗"]}))
    code, out, err = run("data", "check", tmp_path / "t.jsonl")
    assert (code, err) == (0, "")
    assert "1 pictures, 1 captions, 1 a picture" in out
    assert "Nothing would stop or harm training" in out
    code, out, _ = run("data", "check", tmp_path / "t.jsonl", "--json")
    flat = json.loads(out)
    assert (code, flat["well"], flat["findings"], flat["texts"]) == (0, True, [], 1)


def test_a_damaged_set(run, damaged):
    shutil.copy(damaged, damaged.with_name("val.jsonl"))
    options = ["data", "check", damaged, "--against", damaged.with_name("val.jsonl")]
    code, out, _ = run(*options)
    assert code == 1
    assert "error    entries that cannot be read: 3" in out
    assert "a.png#zh-1" in out
    assert "The errors would stop or harm training. 12 pictures in" in out
    code, out, _ = run(*options, "--json")
    flat = json.loads(out)
    kinds = {finding["kind"]: finding for finding in flat["findings"]}
    assert (code, flat["well"]) == (1, False)
    assert kinds["leaked_pictures"]["count"] == 3
    assert kinds["missing_pictures"]["offenders"] == ["gone.png", "mute.png"]


def test_splits_of_the_same_data(run, damaged):
    damaged.rename(damaged.with_name("val.jsonl"))
    line = json.dumps({"image": "a.png", "zh": "狗", "en": "dog"})
    damaged.write_text(line)
    folder = damaged.parent
    code, out, _ = run("data", "check", folder, "--split", "train", "--against-split", "val")
    assert code == 1
    assert "a.png = a.png of" in out
    code, out, _ = run("data", "check", folder, "--split", "train", "--kinds", "en", "--json")
    assert (code, json.loads(out)["texts"]) == (0, 1)


def test_data_that_are_not_there(run, tmp_path):
    code, out, err = run("data", "check", tmp_path / "nothing.jsonl")
    assert (code, out) == (1, "")
    assert "got nothing there" in err


def test_help_needs_no_torch():
    code = (
        "import sys; from clip_text_cli import main as cli; "
        "sys.argv = ['x', 'data', 'check', '--help'];"
        "\ntry: cli.main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "clip-text data check flickr8k-cn/train.jsonl" in done.stdout
