"""Text that stands in pictures, drawn here in several fonts and sizes, found among photographs."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
from fakes import FakeEncoder, save_picture
from PIL import Image, ImageDraw, ImageFont

from retrieval.errors import MissingPackageError
from retrieval.ingest import index_folder, recognise_texts
from retrieval.ingest.rapidocr import RapidReader
from retrieval.search import Searcher
from retrieval.sheet.fonts import find_font

PHOTOS = Path(__file__).parents[1] / "retrieval" / "gallery" / "photos"

TEXTS = (
    *("小心地滑", "今日特价", "营业时间", "禁止吸烟", "宫保鸡丁", "北京西站", "图书馆", "欢迎光临"),
    *("EXIT", "Coffee House", "Platform 7", "Sale 50%", "WET FLOOR", "Invoice 20417"),
    *("停车场 P2", "WiFi 密码", "2024 年会", "豆浆 Soy Milk", "地铁 Line 10", "电话 62785001"),
)
COLOURS = (("white", "black"), ("#1c4e80", "white"), ("#f2d16b", "#7a1f1f"), ("#333333", "#e8e8e8"))


def fonts():
    """Fonts that can write Chinese: the system's, and those that matplotlib's package has."""
    found = [find_font()]
    if spec := importlib.util.find_spec("mplfonts"):
        folder = Path(spec.origin).parent / "fonts"
        found += [folder / "NotoSerifCJKsc-Regular.otf", folder / "SimHei.ttf"]
    return [each for each in found if each and each.is_file()]


def draw(path, text, font, size, colours):
    paper, ink = colours
    picture = Image.new("RGB", (480, 360), paper)
    written = ImageFont.truetype(str(font), size)
    ImageDraw.Draw(picture).text((240, 180), text, ink, written, anchor="mm")
    picture.save(path, quality=85)


@pytest.fixture(scope="module")
def reader():
    pytest.importorskip("rapidocr_onnxruntime")
    return RapidReader()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'clip-text\[ocr\]'"):
        RapidReader()


def test_a_picture_is_read_as_people_see_it(reader, tmp_path):
    if not fonts():
        pytest.skip("no font here can write Chinese")
    path = tmp_path / "a.png"
    draw(path, "小心地滑", fonts()[0], 48, COLOURS[0])
    assert reader(path) == "小心地滑"
    # a camera held upright: the file has it lying, and says so
    turned = Image.open(path).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert reader(tmp_path / "turned.jpg") == "小心地滑"
    # nothing but ink on what is transparent
    clear = Image.new("RGBA", (480, 360), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), mask=Image.open(path).convert("L").point(lambda at: 255 - at))
    clear.save(tmp_path / "clear.png")
    assert reader(tmp_path / "clear.png") == "小心地滑"
    assert reader(save_picture(tmp_path / "noise.png", 1, (64, 48))) == ""
    (tmp_path / "text.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="another picture, got text"):
        reader(tmp_path / "text.png")


@pytest.mark.slow
def test_pictures_are_found_by_the_words_in_them(reader, tmp_path, capsys):
    if not fonts():
        pytest.skip("no font here can write Chinese")
    folder, wanted = tmp_path / "pictures", {}
    folder.mkdir()
    drawn = 0
    for font in fonts():
        for size in (20, 56):
            for text in TEXTS:
                name = f"{drawn:04}.jpg"
                draw(folder / name, text, font, size, COLOURS[drawn % len(COLOURS)])
                wanted.setdefault(text, set()).add(name)
                drawn += 1
    photos = sorted(PHOTOS.iterdir())[::8]
    for photo in photos:
        shutil.copy(photo, folder)
    index_folder(folder, tmp_path / "index", FakeEncoder())
    report = recognise_texts(folder, tmp_path / "index", reader)
    assert (report.read, report.failed) == (drawn + len(photos), 0)
    found = 0
    with Searcher.open(tmp_path / "index", FakeEncoder()) as searcher:
        for text, names in wanted.items():
            hits = searcher.search(text, 2 * len(names), hybrid=True)  # as many by features
            found += len(names & {hit.image_id for hit in hits})
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{drawn} pictures of text in {len(fonts())} fonts and 2 sizes among {len(photos)} "
            f"photos: {100 * found / drawn:.1f}% found by their words "
            f"among the first {2 * len(names)}; "
            f"{report.images_per_second:.2f} pictures/s read"
        )
    # RapidOCR runs small Latin words together: WETFLOOR, CoffeeHouse
    assert found >= 0.9 * drawn
