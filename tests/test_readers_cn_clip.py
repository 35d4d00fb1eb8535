"""Reading Chinese-CLIP's layout: jsonl with tsv, and the LMDB its own script makes of them."""

import base64
import io
import json
import os
import pickle
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_text.data.cn_clip import TsvImages
from clip_text.data.readers import read_retrieval_set
from clip_text.errors import DataError
from clip_text.evaluation import Text
from clip_text.images import load_image

lmdb = pytest.importorskip("lmdb")

PICTURES = {  # MUGE has ids of its own for the pictures, and several right ones for a query
    1076345: (255, 255, 0),
    517602: (0, 255, 255),
    7: (255, 0, 0),
    99: (0, 0, 0),
}
TEXTS = [
    {"text_id": 8428, "text": "高级感托特包斜挎", "image_ids": [517602, 1076345]},
    {"text_id": 8429, "text": "红色的包", "image_ids": [7]},
]


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_texts(folder, split, texts):
    lines = [json.dumps(text, ensure_ascii=False) + "\n" for text in texts]
    (folder / f"{split}_texts.jsonl").write_text("".join(lines), encoding="utf-8")


def write_split(folder, split, texts=TEXTS, encode=base64.urlsafe_b64encode):
    """As the README of Chinese-CLIP says; the published sets are in the url-safe alphabet."""
    folder.mkdir(exist_ok=True)
    write_texts(folder, split, texts)
    lines = [f"{name}\t{encode(png(colour)).decode()}\n" for name, colour in PICTURES.items()]
    (folder / f"{split}_imgs.tsv").write_text("".join(lines), encoding="utf-8")


def build_lmdb(monkeypatch, folder, splits):
    """Run cn_clip's own script."""
    spec = find_spec("cn_clip")
    if spec is None:
        pytest.skip("cn_clip is not installed")
    script = Path(next(iter(spec.submodule_search_locations))) / "preprocess/build_lmdb_dataset.py"
    monkeypatch.setattr(sys, "argv", ["x", "--data_dir", str(folder), "--splits", splits])
    runpy.run_path(str(script), run_name="__main__")


@pytest.fixture
def muge(tmp_path):
    write_split(tmp_path / "MUGE", "valid")
    write_split(tmp_path / "MUGE", "test", [{**text, "image_ids": []} for text in TEXTS])
    return tmp_path / "MUGE"


def colours(found):
    return {
        image_id: load_image(image).getpixel((0, 0))
        for image_id, image in zip(found.image_ids, found.images, strict=True)
    }


def refused(match, path, **options):
    with pytest.raises(DataError, match=match):
        read_retrieval_set(path, **options)


def test_files(muge):
    for path, split in (
        (muge, "valid"),
        (muge / "valid_texts.jsonl", None),
        (muge / "valid_imgs.tsv", "valid"),
    ):
        found = read_retrieval_set(path, split=split)
        assert found.name == "MUGE valid"
        assert found.image_ids == ["1076345", "517602", "7", "99"]
        assert found.texts == [
            Text("8428", "高级感托特包斜挎", ("517602", "1076345")),
            Text("8429", "红色的包", ("7",)),
        ]
        assert found.answers == [[0, 1], [2]]  # and 99 is searched among, as cn_clip does
        assert colours(found) == {str(name): colour for name, colour in PICTURES.items()}
        assert found.images[1:3] == [png((0, 255, 255)), png((255, 0, 0))]


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_both_alphabets(encode, tmp_path):
    data = bytes(range(256))
    assert set(b"+/") <= set(base64.b64encode(data))
    (tmp_path / "x.tsv").write_bytes(b"a\t" + encode(data) + b"\r\n\nb\t" + encode(b"b"))
    images = TsvImages(tmp_path / "x.tsv")
    assert dict(images) == {"a": data, "b": b"b"}
    assert pickle.loads(pickle.dumps(images))["a"] == data  # data loaders send it to workers


def test_a_tsv_is_not_held_in_memory(tmp_path):
    line = base64.b64encode(os.urandom(75_000)).decode()
    with (tmp_path / "x.tsv").open("w") as file:
        file.writelines(f"{at}\t{line}\n" for at in range(60))
    images = TsvImages(tmp_path / "x.tsv")
    assert len(pickle.dumps(images)) < 10_000 < 60 * len(line)
    assert len(images["59"]) == 75_000
    assert "60" not in images
    with pytest.raises(KeyError):
        images["60"]


def test_lmdb_that_their_script_made(muge, monkeypatch):
    files = read_retrieval_set(muge, split="valid")
    expected = colours(files)
    build_lmdb(monkeypatch, muge, "valid,test")
    for file in muge.glob("*_*"):
        file.unlink()
    for path, split in (
        (muge, "valid"),
        (muge / "lmdb", "valid"),
        (muge / "lmdb" / "valid", None),
    ):
        found = read_retrieval_set(path, split=split)
        again = read_retrieval_set(path, split=split)  # open twice in one process
        assert sorted(found.image_ids) == sorted(files.image_ids)
        assert found.texts == again.texts == files.texts
        assert colours(found) == colours(again) == expected
    assert found.name == "valid"
    assert pickle.loads(pickle.dumps(found.images))[0] == found.images[0]
    refused("0 texts and none with any: .*not published", muge, split="test")
    refused("There are: test, valid", muge)
    refused("expected the split valid", muge / "lmdb" / "valid", split="test")


def test_files_count_before_an_lmdb(muge, monkeypatch):
    build_lmdb(monkeypatch, muge, "valid")
    write_texts(muge, "valid", [{"text_id": 1, "text": "包", "image_ids": [7]}])
    assert [text.text for text in read_retrieval_set(muge, split="valid").texts] == ["包"]


# --- bad input ---


def test_splits_and_options(muge):
    refused("splits of .*MUGE, got none. There are: test, valid", muge)
    refused("splits of .*MUGE, got train. There are: test, valid", muge, split="train")
    refused("expected the split valid", muge / "valid_imgs.tsv", split="test")
    refused("expected no kinds", muge, split="valid", kinds=["zh"])
    refused("expected no images", muge, split="valid", images=muge)
    refused("a text for every picture", muge, split="valid", allow_distractors=False)
    (muge / "test_imgs.tsv").unlink()
    refused("test_imgs.tsv, got nothing there", muge, split="test")


def test_answers_that_are_not_published(muge):
    for texts in (TEXTS, []):
        without = [{k: v for k, v in text.items() if k != "image_ids"} for text in texts]
        write_texts(muge, "test", without)
        refused(
            f"test_texts.jsonl, got {len(texts)} texts and none with any: .*MUGE's test.*valid",
            muge,
            split="test",
        )


GOOD = {"text_id": 1, "text": "包", "image_ids": [7]}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ({**GOOD, "text_id": 1}, "not used before in .*texts.jsonl, line 2, got 1 again"),
        ({**GOOD, "text_id": None}, "field 'text_id' of .*line 2, got None"),
        ({**GOOD, "text_id": True}, "field 'text_id' of .*line 2, got True"),
        ({**GOOD, "text_id": 2.5}, "field 'text_id' of .*line 2, got 2.5"),
        ({**GOOD, "text_id": 2, "text": None}, "field 'text' of .*line 2, got None"),
        ({**GOOD, "text_id": 2, "text": " "}, "words in .*got 1 without: 'line 2'"),
        ({**GOOD, "text_id": 2, "image_ids": 7}, "field 'image_ids' of .*line 2, got 7"),
        ({**GOOD, "text_id": 2, "image_ids": [[7]]}, r"'image_ids' of .*line 2, got \[7\]"),
        ({**GOOD, "text_id": 2, "image_ids": []}, "every text in .*got 1 without: 'line 2'"),
        ({**GOOD, "text_id": 2, "image_ids": [7, 8]}, "got 1 without: 'line 2: image 8'"),
    ],
)
def test_broken_texts(text, match, muge):
    write_texts(muge, "valid", [GOOD, text])
    refused(match, muge, split="valid")


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("8", "a tab and a picture in base64 in .*imgs.tsv, line 2, got b'8"),
        ("\tQUJD", "imgs.tsv, line 2"),
        ("8\t ", "imgs.tsv, line 2"),
        ("7\tQUJD", "imgs.tsv, line 2, got 7 of line 1 again"),
    ],
)
def test_broken_tsv(line, match, muge):
    (muge / "valid_imgs.tsv").write_text(f"7\tQUJD\n{line}\n")
    write_texts(muge, "valid", [GOOD])
    refused(match, muge, split="valid")


def test_a_picture_that_is_no_base64(muge):
    (muge / "valid_imgs.tsv").write_text("6\tQUJD\n\n7\tQUJ*\n")
    write_texts(muge, "valid", [GOOD])
    found = read_retrieval_set(muge, split="valid")
    assert found.images[0] == b"ABC"
    with pytest.raises(DataError, match=r"base64 in .*imgs\.tsv, line 3"):
        found.images[1]


def write_lmdb(path, entries):
    path.mkdir(parents=True)
    with (
        lmdb.open(str(path), map_size=1 << 20) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, value in entries.items():
            transaction.put(key.encode(), value)


def pairs(*values):
    numbered = {str(at): pickle.dumps(value) for at, value in enumerate(values)}
    return numbered | {"num_samples": str(len(values)).encode()}


class Mine:
    def __reduce__(self):
        return os.mkdir, ("taken",)


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({}, "number num_samples in .*pairs, got b''"),
        ({"num_samples": b"1"}, "a pair in .*pairs, pair 0, got"),
        ({"num_samples": b"1", "0": b"\x80\x05junk"}, "a pair in .*pairs, pair 0, got"),
        (pairs((7, 1, "包"), Mine()), r"pair 1, got: .*\.mkdir, which is no text or number"),
        (pairs((7, 1)), "pair 0, got"),
        (pairs((7, 1, None)), "pair 0, got"),
        (pairs((7, np.inf, "包")), "field 'text id' of .*pair 0, got inf"),
        (pairs((7, 1, "包"), (7, 1, "鞋")), "one text of id 1 in .*pair 1"),
        (pairs((7, 1, "包"), (7, 2, " ")), "words in .*got 1 without: '2'"),
        (pairs((7, 1, "包"), (8, 1, "包")), "got 1 without: 'pair 1: image 8'"),
    ],
)
def test_broken_pairs(entries, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_lmdb(tmp_path / "lmdb/valid/imgs", {"7": b"QUJD", "num_images": b"1"})
    write_lmdb(tmp_path / "lmdb/valid/pairs", entries)
    refused(match, tmp_path)
    assert not Path("taken").exists()


def test_broken_pictures_of_an_lmdb(tmp_path):
    write_lmdb(tmp_path / "valid/pairs", pairs((7, 1, "包")))
    refused("imgs, got nothing there", tmp_path)
    write_lmdb(tmp_path / "valid/imgs", {"7": b"QU*", "num_images": b"2"})
    refused("2 pictures in .*imgs, as its num_images says, got 1", tmp_path)
    (tmp_path / "valid/imgs/data.mdb").write_bytes(b"junk" * 3000)
    refused("LMDB that can be read in .*imgs, got", tmp_path)


def test_without_lmdb(tmp_path, monkeypatch):
    write_lmdb(tmp_path / "valid/pairs", pairs((7, 1, "包")))
    write_lmdb(tmp_path / "valid/imgs", {"7": b"QUJD", "num_images": b"1"})
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'clip-text\[lmdb\]'"):
        read_retrieval_set(tmp_path)
