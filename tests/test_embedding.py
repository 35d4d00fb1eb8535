"""Bulk embedding: what shards hold, that it depends on nobody who made them, and how it goes on."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from data_sets import write_lines, write_tar
from embedding_process import embed_fake, load_fake
from fakes import FakeEncoder, save_picture
from PIL import Image

from clip_text.embedding import Settings, Wanted, embed, read_embedded
from clip_text.embedding import places as placing
from clip_text.embedding.local import Local
from clip_text.embedding.manifest import Folder
from clip_text.embedding.shards import Piece, Shard, SourceFile, cut
from clip_text.embedding.work import Worker, facts_of
from clip_text.errors import ClipTextError, DataError, MissingPackageError, StorageError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

HERE = Path(__file__).parent
ENV = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}


def png(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


def row_of(seed):
    """The row of a picture by itself, without anything of bulk embedding."""
    encoder = FakeEncoder()
    return encoder.encode_pixels([encoder.load_pixels(png(seed))])[0]


@pytest.fixture
def folder(tmp_path):
    """Ten pictures, one of which is none."""
    place = tmp_path / "pictures"
    for seed in range(9):
        save_picture(place / f"{'ab'[seed % 2]}" / f"{seed}.png", seed)
    (place / "a" / "3x.jpg").write_bytes(b"no picture")
    return place


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def table(out):
    """All rows, by id; no id comes twice."""
    rows = [
        row for file in sorted(out.glob("*.parquet")) for row in pq.read_table(file).to_pylist()
    ]
    by_id = {row["image_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    return by_id


def contents(out):
    """Bytes of all files that a run leaves, but for those that name places."""
    files = (path for path in out.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def failures(out):
    lines = [
        json.loads(line)
        for file in sorted((out / "failed").glob("*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    return {line["image_id"] or line["place"]: line["reason"] for line in lines}


def start(*arguments):
    command = [sys.executable, HERE / "embedding_process.py", *arguments]
    return subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, text=True, env=ENV
    )


class TestShards:
    def test_they_are_cut_over_the_borders_of_files(self):
        files = [
            SourceFile(name, name, 1, "", rows) for name, rows in (("a", 3), ("b", 0), ("c", 4))
        ]
        source = _source("parquet", files)
        assert [[(p.file.name, p.first, p.count) for p in s.pieces] for s in cut(source, 2)] == [
            [("a", 0, 2)],
            [("a", 2, 1), ("c", 0, 1)],
            [("c", 1, 2)],
            [("c", 3, 1)],
        ]
        assert source.rows == 7

    def test_a_tar_is_one_whatever_the_size(self):
        files = [SourceFile(name, name, 1, "") for name in ("a", "b")]
        source = _source("webdataset", files)
        assert [s.pieces for s in cut(source, 2)] == [(Piece(file, 0, None),) for file in files]
        assert source.rows is None

    def test_lines_begin_where_they_are_said_to(self, tmp_path):
        path = tmp_path / "list.txt"
        path.write_text("".join(f"é{n}.png\n" for n in range(7)), encoding="utf-8")
        from clip_text.embedding.sources import find_source

        source = find_source(str(path), Wanted(), Folder(tmp_path / "out"), 3)
        lines = []
        for shard in cut(source, 3):
            (piece,) = shard.pieces
            with path.open("rb") as file:
                file.seek(piece.start)
                lines.append([file.readline().decode().strip() for _ in range(piece.count)])
        expected = [f"é{n}.png" for n in range(7)]
        assert lines == [expected[:3], expected[3:6], expected[6:]]


def _source(form, files):
    from clip_text.embedding.shards import Reading, Source

    return Source("x", tuple(files), Reading(form))


class TestSources:
    def test_a_folder(self, folder, out):
        report = embed_fake(folder, out, Local(1))
        assert (report.shards, report.rows, report.failed, report.encoded) == (3, 9, 1, 9)
        rows = table(out)
        assert list(rows) == sorted(rows)
        encoder = FakeEncoder()
        for image_id, row in rows.items():
            assert row["path"] == str(folder / image_id)
            expected = encoder.encode_file(folder / image_id)
            np.testing.assert_array_equal(np.float32(row["feature"]), expected)
        assert failures(out) == {"a/3x.jpg": "expected a picture, got 10 other bytes."}
        assert pq.read_schema(out / "shard-000000.parquet").field("feature").type == pa.list_(
            pa.float32(), 16
        )

    def test_a_pattern_of_pictures(self, folder, out):
        embed_fake(folder / "**" / "*.png", out, Local(1))
        assert set(table(out)) == {f"{'ab'[n % 2]}/{n}.png" for n in range(9)}

    def test_parquet_of_bytes_with_what_is_said(self, tmp_path, out):
        data = {
            "image_id": [f"p{n}" for n in range(7)],
            "image": [png(n) for n in range(6)] + [None],
            "caption": ["狗", None, "猫", "", "a", "b", "c"],
            "year": [2000 + n for n in range(7)],
        }
        pq.write_table(pa.table(data), tmp_path / "x.parquet", row_group_size=3)
        report = embed_fake(tmp_path / "x.parquet", out, Local(1))
        rows = table(out)
        assert (report.rows, report.failed) == (6, 1)
        assert [rows[f"p{n}"]["caption"] for n in range(4)] == ["狗", None, "猫", None]
        assert [json.loads(rows[f"p{n}"]["metadata"]) for n in (0, 5)] == [
            {"year": 2000},
            {"year": 2005},
        ]
        for n in range(6):
            np.testing.assert_array_equal(np.float32(rows[f"p{n}"]["feature"]), row_of(n))
        assert "x.parquet, row 6" in failures(out)["p6"]

    def test_parquet_of_structs_without_ids_over_several_files(self, tmp_path, out):
        for name, seeds in (("a", (0, 1)), ("b", (2, 3, 4))):
            cells = [{"bytes": png(n), "path": f"{n}.png"} for n in seeds]
            (tmp_path / "d").mkdir(exist_ok=True)
            pq.write_table(pa.table({"image": cells}), tmp_path / "d" / f"{name}.parquet")
        embed_fake(tmp_path / "d", out, Local(1))
        rows = table(out)
        names = ["a.parquet#0", "a.parquet#1", "b.parquet#0", "b.parquet#1", "b.parquet#2"]
        assert list(rows) == names
        np.testing.assert_array_equal(np.float32(rows["b.parquet#2"]["feature"]), row_of(4))

    def test_ids_of_another_column_and_paths(self, tmp_path, out):
        for n in range(3):
            save_picture(tmp_path / "images" / f"{n}.png", n)
        names = pa.table({"path": ["0.png", "1.png", "gone.png"], "sku": [7, 8, 9]})
        pq.write_table(names, tmp_path / "x.parquet")
        embed_fake(tmp_path / "x.parquet", out, Local(1), wanted=Wanted(id_field="sku"))
        assert {image_id: row["path"] for image_id, row in table(out).items()} == {
            "7": str(tmp_path / "images" / "0.png"),
            "8": str(tmp_path / "images" / "1.png"),
        }
        assert failures(out) == {"9": "No such file or directory"}

    def test_tars(self, tmp_path, out):
        said = json.dumps({"caption": "狗", "licence": "CC0"}).encode()
        members = {"x/1.png": png(1), "x/1.json": said, "x/2.png": png(2), "x/3.txt": b"lonely"}
        write_tar(tmp_path / "t-000.tar", members)
        write_tar(tmp_path / "t-001.tar", {"x/1.png": png(3), "x/1.txt": "猫\n一只猫".encode()})
        report = embed_fake(f"{tmp_path}/t-{{000..001}}.tar", out, Local(1))
        rows = table(out)
        assert (report.shards, set(rows)) == (
            2,
            {"t-000.tar/x/1", "t-000.tar/x/2", "t-001.tar/x/1"},
        )
        assert rows["t-000.tar/x/1"]["caption"] == "狗"
        assert json.loads(rows["t-000.tar/x/1"]["metadata"]) == {"licence": "CC0"}
        assert json.loads(rows["t-001.tar/x/1"]["metadata"]) == {"caption": ["猫", "一只猫"]}
        np.testing.assert_array_equal(np.float32(rows["t-001.tar/x/1"]["feature"]), row_of(3))
        assert [reason.startswith("expected one picture") for reason in failures(out).values()] == [
            True
        ]

    def test_a_tar_that_is_cut_off_gives_what_is_whole_of_it(self, tmp_path, out):
        path = write_tar(tmp_path / "t.tar", {f"{n}.png": png(n) for n in range(4)})
        path.write_bytes(path.read_bytes()[: 3 * 1024 + 700])
        report = embed_fake(path, out, Local(1))
        assert (set(table(out)), report.failed) == ({"0", "1", "2"}, 1)
        assert "expected a tar that can be read" in failures(out)[str(path)]

    def test_a_listing_with_captions(self, tmp_path, out):
        for n in range(2):
            save_picture(tmp_path / f"{n}.png", n)
        lines = [{"image": "0.png", "caption": ["a", "b"], "n": 1}, {"image": "1.png", "zh": "狗"}]
        listing = write_lines(tmp_path / "x.jsonl", *lines, {"caption": "no picture"})
        with listing.open("a", encoding="ascii") as file:
            file.write('{"image": "\\ud800"}\n')
        report = embed_fake(tmp_path / "x.jsonl", out, Local(1))
        rows = table(out)
        assert (rows["0.png"]["caption"], rows["1.png"]["caption"]) == ("a", "狗")
        assert json.loads(rows["0.png"]["metadata"]) == {"n": 1, "caption": ["a", "b"]}
        assert (report.rows, failures(out)["\\ud800"]) == (
            2,
            "expected Unicode, got '\\ud800'.",
        )

    def test_pictures_of_an_object_store(self, tmp_path, out, monkeypatch):
        fsspec = pytest.importorskip("fsspec")
        store = fsspec.filesystem("memory")
        store.store.clear()
        for n in range(5):
            store.pipe(f"/bucket/photos/{n}.png", png(n))
        report = embed_fake("memory://bucket/photos", out, Local(1))
        rows = table(out)
        assert (report.rows, list(rows)) == (5, [f"{n}.png" for n in range(5)])
        assert rows["4.png"]["path"] == "memory:///bucket/photos/4.png"
        np.testing.assert_array_equal(np.float32(rows["4.png"]["feature"]), row_of(4))
        store.pipe(
            "/bucket/list.txt", b"photos/1.png\n# not this\n\nmemory://bucket/photos/3.png\n"
        )
        embed_fake("memory://bucket/list.txt", tmp_path / "listed", Local(1))
        assert set(table(tmp_path / "listed")) == {"photos/1.png", "memory://bucket/photos/3.png"}
        (finished,) = {
            one.said.others["url"]
            for one in read_embedded(out).features
            if "3" in one.said.image_id
        }
        assert finished == "memory:///bucket/photos/3.png"

    def test_tars_and_parquet_of_an_object_store(self, tmp_path, out):
        fsspec = pytest.importorskip("fsspec")
        store = fsspec.filesystem("memory")
        store.store.clear()
        tar = write_tar(tmp_path / "t.tar", {f"{n}.png": png(n) for n in range(3)})
        store.pipe("/b/t.tar", tar.read_bytes())
        embed_fake("memory://b/*.tar", out, Local(1))
        assert set(table(out)) == {"0", "1", "2"}
        pq.write_table(pa.table({"image": [png(5)]}), tmp_path / "x.parquet")
        store.pipe("/b/x.parquet", (tmp_path / "x.parquet").read_bytes())
        embed_fake("memory://b/x.parquet", tmp_path / "rows", Local(1))
        np.testing.assert_array_equal(
            np.float32(table(tmp_path / "rows")["x.parquet#0"]["feature"]), row_of(5)
        )

    @pytest.mark.parametrize(
        ("name", "match"),
        [
            ("nothing.parquet", "got nothing there"),
            ("empty", "expected Parquet"),
            ("x.doc", "got .*x.doc"),
            ("no-such://b/x.tar", "expected a URL that fsspec opens"),
        ],
    )
    def test_what_is_no_source_is_refused(self, name, match, tmp_path, out):
        (tmp_path / "empty").mkdir()
        (tmp_path / "x.doc").write_bytes(b"")
        with pytest.raises(DataError, match=match):
            embed_fake(name if "://" in name else tmp_path / name, out, Local(1))
        assert not (out / "manifest.json").exists()


class TestSameBytes:
    def test_for_any_number_of_workers(self, folder, tmp_path):
        embed_fake(folder, tmp_path / "one", Local(1))
        report = embed_fake(folder, tmp_path / "three", Local(3))
        assert report.encoded == 9
        assert contents(tmp_path / "one") == contents(tmp_path / "three")

    def test_batches_do_not_depend_on_shards_before(self, folder, tmp_path, monkeypatch):
        sizes = []
        load = partial(FakeEncoder, before_batch=sizes.append)
        run = partial(embed, str(folder), settings=Settings(4, 3))
        run(tmp_path / "a", lambda _: load(), Local(1))
        assert sizes == [3, 3, 1, 2]  # of 3 (one is none), 4 and 2


class TestGoingOn:
    def test_the_same_again_does_nothing(self, folder, out):
        embed_fake(folder, out, Local(1))
        before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
        report = embed_fake(folder, out, Local(1))
        assert (report.done_before, report.encoded, report.rows, report.failed) == (3, 0, 9, 1)
        assert {path: path.stat().st_mtime_ns for path in before} == before

    @pytest.mark.parametrize("workers", [1, 2])
    def test_after_the_process_was_killed(self, workers, folder, out, tmp_path):
        embed_fake(folder, tmp_path / "whole", Local(1))
        process = start(folder, out, workers, 0.4)
        assert process.stdout.readline() == "1 of 3\n"
        time.sleep(0.1)
        process.kill()
        process.wait()
        process.stdout.close()
        marks = {path: path.stat().st_mtime_ns for path in (out / "done").glob("*.json")}
        assert 1 <= len(marks) < 3
        report = embed_fake(folder, out, Local(1))
        assert (report.done_before, report.rows) == (len(marks), 9)
        assert {path: path.stat().st_mtime_ns for path in marks} == marks
        assert contents(out) == contents(tmp_path / "whole")

    def test_workers_end_with_the_process_that_started_them(self, folder, out):
        process = start(folder, out, 2, 30)
        children = _children(process.pid, 2)
        process.kill()
        process.wait()
        process.stdout.close()
        for _ in range(100):
            if not any(Path(f"/proc/{pid}").exists() for pid in children):
                return
            time.sleep(0.1)
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        pytest.fail("workers live on")

    def test_a_damaged_shard_is_made_anew(self, folder, out):
        embed_fake(folder, out, Local(1))
        whole = contents(out)
        (out / "shard-000001.parquet").write_bytes(b"cut")
        assert embed_fake(folder, out, Local(1)).done_before == 2
        assert contents(out) == whole

    def test_pictures_that_could_not_be_reached_are_tried_again(self, tmp_path, out):
        save_picture(tmp_path / "0.png", 0)
        (tmp_path / "x.txt").write_text("0.png\n1.png\n", encoding="utf-8")
        report = embed_fake(tmp_path / "x.txt", out, Local(1))
        assert (report.rows, report.failed, report.unreachable) == (1, 1, 1)
        save_picture(tmp_path / "1.png", 1)
        assert embed_fake(tmp_path / "x.txt", out, Local(1)).rows == 1
        report = embed_fake(tmp_path / "x.txt", out, Local(1), retry_failed=True)
        assert (report.rows, report.failed, failures(out)) == (2, 0, {})

    def test_a_shard_that_is_out_of_reach_is_not_set_aside(self, tmp_path, out):
        (tmp_path / "x.txt").write_text("".join(f"{n}.png\n" for n in range(20)), encoding="utf-8")
        settings = Settings(20, 4)
        with pytest.raises(DataError, match="Is the drive mounted"):
            embed_fake(tmp_path / "x.txt", out, Local(1), settings=settings)
        assert not list(out.glob("done/*"))
        assert not list(out.glob("*.parquet*"))

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"fingerprint": "fake-2"}, "expected the model of .*fake-1.* got .*fake-2"),
            ({"settings": Settings(5)}, "another"),
            ({"settings": Settings(dtype="float16")}, "dtype of .* \\(float32\\), got float16"),
            ({"more": True}, "expected the source of .* as it was"),
        ],
    )
    def test_something_else_than_before_is_refused(self, change, match, folder, out):
        embed_fake(folder, out, Local(1))
        before = contents(out)
        if change.pop("more", None):
            save_picture(folder / "z.png", 99)
        load = partial(load_fake, 0.0, change.pop("fingerprint", "fake-1"))
        with pytest.raises(DataError, match=match):
            embed(str(folder), out, load, Local(1), **change)
        assert before.items() <= contents(out).items()

    def test_what_is_not_ours_is_left_alone(self, folder, out):
        out.mkdir()
        (out / "x.parquet").write_bytes(b"precious")
        with pytest.raises(StorageError, match="expected a new or empty folder"):
            embed_fake(folder, out, Local(1))
        (out / "manifest.json").write_text("{}", encoding="utf-8")
        with pytest.raises(DataError, match="expected a manifest of clip-text embed"):
            embed_fake(folder, out, Local(1))


def _children(pid, count):
    """Wait until a process has so many, those that keep what is shared not counted; name them."""
    for _ in range(200):
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        spawned = [one for one in listed if b"spawn_main" in _command(one)]
        if len(spawned) >= count:
            return [int(one) for one in spawned]
        time.sleep(0.1)
    raise AssertionError("no workers")


def _command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class TestTrouble:
    def test_a_full_disk_stops_the_run(self, folder, out, monkeypatch):
        monkeypatch.setattr(FakeEncoder, "load_pixels", _raise(OSError(28, "No space left")))
        with pytest.raises(OSError, match="No space left"):
            embed_fake(folder, out, Local(1))
        assert not list(out.glob("done/*"))

    def test_rows_that_are_none_stop_the_run(self, folder, out, monkeypatch):
        monkeypatch.setattr(
            FakeEncoder, "encode_pixels", lambda _, p: np.full((len(p), 16), np.nan)
        )
        with pytest.raises(ClipTextError, match="expected unit rows of shape"):
            embed_fake(folder, out, Local(1))
        assert not list(out.glob("done/*"))

    def test_a_worker_with_another_model_is_refused(self, tmp_path, folder):
        worker = Worker(partial(load_fake, 0.0, "fake-2"), None, 1)
        job = _job(tmp_path, facts_of(FakeEncoder()))
        with pytest.raises(ClipTextError, match="expected the model x in each worker"):
            worker.embed(job, Shard(0, ()))

    def test_what_a_store_needs_is_named(self, monkeypatch):
        def missing(_):
            raise ImportError("Install s3fs to access S3")

        pytest.importorskip("fsspec")
        monkeypatch.setattr("fsspec.core.url_to_fs", missing)
        with pytest.raises(MissingPackageError, match="Install s3fs to access S3"):
            placing.read_place("s3://b/x.png")

    def test_a_store_is_asked_again(self, monkeypatch):
        asked = []

        class Store:
            def cat_file(self, path):
                asked.append(path)
                if len(asked) < 3:
                    raise ConnectionError("reset")
                return b"x"

        monkeypatch.setattr(placing, "_system", lambda _: (Store(), "p"))
        monkeypatch.setattr(placing, "_PAUSES", (0.0, 0.0))
        assert (placing.read_place("s3://p"), len(asked)) == (b"x", 3)
        del asked[:]
        Store.cat_file = _raise(ConnectionError("reset"))
        with pytest.raises(placing.UnreachableError, match="reset"):
            placing.read_place("s3://p")


def _raise(error):
    def fail(*_):
        raise error

    return fail


def _job(folder, facts):
    from dataclasses import asdict

    from clip_text.embedding.manifest import Manifest
    from clip_text.embedding.shards import Reading
    from clip_text.embedding.work import Job

    manifest = Manifest(
        "x",
        **asdict(facts),
        dtype="float32",
        batch_size=2,
        threads=1,
        shard_size=4,
        shards=1,
        source={},
    )
    return Job(folder, Reading("listing"), manifest, 2, load_fake, None)


class TestReadingBack:
    def test_features_come_back_with_what_is_said(self, tmp_path, out):
        data = {"image_id": ["a", "b"], "image": [png(0), png(1)], "caption": ["狗", None]}
        pq.write_table(pa.table(data | {"tags": [["x", "y"], []]}), tmp_path / "x.parquet")
        embed_fake(tmp_path / "x.parquet", out, Local(1))
        found = read_embedded(out)
        assert (len(found.features), found.features.width) == (2, 16)
        assert found.manifest.fingerprint == "fake-1"
        first, second = found.features
        assert (first.said.captions, first.said.others) == ({"": ["狗"]}, {"tags": ["x", "y"]})
        assert (second.said.captions, second.said.others) == ({}, {})
        np.testing.assert_array_equal(first.feature, row_of(0))

    def test_float16_is_half_as_large_and_comes_back(self, folder, out):
        embed_fake(folder, out, Local(1), settings=Settings(4, 2, "float16"))
        column = pq.read_table(out / "shard-000000.parquet").column("feature")
        assert column.type == pa.list_(pa.float16(), 16)
        for one in read_embedded(out).features:
            expected = FakeEncoder().encode_file(one.picture).astype(np.float16)
            np.testing.assert_array_equal(one.feature, expected.astype(np.float32))

    def test_shards_that_are_not_all_done_are_refused(self, folder, out):
        embed_fake(folder, out, Local(1))
        (out / "done" / "shard-000001.json").unlink()
        with pytest.raises(DataError, match="got no whole shard-000001"):
            read_embedded(out)

    def test_rows_are_read_a_few_at_a_time(self, tmp_path, out):
        rows, width = 20_000, 256
        out.mkdir()
        _write_drawn(out, rows, width)
        found = read_embedded(out).features
        tracemalloc.start()
        count = sum(1 for one in found if one.feature is not None)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count == rows
        assert peak < rows * width * 4 / 3  # all of them take 20 MB


def _write_drawn(out, rows, width):
    """Write shards of drawn features, as a run leaves them."""
    from clip_text.embedding.entries import Entry
    from clip_text.embedding.manifest import Done, Facts
    from clip_text.embedding.work import _groups, _writer

    folder = Folder(out)
    manifest = _job(out, Facts("fake-1", width, "", "")).manifest
    folder.begin(manifest)
    drawn = np.random.default_rng(0).standard_normal((rows, width), np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    shard = Shard(0, ())
    entries = (Entry(f"{n}", "", None, caption=f"picture {n}") for n in range(rows))
    with _writer(folder.shard_file(shard), manifest) as write:
        for group in _groups(zip(entries, drawn, strict=True)):
            write(group)
    size = folder.shard_file(shard).stat().st_size
    folder.mark(shard, Done(0, rows, 0, 0, size))
