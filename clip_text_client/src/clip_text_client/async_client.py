"""The client that is awaited."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Self, TypeVar, Unpack

import httpx
from httpx_retries import RetryTransport

from clip_text_client import calls
from clip_text_client.answers import (
    Answer,
    Collection,
    Hit,
    Item,
    Label,
    Outcome,
    Suggestion,
)
from clip_text_client.calls import ABSENT, Absent, Call, NewItem, Picture, SearchOptions
from clip_text_client.way import LOCAL, Way, asking, checked, given, headers, proxy_of, read_async

__all__ = ["AsyncClient"]

Given = TypeVar("Given")


class AsyncClient:
    """Asks a service as :class:`~clip_text_client.Client` does, and is awaited.

    What fails for a moment (429, 502 to 504, no connection) is tried again, after as long as the
    service says or longer and longer; deleting only where it was certainly not begun.

    Args:
        base_url: The service's address.
        api_key: Sent as a bearer token; None where the service wants none.
        collection: Asked where a call names none; None for the service's first.
        timeout_s: Seconds that each try may take.
        retries: How often a request is sent again at most; 0 for never.
        transport: What sends, in place of a connection; for tests.

    Raises:
        ClientError: Of all methods: one of :mod:`clip_text_client.errors`.

    Example:
        >>> async with AsyncClient("http://127.0.0.1:8000") as client:
        ...     (await client.search("红色的心")).hits[0].image_id
    """

    def __init__(
        self,
        base_url: str = LOCAL,
        api_key: str | None = None,
        *,
        collection: str | None = None,
        timeout_s: float = 60.0,
        retries: int = 4,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._way = Way(collection, retries, read_async)
        if transport is None:
            transport = httpx.AsyncHTTPTransport(proxy=proxy_of(base_url))
        self._http = httpx.AsyncClient(
            base_url=base_url,
            headers=headers(api_key),
            timeout=timeout_s,
            transport=RetryTransport(transport, self._way.repeatable),
        )

    async def search(
        self,
        text: str | None = None,
        *,
        top_k: int = 10,
        offset: int = 0,
        **options: Unpack[SearchOptions],
    ) -> Answer:
        """Find the pictures nearest to a text, to pictures, or to both.

        Args:
            text: What to look for; None where the options say it.
            top_k: How many hits at most, up to 200; :meth:`iterate` gives more.
            offset: How many of the best to pass over.
            options: See :class:`~clip_text_client.SearchOptions`.
        """
        return await self._ask(calls.search(text, options, top_k, offset, paged=False))

    async def iterate(
        self,
        text: str | None = None,
        *,
        most: int = calls.MOST_HITS,
        page_size: int = 100,
        **options: Unpack[SearchOptions],
    ) -> AsyncIterator[Hit]:
        """Go through an answer, page by page, each hit once, whatever is indexed meanwhile.

        Args:
            text: As for :meth:`search`.
            most: How many hits at most, up to 1,000.
            page_size: How many are asked for at once, up to 200.
            options: As for :meth:`search`.

        Raises:
            PageGoneError: If the service has forgotten the order; ask again.
        """
        pages = calls.Pages(text, options, page_size, most)
        call: Call[Answer] | None = pages.first
        while call is not None:
            answer = await self._ask(call)
            for hit in answer.hits:
                yield hit
            call = pages.after(answer)

    async def embed(
        self, texts: Sequence[str], *, model: str | None = None, dimensions: int | None = None
    ) -> list[list[float]]:
        """Give texts their unit rows, in order.

        Args:
            texts: Any number; many are sent in several requests.
            model: Name of a collection or of a model; None for the service's first.
            dimensions: How many of the first dimensions to keep; all if None.
        """
        asked = calls.embed(checked(texts), model, dimensions)
        return [row for call in asked for row in await self._ask(call)]

    async def embed_images(
        self, images: Sequence[Picture], *, model: str | None = None, dimensions: int | None = None
    ) -> list[list[float]]:
        """Give pictures their unit rows in the same space, in order; see :meth:`embed`."""
        asked = calls.embed_images(images, model, dimensions)
        return [row for call in asked for row in await self._ask(call)]

    async def classify(
        self,
        texts: Sequence[str],
        *,
        head: str | None = None,
        top_k: int = 1,
        collection: str | None = None,
    ) -> list[list[Label]]:
        """Give each text its likeliest labels, by a head of the model.

        Raises:
            NotFoundError: If the model has no such head.
        """
        return await self._ask(calls.classify(checked(texts), head, top_k, collection))

    async def suggest(
        self, typed: str, *, limit: int = 8, collection: str | None = None
    ) -> list[Suggestion]:
        """Complete what was typed by captions, tags and names, pinyin included."""
        return await self._ask(calls.suggest(typed, limit, collection))

    async def collections(self) -> list[Collection]:
        """Tell which indexes the service has; the first is asked where none is named."""
        return await self._ask(calls.collections())

    async def image(self, row: int, *, collection: str | None = None) -> bytes:
        """Give the file of a hit's picture.

        Raises:
            GoneError: If it is not on the service's disk any more.
        """
        return await self._ask(calls.image(row, collection))

    async def thumbnail(self, row: int, size: int = 256, *, collection: str | None = None) -> bytes:
        """Give a small WebP of a hit's picture, ``size`` pixels at its longest side."""
        return await self._ask(calls.thumbnail(row, size, collection))

    async def add(self, *, collection: str | None = None, **item: Unpack[NewItem]) -> Item:
        """Add a picture, or put it in the place of the one that has its id.

        Args:
            collection: Where to.
            item: See :class:`~clip_text_client.NewItem`.
        """
        return await self._ask(calls.add(item, collection))

    async def add_many(
        self, items: Sequence[NewItem], *, collection: str | None = None
    ) -> list[Outcome]:
        """Add pictures, each as if it were alone; many are sent in several requests."""
        asked = calls.add_many(items, collection)
        return [outcome for call in asked for outcome in await self._ask(call)]

    async def get(self, id: str, *, collection: str | None = None) -> Item:  # noqa: A002
        """Tell what is stored of a picture.

        Raises:
            NotFoundError: If there is none.
        """
        return await self._ask(calls.get(id, collection))

    async def update(
        self,
        id: str,  # noqa: A002
        *,
        caption: str | Absent | None = ABSENT,
        metadata: Mapping[str, Any] | Absent | None = ABSENT,
        collection: str | None = None,
    ) -> Item:
        """Change what is said of a picture.

        Args:
            id: The picture's.
            caption: The new one; None takes it away.
            metadata: Keys to set, those that are None to take away; None takes all away.
            collection: Where it is.
        """
        return await self._ask(calls.update(id, caption, metadata, collection))

    async def delete(self, id: str, *, collection: str | None = None) -> None:  # noqa: A002
        """Forget a picture.

        Raises:
            NotFoundError: If there is none.
        """
        await self._ask(calls.delete(id, collection))

    async def delete_many(
        self, ids: Sequence[str], *, collection: str | None = None
    ) -> list[Outcome]:
        """Forget up to 10,000 pictures, each as if it were alone."""
        return await self._ask(calls.delete_many(ids, collection))

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, call: Call[Given]) -> Given:
        with asking():
            response = await self._http.request(call.method, call.path, **self._way.options(call))
        return given(call, response)
