"""clip_text_client: both clients on a real socket, retries, errors, and its wheel on its own."""

import asyncio
import base64
import inspect
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from asking import asking
from fakes import FakeEncoder, save_picture
from listening import listening
from test_api import eventually

import clip_text_client
from clip_text_client import (
    AsyncClient,
    Client,
    ClientError,
    ForbiddenError,
    GoneError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PageGoneError,
    ServiceError,
    UnauthorizedError,
    UnavailableError,
    UnreachableError,
)
from retrieval.ingest import index_folder
from retrieval.search import Searcher
from retrieval.service.app import Served, create_app

ROOT = Path(__file__).parents[1]
NUMBER = 45


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    base = tmp_path_factory.mktemp("client")
    lines = []
    for number in range(NUMBER):
        save_picture(base / "p" / f"{number}.png", seed=number)
        said = {"file_name": f"{number}.png", "caption": f"第{number}只狗", "tags": ["狗"]}
        lines.append(json.dumps(said, ensure_ascii=False))
    (base / "p" / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    index_folder(base / "p", base / "index", FakeEncoder())
    return base


@pytest.fixture(scope="module")
def address(index):
    encoder = FakeEncoder()
    with Searcher.open(index / "index", encoder) as searcher:

        def classify(texts, head):
            if head == "none":
                raise ValueError("expected one of the heads (kind), got 'none'. Name one.")
            return [[("狗", 0.75), ("猫", 0.25)] for _ in texts]

        served = Served(
            searcher, encoder=encoder, index_dir=index / "index", model="fake", classify=classify
        )
        with listening(create_app(served)) as address:
            yield address


@pytest.fixture(params=["at once", "awaited"])
def ask(request, address):
    with asking(address, request.param) as call:
        yield call


# What is there


def test_a_search(ask, index):
    answer = ask("search", "红色", top_k=3, where='tags = "狗"', without=["雪"])
    assert [hit.rank for hit in answer.hits] == [1, 2, 3]
    assert answer.total == NUMBER
    assert answer.page is None
    best = answer.hits[0]
    assert best.caption == f"第{best.image_id.removesuffix('.png')}只狗"
    assert best.metadata == {"tags": ["狗"]}
    assert ask("image", best.row) == (index / "p" / best.image_id).read_bytes()
    assert ask("thumbnail", best.row, 16)[8:12] == b"WEBP"
    like = ask("search", like=[best.row], top_k=5, offset=1)
    assert len(like.hits) == 5
    assert best.row not in {hit.row for hit in like.hits}
    with Searcher.open(index / "index", FakeEncoder()) as searcher:
        wanted = [hit.row for hit in searcher.search("红色", 10)]
    assert [hit.row for hit in ask("search", "红色").hits] == wanted


def test_all_pages_of_an_answer(ask, index):
    with Searcher.open(index / "index", FakeEncoder()) as searcher:
        wanted = [hit.row for hit in searcher.search("红色", NUMBER)]
    assert [hit.row for hit in ask("iterate", "红色", page_size=10)] == wanted
    assert [hit.row for hit in ask("iterate", "红色", page_size=10, most=25)] == wanted[:25]
    assert [hit.row for hit in ask("iterate", "红色")] == wanted
    assert ask("iterate", "红色", where='tags = "狗" and not tags = "狗"') == []


def test_rows_of_texts_and_pictures(ask, index):
    encoder = FakeEncoder()
    texts = ["一只狗", "猫"]
    np.testing.assert_array_equal(np.float32(ask("embed", texts)), encoder.encode_text(texts))
    cut = np.float32(ask("embed", texts, model="fake", dimensions=4))
    np.testing.assert_allclose(np.linalg.norm(cut, axis=1), 1, atol=1e-6)
    assert cut.shape == (2, 4)
    file = index / "p" / "3.png"
    rows = np.float32(ask("embed_images", [file, file.read_bytes(), str(file)]))
    np.testing.assert_array_equal(rows, np.tile(encoder.encode_file(file), (3, 1)))
    assert ask("embed", []) == []
    many = [f"text {number}" for number in range(2_050)]  # more than one request takes
    np.testing.assert_array_equal(np.float32(ask("embed", many)), encoder.encode_text(many))
    with pytest.raises(TypeError, match="expected a list of texts"):
        ask("embed", "一只狗")


def test_labels_and_suggestions(ask):
    ((first, second),) = ask("classify", ["汪"], top_k=2)
    assert (first.label, first.probability, second.label) == ("狗", 0.75, "猫")
    with pytest.raises(NotFoundError) as caught:
        ask("classify", ["汪"], head="none")
    assert caught.value.type == "no_head"
    found = eventually(lambda: ask("suggest", "zhigou", limit=3))  # the first time, it is read
    assert [one.kind for one in found] == ["caption"] * 3
    assert found[0].text == "第0只狗"


def test_what_the_service_refuses_is_told_by_its_type(ask):
    with pytest.raises(InvalidRequestError) as caught:
        ask("search", "狗", where="tags =")
    assert (caught.value.status, caught.value.type) == (400, "invalid_query")
    assert "expected" in caught.value.message
    with pytest.raises(NotFoundError) as caught:
        ask("search", "狗", collection="none")
    assert caught.value.type == "collection_not_found"
    with pytest.raises(InvalidRequestError) as caught:
        ask("search", "x" * 1_001)
    assert caught.value.type == "query_too_long"


def test_nobody_there():
    client = Client("http://127.0.0.1:9", retries=0, transport=httpx.HTTPTransport())
    with client, pytest.raises(UnreachableError, match="Check its address"):
        client.search("狗")


# What is sent, and how often


class Answers:
    """Answers requests by a list, and keeps what was asked."""

    def __init__(self, *answers):
        self.answers, self.asked, self.at = list(answers), [], []

    def __call__(self, request):
        self.asked.append(request)
        self.at.append(time.monotonic())
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self, **options):
        return Client("http://service/", transport=httpx.MockTransport(self), **options)


def refused(status, kind="overloaded", headers=None):
    error = {"type": kind, "message": "expected less, got more. Wait."}
    return httpx.Response(status, json={"error": error}, headers=headers)


NOTHING = {"hits": [], "total": 0, "took_ms": 1.0}
ITEM = {"id": "a/1", "row": 1, "caption": None, "metadata": {}, "news": True}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(clip_text_client.way, "_BACKOFF_S", 0.01)


def test_what_fails_for_a_moment_is_asked_again():
    failed = httpx.ReadError("connection reset")
    answers = Answers(refused(503), failed, refused(429), httpx.Response(200, json=NOTHING))
    assert answers.client().search("狗").hits == ()
    assert len(answers.asked) == 4
    bodies = {request.read() for request in answers.asked}
    assert [json.loads(body) for body in bodies] == [{"query": "狗", "top_k": 10}]


class BreakingOff(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The beginning of a body, of a service that dies as it answers."""

    def __iter__(self):
        yield b'{"hits": ['
        raise httpx.ReadError("connection reset")

    async def __aiter__(self):
        for part in self:
            yield part


def test_an_answer_that_breaks_off_is_asked_for_again():
    def answers(count):
        broken = [httpx.Response(200, stream=BreakingOff()) for _ in range(count)]
        return Answers(*broken, httpx.Response(200, json=NOTHING))

    assert answers(2).client().search("狗").hits == ()
    assert asyncio.run(awaited(answers(2))).hits == ()
    with pytest.raises(UnreachableError, match="connection reset"):
        answers(2).client(retries=1).search("狗")


class BrokenGzip(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that is not what its header says; keeps whether its connection was let go of."""

    is_closed = False

    def __iter__(self):
        yield b"no gzip at all"

    async def __aiter__(self):
        for part in self:
            yield part

    def close(self):
        self.is_closed = True

    async def aclose(self):
        self.is_closed = True


@pytest.mark.parametrize("way", ["at once", "awaited"])
def test_an_answer_that_cannot_be_unpacked_is_asked_for_again(way):
    def ask(name, answers):
        if way == "at once":
            return getattr(answers.client(), name)("狗")
        return asyncio.run(awaited(answers, name))

    def answers(count, then):
        broken = [BrokenGzip() for _ in range(count)]
        gzip = {"content-encoding": "gzip"}
        return broken, Answers(*(httpx.Response(200, stream=b, headers=gzip) for b in broken), then)

    bodies, answering = answers(2, httpx.Response(200, json=NOTHING))
    assert ask("search", answering).hits == ()
    assert all(body.is_closed for body in bodies)
    bodies, answering = answers(5, None)
    with pytest.raises(UnreachableError, match="decompressing"):
        ask("search", answering)
    assert all(body.is_closed for body in bodies)
    # what is not asked for again lets go of its connection, too
    (body,), answering = answers(1, None)
    with pytest.raises(UnreachableError, match="decompressing"):
        ask("delete", answering)
    assert body.is_closed
    assert len(answering.asked) == 1


async def awaited(answers, name="search"):
    async with AsyncClient("http://service/", transport=httpx.MockTransport(answers)) as client:
        return await getattr(client, name)("狗")


def test_the_service_says_when_to_come_again():
    answers = Answers(refused(429, headers={"retry-after": "1"}), httpx.Response(200, json=NOTHING))
    answers.client().search("狗")
    assert answers.at[1] - answers.at[0] >= 1


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (400, "invalid_query", InvalidRequestError),
        (401, "unauthorized", UnauthorizedError),
        (403, "forbidden", ForbiddenError),
        (404, "row_not_found", NotFoundError),
        (410, "image_gone", GoneError),
        (410, "page_gone", PageGoneError),
        (422, "invalid_request", InvalidRequestError),
        (500, "internal_error", UnavailableError),
    ],
)
def test_what_is_refused_for_good_is_asked_once(status, kind, error):
    answers = Answers(refused(status, kind))
    with pytest.raises(ServiceError) as caught:
        answers.client().search("狗")
    assert type(caught.value) is error
    assert (caught.value.status, caught.value.type) == (status, kind)
    assert str(caught.value) == f"expected less, got more. Wait. ({status}, {kind})"
    assert len(answers.asked) == 1


def test_it_is_asked_again_no_more_often_than_said():
    answers = Answers(*[refused(429)] * 3)
    with pytest.raises(OverloadedError):
        answers.client(retries=2).search("狗")
    answers = Answers(*[httpx.ReadTimeout("slow")] * 2)
    with pytest.raises(UnreachableError, match="slow"):
        answers.client(retries=1).suggest("狗")
    assert answers.answers == []


def test_deleting_is_repeated_only_where_it_was_not_begun():
    gone = httpx.Response(204)
    answers = Answers(refused(429), httpx.ConnectError("refused"), gone)
    assert answers.client().delete("shop/4 2?") is None
    assert [str(request.url) for request in answers.asked] == [
        "http://service/v1/items/shop/4%202%3F"
    ] * 3
    for unknown in (refused(503), httpx.ReadError("reset")):
        answers = Answers(unknown, gone)
        with pytest.raises(ClientError):
            answers.client().delete("a")
        assert len(answers.asked) == 1
    # adding the same again changes nothing
    answers = Answers(httpx.ReadError("reset"), refused(503), httpx.Response(201, json=ITEM))
    assert answers.client().add(id="a/1", path="1.jpg").row == 1


def test_an_answer_of_something_else():
    answers = Answers(httpx.Response(200, text="<html>"), httpx.Response(200, json={"hits": []}))
    client = answers.client()
    for _ in range(2):
        with pytest.raises(ClientError, match="Check the address"):
            client.search("狗")
    answers = Answers(*[httpx.Response(502, text="<html>bad gateway")] * 2)
    with pytest.raises(UnavailableError) as caught:
        answers.client(retries=1).search("狗")
    assert (caught.value.status, caught.value.type) == (502, "http_error")


@pytest.mark.parametrize("said", [{"facets": [1, 2]}, {"hits": [1]}, {"category": "x"}])
def test_an_answer_of_something_like_it(said):
    with pytest.raises(ClientError, match="expected an answer of a clip-text service"):
        Answers(httpx.Response(200, json={**NOTHING, **said})).client().search("狗")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("api_key", ["键", "clé", "key\n", "two words", ""])
def test_a_key_that_no_header_carries(kind, api_key):
    with pytest.raises(ValueError, match=r"^expected an api_key of .* got another\. ") as caught:
        kind("http://service/", api_key)
    assert not api_key or api_key not in str(caught.value)


def test_half_a_character_is_refused_before_it_is_sent(ask):
    half = "a\ud800"
    for name, args, options in (
        ("get", (half,), {}),
        ("delete", (half,), {}),
        ("update", (half,), {"caption": "x"}),
        ("delete_many", ([half],), {}),
        ("add", (), {"id": half, "path": "x"}),
        ("add", (), {"id": half, "image": b"x"}),
        ("search", (half,), {}),
        ("search", ("狗",), {"collection": half}),
    ):
        with pytest.raises(ValueError, match=r"^expected text that UTF-8 .*ud800.*Leave") as caught:
            ask(name, *args, **options)
        assert type(caught.value) is ValueError, name


def test_a_file_whose_name_is_no_text(tmp_path):
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xc4.png"))
    try:
        file.write_bytes(b"picture")
    except OSError:
        pytest.skip("names are text here")
    answers = Answers(httpx.Response(201, json=ITEM))
    answers.client().add(id="a/1", image=file)
    assert b'filename="?.png"' in answers.asked[0].read()


def test_an_item_without_a_picture_may_say_so():
    answers = Answers(httpx.Response(201, json=ITEM))
    answers.client().add(id="a/1", image=None, feature=[1.0])
    assert answers.asked[0].url.path == "/v1/items"
    assert json.loads(answers.asked[0].read()) == {"id": "a/1", "feature": [1.0]}


@pytest.fixture
def proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch.setenv


def test_the_environment_names_a_proxy(proxies, address):
    proxy_of = clip_text_client.way.proxy_of
    assert proxy_of("http://pictures.example") is None
    proxies("HTTPS_PROXY", "one.example:3128")
    proxies("ALL_PROXY", "http://other.example:3128")
    proxies("NO_PROXY", "inside.example,10.0.0.1,fd00::1,here.example:81")
    assert proxy_of("https://pictures.example/at/") == "http://one.example:3128"
    assert proxy_of("http://pictures.example:8000") == "http://other.example:3128"
    for host in ("inside.example", "a.inside.example:8000", "10.0.0.1", "[fd00::1]:8000"):
        assert proxy_of(f"http://{host}/") is None, host
    assert proxy_of("http://here.example:81") is None
    assert proxy_of("http://here.example:82") is not None
    for host in ("localhost", "127.0.0.1:8000", "127.8.8.8", "[::1]:8000"):
        assert proxy_of(f"http://{host}") is None, host
    proxies("NO_PROXY", "*")
    assert proxy_of("https://pictures.example") is None


def test_a_proxy_is_asked(proxies, address):
    proxies("HTTP_PROXY", address)  # which answers what is asked of another just as well
    with Client("http://pictures.invalid", retries=0) as client:
        assert client.search("狗").total == NUMBER

    async def work():
        async with AsyncClient("http://pictures.invalid", retries=0) as client:
            return (await client.search("狗")).total

    assert asyncio.run(work()) == NUMBER


def test_key_and_collection_go_with_every_request():
    answers = Answers(
        httpx.Response(200, json=NOTHING),
        httpx.Response(200, json=NOTHING),
        httpx.Response(200, json={"collections": []}),
    )
    client = answers.client(api_key="secret", collection="mine")
    client.search("狗")
    client.search("狗", collection="yours")
    assert client.collections() == []
    assert {request.headers["authorization"] for request in answers.asked} == {"Bearer secret"}
    assert [request.url.query for request in answers.asked] == [
        b"collection=mine",
        b"collection=yours",
        b"",
    ]
    assert "secret" not in repr(client)


def test_pictures_go_along_in_a_form(tmp_path):
    file = save_picture(tmp_path / "secret-folder" / "one.png", seed=1)
    answers = Answers(refused(503), httpx.Response(200, json=NOTHING))
    answers.client().search("夜晚", images=[file, b"bytes"], without_images=[b"other"], top_k=2)
    first, second = answers.asked
    assert first.read() == second.read(), "a form is sent whole a second time"
    assert second.url.path == "/v1/search/upload"
    body = second.read()
    assert body.count(b'name="image"') == 2
    assert body.count(b'name="without_image"; filename="picture"') == 1
    assert file.read_bytes() in body
    assert b'filename="one.png"' in body
    assert b"secret-folder" not in body
    assert '{"top_k": 2, "query": "夜晚"}'.encode() in body


def test_items_are_added_read_changed_and_removed(tmp_path):
    file = save_picture(tmp_path / "one.png", seed=1)
    outcomes = {
        "stored": 1,
        "failed": 1,
        "items": [
            {"id": "a", "status": 201, "row": 4, "error": None},
            {
                "id": "b",
                "status": 422,
                "error": {"type": "picture_unreadable", "message": "expected …"},
            },
        ],
    }
    answers = Answers(
        httpx.Response(201, json=ITEM),
        httpx.Response(200, json=ITEM),
        httpx.Response(200, json=ITEM),
        httpx.Response(200, json=outcomes),
        httpx.Response(200, json=outcomes),
    )
    client = answers.client()
    assert client.add(id="a/1", image=file, caption="狗", metadata={"price": 2}).id == "a/1"
    assert client.get("a/1").metadata == {}
    client.update("a/1", caption=None)
    stored, failed = client.add_many([{"id": "a", "path": "x.jpg"}, {"id": "b", "image": file}])
    assert (stored.row, stored.status, stored.error) == (4, 201, None)
    assert failed.error["type"] == "picture_unreadable"
    client.delete_many(["a", "b"])
    added, _, changed, many, removed = answers.asked
    assert [f"{each.method} {each.url.path}" for each in answers.asked] == [
        "POST /v1/items",
        "GET /v1/items/a/1",
        "PATCH /v1/items/a/1",
        "POST /v1/items/bulk",
        "POST /v1/items/delete",
    ]
    assert b'{"price": 2}' in added.read()
    assert file.read_bytes() in added.read()
    assert json.loads(changed.read()) == {"caption": None}
    assert json.loads(many.read()) == [
        {"id": "a", "path": "x.jpg"},
        {"id": "b", "image": base64.b64encode(file.read_bytes()).decode()},
    ]
    assert json.loads(removed.read()) == {"ids": ["a", "b"]}


def test_collections_are_told():
    field = {"name": "tags", "kind": "text", "count": 3, "values": 9}
    one = {
        **{"name": "default", "total": 3, "fingerprint": "f", "embed_dim": 4},
        **{"runtime": None, "writable": True, "fields": [field]},
    }
    (collection,) = Answers(httpx.Response(200, json={"collections": [one]})).client().collections()
    assert collection.fields[0].name == "tags"
    assert collection.writable


def test_facets_and_near_duplicates_are_read():
    hit = {
        **{"rank": 1, "score": 0.5, "image_id": "a", "row": 1, "caption": None, "metadata": {}},
        **{"image_url": "/v1/images/1", "thumbnail_url": "/v1/images/1/thumbnail"},
        "folded": [{"score": 0.4, "image_id": "b", "row": 2}],
    }
    said = {
        **{"hits": [hit], "total": 2, "took_ms": 1.0},
        "category": {"label": "x", "probability": 0.5},
        "facets": {"tags": [{"value": "狗", "count": 2}]},
    }
    answer = Answers(httpx.Response(200, json=said)).client().search("狗", facets=["tags"])
    assert answer.hits[0].folded[0].image_id == "b"
    assert answer.category.label == "x"
    assert answer.facets["tags"][0] == clip_text_client.Facet("狗", 2)


# The package


def test_both_clients_have_the_same_methods():
    def methods(kind):
        return {
            name: [each.replace(annotation=None) for each in signature.parameters.values()]
            for name, method in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_") and (signature := inspect.signature(method))
        }

    assert methods(Client) == methods(AsyncClient)
    for name in clip_text_client.__all__:
        assert getattr(clip_text_client, name).__doc__, name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    tree, out = tmp_path_factory.mktemp("tree") / "client", tmp_path_factory.mktemp("dist")
    unused = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    shutil.copytree(ROOT / "clip_text_client", tree, ignore=unused)
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", out, tree]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    return wheel


def test_its_wheel_is_whole(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        text = archive.read(metadata).decode()
    source = ROOT / "clip_text_client" / "src"
    assert names == {
        file.relative_to(source).as_posix()
        for file in (source / "clip_text_client").iterdir()
        if file.is_file()
    }
    assert "clip_text_client/py.typed" in names
    wanted = [line.split(": ")[1] for line in text.splitlines() if line.startswith("Requires-Dist")]
    assert [name.partition(">")[0] for name in wanted] == ["httpx", "httpx-retries"]


def test_it_is_installed_alone_and_asks_without_torch(wheel, address, tmp_path):
    place = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    names = {"base": str(place), "platbase": str(place)}
    packages = Path(sysconfig.get_path("purelib", "venv", vars=names))
    python = Path(sysconfig.get_path("scripts", "venv", vars=names)) / "python"
    # what httpx stands on is seen there; what a model stands on cannot be imported
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "dependencies.pth").write_text("\n".join(here), encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONHOME"}}
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    subprocess.run(
        [*pip, "install", "--quiet", "--no-deps", "--force-reinstall", wheel],
        check=True,
        env=environment,
    )
    program = (
        "import sys\n"
        "heavy = ['torch', 'faiss', 'numpy', 'transformers', 'open_clip', 'PIL', 'fastapi',"
        " 'pydantic', 'clip_text', 'retrieval']\n"
        "sys.modules |= dict.fromkeys(heavy)\n"
        "import clip_text_client, httpx\n"
        "print(clip_text_client.__file__)\n"
        "transport = httpx.HTTPTransport()\n"
        "with clip_text_client.Client(sys.argv[1], transport=transport) as client:\n"
        "    print(client.search('狗', top_k=1).total, len(client.embed(['狗'])[0]))\n"
    )
    done = subprocess.run(
        [python, "-c", program, address],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    where, said = done.stdout.splitlines()
    assert Path(where).is_relative_to(packages)
    assert said == f"{NUMBER} 16"
