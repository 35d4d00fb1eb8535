"""What becomes of every kind of picture file: indexed, shown, named or passed over."""

import io
import os
import re
import shutil
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEncoder
from picture_zoo import COLOUR, COLOURS, GREYS, SVG, ZOO, Specimen, encoded, fields, heic, jpeg
from PIL import Image, features

from clip_text.images import ImageError, load_image, load_square, looks_like_picture, squash
from retrieval.ingest import index_folder
from retrieval.pictures import media_type, open_thumbnail, render_thumbnail, shown_size

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "pictures.md"
READ, PASSED_OVER = "read", "passed over"


def encoder() -> FakeEncoder:
    return FakeEncoder(load=lambda path: squash(load_image(path, min_size=8), 8))


def write(folder: Path, specimen: Specimen) -> Path:
    """Write one file, or skip where the encoder of its kind is not there."""
    path = folder / specimen.name
    try:
        path.write_bytes(specimen.write())
    except ImportError as error:
        pytest.skip(f"{specimen.name}: {error}")
    return path


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    for package in ("pillow_heif", "pylibjxl", "rawpy"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("zoo")
    for specimen in ZOO:
        write(folder, specimen)
    return folder


@pytest.fixture(scope="module")
def report(zoo, tmp_path_factory):
    return index_folder(zoo, tmp_path_factory.mktemp("index"), encoder())


def outcomes(report) -> dict[str, str]:
    reasons = {path.name: reason for path, reason in report.failures}
    passed_over = {"._camera.jpg", "paper.pdf", "clip.mp4", "notes.txt", "README"}
    return {
        specimen.name: reasons.get(
            specimen.name, PASSED_OVER if specimen.name in passed_over else READ
        )
        for specimen in ZOO
    }


def test_every_kind_of_file_is_read_named_or_no_picture(report):
    told = outcomes(report)
    assert len(told) >= 60
    assert report.ignored == list(told.values()).count(PASSED_OVER)
    assert report.added + report.duplicates == list(told.values()).count(READ)
    for specimen in ZOO:
        is_seen = bool(specimen.shows) or specimen.name == "bits.png"
        assert (told[specimen.name] == READ) == is_seen, (specimen.name, told[specimen.name])


def test_the_page_tells_what_becomes_of_each(report):
    told = outcomes(report)
    rows = ["| file | what it is | what becomes of it |", "| --- | --- | --- |"]
    for specimen in ZOO:
        # What a library says about the damage changes with its version.
        outcome = re.sub(r"damaged one \(.*\)", "damaged one (…)", told[specimen.name])
        shown = outcome if outcome in (READ, PASSED_OVER) else f"named: {outcome}"
        rows.append(f"| `{specimen.name}` | {specimen.what} | {shown} |")
    table = "\n".join(rows)
    assert table in PAGE.read_text(encoding="utf-8"), f"docs/pictures.md should hold:\n{table}"


def quadrants(image: Image.Image) -> np.ndarray:
    """The colours in the middles of the four fields, [4, 3]."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    height, width = pixels.shape[:2]
    return np.array([pixels[y * height // 4, x * width // 4] for y in (1, 3) for x in (1, 3)])


def seen_in_thumbnail(path: Path, size: int) -> Image.Image:
    with Image.open(io.BytesIO(render_thumbnail(path, size))) as opened:
        over = opened.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")


@pytest.mark.parametrize("specimen", [one for one in ZOO if one.shows], ids=lambda one: one.name)
def test_model_sheet_and_thumbnail_see_the_same_upright_picture(specimen, tmp_path):
    path = write(tmp_path, specimen)
    expected = np.array(COLOURS if specimen.shows == COLOUR else [(grey,) * 3 for grey in GREYS])
    model = load_image(path)
    sheet = open_thumbnail(path, (96, 96))
    assert sheet is not None
    thumbnail = seen_in_thumbnail(path, 96)
    square = Image.fromarray(load_square(path, 48))  # of the model, too
    for image in (model, square, load_image(path, min_size=8), sheet, thumbnail):
        assert np.abs(quadrants(image) - expected).max() <= 26, quadrants(image)
        assert image.width >= image.height
    assert shown_size(path) == model.size
    assert media_type(path).startswith("image/")
    # Everywhere, and not in the middles alone: frames are white in all three.
    small = np.asarray(model.resize(thumbnail.size, Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(small - np.asarray(thumbnail).astype(int)).mean() < 6
    assert np.abs(small - np.asarray(sheet.resize(thumbnail.size)).astype(int)).mean() < 6


MODES = (
    *("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB"),
    *("HSV", "I", "F", "I;16", "I;16B", "I;16L"),
)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_pillow_becomes_rgb(mode):
    wide = {"I": np.int32, "F": np.float32, "I;16": np.uint16}
    if mode in wide:
        image = Image.fromarray(np.full((4, 4), 200, wide[mode]))
    elif mode.startswith("I;16"):
        image = Image.new(mode, (4, 4), 200)
    elif mode == "LAB":
        image = Image.new("LAB", (4, 4))
    elif mode in ("La", "RGBa"):
        image = Image.new(mode.upper(), (4, 4)).convert(mode)
    else:
        image = fields().convert("L" if mode == "1" else "RGB").convert(mode.replace("PA", "P"))
        image = image.convert("PA") if mode == "PA" else image
    assert image.mode == mode
    assert load_image(image).mode == "RGB"


EXTRAS = {"pillow_heif": ("iphone.heic", "heic"), "pylibjxl": ("picture.jxl", "jxl"),
          "rawpy": ("camera.dng", "raw")}  # fmt: skip


@pytest.mark.parametrize("package", EXTRAS)
def test_a_missing_extra_is_named_and_the_file_tried_again(package, zoo, tmp_path, monkeypatch):
    name, extra = EXTRAS[package]
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(7):
        shutil.copy(zoo / name, folder / f"{i}-{name}")
    with monkeypatch.context() as hidden:
        hidden.setitem(__import__("sys").modules, package, None)
        first = index_folder(folder, tmp_path / "index", encoder())
    assert (first.added, first.failed) == (0, 7)
    assert f"pip install 'clip-text[{extra}]'" in first.failures[0][1]
    lines = first.lines()
    assert len(lines) == 2  # one for them all
    assert f"0-{name} and 6 more: expected the package" in lines[1]
    again = index_folder(folder, tmp_path / "index", encoder())
    assert (again.added + again.duplicates, again.failed) == (7, 0)


def test_names_that_tell_are_not_opened_and_others_once(tmp_path, monkeypatch):
    from clip_text_pictures import kinds

    for name in ("a.jpg", "b.heic", "c.txt", "d.mp4", "e.xyz", "f"):
        (tmp_path / name).write_bytes(jpeg())
    opened = []
    read_start = kinds.read_start

    def watched(path):
        opened.append(Path(path if isinstance(path, str) else path.decode()).name)
        return read_start(path)

    monkeypatch.setattr(kinds, "read_start", watched)
    report = index_folder(tmp_path, tmp_path / "index", encoder())
    assert sorted(opened) == ["e.xyz", "f"]  # though the folder is walked twice
    assert report.ignored == 2
    assert report.added + report.duplicates == 4


def test_a_wrong_ending_is_told_by_content_alone(tmp_path):
    for ending in ("heic", "svg", "dng", "tga"):
        path = tmp_path / f"wrong.{ending}"
        path.write_bytes(encoded(fields(), "PNG"))
        assert np.array_equal(np.asarray(load_image(path)), np.asarray(fields()))
        assert media_type(path) == "image/png"


def test_no_plug_in_of_pillow_beside_ours_is_tried(tmp_path, monkeypatch):
    """Pillow's registry is not asked, so nothing that was put there can be reached."""

    def refuse(*_):
        raise AssertionError("the registry of plug-ins was asked")

    monkeypatch.setattr(Image, "open", refuse)
    monkeypatch.setattr(Image, "init", refuse)
    path = tmp_path / "a.eps"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    assert open_thumbnail(path, (9, 9)) is None
    with pytest.raises(ValueError, match="EPS drawing"):
        load_image(path)
    jpg = tmp_path / "a.jpg"
    jpg.write_bytes(jpeg())
    assert load_image(jpg).size == fields().size


def test_a_heic_is_drawn_small_and_its_original_served(tmp_path):
    pytest.importorskip("pillow_heif")
    pytest.importorskip("fastapi")
    from stub_searcher import StubSearcher
    from test_api import Client, assert_error, open_picture

    from retrieval.service.app import create_app

    searcher = StubSearcher(tmp_path)
    (tmp_path / "red.png").write_bytes(heic())
    client = Client(create_app(searcher))
    original = client.get("/v1/images/0")
    assert original.headers["content-type"] == "image/heic"
    assert original.content == (tmp_path / "red.png").read_bytes()
    drawn = open_picture(client.get("/v1/images/0/thumbnail"))
    assert (drawn.format, drawn.size) == ("WEBP", fields().size)
    with pytest.MonkeyPatch.context() as hidden:
        hidden.setitem(__import__("sys").modules, "pillow_heif", None)
        response = client.get("/v1/images/0/thumbnail?size=64")
    assert_error(response, 501, "decoder_missing", "pip install 'clip-text[heic]'")


def test_this_pillow_reads_what_the_page_promises():
    for feature in ("avif", "webp", "jpg_2000", "libtiff", "zlib", "jpg"):
        assert features.check(feature), feature


@pytest.mark.parametrize(
    "name", ["a.jfif", "a.heic", "a.dng", "a.AVIF", "no ending", "a.jpg_large"]
)
def test_readers_of_data_go_by_the_same_rule(name, tmp_path):
    from clip_text.data import read_retrieval_set
    from clip_text.evaluation.labelled import read_labelled

    content = encoded(fields(), "AVIF") if name.endswith("AVIF") else jpeg()
    for folder in ("cats", "dogs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(content)
        (tmp_path / folder / name).with_suffix(".txt").write_text("一只猫", encoding="utf-8")
        (tmp_path / folder / f"._{name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    assert [path.name for path in read_labelled(tmp_path).paths] == [name, name]
    collection = read_retrieval_set(tmp_path)
    assert collection.image_ids == [f"cats/{name}", f"dogs/{name}"]
    assert load_image(collection.images[0]).size == fields().size


def test_a_drawing_among_labelled_pictures_is_named(tmp_path):
    from clip_text.errors import DataError
    from clip_text.evaluation.labelled import read_labelled

    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "a.jpg").write_bytes(jpeg())
    (tmp_path / "cats" / "b.svg").write_bytes(SVG)
    with pytest.raises(DataError, match=r"expected a kind of picture that is read.*cats/b\.svg"):
        read_labelled(tmp_path)


def test_members_of_a_tar_go_by_the_same_endings(tmp_path):
    import tarfile

    from clip_text.data import read_retrieval_set

    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for name, content in {"0.jfif": jpeg(), "0.txt": "猫".encode()}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert read_retrieval_set(tmp_path / "set.tar").image_ids == ["0"]


def test_the_command_keeps_pillows_warnings_to_itself(tmp_path):
    from clip_text_cli.main import run

    damaged = tmp_path / "a.jpg"
    damaged.write_bytes(jpeg(exif=b"Exif\0\0II*\0\xff\xff\xff\xff"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        load_image(damaged)
        assert told  # Pillow does warn
        told.clear()
        run(lambda: load_image(damaged))
    assert told == []


def test_threads_side_by_side_read_every_kind_alike(zoo):
    paths = [zoo / specimen.name for specimen in ZOO if specimen.shows]
    alone = [load_image(path).tobytes() for path in paths]
    with ThreadPoolExecutor(4) as pool:
        for together in pool.map(
            lambda _: [load_image(path).tobytes() for path in paths], range(4)
        ):
            assert together == alone


def test_a_file_of_gigabytes_is_refused_by_its_header(tmp_path, monkeypatch):
    """As scans of microscopes are, which are TIFF under endings of their own."""
    header = struct.pack("<2sHIH", b"II", 42, 8, 4)
    for tag, kind, value in ((256, 4, 100_000), (257, 4, 100_000), (262, 3, 1), (273, 4, 200)):
        header += struct.pack("<HHII", tag, kind, 1, value)
    slide = tmp_path / "slide.svs"
    slide.write_bytes(header + bytes(4))
    os.truncate(slide, 20 << 30)  # sparse: it takes no room
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("read whole"))
    assert looks_like_picture(slide)
    with pytest.raises(ImageError, match="100000 x 100000"):
        load_image(slide)
    assert shown_size(slide) is None
