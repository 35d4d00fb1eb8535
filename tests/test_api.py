import asyncio
import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from fakes import FakeEncoder, save_picture
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from stub_searcher import CAPTIONS, METADATA, ROWS, StubSearcher

from retrieval.errors import (
    CorruptIndexError,
    EncoderError,
    IndexLockedError,
    IndexMismatchError,
    IndexNotFoundError,
    QueryError,
)
from retrieval.ingest import index_folder
from retrieval.pictures import render_thumbnail
from retrieval.search import LikeTerm, Query, Searcher, TextTerm
from retrieval.service import guard
from retrieval.service.app import Served, create_app
from retrieval.service.messages import search as messages
from retrieval.service.messages.search import SearchRequest
from retrieval.service.routes import images
from retrieval.service.settings import DEFAULTS, Settings
from retrieval.service.thumbnails import ThumbnailCache

HERE = Path(__file__).parent
JSON = {"content-type": "application/json"}
SEND = messages.SEND_EXAMPLE


class Client:
    """Asks an application in this process; one event loop per question."""

    def __init__(self, app):
        self.app = app

    def __call__(self, method, url, **options):
        return asyncio.run(ask(self.app, method, url, **options))

    def get(self, url, **options):
        return self("GET", url, **options)

    def search(self, **body):
        return self("POST", "/v1/search", json=body)


async def ask(app, method, url, **options):
    # raise_app_exceptions: what a caller sees of a crash is what is tested here.
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, url, **options)


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    return StubSearcher(tmp_path_factory.mktemp("pictures") / "secret-folder")


@pytest.fixture(scope="module")
def client(searcher):
    return Client(create_app(searcher, settings=Settings(title="找图 <b>")))


@pytest.fixture
def failing(searcher):
    yield lambda failure: setattr(searcher, "failure", failure)
    searcher.failure = None


def eventually(happened, seconds=30):
    """Wait until something is so; give what it is then."""
    end = time.monotonic() + seconds
    while not (so := happened()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return so


def assert_error(response, status, kind, *words):
    assert response.status_code == status, response.text
    body = response.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["type", "message"]
    assert body["error"]["type"] == kind
    message = body["error"]["message"]
    assert re.fullmatch(r"expected .+, got .+\. .+\.", message, re.DOTALL), message
    for word in words:
        assert word in message
    assert "Traceback" not in response.text
    assert response.headers["x-content-type-options"] == "nosniff"


# Search


def test_search_answers_with_ranked_hits(client):
    response = client.search(query="红色", top_k=3)
    assert response.status_code == 200
    found = response.json()
    assert found["query"] == "红色"
    assert found["total"] == len(CAPTIONS)
    assert found["took_ms"] >= 0
    # 红色的方块 has both characters, 灰色渐变 one; the rest tie at none, by row.
    assert [(hit["rank"], hit["image_id"], hit["score"]) for hit in found["hits"]] == [
        (1, "red.png", 1.0),
        (2, "grey16.png", 0.5),
        (3, "turned.jpg", 0.0),
    ]
    assert found["hits"][0] == {
        "rank": 1,
        "score": 1.0,
        "probability": None,
        "image_id": "red.png",
        "row": 0,
        "caption": "红色的方块",
        "metadata": METADATA,
        "recognised": None,
        "word_score": None,
        "image_url": "/v1/images/0",
        "thumbnail_url": "/v1/images/0/thumbnail",
        "missing": False,
        "folded": [],
    }


def test_the_short_way_and_the_careful_one_answer_alike(client):
    body = json.dumps({"query": "红色", "top_k": 3})
    ways = [
        client("POST", f"/v1/search{query}", content=body, headers={"content-type": kind})
        for kind, query in (
            ("application/json", ""),
            ("application/json; charset=utf-8", ""),
            ("application/json", "?unknown=1"),
        )
    ]
    assert {way.status_code for way in ways} == {200}
    answers = [{**way.json(), "took_ms": 0} for way in ways]
    assert answers[0] == answers[1] == answers[2]
    messages.SearchResponse.model_validate(ways[0].json(), strict=True)


def test_words_are_searched_when_asked_for(tmp_path):
    searcher = StubSearcher(tmp_path)
    client = Client(create_app(searcher))
    assert client.search(query="红色").status_code == 200
    assert searcher.hybrid is False
    assert client.search(query="红色", hybrid=True).status_code == 200
    assert searcher.hybrid is True
    assert client.search(query="红色", hybrid="yes").status_code == 422


def test_hits_whose_file_is_gone_are_marked(tmp_path):
    client = Client(create_app(StubSearcher(tmp_path)))
    (tmp_path / "red.png").unlink()
    hits = client.search(query="红色", top_k=2).json()["hits"]
    assert [(hit["image_id"], hit["missing"]) for hit in hits] == [
        ("red.png", True),
        ("grey16.png", False),
    ]


def test_the_category_of_a_query_is_told_where_the_model_has_a_head(tmp_path):
    searcher = StubSearcher(tmp_path)
    client = Client(create_app(searcher))
    assert client.search(query="红").json()["category"] is None
    searcher.category = ("颜色", 0.93456789)
    assert client.search(query="红").json()["category"] == {"label": "颜色", "probability": 0.9346}


def test_top_k_is_ten_and_may_exceed_the_index(client):
    assert len(client.search(query="红").json()["hits"]) == len(CAPTIONS)
    assert len(client.search(query="红", top_k=200).json()["hits"]) == len(CAPTIONS)
    assert (
        client.app.openapi()["components"]["schemas"]["SearchRequest"]["properties"]["top_k"][
            "default"
        ]
        == 10
    )


def test_the_service_looks_for_new_pictures_while_nobody_searches(tmp_path):
    searcher = StubSearcher(tmp_path)
    app = create_app(searcher)

    async def live() -> None:
        async with app.router.lifespan_context(app):  # what every server does
            await asyncio.to_thread(eventually, lambda: searcher.refreshed >= 2)

    asyncio.run(live())
    assert not app.state.service.collection(None).refresher._thread.is_alive()


def test_a_search_does_not_look_for_new_pictures_itself(tmp_path):
    searcher = StubSearcher(tmp_path)
    by: set[str] = set()
    searcher.refresh = lambda: by.add(threading.current_thread().name) or False
    client = Client(create_app(searcher))
    client.search(query="红")
    eventually(lambda: by)
    assert by == {"clip-text-refresh"}


def test_urls_carry_the_prefix_of_a_proxy(searcher):
    app = create_app(searcher)
    app.root_path = "/pictures"
    hit = Client(app).search(query="红").json()["hits"][0]
    assert hit["image_url"] == "/pictures/v1/images/0"


def test_health(client):
    health = client.get("/healthz").json()
    assert health["status"] == "ok"
    assert health["total"] == len(CAPTIONS)
    assert re.match(r"\d+\.\d+", health["version"])


def test_version_names_the_model_and_what_computes_it(searcher, client):
    told = client.get("/version").json()
    assert told == {
        "version": client.get("/healthz").json()["version"],
        "fingerprint": "f" * 32,
        "embed_dim": 24,
        "runtime": None,
        "notes": ["queries are computed in bf16"],
    }
    told = Client(create_app(Served(searcher, runtime="openvino-bf16"))).get("/version").json()
    assert told["runtime"] == "openvino-bf16"


def test_a_slow_search_does_not_block_the_event_loop(searcher):
    started, finish = threading.Event(), threading.Event()

    class Slow(StubSearcher):
        def __init__(self):
            self.failure, self.refreshed, self.category = None, 0, None
            self.folder = searcher.folder

        def search(self, query, top_k=10):
            started.set()
            assert finish.wait(20)
            return super().search(query, top_k)

    async def both():
        app = create_app(Slow())
        search = asyncio.create_task(ask(app, "POST", "/v1/search", json={"query": "红"}))
        assert await asyncio.to_thread(started.wait, 20)
        health = await asyncio.wait_for(ask(app, "GET", "/healthz"), 10)
        assert not search.done()
        finish.set()
        return health, await search

    try:
        health, found = asyncio.run(both())
    finally:
        finish.set()
    assert health.status_code == found.status_code == 200


@pytest.mark.parametrize("begun", [False, True])
def test_what_the_end_of_the_service_cuts_off_is_told_so_once(searcher, begun):
    sent = []

    async def cut_off(scope, receive, send):
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise asyncio.CancelledError

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/", "method": "GET", "headers": [], "query_string": b""}
    service = create_app(searcher).state.service
    asyncio.run(guard.Guard(cut_off, service)(scope, None, send))
    assert [message["type"] for message in sent][1:] == ([] if begun else ["http.response.body"])
    assert sent[0]["status"] == (200 if begun else 503)
    if not begun:
        assert json.loads(sent[1]["body"])["error"]["type"] == "service_ending"
        assert (b"x-content-type-options", b"nosniff") in sent[0]["headers"]


# The caller's mistakes


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"query": 7}, ["expected query to be a valid string, got 7"]),
        ({"query": ""}, ["query", "at least 1 character"]),
        ({"query": "狗", "top_k": 0}, ["top_k", "greater than or equal to 1, got 0"]),
        ({"query": "狗", "top_k": 201}, ["top_k", "less than or equal to 200, got 201"]),
        ({"query": "狗", "top_k": "ten"}, ["top_k", "integer, got 'ten'"]),
        ({"query": "狗", "top_k": True}, ["top_k", "integer, got True"]),
        ({"query": "狗", "top_k": 1.5}, ["top_k", "integer, got 1.5"]),
        (
            {"query": "狗", "topk": 5},
            ["expected only query, top_k, where, like", "and page, got topk"],
        ),
        ({"terms": [{"txt": "狗"}]}, ["expected only text, like and weight, got terms.0.txt"]),
        ({"terms": [{"text": "狗", "weight": "1"}]}, ["terms.0.weight", "got '1'"]),
        ({"like": "a.png"}, ["like", "list, got 'a.png'"]),
        ({"without": [3]}, ["without.0", "string, got 3"]),
        ({"query": "狗", "offset": -1}, ["offset", "greater than or equal to 0, got -1"]),
        ({"query": "狗", "paged": 1}, ["paged", "boolean, got 1"]),
        ({"query": "狗", "where": 3}, ["where", "got 3"]),
        ({"query": "狗", "where": [{}]}, ["where", "got [{}]"]),
        ({"query": 7, "top_k": 0}, ["query", "top_k"]),
        ([], ["the body"]),
        ("狗", ["the body"]),
        ({str(n): n for n in range(32)}, ["and 29 more"]),
    ],
)
def test_invalid_bodies_name_the_field(client, body, words):
    assert_error(client("POST", "/v1/search", json=body), 422, "invalid_request", *words)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b'{"query": "\xff"}', 400),
        (b"[" * 60_000, 400),
        (b'{"query": "x", "top_k": 1' + b"0" * 5_000 + b"}", 400),
        (b'{"query": "\\ud800"}', 422),
        (b'{"\\ud800": 1}', 422),
        (b'{"query": "x", "top_k": NaN}', 422),
        (b'{"query": "x", "top_k": 1e999}', 422),
    ],
)
def test_malformed_bodies(client, content, status):
    response = client("POST", "/v1/search", content=content, headers=JSON)
    assert_error(response, status, "invalid_request")


def test_json_without_its_content_type_is_explained(client):
    response = client("POST", "/v1/search", content=b'{"query": "x"}')
    assert_error(response, 422, "invalid_request", "application/json")


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", ""])
def test_a_body_of_another_type_is_named(client, kind):
    response = client(
        "POST", "/v1/search", content=b'{"query": "x"}', headers={"content-type": kind}
    )
    assert_error(response, 422, "invalid_request", f"got the type {kind or 'none'}", SEND)


@pytest.mark.parametrize("charset", ["gbk", "GB18030", "latin-1", '"big5"', "x", ""])
def test_a_body_said_to_be_in_another_encoding_is_refused(client, charset):
    # 猫 in GBK is è in UTF-8: read as what it is not, it would find something else.
    content = json.dumps({"query": "猫"}, ensure_ascii=False).encode("gbk")
    headers = {"content-type": f"application/json; charset={charset}"}
    response = client("POST", "/v1/search", content=content, headers=headers)
    assert_error(response, 415, "unsupported_charset", "UTF-8")


@pytest.mark.parametrize("charset", ["utf-8", "UTF8", '"utf-8"', "utf-16", "utf-8-sig", "us-ascii"])
def test_every_unicode_is_read(client, charset):
    encoding = charset.strip('"')
    query = "cat" if encoding == "us-ascii" else "红色"
    content = json.dumps({"query": query}, ensure_ascii=False).encode(encoding)
    headers = {"content-type": f"application/json; charset={charset}"}
    response = client("POST", "/v1/search", content=content, headers=headers)
    assert response.json()["query"] == query


@pytest.mark.parametrize(
    "query", ["\0", "猫\0狗", "\u200b", "\ufeff", "\u202e猫", "\x1b[31m", "👨‍👩‍👧"]
)
def test_odd_characters_are_searched_for(client, query):
    assert client.search(query=query).json()["query"] == query


def test_query_length_limit(client):
    assert client.search(query="狗" * messages.MAX_QUERY_CHARACTERS).status_code == 200
    too_long = client.search(query="狗" * (messages.MAX_QUERY_CHARACTERS + 1))
    assert_error(too_long, 413, "query_too_long", "1000", "1001")
    # The longest query in its longest spelling still fits into the longest body.
    widest = b'{"query": "' + b"\\ud83d\\ude00" * messages.MAX_QUERY_CHARACTERS + b'"}'
    assert client("POST", "/v1/search", content=widest, headers=JSON).status_code == 200


def test_body_size_limit(client):
    body = b'{"query": "' + b"x" * DEFAULTS.body_bytes + b'"}'
    response = client("POST", "/v1/search", content=body, headers=JSON)
    assert_error(response, 413, "request_too_large", "65536")


def test_unknown_addresses_and_methods(client):
    assert_error(client.get("/nothing"), 404, "not_found", "/nothing")
    assert_error(client.get("/page/nothing"), 404, "not_found")
    wrong = client("DELETE", "/v1/search")
    assert_error(wrong, 405, "method_not_allowed", "DELETE")
    assert "POST" in wrong.headers["allow"]


@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [
        (QueryError("expected a query, got a blank. Type something."), 400, "invalid_query"),
        (IndexNotFoundError("expected /secret-folder, got none. x."), 503, "index_unavailable"),
        (CorruptIndexError("expected /secret-folder, got none. x."), 503, "index_unavailable"),
        (IndexMismatchError("expected /secret-folder, got none. x."), 503, "index_mismatch"),
        (IndexLockedError("expected /secret-folder, got none. x."), 503, "index_locked"),
        (EncoderError("expected /secret-folder, got none. x."), 500, "internal_error"),
        (RuntimeError("secret-folder is on fire"), 500, "internal_error"),
    ],
)
def test_failures_of_the_engine(client, failing, failure, status, kind):
    failing(failure)
    response = client.search(query="红")
    assert_error(response, status, kind)
    assert "secret-folder" not in response.text
    assert "content-security-policy" in response.headers


# Pictures


def open_picture(response):
    return Image.open(io.BytesIO(response.content))


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("red.png", "image/png"), ("turned.jpg", "image/jpeg"), ("wide.jpg", "image/jpeg")],
)
def test_original_is_the_file(client, searcher, name, media_type):
    response = client.get(f"/v1/images/{ROWS[name]}")
    assert response.status_code == 200
    assert response.headers["content-type"] == media_type
    assert response.content == (searcher.folder / name).read_bytes()
    assert response.headers["etag"]
    assert response.headers["last-modified"].endswith("GMT")
    assert response.headers["cache-control"] == "no-cache"


def test_content_type_follows_the_content_not_the_name(tmp_path):
    searcher = StubSearcher(tmp_path)
    Image.new("RGB", (10, 10)).save(tmp_path / "red.png", "WEBP")
    response = Client(create_app(searcher)).get("/v1/images/0")
    assert response.headers["content-type"] == "image/webp"


@pytest.mark.parametrize("address", ["/v1/images/0", "/v1/images/0/thumbnail"])
def test_a_known_etag_saves_the_transfer(tmp_path, address):
    client = Client(create_app(StubSearcher(tmp_path)))
    etag = client.get(address).headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = client.get(address, headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
    assert client.get(address, headers={"if-none-match": '"other"'}).status_code == 200
    Image.new("RGB", (30, 30), "blue").save(tmp_path / "red.png")
    os.utime(tmp_path / "red.png", (1, 1))  # replaced by an older file
    changed = client.get(address, headers={"if-none-match": etag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag
    assert open_picture(changed).size == (30, 30)


def test_etags_differ_between_files_alike_in_time_and_size(tmp_path):
    searcher = StubSearcher(tmp_path)
    content = (tmp_path / "red.png").read_bytes()
    for name in ("red.png", "clear.png"):
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (1_000, 1_000))
    client = Client(create_app(searcher))
    etags = {
        client.get(f"/v1/images/{ROWS[name]}").headers["etag"] for name in ("red.png", "clear.png")
    }
    assert len(etags) == 2


def test_head_and_range(client):
    whole = client.get("/v1/images/0")
    for address in ("/", "/healthz", "/version", "/v1/images/0", "/v1/images/0/thumbnail"):
        assert client("HEAD", address).status_code == 200
    assert client("HEAD", "/v1/images/0").headers["etag"] == whole.headers["etag"]
    part = client.get("/v1/images/0", headers={"range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, whole.content[:4])


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        ("bytes=0-3", 206),
        ("bytes=-4", 206),
        ("bytes=-999999", 206),
        ("bytes=1-", 206),
        ("bytes=0-0, 2-3", 206),
        ("bytes=999999-", 416),
        ("bytes=0-1,999999-", 416),
        ("bytes=-0", 416),
        # No range of bytes at all: the whole.
        ("bytes=abc", 200),
        ("bytes=5-2", 200),
        ("bytes=", 200),
        ("bytes=-", 200),
        ("items=0-5", 200),
        ("bytes=" + "9" * 5_000 + "-", 200),
        ("bytes=0-" + "9" * 5_000, 200),
        ("bytes=٣-", 200),
    ],
)
def test_ranges(client, searcher, wanted, status):
    response = client.get("/v1/images/0", headers={"range": wanted.encode()})
    size = (searcher.folder / "red.png").stat().st_size
    if status == 416:
        assert_error(response, 416, "range_not_satisfiable", str(size))
        assert response.headers["content-range"] == f"bytes */{size}"
    else:
        assert response.status_code == status
        assert (len(response.content) == size) == (status == 200 or "-999999" in wanted)


@settings(deadline=None, max_examples=100)
@given(wanted=st.text("bytes=0123456789-, \t", max_size=25) | st.binary(max_size=20))
@example(wanted="-1\t0")
def test_no_range_breaks_the_pictures(client, wanted):
    wanted = wanted.encode() if isinstance(wanted, str) else wanted
    for prefix in (b"", b"bytes="):
        assert_sane(client.get("/v1/images/0", headers={"range": prefix + wanted}))


def test_thumbnail_is_small_upright_and_bare(client):
    thumbnail = client.get(f"/v1/images/{ROWS['turned.jpg']}/thumbnail")
    assert thumbnail.headers["content-type"] == "image/webp"
    picture = open_picture(thumbnail)
    # Never enlarged, and turned: 80 x 40 lying is 40 x 80 upright, red above blue.
    assert (picture.format, picture.size) == ("WEBP", (40, 80))
    top, bottom = picture.getpixel((20, 10)), picture.getpixel((20, 70))
    assert top[0] > 180
    assert top[2] < 60
    assert bottom[2] > 180
    assert bottom[0] < 60
    assert not picture.getexif()
    assert b"secret description" not in thumbnail.content


@pytest.mark.parametrize(
    ("size", "expected"), [(256, (256, 43)), (16, (16, 3)), (1024, (1024, 171))]
)
def test_thumbnail_sizes(client, size, expected):
    response = client.get(f"/v1/images/{ROWS['wide.jpg']}/thumbnail", params={"size": size})
    assert open_picture(response).size == expected


def test_thumbnails_of_unusual_pictures(client):
    clear = open_picture(client.get(f"/v1/images/{ROWS['clear.png']}/thumbnail"))
    assert clear.mode == "RGBA"
    assert clear.getpixel((60, 60))[3] == 0
    # 16-bit greys are scaled, not clipped to white.
    grey = open_picture(client.get(f"/v1/images/{ROWS['grey16.png']}/thumbnail"))
    assert grey.getpixel((50, 25))[0] == pytest.approx(128, abs=8)
    # Ink of magenta and yellow is red on a screen.
    red = open_picture(client.get(f"/v1/images/{ROWS['print.jpg']}/thumbnail")).getpixel((45, 30))
    assert red[0] > 180
    assert max(red[1:]) < 90


@pytest.mark.parametrize("size", ["0", "15", "1025", "-1", "big", "1e3", ""])
def test_thumbnail_size_is_bounded(client, size):
    response = client.get("/v1/images/0/thumbnail", params={"size": size})
    assert_error(response, 422, "invalid_request", "size")


@pytest.mark.parametrize("suffix", ["", "/thumbnail"])
def test_pictures_that_cannot_be_served(client, searcher, suffix):
    for row in (len(CAPTIONS), -1, 2**63, 10**400):
        assert_error(client.get(f"/v1/images/{row}{suffix}"), 404, "row_not_found")
    assert_error(client.get(f"/v1/images/x{suffix}"), 422, "invalid_request", "row")
    for name in ("gone.png", "damaged.png"):
        response = client.get(f"/v1/images/{ROWS[name]}{suffix}")
        assert_error(response, 410, "image_gone", str(ROWS[name]))
        assert "secret-folder" not in response.text


@pytest.mark.parametrize("suffix", ["", "/thumbnail"])
def test_a_folder_or_a_truncated_file_in_the_place_of_a_picture(tmp_path, suffix):
    searcher = StubSearcher(tmp_path)
    (tmp_path / "gone.png").mkdir()
    client = Client(create_app(searcher))
    assert_error(client.get(f"/v1/images/{ROWS['gone.png']}{suffix}"), 410, "image_gone")
    half = (tmp_path / "red.png").read_bytes()[:60]
    (tmp_path / "red.png").write_bytes(half)
    assert client.get(f"/v1/images/0{suffix}").status_code == (410 if suffix else 200)


@pytest.mark.parametrize(
    "address",
    [
        "/v1/images/../api.py",
        "/v1/images/..%2f..%2fetc%2fpasswd",
        "/v1/images/0/../../../etc/passwd",
        "/page/../api.py",
        "/page/..%2fapi.py",
        "/page/%2e%2e/api.py",
        "/page//etc/passwd",
        "/page/..\\api.py",
        "/static-offline-docs/..%2f__init__.py",
    ],
)
def test_no_way_out_of_the_index(client, address):
    response = client.get(address)
    assert response.status_code in (404, 422)
    assert "root:" not in response.text
    assert "import" not in response.text


def test_thumbnails_are_drawn_once(tmp_path, monkeypatch):
    drawn = []

    def draw(path, size):
        drawn.append((path.name, size))
        return render_thumbnail(path, size)

    monkeypatch.setattr(images, "render_thumbnail", draw)
    client = Client(create_app(StubSearcher(tmp_path)))
    first, second = (client.get("/v1/images/0/thumbnail") for _ in range(2))
    client.get("/v1/images/0/thumbnail?size=64")
    assert first.content == second.content
    assert drawn == [("red.png", 256), ("red.png", 64)]
    Image.new("RGB", (50, 50), "green").save(tmp_path / "red.png")
    assert open_picture(client.get("/v1/images/0/thumbnail")).size == (50, 50)


def test_thumbnail_cache_forgets_what_was_used_longest_ago():
    cache = ThumbnailCache(max_bytes=10)
    cache.put("a", b"aaaa")
    cache.put("b", b"bbbb")
    assert cache.get("a") == b"aaaa"
    cache.put("c", b"cccc")  # 12 bytes: b, not looked at since, has to go
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (b"aaaa", None, b"cccc")
    cache.put("a", b"A")  # a shorter one in its place makes room
    cache.put("d", b"ddddd")
    assert (cache.get("a"), cache.get("c"), cache.get("d")) == (b"A", b"cccc", b"ddddd")
    cache.put("e", b"e" * 11)  # more than fits at all costs no other its place
    assert [cache.get(key) for key in "acde"] == [b"A", b"cccc", b"ddddd", None]


# The page and the documentation


def test_page_and_its_parts(client):
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>找图 &lt;b&gt;</title>" in page.text
    assert "{{" not in page.text
    for part, media_type in (
        ("style.css", "text/css"),
        ("search.js", "text/javascript"),
        ("icon.svg", "image/svg+xml"),
    ):
        assert f'"page/{part}"' in page.text
        response = client.get(f"/page/{part}")
        assert response.headers["content-type"].startswith(media_type)
        assert not re.search(r"(?<!www\.w3\.org)https?://(?!www\.w3\.org)\w", response.text)


def test_page_may_only_use_what_the_service_serves(client):
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    html = client.get("/").text
    assert not re.search(r"\son\w+=|<style|\sstyle=|<script(?![^>]*\ssrc=)", html)


def test_documentation_needs_no_network(client):
    for address in ("/docs", "/redoc"):
        page = client.get(address)
        assert page.status_code == 200
        assert not re.search(r"""(?:src|href)=["']https?:""", page.text)
        for part in re.findall(r"""(?:src|href)=["'](/[^"']+)""", page.text):
            assert client.get(part).status_code == 200


def test_openapi_describes_everything(client):
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {
        "/v1/admin/reload",
        "/v1/search",
        "/v1/search/upload",
        "/v1/collections",
        "/v1/collections/{name}",
        "/v1/items",
        "/v1/items/bulk",
        "/v1/items/delete",
        "/v1/items/{id}",
        "/v1/embeddings",
        "/v1/models",
        "/v1/models/{name}",
        "/v1/classify",
        "/v1/suggest",
        "/v1/images/{row}",
        "/v1/images/{row}/thumbnail",
        "/healthz",
        "/readyz",
        "/v1/session",
        "/metrics",
        "/version",
    }
    assert "HTTPValidationError" not in json.dumps(schema)
    for name, model in schema["components"]["schemas"].items():
        assert model.get("description"), name
        for field, about in model["properties"].items():
            assert about.get("description") or "$ref" in about, f"{name}.{field}"
    example = schema["components"]["schemas"]["SearchRequest"]["example"]
    assert client.search(**example).status_code == 200


# Whatever is sent

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)  # lone surrogates too
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)
NEARLY_RIGHT = st.fixed_dictionaries(
    {},
    optional={
        "query": ANY_TEXT | ANY_JSON,
        "top_k": st.integers() | ANY_JSON,
        "where": ANY_TEXT | ANY_JSON,
        "more": ANY_JSON,
    },
)


def assert_sane(response):
    assert response.status_code < 500
    if response.status_code >= 400:
        assert set(response.json()["error"]) == {"type", "message"}


@settings(deadline=None, max_examples=150)
@given(body=ANY_JSON | NEARLY_RIGHT)
def test_no_json_breaks_the_search(client, body):
    content = json.dumps(body).encode()
    assert_sane(client("POST", "/v1/search", content=content, headers=JSON))


@settings(deadline=None, max_examples=60)
@given(
    content=st.binary(max_size=200), kind=st.sampled_from(["application/json", "text/plain", "é"])
)
def test_no_bytes_break_the_search(client, content, kind):
    headers = {"content-type": kind.encode()}
    assert_sane(client("POST", "/v1/search", content=content, headers=headers))


@settings(deadline=None, max_examples=60)
@given(row=st.integers() | ANY_TEXT, size=st.integers() | ANY_TEXT)
def test_no_address_breaks_the_pictures(client, row, size):
    def quote(part):
        return "".join(f"%{byte:02x}" for byte in str(part).encode("utf-8", "surrogatepass"))

    assert_sane(client.get(f"/v1/images/{quote(row)}/thumbnail?size={quote(size)}"))
    assert_sane(client.get(f"/v1/images/{quote(row)}"))


# With the real engine


@pytest.fixture
def indexed(tmp_path):
    """A folder of three pictures, indexed; gives the folder, its index and a client."""
    folder, index_dir = tmp_path / "secret-folder", tmp_path / "index"
    for number in range(3):
        save_picture(folder / f"{number}.png", seed=number)
    (folder / "metadata.jsonl").write_text(
        '{"file_name": "0.png", "caption": "零", "n": 123456789012, "names": {"en": "zero"}}\n',
        encoding="utf-8",
    )
    index_folder(folder, index_dir, FakeEncoder())
    with Searcher.open(index_dir, FakeEncoder()) as searcher:
        yield folder, index_dir, Client(create_app(searcher))


FIELD_N = {"field": "n", "op": ">", "value": 5}


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (FIELD_N, ["0.png"]),
        ({"not": FIELD_N}, ["1.png", "2.png"]),
        ({"or": [FIELD_N, {"field": "path", "op": "in", "value": ["2.png"]}]}, ["0.png", "2.png"]),
        ('names.en = "zero"', ["0.png"]),
        ("not exists(caption)", ["1.png", "2.png"]),
        ({"field": "n", "op": "=", "value": 1}, []),
        (None, ["0.png", "1.png", "2.png"]),
    ],
)
def test_a_filter_says_which_pictures_are_searched(indexed, where, found):
    _, _, client = indexed
    answer = client.search(query="狗", where=where).json()
    assert sorted(hit["image_id"] for hit in answer["hits"]) == found
    assert [hit["rank"] for hit in answer["hits"]] == list(range(1, len(found) + 1))
    assert answer["total"] == 3


def nested(depth):
    where = FIELD_N
    for _ in range(depth):
        where = {"not": where}
    return where


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({"field": "m", "op": "=", "value": 1}, ["a field that some picture has, got m"]),
        ({"field": "n", "op": "=", "value": "1"}, ['numbers for n, as its values are, got "1"']),
        ({"field": "n", "op": "like", "value": 1}, ["one of = != ", 'in where.op, got "like"']),
        ({"and": [FIELD_N, {"field": "\ud800", "op": "exists"}]}, ["of a field, got", "ud800"]),
        ("n > ", ["a value at column 4 of the filter, got the end"]),
        ("\ud800", ["column 1", "ud800"]),
        (nested(40), ["at most 32 conditions in one another"]),
        (nested(900), ["at most 32 conditions in one another"]),
    ],
)
def test_a_filter_that_cannot_be_used_is_told(indexed, where, words):
    _, _, client = indexed
    content = json.dumps({"query": "狗", "where": where}).encode()
    response = client("POST", "/v1/search", content=content, headers=JSON)
    assert_error(response, 400, "invalid_query", *words)


@pytest.mark.parametrize("depth", [1_000, 5_000])
def test_a_filter_too_deep_for_json_itself_is_refused(indexed, depth):
    _, _, client = indexed
    content = b'{"query": "x", "where": ' + b'{"not": ' * depth + b"3" + b"}" * depth + b"}"
    response = client("POST", "/v1/search", content=content, headers=JSON)
    assert response.status_code in {400, 413, 422}
    assert_error(response, response.status_code, response.json()["error"]["type"])


def test_engine_and_service_agree(indexed):
    folder, _, client = indexed
    response = client.search(query="狗", top_k=2)
    assert "secret-folder" not in response.text
    found = response.json()
    assert (found["total"], len(found["hits"])) == (3, 2)
    query = FakeEncoder().encode_text(["狗"])[0]
    cosines = {
        path.name: float(query @ FakeEncoder().encode_file(path)) for path in folder.glob("*.png")
    }
    best = sorted(cosines, key=cosines.__getitem__, reverse=True)
    for hit, name in zip(found["hits"], best, strict=False):
        assert hit["image_id"] == name
        assert hit["score"] == pytest.approx(cosines[name], abs=5e-4)  # kept in fp16
        assert client.get(hit["image_url"]).content == (folder / name).read_bytes()
        assert client.get(hit["thumbnail_url"]).status_code == 200
    every = client.search(query="狗").json()["hits"]
    zero = next(hit for hit in every if hit["image_id"] == "0.png")
    assert (zero["caption"], zero["metadata"]) == (
        "零",
        {"n": 123456789012, "names": {"en": "zero"}},
    )


def test_a_query_of_blanks_is_refused_by_the_engine(indexed):
    assert_error(indexed[2].search(query=" \u3000\n"), 400, "invalid_query", "blank")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, ["something to look for, got nothing"]),
        ({"query": None}, ["something to look for, got nothing"]),
        ({"without": ["雪"]}, ["only what to stay away from"]),
        ({"query": "狗", "without": [" "]}, ["a blank one"]),
        ({"like": ["gone.png"]}, ['a picture in the index, got "gone.png"']),
        ({"like": [99]}, ["a picture in the index, got 99"]),
        ({"terms": [{"text": "狗", "like": 1}]}, ["either text or like", "got both"]),
        ({"terms": [{}]}, ["either text or like", "got neither"]),
        ({"terms": [{"text": "狗", "weight": 0}]}, ["finite weight other than 0, got 0"]),
        ({"terms": [{"like": 1}, {"like": 1, "weight": -1}]}, ["cancel one another"]),
        ({"like": [1] * 20, "without": ["雪"] * 13}, ["at most 32", "got 33"]),
        ({"query": "狗", "fold": 2}, ["fold to be a cosine above 0 and up to 1, got 2"]),
        ({"query": "狗", "diversity": 1}, ["diversity to be"]),
        ({"query": "狗", "page": "x"}, ["offset and top_k alone beside page, got query"]),
    ],
)
def test_a_query_that_cannot_be_used_is_told(indexed, body, words):
    response = indexed[2]("POST", "/v1/search", json=body)
    assert_error(response, 400, "invalid_query", *words)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"like": [1] * 33}, ["like", "at most 32"]),
        ({"like": [[]] * 10_000}, ["like", "at most 32"]),
        ({"without": [0] * 10_000}, ["without", "at most 32"]),
        ({"terms": [0] * 10_000}, ["terms", "at most 32"]),
        ({"terms": [{"text": [0] * 10_000}]}, ["terms.0.text", "a valid string"]),
        ({str(number): 0 for number in range(5_000)}, ["the body", "at most 32 keys"]),
        ({"terms": [dict.fromkeys(map(str, range(5_000)))]}, ["terms.0", "at most 32 keys"]),
    ],
)
def test_of_however_much_that_is_wrong_few_mistakes_are_made(indexed, body, words):
    response = indexed[2]("POST", "/v1/search", json=body)
    assert_error(response, 422, "invalid_request", *words)
    assert "more" not in response.json()["error"]["message"]
    with pytest.raises(ValidationError) as caught:
        SearchRequest.model_validate(body)
    assert caught.value.error_count() == 1


def test_texts_pictures_of_the_index_and_weights_make_one_query(indexed):
    _, index_dir, client = indexed
    terms = [{"text": "猫", "weight": 0.5}, {"like": 2, "weight": -2}]
    found = client.search(
        query="狗", like=["0.png"], without=["雪"], terms=terms, fold=0.999, diversity=0.1
    ).json()
    with Searcher.open(index_dir, FakeEncoder()) as searcher:
        query = Query(
            (
                *(TextTerm("狗"), TextTerm("猫", 0.5), LikeTerm(2, -2.0), LikeTerm(1)),
                TextTerm("雪", -0.4),
            )
        )
        (hit,) = searcher.search(query)  # of three pictures it names two
    assert [(each["row"], each["score"]) for each in found["hits"]] == [
        (hit.row, pytest.approx(hit.score, abs=1e-6))
    ]
    assert found["page"] is None
    assert client.search(like=[1]).json()["query"] is None


def test_folded_pictures_stand_with_their_hit(indexed):
    found = indexed[2].search(query="狗", fold=1e-9, top_k=1).json()["hits"]
    every = indexed[2].search(query="狗").json()["hits"]
    with Searcher.open(indexed[1], FakeEncoder()) as searcher:
        (expected, *_) = searcher.search(Query.of("狗", fold=1e-9))
    assert [each["row"] for each in found[0]["folded"]] == [hit.row for hit in expected.folded]
    assert (found[0]["row"], found[0]["rank"]) == (every[0]["row"], 1)


def test_pages_go_on_with_their_order_while_pictures_come(indexed):
    folder, index_dir, client = indexed
    every = [hit["row"] for hit in client.search(query="狗").json()["hits"]]
    first = client.search(query="狗", top_k=1, paged=True).json()
    for seed in range(90, 95):
        save_picture(folder / f"{seed}.png", seed=seed)
    index_folder(folder, index_dir, FakeEncoder())
    eventually(lambda: client.get("/healthz").json()["total"] == 8)
    second = client.search(page=first["page"], offset=1, top_k=5).json()
    assert [hit["row"] for hit in first["hits"] + second["hits"]] == every
    assert [hit["rank"] for hit in second["hits"]] == [2, 3]
    assert second["page"] == first["page"]
    assert_error(client.search(page="\ud7ff" * 99), 410, "page_gone", "Ask the query again")


def test_pages_end_with_the_index_that_they_are_of(indexed):
    folder, index_dir, client = indexed
    first = client.search(query="狗", top_k=1, paged=True).json()
    rest = {"page": first["page"], "offset": 1}
    assert len(client.search(**rest).json()["hits"]) == 2
    shutil.rmtree(index_dir)
    save_picture(folder / "0.png", seed=90)  # another picture is to have the first one's row
    save_picture(folder / "new.png", seed=91)
    index_folder(folder, index_dir, FakeEncoder())
    eventually(lambda: client.get("/healthz").json()["total"] == 4)
    for _ in range(2):
        assert_error(client.search(**rest), 410, "page_gone", "Ask the query again")
    assert len(client.search(query="狗", paged=True).json()["hits"]) == 4


def test_a_lone_row_outside_the_index(indexed):
    for row in (0, 4, 2**63 - 1, 2**63):
        assert_error(indexed[2].get(f"/v1/images/{row}"), 404, "row_not_found")


def test_new_pictures_are_found_without_a_restart(indexed):
    folder, index_dir, client = indexed
    assert client.search(query="狗").json()["total"] == 3
    save_picture(folder / "new.png", seed=99)
    index_folder(folder, index_dir, FakeEncoder())
    eventually(lambda: client.get("/healthz").json()["total"] == 4)
    found = client.search(query="狗").json()
    assert found["total"] == 4
    new = next(hit for hit in found["hits"] if hit["image_id"] == "new.png")
    assert client.get(new["thumbnail_url"]).status_code == 200
    assert client.get("/healthz").json()["total"] == 4


def test_deleted_pictures_are_gone_and_then_forgotten(indexed):
    folder, index_dir, client = indexed
    hits = client.search(query="狗").json()["hits"]
    url = next(hit["image_url"] for hit in hits if hit["image_id"] == "1.png")
    (folder / "1.png").unlink()
    assert_error(client.get(url), 410, "image_gone")
    index_folder(folder, index_dir, FakeEncoder())
    assert [
        hit["image_id"]
        for hit in client.search(query="狗").json()["hits"]
        if "1" in hit["image_id"]
    ] == []
    assert_error(client.get(url), 404, "row_not_found")


def test_an_index_built_anew_by_another_model_is_refused(indexed):
    folder, index_dir, client = indexed
    shutil.rmtree(index_dir)
    index_folder(folder, index_dir, FakeEncoder(fingerprint="fake-2"))
    eventually(lambda: client.search(query="狗").status_code == 503)
    response = client.search(query="狗")
    assert_error(response, 503, "index_mismatch", "Restart")
    assert "secret-folder" not in response.text


def test_many_searches_at_once(indexed):
    async def all_at_once():
        app = indexed[2].app
        return await asyncio.gather(
            *(
                ask(app, "POST", "/v1/search", json={"query": f"狗{number % 4}", "top_k": 1})
                for number in range(40)
            )
        )

    answers = [answer.json()["hits"][0]["image_id"] for answer in asyncio.run(all_at_once())]
    assert answers == answers[:4] * 10


# A real server on a real socket


@contextlib.contextmanager
def served(tmp_path):
    """``serve`` in a process of its own; gives the process and its address."""
    program = (
        "import sys; from pathlib import Path; sys.path[:0] = sys.argv[1:3];"
        "from stub_searcher import StubSearcher; from retrieval.service.serving import serve;"
        "serve(StubSearcher(Path(sys.argv[3])), port=0)"
    )
    command = [sys.executable, "-c", program, str(HERE), str(HERE.parent), str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if found := re.search(r"running on (http://[\d.:]+)", line):
                break
        else:
            pytest.fail("the server ended before it was ready")
        yield process, found[1]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_real_server(tmp_path):
    with served(tmp_path) as (process, address):
        # trust_env: a proxy of this machine has no business between the two.
        with httpx.Client(base_url=address, trust_env=False) as client:
            assert client.get("/healthz").json()["total"] == len(CAPTIONS)
            found = client.post("/v1/search", json={"query": "红色", "top_k": 1}).json()
            assert found["hits"][0]["image_id"] == "red.png"
            thumbnail = client.get(found["hits"][0]["thumbnail_url"])
            assert open_picture(thumbnail).size == (256, 171)
            original = client.get(found["hits"][0]["image_url"])
            assert original.content == (tmp_path / "red.png").read_bytes()
            assert client.head("/").status_code == 200
            assert "server" not in original.headers

            # What is much too long is heard out, so that its sender sees the answer.
            answer = client.post("/v1/search", content=b"x" * 5_000_000, headers=JSON)
            assert_error(answer, 413, "request_too_large")
            # Who asks first is told before sending anything.
            with socket.create_connection(address.removeprefix("http://").split(":")) as asking:
                asking.sendall(
                    b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
                    b"Content-Type: application/json\r\nContent-Length: 5000000\r\n\r\n"
                )
                assert asking.recv(100).startswith(b"HTTP/1.1 413 ")

            def endless():
                while True:
                    yield b"x" * 4096

            # Ended while it is still being sent: with the answer, or, if that is overtaken
            # by the end of the connection, with that. Without an end this would hang.
            with contextlib.suppress(httpx.TransportError):
                answer = client.post("/v1/search", content=endless(), headers=JSON)
                assert_error(answer, 413, "request_too_large")
            assert client.get("/healthz").status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("package", "module"), [("fastapi", "app"), ("uvicorn", "serving"), ("starlette", "app")]
)
def test_importing_without_a_package_names_the_extra(package, module):
    program = f"import sys; sys.modules['{package}'] = None; import retrieval.service.{module}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"expected the package {package} for the search service, got none." in done.stderr
    assert "Run: pip install 'clip-text[serve]'." in done.stderr
