"""An index to serve, of as many entries as are asked for, and questions to ask it."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clip_text_cli import wiring
from retrieval.catalogue import Catalogue
from retrieval.ingest import IndexWriter, Item, index_folder

__all__ = ["fill", "searches"]

_GALLERY = Path(__file__).parents[1] / "retrieval" / "gallery"
_BATCH = 1000
_NOISE = 0.5  # length of what is added to the feature of a picture that comes again


def fill(index_dir: Path, count: int) -> None:
    """Make an index of the bundled gallery's pictures, each many times: files, captions, metadata.

    Their features come from the starter, each time with some noise of its own. An index that is
    there already is left as it is.
    """
    if index_dir.exists():
        return
    encoder = wiring.load_encoder("starter", rows_only=True)
    once = index_dir.with_name(index_dir.name + ".once")
    index_folder(_GALLERY, once, encoder)
    with Catalogue.open(once) as catalogue:
        records = list(catalogue)
        features = {
            int(row): feature
            for rows, page in catalogue.features()
            for row, feature in zip(rows, page, strict=True)
        }
    rng = np.random.default_rng(0)
    with IndexWriter.open(
        index_dir, fingerprint=encoder.fingerprint, embed_dim=encoder.embed_dim
    ) as writer:
        for start in range(0, count, _BATCH):
            items = []
            for number in range(start, min(count, start + _BATCH)):
                record = records[number % len(records)]
                noise = rng.standard_normal(encoder.embed_dim) / np.sqrt(encoder.embed_dim)
                feature = features[record.row] + _NOISE * (number >= len(records)) * noise
                items.append(
                    Item(
                        f"{number}/{record.picture.image_id}",
                        path=record.path,
                        feature=(feature / np.linalg.norm(feature)).astype(np.float32),
                        caption=record.picture.caption,
                        metadata=record.metadata,
                    )
                )
            writer.add_many(items)


def searches(index_dir: Path, count: int) -> list[Mapping[str, Any]]:
    """Make questions of two captions each, no two alike: no vector of them is kept."""
    with Catalogue.open(index_dir) as catalogue:
        captions = sorted({each.picture.caption for each in catalogue if each.picture.caption})
    drawn = random.Random(0)  # noqa: S311  (questions, no secrets)
    asked: dict[str, None] = {}
    while len(asked) < count:
        asked["和".join(drawn.sample(captions, 2))] = None
    return [json.loads(json.dumps({"query": query, "top_k": 10})) for query in asked]
