"""Finished features of pictures: .npy with ids, columns of Parquet."""

import json

import numpy as np
import pytest

from clip_text.data.finished import read_npy
from clip_text.data.readers import read_finished
from clip_text.errors import DataError, NoFileError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROWS = np.random.default_rng(3).standard_normal((5, 8))
UNITS = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)


@pytest.fixture
def npy(tmp_path):
    np.save(tmp_path / "f.npy", UNITS.astype(np.float32))
    (tmp_path / "ids.txt").write_text("a\nb/1\n狗\nd e\n0\n", encoding="utf-8")
    return tmp_path / "f.npy"


def read(npy, metadata=None):
    return read_npy(npy, npy.with_name("ids.txt"), metadata)


def refused(match, call, *args, **options):
    with pytest.raises(DataError, match=match):
        call(*args, **options)


def lines(path, *objects):
    text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects)
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_with_their_ids(npy):
    found = read(npy)
    assert (found.name, found.width, len(found)) == (str(npy), 8, 5)
    rows = list(found)
    assert [one.said.image_id for one in rows] == ["a", "b/1", "狗", "d e", "0"]
    assert np.allclose([one.feature for one in rows], UNITS, atol=1e-7)
    assert {one.feature.dtype for one in rows} == {np.dtype(np.float32)}
    assert found.stretched == 0


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f4"])
def test_rows_of_other_lengths_and_kinds_are_set_to_unit_length(kind, npy):
    np.save(npy, (ROWS * 7).astype(kind))
    found = read(npy)
    rows = [one.feature for one in found]
    assert np.allclose(rows, UNITS, atol=1e-3)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)
    assert found.stretched == 5


def test_rows_that_are_no_features_are_named(npy):
    bad = UNITS.copy()
    bad[1, 3], bad[2], bad[4, 0] = np.nan, 0.0, np.inf
    np.save(npy, bad)
    rows = list(read(npy))
    assert [one.feature is None for one in rows] == [False, True, True, False, True]
    assert [(one.place, one.reason) for one in rows if one.reason] == [
        ("row 1", "expected finite numbers that are not all 0, got length nan."),
        ("row 2", "expected finite numbers that are not all 0, got length 0."),
        ("row 4", "expected finite numbers that are not all 0, got length inf."),
    ]


def test_many_rows_are_read_in_parts(npy, monkeypatch):
    monkeypatch.setattr("clip_text.data.finished.BATCH", 2)
    rows = list(read(npy))
    assert [one.place for one in rows] == [f"row {n}" for n in range(5)]
    assert np.allclose([one.feature for one in rows], UNITS, atol=1e-7)


def test_files_that_are_no_features(npy, tmp_path):
    for array, got in [
        (np.zeros((2, 3), np.int8), "int8 of shape"),
        (np.zeros(3), r"float64 of shape \[3\]"),
        (np.zeros((0, 8)), r"float64 of shape \[0, 8\]"),
        (np.zeros((2, 2, 2)), r"float64 of shape \[2, 2, 2\]"),
    ]:
        np.save(npy, array)
        refused(f"expected features in .*got {got}", read, npy)
    np.save(npy, np.array([{"a": 1}], object), allow_pickle=True)
    refused("expected features in .*objects", read, npy)
    np.savez(tmp_path / "x.npz", a=ROWS, b=ROWS)
    (tmp_path / "x.npz").rename(npy)
    refused("got several arrays", read, npy)
    np.save(npy, ROWS)
    npy.write_bytes(npy.read_bytes()[:200])
    refused("expected features in", read, npy)
    npy.write_bytes(b"")
    refused("expected features in", read, npy)
    npy.unlink()
    with pytest.raises(NoFileError):
        read(npy)


def test_ids_that_do_not_fit(npy):
    ids = npy.with_name("ids.txt")
    for text, match in [
        ("a\nb\nc\nd\n", "expected 5 ids in .*one for each row .*got 4"),
        ("a\nb\nc\nd\ne\nf\n", "got 6"),
        ("", "got 0"),
        ("a\nb\na\nd\ne\n", "got a in line 1 and again in line 3"),
        ("a\n\nb\nc\nd\n", "expected an id in .*line 2, got none"),
    ]:
        ids.write_text(text)
        refused(match, read, npy)
    ids.write_text("a\r\nb\r\nc\r\nd\r\ne\r\n\r\n")
    assert [one.said.image_id for one in read(npy)] == list("abcde")
    ids.unlink()
    with pytest.raises(NoFileError):
        read(npy)


def test_metadata_in_the_order_of_the_rows(npy, tmp_path):
    said = [{"caption": ["狗", "一只狗"], "n": n} for n in range(5)]
    metadata = lines(tmp_path / "m.jsonl", *said)
    rows = list(read(npy, metadata))
    assert [one.said.others for one in rows] == [{"n": n} for n in range(5)]
    assert rows[0].said.captions == {"": ["狗", "一只狗"]}
    lines(metadata, *said[:4])
    refused("expected 5 lines in .*got 4", read, npy, metadata)


def test_metadata_by_id(npy, tmp_path):
    metadata = lines(
        tmp_path / "m.jsonl",
        {"id": "狗", "text": "x", "path": "p/1.png"},
        {"id": 0, "url": "https://x/y", "image": "https://x/y.png"},
    )
    rows = {one.said.image_id: one for one in read(npy, metadata)}
    assert rows["狗"].picture == tmp_path / "p/1.png"
    assert (rows["狗"].said.captions, rows["狗"].said.others) == ({"": ["x"]}, {})
    assert rows["0"].picture is None
    assert rows["0"].said.others == {"url": "https://x/y", "image": "https://x/y.png"}
    assert rows["a"].said.others == {}
    lines(metadata, {"id": "a"}, {"id": "none"})
    refused("expected an id of a row .*line 2, got none which", read, npy, metadata)
    lines(metadata, {"id": "a"}, {"id": "a"})
    refused("line 2, got a again", read, npy, metadata)
    metadata.write_text("{nonsense\n")
    refused("expected a JSON object in .*line 1", read, npy, metadata)


LISTS = {
    "list": pa.list_(pa.float32()),
    "large": pa.large_list(pa.float64()),
    "fixed": pa.list_(pa.float32(), 8),
    "half": pa.list_(pa.float16()),
}


def write(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


@pytest.mark.parametrize("kind", LISTS)
def test_parquet(kind, tmp_path):
    dtype = np.float16 if kind == "half" else np.float64
    features = pa.array([row.astype(dtype) for row in UNITS], LISTS[kind])
    columns = {
        "image_id": ["a", "b/1", "狗", "4", ""],
        "embedding": features,
        "caption": [["狗", "x"], [], None, ["y"], ["z"]],
        "price": [1, 2, None, 4, 5],
    }
    path = write(tmp_path / "t.parquet", columns, row_group_size=2)
    found = read_finished(path)
    assert (found.name, found.width, len(found)) == (str(path), 8, 5)
    rows = list(found)
    assert [one.said.image_id for one in rows] == ["a", "b/1", "狗", "4", ""]
    assert np.allclose([one.feature for one in rows], UNITS, atol=1e-3)
    assert rows[0].said.captions == {"": ["狗", "x"]}
    assert [one.said.others for one in rows] == [
        {"price": 1},
        {"price": 2},
        {},
        *({"price": n} for n in (4, 5)),
    ]


def test_rows_of_parquet_that_are_no_features(tmp_path):
    units = [list(map(float, row)) for row in UNITS]
    features = [units[0], None, units[2][:5], [*units[3][:7], None], [0.0] * 8]
    path = write(tmp_path / "t.parquet", {"id": range(5), "feature": features})
    rows = list(read_finished(path))
    assert [one.reason.partition(", got")[2] for one in rows] == [
        "",
        " none.",
        " 5.",
        " length nan.",
        " length 0.",
    ]
    assert rows[2].place == f"{path}, row 2"
    assert np.allclose(rows[0].feature, UNITS[0], atol=1e-6)


def test_which_tables_are_of_features(tmp_path):
    features = [list(map(float, row)) for row in UNITS]
    columns = {"id": range(5), "mine": features, "path": [f"{n}.png" for n in range(5)]}
    path = write(tmp_path / "t.parquet", columns)
    assert read_finished(path) is None
    found = read_finished(path, feature_field="mine", images=tmp_path)
    assert [one.picture for one in found] == [tmp_path / f"{n}.png" for n in range(5)]
    refused(
        "expected a column path of lists of real numbers", read_finished, path, feature_field="path"
    )
    refused(
        "expected a column nr in .*--id-field",
        read_finished,
        path,
        feature_field="mine",
        id_field="nr",
    )
    write(path, {"feature": features})
    refused("expected a column image_id or id or key", read_finished, path)
    write(path, {"feature": pa.array([None, []], LISTS["list"]), "id": [1, 2]})
    refused("expected features in column 'feature'", read_finished, path)
    (tmp_path / "t.csv").write_text("image,caption\n")
    assert read_finished(tmp_path / "t.csv") is None


def test_a_caption_that_is_none_costs_its_row_alone(npy, tmp_path):
    metadata = lines(
        tmp_path / "m.jsonl", {"id": "b/1", "caption": 5}, {"id": "狗", "caption": "x"}
    )
    rows = list(read(npy, metadata))
    assert [one.feature is None for one in rows] == [False, True, False, False, False]
    assert (rows[1].said.image_id, rows[1].place) == ("b/1", "row 1")
    assert "expected text or a list of texts in field 'caption'" in rows[1].reason


def not_utf_8(*texts):
    """A column of texts, unchecked."""
    return pa.array(texts, pa.binary()).view(pa.string())


def test_what_is_no_utf_8_costs_its_row_alone(tmp_path):
    columns = {
        "id": not_utf_8(b"a", b"\xff", b"c", None, b"e"),
        "caption": not_utf_8(b"x", b"y", b"\xff", b"z", b""),
        "path": not_utf_8(b"a.png", b"b.png", b"c.png", b"d.png", b"\xff"),
        "feature": [list(map(float, row)) for row in UNITS],
    }
    path = write(tmp_path / "t.parquet", columns)
    rows = list(read_finished(path, feature_field="feature", images=tmp_path))
    assert [(one.said.image_id, one.feature is None, one.picture) for one in rows] == [
        ("a", False, tmp_path / "a.png"),
        ("", True, None),
        ("c", True, None),
        ("", True, None),
        ("e", False, None),
    ]
    assert rows[1].reason.startswith("expected an id in column 'id', got none")
    assert rows[2].reason.startswith("expected UTF-8 in column 'caption'")


@pytest.mark.parametrize("ids", [[0.0, 1.0], [b"0", b"1"], [True, False]])
def test_ids_are_texts_or_whole_numbers(ids, tmp_path):
    path = write(tmp_path / "t.parquet", {"id": ids, "feature": [[1.0], [1.0]]})
    refused("expected ids that are texts or whole numbers in column 'id'", read_finished, path)


def test_addresses_of_pictures_are_metadata(tmp_path):
    columns = {"id": ["a", "b"], "path": ["https://x/y.png", "b.png"], "feature": [[1.0], [1.0]]}
    path = write(tmp_path / "t.parquet", columns)
    rows = list(read_finished(path, feature_field="feature", images=tmp_path))
    assert [(one.picture, one.said.others) for one in rows] == [
        (None, {"path": "https://x/y.png"}),
        (tmp_path / "b.png", {}),
    ]
