"""Who may do what: keys, their file, sessions of the page, and how often one may ask."""

import asyncio
import logging
import re
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute
from stub_searcher import StubSearcher

from retrieval.errors import EncoderError
from retrieval.service import key_file
from retrieval.service.app import create_app
from retrieval.service.described import scope_of
from retrieval.service.hosts import for_host
from retrieval.service.key_file import add_key, digest_of, revoke_key
from retrieval.service.keys import COOKIE, is_open
from retrieval.service.settings import Settings

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    return StubSearcher(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def keys(tmp_path):
    """A file with a key of each scope, and the keys."""
    path = tmp_path / "keys.toml"
    return path, {scope: add_key(path, f"a-{scope}", scope)[1] for scope in key_file.SCOPES}


def asking(searcher, **settings):
    """A client of an application in this process, which may send several requests."""
    app = create_app(searcher, settings=Settings(**settings))

    def ask(*requests, base_url="http://test"):
        async def all_of_them():
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
                return [await client.request(*way, **rest) for *way, rest in requests]

        return asyncio.run(all_of_them())

    ask.app = app
    return ask


def bearer(key):
    return {"authorization": f"Bearer {key}"}


def get(path, headers=None):
    return ("GET", path, {"headers": headers or {}})


def search(headers=None, **body):
    return ("POST", "/v1/search", {"headers": headers or {}, "json": {"query": "红"} | body})


def kind(response):
    return response.status_code, response.json()["error"]["type"]


# What a key is good for


def test_without_keys_all_is_open(searcher):
    answers = asking(searcher)(search(), get("/metrics"), get("/docs"), get("/v1/images/0"))
    assert [answer.status_code for answer in answers] == [200] * 4


def test_without_keys_others_may_only_search_where_they_reach_the_service(searcher):
    settings = for_host(Settings(), "0.0.0.0")
    write = ("POST", "/v1/items", {"json": {"id": "x", "feature": [1.0]}})
    reload = ("POST", "/v1/admin/reload", {"json": {}})
    ask = asking(searcher, **settings.model_dump(exclude_unset=True))
    answers = ask(search(), get("/metrics"), write, reload)
    assert [answer.status_code for answer in answers] == [200, 200, 403, 403]
    assert kind(answers[2]) == (403, "forbidden")
    assert "expected a key of the scope write, got none" in answers[2].text
    opened = asking(searcher, without_keys="write")(write, reload)
    assert [kind(answer) for answer in opened] == [(403, "not_writable"), (403, "forbidden")]


def test_without_keys_what_a_proxy_hands_on_may_only_search(searcher):
    ask = asking(searcher, **for_host(Settings(), "127.0.0.1").model_dump(exclude_unset=True))

    def reload(**headers):
        own = {"host": "127.0.0.1"} | headers
        return ("POST", "/v1/admin/reload", {"json": {}, "headers": own})

    handed_on = {"x-forwarded-for": "203.0.113.9"}
    own, strangers, via, found = ask(
        reload(),
        reload(**handed_on),
        reload(via="1.1 x"),
        search({"host": "localhost"} | handed_on),
    )
    assert kind(own) != (403, "forbidden")
    assert kind(strangers) == kind(via) == (403, "forbidden")
    assert found.status_code == 200


def test_with_keys_only_the_page_and_health_are_open(searcher, keys):
    ask = asking(searcher, keys=keys[0])
    shut = ("/v1/images/0", "/metrics", "/docs", "/openapi.json", "/redoc", "/version", "/nothing")
    for answer in ask(search(), search(bearer("ct_wrong")), *map(get, shut)):
        assert kind(answer) == (401, "unauthorized"), answer.url
        assert answer.headers["www-authenticate"].startswith("Bearer ")
        assert "ct_wrong" not in answer.text
    for answer in ask(*map(get, ("/", "/healthz", "/readyz", "/page/style.css"))):
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("scope", "expected"), [("search", [200, 403]), ("write", [200, 403]), ("admin", [200, 200])]
)
def test_each_scope_may_do_what_the_ones_before_may(searcher, keys, scope, expected):
    key = keys[1][scope]
    ask = asking(searcher, keys=keys[0])
    for headers in (bearer(key), {"authorization": f"bearer  {key} "}, {"x-api-key": key}):
        answers = ask(search(headers), get("/metrics", headers))
        assert [answer.status_code for answer in answers] == expected
        if expected[1] == 403:
            assert kind(answers[1]) == (403, "forbidden")
            assert f"scope admin, got {scope}" in answers[1].text


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Basic dTpw"},  # for a proxy
        {"authorization": "Bearer ct_" + "x" * 43},
        {"authorization": b"Bearer \xff\xfe"},
        {"authorization": "Bearer " + "x" * 20_000},
        {"x-api-key": ""},
        {"cookie": f"{COOKIE}=a-admin~9999999999~" + "0" * 64},
        {"cookie": f"{COOKIE}=~~"},
        {"cookie": f"{COOKIE}=a-admin~٣~x".encode()},
        {"cookie": "=;=;;[]\\"},
    ],
)
def test_what_is_no_key(searcher, keys, headers):
    for answer in asking(searcher, keys=keys[0])(search(headers), get("/metrics", headers)):
        assert kind(answer) == (401, "unauthorized")


def test_two_keys_at_once_are_none(searcher, keys):
    both = [("authorization", f"Bearer {keys[1]['search']}"), ("x-api-key", keys[1]["admin"])]
    (answer,) = asking(searcher, keys=keys[0])(get("/metrics", both))
    assert kind(answer) == (401, "unauthorized")


def test_no_body_is_read_of_who_has_no_key(searcher, keys):
    ask = asking(searcher, keys=keys[0])
    read = []

    async def body():
        read.append(1)
        yield b"x"

    (answer,) = ask(("POST", "/v1/search", {"content": body()}))
    assert (answer.status_code, read) == (401, [])


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/items/delete"), ("PATCH", "/v1/items/a")]
)
def test_no_write_is_read_of_who_may_not_write(searcher, keys, method, path):
    sent = {"content": b"{" * 1_000, "headers": bearer(keys[1]["search"])}
    (answer,) = asking(searcher, keys=keys[0])((method, path, sent))
    assert kind(answer) == (403, "forbidden")


def test_keys_made_and_taken_away_hold_without_a_restart(searcher, keys):
    path, by_scope = keys
    ask = asking(searcher, keys=path)
    assert ask(search(bearer(by_scope["search"])))[0].status_code == 200
    revoke_key(path, "a-search")
    assert ask(search(bearer(by_scope["search"])))[0].status_code == 401
    _, new = add_key(path, "new", "search")
    assert ask(search(bearer(new)))[0].status_code == 200
    for name in ("a-write", "a-admin", "new"):
        revoke_key(path, name)
    assert ask(search(bearer(new)), search())[1].status_code == 401  # none at all: still shut
    path.write_text("damaged")
    assert kind(ask(search(bearer(new)))[0]) == (503, "keys_unavailable")
    path.unlink()
    assert kind(ask(search(bearer(new)))[0]) == (503, "keys_unavailable")
    assert ask(get("/healthz"))[0].status_code == 200


def test_a_key_ends_when_it_says(searcher, tmp_path, monkeypatch):
    path = tmp_path / "keys.toml"
    key, secret = add_key(path, "short", "search", timedelta(hours=1))
    assert key.expires - key.created == timedelta(hours=1)
    ask = asking(searcher, keys=path)
    assert ask(search(bearer(secret)))[0].status_code == 200

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(hours=1, seconds=1)

    monkeypatch.setattr(key_file, "datetime", Later)
    assert kind(ask(search(bearer(secret)))[0]) == (401, "unauthorized")


# Sessions of the page


def cookie_of(answer):
    return re.match(rf"{COOKIE}=([^;]*)", answer.headers["set-cookie"])[1]


def with_cookie(value):
    return {"cookie": f"other=1; {COOKIE}={value}"}


def opening(key):
    return ("POST", "/v1/session", {"headers": bearer(key)})


@pytest.mark.parametrize("scope", key_file.SCOPES)
def test_a_session_may_search_and_no_more(searcher, keys, scope):
    ask = asking(searcher, keys=keys[0])
    (answer,) = ask(opening(keys[1][scope]))
    assert (answer.status_code, answer.content) == (204, b"")
    said = answer.headers["set-cookie"].lower()
    assert all(each in said for each in ("httponly", "samesite=strict", "path=/", "max-age=43200"))
    assert "secure" not in said  # nothing but http, or the browser would keep it to itself
    assert keys[1][scope] not in answer.headers["set-cookie"]
    session = with_cookie(cookie_of(answer))
    answers = ask(search(session), get("/v1/images/0", session), get("/metrics", session))
    assert [each.status_code for each in answers] == [200, 200, 403]
    assert "got a session" in answers[2].text
    renewed = ask(("POST", "/v1/session", {"headers": session}))[0]
    assert kind(renewed) == (401, "unauthorized")
    (answer,) = ask(opening(keys[1][scope]), base_url="https://t")
    assert "; secure" in answer.headers["set-cookie"].lower()


def test_a_session_ends_with_its_key_and_its_time(searcher, keys, monkeypatch):
    path, by_scope = keys
    ask = asking(searcher, keys=path)
    session = with_cookie(cookie_of(ask(opening(by_scope["write"]))[0]))
    assert ask(search(session))[0].status_code == 200
    revoke_key(path, "a-write")
    assert ask(search(session))[0].status_code == 401
    add_key(path, "a-write", "write")  # another key, though of that name
    assert ask(search(session))[0].status_code == 401
    short = asking(searcher, keys=path, session_s=1e-9)
    session = with_cookie(cookie_of(short(opening(by_scope["admin"]))[0]))
    assert short(search(session))[0].status_code == 401


def test_a_session_cannot_be_changed(searcher, keys):
    ask = asking(searcher, keys=keys[0])
    good = cookie_of(ask(opening(keys[1]["search"]))[0])
    name, until, seal = good.split("~")
    assert ask(search(with_cookie(good)))[0].status_code == 200
    for changed in (
        f"{name}~{int(until) + 1}~{seal}",
        f"a-admin~{until}~{seal}",
        f"{name}~{until}~{seal[:-1]}{'0' if seal[-1] != '0' else '1'}",
        f"{name}~{until}~",
        f"{name}~{until}",
    ):
        assert ask(search(with_cookie(changed)))[0].status_code == 401, changed


def test_a_session_is_closed(searcher, keys):
    (answer,) = asking(searcher, keys=keys[0])(("DELETE", "/v1/session", {}))
    assert answer.status_code == 204
    assert re.search(rf'{COOKIE}="";.*max-age=0', answer.headers["set-cookie"], re.IGNORECASE)
    (answer,) = asking(searcher)(("POST", "/v1/session", {}))
    assert (answer.status_code, "set-cookie" in answer.headers) == (204, False)


@pytest.mark.parametrize(
    ("before", "after"),
    [('prefs={"a": 1}; ', ""), ("", '; prefs={"a": 1}'), ("foo; ", "; bar"), ('a="b; ', ";;=;")],
)
def test_cookies_of_other_applications_of_this_host_do_no_harm(searcher, keys, before, after):
    ask = asking(searcher, keys=keys[0])
    good = cookie_of(ask(opening(keys[1]["search"]))[0])
    for value, status in ((good, 200), (good[:-1], 401)):
        cookie = {"cookie": f"{before}{COOKIE}={value}{after}"}
        assert ask(search(cookie))[0].status_code == status


# Every route


def test_every_route_of_v1_says_what_scope_it_needs(searcher):
    routes = asking(searcher).app.state.routes
    assert {"/v1/search", "/v1/images/{row}"} <= {route.path for route in routes}
    silent = [route.path for route in routes if not is_open(route.path) and scope_of(route) is None]
    assert silent == [], 'give the router dependencies=[needs("search")], or the like'
    reading = {"GET", "HEAD"}
    for route in routes:
        if route.path.startswith("/v1/items") and not route.methods <= reading:
            assert scope_of(route) in {"write", "admin"}, route.path
        if route.path.startswith("/v1/admin"):
            assert scope_of(route) == "admin", route.path
        if type(route) is not APIRoute and not is_open(route.path):
            # it may go past what it depends on; the gate asks for this much of everybody
            assert scope_of(route) == "search", route.path


def test_every_route_asks_for_its_key(searcher, keys):
    ask = asking(searcher, keys=keys[0])
    asked = 0
    for route in ask.app.state.routes:
        path = re.sub(r"\{[^}]*\}", "1", route.path)
        for method in route.methods if not is_open(route.path) else ():
            needed = scope_of(route)
            shut, narrow = ask(
                (method, path, {}), (method, path, {"headers": bearer(keys[1]["search"])})
            )
            assert shut.status_code == 401, (method, path)
            assert (narrow.status_code == 403) == (needed != "search"), (method, path)
            asked += 1
    assert asked >= 8


def test_the_document_says_so(searcher, keys):
    plain = asking(searcher).app.openapi()
    assert "securitySchemes" not in plain["components"]
    shut = asking(searcher, keys=keys[0], rate="60/minute").app.openapi()
    assert {"key", "x-api-key", "session"} == set(shut["components"]["securitySchemes"])
    asked = shut["paths"]["/v1/search"]["post"]
    assert asked["security"] == [{"key": []}, {"x-api-key": []}, {"session": []}]
    assert {"401", "403", "429"} <= set(asked["responses"])
    assert "scope search" in asked["description"]
    assert "scope admin" in shut["paths"]["/metrics"]["get"]["description"]
    assert "security" not in shut["paths"]["/healthz"]["get"]


# How often


def test_who_asks_too_often_is_told_when_to_come_again(searcher, keys):
    ask = asking(searcher, keys=keys[0], rate="3/hour")
    first = bearer(keys[1]["search"])
    answers = ask(*(search(first) for _ in range(5)))
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert [answer.headers["ratelimit-remaining"] for answer in answers] == list("21000")
    assert {answer.headers["ratelimit-limit"] for answer in answers} == {"3"}
    assert kind(answers[3]) == (429, "too_many_requests")
    assert 0 < int(answers[3].headers["retry-after"]) <= 2 * 3600
    assert "retry-after" not in answers[2].headers
    # pictures, health and other callers go on
    others = ask(
        get("/v1/images/0", first), get("/healthz", first), search(bearer(keys[1]["write"]))
    )
    assert [answer.status_code for answer in others] == [200] * 3
    # those without a key are counted by their address, and do not find out more of them
    guesses = ask(*(search(bearer(f"ct_{number}")) for number in range(5)))
    assert [answer.status_code for answer in guesses] == [401, 401, 401, 429, 429]


@pytest.mark.parametrize("rate", ["", "fast", "0/minute", "10", "10/", "-1/second", "1/fortnight"])
def test_rates_that_are_none(rate):
    with pytest.raises(ValueError, match="rate"):
        Settings(rate=rate)


def test_an_address_of_ipv6_is_one_of_a_network():
    from retrieval.service.rates import Rates

    names = [Rates.caller(None, (address, 1)) for address in ("2001:db8::1", "2001:db8::2")]
    assert names == ["2001:db8::/64"] * 2
    assert Rates.caller(None, ("192.0.2.1", 1)) == "192.0.2.1"
    assert Rates.caller(None, ("::ffff:192.0.2.1", 1)) == "192.0.2.1"
    assert Rates.caller("page", ("192.0.2.1", 1)) == "key page"


# Nothing tells a key


def test_no_key_is_logged_or_counted(searcher, keys, caplog):
    caplog.set_level(logging.DEBUG)
    path, by_scope = keys
    ask = asking(searcher, keys=path)
    wrong = "ct_wrong" + "y" * 35
    answers = ask(
        search(bearer(by_scope["write"])),
        search({"x-api-key": wrong}),
        get("/metrics", bearer(by_scope["admin"])),
        get(f"/v1/images/{by_scope['admin'][3:9]}", bearer(by_scope["search"])),
        opening(by_scope["search"]),
    )
    searcher.failure = EncoderError("on fire")
    try:
        answers += ask(search(bearer(by_scope["search"])))
    finally:
        searcher.failure = None
    path.write_text(f'[[keys]]\nsha256 = "{wrong}"')  # a key in place of its hash
    answers += ask(search(bearer(by_scope["search"])))
    said = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    said += "".join(answer.text + str(answer.headers) for answer in answers)
    assert "a-write" in said
    assert "on fire" in caplog.text
    for secret in (*by_scope.values(), wrong):
        assert secret[8:] not in said
        assert digest_of(secret) not in said
