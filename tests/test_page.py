"""The page in a real browser: Chromium without a window, driven by selenium.

Where either is missing these tests are skipped, and the terminal says so.
"""

import importlib.util
import shutil
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
import uvicorn
from stub_searcher import CAPTIONS, METADATA, ROWS, StubSearcher

from retrieval.service.app import create_app

SHOWABLE = [row for name, row in ROWS.items() if name not in ("damaged.png", "gone.png")]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
PATIENCE = 30  # seconds; only a failing test waits this long


class PageSearcher(StubSearcher):
    """Shows the pictures a browser can show, and whatever else a test asks for."""

    def __init__(self, folder):
        super().__init__(folder)
        self.reset()

    def reset(self):
        self.failure = None
        self.category = None
        self.rows = SHOWABLE
        self.copies = 1
        self.caption = None
        self.metadata = METADATA
        self.hold = {}  # query → the event it waits for
        self.queries = []

    def __len__(self):
        return len(self.rows) * self.copies

    def search(self, query, top_k=10):
        self.queries.append(query)
        if query in self.hold:
            assert self.hold[query].wait(PATIENCE)
        hits = [hit for hit in super().search(query, 100) if hit.row in self.rows] * self.copies
        return [
            replace(hit, rank=rank, metadata=self.metadata, caption=self.caption or hit.caption)
            for rank, hit in enumerate(hits[:top_k], start=1)
        ]


@contextmanager
def listening(app):
    """A real server in a thread; gives its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, ws="none", log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + PATIENCE
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    return PageSearcher(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def address(searcher):
    with listening(create_app(searcher)) as address:
        yield address


@pytest.fixture(scope="module")
def chrome(request, tmp_path_factory):
    missing = [
        what
        for what, there in (
            ("chromium", CHROMIUM),
            ("chromedriver", CHROMEDRIVER),
            ("selenium", importlib.util.find_spec("selenium")),
        )
        if not there
    ]
    if missing:
        reason = f"the page is not tested in a browser: no {', no '.join(missing)} here"
        terminal = request.config.pluginmanager.get_plugin("terminalreporter")
        with request.config.pluginmanager.get_plugin(
            "capturemanager"
        ).global_and_fixture_disabled():
            terminal.write_line(f"\nSKIPPED: {reason}", yellow=True)
        pytest.skip(reason)

    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--no-proxy-server",
        # Without a window Chromium thinks it is a phone; these are a mouse that can hover.
        "--blink-settings=primaryHoverType=2,availableHoverTypes=2,"
        "primaryPointerType=4,availablePointerTypes=4",
        "--window-size=900,900",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"intl.accept_languages": "zh-CN"})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    yield driver
    driver.quit()


class Page:
    """What a person does with the page, in a few verbs."""

    def __init__(self, driver, address):
        self.driver = driver
        self.address = address

    def open(self, path=""):
        self.driver.get(self.address + path)

    def js(self, expression, *arguments):
        return self.driver.execute_script(f"return {expression}", *arguments)

    def wait(self, expression, *arguments):
        deadline = time.monotonic() + PATIENCE
        while not (value := self.js(expression, *arguments)):
            assert time.monotonic() < deadline, f"never came true: {expression}"
            time.sleep(0.03)
        return value

    def wait_for(self, state):
        self.wait("document.body.dataset.state === arguments[0]", state)

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def press(self, key):
        from selenium.webdriver.common.keys import Keys

        self.driver.switch_to.active_element.send_keys(getattr(Keys, key, key))

    def search(self, query):
        box = self.one("#query")
        box.clear()
        box.send_keys(query)
        self.press("ENTER")

    def captions(self):
        return self.js("[...document.querySelectorAll('.caption')].map(c => c.textContent)")

    def query(self):
        return self.js("new URLSearchParams(location.search).get('q')")

    def complaints(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture
def page(chrome, address, searcher):
    searcher.reset()
    chrome.get("about:blank")
    chrome.get_log("browser")
    yield Page(chrome, address)
    for event in searcher.hold.values():
        event.set()


def test_a_chinese_query_shows_pictures(page):
    page.open()
    assert page.js("document.activeElement.id") == "query"
    assert page.js("document.documentElement.lang") == "zh-Hans"
    page.search("红色")
    page.wait_for("results")
    assert page.query() == "红色"
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
    assert page.query() == "宽"
    assert page.one("#query").get_attribute("value") == "宽"
    page.driver.forward()
    page.wait("document.querySelector('#status').textContent.includes('透明的圆')")
    page.one("#home").click()
    page.wait_for("idle")
    assert (page.query(), page.captions()) == (None, [])
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
    assert page.query() == "红色的心"
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


def test_a_late_answer_does_not_replace_a_newer_one(page, searcher):
    searcher.hold["慢"] = threading.Event()
    page.open()
    page.js(
        "(send => { window.signals = []; window.fetch = (url, options) =>"
        " (window.signals.push(options.signal), send(url, options)) })(window.fetch)"
    )
    page.search("慢")
    page.wait_for("loading")
    page.wait("document.querySelectorAll('.ghost').length > 0")
    page.search("快")
    page.wait_for("results")
    searcher.hold["慢"].set()
    time.sleep(0.3)
    assert "快" in page.one("#status").text
    assert page.query() == "快"
    assert page.js("window.signals.map(signal => signal.aborted)") == [True, False]
    assert page.complaints() == []


def test_escape_gives_up_a_search(page, searcher):
    searcher.hold["慢"] = threading.Event()
    page.open()
    page.search("慢")
    page.wait_for("loading")
    page.press("ESCAPE")
    page.wait_for("idle")
    searcher.hold["慢"].set()
    time.sleep(0.2)
    assert page.js("document.body.dataset.state") == "idle"


def test_the_keyboard_alone_is_enough(page):
    focused = "[...document.querySelectorAll('.tile')].indexOf(document.activeElement)"
    page.open()
    page.search("红色")
    page.wait_for("results")
    columns = page.js(
        "(t => t.filter(x => x.offsetTop === t[0].offsetTop).length)"
        "([...document.querySelectorAll('.tile')])"
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
    assert page.query() == "红色"
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


def test_more_results_are_added_to_the_ones_there(page, searcher):
    searcher.copies = 20
    page.open("?q=红色")
    page.wait_for("results")
    assert len(page.all(".tile")) == 30
    page.js("document.querySelector('.tile').id = 'kept'")
    page.one("#more").click()
    page.wait("document.querySelectorAll('.tile').length === 60")
    page.wait_for("results")
    assert page.js("document.querySelector('.tile').id") == "kept"
    ranks = page.js(
        "[...document.querySelectorAll('.tile')].map(t => parseInt(t.getAttribute('aria-label')))"
    )
    assert ranks == list(range(1, 61))
    assert page.js("[...document.querySelectorAll('.tile')].indexOf(document.activeElement)") == 30
    for shown in (90, 120):
        page.one("#more").click()
        page.wait("document.querySelectorAll('.tile').length === arguments[0]", shown)
        page.wait_for("results")
    assert not page.one("#more").is_displayed()


def test_an_empty_index_says_so(page, searcher):
    searcher.rows = []
    page.open("?q=狗")
    page.wait_for("empty")
    assert page.one("#notice h2").text == "图库还是空的"


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
        " !(e.getAttribute('aria-label') || e.textContent).trim()).map(e => e.outerHTML)"
    )
    assert nameless == []
    assert page.js("[...document.images].filter(i => !i.hasAttribute('alt')).length") == 0
    # Both languages have every word the page asks for.
    assert "undefined" not in page.one("body").text


@pytest.mark.parametrize("width", [320, 390, 768, 1600])
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
