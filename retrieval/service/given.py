"""From the engine's answers to what goes over HTTP."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson

from retrieval.search import Answer, Hit

__all__ = ["Addresses", "search_body"]


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

    @property
    def _query(self) -> str:
        return "" if self.collection is None else f"?collection={quote(self.collection, safe='')}"


def search_body(
    query: str | None,
    answer: Answer,
    page: str | None,
    addresses: Addresses,
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
            "probability": _rounded(answer.probability),
            "nothing_matches": answer.nothing_matches,
        }
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
