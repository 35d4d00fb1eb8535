"""clip_text_client on a service that is written to: odd ids, many pictures, pages meanwhile."""

import base64
import json

import httpx
import numpy as np
import pytest
from asking import asking
from fakes import FakeEncoder, save_picture
from listening import listening
from test_client import Answers

from clip_text_client import Client, InvalidRequestError, NotFoundError
from retrieval.ingest import index_folder
from retrieval.search import Searcher
from retrieval.service.app import Served, create_app

WAYS = ("at once", "awaited")


@pytest.fixture
def service(tmp_path):
    """Serve an index of eight pictures that may be changed."""
    for number in range(8):
        save_picture(tmp_path / "p" / f"{number}.png", seed=number)
    index_folder(tmp_path / "p", tmp_path / "index", FakeEncoder())
    with Searcher.open(tmp_path / "index", FakeEncoder()) as searcher:
        served = Served(searcher, encoder=FakeEncoder(), index_dir=tmp_path / "index", model="fake")
        with listening(create_app(served)) as address:
            yield address


@pytest.mark.parametrize("way", WAYS)
def test_an_id_is_never_taken_for_a_way_to_another(way, service):
    odd = ["a/../b", "dir/./x", "a//b", "../../x", "/x", "x/", ".", "..", "a/..", "%2E%2E", "a%2F1"]
    plain = ["b", "dir/x", "a/b", "x", "a/1", "a"]
    row = np.eye(16, dtype=np.float32)[0].tolist()
    items = [{"id": each, "feature": row, "caption": each} for each in odd + plain]
    with asking(service, way) as ask:
        assert {outcome.status for outcome in ask("add_many", items)} == {201}
        for each in odd:
            assert ask("get", each).caption == each
            assert ask("update", each, caption=f"new {each}").id == each
            ask("delete", each)
            with pytest.raises(NotFoundError, match="expected the id of a picture"):
                ask("get", each)
        assert [ask("get", each).caption for each in plain] == plain
        for name in ("get", "delete"):
            with pytest.raises(InvalidRequestError, match="expected an id of 1 to"):
                ask(name, "")


def test_more_pictures_than_one_request_takes(service, tmp_path):
    pictures = []
    for number in range(12):
        file = save_picture(tmp_path / f"{number}.png", seed=100 + number)
        # as large as a photo; what comes after the end of a PNG, nobody reads
        pictures.append(file.read_bytes() + bytes(2_500_000))
    with asking(service, "at once") as ask:
        rows = np.float32(ask("embed_images", pictures))
        items = [{"id": f"i{n}", "image": each} for n, each in enumerate(pictures)]
        outcomes = ask("add_many", items)
        assert [(each.id, each.status) for each in outcomes] == [(f"i{n}", 201) for n in range(12)]
        assert ask("image", outcomes[-1].row) == pictures[-1]
    encoder = FakeEncoder()
    wanted = [encoder.encode_file(tmp_path / f"{number}.png") for number in range(12)]
    np.testing.assert_array_equal(rows, np.concatenate(wanted).reshape(12, -1))


def test_a_new_request_begins_where_one_would_be_too_long(monkeypatch):
    monkeypatch.setattr("clip_text_client.calls.MOST_BYTES", 1_000)
    monkeypatch.setattr("clip_text_client.calls.MOST_ITEMS", 20)
    asked = []

    def answer(request):
        said = json.loads(request.read())
        things = said["input"] if isinstance(said, dict) else said
        asked.append([len(one.get("image", "")) for one in things])
        row = {"embedding": base64.b64encode(bytes(8)).decode()}
        done = {"items": [{"id": "a", "status": 201}] * len(things), "data": [row] * len(things)}
        return httpx.Response(200, json=done)

    client = Client("http://service/", transport=httpx.MockTransport(answer))
    pictures = [bytes(300), bytes(300), bytes(300), bytes(3_000), bytes(30)]
    in_base64 = [[400, 400], [400], [4_000], [40]]
    assert client.embed_images(pictures) == [[0.0, 0.0]] * 5
    assert asked == in_base64
    asked.clear()
    items = [{"id": "a", "image": each} for each in pictures]
    assert len(client.add_many(items)) == 5
    assert asked == in_base64
    asked.clear()
    client.add_many([{"id": "a", "feature": [0.5], "caption": "c" * 600, "image": None}] * 3)
    assert asked == [[0], [0], [0]], "what is said of them counts, too"
    asked.clear()
    client.add_many([{"id": "a", "path": "x"}] * 21)
    assert list(map(len, asked)) == [20, 1]
    asked.clear()
    assert client.add_many([]) == []
    assert asked == []


def test_pages_go_on_though_all_of_one_were_removed(service):
    with Client(service, transport=httpx.HTTPTransport()) as client:
        order = [hit.image_id for hit in client.search("红色").hits]
        hits = client.iterate("红色", page_size=2)
        begun = [next(hits).image_id, next(hits).image_id]
        client.delete_many(order[2:6])
        assert begun + [hit.image_id for hit in hits] == order[:2] + order[6:]


HIT = {
    **{"rank": 1, "score": 0.5, "image_id": "a", "row": 1, "caption": None, "metadata": {}},
    **{"image_url": "/v1/images/1", "thumbnail_url": "/v1/images/1/thumbnail"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("total", "most", "pages"),  # of each: its offset, how many are asked for, how many come
    [
        # after an empty one, all that may be left is asked for in few steps
        (250, 1_000, [(0, 2, 2), (2, 2, 0), (4, 200, 2), (204, 2, 0), (206, 200, 0)]),
        (9_999, 300, [(0, 2, 2), (2, 2, 0), (4, 200, 0), (204, 96, 0)]),
        # no order is longer than 1,000, whatever is asked for
        (9_999, 5_000, [(0, 2, 2), (2, 2, 0), *((4 + 200 * n, 200, 0) for n in range(5))]),
        (4, 1_000, [(0, 2, 2), (2, 2, 0)]),
        (250, 1_000, [(0, 2, 0)]),
        (250, 3, [(0, 2, 2), (2, 1, 1)]),
    ],
)
def test_where_an_answer_ends(monkeypatch, way, total, most, pages):
    said = {"total": total, "took_ms": 1.0, "page": "token"}
    answers = Answers(*(httpx.Response(200, json={**said, "hits": [HIT] * n}) for *_, n in pages))
    for name in ("HTTPTransport", "AsyncHTTPTransport"):
        monkeypatch.setattr(f"asking.httpx.{name}", lambda: httpx.MockTransport(answers))
    with asking("http://service/", way) as ask:
        assert len(ask("iterate", "红色", page_size=2, most=most)) == sum(n for *_, n in pages)
    asked = [json.loads(request.read()) for request in answers.asked]
    assert [(one.get("offset", 0), one["top_k"]) for one in asked] == [tuple(p[:2]) for p in pages]
