"""The page in a real browser, over a searcher that says what a test asks for."""

import threading
import time

import pytest
from page_browser import Page, chrome, listening
from page_service import KEY, SHOWABLE, Gate, PageSearcher, stub_app
from stub_searcher import CAPTIONS, METADATA, ROWS

__all__ = ["chrome"]  # a fixture


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    return PageSearcher(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def gate(searcher):
    return Gate(stub_app(searcher))


@pytest.fixture(scope="module")
def address(gate):
    with listening(gate) as address:
        yield address


@pytest.fixture
def page(chrome, address, searcher, gate):
    searcher.reset()
    gate.reset()
    yield Page(chrome, address)
    for event in gate.hold.values():
        event.set()


def test_a_chinese_query_shows_pictures(page):
    page.open()
    assert page.js("document.activeElement.id") == "query"
    assert page.js("document.documentElement.lang") == "zh-Hans"
    page.search("红色")
    page.wait_for("results")
    assert page.asked() == "红色"
    assert page.driver.title == "红色 · clip-text"
    assert page.captions()[0] == METADATA["names"]["zh"]
    assert len(page.captions()) == len(SHOWABLE)
    page.wait(
        "[...document.querySelectorAll('.tile img')].every(i => i.complete && i.naturalWidth > 0)"
    )
    assert page.one(".tile").get_attribute("aria-label").endswith("相似度 1.000")
    assert page.one(".measure").text == "1.000"
    shares = page.js(
        "[...document.querySelectorAll('.bar')].map(b => b.style.getPropertyValue('--share'))"
    )
    assert shares[:3] == ["1", "0.5", "0"]
    assert f"{len(SHOWABLE)} 张图" in page.one("#status").text
    assert page.complaints() == []


def test_a_querys_category_is_told_beside_what_was_found(page, searcher):
    searcher.category = ("<购物>", 0.928)
    page.open("?q=红色")
    page.wait_for("results")
    assert page.one("#status").text.endswith("· 类别：<购物>（93%）")
    searcher.category = None
    page.search("蓝色")
    page.wait("document.getElementById('status').textContent.includes('蓝色')")
    assert "类别" not in page.one("#status").text
    assert not page.complaints()


def test_an_address_is_a_search_and_back_goes_back(page):
    page.open("?q=宽")
    page.wait_for("results")
    assert page.one("#query").get_attribute("value") == "宽"
    page.search("透明的圆")
    page.wait("document.querySelector('#status').textContent.includes('透明的圆')")
    page.driver.back()
    page.wait("document.querySelector('#status').textContent.includes('“宽”')")
    assert page.asked() == "宽"
    assert page.one("#query").get_attribute("value") == "宽"
    page.driver.forward()
    page.wait("document.querySelector('#status').textContent.includes('透明的圆')")
    page.one("#home").click()
    page.wait_for("idle")
    assert (page.asked(), page.captions()) == (None, [])
    page.driver.back()
    page.wait_for("results")
    assert page.complaints() == []


def test_searching_twice_for_the_same_leaves_one_entry(page):
    page.open()
    page.search("狗")
    page.wait_for("results")
    entries = page.js("history.length")
    page.press("ENTER")
    page.wait_for("results")
    assert page.js("history.length") == entries


def test_examples_search(page, searcher):
    page.open()
    chips = page.all("#chips a")
    assert [chip.text for chip in chips] == [
        "狗",
        "草莓蛋糕",
        "下雨",
        "红色的心",
        "a birthday party",
        "富士山",
    ]
    chips[3].click()
    page.wait_for("results")
    assert page.asked() == "红色的心"
    assert searcher.queries == ["红色的心"]
    assert page.one("#chips [aria-current]").text == "红色的心"


def test_a_blank_query_asks_nothing(page, searcher):
    page.open()
    page.search("   ")
    assert page.js("document.body.dataset.state") == "idle"
    assert searcher.queries == []


def test_a_refused_query_is_explained(page, searcher):
    page.open("?q=" + "a" * 1001)
    page.wait_for("error")
    assert page.one("#notice h2").text == "这段话太长了"
    assert "got 1001" in page.one("#notice-detail").text
    assert not page.one("#retry").is_displayed()
    assert searcher.queries == []
    # The box is not in the way of the next try.
    page.search("狗")
    page.wait_for("results")
    assert not page.one("#notice").is_displayed()


def test_a_failing_service_can_be_tried_again(page, searcher):
    searcher.failure = RuntimeError("a private detail")
    page.open("?q=狗")
    page.wait_for("error")
    assert page.one("#notice h2").text == "出了点问题"
    assert "private" not in page.driver.page_source
    searcher.failure = None
    page.one("#retry").click()
    page.wait_for("results")


def test_an_unreachable_service_is_explained(page):
    def limit(offline):
        page.driver.execute_cdp_cmd("Network.enable", {})
        page.driver.execute_cdp_cmd(
            "Network.emulateNetworkConditions",
            {"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1},
        )

    page.open()
    limit(True)
    try:
        page.search("狗")
        page.wait_for("error")
        assert page.one("#notice h2").text == "连不上搜索服务"
    finally:
        limit(False)
    page.one("#retry").click()
    page.wait_for("results")


def test_a_late_answer_does_not_replace_a_newer_one(page, gate):
    gate.hold["慢"] = threading.Event()
    page.open()
    page.js(
        "(send => { window.signals = []; window.fetch = (url, options) => (url.includes('search')"
        " && window.signals.push(options.signal), send(url, options)) })(window.fetch)"
    )
    page.search("慢")
    page.wait_for("loading")
    page.wait("document.querySelectorAll('.ghost').length > 0")
    page.search("快")
    page.wait_for("results")
    gate.hold["慢"].set()
    time.sleep(0.3)
    assert "快" in page.one("#status").text
    assert page.asked() == "快"
    assert page.js("window.signals.map(signal => signal.aborted)") == [True, False]
    assert page.complaints() == []


def test_escape_gives_up_a_search(page, gate):
    gate.hold["慢"] = threading.Event()
    page.open()
    page.search("慢")
    page.wait_for("loading")
    page.press("ESCAPE")
    page.wait_for("idle")
    gate.hold["慢"].set()
    time.sleep(0.2)
    assert page.js("document.body.dataset.state") == "idle"


def test_the_keyboard_alone_is_enough(page):
    focused = "[...document.querySelectorAll('.tile')].indexOf(document.activeElement)"
    page.open()
    page.search("红色")
    page.wait_for("results")
    columns = page.js(
        "(t => t.filter(x => x.offsetTop === t[0].offsetTop).length)"
        "([...document.querySelectorAll('.grid > li')])"
    )
    assert 2 <= columns < len(SHOWABLE)
    page.press("ARROW_DOWN")
    assert page.js(focused) == 0
    page.press("ARROW_RIGHT")
    assert page.js(focused) == 1
    page.press("ARROW_DOWN")
    assert page.js(focused) == min(1 + columns, len(SHOWABLE) - 1)
    page.press("ARROW_UP")
    page.press("HOME")
    assert page.js(focused) == 0
    page.press("ARROW_LEFT")
    assert page.js(focused) == 0
    page.press("END")
    assert page.js(focused) == len(SHOWABLE) - 1
    page.press("HOME")
    page.press("ENTER")
    page.wait("document.querySelector('#lightbox').open")
    page.press("ARROW_LEFT")
    assert "1 / 6" in page.one("#lightbox-score").text
    for place in (2, 3, 4, 5, 6, 6):
        page.press("ARROW_RIGHT")
        assert f"{place} / 6" in page.one("#lightbox-score").text
        assert page.js("document.querySelector('#lightbox').contains(document.activeElement)")
    for _ in range(4):
        page.press("ARROW_LEFT")
    page.press("ESCAPE")
    page.wait(f"{focused} === 1")  # on the picture shown last, not the one opened first
    page.press("ARROW_UP")
    assert page.js("document.activeElement.id") == "query"
    page.press("ARROW_DOWN")
    page.press("ESCAPE")
    assert page.js("document.activeElement.id") == "query"
    page.press("ESCAPE")
    assert page.one("#query").get_attribute("value") == ""
    page.press("ARROW_DOWN")
    page.press("/")
    assert page.js("document.activeElement.id") == "query"


def test_a_picture_large_with_what_is_known_about_it(page):
    page.open("?q=红色")
    page.wait_for("results")
    page.one(".tile").click()
    page.wait("document.querySelector('#full').src.endsWith('/v1/images/0')")
    page.wait("document.querySelector('#full').naturalWidth === 300")
    assert page.one("#lightbox-title").text == "名字"
    names = page.js("[...document.querySelectorAll('.names > *')].map(e => e.textContent)")
    assert names == ["中文", "名字", "英语", "a name", "日语", "名前"]
    about = page.js("[...document.querySelectorAll('.about > *')].map(e => e.textContent)")
    assert about == [
        "来源",
        "https://example.org/pictures",
        "作者",
        "作者某",
        "许可",
        "CC0-1.0",
        "编号",
        "red.png",
    ]
    assert page.one(".about a").get_attribute("href") == "https://example.org/pictures"
    assert page.one("#original").get_attribute("href").endswith("/v1/images/0")
    # "Back" closes the picture and keeps the results.
    page.driver.back()
    page.wait("!document.querySelector('#lightbox').open")
    assert page.js("document.body.dataset.state") == "results"
    assert page.asked() == "红色"
    # A tag searches, and going back from there leads to the first search.
    page.one(".tile").click()
    page.wait("document.querySelector('#lightbox').open")
    page.all(".tags a")[1].click()
    page.wait("document.querySelector('#status').textContent.includes('“狗”')")
    assert not page.js("document.querySelector('#lightbox').open")
    page.driver.back()
    page.wait("document.querySelector('#status').textContent.includes('“红色”')")
    assert page.complaints() == []


def test_closing_with_the_mouse(page):
    page.open("?q=红色")
    page.wait_for("results")
    for close in (
        lambda: page.one("#close").click(),
        lambda: page.js("document.querySelector('#lightbox').click()"),  # the backdrop
    ):
        page.one(".tile").click()
        page.wait("document.querySelector('#lightbox').open")
        close()
        page.wait("!document.querySelector('#lightbox').open && !history.state?.picture")
    assert page.js("document.body.dataset.state") == "results"


def test_enter_that_chooses_a_word_does_not_search(page, searcher):
    enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
    page.open()
    page.driver.execute_cdp_cmd(
        "Input.imeSetComposition", {"text": "gou", "selectionStart": 3, "selectionEnd": 3}
    )
    for kind in ("keyDown", "keyUp"):
        page.driver.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": kind, **enter})
    time.sleep(0.3)
    assert searcher.queries == []
    page.driver.execute_cdp_cmd("Input.insertText", {"text": "狗"})
    assert page.one("#query").get_attribute("value") == "狗"
    page.press("ENTER")
    page.wait_for("results")
    assert searcher.queries == ["狗"]


def test_an_empty_index_says_so(page, searcher):
    searcher.rows = []
    page.open("?q=狗")
    page.wait_for("empty")
    assert page.one("#notice h2").text == "图库还是空的"


def test_browsers_that_end_the_composition_early_do_not_search_either(page, gate):
    """Safari tells of the Enter that chose a word after the composition's end, as key 229."""
    page.open()
    page.one("#query").send_keys("狗")
    start, end = (f"new CompositionEvent('composition{when}')" for when in ("start", "end"))
    page.js(f"document.querySelector('#query').dispatchEvent({start})")
    page.js("document.querySelector('#form').requestSubmit()")
    page.js(f"document.querySelector('#query').dispatchEvent({end})")
    enter = "{key: 'Enter', keyCode: 229, bubbles: true, cancelable: true}"
    passed = (
        f"document.querySelector('#query').dispatchEvent(new KeyboardEvent('keydown', {enter}))"
    )
    assert page.js(passed) is False, "nothing comes of that key"
    time.sleep(0.2)
    assert gate.bodies == []
    page.js("document.querySelector('#form').requestSubmit()")
    page.wait_for("results")


def test_where_nothing_matches_the_nearest_are_behind_a_button(page, searcher):
    searcher.improbable = True
    page.open("?q=宇宙飞船")
    page.wait_for("nothing")
    assert page.one("#notice h2").text == "没有匹配的图片"
    assert page.one("#status").text == "没有匹配的图片"
    assert page.all(".tile") == []
    assert page.one("#retry").text == "看看最接近的 6 张"
    page.one("#retry").click()
    page.wait_for("results")
    assert len(page.all(".tile")) == 6
    assert not page.one("#notice").is_displayed()
    assert page.js("document.activeElement.className") == "tile"
    searcher.improbable = False
    page.search("狗")
    page.wait_for_status("“狗”")
    assert page.js("document.body.dataset.state") == "results"


def test_a_busy_service_is_asked_again_by_itself(page, gate):
    gate.busy = 1
    page.open("?q=狗")
    page.wait_for_status("服务正忙，1 秒后自动再试")
    page.wait_for("results")
    assert len(gate.asked()) == 2
    gate.busy = 1
    page.search("猫")
    page.wait_for_status("服务正忙")
    page.press("ESCAPE")  # one need not wait
    page.wait_for("results")
    assert page.one("#status").text == "已停止"
    time.sleep(1.8)
    assert [body["query"] for body in gate.asked()[2:]] == ["猫"]


def test_a_key_is_asked_for_where_one_is_needed(page, gate):
    gate.key = KEY
    try:
        page.open("?q=红色")
        page.wait("!document.querySelector('#key').hidden")
        assert page.js("document.activeElement.id") == "key-entry"
        page.press("ct_wrong")
        page.press("ENTER")
        page.wait("document.querySelector('#key-wrong').textContent !== ''")
        assert page.one("#key-wrong").text == "这个密钥不对，或者已经过期。"
        page.press(KEY)
        page.press("ENTER")
        page.wait_for("results")
        assert page.js("document.querySelector('#key-entry').value") == ""
        assert "clip-text=" not in page.js("document.cookie"), "no script may see it"
        page.wait("[...document.querySelectorAll('.tile img')].every(i => i.naturalWidth > 0)")
        page.driver.refresh()
        page.wait_for("results")
        page.one("#sign-out").click()
        page.wait("document.querySelector('#key') && !document.querySelector('#key').hidden")
    finally:
        page.driver.delete_all_cookies()
    assert KEY not in str(page.js("[{...localStorage}, {...sessionStorage}, location.href]"))


def test_a_lost_picture_leaves_a_note(page, searcher):
    searcher.rows = [ROWS["gone.png"]]
    page.open("?q=狗")
    page.wait_for("results")
    page.wait("document.querySelector('.frame.lost')")
    assert page.one(".lost-note").text == "图片不见了"
    page.one(".tile").click()
    page.wait("!document.querySelector('#full-missing').hidden")


def test_words_of_a_picture_are_never_taken_for_html(page, searcher):
    hostile = "<img src=x onerror=\"document.title='taken'\">"
    searcher.caption = hostile
    searcher.metadata = {
        hostile: hostile,
        "names": {"not a language": hostile, "en": 5},
        "tags": [hostile, None, {}],
        "source": "javascript:document.title='taken'",
        "more": {"a": [1]},
    }
    page.open("?q=狗")
    page.wait_for("results")
    assert page.captions()[0] == hostile
    page.one(".tile").click()
    page.wait("document.querySelector('#lightbox').open")
    assert page.one("#lightbox-title").text == hostile
    assert page.all(".about a") == []
    assert '{"a":[1]}' in page.one(".about").text
    page.all(".tags a")[0].click()
    page.wait("document.querySelector('#status').textContent.includes('onerror')")
    assert "taken" not in page.driver.title.replace(hostile, "")
    assert page.all("img[src=x]") == []


def test_metadata_may_be_missing(page, searcher):
    searcher.metadata = {}
    page.open("?q=红色")
    page.wait_for("results")
    assert page.captions()[0] == CAPTIONS["red.png"]
    page.one(".tile").click()
    page.wait("document.querySelector('#lightbox').open")
    assert page.complaints() == []


def test_other_readers_get_english(page):
    agent = page.js("navigator.userAgent")

    def speak(language):
        page.driver.execute_cdp_cmd(
            "Emulation.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": language}
        )

    speak("fr-FR")
    try:
        page.open("?q=红色")
        page.wait_for("results")
        assert page.js("document.documentElement.lang") == "en"
        assert page.one("#form .go").text == "Search"
        assert page.one("#query").get_attribute("placeholder") == "What are you looking for?"
        assert page.captions()[0] == "a name"
        assert "the closest 6 of 6 pictures" in page.one("#status").text
    finally:
        speak("zh-CN")


def test_every_control_has_a_name(page):
    page.open("?q=红色")
    page.wait_for("results")
    page.one(".tile").click()
    page.wait("document.querySelector('#lightbox').open")
    nameless = page.js(
        "[...document.querySelectorAll('a[href], button, input')].filter(e =>"
        " !e.closest('[hidden]') && !(e.getAttribute('aria-label') || e.textContent).trim())"
        ".map(e => e.outerHTML)"
    )
    assert nameless == []
    assert page.js("[...document.images].filter(i => !i.hasAttribute('alt')).length") == 0
    # Both languages have every word the page asks for.
    assert "undefined" not in page.one("body").text


def test_both_languages_say_the_same_things(page):
    page.open()
    zh, en = page.driver.execute_async_script(
        "const [done] = arguments; const names = (words, way) => Object.entries(words).flatMap("
        "([name, of]) => of.constructor === Object ? names(of, `${way}${name}.`) : [way + name]);"
        "import('./page/texts.js').then(({TEXTS}) => done([names(TEXTS.zh, ''), "
        "names(TEXTS.en, '')]))"
    )
    assert zh == en
    assert "errors.overloaded" in en


@pytest.mark.parametrize("width", [320, 1600])
def test_nothing_sticks_out_sideways(page, searcher, width):
    searcher.caption = "很长的说明" * 20 + "x" * 80
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 2, "mobile": width < 500},
    )
    try:
        for path in ("", "?q=红色", "?q=" + "a" * 1001):
            page.open(path)
            page.wait("document.body.dataset.state !== 'loading'")
            assert page.js("document.documentElement.scrollWidth") <= width
        page.open("?q=红色")
        page.wait_for("results")
        page.one(".tile").click()
        page.wait("document.querySelector('#lightbox').open")
        right, left = page.js(
            "(r => [r.right, r.left])(document.querySelector('#lightbox').getBoundingClientRect())"
        )
        assert 0 <= left < right <= width
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_documentation_runs_without_network(page):
    page.open("docs")
    page.wait("document.querySelectorAll('.opblock').length >= 5")
    assert page.complaints() == []
