"""Items over HTTP: added, read, changed, removed; and the indexes that there are."""

import base64
import errno
import io
import json
import os
import re
import socket
import threading
import time
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from fakes import FakeEncoder, save_picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from item_operations import png, unit_row
from PIL import Image
from service_thread import ENCODER, Running, Service
from test_api import ANY_JSON, ANY_TEXT, assert_error, assert_sane, eventually
from test_full_disk import full_after

from retrieval.errors import EncoderError, IndexLockedError, StorageError
from retrieval.ingest import IndexWriter, index_folder, remove_pictures
from retrieval.search import Searcher
from retrieval.service import wanted, writing
from retrieval.service.app import Served, create_app
from retrieval.service.routes import items as routes_of_items
from retrieval.service.uploads import UPLOADS_NAME
from retrieval.service.writes import merged


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A service that stays empty; for what is refused."""
    with Service(tmp_path_factory.mktemp("items") / "index") as started:
        yield started


@pytest.fixture
def service(tmp_path):
    with Service(tmp_path / "index") as started:
        yield started


def as_base64(data):
    return base64.b64encode(data).decode()


# Adding


def test_a_picture_that_is_sent_is_stored_found_and_shown(service):
    added = service.add("店/猫 1", png(1), caption="一只猫", metadata='{"tags": ["猫"], "n": 2}')
    assert added.status_code == 201
    assert added.headers["location"] == "/v1/items/%E5%BA%97/%E7%8C%AB%201"
    item = added.json()
    assert item == {
        "id": "店/猫 1",
        "row": 1,
        "caption": "一只猫",
        "metadata": {"tags": ["猫"], "n": 2},
        "bytes": len(png(1)),
        "width": 8,
        "height": 8,
        "is_item": True,
        "item_url": added.headers["location"],
        "image_url": "/v1/images/1",
        "thumbnail_url": "/v1/images/1/thumbnail",
        "missing": False,
    }
    assert service.client.get(item["item_url"]).json() == item
    (hit,) = service.search()["hits"]  # at once
    assert (hit["image_id"], hit["caption"], hit["metadata"]) == (
        *("店/猫 1", "一只猫"),
        {"tags": ["猫"], "n": 2},
    )
    shown = service.client.get(hit["image_url"])
    assert shown.content == png(1)
    assert shown.headers["content-type"] == "image/png"
    assert shown.headers["content-disposition"] == ("inline; filename*=utf-8''%E7%8C%AB%201.png")
    again = service.client.get(hit["image_url"], headers={"if-none-match": shown.headers["etag"]})
    assert again.status_code == 304
    small = service.client.get(hit["thumbnail_url"])
    assert Image.open(io.BytesIO(small.content)).size == (8, 8)


def test_the_same_id_is_replaced_and_its_file_with_it(service):
    first = service.add("a", png(1), caption="一").json()
    again = service.add("a", png(2))
    assert again.status_code == 200
    assert again.json()["row"] == first["row"]
    assert again.json()["caption"] is None
    assert service.client.get(first["image_url"]).content == png(2)
    assert len(service.files) == 1
    assert service.add("a", png(2)).status_code == 200  # nothing changes
    assert len(service.files) == 1


def test_the_same_picture_under_two_ids_is_one_file_until_the_last_is_gone(service):
    service.add("a", png(1))
    encoded = ENCODER.seen
    other = service.add("b", png(1)).json()
    assert ENCODER.seen == encoded
    assert len(service.files) == 1
    assert service.client.delete("/v1/items/a").status_code == 204
    assert service.client.get(other["image_url"]).content == png(1)
    assert service.client.delete("/v1/items/b").status_code == 204
    assert service.files == []
    assert service.ids() == []


def test_finished_features_come_alone_or_beside_a_picture(service):
    alone = {"id": "a", "feature": unit_row(5).tolist()}
    added = service.client.post("/v1/items", json=alone)
    assert added.status_code == 201
    assert (added.json()["image_url"], added.json()["bytes"]) == (None, None)
    beside = service.add("b", png(1), feature=json.dumps(unit_row(6).tolist())).json()
    assert service.client.get(beside["image_url"]).content == png(1)
    with Searcher.open(service.index_dir, ENCODER) as searcher:
        for seed, image_id in ((5, "a"), (6, "b")):
            (hits,) = searcher.search_features(unit_row(seed)[None], 1)
            assert hits[0].image_id == image_id
            assert hits[0].score > 0.999
    service.client.delete("/v1/items/b")
    assert service.files == []


@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
def test_pictures_in_base64(service, head):
    added = service.client.post("/v1/items", json={"id": "a", "image": head + as_base64(png(3))})
    assert added.status_code == 201
    assert service.client.get(added.json()["image_url"]).content == png(3)


def test_each_kind_of_picture_is_kept_with_its_own_ending(service):
    for number, (kind, media_type) in enumerate(
        [("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("GIF", "image/gif"), ("BMP", "image/bmp")]
    ):
        file = io.BytesIO()
        Image.new("RGB", (9, 7), (number, 90, 10)).save(file, kind)
        added = service.add(f"x.{number}", file.getvalue())
        shown = service.client.get(added.json()["image_url"])
        assert shown.headers["content-type"] == media_type
        assert shown.content == file.getvalue()
    assert {Path(name).suffix for name in service.files} == {".jpg", ".webp", ".gif", ".bmp"}


@pytest.mark.parametrize(
    "image_id",
    [
        "a/b/c",
        "/a",
        "a//b",
        "a/../b",
        "../../etc/passwd",
        "猫",
        "a b?c#d%20e",
        "bulk",
        "x" * 1000,
        "a+b&c",
    ],
)
def test_ids_of_any_kind_are_reached(service, image_id):
    added = service.add(image_id)
    assert added.status_code == 201, added.text
    address = service.client.base_url.copy_with(raw_path=added.headers["location"].encode())
    assert service.client.get(address).json()["id"] == image_id
    assert service.client.delete(address).status_code == 204
    assert len(service.files) == 0


@pytest.mark.parametrize(
    ("image_id", "name"),
    [
        ('a"; filename="b.exe', "a%22%3B%20filename%3D%22b.exe.png"),
        ("x/..", "picture.png"),
        ("x\\y", "y.png"),
        ("a%0d%0ax: y", "a%250d%250ax%3A%20y.png"),
        ("q" * 300, "q" * 100 + ".png"),
        ("plain.PNG", "plain.PNG"),
    ],
)
def test_what_pictures_are_saved_as_ends_no_header(service, image_id, name):
    shown = service.client.get(service.add(image_id).json()["image_url"])
    said = shown.headers["content-disposition"]
    assert said in (f"inline; filename*=utf-8''{name}", f'inline; filename="{name}"')
    assert "x" not in shown.headers


@pytest.mark.parametrize(
    ("said", "picture", "status", "kind", "words"),
    [
        ({}, b"", 422, "picture_unreadable", ["JPEG"]),
        ({}, b"<script>alert(1)</script>", 422, "picture_unreadable", ["JPEG"]),
        ({}, png(1)[:60], 422, "picture_unreadable", []),
        ({"id": ""}, png(1), 422, "invalid_request", ["id"]),
        ({"id": "a\nb"}, png(1), 422, "invalid_item", ["one line"]),
        ({"id": "x" * 1001}, png(1), 413, "text_too_long", ["expected id of at most 1000"]),
        ({"caption": "字" * 10_001}, png(1), 413, "text_too_long", ["caption"]),
        ({"metadata": "{"}, png(1), 422, "invalid_request", ["JSON"]),
        ({"metadata": "[]"}, png(1), 422, "invalid_request", ["metadata"]),
        ({"metadata": '{"a": NaN}'}, png(1), 422, "invalid_request", []),
        ({"metadata": '{"a": 1e999}'}, png(1), 422, "invalid_item", ["metadata that JSON"]),
        ({"feature": "[1, 0]"}, png(1), 422, "invalid_item", ["width 16"]),
        ({"feature": json.dumps([1.0] * 16)}, png(1), 422, "invalid_item", ["unit"]),
        ({"path": "/etc/passwd"}, png(1), 422, "invalid_request", ["both"]),
        ({"nope": "1"}, png(1), 422, "invalid_request", ["only id, image", "got nope"]),
    ],
)
def test_what_cannot_be_stored_is_refused_and_leaves_nothing(
    empty, *, said, picture, status, kind, words
):
    assert_error(empty.add(said.pop("id", "a"), picture, **said), status, kind, *words)
    assert empty.files == []
    assert empty.ids() == []


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"id": "a"}, 422, "invalid_request"),
        ({"id": "a", "image": "?"}, 422, "picture_unreadable"),
        ({"id": "a", "image": as_base64(b"text")}, 422, "picture_unreadable"),
        ({"id": 3, "feature": [1]}, 422, "invalid_request"),
        ({"id": "a", "feature": ["1"]}, 422, "invalid_request"),
        ({"id": "a", "image": as_base64(png(1)), "path": "/x"}, 422, "invalid_request"),
        ([], 422, "invalid_request"),
        (3, 422, "invalid_request"),
    ],
)
def test_wrong_messages(empty, body, status, kind):
    assert_error(empty.client.post("/v1/items", json=body), status, kind)


@pytest.mark.parametrize(
    ("content", "kind", "status", "told"),
    [
        (b"x", "", 415, "unsupported_media_type"),
        (b"x", "text/plain", 415, "unsupported_media_type"),
        (b"x", "multipart/form-data", 400, "invalid_request"),
        (b"x", "multipart/form-data; boundary=b", 400, "invalid_request"),
        (
            b"--b\r\ncontent-disposition: form-data\r\n\r\n1\r\n--b--",
            "multipart/form-data; boundary=b",
            400,
            "invalid_request",
        ),
        (b"{", "application/json", 422, "invalid_request"),
        (b"[" * 60_000, "application/json", 422, "invalid_request"),
        (b'{"id": "\xff"}', "application/json", 422, "invalid_request"),
        (b'{"id": "\\ud800"}', "application/json", 422, "invalid_request"),
        (b"{}", "application/json; charset=gbk", 415, "unsupported_charset"),
    ],
)
def test_malformed_bodies(empty, content, kind, status, told):
    response = empty.client.post("/v1/items", content=content, headers={"content-type": kind})
    assert_error(response, status, told)


@pytest.mark.parametrize("route", ["/v1/items", "/v1/items/bulk", "/v1/search/upload"])
@pytest.mark.parametrize(
    "kind", ["multipart/form-data; boundary=b", "application/json", "application/jsonl"]
)
def test_a_caller_who_leaves_within_a_body_is_no_failure_of_ours(empty, route, kind):
    def answered():
        said = empty.client.get("/metrics").text
        found = re.findall(rf'requests_total{{route="{route}",status="(\d+)"}} (\d+)', said)
        return {int(status): int(count) for status, count in found}

    before = answered()
    address = empty.client.base_url
    with socket.create_connection((address.host, address.port)) as connection:
        head = f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n--b\r\n".encode())
        time.sleep(0.05)
    eventually(lambda: answered() != before, 5)
    told = {status for status, count in answered().items() if count > before.get(status, 0)}
    assert told <= {400, 415}


def test_forms_of_too_many_parts(empty):
    twice = [("image", ("a.png", png(1))), ("image", ("b.png", png(2)))]
    response = empty.client.post("/v1/items", data={"id": "a"}, files=twice)
    assert_error(response, 400, "invalid_request", "at most 1 of them files")
    response = empty.client.post("/v1/items", data={"id": ["a", "b"]}, files={"image": png(1)})
    assert_error(response, 422, "invalid_request", "one part id")
    response = empty.client.post("/v1/items", data={"id": "a"}, files={"picture": png(1)})
    assert_error(response, 422, "invalid_request", "picture")


def bomb(side):
    """A PNG of a few kilobytes that says it has side x side pixels."""
    file = io.BytesIO()
    Image.new("1", (8, 8)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = side.to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("side", [8_000, 40_000, 2**31 - 1])
def test_pictures_of_too_many_pixels_are_refused_before_they_are_decoded(empty, side):
    loaded = len(ENCODER.loaded)
    assert_error(empty.add("a", bomb(side)), 413, "picture_too_large", "pixels", "Scale")
    assert len(ENCODER.loaded) == loaded


def test_bodies_that_are_too_long(tmp_path):
    with Service(tmp_path / "index", upload_bytes=2048) as service:
        assert service.add("a", png(1)).status_code == 201
        assert_error(service.add("b", os.urandom(4096)), 413, "request_too_large", "2048")


def test_a_long_item_is_judged_beside_the_event_loop_and_a_patch_is_never_so_long(
    service, monkeypatch
):
    judged_by, judge = [], routes_of_items.as_message

    def as_message(*arguments):
        judged_by.append(threading.current_thread())
        return judge(*arguments)

    monkeypatch.setattr(routes_of_items, "as_message", as_message)
    service.add("a")
    service.client.post("/v1/items", json={"id": "b", "feature": unit_row(1).tolist()})
    assert len(judged_by) == 2
    assert service.thread not in judged_by
    most = {"caption": "𠮷" * 10_000, "metadata": {"a": "𠮷" * 65_000}}
    escaped = json.dumps(most)  # each as two \\uXXXX
    assert len(escaped) > 75_000 * 12
    headers = {"content-type": "application/json"}
    changed = service.client.patch("/v1/items/a", content=escaped, headers=headers)
    assert changed.json()["metadata"] == most["metadata"]
    longer = service.client.patch("/v1/items/a", content=escaped + " " * 2**18, headers=headers)
    assert_error(longer, 413, "request_too_large", "1048576")


# Paths of the service's machine


def test_paths_are_taken_only_below_allowed_folders(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    inside = save_picture(root / "图 片" / "a.png", 1)
    secret = save_picture(outside / "secret.png", 2)
    (root / "escape").symlink_to(outside)
    (root / "link.png").symlink_to(secret)
    (root / "fine.png").symlink_to(inside)
    (root / "round").symlink_to(root / "round")
    (root / "text.png").write_text("no picture")
    with Service(tmp_path / "index", roots=(root,)) as service:

        def add(path, image_id="a"):
            return service.client.post("/v1/items", json={"id": image_id, "path": path})

        for path in ("图 片/a.png", str(inside), "fine.png", "图 片/../fine.png"):
            added = add(path)
            assert added.status_code in (200, 201), added.text
            assert service.client.get(added.json()["image_url"]).content == inside.read_bytes()
            assert str(tmp_path) not in added.text
        for path in (
            *(str(secret), "../outside/secret.png", "escape/secret.png", "link.png"),
            *("/etc/passwd", "..", "../nothing", "../root-2/a.png", "escape/nothing.png"),
        ):
            assert_error(add(path, "b"), 403, "path_not_allowed")
        for path in ("nothing.png", ".", "图 片", "round", "text.png", "a" * 300, "fine.png/a"):
            response = add(path, "b")
            assert response.status_code in (403, 422), path
            assert str(tmp_path) not in response.text
        assert add("a\0b", "b").status_code == 403
        assert_error(add("a" * 300, "b"), 422, "picture_unreadable", "the path of a file")
        assert service.ids() == ["a"]
        service.client.delete("/v1/items/a")
        assert inside.exists(), "only what was sent is deleted"


def test_a_file_that_cannot_be_looked_at_hinders_no_other(service, monkeypatch, caplog):
    def look(path, roots):
        raise OSError(errno.EIO, "failing")

    monkeypatch.setattr(wanted, "allowed_file", look)
    items = [{"id": "a", "path": "a.png"}, {"id": "b", "feature": unit_row(1).tolist()}]
    told = service.client.post("/v1/items/bulk", json=items).json()
    assert [each["status"] for each in told["items"]] == [500, 201]
    assert [record.exc_info[1].errno for record in caplog.records if record.exc_info] == [errno.EIO]


def test_without_allowed_folders_there_are_no_paths(empty, tmp_path):
    path = str(save_picture(tmp_path / "a.png", 1))
    response = empty.client.post("/v1/items", json={"id": "a", "path": path})
    assert_error(response, 403, "path_not_allowed", "There is none")


# Changing and removing


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # RFC 7386, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patches(target, patch, result):
    assert merged(target, patch) == result


def test_what_is_said_of_an_item_is_changed_and_its_picture_stays(service):
    first = service.add("a/b", caption="一", metadata='{"n": 1, "x": {"y": 1, "z": 2}}').json()
    change = lambda **patch: service.client.patch("/v1/items/a/b", json=patch)  # noqa: E731
    changed = change(metadata={"n": None, "x": {"y": 5}, "new": [1]})
    assert changed.status_code == 200
    assert changed.json() == first | {"metadata": {"x": {"y": 5, "z": 2}, "new": [1]}}
    assert change(caption="二").json()["caption"] == "二"
    assert service.search(where="new = 1")["hits"][0]["caption"] == "二"
    assert change().json()["caption"] == "二"
    assert change(caption=None).json()["caption"] is None
    assert change(metadata=None).json()["metadata"] == {}
    assert service.client.get(first["image_url"]).content == png(1)
    merge = service.client.patch(
        "/v1/items/a/b",
        content=b'{"caption": "\xe4\xb8\x89"}',
        headers={"content-type": "application/merge-patch+json"},
    )
    assert merge.json()["caption"] == "三"


@pytest.mark.parametrize(
    ("patch", "status"),
    [({"caption": 3}, 422), ({"metadata": []}, 422), ({"id": "b"}, 422), ([], 422)],
)
def test_wrong_patches(service, patch, status):
    service.add("a")
    assert_error(service.client.patch("/v1/items/a", json=patch), status, "invalid_request")


def test_what_is_not_there(empty):
    for answer in (
        empty.client.get("/v1/items/no/thing"),
        empty.client.patch("/v1/items/no/thing", json={}),
        empty.client.delete("/v1/items/no/thing"),
    ):
        assert_error(answer, 404, "item_not_found", "'no/thing'")
    assert_error(empty.client.get("/v1/items/a%01b"), 422, "invalid_item")


def test_pictures_of_folders_are_read_and_forgotten_but_not_changed(tmp_path):
    file = save_picture(tmp_path / "p" / "x" / "a.png", 1)
    index_folder(tmp_path / "p", tmp_path / "index", ENCODER)
    with Service(tmp_path / "index") as service:
        found = service.client.get("/v1/items/x/a.png").json()
        assert found["is_item"] is False
        response = service.client.patch("/v1/items/x/a.png", json={"caption": "x"})
        assert_error(response, 409, "not_an_item", "metadata.jsonl")
        assert str(tmp_path) not in response.text
        assert service.client.delete("/v1/items/x/a.png").status_code == 204
    assert file.exists()
    other = save_picture(tmp_path / "q" / "x" / "a.png", 2)
    for folder in ("p", "q"):
        index_folder(tmp_path / folder, tmp_path / "index", ENCODER)
    with Service(tmp_path / "index") as service:
        for answer in (
            service.client.get("/v1/items/x/a.png"),
            service.client.delete("/v1/items/x/a.png"),
        ):
            assert_error(answer, 409, "id_ambiguous")
            assert str(tmp_path) not in answer.text
    assert other.exists()


# Many at once


def test_many_are_stored_each_by_itself(service):
    service.add("old", png(9))
    items = [
        {"id": "new", "image": as_base64(png(1)), "metadata": {"n": 1}},
        {"id": "old", "feature": unit_row(3).tolist()},
        {"id": "no picture", "image": as_base64(b"text")},
        {"id": "cut", "image": as_base64(png(2)[:100])},
        {"id": "wide", "feature": [1.0]},
        {"id": "new", "image": as_base64(png(4)), "caption": "again"},
        {"nope": 1},
        "text",
        {"id": "path", "path": "/etc/passwd"},
    ]
    for body, kind in (
        (json.dumps(items), "application/json"),
        ("\n".join(map(json.dumps, items)) + "\n\n", "application/x-ndjson"),
    ):
        answer = service.client.post(
            "/v1/items/bulk", content=body, headers={"content-type": kind}
        ).json()
        told = [
            (each["id"], each["status"] // 100, (each["error"] or {}).get("type"))
            for each in answer["items"]
        ]
        assert told == [
            ("new", 2, None),
            ("old", 2, None),
            ("no picture", 4, "picture_unreadable"),
            ("cut", 4, "picture_unreadable"),
            ("wide", 4, "invalid_item"),
            ("new", 2, None),
            (None, 4, "invalid_request"),
            (None, 4, "invalid_request"),
            ("path", 4, "path_not_allowed"),
        ]
        assert (answer["stored"], answer["failed"]) == (3, 6)
        assert service.ids() == ["new", "old"]
        assert service.client.get("/v1/items/new").json()["caption"] == "again"
        assert len(service.files) == 1  # that of the last new; what was refused leaves none


def test_each_of_many_is_answered_as_if_it_were_alone(service, caplog):
    items = [
        {"id": "x" * 1001, "feature": [1.0]},
        {"id": "a", "caption": "字" * 10_001, "feature": [1.0]},
        {"id": "a", "path": "x" * 5_000},
    ]
    many = service.client.post("/v1/items/bulk", json=items).json()["items"]
    for item, told in zip(items, many, strict=True):
        alone = service.client.post("/v1/items", json=item)
        assert (told["status"], told["error"]) == (413, alone.json()["error"])
        assert alone.status_code == 413


def test_a_failure_of_ours_among_many_is_in_the_log(service, caplog, monkeypatch):
    monkeypatch.setattr(ENCODER, "encode_pixels", lambda _: np.full((1, 16), np.nan, np.float32))
    items = [{"id": "a", "image": as_base64(png(1))}]
    (told,) = service.client.post("/v1/items/bulk", json=items).json()["items"]
    assert (told["status"], told["error"]["type"]) == (500, "internal_error")
    (record,) = [each for each in caplog.records if each.name == "retrieval.service.wanted"]
    assert isinstance(record.exc_info[1], EncoderError)
    assert service.files == []


def test_many_are_encoded_together(service):
    batches = []
    ENCODER._before_batch = batches.append
    try:
        items = [{"id": str(n), "image": as_base64(png(100 + n))} for n in range(70)]
        answer = service.client.post("/v1/items/bulk", json=items).json()
    finally:
        ENCODER._before_batch = None
    assert answer["stored"] == 70
    assert batches == [64, 6]


@pytest.mark.parametrize(
    ("content", "kind", "status", "told"),
    [
        (b"{}", "application/json", 422, "invalid_request"),
        (b"[" + b"1," * 1000 + b"1]", "application/json", 413, "too_many_items"),
        (b"1\n" * 1001, "application/jsonl", 413, "too_many_items"),
        (b"x", "text/csv", 415, "unsupported_media_type"),
    ],
)
def test_wrong_lists(empty, content, kind, status, told):
    answer = empty.client.post("/v1/items/bulk", content=content, headers={"content-type": kind})
    assert_error(answer, status, told)


def test_lines_are_read_beside_the_event_loop_and_no_more_of_them_than_wanted(empty, monkeypatch):
    read = []

    def parse(raw):
        read.append((raw, threading.current_thread()))
        return {}

    monkeypatch.setattr(routes_of_items, "parsed", parse)
    lines = b"\n" * 100_000 + b"1\n" * 100_000
    headers = {"content-type": "application/jsonl"}
    answer = empty.client.post("/v1/items/bulk", content=lines, headers=headers)
    assert_error(answer, 413, "too_many_items", "at most 1000")
    assert len(read) == 1_001
    assert not {thread for _, thread in read} & {empty.thread}


def test_a_line_that_is_no_json_hinders_no_other(service):
    lines = b'{"id": "a"\n' + json.dumps({"id": "b", "feature": unit_row(1).tolist()}).encode()
    headers = {"content-type": "application/x-ndjson"}
    answer = service.client.post("/v1/items/bulk", content=lines, headers=headers).json()
    assert [each["status"] for each in answer["items"]] == [422, 201]


def test_many_are_forgotten(service):
    for number in range(3):
        service.add(str(number), png(number))
    body = {"ids": ["0", "nothing", "2", "2", "a\nb"]}
    answer = service.client.post("/v1/items/delete", json=body).json()
    assert [each["status"] for each in answer["items"]] == [204, 404, 204, 404, 422]
    assert (answer["deleted"], answer["failed"]) == (2, 3)
    assert service.ids() == ["1"]
    assert len(service.files) == 1
    assert service.client.post("/v1/items/delete", json={"ids": []}).json()["deleted"] == 0


@pytest.mark.parametrize(
    ("content", "status", "told", "words"),
    [
        (b'{"ids": [' + b"[]," * 200_000 + b"[]]}", 413, "request_too_large", ["lists"]),
        (json.dumps({"ids": [1] * 10_000}).encode(), 422, "invalid_request", ["ids.0 to be"]),
        (json.dumps({"ids": ["a"] * 10_001}).encode(), 422, "invalid_request", ["at most 10000"]),
        (b'{"ids": ["%s"]}' % (b"a" * 1_001), 413, "text_too_long", ["1000"]),
        (b"{", 422, "invalid_request", ["JSON"]),
        (b"[]", 422, "invalid_request", ["the body to be an object"]),
    ],
)
def test_wrong_lists_of_what_to_forget(empty, content, status, told, words):
    headers = {"content-type": "application/json"}
    answer = empty.client.post("/v1/items/delete", content=content, headers=headers)
    assert_error(answer, status, told, *words)
    assert " more" not in answer.json()["error"]["message"].replace("got more", "")


# Who writes, and when


def test_a_service_without_a_model_only_searches(tmp_path):
    IndexWriter.open(tmp_path, ENCODER).close()
    with Searcher.open(tmp_path, ENCODER) as searcher, Running(create_app(searcher)) as client:
        for answer in (
            client.post("/v1/items", json={"id": "a", "feature": unit_row(1).tolist()}),
            client.post("/v1/items/bulk", json=[]),
            client.post("/v1/items/delete", json={"ids": []}),
            client.patch("/v1/items/a", json={}),
            client.delete("/v1/items/a"),
        ):
            assert_error(answer, 403, "not_writable")
        assert client.get("/v1/collections").json()["collections"][0]["writable"] is False
        assert_error(client.get("/v1/items/a"), 404, "item_not_found")


def test_a_lock_that_others_hold_is_waited_for_and_then_told(tmp_path):
    with Service(tmp_path / "index", lock_wait_s=0.3) as service:
        with IndexWriter.open(service.index_dir, ENCODER):
            answer = service.add("a")
            assert_error(answer, 503, "index_locked")
            assert answer.headers["retry-after"] == "1"
        assert service.add("a").status_code == 201
    with Service(tmp_path / "index", lock_wait_s=30) as service:
        other = IndexWriter.open(service.index_dir, ENCODER)
        threading.Timer(0.2, other.close).start()
        assert service.add("b").status_code == 201


def test_the_lock_is_given_back_after_the_last_write(service):
    service.add("a")

    def write():
        try:
            return IndexWriter.open(service.index_dir, ENCODER)
        except IndexLockedError:
            return None

    with eventually(write, 5) as writer:
        writer.add("b", data=png(2))
    eventually(lambda: service.ids() == ["a", "b"], 5)
    assert service.add("c", png(3)).status_code == 201
    assert service.ids() == ["a", "b", "c"]


def test_the_lock_is_given_back_where_sweeping_fails(service, monkeypatch, caplog):
    def fail(_, __):
        raise StorageError("expected a catalogue, got a disk that fails.")

    writing = service.app.state.service.collection(None).writing
    monkeypatch.setattr(writing.uploads, "folders", lambda: [service.index_dir])
    monkeypatch.setattr(writing.uploads, "sweep", fail)
    assert service.add("a").status_code == 201
    eventually(lambda: writing._resting is None, 5)
    IndexWriter.open(service.index_dir, ENCODER).close()
    assert "a disk that fails" in caplog.text
    assert service.add("b", png(2)).status_code == 201


def test_an_index_that_is_gone_is_not_begun_anew(service):
    away = service.index_dir.rename(service.index_dir.with_name("away"))
    assert_error(service.add("a"), 503, "index_unavailable")
    assert not service.index_dir.exists()
    away.rename(service.index_dir)
    eventually(lambda: service.add("a").status_code == 201, 5)


def test_two_services_write_to_one_index_by_turns(tmp_path):
    with Service(tmp_path / "index") as one, Service(tmp_path / "index") as other:
        told = []
        # at its first request, FastAPI makes what it needs, which two threads at once may not
        assert one.add("a0").status_code == 201
        assert other.add("a0").status_code == 200

        def fill(service, name):
            for number in range(1, 16):
                told.append(service.add(f"{name}{number}", png(number)).status_code)

        threads = [threading.Thread(target=fill, args=pair) for pair in ((one, "a"), (other, "b"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told == [201] * 30
        for service in (one, other):
            eventually(lambda: len(service.ids()) == 31, 5)  # noqa: B023


def test_large_writes_are_not_done_together(tmp_path, monkeypatch):
    """Each would wait for both."""
    with Service(tmp_path / "index", lock_wait_s=20) as service:
        together, done = [], writing.perform

        def perform(writer, uploads, writes):
            together.append(len(writes))
            return done(writer, uploads, writes)

        def bulk(name):
            rows = [{"id": f"{name}{n}", "feature": unit_row(n).tolist()} for n in range(20)]
            service.client.post("/v1/items/bulk", json=rows)

        monkeypatch.setattr(writing, "perform", perform)
        load = service.app.state.service.collection(None).writing.writes.load
        threads = [threading.Thread(target=service.add)]
        threads += [threading.Thread(target=bulk, args=[name]) for name in "xy"]
        with IndexWriter.open(service.index_dir, ENCODER):
            for waiting, thread in enumerate(threads):
                thread.start()
                eventually(lambda: (load().at_work, load().waiting) == (1, waiting))  # noqa: B023
        for thread in threads:
            thread.join()
        assert together == [1, 1, 1]
        assert len(service.ids()) == 41


def test_writes_that_are_too_many_are_refused(tmp_path):
    with Service(tmp_path / "index", waiting=8, lock_wait_s=20) as service:
        told = []
        threads = [
            threading.Thread(target=lambda n=n: told.append(service.add(str(n)))) for n in range(8)
        ]
        with IndexWriter.open(service.index_dir, ENCODER):
            for thread in threads:
                thread.start()
            eventually(lambda: any(answer.status_code == 429 for answer in told))
        for thread in threads:
            thread.join()
        refused = [answer for answer in told if answer.status_code == 429]
        assert_error(refused[0], 429, "overloaded")
        assert int(refused[0].headers["retry-after"]) >= 1
        assert len(service.ids()) == len(told) - len(refused)


def test_a_full_disk_is_told_and_loses_nothing(service):
    service.add("a", png(1))
    eventually(lambda: service.app.state.service.collection(None).writing._writer is None)
    with full_after(100):
        answer = service.add("b", png(2))
        assert_error(answer, 507, "storage_failed")
        assert str(service.index_dir) not in answer.text
        # while it waits for its turn on the disk of temporary files, too
        assert_error(service.add("b", os.urandom(2 << 20)), 507, "storage_failed")
    with full_after(4096):  # the picture fits, the catalogue does not
        assert_error(service.add("c", png(3)), 507, "storage_failed")
        items = [{"id": "d", "feature": unit_row(1).tolist()}]
        (told,) = service.client.post("/v1/items/bulk", json=items).json()["items"]
        assert (told["status"], told["error"]["type"]) == (507, "storage_failed")
    assert service.ids() == ["a"]
    assert service.add("b", png(2)).status_code == 201
    assert service.ids() == ["a", "b"]
    assert len(service.files) == 2


def test_what_is_no_picture_of_the_index_any_more_is_swept(tmp_path):
    with Service(tmp_path / "index") as service:
        for number in range(3):
            service.add(str(number), png(number))
        kept = service.files
    remove_pictures(tmp_path / "index", ids=["1"])
    uploads = tmp_path / "index" / UPLOADS_NAME
    (uploads / "left.partial").write_bytes(b"half of it")
    (uploads / "README").write_text("not ours")
    with Service(tmp_path / "index") as service:
        assert [name for name in service.files if name in kept] == kept
        service.add("3", png(3))
        eventually(lambda: len(service.files) == 4)
        assert "README" in service.files
        assert service.client.get(
            service.client.get("/v1/items/2").json()["image_url"]
        ).content == png(2)


def test_an_index_that_is_reached_by_another_path_keeps_what_was_sent(tmp_path):
    with Service(tmp_path / "index") as service:
        service.add("a", png(1))
        service.add("b", png(2))
    (tmp_path / "other").symlink_to("index")
    with Service(tmp_path / "other") as service:
        assert service.add("c", png(1)).status_code == 201
        writing = service.app.state.service.collection(None).writing
        eventually(lambda: writing._unswept == [] and writing._writer is None)
        assert len(service.files) == 2
        shown = service.client.get(service.client.get("/v1/items/b").json()["image_url"])
        assert shown.content == png(2)
        assert service.client.delete("/v1/items/b").status_code == 204  # by its old path
        assert service.client.delete("/v1/items/c").status_code == 204
        assert len(service.files) == 1  # of a, too, though by another path
        assert service.client.delete("/v1/items/a").status_code == 204
        assert service.files == []


def test_an_index_that_was_built_anew_is_written_to(tmp_path):
    with Service(tmp_path / "index") as service:
        service.add("a")
        eventually(lambda: service.app.state.service.collection(None).writing._writer is None)
        for left in sorted(service.index_dir.rglob("*"), reverse=True):
            left.unlink() if left.is_file() else left.rmdir()
        IndexWriter.open(service.index_dir, ENCODER).close()
        assert service.add("b", png(2)).status_code == 201
        assert service.ids() == ["b"]


# Collections, facets


def test_collections_tell_what_is_in_them(tmp_path):
    encoder = FakeEncoder(8, "fake-8")
    IndexWriter.open(tmp_path / "two", encoder).close()
    with Service(tmp_path / "one") as service, Searcher.open(tmp_path / "two", encoder) as second:
        service.add("a", metadata='{"tags": ["猫", "狗"], "n": 1, "m": 1}')
        service.add("b", png(2), metadata='{"tags": ["猫"], "m": "x", "ok": true}')
        (told,) = service.client.get("/v1/collections").json()["collections"]
        field = lambda *values: dict(zip(("name", "kind", "count", "values"), values, strict=True))  # noqa: E731
        assert told == {
            "name": "default",
            "total": 2,
            "fingerprint": "fake-1",
            "embed_dim": 16,
            "runtime": "fake",
            "writable": True,
            "fields": [
                field("m", "mixed", 2, 2),
                field("n", "number", 1, 1),
                field("ok", "boolean", 1, 1),
                field("tags", "text", 2, 2),
            ],
        }
        assert service.client.get("/v1/collections/default").json() == told
        assert_error(service.client.get("/v1/collections/x"), 404, "collection_not_found")
        both = create_app(
            Served(service.searcher), Served(second, "第二", encoder, tmp_path / "two")
        )
        with Running(both) as client:
            names = [each["name"] for each in client.get("/v1/collections").json()["collections"]]
            assert names == ["default", "第二"]
            added = client.post(
                "/v1/items",
                params={"collection": "第二"},
                data={"id": "z"},
                files={"image": png(1)},
            )
            assert added.status_code == 201
            for address in ("item_url", "image_url", "thumbnail_url"):
                assert client.get(added.json()[address]).status_code == 200
            assert client.get("/v1/items/z").status_code == 404
            assert client.get("/v1/collections/第二").json()["total"] == 1


def test_facets_count_values_of_all_that_a_filter_holds_of(service):
    for number in range(4):
        said = json.dumps({"tags": ["猫"] if number else ["猫", "狗"], "n": number})
        service.add(str(number), png(number), metadata=said)
    found = service.search(top_k=1, facets=["tags", "n"], where="n < 3")
    assert len(found["hits"]) == 1
    assert found["facets"] == {
        "tags": [{"value": "猫", "count": 3}, {"value": "狗", "count": 1}],
        "n": [{"value": 0, "count": 1}, {"value": 1, "count": 1}, {"value": 2, "count": 1}],
    }
    assert service.search()["facets"] == {}
    post = service.client.post
    answer = post("/v1/search", json={"query": "猫", "facets": ["nope"]})
    assert_error(answer, 400, "invalid_query", "nope")
    answer = post("/v1/search", json={"query": "猫", "facets": ["tags"] * 11})
    assert_error(answer, 422, "invalid_request", "facets")
    paged = service.search(paged=True, facets=["tags"], top_k=2)
    assert paged["facets"]["tags"][0]["count"] == 4
    answer = post("/v1/search", json={"page": paged["page"], "facets": ["tags"]})
    assert_error(answer, 400, "invalid_query", "facets")


def test_what_openapi_says_of_bodies_is_there(empty):
    paths = empty.client.get("/openapi.json").json()["paths"]
    content = paths["/v1/items"]["post"]["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "application/json"}
    assert "/v1/items/{id}" in paths
    forgotten = paths["/v1/items/delete"]["post"]["requestBody"]
    assert forgotten["required"]
    assert (
        forgotten["content"]["application/json"]["schema"]["properties"]["ids"]["maxItems"]
        == 10_000
    )
    changed = paths["/v1/items/{id}"]["patch"]["requestBody"]["content"]["application/json"]
    assert set(changed["schema"]["properties"]) == {"caption", "metadata"}
    for path in ("/v1/items", "/v1/items/bulk", "/v1/items/delete", "/v1/search/upload"):
        assert paths[path]["post"]["responses"]["429"]["description"]


# Whatever is sent


def nested(depth):
    return b'{"metadata": ' + b'{"a": ' * depth + b"1" + b"}" * depth + b"}"


@pytest.mark.parametrize(
    ("depth", "statuses", "is_added"),
    [(90, {200}, True), (150, {422}, False), (900, {422}, False), (100_000, {422}, False)],
)
def test_metadata_that_is_nested_deep(service, depth, statuses, is_added):
    service.add("a")
    headers = {"content-type": "application/json"}
    for _ in range(2):
        changed = service.client.patch("/v1/items/a", content=nested(depth), headers=headers)
        assert changed.status_code in statuses, changed.text
    feature = json.dumps(unit_row(1).tolist()).encode()
    new = nested(depth)[:-1] + b', "id": "b", "feature": ' + feature + b"}"
    added = service.client.post("/v1/items", content=new, headers=headers)
    if is_added:
        assert added.status_code == 201
    else:
        assert_error(added, 422, "invalid_request")


def test_metadata_that_is_too_large_is_refused_also_where_patches_make_it_so(service):
    large = json.dumps({"a": "字" * 65_530})
    assert_error(service.add("a", metadata=large), 413, "metadata_too_large", "65536")
    assert service.files == []
    service.add("a", metadata=json.dumps({"a": "字" * 40_000}))
    changed = service.client.patch("/v1/items/a", json={"metadata": {"b": "字" * 40_000}})
    assert_error(changed, 413, "metadata_too_large")
    assert set(service.client.get("/v1/items/a").json()["metadata"]) == {"a"}


@pytest.mark.parametrize(
    ("headers", "is_refused"),
    [
        ({"origin": "https://evil.example"}, True),
        ({"origin": "null"}, True),
        ({"origin": "http://127.0.0.1:1"}, True),
        ({"origin": "https://evil.example", "sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "same-site"}, True),
        ({"origin": "https://behind.a.proxy", "sec-fetch-site": "same-origin"}, False),
        ({"origin": "https://evil.example", "authorization": "Bearer x"}, False),
        ({"origin": "https://evil.example", "x-api-key": "x"}, False),
        # a browser adds by itself what a proxy has asked for
        ({"origin": "https://evil.example", "authorization": "Basic eDp5"}, True),
        ({"origin": "http://["}, True),
        ({"origin": "OWN"}, False),
        ({}, False),
    ],
)
def test_pages_of_other_sites_write_nothing(service, headers, is_refused):
    own = str(service.client.base_url).rstrip("/")
    service.client.headers.update({k: own if v == "OWN" else v for k, v in headers.items()})
    answers = [
        service.add("a"),
        service.client.post("/v1/items/bulk", json=[]),
        service.client.patch("/v1/items/a", json={}),
        service.client.post("/v1/items/delete", json={"ids": []}),
        service.client.delete("/v1/items/a"),
    ]
    if is_refused:
        for answer in answers:
            assert_error(answer, 403, "foreign_page")
    else:
        assert [answer.status_code for answer in answers] == [201, 200, 200, 200, 204]
    assert service.ids() == []  # anybody may read


NEARLY_ITEM = st.fixed_dictionaries(
    {},
    optional={
        "id": ANY_TEXT | ANY_JSON,
        "image": ANY_TEXT | ANY_JSON,
        "path": ANY_TEXT | ANY_JSON,
        "feature": st.lists(st.floats(), max_size=17) | ANY_JSON,
        "metadata": ANY_JSON,
    },
)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(body=ANY_JSON | NEARLY_ITEM, image_id=ANY_TEXT)
def test_no_json_breaks_the_items(empty, body, image_id):
    content = json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    address = f"/v1/items/{quote(image_id.encode(errors='replace'))}x"
    for method, url in (
        ("POST", "/v1/items"),
        ("POST", "/v1/items/bulk"),
        ("POST", "/v1/items/delete"),
        ("PATCH", address),
    ):
        assert_sane(empty.client.request(method, url, content=content, headers=headers))
    assert_sane(empty.client.get(address))


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    parts=st.lists(
        st.tuples(
            st.sampled_from(["id", "image", "metadata", "request", "x", ""]),
            st.none() | ANY_TEXT,
            st.binary(max_size=40),
        ),
        max_size=4,
    )
)
def test_no_form_breaks_items_and_searches(empty, parts):
    forms = [
        (name, (None if file is None else file.encode(errors="replace").decode(), data))
        for name, file, data in parts
    ]
    for address in ("/v1/items", "/v1/search/upload"):
        assert_sane(empty.client.post(address, files=forms or {"id": (None, b"")}))
