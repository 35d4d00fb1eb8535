"""Hits over HTTP: the search service and its page, put together.

    GET  /                            the page
    POST /v1/search                   texts, pictures of the index → hits
    GET  /v1/images/{row}             the original picture
    GET  /v1/images/{row}/thumbnail   a small WebP of it
    POST /v1/admin/reload             open the indexes anew
    GET  /healthz, /readyz            is it up, can it answer
    GET  /metrics                     figures for Prometheus
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
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline

from retrieval.protocols import Encoder
from retrieval.search import Searcher
from retrieval.service.collection import Collection
from retrieval.service.guard import Guard
from retrieval.service.measures import Measures
from retrieval.service.problems import HANDLERS
from retrieval.service.routes import admin, images, search, standing
from retrieval.service.service import Crew, Service
from retrieval.service.settings import DEFAULTS, Settings

__all__ = ["Served", "create_app"]

_PAGE: Final = Path(__file__).parent / "page"
_ROUTERS: Final = (search.router, images.router, standing.router, admin.router)  # the busiest first


@dataclass(frozen=True, slots=True)
class Served:
    """An index to serve, and what it takes.

    Args:
        searcher: What answers its queries; whoever opened it closes it, unless it is owned.
        name: As ``?collection=`` has it.
        encoder: Its model; without it, nothing is embedded or added.
        index_dir: Its folder; without it, nothing is added.
        runtime: What computes its queries, for /version.
        owned: Whether the service closes the searcher when it is done with it.
    """

    searcher: Searcher
    name: str = "default"
    encoder: Encoder | None = None
    index_dir: Path | None = None
    runtime: str | None = None
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
                owned=each.owned,
            )
            for each in (Served(one) if not isinstance(one, Served) else one for one in served)
        ]
        if crew is not None:
            for collection in collections:
                collection.pages.prefix = f"{crew.slot}."
        return collections

    service = Service(
        settings, measures, collect(served), None if reopen is None else lambda: collect(reopen())
    )
    service.crew = crew

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
    app.mount("/page", StaticFiles(directory=_PAGE), name="page")
    app.add_middleware(Guard, service=service)
    return app
