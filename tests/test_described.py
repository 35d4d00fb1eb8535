"""Pictures with all that data sets say of them, in every format, captions or none."""

import csv
import datetime
import io
import json
import pickle

import pytest
from data_sets import write_lines, write_tar
from PIL import Image

from clip_text.data.readers import read_pictures
from clip_text.errors import DataError
from clip_text.images import load_image

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def png(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def shade(picture):
    source = picture() if callable(picture) else picture
    return load_image(source).getpixel((0, 0))[0]


def pictures(folder, *names):
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        (folder / name).write_bytes(png(number))
    return folder


def said(path, **options):
    """Of each picture its id, captions, others and shade; every one can be read."""
    found = read_pictures(path, **options)
    told = [(one.image_id, one.captions, one.others, shade(at)) for one, at in found]
    assert len(told) == len(found)
    return told


def refused(match, path, **options):
    with pytest.raises(DataError, match=match):
        read_pictures(path, **options)


def test_a_tar(tmp_path):
    members = {
        "a/1.png": png(1),
        "a/1.txt": "一只狗\n狗\n狗\n".encode(),
        "2.png": png(2),
        "2.json": json.dumps({"caption": "猫", "price": 3, "negatives": ["狗"]}).encode(),
        "3.png": png(3),
    }
    path = write_tar(tmp_path / "t.tar", members)
    assert said(path) == [
        ("a/1", {"": ["一只狗", "狗"]}, {}, 1),
        ("2", {"": ["猫"]}, {"price": 3}, 2),
        ("3", {"": []}, {}, 3),
    ]
    assert said(path, kinds=["caption"])[1:] == [
        ("2", {"caption": ["猫"]}, {"price": 3}, 2),
        ("3", {"caption": []}, {}, 3),
    ]
    assert read_pictures(path).name == str(path)


def test_tars_with_keys_in_common(tmp_path):
    for name in ("x-0.tar", "x-1.tar"):
        write_tar(tmp_path / name, {"1.png": png(int(name[2]))})
    assert [(one[0], one[3]) for one in said(tmp_path)] == [("x-0.tar/1", 0), ("x-1.tar/1", 1)]
    assert read_pictures(tmp_path).name == f"{tmp_path} x"
    assert read_pictures(f"{tmp_path}/x-{{0..1}}.tar").name == f"{tmp_path}/x-{{0..1}}.tar"


def test_a_tar_that_is_cut_off_gives_what_it_has(tmp_path):
    path = write_tar(tmp_path / "t.tar", {f"{n}.png": png(n) for n in range(5)})
    path.write_bytes(path.read_bytes()[: 4 * 1024 + 512 + 20])  # within the fifth picture
    found = read_pictures(path)
    assert [one.image_id for one, _ in found] == ["0", "1", "2", "3", "4"]
    ((kind, offenders),) = [(one.kind, one.offenders) for one in found.problems]
    assert (kind, offenders) == ("unreadable_entries", (str(path),))
    with pytest.raises(DataError, match="got"):
        list(found)[4][1]()


def test_a_tar_without_pictures(tmp_path):
    refused("expected one picture in .*sample 1", write_tar(tmp_path / "t.tar", {"1.txt": b"x"}))
    refused("expected pictures in .*got none", write_tar(tmp_path / "e.tar", {}))
    (tmp_path / "n.tar").write_bytes(b"nonsense" * 100)
    refused("expected a tar that can be read", tmp_path / "n.tar")


def test_a_table(tmp_path):
    pictures(tmp_path / "images", "a.png", "b.png", "é.png")
    path = tmp_path / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption", "price", "code", "negatives", "note"])
        rows.writerow(["a.png", "一只狗", "39", "007", "猫", ""])
        rows.writerow(["b.png", "", "1.50", "1,5", "", "红"])
        rows.writerow(["a.png", "狗", "40", "x", "", "后来"])
        rows.writerow(["e\u0301.png", "鸟", "-2", "1e3", "", " "])
    assert said(path) == [
        ("a.png", {"": ["一只狗", "狗"]}, {"price": 39, "code": "007", "note": "后来"}, 0),
        ("b.png", {}, {"price": 1.5, "code": "1,5", "note": "红"}, 1),
        ("é.png", {"": ["鸟"]}, {"price": -2, "code": "1e3"}, 2),
    ]


def test_a_table_of_nothing_but_paths(tmp_path):
    pictures(tmp_path, "a.png", "b.png")
    path = tmp_path / "t.csv"
    path.write_text("path\na.png\nb.png\ngone.png\n", encoding="utf-8")
    found = read_pictures(path)
    assert [one.image_id for one, _ in found] == ["a.png", "b.png", "gone.png"]
    path.write_text("text,label\na,b\n", encoding="utf-8")
    refused("expected one column image or .*columns there are: text, label", path)
    path.write_text("", encoding="utf-8")
    refused("expected columns in the header", path)
    path.write_text("path\n", encoding="utf-8")
    refused("expected pictures in .*got none", path)


def test_jsonl(tmp_path):
    pictures(tmp_path, "a.png", "b.png")
    path = write_lines(
        tmp_path / "t.jsonl",
        {"image": "a.png", "zh": ["狗", "一只狗"], "en": ["a dog"], "year": 2020},
        {"image": "b.png", "tags": ["x"]},
        {"image": 3},
    )
    assert said(path) == [
        ("a.png", {"zh": ["狗", "一只狗"]}, {"en": ["a dog"], "year": 2020}, 0),
        ("b.png", {"zh": []}, {"tags": ["x"]}, 1),
    ]
    assert [one.offenders for one in read_pictures(path).problems] == [("line 3",)]
    assert said(path, kinds=["en", "zh"])[0][1:3] == (
        {"en": ["a dog"], "zh": ["狗", "一只狗"]},
        {"year": 2020},
    )
    named = path.rename(tmp_path / "t.dat")
    refused("which is none of them", named)
    assert len(said(named, wanted="jsonl")) == 2


def test_the_gallerys_form(tmp_path):
    pictures(tmp_path, "a.png", "b.png")
    path = write_lines(
        tmp_path / "metadata.jsonl",
        {"file_name": "a.png", "caption": "狗", "names": {"en": "dog"}, "tags": ["x"]},
        {"file_name": "b.png", "text": ["猫", "一只猫"]},
    )
    assert said(path) == [
        ("a.png", {"caption": ["狗"]}, {"names": {"en": "dog"}, "tags": ["x"]}, 0),
        ("b.png", {"caption": ["猫", "一只猫"]}, {}, 1),
    ]


def test_cocos_form(tmp_path):
    pictures(tmp_path / "images", "a.png", "b.png")
    content = {
        "images": [
            {"id": 1, "file_name": "a.png", "license": 4},
            {"id": 2, "file_name": "b.png"},
        ],
        "annotations": [{"image_id": 1, "caption": c} for c in ("狗", "一只狗")],
    }
    path = tmp_path / "captions_val.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert said(path) == [
        ("a.png", {"": ["狗", "一只狗"]}, {"id": 1, "license": 4}, 0),
        ("b.png", {"": []}, {"id": 2}, 1),
    ]


def test_a_folder_with_texts_beside_the_pictures(tmp_path):
    pictures(tmp_path / "p", "a.png", "b.png")
    (tmp_path / "p" / "a.txt").write_text("狗\n一只狗\n", encoding="utf-8")
    assert said(tmp_path / "p", wanted="folder") == [
        ("a.png", {"": ["狗", "一只狗"]}, {}, 0),
        ("b.png", {"": []}, {}, 1),
    ]


@pytest.mark.parametrize("form", ["files", "lmdb"])
def test_chinese_clips_layout(form, tmp_path):
    from base64 import urlsafe_b64encode

    texts = [(7, "红色的包", [5]), (8, "包", [5, 3]), (9, "没有", [99])]
    if form == "files":
        lines = [{"text_id": n, "text": t, "image_ids": ids} for n, t, ids in texts]
        write_lines(tmp_path / "valid_texts.jsonl", *lines)
        encoded = "".join(f"{n}\t{urlsafe_b64encode(png(n)).decode()}\n" for n in (3, 5))
        (tmp_path / "valid_imgs.tsv").write_text(encoded, encoding="utf-8")
    else:
        lmdb = pytest.importorskip("lmdb")
        pairs = [(image, n, t) for n, t, ids in texts for image in ids]
        stored = {
            "pairs": {str(n).encode(): pickle.dumps(pair) for n, pair in enumerate(pairs)}
            | {b"num_samples": str(len(pairs)).encode()},
            "imgs": {str(n).encode(): urlsafe_b64encode(png(n)) for n in (3, 5)}
            | {b"num_images": b"2"},
        }
        for name, entries in stored.items():
            folder = tmp_path / "lmdb" / "valid" / name
            folder.mkdir(parents=True)
            with lmdb.open(str(folder)) as environment, environment.begin(write=True) as write:
                for key, value in entries.items():
                    write.put(key, value)
    found = read_pictures(tmp_path)
    assert found.name == f"{tmp_path} valid"
    assert said(tmp_path) == [("3", {"": ["包"]}, {}, 3), ("5", {"": ["红色的包", "包"]}, {}, 5)]
    assert ["image 99" in one.message for one in found.problems] == [True]


def test_a_split_whose_answers_are_not_published(tmp_path):
    """MUGE's test split: pictures can be searched among without captions."""
    from base64 import b64encode

    write_lines(tmp_path / "test_texts.jsonl", {"text_id": 1, "text": "包"})
    (tmp_path / "test_imgs.tsv").write_text(f"3\t{b64encode(png(3)).decode()}\n")
    assert said(tmp_path) == [("3", {}, {}, 3)]


def test_parquet(tmp_path):
    when = datetime.datetime(2024, 5, 1, 12, 30)
    columns = {
        "image": [png(1), png(2), png(1), None],
        "image_id": ["x/1", "é2", "x/1", "4"],
        "caption": [["狗", "一只狗"], ["猫"], ["another"], []],
        "price": [1.5, float("nan"), 3.0, None],
        "when": [when, None, when, when],
        "day": [when.date(), None, None, None],
        "tags": [["a", "b"], [], None, ["c"]],
        "vector": [[0.1, 0.2]] * 4,
        "thumb": [b"123"] * 4,
        "ok": [True, False, None, None],
    }
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=2)
    found = read_pictures(path)
    assert [(one.image_id, one.captions, one.others) for one in found.pictures] == [
        (
            "x/1",
            {"": ["狗", "一只狗", "another"]},
            {
                "price": 1.5,
                "when": "2024-05-01 12:30:00.000000",
                "day": "2024-05-01",
                "tags": ["a", "b"],
                "ok": True,
            },
        ),
        ("é2", {"": ["猫"]}, {"ok": False}),
        ("4", {"": []}, {"when": "2024-05-01 12:30:00.000000", "tags": ["c"]}),
    ]
    first, second, third = [at for _, at in found]
    assert [shade(first), shade(second)] == [1, 2]
    with pytest.raises(DataError, match=r"expected a picture in column 'image' of .*row 3"):
        third()


def test_parquet_without_ids_or_captions(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": [png(n) for n in range(150)]}), path)
    found = said(path)
    assert [one[0] for one in found] == [f"t.parquet#{n}" for n in range(150)]
    assert [one[3] for one in found] == list(range(150))
    pq.write_table(pa.table({"caption": ["x"]}), path)
    refused("expected a column image or", path)
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), path)
    refused("expected pictures in .*got none", path)


def test_parquet_of_paths(tmp_path):
    pictures(tmp_path / "images", "a.png", "b.png")
    path = tmp_path / "t.parquet"
    columns = {"file_name": ["a.png", "b.png"], "n": [1, 2], "caption": ["x", None]}
    pq.write_table(pa.table(columns), path)
    assert said(path) == [
        ("a.png", {"": ["x"]}, {"n": 1}, 0),
        ("b.png", {"": []}, {"n": 2}, 1),
    ]


def test_hugging_faces_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": png(n), "path": f"{n}.png"} for n in range(3)], "label": [5, 6, 7]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    assert said(tmp_path / "saved") == [(f"{n}.png", {}, {"label": 5 + n}, n) for n in range(3)]


def test_a_folder_with_files_of_two_formats(tmp_path):
    write_tar(tmp_path / "t.tar", {"1.png": png(1)})
    pq.write_table(pa.table({"image": [png(2)]}), tmp_path / "t.parquet")
    assert said(tmp_path)[0][3] == 1
    assert said(tmp_path, wanted="parquet")[0][3] == 2
    refused("which is none of them", tmp_path, wanted="coco")
    refused("expected UTF-8 in .*t.tar", tmp_path / "t.tar", wanted="coco")
