import importlib.util
from pathlib import Path

import numpy as np
import pytest
from fakes import save_picture
from PIL import Image

from retrieval.pictures import open_thumbnail, shown_size
from retrieval.search import Hit
from retrieval.sheet import Tile, contact_sheet, draw_tiles
from retrieval.sheet.fonts import Face, find_font

TILE = 100
MARGIN, GAP = 36, 20


def hit(path: Path, rank: int = 1, caption: str | None = None) -> Hit:
    return Hit(rank, 0.5 / rank, rank, path.name, path, caption, {})


def solid(path: Path, colour: str, size: tuple[int, int] = (50, 50)) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def opened(path: Path) -> Image.Image:
    with Image.open(path) as sheet:
        return sheet.convert("RGB")


def at(sheet: Image.Image, x: float, y: float) -> tuple[int, ...]:
    return sheet.getpixel((round(x), round(y)))


def test_thumbnails_lie_in_a_row_per_query(tmp_path):
    red, green, blue = (solid(tmp_path / f"{c}.png", c) for c in ("red", "lime", "blue"))
    out = tmp_path / "new folder" / "sheet.png"
    contact_sheet([("红与绿", [hit(red), hit(green, 2)]), ("蓝", [hit(blue)])], out, tile=TILE)
    sheet = opened(out)
    assert sheet.width == 2 * MARGIN + 2 * TILE + GAP
    query_height, cell = 22, TILE + 13 + 2 * 10 + GAP
    middle = MARGIN + query_height + TILE / 2
    assert at(sheet, MARGIN + TILE / 2, middle) == (255, 0, 0)
    assert at(sheet, MARGIN + TILE + GAP + TILE / 2, middle) == (0, 255, 0)
    assert at(sheet, MARGIN + TILE / 2, middle + query_height + cell) == (0, 0, 255)
    # Round corners, even spacing, white paper.
    for x, y in [(MARGIN, middle - TILE / 2), (MARGIN + TILE + GAP / 2, middle), (3, 3)]:
        assert at(sheet, x, y) == (255, 255, 255)


def test_pictures_are_letterboxed_not_squashed(tmp_path):
    wide = solid(tmp_path / "wide.png", "red", (400, 100))
    contact_sheet([("宽", [hit(wide)])], tmp_path / "sheet.png", tile=TILE)
    sheet = opened(tmp_path / "sheet.png")
    top = MARGIN + 22
    assert at(sheet, MARGIN + 50, top + 50) == (255, 0, 0)
    assert at(sheet, MARGIN + 50, top + 50 - 20) == at(sheet, MARGIN + 50, top + 50 + 20)
    assert at(sheet, MARGIN + 50, top + 50 - 20) == (243, 244, 246)


def test_more_hits_than_columns_go_on_below(tmp_path):
    red = solid(tmp_path / "red.png", "red")
    contact_sheet([("q", [hit(red)] * 5)], tmp_path / "sheet.png", tile=TILE, columns=2)
    sheet = opened(tmp_path / "sheet.png")
    cell = TILE + 13 + 2 * 10 + GAP
    assert sheet.width == 2 * MARGIN + 2 * TILE + GAP
    assert at(sheet, MARGIN + 50, MARGIN + 22 + 50 + 2 * cell) == (255, 0, 0)
    assert at(sheet, MARGIN + TILE + GAP + 50, MARGIN + 22 + 50 + 2 * cell) == (255, 255, 255)


def test_small_groups_lie_side_by_side(tmp_path):
    red, lime, blue = (solid(tmp_path / f"{c}.png", c) for c in ("red", "lime", "blue"))
    groups = [
        (name, [Tile(path, "line", "text", "name") for path in paths])
        for name, paths in (
            ("a", [red]),
            ("b", [lime, lime]),
            ("c", [blue, red]),
            ("d", [lime] * 4),
        )
    ]
    out = tmp_path / "sheet.png"
    draw_tiles(groups, out, tile=TILE, columns=3, side_by_side=True)
    sheet = opened(out)
    assert sheet.width == 2 * MARGIN + 3 * TILE + 2 * GAP
    step, row = TILE + GAP, 22 + TILE + 13 + 2 * 10 + GAP
    names = {(255, 0, 0): "r", (0, 255, 0): "g", (0, 0, 255): "b", (255, 255, 255): "-"}
    middle = MARGIN + 22 + TILE / 2
    tops = [middle, middle + row, middle + 2 * row, middle + 2 * row + row - 22]
    shown = [
        "".join(names[at(sheet, MARGIN + i * step + TILE / 2, top)] for i in range(3))
        for top in tops
    ]
    assert shown == ["rgg", "br-", "ggg", "g--"]


def test_what_cannot_be_shown_is_a_grey_tile(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    hits = [hit(tmp_path / "gone.jpg"), hit(broken), hit(tmp_path / "folder.png")]
    contact_sheet([("不见了", hits)], tmp_path / "sheet.png", tile=TILE)
    sheet = opened(tmp_path / "sheet.png")
    for i in range(3):
        assert at(sheet, MARGIN + i * (TILE + GAP) + 20, MARGIN + 22 + 20) == (213, 216, 221)


def test_queries_without_hits_and_texts_of_any_kind(tmp_path):
    red = solid(tmp_path / "red.png", "red")
    groups = [
        ("没有", []),
        ("", [hit(red, caption="")]),
        ("长" * 500, [hit(red, caption="说明" * 300), hit(red, caption="word " * 300)]),
        ("two\nlines\tand \x00 \ud800 😀 👨‍👩‍👧", [hit(red, caption="نص")]),
    ]
    for name in ("sheet.png", "sheet.jpg", "sheet.webp"):
        contact_sheet(groups, tmp_path / name, tile=TILE)
        assert opened(tmp_path / name).width == 2 * MARGIN + 2 * TILE + GAP


def test_scores_are_written(tmp_path):
    """The same sheet but for one score differs below the tile, and nowhere else."""
    red = solid(tmp_path / "red.png", "red")
    drawn = []
    for score in (0.123, 0.987):
        one = Hit(1, score, 1, "x", red, None, {})
        contact_sheet([("q", [one])], tmp_path / "sheet.png", tile=TILE)
        drawn.append(np.asarray(opened(tmp_path / "sheet.png")).astype(int))
    lines = np.flatnonzero(np.abs(drawn[0] - drawn[1]).sum(axis=(1, 2)))
    top = MARGIN + 22 + TILE
    assert len(lines) > 0
    assert top <= lines.min() <= lines.max() <= top + 2 + 13


def test_what_makes_no_sheet_is_refused(tmp_path):
    red = solid(tmp_path / "red.png", "red")
    with pytest.raises(ValueError, match="at least one query"):
        contact_sheet([], tmp_path / "sheet.png")
    with pytest.raises(ValueError, match=r"\.png, \.jpg or \.webp, got sheet\.txt"):
        contact_sheet([("q", [hit(red)])], tmp_path / "sheet.txt")
    with pytest.raises(ValueError, match="at most 65000 pixels"):
        contact_sheet([("q", [hit(red)])] * 1000, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.txt").exists()


def without_system_fonts(monkeypatch):
    monkeypatch.setattr("retrieval.sheet.fonts._FOLDERS", ())


@pytest.mark.skipif(not importlib.util.find_spec("mplfonts"), reason="needs mplfonts")
def test_mplfonts_stands_in_for_the_system_without_matplotlib(monkeypatch):
    without_system_fonts(monkeypatch)
    imported = importlib.import_module("sys").modules
    before = "mplfonts" in imported
    font = find_font()
    assert font is not None
    assert "mplfonts" in font.parts
    assert Face(font, 20).can_write("猫")
    assert ("mplfonts" in imported) == before


def test_without_any_font_chinese_is_escaped(monkeypatch, tmp_path):
    without_system_fonts(monkeypatch)
    monkeypatch.setattr("retrieval.sheet.fonts.find_spec", lambda _: None)
    assert find_font() is None
    face = Face(None, 20)
    assert face.writable("cat 猫\n9") == r"cat \u732b 9"
    assert not face.can_write("猫")
    red = solid(tmp_path / "red.png", "red")
    contact_sheet([("猫", [hit(red, caption="一只橘猫")])], tmp_path / "sheet.png", tile=TILE)


def test_fonts_without_chinese_and_files_that_are_none_are_passed_over(monkeypatch, tmp_path):
    (tmp_path / "NotoSansCJK-Regular.ttc").write_text("no font")
    monkeypatch.setattr(
        "retrieval.sheet.fonts._FOLDERS", (str(tmp_path), str(tmp_path / "nothing"))
    )
    monkeypatch.setattr("retrieval.sheet.fonts.find_spec", lambda _: None)
    assert find_font() is None


@pytest.mark.parametrize("lines", [1, 2, 3])
@pytest.mark.parametrize(
    "text", ["", "x", "一只橘猫趴在窗台上晒太阳" * 3, "several quite ordinary words " * 5, "x" * 99]
)
def test_wrapping_keeps_to_width_and_number_of_lines(text, lines):
    face = Face(find_font(), 14)
    wrapped = face.wrapped(text, 100, lines)
    assert len(wrapped) <= lines
    assert all(face.width(line) <= 100 for line in wrapped)
    whole = "".join(wrapped).replace(" ", "")
    bare = text.replace(" ", "")
    assert whole == bare or (
        whole.rstrip("….") == bare[: len(whole.rstrip("…."))] and len(wrapped) == lines
    )


def test_words_stay_whole_where_they_can():
    face = Face(None, 14)
    width = face.width("several quite") + 1
    assert face.wrapped("several quite ordinary", width, 3) == ["several quite", "ordinary"]


def test_shown_size_follows_the_rotation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "turned.jpg", exif=exif)
    assert shown_size(tmp_path / "turned.jpg") == (30, 40)
    assert shown_size(save_picture(tmp_path / "plain.png", 1, (7, 5))) == (7, 5)
    (tmp_path / "broken.png").write_text("no picture")
    assert shown_size(tmp_path / "broken.png") is None
    thumbnail = open_thumbnail(tmp_path / "turned.jpg", (15, 15))
    assert thumbnail is not None
    assert thumbnail.size == (11, 15)


def test_thumbnails_lay_transparency_over_white(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    thumbnail = open_thumbnail(tmp_path / "clear.png", (8, 8))
    assert thumbnail is not None
    assert thumbnail.getpixel((4, 4)) == (255, 255, 255)
