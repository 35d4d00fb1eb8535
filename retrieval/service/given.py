"""From the engine's answers to what goes over HTTP."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson

from retrieval.catalogue import Facet
from retrieval.records import Record, is_gone
from retrieval.search import Answer, Hit
from retrieval.service.messages.items import StoredItem

__all__ = ["Addresses", "search_body", "stored_item"]


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the pictures of a collection are reached.

    Args:
        prefix: Of the application, where it is mounted in another one.
        collection: The name that was asked for; None for the first one.
    """

    prefix: str = ""
    collection: str | None = None

    def image(self, row: int) -> str:
        """Give the address of an original picture."""
        return f"{self.prefix}/v1/images/{row}{self._query}"

    def thumbnail(self, row: int) -> str:
        """Give the address of a thumbnail."""
        return f"{self.prefix}/v1/images/{row}/thumbnail{self._query}"

    def item(self, image_id: str) -> str:
        """Give the address of an item."""
        # clients go up a folder for .., and some proxies make one / of two
        is_way = any(part in ("", ".", "..") for part in image_id.split("/"))
        name = quote(image_id, safe="" if is_way else "/")
        return f"{self.prefix}/v1/items/{name}{self._query}"

    @property
    def _query(self) -> str:
        return "" if self.collection is None else f"?collection={quote(self.collection, safe='')}"


def search_body(
    query: str | None,
    answer: Answer,
    page: str | None,
    addresses: Addresses,
    facets: Mapping[str, Sequence[Facet]] | None = None,
    *,
    total: int,
    took_ms: float,
) -> bytes:
    """Write an answer as a :class:`~retrieval.service.messages.search.SearchResponse` in JSON.

    Metadata is sent on as it is stored: nobody parses it on the way, which would take longer than
    a search.

    Args:
        query: As it was received.
        answer: What the engine gave.
        page: Token of its further pages, if it has any.
        addresses: Where its pictures are.
        facets: By field, its values and how many pictures have each.
        total: How many pictures are indexed.
        took_ms: Milliseconds that it took.
    """
    category = answer.category and {
        "label": answer.category[0],
        "probability": round(answer.category[1], 4),
    }
    return orjson.dumps(
        {
            "query": query,
            "took_ms": took_ms,
            "total": total,
            "hits": [_found_picture(hit, addresses) for hit in answer.hits],
            "category": category,
            "page": page,
            "facets": {
                field: [{"value": each.value, "count": each.count} for each in values]
                for field, values in (facets or {}).items()
            },
            "probability": _rounded(answer.probability),
            "nothing_matches": answer.nothing_matches,
        }
    )


def stored_item(record: Record, addresses: Addresses) -> StoredItem:
    """Say what is stored of a picture as the service's message."""
    picture, has_file = record.picture, record.path is not None
    return StoredItem(
        id=picture.image_id,
        row=record.row,
        caption=picture.caption,
        metadata=record.metadata,
        bytes=picture.size,
        width=picture.width,
        height=picture.height,
        is_item=picture.root is None,
        item_url=addresses.item(picture.image_id),
        image_url=addresses.image(record.row) if has_file else None,
        thumbnail_url=addresses.thumbnail(record.row) if has_file else None,
        missing=is_gone(record.path),
    )


def _found_picture(hit: Hit, addresses: Addresses) -> dict[str, Any]:
    return {
        "rank": hit.rank,
        "score": hit.score,
        "probability": _rounded(hit.probability),
        "image_id": hit.image_id,
        "row": hit.row,
        "caption": hit.caption,
        "metadata": orjson.Fragment(hit.metadata_json),
        "recognised": hit.recognised,
        "word_score": hit.word_score,
        "image_url": addresses.image(hit.row),
        "thumbnail_url": addresses.thumbnail(hit.row),
        "missing": hit.missing,
        "folded": [
            {"score": each.score, "image_id": each.image_id, "row": each.row} for each in hit.folded
        ],
    }


def _rounded(probability: float | None) -> float | None:
    return None if probability is None else round(probability, 4)
