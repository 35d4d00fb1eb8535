"""A collection as a whole: duplicates, places on a map, statistics; from Python."""

import contextlib
import os
import re
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEncoder, save_picture
from older_catalogues import as_schema_1
from PIL import Image

from retrieval.catalogue import CATALOGUE_NAME, Catalogue, Field
from retrieval.errors import CorruptIndexError, IndexNotFoundError, QueryError
from retrieval.filters import Compare
from retrieval.filters.language import parse_where
from retrieval.index import leaders
from retrieval.ingest import IndexWriter, index_folder
from retrieval.overview import find_duplicates, map_pictures, take_statistics
from retrieval.overview.layout import place, values_by
from retrieval.overview.statistics import FeatureSummary, Spread
from retrieval.records import displayed

WIDTH = 16
ENCODER = FakeEncoder(WIDTH)


def unit(angle):
    """A unit row at an angle, in degrees, in the plane of the first two dimensions."""
    row = np.zeros(WIDTH, np.float32)
    row[:2] = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return row


def smooth(path, seed, size=(64, 64)):
    """A picture that keeps its features when its size changes."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small).resize(size, Image.Resampling.NEAREST).save(path)
    return path


def names(found):
    """Of each group the id of the best, and of its copies."""
    return [
        (group.best.picture.image_id, [copy.record.picture.image_id for copy in group.copies])
        for group in found.groups
    ]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for seed in range(4):
        smooth(folder / f"{seed}.png", seed)
    smooth(folder / "small" / "0.png", 0, (32, 32))
    shutil.copy(folder / "1.png", folder / "small" / "1.png")
    return folder


@pytest.fixture
def index_dir(photos, tmp_path):
    index_folder(photos, tmp_path / "index", ENCODER)
    return tmp_path / "index"


@pytest.fixture
def empty(tmp_path):
    with IndexWriter.open(tmp_path / "empty", fingerprint="x", embed_dim=WIDTH):
        pass
    return tmp_path / "empty"


# duplicates


def test_the_largest_is_kept_and_equal_files_are_told(index_dir, photos):
    found = find_duplicates(index_dir)
    assert sorted(names(found)) == [("0.png", ["small/0.png"]), ("1.png", ["small/1.png"])]
    same = {group.best.picture.image_id: group.copies[0].is_same for group in found.groups}
    assert same == {"0.png": False, "1.png": True}
    assert (found.pictures, found.extra_pictures, found.gone) == (6, 2, [])
    sizes = [(photos / "small" / name).stat().st_size for name in ("0.png", "1.png")]
    assert found.extra_bytes == sum(sizes)
    assert [group.extra_bytes for group in found.groups] == sorted(sizes, reverse=True)


def test_at_1_only_what_has_equal_features(index_dir):
    (group,) = find_duplicates(index_dir, 1.0).groups
    assert group.best.picture.image_id == "1.png"
    assert [(copy.cosine, copy.is_same) for copy in group.copies] == [(1.0, True)]


def test_among_some_pictures_only(index_dir):
    found = find_duplicates(index_dir, where=parse_where('path startswith "small/"'))
    assert (found.pictures, found.groups) == (2, [])


def test_of_equal_pictures_most_bytes_then_the_oldest_is_kept(tmp_path):
    folder = tmp_path / "p"
    first = smooth(folder / "a.png", 1)
    for name, mtime in (("a.png", 1_500_000_000), ("b.png", 2e9), ("c.png", 1e9)):
        if name != "a.png":
            shutil.copy(first, folder / name)
        os.utime(folder / name, (mtime, mtime))
    with Image.open(first) as picture:
        picture.save(folder / "d.bmp")  # the same pixels in more bytes
    index_folder(folder, tmp_path / "index", ENCODER)
    assert names(find_duplicates(tmp_path / "index")) == [("d.bmp", ["a.png", "b.png", "c.png"])]
    (folder / "d.bmp").unlink()
    index_folder(folder, tmp_path / "index", ENCODER)
    assert names(find_duplicates(tmp_path / "index")) == [("c.png", ["a.png", "b.png"])]


def test_files_that_are_gone_are_neither_kept_nor_counted(index_dir, photos):
    (photos / "0.png").unlink()
    (photos / "small" / "1.png").unlink()
    found = find_duplicates(index_dir)
    assert found.groups == []
    gone = sorted(record.picture.image_id for record in found.gone)
    assert (gone, found.pictures) == (["0.png", "small/1.png"], 6)


def test_what_was_kept_and_is_gone_leaves_its_group_to_the_next(tmp_path):
    folder = tmp_path / "p"
    for size in (96, 64, 32):
        smooth(folder / f"{size}.png", 1, (size, size))
    index_folder(folder, tmp_path / "index", ENCODER)
    assert names(find_duplicates(tmp_path / "index")) == [("96.png", ["64.png", "32.png"])]
    (folder / "96.png").unlink()
    assert names(find_duplicates(tmp_path / "index")) == [("64.png", ["32.png"])]


def test_a_chain_is_parted_and_each_copy_is_near_what_is_kept(empty):
    with IndexWriter.open(empty) as writer:
        for angle in (0, 10, 20, 30):
            writer.add(f"{angle}", feature=unit(angle))
    found = find_duplicates(empty, float(np.cos(np.radians(12))))
    assert names(found) == [("0", ["10"]), ("20", ["30"])]
    assert found.groups[0].copies[0].cosine == pytest.approx(np.cos(np.radians(10)), abs=1e-4)


def test_a_file_is_never_a_copy_of_itself(photos, index_dir):
    with IndexWriter.open(index_dir, ENCODER) as writer:
        writer.add("mine", path=photos / "2.png")
    assert {best for best, _ in names(find_duplicates(index_dir))} == {"0.png", "1.png"}


def test_links_are_no_copies_of_what_they_lead_to(tmp_path):
    folder = tmp_path / "p"
    real = smooth(folder / "m" / "real.png", 1)
    (folder / "a.png").symlink_to(real)
    (folder / "z.png").symlink_to(real)
    os.link(real, folder / "n.png")
    index_folder(folder, tmp_path / "index", ENCODER)
    with IndexWriter.open(tmp_path / "index", ENCODER) as writer:
        (tmp_path / "way").symlink_to(folder)
        writer.add("over", path=tmp_path / "way" / "m" / "real.png")
    assert find_duplicates(tmp_path / "index").groups == []
    smooth(folder / "b.png", 1, (32, 32))
    index_folder(folder, tmp_path / "index", ENCODER)
    (group,) = find_duplicates(tmp_path / "index").groups
    assert (group.best.path, len(group.copies)) == (real, 1)
    assert group.extra_bytes == (folder / "b.png").stat().st_size


def test_files_written_since_they_were_indexed_are_in_no_group(index_dir, photos):
    smooth(photos / "small" / "1.png", 77)
    os.utime(photos / "0.png", ns=(0, 10**18))
    found = find_duplicates(index_dir)
    assert (found.groups, found.gone) == ([], [])
    assert [record.picture.image_id for record in found.changed] == ["0.png", "small/1.png"]


def test_what_has_no_file_is_kept_only_where_nothing_has_one(photos, index_dir):
    with IndexWriter.open(index_dir, ENCODER) as writer:
        writer.add("bytes", data=(photos / "2.png").read_bytes())
    found = find_duplicates(index_dir)
    assert ("2.png", ["bytes"]) in names(found)
    assert [g.extra_bytes for g in found.groups if g.best.picture.image_id == "2.png"] == [0]


def test_what_changes_while_features_are_compared_is_left_out(index_dir, photos, monkeypatch):
    real = leaders.find_leaders

    def and_meanwhile(*arguments, **more):
        (photos / "small" / "1.png").unlink(missing_ok=True)
        smooth(photos / "0.png", 99)
        index_folder(photos, index_dir, ENCODER)
        return real(*arguments, **more)

    monkeypatch.setattr("retrieval.overview.duplicates.find_leaders", and_meanwhile)
    assert find_duplicates(index_dir, pixels=False).groups == []


def painted(path, pixels, size=(64, 64)):
    """A picture of 8 × 8 squares."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).resize(size, Image.Resampling.NEAREST).save(path)


def of_features(tmp_path, **features):
    """An index of pictures in ``tmp_path`` with these features, whatever they show."""
    index_dir = tmp_path / "made"
    with IndexWriter.open(index_dir, fingerprint="x", embed_dim=WIDTH) as writer:
        for name, feature in features.items():
            path = tmp_path / f"{name}.png"
            writer.add(name, feature=feature, path=path if path.exists() else None)
    return index_dir


def test_near_features_are_not_enough_where_pixels_differ(tmp_path):
    rng = np.random.default_rng(0)
    first, second = rng.integers(40, 200, (2, 8, 8, 3))
    painted(tmp_path / "a.png", first, (96, 96))
    painted(tmp_path / "b.png", second)
    painted(tmp_path / "c.png", 0.8 * first + 30)  # brighter, and of less contrast
    index_dir = of_features(tmp_path, a=unit(0), b=unit(2), c=unit(20))
    assert names(find_duplicates(index_dir)) == [("a", ["c"])]
    assert names(find_duplicates(index_dir, pixels=False)) == [("a", ["b"])]  # cos 20° < 0.95
    assert names(find_duplicates(index_dir, 0.95)) == []
    told = []
    find_duplicates(index_dir, on_progress=lambda *done: told.append(done))
    assert told == [("comparing", 3, 3), ("reading", 3, 3)]


def test_a_picture_follows_one_it_looks_like_though_another_is_nearer(tmp_path):
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 256, (2, 8, 8, 3))
    painted(tmp_path / "a.png", first, (96, 96))
    painted(tmp_path / "b.png", second, (80, 80))
    painted(tmp_path / "c.png", first, (64, 64))
    index_dir = of_features(tmp_path, a=unit(0), b=unit(12), c=unit(8))
    assert names(find_duplicates(index_dir)) == [("a", ["c"])]


def test_one_colour_and_no_picture_are_judged_by_features(tmp_path):
    painted(tmp_path / "white.png", np.full((8, 8, 3), 255))
    painted(tmp_path / "blank.png", np.full((8, 8, 3), 254))
    (tmp_path / "broken.png").write_bytes(b"broken")
    near, nearer = unit(22), unit(10)  # cosines 0.927 and 0.985 to 0°
    for other in ("blank", "broken", "item"):
        for feature, copies in ((near, 0), (nearer, 1)):
            index_dir = of_features(tmp_path, white=unit(0), **{other: feature})
            assert find_duplicates(index_dir).extra_pictures == copies, other
            shutil.rmtree(index_dir)
    red, blue = np.zeros((2, 8, 8, 3))
    red[..., 0], blue[..., 2] = 255, 255
    painted(tmp_path / "red.png", red)
    painted(tmp_path / "blue.png", blue)
    assert find_duplicates(of_features(tmp_path, red=unit(0), blue=unit(1))).groups == []


@pytest.mark.parametrize("at", [0.0, -0.5, 1.1, float("nan")])
def test_what_is_no_cosine_is_refused(index_dir, at):
    with pytest.raises(QueryError, match="expected a cosine above 0"):
        find_duplicates(index_dir, at)


# the map


def test_what_looks_alike_lies_together():
    rng = np.random.default_rng(0)
    centres = np.eye(WIDTH)[:3]
    of = np.arange(90) % 3
    rows = centres[of] + 0.1 * rng.standard_normal((90, WIDTH))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    places = place(rows)
    assert places.shape == (90, 2)
    assert places.min() >= 0.0
    assert places.max() <= 1.0
    assert np.ptp(places, axis=0).max() == pytest.approx(1.0, abs=1e-6)
    middles = np.stack([places[of == i].mean(axis=0) for i in range(3)])
    nearest = np.linalg.norm(places[:, None] - middles, axis=2).argmin(axis=1)
    assert (nearest == of).all()
    assert np.array_equal(place(rows), places)


def test_equal_rows_lie_in_one_place():
    places = place(np.stack([unit(0)] * 30))
    assert places.tolist() == [[0.5, 0.5]] * 30
    places = place(np.stack([unit(0), unit(90), unit(0)]))
    assert places[0].tolist() == places[2].tolist() != places[1].tolist()


@pytest.mark.parametrize("count", [1, 2, 3, 9, 10, 11])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_few_rows_and_narrow_ones_are_placed(count, width):
    rows = np.random.default_rng(count).standard_normal((count, width))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    places = place(rows)
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()
    assert (places >= 0).all()
    assert (places <= 1).all()


def test_a_sample_is_drawn_of_more_and_is_the_same_again(index_dir):
    placed = map_pictures(index_dir, sample=3)
    assert (len(placed.records), placed.positions.shape, placed.total) == (3, (3, 2), 6)
    again = map_pictures(index_dir, sample=3)
    assert (again.records, again.positions.tolist()) == (
        placed.records,
        placed.positions.tolist(),
    )
    drawn = {
        tuple(r.row for r in map_pictures(index_dir, sample=3, seed=s).records) for s in range(3)
    }
    assert len(drawn) > 1


def test_a_map_of_some_pictures_with_a_field(index_dir):
    placed = map_pictures(index_dir, parse_where('folder = "small"'), field="folder")
    assert [record.picture.image_id for record in placed.records] == ["small/0.png", "small/1.png"]
    assert (placed.total, placed.values) == (2, ["small", "small"])


def test_what_cannot_be_placed_is_refused(index_dir, empty, tmp_path):
    with pytest.raises(QueryError, match="expected pictures to place, got none"):
        map_pictures(empty)
    with pytest.raises(QueryError, match="expected a sample of at least 1, got 0"):
        map_pictures(index_dir, sample=0)
    with pytest.raises(QueryError, match="expected a field that some picture has, got flder"):
        map_pictures(index_dir, field="flder")
    with pytest.raises(IndexNotFoundError):
        map_pictures(tmp_path / "none")


def test_one_value_of_each_picture(empty, tmp_path):
    tagged = [["狗", "海边"], ["海边"], [], "狗", ["狗", "海边"], ["海边"]]
    with IndexWriter.open(empty) as writer:
        for i, tags in enumerate(tagged):
            writer.add(f"{i}", feature=unit(0), metadata={"tags": tags, "n": i} if tags else {})
    with Catalogue.open(empty) as catalogue:
        records = list(catalogue)
    assert values_by(records, "tags") == ["海边", "海边", None, "狗", "海边", "海边"]
    assert values_by(records, "n") == [0, 1, None, 3, 4, 5]
    assert values_by(records, "root") == [None] * 6
    picture = save_picture(tmp_path / "p" / "a.png", 1)
    os.utime(picture, (1_714_521_600, 1_714_521_600))  # 2024-05-01
    index_folder(tmp_path / "p", tmp_path / "index", ENCODER)
    with Catalogue.open(tmp_path / "index") as catalogue:
        records = list(catalogue)
    assert values_by(records, "date") == [2024]
    assert values_by(records, "root") == [displayed(os.fsencode(tmp_path / "p"))]


# statistics


@pytest.fixture
def described(tmp_path):
    folder = tmp_path / "d"
    for name, size, moment in (
        ("a.png", (20, 10), 1_704_067_200),  # 2024-01-01
        ("b.JPG", (10, 20), 1_706_745_600),  # 2024-02-01
        ("in/c.png", (10, 10), 1_706_745_601),
        ("in/d.png", (1000, 700), 1_706_745_602),
    ):
        os.utime(save_picture(folder / name, len(name), size), (moment, moment))
    (folder / "broken.png").write_bytes(b"broken")
    (folder / "also.png").write_bytes(b"broken")
    (folder / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "text": "一只狗", "tags": ["x", "y"], "n": 1, "date": "q"}\n'
        '{"file_name": "b.JPG", "text": "いぬとねこ", "tags": ["x"], "n": "one"}\n'
        '{"file_name": "in/c.png", "text": "a dog on the beach"}\n',
        encoding="utf-8",
    )
    index_folder(folder, tmp_path / "index", ENCODER)
    return tmp_path / "index"


def test_what_is_counted(described, tmp_path):
    told = take_statistics(described)
    sizes = sorted(path.stat().st_size for path in (tmp_path / "d").rglob("*.*") if is_good(path))
    assert told.pictures == 4
    assert told.roots == {displayed(os.fsencode(tmp_path / "d")): 4}
    assert told.folders == {"": 2, "in": 2}
    assert told.kinds == {".png": 3, ".jpg": 1}
    assert told.file_bytes == Spread(sizes[0], (sizes[1] + sizes[2]) / 2, sizes[3], sum(sizes))
    assert told.same == 0
    assert told.megapixels == {"below 0.1": 3, "0.1 to 0.5": 0, "0.5 to 1": 1}
    assert told.sizes == {"10 × 10": 1, "10 × 20": 1, "1000 × 700": 1, "20 × 10": 1}
    assert told.shapes == {"lying": 2, "square": 1, "upright": 1}
    assert (told.first, told.last) == ("2024-01-01T00:00:00Z", "2024-02-01T00:00:02Z")
    assert told.months == {"2024-01": 1, "2024-02": 3}
    assert told.captioned == 3
    assert told.caption_lengths == {"1 to 5": 2, "6 to 10": 0, "11 to 20": 1}
    assert told.caption_length == Spread(3, 5, 18, 26)
    assert told.scripts == {"Han": 1, "Kana": 1, "Latin": 1}
    assert told.fields == [
        Field("metadata.date", ("texts",), 1, 1),
        Field("n", ("numbers", "texts"), 2, 2),
        Field("tags", ("texts",), 2, 2),
    ]
    assert list(told.failures.values()) == [2]


def is_good(path):
    return path.suffix in {".png", ".JPG"} and path.stem not in {"broken", "also"}


def test_some_pictures_are_counted(described):
    told = take_statistics(described, Compare("folder", "=", ""))
    assert (told.pictures, told.kinds, told.captioned) == (2, {".jpg": 1, ".png": 1}, 2)
    told = take_statistics(described, parse_where('tags = "y"'))
    assert told.fields == [
        Field("metadata.date", ("texts",), 1, 1),
        Field("n", ("numbers",), 1, 1),
        Field("tags", ("texts",), 1, 2),
    ]
    assert take_statistics(described, parse_where('folder = "none"')).features is None


def test_how_features_lie(empty):
    with IndexWriter.open(empty) as writer:
        for i, angle in enumerate((0, 90, 180, 270)):
            writer.add(f"{i}", feature=unit(angle))
    # the mean is 0; of two different ones a third are opposite, the others at right angles
    assert take_statistics(empty).features == FeatureSummary(
        WIDTH,
        pytest.approx(0.0, abs=1e-3),
        pytest.approx(-1 / 3, abs=1e-3),
        pytest.approx(2.0, abs=1e-3),
    )
    one = take_statistics(empty, Compare("path", "=", "1")).features
    assert one == FeatureSummary(WIDTH, pytest.approx(1.0, abs=1e-6), None, 0.0)
    with IndexWriter.open(empty) as writer:
        writer.delete(["2", "3"])
    # two rows at right angles: both at 45° to the mean, spread in one direction
    assert take_statistics(empty).features == FeatureSummary(
        WIDTH,
        pytest.approx(0.5**0.5, abs=1e-3),
        pytest.approx(0.0, abs=1e-3),
        pytest.approx(1.0, abs=1e-3),
    )


def test_an_index_of_before_is_looked_at_too(described):
    told = take_statistics(described)
    groups, placed = find_duplicates(described).groups, map_pictures(described, field="tags")
    as_schema_1(described)
    assert take_statistics(described) == told
    assert find_duplicates(described).groups == groups
    assert map_pictures(described, field="tags").values == placed.values


def test_pictures_without_features_are_told(index_dir):
    with contextlib.closing(sqlite3.connect(index_dir / CATALOGUE_NAME)) as database, database:
        database.execute("DELETE FROM features WHERE row = 1")
    with pytest.raises(CorruptIndexError, match="index verify --repair"):
        find_duplicates(index_dir, where=parse_where("width > 1"))
    assert len(map_pictures(index_dir, parse_where("width > 1")).records) == 5


def test_equal_files_and_items_are_told(index_dir):
    with IndexWriter.open(index_dir, ENCODER) as writer:
        writer.add("item", feature=unit(3))
    told = take_statistics(index_dir)
    assert told.same == 1
    assert told.roots["(items of no folder)"] == 1
    assert told.kinds == {".png": 6, "(no file)": 1}


def test_files_of_several_pictures_are_counted_once(index_dir, photos):
    before = take_statistics(index_dir)
    with IndexWriter.open(index_dir, ENCODER) as writer:
        writer.add("again", path=photos / "0.png")
        writer.add("of a tar", data=(photos / "0.png").read_bytes())
    told = take_statistics(index_dir)
    assert told.pictures == before.pictures + 2
    assert (told.same, told.file_bytes) == (before.same, before.file_bytes)


def test_an_empty_index_is_told_of(empty):
    told = take_statistics(empty)
    assert (told.pictures, told.features, told.first, told.fields) == (0, None, None, [])
    assert find_duplicates(empty).groups == []


def test_pictures_that_are_all_the_same(tmp_path):
    first = smooth(tmp_path / "p" / "0.png", 0)
    for i in range(1, 15):
        shutil.copy(first, tmp_path / "p" / f"{i}.png")
    index_folder(tmp_path / "p", tmp_path / "index", ENCODER)
    (group,) = find_duplicates(tmp_path / "index").groups
    assert (len(group.copies), all(copy.is_same for copy in group.copies)) == (14, True)
    told = take_statistics(tmp_path / "index")
    assert told.same == 14
    assert told.features.effective_dimensions == 0.0
    assert told.features.pair_cosine == pytest.approx(1.0, abs=1e-5)
    assert map_pictures(tmp_path / "index").positions.tolist() == [[0.5, 0.5]] * 15


def test_the_examples_of_the_page_run(index_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    index_dir.rename("photos.index")
    page = Path(__file__).parents[1] / "docs" / "looking.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        exec(compile(block, str(page), "exec"), {})
    assert blocks
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3  # two groups, and how much could go
    assert printed[-1].startswith("2 ")
