"""Embeddings and labels over HTTP: the clients of others, unmodified, on a real socket."""

import asyncio
import base64
import io
import json
import threading
import time
from dataclasses import replace

import httpx
import numpy as np
import openai
import pytest
from fakes import FakeEncoder, save_picture
from listening import listening
from models import tiny_checkpoint
from PIL import Image
from test_api import ask, assert_error, eventually

from clip_text import Encoder
from clip_text.heads import ClassificationHead, HeadConfig
from clip_text_cli import wiring
from retrieval.ingest import index_folder
from retrieval.search import Searcher
from retrieval.service.app import Served, create_app
from retrieval.service.batching import Batcher, OverloadedError
from retrieval.service.embedding import in_parts
from retrieval.service.messages import embeddings as messages
from retrieval.service.settings import Settings

TEXTS = ["一只狗", "", "红色的心 red", "狗" * 40]


@pytest.fixture(scope="module")
def encoder():
    """A tiny model with a head for labels."""
    checkpoint = tiny_checkpoint()
    head = ClassificationHead(
        HeadConfig(labels=("动物", "植物", "人")), checkpoint.config.backbone.hidden_size
    )
    return Encoder(replace(checkpoint, heads={"kind": head.eval()}), device="cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return [save_picture(folder / f"{number}.png", seed=number) for number in range(3)]


@pytest.fixture(scope="module")
def index_of(tmp_path_factory, pictures):
    """Index the pictures with an encoder, once for each."""

    def make(encoder):
        index_dir = tmp_path_factory.mktemp("indexes") / "index"
        index_folder(pictures[0].parent, index_dir, encoder)
        return index_dir

    return make


@pytest.fixture(scope="module")
def address(encoder, index_of):
    with Searcher.open(index_of(encoder), encoder) as searcher:
        served = Served(
            searcher,
            encoder=encoder,
            model="tiny",
            count_tokens=wiring.token_counter(encoder),
            classify=wiring.text_classifier(encoder),
        )
        with listening(create_app(served)) as address:
            yield address


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(
        base_url=f"{address}/v1",
        api_key="none",
        max_retries=0,
        http_client=httpx.Client(trust_env=False),
    ) as client:
        yield client


@pytest.fixture(scope="module")
def http(address):
    with httpx.Client(base_url=address, trust_env=False) as client:
        yield client


def as_base64(path):
    return base64.b64encode(path.read_bytes()).decode()


# Clients of others


@pytest.mark.parametrize("form", [{}, {"encoding_format": "float"}])
def test_the_client_of_openai_gets_the_rows_of_the_model(client, encoder, form):
    answer = client.embeddings.create(model="default", input=TEXTS, **form)
    assert [one.index for one in answer.data] == [0, 1, 2, 3]
    assert answer.model == "default"
    rows = np.array([one.embedding for one in answer.data], np.float32)
    # bit for bit: neither JSON nor base64 costs a digit
    np.testing.assert_array_equal(rows, encoder.encode_text(TEXTS))
    # [CLS] and [SEP] each; red is one word of the vocabulary; the last is cut at the context, 16
    assert answer.usage.prompt_tokens == 5 + 2 + 7 + 16
    assert answer.usage.total_tokens == answer.usage.prompt_tokens


def test_one_text_and_fewer_dimensions(client, encoder):
    answer = client.embeddings.create(model="tiny", input="一只狗", dimensions=8)
    (one,) = answer.data
    whole = encoder.encode_text(["一只狗"])
    wanted = whole[0, :8] / np.linalg.norm(whole[0, :8])
    np.testing.assert_allclose(one.embedding, wanted, atol=1e-7)
    np.testing.assert_array_equal(
        np.float32(one.embedding), encoder.encode_text(["一只狗"], dimensions=8)[0]
    )
    assert answer.model == "tiny"


def test_the_client_of_openai_lists_the_models(client, encoder):
    assert [one.id for one in client.models.list()] == ["default", "tiny"]
    one = client.models.retrieve("tiny")
    assert (one.id, one.object, one.owned_by) == ("tiny", "model", "clip-text")
    assert one.embed_dim == encoder.embed_dim
    assert one.fingerprint == encoder.fingerprint
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("text-embedding-3-small")
    with pytest.raises(openai.NotFoundError, match="GET /v1/models names them") as caught:
        client.embeddings.create(model="text-embedding-3-small", input="x")
    assert caught.value.type == "model_not_found"


def test_the_async_client_of_openai(address, encoder):
    async def both():
        async with openai.AsyncOpenAI(
            base_url=f"{address}/v1",
            api_key="none",
            http_client=httpx.AsyncClient(trust_env=False),
        ) as client:
            return await asyncio.gather(
                *(client.embeddings.create(model="default", input=text) for text in TEXTS)
            )

    for text, answer in zip(TEXTS, asyncio.run(both()), strict=True):
        np.testing.assert_allclose(
            answer.data[0].embedding, encoder.encode_text([text])[0], atol=1e-6
        )


def test_langchain_gets_the_rows_of_the_model(address, encoder):
    from langchain_openai import OpenAIEmbeddings

    with httpx.Client(trust_env=False) as http:
        embeddings = OpenAIEmbeddings(
            model="default",
            base_url=f"{address}/v1",
            api_key="none",
            check_embedding_ctx_length=False,
            http_client=http,
        )
        np.testing.assert_allclose(
            embeddings.embed_documents(TEXTS), encoder.encode_text(TEXTS), atol=1e-7
        )
        np.testing.assert_allclose(
            embeddings.embed_query("红色的心"), encoder.encode_text(["红色的心"])[0], atol=1e-7
        )


def test_numbers_of_tokens_are_refused_and_told_what_to_do(http):
    # what LangChain sends where it is not told otherwise
    for tokens in ([[1, 2, 3]], [1, 2, 3]):
        answer = http.post("/v1/embeddings", json={"model": "default", "input": tokens})
        assert_error(answer, 422, "invalid_request", "tokens", "check_embedding_ctx_length=False")


# Pictures, in the shapes of Jina and Infinity


def test_texts_and_pictures_are_embedded_in_their_order(http, encoder, pictures):
    whole = base64.b64encode(pictures[1].read_bytes()).decode()
    pieces = [
        {"image": f"data:image/png;base64,{as_base64(pictures[0])}"},
        {"text": "一只狗"},
        {"image": whole},
        "猫",
    ]
    answer = http.post("/v1/embeddings", json={"input": pieces, "embedding_type": "float"}).json()
    assert [one["index"] for one in answer["data"]] == [0, 1, 2, 3]
    rows = np.array([one["embedding"] for one in answer["data"]], np.float32)
    np.testing.assert_allclose(rows[[0, 2]], encoder.encode_image([*pictures[:2]]), atol=1e-6)
    np.testing.assert_allclose(rows[[1, 3]], encoder.encode_text(["一只狗", "猫"]), atol=1e-6)
    assert answer["usage"]["prompt_tokens"] == 5 + 3, "pictures have no tokens"


def test_strings_are_pictures_where_infinity_says_so(client, encoder, pictures):
    uri = f"data:image/png;base64,{as_base64(pictures[2])}"
    answer = client.embeddings.create(
        model="default", input=[uri], extra_body={"modality": "image"}
    )
    np.testing.assert_allclose(
        answer.data[0].embedding, encoder.encode_image([pictures[2]])[0], atol=1e-6
    )
    assert answer.usage.prompt_tokens == 0


def test_pictures_that_cannot_be_used(http, pictures):
    def send(said):
        return http.post("/v1/embeddings", json={"input": ["狗", {"image": said}]})

    assert_error(send("no base64!"), 422, "picture_unreadable", "place 1", "base64")
    assert_error(send(""), 422, "picture_unreadable", "place 1")
    assert_error(
        send(base64.b64encode(b"no picture").decode()), 422, "picture_unreadable", "place 1"
    )
    assert_error(send("data:image/png,x"), 422, "picture_unreadable", "base64")
    cut = base64.b64encode(pictures[0].read_bytes()[:80]).decode()
    assert_error(send(cut), 422, "picture_unreadable")
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    assert_error(
        send(base64.b64encode(bomb.getvalue()).decode()), 413, "picture_too_large", "pixels"
    )
    for url in ("http://127.0.0.1/x.png", "HTTPS://example.org/x.png"):
        assert_error(send(url), 403, "fetching_is_off", "Send")
    # a file of the service's machine is no picture that was sent
    assert_error(send(f"file://{pictures[0]}"), 422, "picture_unreadable")
    assert_error(send(str(pictures[0])), 422, "picture_unreadable")


# What is refused


def test_a_body_of_millions_of_parts_is_refused_before_it_is_parsed(http):
    for body in (b'{"input": [' + b"[]," * 2_000_000 + b"[]]}", b'{"input": [' + b"1," * 4_000_000):
        begun = time.monotonic()
        answer = http.post(
            "/v1/embeddings", content=body, headers={"content-type": "application/json"}
        )
        assert_error(answer, 413, "request_too_large", "lists and objects")
        assert time.monotonic() - begun < 2  # parsing took longer
    keys = {"input": "x"} | {str(number): 0 for number in range(99_000)}
    assert_error(http.post("/v1/embeddings", json=keys), 422, "invalid_request", "at most 32 keys")
    assert_error(http.post("/v1/embeddings", json={"input": keys}), 422, "invalid_request")
    many = json.dumps(keys | {f"-{number}": 0 for number in range(1_000)}).replace(":", " \n:")
    assert_error(http.post("/v1/embeddings", content=many), 413, "request_too_large", "keys")
    bracketed = http.post("/v1/embeddings", json={"input": ["[[狗]], {猫}"] * 100})
    assert bracketed.status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "kind", "words"),
    [
        ({}, 422, "invalid_request", ["input"]),
        ({"input": []}, 422, "invalid_request", ["1 to 2048"]),
        ({"input": ["x"] * 2_049}, 422, "invalid_request", ["1 to 2048"]),
        ({"input": None}, 422, "invalid_request", ["a text or a list"]),
        ({"input": [{"text": "x", "image": "y"}]}, 422, "invalid_request", ['{"text": …}']),
        ({"input": [{"image": 3}]}, 422, "invalid_request", ['{"image": …}']),
        ({"input": [{"image": "eA=="}] * 257}, 422, "invalid_request", ["256 pictures"]),
        ({"input": "x", "dimensions": 0}, 422, "invalid_request", ["dimensions"]),
        ({"input": "x", "dimensions": 25}, 422, "invalid_request", ["from 1 to 24"]),
        ({"input": "x", "encoding_format": "binary"}, 422, "invalid_request", ["base64"]),
        ({"input": "x", "normalized": False}, 422, "invalid_request", ["True"]),
        ({"input": "x", "size": 3}, 422, "invalid_request", ["only input, model"]),
        ({"input": ["x" * 8_193]}, 413, "text_too_long", ["8192", "8193"]),
        ({"input": [{"text": "x" * 8_193}]}, 413, "text_too_long", ["8192"]),
    ],
)
def test_a_request_that_cannot_be_answered(http, body, status, kind, words):
    assert_error(http.post("/v1/embeddings", json=body), status, kind, *words)


def test_what_is_said_in_vain_does_no_harm(http):
    body = {"input": "狗" * 8_192, "user": "u", "task": "retrieval.query", "normalized": True}
    assert http.post("/v1/embeddings", json=body).status_code == 200
    half = {"content": rb'{"input": "\ud800"}', "headers": {"content-type": "application/json"}}
    assert http.post("/v1/embeddings", **half).status_code == 200


def test_a_service_without_its_model_embeds_nothing(encoder, index_of):
    with Searcher.open(index_of(encoder), encoder) as searcher:
        app = create_app(searcher)
        answer = asyncio.run(ask(app, "POST", "/v1/embeddings", json={"input": "x"}))
        assert_error(answer, 404, "model_not_found", "none here")
        assert asyncio.run(ask(app, "GET", "/v1/models")).json() == {"object": "list", "data": []}
        answer = asyncio.run(ask(app, "POST", "/v1/classify", json={"texts": ["x"]}))
        assert_error(answer, 404, "no_head", "train classifier")


def test_where_nobody_counts_tokens_none_are_told(index_of):
    encoder = FakeEncoder()
    with Searcher.open(index_of(encoder), encoder) as searcher:
        app = create_app(Served(searcher, encoder=encoder))
        answer = asyncio.run(ask(app, "POST", "/v1/embeddings", json={"input": "x"})).json()
    assert answer["usage"] is None
    np.testing.assert_array_equal(
        np.float32(answer["data"][0]["embedding"]), encoder.encode_text(["x"])[0]
    )


# Together


class Watched(FakeEncoder):
    """Remembers how many texts came together; waits while it is told to."""

    def __init__(self):
        super().__init__()
        self.batches, self.go = [], threading.Event()

    def encode_text(self, texts):
        self.batches.append(list(texts))
        assert self.go.wait(20)
        return super().encode_text(texts)


def test_texts_that_arrive_together_are_encoded_together_and_lists_in_parts(index_of):
    encoder = Watched()
    with Searcher.open(index_of(FakeEncoder()), encoder) as searcher:
        app = create_app(Served(searcher, encoder=encoder), settings=Settings(batch=8))
        embedder = app.state.service.collection(None).embedder

        async def all_at_once():
            def send(said):
                return asyncio.create_task(ask(app, "POST", "/v1/embeddings", json={"input": said}))

            long = send([f"long {number}" for number in range(40)])
            await asyncio.to_thread(eventually, lambda: encoder.batches)
            others = [send(f"other {number}") for number in range(5)]
            await asyncio.to_thread(eventually, lambda: embedder.texts.load().waiting == 6)
            encoder.go.set()
            return await long, await asyncio.gather(*others)

        long, others = asyncio.run(all_at_once())
    assert [len(batch) for batch in encoder.batches[:2]] == [8, 8], "a list comes in parts"
    others_at = [place for place, batch in enumerate(encoder.batches) if "other 0" in batch]
    assert others_at == [2], "who came meanwhile does not wait for the whole list"
    assert len(encoder.batches[2]) == 5, "they are encoded together"
    assert len(encoder.batches) == 6
    whole = np.float32([one["embedding"] for one in long.json()["data"]])
    np.testing.assert_array_equal(
        whole, FakeEncoder().encode_text([f"long {number}" for number in range(40)])
    )
    for number, one in enumerate(others):
        (data,) = one.json()["data"]
        assert data["index"] == 0
        wanted = FakeEncoder().encode_text([f"other {number}"])[0]
        np.testing.assert_array_equal(np.float32(data["embedding"]), wanted)


def test_a_batcher_counts_what_its_requests_weigh():
    sizes, go = [], threading.Event()

    def work(asked):
        go.wait(20)
        sizes.append([len(one) for one in asked])
        return [len(one) for one in asked]

    observed = []
    batcher = Batcher(
        work,
        most=4,
        waiting=6,
        patience_s=9,
        weigh=len,
        observe=lambda *said: observed.append(said),
    )

    async def ask_all():
        first = asyncio.create_task(batcher([0]))
        await asyncio.to_thread(eventually, lambda: batcher.load().at_work == 1)
        rest = [asyncio.create_task(batcher([0] * size)) for size in (2, 2, 1, 9, 3, 1)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await batcher([0])
        assert batcher.load().waiting == 6
        go.set()
        return await asyncio.gather(first, *rest)

    assert asyncio.run(ask_all()) == [1, 2, 2, 1, 9, 3, 1]
    batcher.close()
    assert sizes == [[1], [2, 2], [1], [9], [3, 1]]
    assert [size for size, *_ in observed] == [1, 4, 1, 9, 4]


def test_a_request_that_is_given_up_leaves_nothing_waiting():
    done, go = [], threading.Event()

    def work(asked):
        go.wait(20)
        done.extend(asked)
        return asked

    batcher = Batcher(work, most=1, waiting=9, patience_s=9)

    async def give_up():
        task = asyncio.create_task(in_parts(batcher, range(50)))
        await asyncio.to_thread(eventually, lambda: batcher.load().waiting == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()
        return await batcher(99)

    assert asyncio.run(give_up()) == 99
    batcher.close()
    assert done == [0, 99]


def test_an_overloaded_service_says_when_to_come_again(index_of):
    encoder = Watched()
    with Searcher.open(index_of(FakeEncoder()), encoder) as searcher:
        settings = Settings(batch=1, waiting=1)
        app = create_app(Served(searcher, encoder=encoder), settings=settings)
        embedder = app.state.service.collection(None).embedder

        async def too_many():
            def send():
                return asyncio.create_task(ask(app, "POST", "/v1/embeddings", json={"input": "x"}))

            first = send()
            await asyncio.to_thread(eventually, lambda: encoder.batches)
            second = send()
            await asyncio.to_thread(eventually, lambda: embedder.texts.load().waiting)
            refused = await send()
            encoder.go.set()
            return refused, await first, await second

        refused, first, second = asyncio.run(too_many())
    assert_error(refused, 429, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert first.status_code == second.status_code == 200


# Labels


def test_texts_are_classified_by_the_head(http, encoder):
    texts = ["一只狗", "红色的花"]
    answer = http.post("/v1/classify", json={"texts": texts, "top_k": 2})
    found = answer.json()["results"]
    for one, wanted in zip(found, encoder.classify(texts), strict=True):
        assert [label["label"] for label in one["labels"]] == [
            each.label for each in wanted.ranked[:2]
        ]
        np.testing.assert_allclose(
            [label["probability"] for label in one["labels"]],
            [each.probability for each in wanted.ranked[:2]],
            atol=5e-5,
        )
    named = http.post("/v1/classify", json={"texts": texts, "head": "kind", "top_k": 2})
    assert named.json() == answer.json()
    one = http.post("/v1/classify", json={"texts": texts}).json()["results"]
    assert [len(each["labels"]) for each in one] == [1, 1]


def test_a_head_that_is_not_there(http):
    answer = http.post("/v1/classify", json={"texts": ["狗"], "head": "意图"})
    assert_error(answer, 404, "no_head", "kind")
    assert_error(http.post("/v1/classify", json={"texts": []}), 422, "invalid_request")
    assert_error(
        http.post("/v1/classify", json={"texts": ["x" * 8_193]}), 413, "text_too_long", "8193"
    )


def test_labels_of_several_heads_that_are_asked_together():
    from retrieval.service.embedding import Labelling, label_texts

    calls = []

    def classify(texts, head):
        calls.append((texts, head))
        if head == "none":
            raise ValueError("expected one of the heads (a), got 'none'. Name one: head=…")
        return [[(f"{head}:{text}", 1.0)] for text in texts]

    asked = [Labelling(["x"], "a"), Labelling(["y"], "none"), Labelling(["z", "w"], "a")]
    first, second, third = label_texts(classify, asked)
    assert calls == [(["x", "z", "w"], "a"), (["y"], "none")]
    assert (first, third) == ([[("a:x", 1.0)]], [[("a:z", 1.0)], [("a:w", 1.0)]])
    assert second.kind == "no_head"


def test_a_long_answer_is_the_same_as_many_short_ones(http, encoder):
    texts = [f"狗 {number}" for number in range(messages.MAX_INPUTS)]
    began = time.monotonic()
    answer = http.post(
        "/v1/embeddings", json={"input": texts, "encoding_format": "base64"}, timeout=60
    ).json()
    assert time.monotonic() - began < 30
    assert [one["index"] for one in answer["data"]] == list(range(len(texts)))
    rows = np.stack(
        [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in answer["data"]]
    )
    np.testing.assert_allclose(rows, encoder.encode_text(texts), atol=1e-6)


def test_a_name_for_a_model_is_no_place_on_the_disk(tmp_path):
    assert wiring.model_name("starter") == "starter"
    assert wiring.model_name("OFA-Sys/chinese-clip-vit-base-patch16").startswith("OFA-Sys/")
    (tmp_path / "mine").mkdir()
    assert wiring.model_name(str(tmp_path / "mine")) == "mine"
