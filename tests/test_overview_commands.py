"""``clip-text index duplicates``, ``map`` and ``stats``, as people call them."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEncoder
from PIL import Image
from test_overview import smooth

from clip_text_cli.drawing.counts import draw_counts
from clip_text_cli.drawing.map import draw_map
from retrieval.catalogue import Catalogue
from retrieval.ingest import IndexWriter, index_folder
from retrieval.overview import PictureMap
from retrieval.records import Picture, Record

ENCODER = FakeEncoder()


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "照片"
    for seed in range(6):
        smooth(folder / f"{seed}.png", seed)
    smooth(folder / "small" / "0.png", 0, (32, 32))
    shutil.copy(folder / "1.png", folder / "small" / "1.png")
    lines = [{"file_name": "0.png", "text": "一只狗", "tags": ["海边"]}]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def index_dir(photos, tmp_path):
    index_folder(photos, tmp_path / "index", ENCODER)
    return tmp_path / "index"


@pytest.fixture
def empty(tmp_path):
    with IndexWriter.open(tmp_path / "empty", fingerprint="x", embed_dim=1):
        pass
    return tmp_path / "empty"


def rgb(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_duplicates_are_told_and_drawn(run, index_dir, photos, tmp_path):
    sheet = tmp_path / "drawn" / "sheet.png"
    code, out, err = run("index", "duplicates", "--index", index_dir, "--sheet", sheet)
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    kept = [line for line in lines if line[0] == "keep"]
    assert [(line[1], Path(line[-1]).name) for line in kept] == [
        ("64×64", kept[0][-1].rpartition("/")[2]),
        ("64×64", kept[1][-1].rpartition("/")[2]),
    ]
    assert "same file" in out
    assert "2 of 8 pictures could go, " in out
    assert f"drawn in {sheet}" in err
    # two groups of two, side by side
    assert rgb(sheet).shape[1] == 2 * 36 + 4 * 200 + 3 * 20


def test_duplicates_as_json(run, index_dir, photos):
    (photos / "1.png").unlink()
    _, out, _ = run("index", "duplicates", "--index", index_dir, "--json")
    told = json.loads(out)
    small = (photos / "small" / "0.png").stat().st_size
    assert (told["at"], told["pictures"]) == (0.9, 8)
    assert told["could_go"] == {"pictures": 1, "bytes": small}
    assert told["missing"] == [str(photos / "1.png")]
    (group,) = told["groups"]
    assert group["keep"]["path"] == str(photos / "0.png")
    (copy,) = group["copies"]
    assert (copy["image_id"], copy["same_file"], copy["width"]) == ("small/0.png", False, 32)
    assert 0.95 <= copy["cosine"] <= 1.0
    _, out, _ = run("index", "duplicates", "--index", index_dir, "--json", "--features-only")
    assert json.loads(out) == {**told, "at": 0.95}
    _, out, err = run("index", "duplicates", "--index", index_dir)
    assert "1 of these files are missing" in err
    smooth(photos / "small" / "0.png", 99)
    _, out, err = run("index", "duplicates", "--index", index_dir, "--json")
    assert json.loads(out)["changed"] == [str(photos / "small" / "0.png")]
    _, out, err = run("index", "duplicates", "--index", index_dir)
    assert "1 of these files were written since they were indexed" in err


def test_many_groups_are_cut_short(run, tmp_path):
    for seed in range(25):
        smooth(tmp_path / "p" / f"{seed}.png", seed)
        shutil.copy(tmp_path / "p" / f"{seed}.png", tmp_path / "p" / f"{seed}-copy.png")
    index_folder(tmp_path / "p", tmp_path / "index", ENCODER)
    _, out, _ = run("index", "duplicates", "--index", tmp_path / "index")
    assert out.count("keep") == 20
    assert "and 5 more groups" in out


@pytest.mark.parametrize("words", [("duplicates",), ("stats",)])
def test_nothing_in_an_index_is_no_error(run, empty, words):
    code, out, _ = run("index", *words, "--index", empty)
    assert code == 0
    assert "0 of 0 pictures" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("duplicates", "--at", "0"), "expected a cosine above 0"),
        (("duplicates", "--sheet", "a.doc"), "expected a sheet's name"),
        (("duplicates", "--where", "yaer = 1"), "expected a field that some picture has"),
        (("stats", "--where", "year ="), "expected"),
        (("stats", "--figure", "a.doc"), "expected a picture's name"),
        (("map",), "expected a file to draw into"),
        (("map", "a.doc"), "expected a picture's name"),
        (("map", "a.png", "--color-by", "yaer"), "expected a field that some picture has"),
        (("map", "a.png", "--where", 'path = "none"'), "expected pictures to place, got none"),
        (("map", "a.png", "--sample", "0"), "Invalid value for '--sample'"),
    ],
)
def test_what_cannot_be_told_is_refused(run, index_dir, tmp_path, words, told):
    with contextlib.chdir(tmp_path):
        code, out, err = run("index", *words, "--index", index_dir)
    assert (code in {1, 2}, out) == (True, "")
    assert told in " ".join(err.replace("│", "").split())
    assert not list(tmp_path.glob("a.*"))


@pytest.mark.parametrize("words", ["map", "duplicates --sheet", "stats --figure"])
def test_what_could_not_be_drawn_is_refused_before_the_work(run, tmp_path, words):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    none = ("--index", tmp_path / "none")  # the work would miss it
    for place, told in [
        ("folder.png", f"expected a file to write at {tmp_path / 'folder.png'}, got a folder. "),
        ("file/a/b.png", f"expected a folder at {tmp_path / 'file'}, got a file. "),
    ]:
        code, _, err = run("index", *words.split(), tmp_path / place, *none)
        assert code == 1
        assert told in err.replace("\n", " ")
    code, _, err = run("index", *words.split(), tmp_path / "new" / "a" / "b.png", *none)
    assert "expected an index" in err
    assert not (tmp_path / "new").exists()


def test_statistics_are_told_and_drawn(run, index_dir, tmp_path):
    figure = tmp_path / "drawn" / "stats.png"
    code, out, err = run("index", "stats", "--index", index_dir, "--figure", figure)
    assert code == 0
    said = " ".join(out.split())
    for words in (
        *("pictures 8", ".png (8)", "64 × 64 (7)", "1 files equal to another"),
        *("1 of 8 pictures", "Han (1)", "tags: 1 pictures, 1 values (texts)"),
        *("(top) (6)", "small (2)", "effective of 16"),
    ):
        assert words in said, words
    assert "drawn in" in err
    assert rgb(figure).std() > 5
    _, out, _ = run("index", "stats", "--index", index_dir, "--json")
    told = json.loads(out)
    assert (told["pictures"], told["kinds"], told["same"]) == (8, {".png": 8}, 1)
    assert told["fields"] == [{"name": "tags", "kinds": ["texts"], "pictures": 1, "values": 1}]


def test_counts_are_drawn_whatever_there_is(tmp_path):
    draw_counts({}, tmp_path / "none.png", title="0 pictures")
    draw_counts({"a": {}, "b": {"名字" * 40: 3, r"$\frac$": 1}}, tmp_path / "one.png", title="3")
    assert rgb(tmp_path / "one.png").std() > rgb(tmp_path / "none.png").std()


@pytest.mark.parametrize("ending", ["jpg", "svg"])
def test_a_map_is_drawn(run, index_dir, tmp_path, ending):
    drawn = tmp_path / "drawn" / f"map.{ending}"
    code, out, err = run("index", "map", drawn, "--index", index_dir, "--color-by", "folder")
    assert (code, out) == (0, "")
    assert drawn.stat().st_size > 1000
    assert f"drawn in {drawn}" in "".join(err.splitlines())


def test_a_map_is_the_same_again_and_a_sample_is_told(run, index_dir, tmp_path):
    for name in ("a.png", "b.png"):
        _, _, err = run("index", "map", tmp_path / name, "--index", index_dir, "--sample", "5")
        assert "5 of 8 pictures, drawn at random" in err
    assert (rgb(tmp_path / "a.png") == rgb(tmp_path / "b.png")).all()


def test_places_as_json(run, index_dir):
    code, out, _ = run("index", "map", "--index", index_dir, "--json", "--color-by", "tags")
    told = json.loads(out)
    assert (code, told["total"], len(told["pictures"])) == (0, 8, 8)
    assert all(0 <= each["x"] <= 1 and 0 <= each["y"] <= 1 for each in told["pictures"])
    by_id = {each["image_id"]: each for each in told["pictures"]}
    assert (by_id["0.png"]["value"], by_id["2.png"]["value"]) == ("海边", None)
    where = [(by_id[name]["x"], by_id[name]["y"]) for name in ("1.png", "small/1.png")]
    assert where[0] == where[1]


# The picture itself


def record(row, path):
    return Record(row, Picture(None, os.fsencode(path), str(row), 1, 0, None, 9, 9, None, "{}"))


def solid(path, colour):
    Image.new("RGB", (300, 300), colour).save(path)
    return path


def test_thumbnails_stand_where_their_features_lie(tmp_path):
    colours = {"red": (0.1, 0.1), "lime": (0.9, 0.1), "blue": (0.1, 0.9)}
    records = [record(i, solid(tmp_path / f"{c}.png", c)) for i, c in enumerate(colours)]
    positions = np.array(list(colours.values()), np.float32)
    shown = draw_map(PictureMap(records, positions, 3), tmp_path / "map.png")
    picture = rgb(tmp_path / "map.png")
    assert (shown, picture.shape) == (3, (320, 320, 3))  # two squares of 160 pixels
    assert picture[80, 80].tolist() == [255, 0, 0]
    assert picture[80, 240].tolist() == [0, 255, 0]
    assert picture[240, 80].tolist() == [0, 0, 255]
    assert picture[240, 240].tolist() == [255, 255, 255]
    assert picture[1, 1].tolist() == [255, 255, 255]


def test_of_several_in_a_square_the_commonest_colour_and_the_nearest_is_shown(tmp_path):
    files = [solid(tmp_path / f"{i}.png", (i * 40, 0, 0)) for i in range(4)]
    records = [record(i, file) for i, file in enumerate(files)]
    places = [[0.17, 0.17], [0.1, 0.1], [0.2, 0.2], [0.9, 0.9]]  # the middle is at a sixth
    positions = np.array(places, np.float32)
    draw_map(PictureMap(records, positions, 4), tmp_path / "map.png")
    picture = rgb(tmp_path / "map.png")
    side = picture.shape[0] // 3
    assert picture[side // 2, side // 2].tolist() == [0, 0, 0]
    values = ["a", "b", "b", "c"]
    draw_map(PictureMap(records, positions, 4, values), tmp_path / "map.png", "letters")
    picture = rgb(tmp_path / "map.png")
    assert picture[side // 2, side // 2].tolist() == [80, 0, 0]
    assert picture[side // 2, 1].tolist() == [0x1F, 0x77, 0xB4]  # the commonest value's


def test_what_cannot_be_shown_makes_way_or_is_grey(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"broken")
    records = [
        record(0, tmp_path / "gone.png"),
        record(1, solid(tmp_path / "red.png", "red")),
        record(2, tmp_path / "broken.png"),
    ]
    positions = np.array([[0.25, 0.25], [0.1, 0.1], [0.75, 0.75]], np.float32)
    draw_map(PictureMap(records, positions, 3), tmp_path / "map.png")
    picture = rgb(tmp_path / "map.png")
    assert picture[80, 80].tolist() == [255, 0, 0]
    assert picture[240, 240].tolist() == [0xD5, 0xD8, 0xDD]


@pytest.mark.parametrize(
    "values",
    [
        [float(i) for i in range(30)],
        [None, *range(29)],
        [-1.7e308, 1.7e308, *range(28)],
        [None] * 30,
        [True, False, 1, "true", None] * 6,
        [f"名字 {i} " + "长" * 100 for i in range(30)],
        [r"$\frac$", "$", "$x$"] * 10,
    ],
)
def test_values_of_any_kind_have_colours(tmp_path, values):
    red = solid(tmp_path / "red.png", "red")
    positions = np.random.default_rng(0).random((30, 2)).astype(np.float32)
    placed = PictureMap([record(i, red) for i in range(30)], positions, 30, values)
    assert draw_map(placed, tmp_path / "map.png", "字段") > 10
    picture = rgb(tmp_path / "map.png")
    assert picture.shape[1] > picture.shape[0]


def test_neither_torch_nor_matplotlib_is_loaded_for_counts(index_dir):
    root = Path(__file__).parents[1]
    for words in (["duplicates"], ["stats"]):
        code = (
            "import sys; from clip_text_cli.main import main\n"
            f"sys.argv[1:] = {['index', *words, '--index', str(index_dir)]!r}\n"
            "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
            "heavy = {'torch', 'transformers', 'open_clip', 'matplotlib', 'sklearn'}\n"
            "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_a_writer_may_be_at_work(run, index_dir):
    with Catalogue.open_for_writing(index_dir) as catalogue, catalogue.transaction():
        catalogue.remove([1])
        for words in (["duplicates"], ["stats"], ["map", "--json"]):
            code, out, _ = run("index", *words, "--index", index_dir)
            assert (code, "8" in out) == (0, True)
