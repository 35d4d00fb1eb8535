"""A searcher without model and index, for the tests of the service and its page.

It holds one picture of every kind the service has to cope with, and scores a picture by
the share of the query's characters that its caption has.
"""

import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

from retrieval.records import Picture, Record
from retrieval.search import Answer, Hit, Query
from retrieval.search.query_rows import CacheInfo

CAPTIONS = {
    "red.png": "红色的方块",
    "turned.jpg": "横着拍的照片",
    "clear.png": "透明的圆",
    "grey16.png": "灰色渐变",
    "print.jpg": "印刷的照片",
    "wide.jpg": "很宽的风景照片",
    "damaged.png": "损坏的图片",
    "gone.png": "不见了的图片",
}
ROWS = {name: row for row, name in enumerate(CAPTIONS)}
METADATA = {
    "names": {"zh": "名字", "en": "a name", "ja": "名前"},
    "tags": ["标签", "狗"],
    "source": "https://example.org/pictures",
    "author": "作者某",
    "licence": "CC0-1.0",
}


class StubSearcher:
    """Stands where ``Searcher`` stands; ``failure`` is raised by the next searches."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failure: Exception | None = None
        self.refreshed = 0
        self.category: tuple[str, float] | None = None
        draw_pictures(folder)

    def __len__(self) -> int:
        return len(CAPTIONS)

    fingerprint, embed_dim = "f" * 32, 24

    def notes(self) -> list[str]:
        return ["queries are computed in bf16"]

    def refresh(self) -> bool:
        self.refreshed += 1
        return False

    def hit_path(self, row: int) -> Path | None:
        names = list(CAPTIONS)
        return self.folder / names[row] if 0 <= row < len(names) else None

    def record(self, row: int) -> Record | None:
        path = self.hit_path(row)
        if path is None:
            return None
        own = (None, os.fsencode(path), path.name, None, None, None, None, None)
        return Record(row, Picture(*own, CAPTIONS[path.name], json.dumps(METADATA)))

    def cache_info(self) -> CacheInfo:
        return CacheInfo(0, 0, 0, 0)

    def answers(self, queries: list[Query]) -> list[Answer]:
        return [self.answer(query) for query in queries]

    def answers_and_rankings(self, queries: list[Query], ranked: list[Query]) -> tuple[list, list]:
        return self.answers(queries), [self.rank(query) for query in ranked]

    def answer(self, query: Query) -> Answer:
        (term,) = query.terms
        self.hybrid = query.hybrid
        return Answer(self.search(term.text, query.top_k), self.category)

    def search(self, query: str, top_k: int = 10) -> list[Hit]:
        if self.failure is not None:
            raise self.failure
        wanted = set(query)
        scored = sorted(
            (
                (len(wanted & set(caption)) / len(wanted), name)
                for name, caption in CAPTIONS.items()
            ),
            key=lambda pair: (-pair[0], ROWS[pair[1]]),
        )
        return [
            Hit(
                rank=rank,
                score=score,
                row=ROWS[name],
                image_id=name,
                path=self.folder / name,
                caption=CAPTIONS[name],
                metadata=dict(METADATA),
            )
            for rank, (score, name) in enumerate(scored[:top_k], start=1)
        ]


def draw_pictures(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (300, 200), (200, 20, 20)).save(folder / "red.png")
    # Stored lying on its side: 80 wide, 40 high, red left of blue; upright it is 40 wide,
    # 80 high, red above blue.
    lying = Image.new("RGB", (80, 40), (220, 0, 0))
    lying.paste((0, 0, 220), (40, 0, 80, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a secret description"
    lying.save(folder / "turned.jpg", exif=exif, quality=95)
    Image.new("RGBA", (120, 120), (0, 160, 0, 0)).save(folder / "clear.png")
    ramp = np.tile(np.linspace(0, 65535, 100).astype(np.uint16), (50, 1))
    Image.fromarray(ramp).save(folder / "grey16.png")
    Image.new("CMYK", (90, 60), (0, 255, 255, 0)).save(folder / "print.jpg")
    Image.new("RGB", (3000, 500), (40, 90, 160)).save(folder / "wide.jpg")
    (folder / "damaged.png").write_bytes(b"<script>alert(1)</script>")
