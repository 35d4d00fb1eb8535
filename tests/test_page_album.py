"""The page in a real browser, over a real index: queries of several things, filters, pages."""

import json
import re
import threading
from pathlib import Path

import pytest
from page_browser import DESKTOP, PHONE, Page, chrome, listening
from page_service import ALBUM, Gate, album_app, draw, make_album

__all__ = ["chrome"]  # a fixture

ROOT = Path(__file__).parents[1]
TILES = "document.querySelectorAll('.tile').length"


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    folders = {name: tmp_path_factory.mktemp(name) for name in ("album", "cards")}
    numbers = {"album": ALBUM, "cards": 40}
    app, searchers = album_app(
        {name: make_album(folder, numbers[name]) for name, folder in folders.items()}
    )
    gate = Gate(app)
    with listening(gate) as address:
        yield gate, address, searchers["album"]
    for each in searchers.values():
        each.close()


@pytest.fixture
def gate(services):
    return services[0]


@pytest.fixture
def page(chrome, services):
    services[0].reset()
    return Page(chrome, services[1])


def last(gate):
    """What the latest search asked, apart from what all ask; without counts and pages."""
    bodies = [body for body in gate.asked() if "facets" not in body and "page" not in body]
    return {key: each for key, each in bodies[-1].items() if key not in ("top_k", "paged")}


def terms(page):
    """The chips, as they are read."""
    return page.js(
        "[...document.querySelectorAll('.term')].map(t => [...t.querySelectorAll('.except,"
        ".name-of-term')].map(e => e.textContent).join(' '))"
    )


def rows(page):
    """The pictures in the grid, by their rows."""
    return page.js(
        "[...document.querySelectorAll('.tile img')].map(i => +i.src.match(/images\\/(\\d+)/)[1])"
    )


def laid_out(page, visibility):
    """Milliseconds that laying out the page takes, with tiles out of sight left out or not."""
    return page.driver.execute_script(
        """
        const sheet = new CSSStyleSheet();
        sheet.replaceSync(`.grid > li { content-visibility: ${arguments[0]} !important }`);
        document.adoptedStyleSheets = [sheet];
        document.documentElement.offsetHeight;
        const times = [1, 2, 3, 4, 5].map((turn) => {
          document.body.style.width = `${innerWidth - turn * 7}px`;
          const began = performance.now();
          document.documentElement.offsetHeight;
          return performance.now() - began;
        });
        document.body.style.width = "";
        document.adoptedStyleSheets = [];
        return times.sort((a, b) => a - b)[2];
        """,
        visibility,
    )


def png(name, seed):
    return name, "image/png", draw(seed)


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_a_picture_is_searched_by(page, gate, how):
    page.open()
    page.give(how, png("那只船.png", 5))
    page.wait_for("results")
    assert page.captions()[0].endswith(" 5"), "the picture itself is nearest to it"
    assert page.one(".tile").get_attribute("aria-label").endswith("相似度 1.000")
    assert terms(page) == ["那只船.png"]
    assert page.js("document.querySelector('.drawing canvas').width") == 64
    assert page.one("#status").text.startswith("1 张图片：")
    assert not page.one("#drop").is_displayed()
    # Further pages need no picture.
    page.js("window.scrollTo(0, document.body.scrollHeight)")
    page.wait(f"{TILES} > 60")
    assert page.complaints() == []


def test_a_picture_is_chosen_with_the_button(page, tmp_path):
    file = tmp_path / "chosen.png"
    file.write_bytes(draw(7))
    page.open()
    page.one("#chooser").send_keys(str(file))
    page.wait_for("results")
    assert terms(page) == ["chosen.png"]
    assert page.captions()[0].endswith(" 7")


def test_text_and_pictures_are_one_query(page, gate):
    page.open()
    page.search("船")
    page.wait_for("results")
    page.give("drop", png("a.png", 1), png("b.png", 2))
    page.wait_for_status("“船” + 2 张图片")
    assert terms(page) == ["船", "a.png", "b.png"]
    page.one(".term:last-child .turn").click()
    page.wait_for_status("“船” + 1 张图片")
    assert terms(page) == ["船", "a.png", "不要 b.png"]
    assert b'name="without_image"' in gate.bodies[-1]
    page.driver.back()
    page.wait_for_status("“船” + 2 张图片")
    page.one(".term:first-child .remove").click()
    page.wait_for_status("2 张图片：")
    assert page.one("#query").get_attribute("value") == ""
    assert b'"query"' not in gate.bodies[-1]


def test_text_may_stand_beside_a_picture_that_is_stayed_away_from(page, gate):
    page.open()
    page.search("船")
    page.wait_for("results")
    page.give("drop", png("a.png", 1))
    page.wait_for_status("“船” + 1 张图片")
    page.one(".term:last-child .turn").click()
    page.wait_for_status("“船”：")
    assert terms(page) == ["船", "不要 a.png"]
    assert b'name="image"' not in gate.bodies[-1]
    assert page.complaints() == []


def test_an_address_says_that_a_picture_cannot_be_kept(page):
    page.open()
    page.give("drop", png("a.png", 1))
    page.wait_for("results")
    page.search("船")
    page.wait_for_status("“船” + 1 张图片")
    page.driver.refresh()
    page.wait_for_status("“船”")
    assert "上传的图片不会存进网址" in page.one("#lost").text
    assert terms(page) == ["船", "上传的图片"]
    page.one(".term.lost .remove").click()
    page.wait("document.querySelector('#lost').hidden")
    assert page.asked("picture") is None


def test_what_is_no_picture_is_refused_here_and_there(page, gate):
    page.open("?q=船")
    page.wait_for("results")
    page.give("drop", ("list.txt", "text/plain", b"words"))
    page.wait_for_status("这不是图片")
    before = len(gate.bodies)
    assert len(page.all(".tile")) >= 60
    assert len(gate.bodies) == before


def test_words_with_a_minus_are_stayed_away_from(page, gate):
    page.open()
    page.search("t-shirt 红色 -雪 －雨")
    page.wait_for("results")
    assert last(gate) == {"query": "t-shirt 红色", "without": ["雪", "雨"]}
    assert terms(page) == ["t-shirt 红色", "不要 雪", "不要 雨"]
    assert page.js("location.search") == page.js(
        "'?' + new URLSearchParams([['q', 't-shirt 红色'], ['not', '雪'], ['not', '雨']])"
    )
    # One of them is wanted after all; then the text in the box is not.
    page.one(".term:last-child .turn").click()
    page.wait("document.querySelectorAll('.away').length === 1")
    page.wait_for("results")
    assert last(gate) == {"query": "t-shirt 红色", "without": ["雪"], "terms": [{"text": "雨"}]}
    page.one(".term:first-child .turn").click()
    page.wait("document.querySelector('#query').value === ''")
    page.wait_for("results")
    assert last(gate) == {"terms": [{"text": "雨"}], "without": ["雪", "t-shirt 红色"]}
    assert page.all(".term:not(.away) .turn") == [], "something has to be looked for"
    page.open("?not=雪")
    page.wait_for("idle")
    page.search("-5")
    page.wait_for("results")
    assert last(gate)["query"] == "-5"


def test_more_and_less_like_a_hit(page, gate):
    page.open("?q=船")
    page.wait_for("results")
    first, second = rows(page)[:2]
    names = page.captions()[:2]
    page.one(".tile").click()
    page.wait("document.querySelector('#lightbox').open")
    page.one("#more-like").click()
    page.wait_for_status("“船” + 1 张图片")
    assert last(gate) == {"query": "船", "like": [first]}
    assert first not in rows(page)
    page.wait("document.querySelector('.drawing img').naturalWidth > 0")
    page.click(f".grid li:nth-child({rows(page).index(second) + 1}) .tile")
    page.wait("document.querySelector('#lightbox').open")
    page.one("#less-like").click()
    page.wait("document.querySelectorAll('.away').length === 1")
    page.wait_for("results")
    assert last(gate) == {
        "query": "船",
        "like": [first],
        "terms": [{"like": second, "weight": -0.4}],
    }
    assert terms(page) == ["船", f"像“{names[0]}”", f"不要 像“{names[1]}”"]
    shown = rows(page)
    page.driver.refresh()  # the address has all of it but the names
    page.wait_for("results")
    assert terms(page) == ["船", f"像第 {first} 号", f"不要 像第 {second} 号"]
    assert rows(page)[:40] == shown[:40]


def test_filters_narrow_down_and_count(page, gate):
    page.open("?q=船")
    page.wait("!document.querySelector('#filter').hidden")
    page.one("#filter").click()
    page.wait("document.querySelectorAll('.value').length > 5")
    assert page.texts(".facet legend")[:2] == ["标签", "许可"]
    assert len(page.texts(".facet:first-child .value")) == 9
    page.click(".unfold")
    page.wait("document.querySelectorAll('.facet:first-child .value').length === 10")
    assert page.js("document.activeElement.matches('.facet:first-child .value:nth-child(9)')")
    values = dict(zip(page.texts(".value span:first-child"), page.texts(".count"), strict=True))
    assert values["红色"] == "300"
    page.click(".value[title='红色']")
    page.wait_for_status("已筛选")
    assert last(gate)["where"] == {"field": "tags", "op": "=", "value": "红色"}
    assert all(caption.startswith("红色") for caption in page.captions())
    page.wait("document.querySelector(\".value[title='红色']\").ariaPressed === 'true'")
    page.click(".value[title='MIT']")
    page.wait("document.querySelectorAll('.term.filter').length === 2")
    assert terms(page) == ["标签 红色", "许可 MIT"]
    assert page.one("#filter").text == "筛选（2）"
    page.wait_for("results")
    page.wait("document.querySelector(\".value[title='MIT'] .count\").textContent === '100'")
    page.one(".term:last-child .turn").click()
    page.wait_for("results")
    page.wait("document.querySelectorAll('.term.filter.away').length === 1")
    assert last(gate)["where"]["and"][1] == {"not": {"field": "licence", "op": "=", "value": "MIT"}}
    for sign, bound in ((">=", "2010"), ("<=", "2012")):
        page.wait("document.querySelector('#filters').ariaBusy !== 'true'")
        page.one(f'[data-key=\'["year","{sign}"]\']').send_keys(bound)
        page.press("TAB")
        page.wait("location.search.includes(arguments[0])", bound)
    page.wait_for("results")
    assert {"field": "year", "op": "<=", "value": 2012} in last(gate)["where"]["and"]
    shown = page.captions()
    years = {2000 + int(caption.split()[1]) % 25 for caption in shown}
    assert years == {2010, 2011, 2012}
    page.driver.refresh()
    page.wait_for("results")
    assert page.captions() == shown
    assert page.complaints() == []


def test_what_is_being_written_survives_counts_that_come_late(page, gate):
    page.open("?q=船")
    page.wait("!document.querySelector('#filter').hidden")
    page.one("#filter").click()
    page.wait("document.querySelectorAll('.value').length > 5")
    gate.hold["facets"] = threading.Event()
    page.click(".value[title='MIT']")
    page.wait("document.querySelector('#filters').ariaBusy === 'true'")
    page.one("[data-key*='>=']").send_keys("20")
    gate.hold["facets"].set()
    page.wait("document.querySelector('#filters').ariaBusy !== 'true'")
    page.wait("document.querySelector(\".value[title='MIT']\").ariaPressed === 'true'")
    page.press("05")
    page.press("TAB")
    page.wait("location.search.includes('2005')")


def test_filters_that_no_picture_passes_can_be_cleared(page):
    none = json.dumps(["year", ">=", 3000])
    page.open(f"?q=船&filter={none}&filter=nonsense&filter=[1]")
    page.wait_for("empty")
    assert page.one("#notice h2").text == "没有符合筛选的图片"
    page.one("#retry").click()
    page.wait_for("results")
    assert page.asked("filter") is None


def test_suggestions_are_chosen_by_keyboard_and_mouse(page, gate):
    page.open()
    box = page.one("#query")
    box.send_keys("红")
    page.wait("document.querySelector('#query').ariaExpanded === 'true'")
    assert "红色" in page.texts(".suggested")
    page.press("ARROW_DOWN")
    chosen = page.one("#suggestions [aria-selected=true]")
    assert box.get_attribute("aria-activedescendant") == chosen.get_attribute("id")
    assert page.js("document.activeElement.id") == "query"
    page.press("ARROW_UP")  # back to what was typed
    assert page.all("#suggestions [aria-selected=true]") == []
    assert box.get_attribute("aria-activedescendant") is None
    page.press("ARROW_UP")  # and round to the last one
    last = page.one("#suggestions li:last-child")
    assert box.get_attribute("aria-activedescendant") == last.get_attribute("id")
    words = last.get_attribute("data-words")
    page.press("ENTER")
    page.wait_for("results")
    assert page.asked() == words
    assert not page.one("#suggestions").is_displayed()
    box.clear()
    box.send_keys("蓝")
    page.wait("document.querySelector('#query').ariaExpanded === 'true'")
    page.press("ESCAPE")
    assert not page.one("#suggestions").is_displayed()
    assert box.get_attribute("value") == "蓝"
    box.send_keys("色")
    box.clear()
    box.send_keys("绿")
    page.wait("document.querySelector('#query').ariaExpanded === 'true'")
    page.all("#suggestions li")[0].click()
    page.wait("new URLSearchParams(location.search).get('q').startsWith('绿')")
    assert page.complaints() == []


def test_nothing_is_suggested_while_a_word_is_composed(page):
    page.open()
    page.js(
        "(send => { window.asked = []; window.fetch = (url, o) =>"
        " (window.asked.push(url), send(url, o)) })(window.fetch)"
    )
    compose = "Input.imeSetComposition"
    for part in ("h", "ho", "hong"):
        page.driver.execute_cdp_cmd(
            compose, {"text": part, "selectionStart": len(part), "selectionEnd": len(part)}
        )
    page.js("new Promise(resolve => setTimeout(resolve, 400))")
    assert page.js("window.asked") == []
    page.driver.execute_cdp_cmd("Input.insertText", {"text": "红"})
    page.wait("document.querySelector('#query').ariaExpanded === 'true'")
    asked = page.js("window.asked.map(url => new URL(url, location.href).searchParams.get('q'))")
    assert asked == ["红"]


def test_one_chooses_among_collections(page, gate):
    page.open("?q=船&like=3&filter=" + json.dumps(["year", "=", 2003]))
    page.wait("!document.querySelector('#collection').hidden")
    page.wait_for("results")
    assert page.texts("#collection option") == ["album", "cards"]
    page.js(
        "(e => { e.value = 'cards'; e.dispatchEvent(new Event('change')) })"
        "(document.querySelector('#collection'))"
    )
    page.wait_for_status("40 张图里")
    assert page.asked("collection") == "cards"
    assert (page.asked("like"), page.asked("filter")) == (None, None)
    page.wait("[...document.querySelectorAll('.tile img')].slice(0, 9).every(i => i.naturalWidth)")
    assert "collection=cards" in page.one(".tile img").get_attribute("src")
    page.driver.back()
    page.wait("document.querySelector('#collection').value === 'album'")


@pytest.mark.parametrize(
    ("size", "scheme"),
    [(DESKTOP, "light"), pytest.param(PHONE, "dark", marks=pytest.mark.slow)],
)
def test_scrolling_comes_to_a_thousand_hits(page, gate, services, size, scheme):
    with page.seen_as(size, scheme):
        page.open("?q=船")
        page.wait_for("results")
        shown = 0
        while (now := page.js(TILES)) < 1_000:
            assert now >= shown
            shown = now
            page.js("window.scrollTo(0, document.body.scrollHeight)")
            page.wait(f"{TILES} > arguments[0]", shown)
        page.wait("document.querySelector('#more').hidden")
        expected = [hit.row for hit in services[2].rank("船").page(0, 1_000)]
        assert rows(page) == expected, "each once, in the order of the answer"
        pages = [body for body in gate.asked() if "page" in body]
        assert [body["offset"] for body in pages] == list(range(60, 1_000, 60))
        # What is out of sight is not drawn, and the keyboard gets to all of it.
        page.js("window.scrollTo(0, 0)")
        drawn = (
            "[...document.querySelectorAll('.grid > li')].filter(e => e.firstChild."
            "checkVisibility({contentVisibilityAuto: true})).length"
        )
        page.wait(f"{drawn} < 200")
        page.click("#grid .tile")
        page.wait("document.querySelector('#lightbox').open")
        assert "/ 1000" in page.one("#lightbox-score").text
        page.press("ESCAPE")
        page.wait("document.activeElement.className === 'tile'")
        page.press("END")
        assert page.js("document.activeElement.ariaLabel.startsWith('1000. ')")
        assert page.js("document.activeElement.getBoundingClientRect().top") < size[1]
        assert page.complaints() == []
        page.js("window.scrollTo(0, 0)")
        as_it_is, drawn_whole = (laid_out(page, way) for way in ("auto", "visible"))
        assert as_it_is < drawn_whole / 4


def test_the_button_asks_for_more_and_again_where_it_failed(page, gate):
    page.open()
    page.js("(IntersectionObserver.prototype.observe = () => {})")  # nothing comes by itself
    page.search("船")
    page.wait_for("results")
    gate.broken = True
    page.one("#more").click()
    page.wait_for_status("出了点问题")
    assert page.js(TILES) == 60
    gate.broken = False
    page.js("(document.querySelector('.tile').id = 'kept')")
    page.one("#more").click()
    page.wait(f"{TILES} === 120")
    assert page.one(".tile").get_attribute("id") == "kept"
    assert page.js("[...document.querySelectorAll('.tile')].indexOf(document.activeElement)") == 60


def test_an_order_that_is_kept_no_longer_is_asked_for_anew(page, gate, services):
    page.open()
    page.js("(IntersectionObserver.prototype.observe = () => {})")
    page.search("船")
    page.wait_for("results")
    kept = gate._app.state.service.collection(None).pages._rankings
    kept.clear()
    page.one("#more").click()
    page.wait(f"{TILES} === 120")
    assert rows(page) == [hit.row for hit in services[2].rank("船").page(0, 120)]


def test_a_service_without_the_rest_still_searches(chrome, services, page):
    """What the page asks for beside searches may be missing."""
    page.open()
    page.js(
        "(send => { window.fetch = (url, o) => /collections|suggest/.test(url) ? Promise."
        'resolve(new Response(\'{"error": {"type": "not_found"}}\', {status: 404}))'
        " : send(url, o) })(window.fetch)"
    )
    page.one("#query").send_keys("红")
    page.js("new Promise(resolve => setTimeout(resolve, 300))")
    assert not page.one("#suggestions").is_displayed()
    page.press("ENTER")
    page.wait_for("results")
    assert page.complaints() == []


def test_the_documentation_names_what_stands_in_addresses():
    source = (ROOT / "retrieval/service/page/query.js").read_text(encoding="utf-8")
    names = re.findall(r'asked\.(?:set|append)\("(\w+)"', source)
    (pairs,) = re.findall(r"^const NAMES = (.*)$", source, re.MULTILINE)
    names += [name for pair in re.findall(r"\[(.*?)\]", pairs) for name in eval(f"[{pair}]")]
    assert set(names) >= {"q", "filter", "collection", "like", "unpicture"}
    described = (ROOT / "docs/service_page.md").read_text(encoding="utf-8")
    assert [name for name in names if f"`{name}`" not in described] == []
