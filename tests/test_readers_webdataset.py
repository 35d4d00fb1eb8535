"""Reading tars that webdataset wrote: files, shards, patterns, lists, URLs of a real server."""

import gzip
import io
import json
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from PIL import Image

from clip_text.data import download
from clip_text.data.readers import read_retrieval_set
from clip_text.data.shards import expand, find_shards, is_pattern
from clip_text.errors import DataError
from clip_text.evaluation import Text
from clip_text.images import load_image

webdataset = pytest.importorskip("webdataset")


def picture(shade, form="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(buffer, form)
    return buffer.getvalue()


def shade(source):
    return load_image(source).getpixel((0, 0))[0]


def write(path, *samples):
    """With webdataset's own writer; it encodes what the ending asks for, but bytes as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream, webdataset.TarWriter(stream) as sink:
        for sample in samples:
            sink.write(sample)
    return path


def sample(key, shade, **members):
    return {"__key__": key, "png": picture(shade), **members}


def refused(match, path, **options):
    with pytest.raises(DataError, match=match):
        read_retrieval_set(path, **options)


def test_a_tar(tmp_path):
    path = write(
        tmp_path / "t.tar",
        {"__key__": "b/001", "jpg": picture(200, "JPEG"), "txt": "一只狗\n\n 狗 \n"},
        {"__key__": "b/002", "webp": picture(0, "WEBP"), "json": {"text": "猫", "width": 4}},
        {"__key__": "003", "png": picture(7), "txt": "鸟", "mask.png": picture(1), "cls": 3},
    )
    found = read_retrieval_set(path)
    assert found.name == f"{tmp_path.name} t"
    assert found.image_ids == ["b/001", "b/002", "003"]
    assert found.texts == [
        Text("b/001#0", "一只狗", ("b/001",)),
        Text("b/001#1", "狗", ("b/001",)),
        Text("b/002#0", "猫", ("b/002",)),
        Text("003#0", "鸟", ("003",)),
    ]
    assert [round(shade(found.images[at]), -1) for at in (2, 1, 0)] == [10, 0, 200]


def test_webdataset_reads_the_same(tmp_path):
    """Ours finds what the library finds, with dots in names and folders too."""
    samples = [sample(key, n, txt=key) for n, key in enumerate(["a", "x.y/b", "x.y/c"])]
    path = write(tmp_path / "t.tar", *samples)
    with path.open("rb") as stream:
        files = webdataset.tariterators.tar_file_expander([{"url": "t.tar", "stream": stream}])
        theirs = list(webdataset.tariterators.group_by_keys(files))
    found = read_retrieval_set(path)
    assert found.image_ids == ["a", "x.y/b", "x.y/c"]
    assert [one["__key__"] for one in theirs] == found.image_ids
    assert "png" in theirs[0]
    assert found.images[0] == theirs[0]["png"]


def test_kinds_and_negatives(tmp_path):
    entry = {"zh": ["狗", "犬"], "en": "dog", "negatives": "猫"}
    path = write(tmp_path / "t.tar", sample("a", 1, json=entry, txt="x"))
    found = read_retrieval_set(path, kinds=["en", "zh"])
    assert [(text.text, text.kind) for text in found.texts] == [
        ("dog", "en"),
        ("狗", "zh"),
        ("犬", "zh"),
    ]
    assert found.negatives == [["猫"]]
    assert [text.text for text in read_retrieval_set(path).texts] == ["x"]


@pytest.fixture
def shards(tmp_path):
    """Two shards of a split with the same keys, and one of another."""
    for split, at in (("train", 0), ("train", 1), ("val", 0)):
        samples = [sample(str(n), 10 * at + n, txt=f"{split} {at} {n}") for n in range(3)]
        write(tmp_path / "x" / f"{split}-{at:04d}.tar", *samples)
    return tmp_path / "x"


def test_shards(shards):
    for path, split in (
        (shards, "train"),
        (f"{shards}/train-{{0000..0001}}.tar", None),
        (f"{shards}/train-{{0000,0001}}.tar", None),
    ):
        found = read_retrieval_set(path, split=split)
        assert found.name == ("x train" if split else "train")
        assert found.image_ids[3] == "train-0001.tar/0"
        assert [shade(image) for image in found.images] == [0, 1, 2, 10, 11, 12]
    assert read_retrieval_set(shards, split="val").image_ids == ["0", "1", "2"]
    refused("got none. There are: train, val", shards)
    refused(r"tar at .*train-0002.tar, got nothing there", f"{shards}/train-{{0001..0002}}.tar")
    refused("which names its files, got val", f"{shards}/train-{{0000..0001}}.tar", split="val")


def test_a_list(shards):
    (shards / "all.txt").write_text(
        f"# my shards\n\n{shards}/val-0000.tar\ntrain-{{0000..0001}}.tar\n"
    )
    assert len(read_retrieval_set(shards / "all.txt").image_ids) == 9
    (shards / "all.txt").write_text("notes\n")
    refused("names of .tar files in .*all.txt, got .*notes", shards / "all.txt")
    (shards / "all.txt").write_text("")
    refused("names of .tar files in .*all.txt, got none", shards / "all.txt")


def test_img2dataset_writes_parquet_beside(shards):
    (shards / "train-0000.parquet").write_bytes(b"not looked at")
    assert len(read_retrieval_set(shards, split="train").image_ids) == 6


def test_threads_and_workers(shards):
    found = read_retrieval_set(shards, split="train")
    again = pickle.loads(pickle.dumps(found.images))
    order = [(5 * at) % 6 for at in range(100)]
    with ThreadPoolExecutor(8) as pool:
        shades = list(pool.map(lambda at: shade(again[at]), order))
    assert shades == [[0, 1, 2, 10, 11, 12][at] for at in order]


@pytest.mark.parametrize(
    "pattern",
    ["a", "a-{0..3}.tar", "{00..11}", "{008..012}", "{3..1}", "{0..10..5}", "{a,b}{1..2}", "x{}y"],
)
def test_patterns_as_braceexpand_has_them(pattern):
    braceexpand = pytest.importorskip("braceexpand").braceexpand
    assert expand(pattern) == list(braceexpand(pattern))
    assert is_pattern(pattern) == (len(expand(pattern)) > 1)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["000.tar", "001.tar"], ["here"]),
        (["train-1.tar", "train-2.tar", "val_1.tar"], ["train", "val"]),
        (["train.tar", "val.tar"], ["train", "val"]),
        (["coco2014-0000.tar", "coco2017-0000.tar"], ["coco2014", "coco2017"]),
        (["coco-2014-0000.tar", "coco-2017-0000.tar"], ["coco-2014", "coco-2017"]),
        (["part-00000-9f2c-c000.snappy.tar", "part-00001-9f2c-c000.snappy.tar"], ["part"]),
        (["data/train-00000-of-00001-a09b.tar", "data/test-00000-of-00001.tar"], ["test", "train"]),
        (["train/0000.tar", "train/0001.tar", "dev/0000.tar"], ["dev", "train"]),
    ],
)
def test_which_shards_belong_together(names, splits, tmp_path):
    for name in names:
        path = tmp_path / "here" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = find_shards(tmp_path / "here", ".tar")
    assert sorted(found) == splits
    assert sorted(
        str(p.relative_to(tmp_path / "here")) for v in found.values() for p in v
    ) == sorted(names)


# --- URLs ---


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class BreaksOff(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 10)

    def log_message(self, *args):
        pass


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Start a server on this machine; downloads go to a folder of the test."""
    monkeypatch.setattr(download, "user_cache_path", lambda name: tmp_path / "cache" / name)
    servers = []

    def start(handler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_urls(shards, serve, tmp_path):
    base = serve(partial(Quiet, directory=shards))
    found = read_retrieval_set(f"{base}/train-{{0000..0001}}.tar")
    assert found.name == "train"
    assert [shade(image) for image in found.images] == [0, 1, 2, 10, 11, 12]
    files = list((tmp_path / "cache").rglob("*.tar"))
    assert sorted(path.name.partition("-")[2] for path in files) == [
        "train-0000.tar",
        "train-0001.tar",
    ]
    (shards / "list.txt").write_text(f"{base}/val-0000.tar?token=1\n")
    assert len(read_retrieval_set(shards / "list.txt").image_ids) == 3


def test_a_url_is_downloaded_once(shards, serve):
    base = serve(partial(Quiet, directory=shards))
    first = read_retrieval_set(f"{base}/val-0000.tar")
    for path in shards.glob("*.tar"):
        path.unlink()
    again = read_retrieval_set(f"{base}/val-0000.tar")
    assert list(first.images) == list(again.images)


def test_urls_that_fail(serve, tmp_path):
    (tmp_path / "empty").mkdir()
    base = serve(partial(Quiet, directory=tmp_path / "empty"))
    refused(f"download at {base}/a.tar, got HTTPError: .*404.* Check the address", f"{base}/a.tar")
    refused("names of .tar files in .*a.zip", f"{base}/a.zip")
    refused("got 10 bytes of 1,000", f"{serve(BreaksOff)}/a.tar")
    refused("got URLError: .*refused", "http://127.0.0.1:9/a.tar")
    assert not list((tmp_path / "cache").rglob("*.*"))


# --- bad input ---


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"txt": "狗"}, r"one picture in .*t.tar, sample b, got none \(.txt\)"),
        (
            {"png": b"x", "jpg": b"y", "txt": "狗"},
            r"one picture in .*t.tar, sample b, got 2 \(.jpg, .png",
        ),
        (
            {"png": picture(1)},
            r"caption for every picture .*got 1 without: 'b \(.*t.tar, sample b\)'",
        ),
        ({"png": picture(1), "txt": "\n"}, "caption for every picture .*got 1 without: 'b "),
        ({"png": picture(1), "txt": b"\xff"}, "UTF-8 in .*sample b, .txt, line 1, got byte 0xff"),
        ({"png": picture(1), "json": b"{"}, "JSON object in .*t.tar, sample b, .json, got"),
        ({"png": picture(1), "json": [1]}, "JSON object in .*t.tar, sample b, .json, got list"),
        (
            {"png": picture(1), "json": {"text": 1}},
            "field 'text' of .*t.tar, sample b, .json, got 1",
        ),
    ],
)
def test_broken_samples(bad, match, tmp_path):
    good = sample("a", 1, txt="猫")
    refused(match, write(tmp_path / "t.tar", good, {"__key__": "b", **bad}))


def test_kinds_that_are_not_there(tmp_path):
    path = write(tmp_path / "t.tar", sample("a", 1, json={"zh": "猫", "w": 1}))
    refused(
        "field en in .*sample a, .json, got none. The fields there are: zh, w", path, kinds=["en"]
    )
    refused("expected no images", path, images=tmp_path)


@pytest.mark.parametrize(
    "left", [0, 100, 512 + 30, 1024, 1536, 2048, 4096, 4096 + 100, 12288, 12288 + 512 - 1]
)
def test_a_truncated_tar(left, tmp_path):
    path = write(tmp_path / "t.tar", *(sample(str(n), n, txt=str(n)) for n in range(3)))
    path.write_bytes(path.read_bytes()[:left])
    refused(r"tar that can be read at .*t\.tar, got: .*\. Download or write it again", path)


def test_a_tar_with_other_bytes_in_the_middle(tmp_path):
    path = write(tmp_path / "t.tar", *(sample(str(n), n, txt=str(n)) for n in range(3)))
    data = path.read_bytes()
    path.write_bytes(data[:2048] + b"?" * 512 + data[2560:])
    refused("tar that can be read at .*, got: other bytes at byte 2,048", path)


def test_a_compressed_tar(tmp_path):
    path = write(tmp_path / "t.tar", sample("a", 1, txt="a"))
    path.write_bytes(gzip.compress(path.read_bytes()))
    refused("got: one compressed by gzip.* Run gunzip on it", path)


def test_links_and_folders_are_no_samples(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, kind in (("d.png", tarfile.DIRTYPE), ("l.png", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        for name, data in (("./a.png", picture(3)), ("./a.txt", b"a")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    found = read_retrieval_set(tmp_path / "t.tar")
    assert found.image_ids == ["a"]
    assert shade(found.images[0]) == 3


def test_a_tar_that_changed(tmp_path):
    path = write(tmp_path / "t.tar", sample("a", 1, txt="a"))
    found, data = read_retrieval_set(path), path.read_bytes()
    path.write_bytes(data[: data.index(b"\x89PNG") + 8])
    with pytest.raises(DataError, match=r"bytes of a in .*t\.tar, got 8\. The file changed"):
        found.images[0]


def test_all_that_is_wrong_at_once(shards):
    write(shards / "train-0001.tar", sample("ok", 5, txt="ok"), {"__key__": "no", "txt": "x"})
    data = (shards / "train-0000.tar").read_bytes()
    (shards / "train-0000.tar").write_bytes(data[: data.index(b"1.png") - 100])
    problems = []
    found = read_retrieval_set(shards, split="train", problems=problems)
    assert found.image_ids == ["0", "ok"]
    assert [problem.offenders for problem in problems] == [
        (str(shards / "train-0000.tar"),),
        (f"{shards / 'train-0001.tar'}, sample no",),
    ]
    assert json.dumps([problem.message for problem in problems])
