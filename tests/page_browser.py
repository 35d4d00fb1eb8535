"""Chromium without a window, driven by selenium, and what a person does in it.

One browser serves all files of tests that a process runs. Where Chromium or what drives it is
missing these tests are skipped, and the terminal says so.
"""

import base64
import importlib.util
import os
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
PATIENCE = 30  # seconds; only a failing test waits this long
DESKTOP, PHONE = (1280, 860), (390, 844)
_started = []


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


@pytest.fixture(scope="session")
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
    if not _started:  # a fixture that several files import is made for each of them
        _started.append(_start(tmp_path_factory.mktemp("profile")))
        request.config.add_cleanup(_started[0].quit)
    return _started[0]


def _start(profile):
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
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"intl.accept_languages": "zh-CN"})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))


class Page:
    """What a person does with the page, in a few verbs."""

    def __init__(self, driver, address):
        self.driver = driver
        self.address = address
        driver.get("about:blank")
        driver.get_log("browser")

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

    def wait_for_status(self, words):
        self.wait("document.querySelector('#status').textContent.includes(arguments[0])", words)

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def texts(self, selector):
        found = "[...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        return self.js(found, selector)

    def press(self, key):
        from selenium.webdriver.common.keys import Keys

        self.driver.switch_to.active_element.send_keys(getattr(Keys, key, key))

    def search(self, query):
        box = self.one("#query")
        box.clear()
        box.send_keys(query)
        self.press("ENTER")

    def captions(self):
        return self.texts(".caption")

    def asked(self, name="q"):
        return self.js("new URLSearchParams(location.search).get(arguments[0])", name)

    def click(self, selector):
        """By the program: what a person would see is clicked wherever it has been scrolled to."""
        self.js("document.querySelector(arguments[0]).click()", selector)

    def give(self, how, *files):
        """Drop or paste files, as (name, type, bytes)."""
        given = [(name, kind, base64.b64encode(data).decode()) for name, kind, data in files]
        self.driver.execute_script(_GIVE, how, given)

    def complaints(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]

    @contextmanager
    def seen_as(self, size, scheme):
        """As on a screen of a size in pixels, light or dark."""
        width, height = size
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


_GIVE = """
const [how, files] = arguments;
const data = new DataTransfer();
for (const [name, type, text] of files) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  data.items.add(new File([bytes], name, {type}));
}
const kinds = how === "paste" ? ["paste"] : ["dragenter", "dragover", "drop"];
for (const kind of kinds) {
  const options = {bubbles: true, cancelable: true};
  const event = how === "paste" ? new ClipboardEvent(kind, {...options, clipboardData: data})
    : new DragEvent(kind, {...options, dataTransfer: data});
  document.querySelector("main").dispatchEvent(event);
}
"""


def axe_source():
    """The text of axe-core, which axe-playwright-python brings along; playwright is not used."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None:
        pytest.skip("accessibility is not checked: axe-playwright-python is not installed")
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")


def violations(page, axe):
    """What axe-core finds against WCAG 2.2 AA and its own good practice, as lines to read."""
    page.driver.execute_script(axe)
    found = page.driver.execute_async_script(
        "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']})"
        ".then(result => done(result.violations), error => done([String(error)]))"
    )
    return [
        each
        if isinstance(each, str)
        else f"{each['id']}: {[node['html'][:120] for node in each['nodes']]}"
        for each in found
    ]


def screenshots(tmp_path_factory):
    """The folder that pictures of the page are written into."""
    named = os.environ.get("CLIP_TEXT_SCREENSHOTS")
    if not named:
        return tmp_path_factory.mktemp("screenshots")
    folder = Path(named)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
