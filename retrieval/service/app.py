"""Hits over HTTP: the search service and its page, put together.

    GET  /                            the page
    POST /v1/search                   texts, pictures of the index → hits
    POST /v1/search/upload            pictures that are sent → hits
    GET  /v1/collections              the indexes that there are
    POST /v1/items                    adds a picture; GET, PATCH, DELETE /v1/items/{id}
    POST /v1/embeddings               texts, pictures → rows; GET /v1/models, by what
    POST /v1/classify                 texts → labels
    GET  /v1/suggest                  what is typed → what is said of pictures
    GET  /v1/images/{row}             the original picture
    GET  /v1/images/{row}/thumbnail   a small WebP of it
    POST /v1/admin/reload             open the indexes anew
    GET  /healthz, /readyz            is it up, can it answer
    GET  /metrics                     figures for Prometheus
    POST /v1/session                  a key → a cookie for the page
    GET  /version                     which model answers, and what computes it
    GET  /docs                        the same as an OpenAPI page, without network

Pictures are named by their row, never by a path, so nothing outside the index can be
asked for, and no answer says where on the disk they lie.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline

from retrieval.protocols import Encoder
from retrieval.search import Searcher
from retrieval.service.collection import Collection
from retrieval.service.described import describe_access
from retrieval.service.embedding import Classify, CountTokens
from retrieval.service.gate import Gate
from retrieval.service.guard import Guard
from retrieval.service.measures import Measures
from retrieval.service.problems import HANDLERS
from retrieval.service.routes import (
    admin,
    classify,
    embeddings,
    images,
    items,
    search,
    session,
    standing,
    suggest,
    upload,
)
from retrieval.service.routes import collections as indexes
from retrieval.service.service import Crew, Service
from retrieval.service.settings import DEFAULTS, Settings
from retrieval.stores import Location

__all__ = ["Served", "create_app"]

_PAGE: Final = Path(__file__).parent / "page"
_ROUTERS: Final = (  # the busiest first
    search.router,
    images.router,
    upload.router,
    items.router,
    indexes.router,
    embeddings.router,
    suggest.router,
    classify.router,
    standing.router,
    session.router,
    admin.router,
)


@dataclass(frozen=True, slots=True)
class Served:
    """An index to serve, and what it takes.

    Args:
        searcher: What answers its queries; whoever opened it closes it, unless it is owned.
        name: As ``?collection=`` has it.
        encoder: Its model; without it, nothing is embedded or added.
        index_dir: Where it is; without it, nothing is added.
        runtime: What computes its queries, for /version.
        model: Name of its model, by which embeddings are asked as well.
        count_tokens: Its tokeniser, for the usage that embeddings tell.
        classify: Its classification heads; without any, nothing is classified.
        owned: Whether the service closes the searcher when it is done with it.
    """

    searcher: Searcher
    name: str = "default"
    encoder: Encoder | None = None
    index_dir: Location | None = None
    runtime: str | None = None
    model: str | None = None
    count_tokens: CountTokens | None = None
    classify: Classify | None = None
    owned: bool = False


def create_app(
    *served: Served | Searcher,
    settings: Settings = DEFAULTS,
    reopen: Callable[[], Sequence[Served]] | None = None,
    crew: Crew | None = None,
) -> FastAPI:
    """Build the search service as an ASGI application.

    Args:
        served: The indexes, at least one, each under a name of its own; the first answers where
            a request names none.
        settings: How the service behaves.
        reopen: Opens the indexes anew, in a thread, when the service is told to; those from before
            are closed then, if they are owned.
        crew: The processes that answer together, where they are several.

    Returns:
        The application, ready for any ASGI server; see
        :func:`~retrieval.service.serving.serve`.
    """
    measures = Measures()

    def collect(served: Iterable[Served | Searcher]) -> list[Collection]:
        collections = [
            Collection(
                each.name,
                each.searcher,
                settings,
                measures,
                encoder=each.encoder,
                index_dir=each.index_dir,
                runtime=each.runtime,
                model=each.model,
                count_tokens=each.count_tokens,
                classify=each.classify,
                owned=each.owned,
            )
            for each in (Served(one) if not isinstance(one, Served) else one for one in served)
        ]
        if crew is not None:
            for collection in collections:
                collection.pages.prefix = f"{crew.slot}."
        return collections

    service = Service(
        *(settings, measures, collect(served)),
        None if reopen is None else lambda: collect(reopen()),
        crew,
    )

    @asynccontextmanager
    async def keep_fresh(_app: FastAPI) -> AsyncIterator[None]:
        for collection in service.collections.values():
            collection.start()
        yield
        await service.close()

    app = FastAPIOffline(
        title=settings.title,
        version=service.version,
        description=(
            "Search pictures with Chinese text. Errors come as "
            '`{"error": {"type": …, "message": …}}`.'
        ),
        exception_handlers=HANDLERS,
        lifespan=keep_fresh,
    )
    app.state.service = service
    app.state.page = (
        (_PAGE / "index.html")
        .read_text(encoding="utf-8")
        .replace("{{title}}", escape(settings.title))
    )
    for router in _ROUTERS:
        app.include_router(router)
    # what an application itself lists differs from one FastAPI to the next
    app.state.routes = [
        route for router in _ROUTERS for route in router.routes if isinstance(route, APIRoute)
    ]
    app.mount("/page", StaticFiles(directory=_PAGE), name="page")
    # the last one added is the outermost
    app.add_middleware(Gate, service=service)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST", "PATCH", "DELETE"),
            allow_headers=("authorization", "x-api-key", "content-type", "x-request-id"),
            expose_headers=("retry-after", "x-request-id", "www-authenticate"),
        )
    app.add_middleware(Guard, service=service)
    describe_access(app, settings)
    return app
