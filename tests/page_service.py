"""The services that the page is tested against: one of a stub, and one of a real index."""

import asyncio
import io
import json
from dataclasses import replace
from http.cookies import SimpleCookie

import numpy as np
from fakes import FakeEncoder
from fastapi import Response
from PIL import Image, ImageDraw
from stub_searcher import METADATA, ROWS, StubSearcher

from retrieval.ingest import IndexWriter, Item
from retrieval.search import Answer, Searcher
from retrieval.service.app import Served, create_app

SHOWABLE = [row for name, row in ROWS.items() if name not in ("damaged.png", "gone.png")]
KEY = "ct_a-key-of-the-tests"
ALBUM = 1_200
COLOURS = {"红": (196, 62, 44), "蓝": (52, 96, 168), "绿": (70, 140, 84), "黄": (226, 176, 60)}
THINGS = ("心", "船", "山", "花", "鸟", "房子")


class PageSearcher(StubSearcher):
    """Shows the pictures a browser can show, and whatever else a test asks for."""

    def __init__(self, folder):
        super().__init__(folder)
        self.reset()

    def reset(self):
        self.failure = None
        self.category = None
        self.rows = SHOWABLE
        self.copies = 1
        self.caption = None
        self.metadata = METADATA
        self.improbable = False
        self.queries = []

    def __len__(self):
        return len(self.rows) * self.copies

    def fields(self):
        return []

    def search(self, query, top_k=10):
        self.queries.append(query)
        hits = [hit for hit in super().search(query, 100) if hit.row in self.rows] * self.copies
        return [
            replace(hit, rank=rank, metadata=self.metadata, caption=self.caption or hit.caption)
            for rank, hit in enumerate(hits[:top_k], start=1)
        ]

    def rank(self, query):
        return StubRanking(self, self.search(query.terms[0].text, 1_000))


class StubRanking:
    def __init__(self, searcher, hits):
        self.searcher, self.hits = searcher, hits

    def page(self, offset=0, top_k=10):
        return self.hits[offset : offset + top_k]

    def answer(self, hits):
        is_improbable = self.searcher.improbable
        probability = 0.03 if is_improbable else None
        answer = Answer(hits, self.searcher.category)
        return replace(answer, probability=probability, nothing_matches=is_improbable)


class Gate:
    """Stands before an application; holds searches, is busy, or asks for a key, as a test says."""

    def __init__(self, app):
        self._app = app
        self.reset()

    def reset(self):
        self.hold = {}  # words of a body → the event it waits for
        self.busy = 0  # how many searches are still to be refused
        self.broken = False
        self.key = None
        self.bodies = []  # of searches

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        answer = await self._own_answer(scope, body)
        if answer is not None:
            await answer(scope, receive, send)
            return
        given = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay():
            return next(given, None) or await receive()

        await self._app(scope, replay, send)

    async def _own_answer(self, scope, body):
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if self.key is not None and scope["path"] == "/v1/session":
            return self._session(scope["method"], headers)
        cookies = SimpleCookie(headers.get("cookie", ""))
        if self.key is not None and "clip-text" not in cookies:
            return _refusal(401, "unauthorized")
        if not scope["path"].startswith("/v1/search"):
            return None
        self.bodies.append(body)
        for words, event in self.hold.items():
            while words.encode() in body and not event.is_set():
                await asyncio.sleep(0.02)
        if self.broken:
            return _refusal(500, "internal_error")
        if self.busy:
            self.busy -= 1
            return _refusal(429, "overloaded", {"retry-after": "1"})
        return None

    def _session(self, method, headers):
        if method == "DELETE":
            return Response(
                status_code=204, headers={"set-cookie": "clip-text=; Max-Age=0; Path=/"}
            )
        if headers.get("authorization") != f"Bearer {self.key}":
            return _refusal(401, "unauthorized", {"www-authenticate": "Bearer"})
        cookie = "clip-text=session; HttpOnly; SameSite=Strict; Path=/"
        return Response(status_code=204, headers={"set-cookie": cookie})

    def asked(self):
        """The searches' bodies, of those without pictures."""
        return [json.loads(body) for body in self.bodies if body.startswith(b"{")]


def _refusal(status, kind, headers=None):
    error = {"error": {"type": kind, "message": f"expected something else, got {kind}."}}
    return Response(json.dumps(error), status, headers, media_type="application/json")


def draw(seed, size=(320, 240)):
    """A picture in one of four colours with a few shapes, as PNG."""
    chance = np.random.default_rng(seed)
    colour = list(COLOURS.values())[seed % len(COLOURS)]
    image = Image.new("RGB", size, colour)
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = chance.integers(0, size[0]), chance.integers(0, size[1])
        r = int(chance.integers(20, 90))
        shade = tuple(int(part * chance.uniform(0.5, 1.2)) % 256 for part in colour)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=shade)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def make_album(folder, number=ALBUM):
    """An index of pictures in four colours with captions, tags and years; gives its folder."""
    encoder = FakeEncoder()
    files = []
    for seed in range(24):
        path = folder / f"{seed}.png"
        path.write_bytes(draw(seed))
        files.append((path, encoder.encode_file(path)))
    chance = np.random.default_rng(3)
    items = []
    for place in range(number):
        path, feature = files[place % len(files)]
        if place >= len(files):
            feature = feature + chance.standard_normal(len(feature)).astype(np.float32)
            feature /= np.linalg.norm(feature)
        colour, thing = list(COLOURS)[place % len(COLOURS)], THINGS[place // 7 % len(THINGS)]
        said = {
            "tags": [f"{colour}色", thing],
            "year": 2000 + place % 25,
            "licence": ("CC0-1.0", "MIT", "CC-BY-4.0")[place % 3],
        }
        items.append(
            Item(f"{place}.png", path, None, feature, f"{colour}色的{thing} {place}", said)
        )
    with IndexWriter.open(folder / "index", encoder) as writer:
        writer.add_many(items)
    return folder / "index"


def stub_app(searcher):
    """The application over a stub."""
    return create_app(searcher)


def album_app(index_dirs):
    """The application of indexes by name, and the searchers."""
    searchers = {name: Searcher.open(path, FakeEncoder()) for name, path in index_dirs.items()}
    served = [
        Served(each, name=name, encoder=FakeEncoder(), index_dir=index_dirs[name])
        for name, each in searchers.items()
    ]
    return create_app(*served), searchers
