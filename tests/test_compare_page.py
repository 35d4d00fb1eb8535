"""The page of ``clip-text compare``: whole in itself, and nothing in it but what it shows."""

import base64
import io
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fakes import save_picture
from page_browser import DESKTOP, PHONE, axe_source, chrome, screenshots, violations
from page_browser import Page as BrowserPage
from pictures_data import coloured
from PIL import Image
from test_compare import captions, compare, in_this_process, other_folder, two_models

from clip_text import Encoder
from clip_text_cli.compare.page import Hit, Page, Row, render

# fixtures
__all__ = ["captions", "chrome", "compare", "in_this_process", "other_folder", "two_models"]


class Reader(HTMLParser):
    """What a page holds: its tags, what they refer to, and its words."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words, self.style = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]

    def handle_data(self, data):
        if self.tags[-1:] == ["style"] and not self.style:
            self.style = data
        else:
            self.words.append(data)

    def titles(self):
        return [value for _, name, value in self.attributes if name == "title"]


def check_page(text):
    """Hold a page to its promise: nothing from elsewhere, no script, each picture once."""
    page = Reader(text)
    assert "script" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert not {"src", "href", "srcset", "action", "style"} & {
        name for _, name, _ in page.attributes
    }
    policy = [value for tag, name, value in page.attributes if (tag, name) == ("meta", "content")]
    assert "default-src 'none'" in policy[0]
    urls = re.findall(r"url\(([^)]*)\)", page.style)
    assert "@import" not in page.style
    pictures = []
    for url in urls:
        head, _, content = url.partition(",")
        assert head == "data:image/webp;base64"
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as picture:
            picture.load()
            assert picture.format == "WEBP"
            assert max(picture.size) <= 192
        pictures.append(content)
    shown = set(re.findall(r'class="picture p(\d+)"', text))
    drawn = re.findall(r"^\.p(\d+)\{", page.style, re.M)
    assert sorted(drawn) == sorted(shown)
    assert len(drawn) == len(set(drawn)) == len(pictures)
    return page


def test_of_captions_the_queries_on_which_models_differ_most_are_shown(
    compare, tiny_folder, other_folder, captions, tmp_path
):
    file = tmp_path / "page.html"
    compare(tiny_folder, other_folder, "--data", captions, "--html", file)
    shown = check_page(file.read_text(encoding="utf-8"))
    notes = [words for words in shown.words if words.startswith("right answer at rank: ")]
    found = [re.fullmatch(r".*: tiny ([\d.]+), other ([\d.]+)", words) for words in notes]
    assert len(found) == 18, "one a picture"
    ranks = [float(rank) for one in found for rank in one.groups()]
    spread = [max(pair) / min(pair) for pair in zip(ranks[::2], ranks[1::2], strict=True)]
    assert spread == sorted(spread, reverse=True)
    assert spread[0] > spread[-1]
    titles = shown.titles()
    right = [title for title in titles if ", a right answer" in title]
    assert len(right) == sum(rank <= 10 for rank in ranks)
    assert sum(title.startswith("right answer: ") for title in titles) == 18


@pytest.fixture
def album(tmp_path):
    """Pictures with names that would be markup, one of them in a folder, one damaged; queries."""
    for seed, name in enumerate([*ODD_NAMES, "plain.png", "below/one.png"]):
        save_picture(tmp_path / "album" / name, seed)
    (tmp_path / "album" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    (tmp_path / "album" / "notes.txt").write_text("no picture")
    queries = tmp_path / "queries.txt"
    queries.write_text("红色的花\n\n" + "\n".join(ODD_QUERIES) + "\n红色的花\n", encoding="utf-8")
    return tmp_path / "album", queries


ODD_NAMES = ("<img src=x onerror=alert(1)>.png", "a&b \"'`.png", "}</style><script>x</script>.png")
if os.name == "nt":  # which has no such names
    ODD_NAMES = ("a&b '`.png", "}{.png", "&lt;.png")
ODD_QUERIES = ("<script>alert(1)</script>", '"><b onclick="x()">猫', "url(http://x.test/) \u202e")


def test_hits_lie_side_by_side_on_one_page(compare, tiny_folder, other_folder, album, tmp_path):
    folder, queries = album
    page = tmp_path / "hits.html"
    search = ("--pictures", folder, "--queries", queries, "--top-k", 3)
    told, err = compare(tiny_folder, other_folder, *search, "--html", page, "--json")
    assert "left out, as not every model can read it: 1 picture" in err
    assert "broken.png: " in err
    assert [one["unreadable"] for one in told] == [1, 1]
    assert told[0]["overlap@3 other"] == told[1]["overlap@3 tiny"]
    text = page.read_text(encoding="utf-8")
    shown = check_page(text)
    # a row a query, a column a model, blank lines and repeated queries left out
    assert shown.tags.count("tr") == 1 + 2 + 1 + 2 + 1 + 4
    assert [value for _, name, value in shown.attributes if name == "data-model"] == [
        *("tiny", "other") * 4
    ]
    titles = shown.titles()
    assert len(titles) == 4 * 2 * 3
    named = {re.fullmatch(r"\d\. (.*), cosine -?[\d.]+(, found .*)?", one)[1] for one in titles}
    assert named <= {*ODD_NAMES, "plain.png", "below/one.png"}
    assert "broken.png" in "".join(shown.words)
    assert ODD_QUERIES[0] in shown.words
    assert ODD_QUERIES[1] in shown.words
    assert "\u202e" not in text
    # the shares on the page are those of the JSON
    said = [words for words in shown.words if words.startswith("of 3 hits in common: ")]
    whole = [int(re.fullmatch(r".*: tiny \+ other (\d)", words)[1]) for words in said]
    assert sum(whole) / (3 * 4) == pytest.approx(told[0]["overlap@3 other"])
    alone = [title for title in titles if "found by this model alone" in title]
    assert len(alone) == 2 * (3 * 4 - sum(whole))


def test_hits_are_those_of_the_models(compare, tiny_folder, other_folder, album, tmp_path):
    folder, queries = album
    page = tmp_path / "hits.html"
    search = ("--pictures", folder, "--queries", queries, "--top-k", 2)
    out, _ = compare(tiny_folder, other_folder, *search, "--html", page)
    assert "hits in common in the top 2" in out
    encoder = Encoder.from_pretrained(tiny_folder)
    names = sorted([*ODD_NAMES, "plain.png", "below/one.png"])
    rows = encoder.encode_image([folder / name for name in names])
    best = np.argsort(-(rows @ encoder.encode_text(["红色的花"])[0]), kind="stable")[:2]
    titles = Reader(page.read_text(encoding="utf-8")).titles()[:2]
    assert [title.split(". ", 1)[1].split(", cosine")[0] for title in titles] == [
        names[at] for at in best
    ]


def test_a_picture_that_one_model_cannot_read_is_searched_by_none(
    compare, tiny_folder, other_folder, album, monkeypatch
):
    folder, queries = album
    load = Encoder.load_pixels
    asked = []

    def loads(self, source):
        if Path(source).name == "plain.png" and self.fingerprint == other:
            asked.append(source)
            raise ValueError("this model wants another.")
        return load(self, source)

    other = Encoder.from_pretrained(other_folder).fingerprint
    monkeypatch.setattr(Encoder, "load_pixels", loads)
    search = ("--pictures", folder, "--queries", queries, "--top-k", 99)
    told, err = compare(tiny_folder, other_folder, *search, "--json")
    assert asked
    assert "not every model can read it: 2 pictures" in err
    assert [one["unreadable"] for one in told] == [1, 2]
    assert told[0]["overlap@99 other"] == 1, "both are searched for the same pictures"


def test_where_no_picture_can_be_read_every_model_says_so(compare, tiny_folder, tmp_path):
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    (tmp_path / "queries.txt").write_text("狗\n", encoding="utf-8")
    search = ("--pictures", tmp_path / "album", "--queries", tmp_path / "queries.txt")
    _, err = compare(tiny_folder, *search, code=1)
    assert "error: tiny: expected pictures that can be read, got 1 that cannot" in err


def test_a_picture_that_has_gone_is_shown_by_its_id():
    hits = {"a": [Hit(0, 0.5)], "b": [Hit(1, 0.25)]}
    row = Row("狗", ["a and b: 0 of 1 in common"], (), hits)
    page = Page("t", (), (), ["here<>.png", "gone<>.png"], [row], ["a", "b"], ())
    webp = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(webp, "WEBP")
    shown = check_page(render(page, {0: webp.getvalue()}))
    assert "gone<>.png" in shown.words
    assert "here<>.png" not in shown.words


# in a browser


def test_the_page_opens_without_a_network(chrome, compare, two_models, tmp_path, tmp_path_factory):
    coloured(tmp_path / "made", "x", 1, 0)
    (tmp_path / "queries.txt").write_text("红色的花\n<b>蓝色</b>\n", encoding="utf-8")
    file = tmp_path / "hits.html"
    search = ("--pictures", tmp_path / "made" / "images", "--queries", tmp_path / "queries.txt")
    compare(*two_models, *search, "--html", file)
    page = BrowserPage(chrome, file.as_uri())
    look, folder = axe_source(), screenshots(tmp_path_factory)
    for size, scheme in ((DESKTOP, "light"), (PHONE, "dark")):
        with page.seen_as(size, scheme):
            page.open()
            page.driver.save_screenshot(str(folder / f"hits-{scheme}.png"))
            assert page.js("document.documentElement.scrollWidth") <= size[0], scheme
            sizes = page.js(
                "Promise.all([...document.querySelectorAll('.picture')].map(async (one) => {"
                "const image = new Image(); image.src = getComputedStyle(one).backgroundImage"
                ".slice(5, -2); await image.decode(); return image.naturalWidth; }))"
            )
            assert sizes
            assert min(sizes) >= 40
            assert page.complaints() == []
            assert violations(page, look) == []
