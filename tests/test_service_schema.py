"""Whatever the OpenAPI document allows is answered as it says, and what it forbids is refused.

schemathesis makes the requests: from the document's examples, at the bounds of each field, at
random within them and without, with other methods and other types of body. Each answer has to have
a status, a content type and a form that the document names; none may be our failure.
"""

import asyncio
import json
from collections import Counter

import pytest
import schemathesis
from fakes import FakeEncoder, save_picture
from hypothesis import settings
from schemathesis.specs.openapi import checks
from test_api import Client

from retrieval.ingest import index_folder
from retrieval.search import Searcher
from retrieval.service.app import Served, create_app

# What no schema can say of what it allows: a field of a filter that no picture has, a page of
# before, a picture that is gone.
NOT_TO_BE_HAD = ["400", "401", "403", "404", "409", "410", "413", "429"]
REFUSED = [*NOT_TO_BE_HAD, "405", "406", "415", "416", "422"]


# What is not looked at, by how the address begins. Pictures, and JSON within forms, are judged by
# what they are; where an id may have a /, the addresses beside it are ids, too, which allow more
# methods than the document lists for them; and each item of a bulk has an answer of its own.
NOT_LOOKED_AT = {
    "/v1/search/upload": [checks.positive_data_acceptance],
    "/v1/embeddings": [checks.positive_data_acceptance],
    "/v1/items": [checks.positive_data_acceptance, checks.allow_header_conformance],
    "/v1/items/bulk": [checks.negative_data_rejection],
}


@schemathesis.serializer("application/x-ndjson")
def lines_of_json(_, value):
    lines = value if isinstance(value, list) else [value]
    return "\n".join(map(json.dumps, lines)).encode()


def check(case):
    path = case.operation.path
    excluded = [
        each for start, some in NOT_LOOKED_AT.items() if path.startswith(start) for each in some
    ]
    case.call_and_validate(excluded_checks=excluded)


class Unopened:
    """Stands where a searcher does, for the document alone."""

    embed_dim, fingerprint = 16, "fake-1"

    def cache_info(self):
        raise NotImplementedError


class Kept:
    """An application that schemathesis does not end after each request; notes statuses."""

    def __init__(self, app):
        self.app, self.statuses = app, Counter()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            for part in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{part}.complete"})
            return

        async def note(message):
            if message["type"] == "http.response.start":
                self.statuses[scope["path"], message["status"]] += 1
            await send(message)

        await self.app(scope, receive, note)


kept = Kept(create_app(Unopened()))
schema = schemathesis.openapi.from_asgi("/openapi.json", kept)
schema.config.checks.positive_data_acceptance.expected_statuses = ["2xx", "304", *NOT_TO_BE_HAD]
schema.config.checks.negative_data_rejection.expected_statuses = REFUSED
schema.config.output.truncate = False


@pytest.fixture(scope="module", autouse=True)
def app(tmp_path_factory):
    """The service of a real index, to which the requests go."""
    base = tmp_path_factory.mktemp("schema")
    for number in range(3):
        save_picture(base / "pictures" / f"{number}.png", seed=number)
    (base / "pictures" / "metadata.jsonl").write_text(
        '{"file_name": "0.png", "caption": "红色的心", "tags": ["海边"], "year": 2024}\n',
        encoding="utf-8",
    )
    index_folder(base / "pictures", base / "index", FakeEncoder())
    with Searcher.open(base / "index", FakeEncoder()) as searcher:
        app = create_app(Served(searcher, encoder=FakeEncoder(), index_dir=base / "index"))
        # By any name: else nearly all requests would name none that there is, and end there.
        default = app.state.service.collection(None)
        app.state.service.collection = lambda name: default
        kept.app = app
        yield app
        asyncio.run(app.state.service.close())


@schema.parametrize()
@settings(max_examples=8)
def test_every_route_does_as_the_document_says(case):
    check(case)


def test_searches_were_answered_and_refused():
    """For a service that refuses everything does as the document says, too."""
    found = {status for (path, status) in kept.statuses if path == "/v1/search"}
    assert {200, 400, 422} <= found, found
    assert sum(kept.statuses["/v1/search", status] for status in (200, 400)) > 50


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=500)
def test_every_route_does_so_for_long(case):
    check(case)


def test_every_route_of_the_application_is_asked(app):
    described = {
        (method.upper(), path)
        for path, operations in app.openapi()["paths"].items()
        for method in operations
    }
    routes = {
        (method, route.path_format)
        for route in app.state.routes
        if route.include_in_schema
        for method in route.methods
    }
    asked = {(each.ok().method.upper(), each.ok().path) for each in schema.get_all_operations()}
    assert asked == described == routes
    assert len(asked) >= 8


@pytest.mark.parametrize(
    ("field", "number", "is_whole"),
    [
        ("top_k", 1.0, True),
        ("top_k", 96.0, True),
        ("offset", 0.0, True),
        ("top_k", 96.5, False),
        ("top_k", 201.0, False),
        ("top_k", True, False),
        ("top_k", "96", False),
    ],
)
def test_a_whole_number_is_one_however_it_is_written(app, field, number, is_whole):
    client = Client(app)
    assert client.search(query="红", **{field: number}).status_code == (200 if is_whole else 422)


def test_a_row_is_a_whole_number_too(app):
    by_float, by_int = (Client(app).search(like=[row]).json()["hits"] for row in (1.0, 1))
    assert by_float == by_int != []
