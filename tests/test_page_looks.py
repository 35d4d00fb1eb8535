"""How the page looks, and whether everybody can use it: each state, light, dark, wide, narrow.

Screenshots go where ``CLIP_TEXT_SCREENSHOTS`` says, for a person to look at.
"""

import json

import pytest
from page_browser import (
    DESKTOP,
    PHONE,
    Page,
    axe_source,
    chrome,
    listening,
    screenshots,
    violations,
)
from page_service import Gate, PageSearcher, album_app, draw, make_album, stub_app

__all__ = ["chrome"]  # a fixture


@pytest.fixture(scope="module")
def album(chrome, tmp_path_factory):
    folders = {name: tmp_path_factory.mktemp(name) for name in ("album", "cards")}
    app, searchers = album_app({name: make_album(each, 30) for name, each in folders.items()})
    gate = Gate(app)
    with listening(gate) as address:
        yield gate, Page(chrome, address)
    for each in searchers.values():
        each.close()


@pytest.fixture(scope="module")
def stub(chrome, tmp_path_factory):
    searcher = PageSearcher(tmp_path_factory.mktemp("pictures"))
    with listening(stub_app(searcher)) as address:
        yield searcher, Page(chrome, address)


@pytest.fixture(scope="module")
def look(chrome, tmp_path_factory):
    """Writes a screenshot, and gives what is wrong with what is shown, in lines to read."""
    axe, folder = axe_source(), screenshots(tmp_path_factory)

    def call(page, name):
        settle(page)
        page.driver.save_screenshot(str(folder / f"{name}.png"))
        lines = violations(page, axe)
        if page.js("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
            lines.append("something sticks out sideways")
        return lines

    return call


def idle(page):
    page.open()
    page.wait_for("idle")
    page.wait("!document.querySelector('#collection').hidden")


def results(page):
    page.open("?q=红色的船")
    page.wait_for("results")


def suggestions(page):
    idle(page)
    page.one("#query").send_keys("红")
    page.wait("document.querySelector('#query').ariaExpanded === 'true'")
    page.press("ARROW_DOWN")


def terms_and_filters(page):
    chosen = json.dumps(["tags", "=", "红色"], ensure_ascii=False)
    page.open(f"?q=船&not=雪&like=3&filter={chosen}")
    page.wait_for("results")
    page.give("drop", ("沙滩.png", "image/png", draw(9)))
    page.wait("document.querySelectorAll('.term').length === 5")
    page.wait_for("results")
    page.click("#filter")
    page.wait("document.querySelectorAll('.value').length > 3")
    page.js("window.scrollTo(0, 0)")


def lightbox(page):
    results(page)
    page.click(".tile")
    page.wait("document.querySelector('#lightbox').open")


def lost_picture(page):
    page.open("?picture=0011")
    page.wait("!document.querySelector('#lost').hidden")


def refused(page):
    page.open("?q=" + "a" * 1001)
    page.wait_for("error")


def dropping(page):
    results(page)
    page.js("(document.querySelector('#drop').hidden = false)")


def no_pictures_left(page):
    page.open(f"?q=船&filter={json.dumps(['year', '>=', 3000])}")
    page.wait_for("empty")


def nothing_matches(page, searcher):
    searcher.improbable = True
    page.open("?q=宇宙飞船")
    page.wait_for("nothing")


def no_pictures(page, searcher):
    searcher.rows = []
    page.open("?q=船")
    page.wait_for("empty")


def key(page):
    page.open("?q=船")
    page.wait("!document.querySelector('#key').hidden")


MAIN = (results, suggestions, terms_and_filters, lightbox, key)
ALL = (*MAIN, idle, lost_picture, refused, dropping, no_pictures_left)
OF_THE_STUB = (nothing_matches, no_pictures)
LOOKS = [
    pytest.param((DESKTOP, "light", ALL), id="desktop-light"),
    pytest.param((PHONE, "dark", MAIN), id="phone-dark"),
    pytest.param((DESKTOP, "dark", ALL), id="desktop-dark", marks=pytest.mark.slow),
    pytest.param((PHONE, "light", ALL), id="phone-light", marks=pytest.mark.slow),
    pytest.param((PHONE, "dark", ALL), id="all-phone-dark", marks=pytest.mark.slow),
]


def settle(page):
    """Wait until nothing moves, so that colours are what they will be."""
    page.wait("document.getAnimations().every(a => a.playState !== 'running')")
    page.wait("[...document.querySelectorAll('.tile img')].slice(0, 6).every(i => i.complete)")


@pytest.mark.parametrize("seen", LOOKS)
def test_every_state_is_accessible(album, stub, look, request, seen):
    name = request.node.callspec.id
    size, scheme, states = seen
    gate, page = album
    searcher, other = stub
    wrong = {}
    with page.seen_as(size, scheme):
        for show in states:
            gate.reset()
            gate.key = "a key" if show is key else None
            show(page)
            wrong[show.__name__] = look(page, f"{name}-{show.__name__}")
        for show in OF_THE_STUB:
            searcher.reset()
            show(other, searcher)
            wrong[show.__name__] = look(other, f"{name}-{show.__name__}")
    assert {state: lines for state, lines in wrong.items() if lines} == {}


def test_axe_finds_what_is_wrong(album, look):
    gate, page = album
    gate.reset()
    results(page)
    page.js("document.querySelector('#query').removeAttribute('aria-label')")
    page.js("document.querySelector('#query').removeAttribute('placeholder')")
    page.js("(document.querySelector('.caption').style.color = '#ddd')")
    page.js("(document.querySelector('#status').style.width = '3000px')")
    page.js("(document.querySelector('#status').style.flex = 'none')")
    ids = {line.split(":")[0] for line in look(page, "wrong")}
    assert ids == {"label", "color-contrast", "something sticks out sideways"}


def test_nothing_moves_for_who_wants_it_still(chrome, album):
    page = album[1]
    features = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        results(page)
        moving = (
            "[...document.querySelectorAll('*')].filter(e => /[1-9]/.test("
            "getComputedStyle(e).transitionDuration + getComputedStyle(e).animationDuration))"
        )
        assert page.js(f"{moving}.length") == 0
        chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        assert page.js(f"{moving}.length") > 0
    finally:
        chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
