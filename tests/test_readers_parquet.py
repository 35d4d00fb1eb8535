"""Reading Parquet that pyarrow wrote: bytes, Hugging Face's struct, paths; one file or shards."""

import io
import multiprocessing
import pickle
import random
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from clip_text.data import parquet
from clip_text.data.parquet import ParquetRows
from clip_text.data.readers import read_pictures, read_retrieval_set
from clip_text.data.rows import PICTURE_COLUMNS, read_rows
from clip_text.errors import DataError
from clip_text.evaluation import Text
from clip_text.images import load_image

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(shade, size=4):
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def shade(source):
    return load_image(source).getpixel((0, 0))[0]


def write(path, columns, *, group=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def refused(match, path, **options):
    with pytest.raises(DataError, match=match):
        read_retrieval_set(path, **options)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_bytes(kind, tmp_path):
    images = pa.array([png(n) for n in range(5)], kind)
    texts = [["一", "1"], ["二"], ["三", None], ["四"], ["五"]]
    path = write(tmp_path / "t.parquet", {"id": range(5), "image": images, "caption": texts})
    found = read_retrieval_set(path)
    assert found.name == f"{tmp_path.name} t"
    assert found.image_ids == [f"t.parquet#{n}" for n in range(5)]
    assert found.texts[:3] == [
        Text("t.parquet#0#0", "一", ("t.parquet#0",)),
        Text("t.parquet#0#1", "1", ("t.parquet#0",)),
        Text("t.parquet#1#0", "二", ("t.parquet#1",)),
    ]
    assert found.answers == [[0], [0], [1], [2], [3], [4]]
    assert [shade(found.images[at]) for at in (4, 0, 3, 1, 2)] == [4, 0, 3, 1, 2]


def test_the_struct_of_hugging_face(tmp_path):
    Image.new("RGB", (4, 4), (9, 0, 0)).save(tmp_path / "c.png")
    images = [{"bytes": png(n), "path": f"{name}.png"} for n, name in enumerate("ab")]
    images.append({"bytes": None, "path": "c.png"})
    data = {
        "image": pa.array(images, STRUCT),
        "zh": ["狗", "猫", "鸟"],
        "en": pa.array(["dog", None, "bird"]).dictionary_encode(),
    }
    path = write(tmp_path / "t.parquet", data)
    found = read_retrieval_set(path)
    assert found.image_ids == ["a.png", "b.png", "c.png"]
    assert [shade(image) for image in found.images] == [0, 1, 9]
    several = read_retrieval_set(path, kinds=["en", "zh"])
    assert [(text.text, text.kind) for text in several.texts] == [
        *(("dog", "en"), ("狗", "zh"), ("猫", "zh")),
        *(("bird", "en"), ("鸟", "zh")),
    ]
    assert [shade(image) for image in several.of_kind("en").images] == [0, 9]


def test_names_that_do_not_tell_pictures_apart(tmp_path):
    images = pa.array([{"bytes": png(n), "path": "image.png"} for n in range(3)], STRUCT)
    data = {"image": images, "caption": ["一", "二", "三"]}
    found = read_retrieval_set(write(tmp_path / "t.parquet", data))
    assert found.image_ids == ["t.parquet#0", "t.parquet#1", "t.parquet#2"]
    data["image_id"] = [7, 8, 7]
    found = read_retrieval_set(write(tmp_path / "t.parquet", data))
    assert (found.image_ids, found.answers) == (["7", "8"], [[0], [1], [0]])
    assert [shade(image) for image in found.images] == [0, 1]


def test_paths(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (2, 2)).save(tmp_path / "images" / name)
    data = {"file_name": ["a.png", "b.png", "a.png"], "text": [b"\xe7\x8b\x97", b"2", b"3"]}
    path = write(tmp_path / "t.parquet", data)
    found = read_retrieval_set(path)
    assert found.images == [tmp_path / "images" / "a.png", tmp_path / "images" / "b.png"]
    assert [text.text for text in found.texts] == ["狗", "2", "3"]
    assert found.answers == [[0], [1], [0]]
    (tmp_path / "images" / "b.png").unlink()
    refused("t.parquet, got 1 without: 'b.png'", path)


def test_negatives(tmp_path):
    data = {
        "image": [png(n) for n in range(3)],
        "zh": ["狗", "猫", "鸟"],
        "negatives": [["两只狗", "猫"], None, []],
    }
    found = read_retrieval_set(write(tmp_path / "t.parquet", data), kinds=["zh"])
    assert found.negatives == [["两只狗", "猫"], [], []]
    assert found.of_kind("zh").negatives == found.negatives


def test_shards_of_splits(tmp_path):
    for split, shards in (("train", 2), ("validation", 1)):
        for at in range(shards):
            name = f"{split}-{at:05d}-of-{shards:05d}-a09b74b3ef9c3b56.parquet"
            data = {"image": [png(10 * at + n) for n in range(3)], "caption": ["a", "b", "c"]}
            write(tmp_path / "x" / "data" / name, data)
    refused("got none. There are: train, validation", tmp_path / "x")
    found = read_retrieval_set(tmp_path / "x", split="train")
    assert found.name == "x train"
    assert [shade(image) for image in found.images] == [0, 1, 2, 10, 11, 12]
    assert found.image_ids[3].endswith("-of-00002-a09b74b3ef9c3b56.parquet#0")


# --- in whichever order, thread and process ---


def many(tmp_path, pictures=40, group=4):
    data = {
        "image": [png(n) for n in range(pictures)],
        "caption": [str(n) for n in range(pictures)],
    }
    return read_retrieval_set(write(tmp_path / "t.parquet", data, group=group))


def test_only_some_row_groups_are_kept(tmp_path, monkeypatch):
    found = many(tmp_path)
    rows = found.images._images._rows
    sizes = [len(png(n)) for n in range(40)]
    monkeypatch.setattr(parquet, "CACHE_BYTES", 12 * max(sizes))
    for at in range(40):
        assert shade(found.images[at]) == at
        assert len(rows._cache) <= 3
    monkeypatch.setattr(parquet, "CACHE_BYTES", 0)
    assert [shade(found.images[at]) for at in (39, 0, 20)] == [39, 0, 20]
    assert len(rows._cache) == 1


def test_a_row_group_is_read_once(tmp_path, monkeypatch):
    found = many(tmp_path)
    opened = []
    real = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, at, **k: opened.append(at) or real(self, at, **k),
    )
    assert [shade(image) for image in found.images] == list(range(40))
    assert opened == list(range(10))


def test_from_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "CACHE_BYTES", 0)
    found = many(tmp_path)
    order = [(7 * at) % 40 for at in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda at: shade(found.images[at]), order)) == order


def test_pickled(tmp_path):
    found = many(tmp_path)
    assert shade(found.images[3]) == 3
    sent = pickle.dumps(found.images)
    assert len(sent) < 10_000
    assert shade(pickle.loads(sent)[39]) == 39


def _in_fork(images, queue):
    queue.put(shade(images[5]))


@pytest.mark.skipif(sys.platform != "linux", reason="fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_while_a_thread_was_reading(tmp_path):
    found = many(tmp_path)
    rows = found.images._images._rows
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with rows._lock:  # held by a thread that the child does not have
        worker = context.Process(target=_in_fork, args=(found.images, queue))
        worker.start()
    try:
        assert queue.get(timeout=30) == 5
    finally:
        worker.kill()
        worker.join()


# --- bad input ---


GOOD = {"image": [png(1), png(2)], "caption": ["一", "二"]}


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        (
            {"photo": GOOD["image"]},
            "a column image or .* in .*t.parquet, got none. .*: caption, photo",
        ),
        (
            {"image": [1, 2]},
            r"bytes and path, or paths\) in column 'image' of .*t.parquet, .* int64",
        ),
        (
            {"caption": [1, 2]},
            "texts or lists of texts in column 'caption' of .*, got the type int",
        ),
        ({"caption": [" ", "二"]}, "words in .*got 1 without: '.*t.parquet, row 0'"),
        ({"caption": [None, "二"]}, r"picture in .*got 1 without: 't.parquet#0 \(.*row 0\)'"),
        ({"image_id": [1, None]}, "value in column 'image_id' of .*t.parquet, row 1, got none"),
        ({"image": ["a.png", None]}, "value in column 'image' of .*t.parquet, row 1, got none"),
        (
            {"caption": ["一", b"\xff"]},
            "UTF-8 in column 'caption' of .*t.parquet, row 1, got other",
        ),
        ({"negatives": [1, 2]}, "texts or lists of texts in column 'negatives'"),
    ],
)
def test_broken_columns(columns, match, tmp_path):
    data = {**GOOD, **columns}
    if "photo" in columns:
        del data["image"]
    if columns.get("caption") == ["一", b"\xff"]:
        data["caption"] = pa.array([b"1", b"\xff"])
    refused(match, write(tmp_path / "t.parquet", data))


def test_a_text_column_that_is_no_utf_8(tmp_path):
    texts = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.array([0, 1, 2], pa.int32()).buffers()[1], pa.py_buffer(b"1\xff")]
    )
    path = write(tmp_path / "t.parquet", {**GOOD, "caption": texts})
    refused("UTF-8 in column 'caption' of .*t.parquet, row 1, got other", path)


def test_kinds_that_are_not_there(tmp_path):
    path = write(tmp_path / "t.parquet", GOOD)
    refused("a column en in .*got none. The columns there are: image, caption", path, kinds=["en"])
    refused("a column photo in", path, image_field="photo")


def test_a_picture_that_is_not_there(tmp_path):
    found = read_retrieval_set(write(tmp_path / "t.parquet", {**GOOD, "image": [png(1), None]}))
    assert shade(found.images[0]) == 1
    with pytest.raises(DataError, match=r"picture in column 'image' of .*t\.parquet, row 1, got"):
        found.images[1]


@pytest.mark.parametrize("keep", [0, 3, 200, -1])
def test_a_truncated_file(keep, tmp_path):
    path = write(tmp_path / "t.parquet", GOOD)
    path.write_bytes(path.read_bytes()[:keep])
    refused(r"Parquet file that can be read at .*t\.parquet, got: .* Download or write", path)


def test_damaged_in_the_middle(tmp_path):
    path = write(tmp_path / "t.parquet", GOOD)
    found = read_retrieval_set(path)
    data = path.read_bytes()
    at = data.index(b"IHDR")
    path.write_bytes(data[:4] + bytes(at - 4) + data[at:])
    with pytest.raises(DataError, match=r"Parquet file that can be read at .*t\.parquet, got"):
        found.images[0]


def test_shards_that_differ(tmp_path):
    write(tmp_path / "t-0.parquet", GOOD)
    write(tmp_path / "t-1.parquet", {**GOOD, "caption": [["一"], ["二"]]})
    refused(r"the columns of .*t-0.parquet in .*t-1.parquet, got image \(binary\), cap", tmp_path)


def test_all_that_is_wrong_at_once(tmp_path):
    write(tmp_path / "t-0.parquet", {"image": [png(1), None], "caption": ["一", "二"]})
    (tmp_path / "t-1.parquet").write_bytes(b"PAR1")
    problems = []
    found = read_retrieval_set(tmp_path, problems=problems)
    assert len(found.image_ids) == 2
    assert [problem.kind for problem in problems] == ["unreadable_entries"]
    assert problems[0].offenders == (str(tmp_path / "t-1.parquet"),)


def test_without_pyarrow(tmp_path, monkeypatch):
    path = write(tmp_path / "t.parquet", GOOD)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'clip-text\[data\]'"):
        read_retrieval_set(path)


def test_names_of_pictures_end_with_those_of_tables():
    assert PICTURE_COLUMNS[0] == "image"
    assert {"path", "file_name"} < set(PICTURE_COLUMNS)


def test_rows_can_be_read_on_their_own(tmp_path):
    rows = ParquetRows([write(tmp_path / "t.parquet", GOOD)], "mine")
    records, images = read_rows(rows, tmp_path, None, None)
    assert [record.where for record in records] == [
        f"{tmp_path / 't.parquet'}, row {n}" for n in (0, 1)
    ]
    assert len(images) == 2
    assert "t.parquet#9" not in images


def test_rows_in_order_take_no_more_memory_than_a_few_pictures(tmp_path):
    """A file of one row group, as pandas writes it, is not held whole."""
    pictures = [random.randbytes(2**13) for _ in range(6000)]  # 47 MiB, in pages of 8
    path = write(tmp_path / "t.parquet", {"image": pictures}, group=10**6)
    found = read_pictures(path)
    before, most = pa.total_allocated_bytes(), 0
    for (_, load), picture in zip(found, pictures, strict=True):
        assert load() == picture
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 30 * 2**20
