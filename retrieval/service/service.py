"""What the routes share: the collections, the settings, the figures."""

import asyncio
import gc
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Final, Protocol, cast

from fastapi import Depends, Query, Request

from retrieval.service.batching import Batcher
from retrieval.service.collection import Collection
from retrieval.service.keys import Keys
from retrieval.service.measures import Measures
from retrieval.service.problems import ProblemError, shorten
from retrieval.service.room import Room
from retrieval.service.settings import Settings
from retrieval.service.turnover import Turnover

__all__ = ["Crew", "Service", "TheCollection", "TheService", "service_of"]

_LOG = logging.getLogger(__name__)
_ELSEWHERE_THREADS: Final = 2


class Crew(Protocol):
    """The processes that answer together, where they are several.

    Args:
        slot: Which of them this one is, from 0.
        size: How many they are.
    """

    slot: int
    size: int

    def go_on(self, slot: int, body: str, collection: str | None, prefix: str) -> bytes:
        """Let another one answer a search for a further page, whose order it keeps.

        Args:
            slot: Which.
            body: The search, in JSON.
            collection: The name that was asked for; None for the first one.
            prefix: Of the application, where it is mounted in another one.

        Raises:
            ProblemError: As the other one answers, or if it is there no longer.
            OverloadedError: If more wait there than can be answered soon.
        """
        ...

    def metrics(self) -> bytes:
        """Write the figures of all in Prometheus' text format."""
        ...

    def reload(self) -> None:
        """Let each open its indexes anew, one after the other.

        Raises:
            RetrievalError: If one cannot; those after it have not begun.
        """
        ...


class Service:
    """All that one application answers from.

    Args:
        settings: How it behaves.
        measures: What it counts.
        collections: What it serves, at least one; the first answers where none is named.
        reopen: Opens them anew, as the configuration has them now; without it, they stay.
        crew: The processes that answer together, where they are several.

    Raises:
        KeyFileError: If the settings name a file of keys that cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        measures: Measures,
        collections: Iterable[Collection],
        reopen: Callable[[], Sequence[Collection]] | None = None,
        crew: Crew | None = None,
    ) -> None:
        self.settings, self.measures = settings, measures
        self.turnover = Turnover()
        self.room: Final = Room(settings.held_bytes, settings.body_bytes)
        """For the bodies of all requests, and what is fetched for them."""
        self.crew: Final = crew
        self.elsewhere: Final = None if crew is None else _elsewhere(crew, settings)
        """Searches for further pages that another process keeps the order of."""
        self.ending = False
        """True from when the service has been told to end."""
        self._reopen = reopen
        self._reloading, self._reloading_all = asyncio.Lock(), asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self.collections: Mapping[str, Collection] = {each.name: each for each in collections}
        self.keys: Final = None if settings.keys is None else Keys(settings.keys)
        self.version: Final = _own_version()

    def collection(self, name: str | None) -> Collection:
        """Give a collection by its name; the first for none.

        Raises:
            ProblemError: 404, if there is none of this name.
        """
        if name is None:
            return next(iter(self.collections.values()))
        found = self.collections.get(name)
        if found is None:
            raise ProblemError(
                HTTPStatus.NOT_FOUND,
                "collection_not_found",
                f"expected a collection of this service, got {shorten(name)}. "
                "GET /v1/collections names them.",
            )
        return found

    def is_another(self, slot: int) -> bool:
        """Say whether a slot is that of another process that answers together with this one."""
        return self.crew is not None and slot < self.crew.size and slot != self.crew.slot

    @property
    def can_reload(self) -> bool:
        """Whether its indexes can be opened anew."""
        return self._reopen is not None

    async def reload(self) -> None:
        """Open all indexes anew and answer from them; those from before answer until then.

        No request notices: one that is at work ends with what it began with, and only then is
        that closed. Where the new ones cannot be opened, those from before go on. Searches that
        were paged begin anew.

        Raises:
            Exception: What keeps them from being opened.
        """
        if self._reopen is None:
            raise RuntimeError("expected a service that can open its indexes anew, got another.")
        async with self._reloading:
            fresh = await asyncio.to_thread(self._reopen)
            old = self.collections
            for collection in fresh:
                if (before := old.get(collection.name)) is not None:
                    collection.thumbnails = before.thumbnails
                collection.start()
            self.collections = {each.name: each for each in fresh}
            self.measures.watch_only(self.collections)
            self.turnover.begin_anew(lambda: self._close_beside(list(old.values())))
        for collection in fresh:
            total = len(collection.searcher)
            _LOG.info("opened %s anew: %s pictures", collection.name, total)

    async def reload_all(self) -> None:
        """Open all indexes anew, in each of the processes that answer together.

        Raises:
            Exception: What keeps one from it.
        """
        crew = self.crew
        if crew is None:
            await self.reload()
            return
        # One at a time: who waits for all keeps a thread, and this process's own part needs one.
        async with self._reloading_all:
            await asyncio.to_thread(crew.reload)

    def _close_beside(self, collections: list[Collection]) -> None:
        """Close collections in a thread: that waits for a look at an index that is at work."""

        async def close() -> None:
            while collections:  # and none is kept by a name of ours
                await asyncio.to_thread(collections.pop(0).close)
            await asyncio.to_thread(_free)

        task = asyncio.ensure_future(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """End all threads, once they have done what was accepted."""
        self.turnover.close_all()
        if self.elsewhere is not None:
            await asyncio.to_thread(self.elsewhere.close)
        await asyncio.gather(*self._closing)
        for collection in self.collections.values():
            await asyncio.to_thread(collection.close)


def service_of(request: Request) -> Service:
    """Give what a request is answered from."""
    return cast(Service, request.app.state.service)


async def _service(request: Request) -> Service:
    return service_of(request)


async def _collection(
    request: Request,
    collection: Annotated[
        str | None,
        Query(max_length=200, description="Name of the collection; the first one by default."),
    ] = None,
) -> Collection:
    return service_of(request).collection(collection)


def _free() -> None:
    """Free what nothing refers to but itself: a model is large, and part of circles."""
    is_frozen = gc.get_freeze_count() > 0  # what was there when the process began to serve
    gc.unfreeze()
    gc.collect()
    if is_frozen:
        gc.freeze()


def _elsewhere(crew: Crew, settings: Settings) -> Batcher[tuple[int, str, str | None, str], bytes]:
    # Few threads of their own: one that hangs keeps neither figures nor reloads from being asked.
    return Batcher(
        lambda asked: [crew.go_on(*one) for one in asked],
        most=1,
        waiting=settings.waiting,
        patience_s=settings.patience_s,
        threads=_ELSEWHERE_THREADS,
    )


TheService = Annotated[Service, Depends(_service)]
TheCollection = Annotated[Collection, Depends(_collection)]


def _own_version() -> str:
    try:
        return version("clip-text")
    except PackageNotFoundError:  # a checkout that was never installed
        return "unknown"
