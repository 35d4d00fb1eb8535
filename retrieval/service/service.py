"""What the routes share: the collections, the settings, the figures."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Final, cast

from fastapi import Depends, Query, Request

from retrieval.service.collection import Collection
from retrieval.service.keys import Keys
from retrieval.service.measures import Measures
from retrieval.service.problems import ProblemError, shorten
from retrieval.service.settings import Settings

__all__ = ["Service", "TheCollection", "TheService", "service_of"]


class Service:
    """All that one application answers from.

    Args:
        settings: How it behaves.
        measures: What it counts.
        collections: What it serves, at least one; the first answers where none is named.

    Raises:
        KeyFileError: If the settings name a file of keys that cannot be read.
    """

    def __init__(
        self, settings: Settings, measures: Measures, collections: Iterable[Collection]
    ) -> None:
        self.settings, self.measures = settings, measures
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

    def close(self) -> None:
        """End all threads, once they have done what was accepted."""
        for collection in self.collections.values():
            collection.close()


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


TheService = Annotated[Service, Depends(_service)]
TheCollection = Annotated[Collection, Depends(_collection)]


def _own_version() -> str:
    try:
        return version("clip-text")
    except PackageNotFoundError:  # a checkout that was never installed
        return "unknown"
