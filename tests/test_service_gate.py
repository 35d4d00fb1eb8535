"""By what name the service is called, from which pages, what its answers carry, and its log."""

import asyncio
import json
import logging
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from stub_searcher import StubSearcher
from test_service_keys import asking, bearer, get, kind, search

from retrieval.errors import EncoderError
from retrieval.service import guard, problems
from retrieval.service.app import Served, create_app
from retrieval.service.batching import OverloadedError
from retrieval.service.hosts import HERE, for_host, is_loopback
from retrieval.service.key_file import add_key
from retrieval.service.logs import REQUEST_ID, JsonLines, TextLines
from retrieval.service.settings import DEFAULTS, Settings

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    return StubSearcher(tmp_path_factory.mktemp("pictures"))


# Names


@pytest.mark.parametrize(
    ("host", "names"),
    [
        *((host, HERE) for host in ("127.0.0.1", "::1", "localhost", "LOCALHOST")),
        ("127.0.0.2", (*HERE, "127.0.0.2")),
        ("::ffff:127.0.0.1", None),
        *((host, None) for host in ("0.0.0.0", "::", "192.0.2.1", "pictures.example")),
    ],
)
def test_who_only_this_machine_reaches_is_called_by_its_names(host, names):
    decided = for_host(DEFAULTS, host)
    assert decided.allowed_hosts == names
    assert decided.without_keys == ("search" if names is None else None)
    assert is_loopback(host) == (names is not None)
    own = Settings(allowed_hosts=("pictures.example",), without_keys="write")
    assert for_host(own, host) == own


@pytest.mark.parametrize(
    ("allowed", "host", "is_fine"),
    [
        (None, "whatever.example", True),
        (("*",), "whatever.example", True),
        (("pictures.example",), "pictures.example", True),
        (("Pictures.Example",), "PICTURES.example.:8000", True),
        (("pictures.example",), "pictures.example.evil.example", False),
        (("pictures.example",), "evil-pictures.example", False),
        (("*.example.org",), "a.example.org", True),
        (("*.example.org",), "a.b.example.org:1", True),
        (("*.example.org",), "example.org", False),
        (("*.example.org",), ".example.org", False),
        (("*.example.org",), "aexample.org", False),
        (HERE, "[::1]:8000", True),
        (HERE, "[::1", False),
        (HERE, "::1", False),
        (HERE, "127.0.0.1:", True),
        (HERE, "127.0.0.1:80:80", False),
        (HERE, "", False),
        ((), "localhost", False),
    ],
)
def test_a_host_is_one_of_those_allowed(searcher, allowed, host, is_fine):
    ask = asking(searcher, allowed_hosts=allowed)
    (answer,) = ask(get("/healthz", {"host": host}))
    assert answer.status_code == (200 if is_fine else 400)
    if not is_fine:
        assert kind(answer) == (400, "unknown_host")
        assert "x-content-type-options" in answer.headers


# Pages of other sites

OTHER = {"origin": "https://example.org"}
PREFLIGHT = OTHER | {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


def test_pages_of_other_sites_read_nothing_unless_they_may(searcher):
    answers = asking(searcher)(
        search(OTHER), ("OPTIONS", "/v1/search", {"headers": PREFLIGHT}), get("/v1/images/0", OTHER)
    )
    assert [answer.status_code for answer in answers] == [200, 405, 200]
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_pages_that_may_read_even_refusals(searcher, tmp_path):
    add_key(tmp_path / "k", "page", "search")
    ask = asking(searcher, cors_origins=("https://example.org",), keys=tmp_path / "k")
    preflight, refused, of_evil = ask(
        ("OPTIONS", "/v1/search", {"headers": PREFLIGHT}),
        search(OTHER),
        search({"origin": "https://evil.example"}),
    )
    assert preflight.status_code == 200  # browsers send no key with it
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    assert preflight.headers["access-control-allow-origin"] == "https://example.org"
    assert "x-request-id" in preflight.headers
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://example.org"
    assert refused.headers["cross-origin-resource-policy"] == "cross-origin"
    assert "access-control-allow-origin" not in of_evil.headers
    # the cookie of the page is for the page of this service
    assert "access-control-allow-credentials" not in preflight.headers


# Headers


@pytest.mark.parametrize("path", ["/", "/docs", "/v1/images/0", "/nothing", "/healthz"])
def test_every_answer_is_guarded(searcher, path):
    (answer,) = asking(searcher)(get(path))
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "camera=()" in answer.headers["permissions-policy"]
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert ("unsafe-inline" in policy) == (path == "/docs")


# Bounds


def test_headers_have_a_bound_in_any_server(searcher):
    ask = asking(searcher, head_bytes=2_048)
    fits, too_large, long_address = ask(
        get("/healthz", {"x-a": "a" * 1_000}),
        get("/healthz", {"x-a": "a" * 3_000}),
        get("/healthz?" + "a" * 3_000),
    )
    assert fits.status_code == 200
    for answer in (too_large, long_address):
        assert kind(answer) == (431, "headers_too_large")
        assert answer.headers["connection"] == "close"


def test_a_body_has_longer_the_more_of_it_has_come(searcher, monkeypatch):
    # 4 pieces in 0.8 s, where 0.3 s are given, and a second more for each 4 bytes
    monkeypatch.setattr(guard, "_BYTES_A_SECOND", 4)
    whole = json.dumps({"query": "红"}).encode()

    def slowly(step):
        async def body():
            for start in range(0, len(whole), step):
                yield whole[start : start + step]
                await asyncio.sleep(0.2)

        return body()

    ask = asking(searcher, body_s=0.3)
    headers = {"content-type": "application/json"}
    quick, slow = ask(
        *(("POST", "/v1/search", {"content": slowly(each), "headers": headers}) for each in (6, 99))
    )
    assert quick.status_code == slow.status_code == 200
    monkeypatch.setattr(guard, "_BYTES_A_SECOND", 10_000)
    (late,) = ask(("POST", "/v1/search", {"content": slowly(6), "headers": headers}))
    assert kind(late) == (408, "request_too_slow")
    assert late.headers["connection"] == "close"


@pytest.mark.parametrize("drops", [0, 40], ids=["nothing more", "a drop at a time"])
def test_what_came_fast_is_no_patience_for_what_does_not_come(searcher, monkeypatch, drops):
    monkeypatch.setattr(guard, "_BYTES_A_SECOND", 100)

    async def body():
        yield json.dumps({"query": "红"}).encode() + b" " * 10_000  # 100 seconds' worth
        for _ in range(drops):
            await asyncio.sleep(0.1)
            yield b" "
        if not drops:
            await asyncio.sleep(4)

    headers = {"content-type": "application/json"}
    ask = asking(searcher, body_s=0.5)
    began = time.monotonic()
    (answer,) = ask(("POST", "/v1/search", {"content": body(), "headers": headers}))
    assert kind(answer) == (408, "request_too_slow")
    assert time.monotonic() - began < 3


# Its log


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "retrieval")
    return lambda: [each for each in caplog.records if each.name == "retrieval.access"]


def test_each_request_has_an_id_and_a_line(searcher, log, tmp_path):
    _, key = add_key(tmp_path / "k", "page", "search")
    ask = asking(searcher, keys=tmp_path / "k")
    answers = ask(
        search(bearer(key), query="红色的秘密"),
        get("/v1/images/1?collection=nowhere", bearer(key) | {"x-request-id": "mine-1.2_3"}),
        get("/nothing%0Aat-all?q=秘密"),
    )
    names = [answer.headers["x-request-id"] for answer in answers]
    assert re.fullmatch(r"[0-9a-f]{16}", names[0])
    assert names[1] == "mine-1.2_3"
    told = [record.about for record in log()]
    assert [(each["route"], each["status"], each["key"]) for each in told] == [
        ("/v1/search", 200, "page"),
        ("/v1/images/{row}", 404, "page"),
        ("other", 401, None),
    ]
    assert told[0]["ms"] > 0
    assert log()[2].getMessage().count("\n") == 0
    assert r"/nothing\nat-all" in log()[2].getMessage()
    assert (told[1]["method"], told[1]["path"]) == ("GET", "/v1/images/1")
    said = "".join(record.getMessage() + str(record.__dict__) for record in log())
    assert "秘密" not in said
    assert "nowhere" not in said


@pytest.mark.parametrize("name", ["", "a" * 65, "a b", "a;b", "é", "<script>", "a\tb"])
def test_an_id_that_might_do_harm_is_not_taken_over(searcher, name):
    (answer,) = asking(searcher)(get("/healthz", {"x-request-id": name.encode()}))
    assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["x-request-id"])


def test_a_crash_has_its_id_and_is_counted_as_one(searcher, log):
    app = create_app(searcher)

    @app.get("/v1/crash")
    async def crash():
        raise RuntimeError("a secret")

    async def ask():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            crashed = await client.get("/v1/crash", headers={"x-request-id": "crash-1"})
            return crashed, await client.get("/metrics")

    crashed, figures = asyncio.run(ask())
    assert kind(crashed) == (500, "internal_error")
    assert crashed.headers["x-request-id"] == "crash-1"
    assert "a secret" not in crashed.text
    assert log()[0].about["status"] == 500
    counted = 'clip_text_requests_total{route="/v1/crash",status="500"} 1.0'
    assert counted in figures.text


def test_a_failure_of_the_engine_has_one_id(searcher):
    searcher.failure = EncoderError("expected rows, got none. x.")
    try:
        (answer,) = asking(searcher)(search({"x-request-id": "one"}))
    finally:
        searcher.failure = None
    assert kind(answer) == (500, "internal_error")
    assert answer.headers.get_list("x-request-id") == ["one"]


@pytest.mark.parametrize("name", [None, "second"])
def test_a_search_that_would_wait_too_long_is_refused_unread_and_counted_as_one(
    searcher, name, monkeypatch
):
    monkeypatch.setattr(problems, "REFUSED_AFTER_S", 0.0)
    app = create_app(Served(searcher), Served(searcher, "second"))

    def refuse():
        raise OverloadedError(1.0)

    monkeypatch.setattr(app.state.service.collection(name).searches, "check", refuse)
    asked = "" if name is None else f"?collection={name}"

    async def ask():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            refused = await client.post(f"/v1/search{asked}", content=b"not looked at")
            return refused, await client.post("/v1/search?collection=none", json={"query": "红"})

    refused, unknown = asyncio.run(ask())
    assert kind(refused) == (429, "overloaded")
    assert kind(unknown) == (404, "collection_not_found")
    counted = 'clip_text_requests_total{route="/v1/search",status="429"} 1.0'
    assert counted in app.state.service.measures.text().decode()


def a_record(**more):
    record = logging.LogRecord("retrieval.x", logging.ERROR, "x", 1, "first\nsecond", None, None)
    record.__dict__.update(more)
    return record


def test_lines_of_json_are_lines():
    try:
        raise ValueError("bad\nthing")
    except ValueError:
        failure = sys.exc_info()
    token = REQUEST_ID.set("id-1")
    try:
        line = JsonLines().format(a_record(exc_info=failure))
        text = TextLines().format(a_record())
        request = JsonLines().format(
            a_record(about={"route": "/", "path": "/\n\u2028狗", "ms": 1.5})
        )
    finally:
        REQUEST_ID.reset(token)
    assert "\n" not in line
    said = json.loads(line)
    assert (said["level"], said["logger"], said["request_id"], said["message"]) == (
        *("error", "retrieval.x", "id-1"),
        "first\nsecond",
    )
    assert said["error"].endswith("ValueError: bad\nthing")
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00$", said["time"])
    assert text == "ERROR:    first id=id-1\nsecond"
    assert request.isascii()
    assert json.loads(request)["path"] == "/\n\u2028狗"
    assert "message" not in json.loads(request)


PROGRAM = (
    "import sys; from pathlib import Path; from stub_searcher import StubSearcher;"
    "from retrieval.service.serving import serve; from retrieval.service.settings import Settings;"
    "said = Settings.model_validate_json(sys.argv[2]);"
    "serve(StubSearcher(Path(sys.argv[1])), settings=said, host=sys.argv[3], port=0)"
)


def serving(tmp_path, host, **settings):
    """``serve`` as a process: one request to it, and what it has logged in all."""
    said = Settings(**settings).model_dump_json()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tmp_path / "pictures", said, host],
        env={"PYTHONPATH": f"{TESTS}:{TESTS.parent}", "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"running on http://[^\s:]+:(\d+)", line):
                break
        address = f"http://127.0.0.1:{found[1]}"
        answer = httpx.get(f"{address}/healthz?q=secret", trust_env=False)
        assert answer.status_code == 200
        process.terminate()
        out, rest = process.communicate(timeout=60)
    assert out == ""
    return answer, "".join(lines) + rest


def test_a_process_logs_json_on_stderr(tmp_path):
    answer, log = serving(tmp_path, "127.0.0.1", log="json")
    lines = [json.loads(line) for line in log.splitlines()]
    (line,) = [line for line in lines if line["logger"] == "retrieval.access"]
    assert (line["route"], line["status"], line["client"]) == ("/healthz", 200, "127.0.0.1")
    assert line["request_id"] == answer.headers["x-request-id"]
    assert "secret" not in log
    assert "there are no keys" not in log


def test_a_process_that_others_reach_says_that_there_are_no_keys(tmp_path):
    answer, log = serving(tmp_path, "0.0.0.0")
    assert "everybody who reaches 0.0.0.0 has the scope search; see clip-text keys" in log
    name = answer.headers["x-request-id"]
    assert re.search(rf'^INFO: +127\.0\.0\.1 "GET /healthz" 200 [\d.]+ ms id={name}$', log, re.M)
