"""Searches that bring pictures, and what is less probable left out."""

import io
import json
import threading

import pytest
from fakes import FakeEncoder
from item_operations import png
from PIL import Image
from service_thread import ENCODER, Service
from test_api import assert_error
from test_service_items import bomb

from retrieval.ingest import IndexWriter, Item
from retrieval.search import LikeTerm, PictureTerm, Query, TextTerm
from retrieval.search.query import WITHOUT_WEIGHT
from retrieval.search.relevance import Calibration, Logistic, store_calibration

COUNT = 40


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    index_dir = tmp_path_factory.mktemp("upload") / "index"
    with IndexWriter.open(index_dir, ENCODER) as writer:
        writer.add_many(
            Item(f"{number}.png", data=png(number), metadata={"n": number % 4})
            for number in range(COUNT)
        )
    one = Logistic({"score": 8.0}, 0.0)
    store_calibration(
        index_dir, Calibration(ENCODER.fingerprint, one, one, 0.01, "noise", 1, (1, COUNT))
    )
    with Service(index_dir) as started:
        yield started


def upload(service, *pictures, without=(), collection=None, **said):
    parts = [("image", (f"{n}.png", data)) for n, data in enumerate(pictures)]
    parts += [("without_image", ("x.png", data)) for data in without]
    if said:
        parts.append(("request", (None, json.dumps(said))))
    params = {} if collection is None else {"collection": collection}
    return service.client.post("/v1/search/upload", files=parts, params=params)


def found(response):
    assert response.status_code == 200, response.text
    return [(hit["image_id"], round(hit["score"], 5)) for hit in response.json()["hits"]]


def asked(service, *terms, **said):
    hits = service.searcher.search(Query(terms, **said))
    return [(hit.image_id, round(hit.score, 5)) for hit in hits]


def test_a_picture_finds_itself(service):
    hits = found(upload(service, png(7)))
    assert hits[0] == ("7.png", 1.0)
    assert hits == asked(service, PictureTerm(png(7)))
    assert len(hits) == 10


def test_pictures_words_and_pictures_of_the_index_are_joined(service):
    response = upload(
        *(service, png(101), png(102)),
        without=[png(103)],
        query="猫",
        like=["3.png"],
        without_text=None,
    )
    assert_error(response, 422, "invalid_request", "only query")
    hits = found(
        upload(
            *(service, png(101), png(102)),
            without=[png(103)],
            query="猫",
            like=["3.png"],
            top_k=5,
            where={"field": "n", "op": "=", "value": 1},
        )
    )
    terms = (
        *(TextTerm("猫"), LikeTerm("3.png"), PictureTerm(png(101)), PictureTerm(png(102))),
        PictureTerm(png(103), -WITHOUT_WEIGHT),
    )
    every = asked(service, *terms, top_k=COUNT)
    of_one = [pair for pair in every if int(pair[0].split(".")[0]) % 4 == 1]
    assert hits == of_one[:5]


def test_nothing_of_it_is_kept(service):
    upload(service, png(104))
    assert service.files == []
    assert len(service.searcher) == COUNT


def test_its_pages_are_those_of_one_order(service):
    first = upload(service, png(105), paged=True, top_k=15, facets=["n"])
    assert len(first.json()["facets"]["n"]) == 4
    hits, page = found(first), first.json()["page"]
    while len(hits) < COUNT:
        further = service.search(None, page=page, offset=len(hits), top_k=15)
        hits += [(hit["image_id"], round(hit["score"], 5)) for hit in further["hits"]]
    assert hits == asked(service, PictureTerm(png(105)), top_k=COUNT)
    answer = upload(service, png(1), page=page)
    assert_error(answer, 400, "invalid_query", "got pictures")


def test_other_collections_are_named(service):
    assert found(upload(service, png(7), collection="default"))[0][0] == "7.png"
    assert_error(upload(service, png(7), collection="x"), 404, "collection_not_found")


@pytest.mark.parametrize(
    ("pictures", "status", "kind"),
    [
        ([], 422, "invalid_request"),
        ([png(1)] * 9, 422, "invalid_request"),
        ([png(1)] * 17, 400, "invalid_request"),
        ([b""], 422, "picture_unreadable"),
        ([b"text"], 422, "picture_unreadable"),
        ([png(1), b"<svg/>"], 422, "picture_unreadable"),
        ([png(1)[:100]], 422, "picture_unreadable"),
        ([bomb(8_000)], 413, "picture_too_large"),
        ([bomb(2**31 - 1)], 413, "picture_too_large"),
    ],
)
def test_pictures_that_cannot_be_used(service, pictures, status, kind):
    assert_error(upload(service, *pictures, top_k=3), status, kind)


@pytest.mark.parametrize(
    ("said", "status", "kind"),
    [
        ("{", 422, "invalid_request"),
        ("[]", 422, "invalid_request"),
        ('{"top_k": 0}', 422, "invalid_request"),
        ('{"topk": 1}', 422, "invalid_request"),
        ('{"where": "n = \'x\'"}', 400, "invalid_query"),
        ('{"hybrid": true}', 400, "invalid_query"),
        ('{"query": "%s"}' % ("x" * 1001), 413, "text_too_long"),
        ("[" * 10_000, 422, "invalid_request"),
    ],
)
def test_requests_that_cannot_be_used(service, said, status, kind):
    parts = {"image": png(1), "request": (None, said)}
    assert_error(service.client.post("/v1/search/upload", files=parts), status, kind)


def test_words_beside_pictures_have_the_bound_of_words(service):
    said = json.dumps({"query": "猫", "where": "n = 1"})
    for spaces, status in ((64 * 1024 - len(said), 200), (64 * 1024, 413)):
        parts = {"image": png(1), "request": (None, said + " " * spaces)}
        answer = service.client.post("/v1/search/upload", files=parts)
        assert answer.status_code == status
    assert_error(answer, 413, "request_too_large", "part request", "65536")


def test_other_parts_and_types(service):
    post = service.client.post
    assert_error(post("/v1/search/upload", json={"query": "x"}), 415, "unsupported_media_type")
    wrong = post("/v1/search/upload", files={"image": png(1), "picture": png(1)})
    assert_error(wrong, 422, "invalid_request", "got picture")
    wrong = post("/v1/search/upload", files={"image": png(1), "request": ("x", "{}")})
    assert_error(wrong, 422, "invalid_request", "got a file")
    wrong = post("/v1/search/upload", data={"image": "x"}, files={"without_image": png(1)})
    assert_error(wrong, 422, "invalid_request", "got text")
    wrong = post("/v1/search/upload", files={"without_image": png(1)})
    assert_error(wrong, 400, "invalid_query", "only what to stay away from")
    wrong = post("/v1/search/upload", files={"request": (None, '{"query": "x"}')})
    assert_error(wrong, 422, "invalid_request", "got none")


def test_a_search_with_words_does_not_wait_for_pictures_of_others(tmp_path):
    decoding, go_on = threading.Event(), threading.Event()

    class Slow(FakeEncoder):
        def load_pixels(self, source):
            decoding.set()
            assert go_on.wait(30)
            return super().load_pixels(source)

    IndexWriter.open(tmp_path / "index", ENCODER).close()
    with Service(tmp_path / "index", encoder=Slow()) as service:
        told = []
        thread = threading.Thread(target=lambda: told.append(upload(service, png(1))))
        thread.start()
        try:
            assert decoding.wait(30)
            assert service.search("猫")["hits"] == []
            assert told == []
        finally:
            go_on.set()
            thread.join()
    assert told[0].status_code == 200


def test_hits_that_are_less_probable_are_left_out(service):
    every = service.search("猫", top_k=COUNT)["hits"]
    probabilities = [hit["probability"] for hit in every]
    assert probabilities == sorted(probabilities, reverse=True)
    least = probabilities[12]
    cut = service.search("猫", top_k=COUNT, min_probability=least - 1e-4)
    assert [hit["row"] for hit in cut["hits"]] == [hit["row"] for hit in every][: len(cut["hits"])]
    assert 13 <= len(cut["hits"]) < COUNT
    assert all(hit["probability"] >= least - 1e-4 for hit in cut["hits"])
    none = service.search("猫", min_probability=1)
    assert (none["hits"], none["nothing_matches"]) == ([], True)
    assert len(service.search("猫", top_k=COUNT, min_probability=0)["hits"]) == COUNT
    # of a picture nobody can say it
    assert len(found(upload(service, png(1), min_probability=0.9))) == 10


def test_pages_are_cut_as_the_first_one_was(service):
    every = service.search("猫", top_k=COUNT)["hits"]
    least = every[25]["probability"] - 1e-4
    first = service.search("猫", paged=True, top_k=10, min_probability=least)
    rows = [hit["row"] for hit in first["hits"]]
    for offset in (10, 20, 30):
        page = service.search(None, page=first["page"], offset=offset, top_k=10)
        rows += [hit["row"] for hit in page["hits"]]
    whole = service.search("猫", top_k=COUNT, min_probability=least)["hits"]
    assert rows == [hit["row"] for hit in whole]
    assert 26 <= len(rows) < COUNT


@pytest.mark.parametrize("least", [-0.1, 1.1, "0.5", True])
def test_probabilities_are_from_0_to_1(service, least):
    body = {"query": "猫", "min_probability": least}
    answer = service.client.post("/v1/search", json=body)
    assert_error(answer, 422, "invalid_request", "min_probability")


def test_each_kind_of_picture_is_searched_with(service):
    for kind in ("JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        file = io.BytesIO()
        Image.open(io.BytesIO(png(9))).save(file, kind, lossless=True)
        assert len(found(upload(service, file.getvalue()))) == 10, kind
