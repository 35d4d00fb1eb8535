"""Hits over HTTP: the search service and its page.

    GET  /                            the page
    POST /v1/search                   texts, pictures of the index → hits
    GET  /v1/images/{row}             the original picture
    GET  /v1/images/{row}/thumbnail   a small WebP of it
    GET  /health                      is it up, how many pictures
    GET  /version                     which model answers, and what computes it
    GET  /docs                        the same as an OpenAPI page, without network

Pictures are named by their row, never by a path, so nothing outside the index can be
asked for, and no answer says where on the disk they lie.
"""

import asyncio
import hashlib
import logging
import os
import signal
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from email.utils import formatdate
from html import escape
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline

from retrieval.pictures import NoDecoderError, PictureError, media_type, render_thumbnail
from retrieval.search import Answer, Hit, Searcher
from retrieval.service import missing_package
from retrieval.service.asked import Pages
from retrieval.service.fitness import check_charset, settle_range
from retrieval.service.guard import Guard
from retrieval.service.listening import address_of, listen
from retrieval.service.messages import (
    FoldedPicture,
    FoundPicture,
    HealthResponse,
    QueryCategory,
    SearchRequest,
    SearchResponse,
    VersionResponse,
)
from retrieval.service.problems import HANDLERS, ProblemError, describe, shorten
from retrieval.service.refresher import Refresher
from retrieval.service.thumbnails import ThumbnailCache

if TYPE_CHECKING:
    import uvicorn


__all__ = ["create_app", "serve"]

MIN_THUMBNAIL: Final = 16
MAX_THUMBNAIL: Final = 1_024
KEPT_RANKINGS: Final = 256
THUMBNAIL_CACHE_BYTES: Final = 32 * 1024 * 1024

_PAGE: Final = Path(__file__).parent / "page"


async def _searcher_of(request: Request) -> Searcher:
    return cast(Searcher, request.app.state.searcher)


_TheSearcher = Annotated[Searcher, Depends(_searcher_of)]


_router = APIRouter()


@_router.post(
    "/v1/search",
    tags=["search"],
    summary="Search the pictures with texts, and with pictures of the index",
    responses=describe(400, 410, 413, 415, 422, 503),
    dependencies=[Depends(check_charset)],
)
def search(body: SearchRequest, request: Request, searcher: _TheSearcher) -> SearchResponse:
    """Find the pictures nearest to texts and pictures, among those that `where` holds of.

    Pictures indexed since the last search are found without a restart, from a second after
    they were stored; no search waits for that.
    """
    start = time.perf_counter()
    refresher: Refresher = request.app.state.refresher
    refresher.start()  # where the service runs inside another one, nothing else starts it
    refresher.check()
    pages: Pages = request.app.state.pages
    answer, page = pages.answer(searcher, body)
    took_ms = round((time.perf_counter() - start) * 1_000, 2)
    prefix = request.scope.get("root_path", "")
    return SearchResponse(
        query=body.query,
        took_ms=took_ms,
        total=len(searcher),
        hits=[_as_found_picture(hit, prefix) for hit in answer.hits],
        category=_as_category(answer),
        page=page,
        probability=_rounded(answer.probability),
        nothing_matches=answer.nothing_matches,
    )


@_router.head("/v1/images/{row}", include_in_schema=False)
@_router.get(
    "/v1/images/{row}",
    tags=["images"],
    summary="The original picture",
    response_class=Response,
    responses={
        200: {"content": {"image/*": {}}, "description": "The file as it was indexed."},
        304: {"description": "The copy named by If-None-Match is still right."},
        **describe(404, 410, 416, 422),
    },
)
def read_image(row: int, request: Request, searcher: _TheSearcher) -> Response:
    """Send the file of one hit, byte for byte, with the content type its first bytes show."""
    path, status, etag = _find_picture(searcher, row)
    headers = {"etag": etag}
    if _still_right(request, etag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    settle_range(request, status.st_size)
    try:
        kind = media_type(path)
    except PictureError as error:
        raise _gone(row, "a file that is no picture") from error
    return FileResponse(path, headers=headers, media_type=kind, stat_result=status)


@_router.head("/v1/images/{row}/thumbnail", include_in_schema=False)
@_router.get(
    "/v1/images/{row}/thumbnail",
    tags=["images"],
    summary="A small WebP of the picture",
    response_class=Response,
    responses={
        200: {"content": {"image/webp": {}}, "description": "Upright, without EXIF data."},
        304: {"description": "The copy named by If-None-Match is still right."},
        **describe(404, 410, 422, 501),
    },
)
def read_thumbnail(
    row: int,
    request: Request,
    searcher: _TheSearcher,
    size: Annotated[
        int,
        Query(
            ge=MIN_THUMBNAIL,
            le=MAX_THUMBNAIL,
            description="Longest side in pixels; a smaller picture is not enlarged.",
        ),
    ] = 256,
) -> Response:
    """Send the picture of one hit, drawn small."""
    path, status, file_etag = _find_picture(searcher, row)
    etag = f'{file_etag[:-1]}-{size}"'
    headers = {"etag": etag, "last-modified": formatdate(status.st_mtime, usegmt=True)}
    if _still_right(request, etag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    cache: ThumbnailCache = request.app.state.thumbnails
    webp = cache.get(etag)
    if webp is None:
        try:
            # As many large pictures in memory as there are cores to work on them.
            with request.app.state.drawing:
                webp = render_thumbnail(path, size)
        except NoDecoderError as error:
            problem = HTTPStatus.NOT_IMPLEMENTED, "decoder_missing", str(error)
            raise ProblemError(*problem) from error
        except (OSError, PictureError) as error:
            raise _gone(row, "a file that cannot be read as a picture") from error
        cache.put(etag, webp)
    return Response(webp, headers=headers, media_type="image/webp")


@_router.head("/health", include_in_schema=False)
@_router.get("/health", tags=["service"], summary="Is the service up?")
async def check_health(request: Request, searcher: _TheSearcher) -> HealthResponse:
    """Answer from the event loop, so that a queue of searches does not look like a crash."""
    return HealthResponse(status="ok", total=len(searcher), version=request.app.version)


@_router.head("/version", include_in_schema=False)
@_router.get(
    "/version",
    tags=["service"],
    summary="Which model answers, and what computes it",
    responses=describe(503),
)
def read_version(request: Request, searcher: _TheSearcher) -> VersionResponse:
    """Name what searches are answered by: it stays the same while the service runs."""
    return VersionResponse(
        version=request.app.version,
        fingerprint=searcher.fingerprint,
        embed_dim=searcher.embed_dim,
        runtime=request.app.state.runtime,
        notes=searcher.notes(),
    )


@_router.head("/", include_in_schema=False)
@_router.get("/", include_in_schema=False)
async def read_page(request: Request) -> HTMLResponse:
    return HTMLResponse(request.app.state.page)


def _as_found_picture(hit: Hit, prefix: str) -> FoundPicture:
    image_url = f"{prefix}/v1/images/{hit.row}"
    return FoundPicture(
        rank=hit.rank,
        score=hit.score,
        probability=_rounded(hit.probability),
        image_id=hit.image_id,
        row=hit.row,
        caption=hit.caption,
        metadata=hit.metadata,
        recognised=hit.recognised,
        word_score=hit.word_score,
        image_url=image_url,
        thumbnail_url=f"{image_url}/thumbnail",
        missing=hit.missing,
        folded=[
            FoldedPicture(score=each.score, image_id=each.image_id, row=each.row)
            for each in hit.folded
        ],
    )


def _rounded(probability: float | None) -> float | None:
    return None if probability is None else round(probability, 4)


def _as_category(answer: Answer) -> QueryCategory | None:
    if answer.category is None:
        return None
    label, probability = answer.category
    return QueryCategory(label=label, probability=round(probability, 4))


def _find_picture(searcher: Searcher, row: int) -> tuple[Path, os.stat_result, str]:
    path = searcher.hit_path(row)
    if path is None:
        raise ProblemError(
            HTTPStatus.NOT_FOUND,
            "row_not_found",
            f"expected a row of the index whose picture has a file, got {shorten(row)}. "
            "Use the rows of a search's hits.",
        )
    try:
        status = path.stat()
    except OSError as error:
        raise _gone(row, "no file in its place") from error
    if not stat.S_ISREG(status.st_mode):
        raise _gone(row, "something that is no file")
    # The path is part of it: copied files often share both time and size.
    identity = f"{os.fspath(path)}\0{status.st_mtime_ns}\0{status.st_size}"
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()
    return path, status, f'"{digest[:32]}"'


def _still_right(request: Request, etag: str) -> bool:
    # If-Modified-Since is not looked at: a replaced picture may carry an older date.
    known = request.headers.get("if-none-match", "")
    return known.strip() == "*" or etag in (
        tag.strip().removeprefix("W/") for tag in known.split(",")
    )


def _gone(row: int, got: str) -> ProblemError:
    return ProblemError(
        HTTPStatus.GONE,
        "image_gone",
        f"expected the picture of row {row} on the disk, got {got}. "
        "Put it back, or index the folder again.",
    )


def _own_version() -> str:
    try:
        return version("clip-text")
    except PackageNotFoundError:  # a checkout that was never installed
        return "unknown"


def create_app(
    searcher: Searcher, *, title: str = "clip-text", runtime: str | None = None
) -> FastAPI:
    """Build the search service as an ASGI application.

    Args:
        searcher: What answers the queries; the caller closes it.
        title: The name on the page and in /docs.
        runtime: What computes the queries, for /version.

    Returns:
        The application, ready for any ASGI server; see :func:`serve`.
    """
    refresher = Refresher(searcher)

    @asynccontextmanager
    async def keep_fresh(_app: FastAPI) -> AsyncIterator[None]:
        refresher.start()
        yield
        await asyncio.to_thread(refresher.stop)

    app = FastAPIOffline(
        title=title,
        version=_own_version(),
        description=(
            "Search pictures with Chinese text. Errors come as "
            '`{"error": {"type": …, "message": …}}`.'
        ),
        exception_handlers=HANDLERS,
        lifespan=keep_fresh,
    )
    app.state.searcher = searcher
    app.state.refresher = refresher
    app.state.pages = Pages(KEPT_RANKINGS)
    app.state.runtime = runtime
    app.state.thumbnails = ThumbnailCache(THUMBNAIL_CACHE_BYTES)
    app.state.drawing = threading.BoundedSemaphore(os.cpu_count() or 1)
    app.state.page = (
        (_PAGE / "index.html").read_text(encoding="utf-8").replace("{{title}}", escape(title))
    )
    app.include_router(_router)
    app.mount("/page", StaticFiles(directory=_PAGE), name="page")
    app.add_middleware(Guard)
    return app


def serve(
    searcher: Searcher,
    host: str = "127.0.0.1",
    port: int = 8000,
    on_listening: Callable[[str], object] | None = None,
    *,
    runtime: str | None = None,
) -> None:
    """Answer searches over HTTP until interrupted (Ctrl-C, SIGTERM).

    Args:
        searcher: What answers the queries; the caller closes it.
        host: The address to listen on. There is no login: anybody who reaches it can
            see every indexed picture.
        port: The TCP port; 0 takes a free one.
        on_listening: Called with the service's URL once it can be reached; by default that is
            logged.
        runtime: What computes the queries, for /version.

    Raises:
        MissingPackageError: If uvicorn is not installed.
        AddressError: If host and port cannot be listened at.
    """
    try:
        import uvicorn  # noqa: PLC0415  an optional part, needed only here
    except ModuleNotFoundError as error:
        raise missing_package(error) from error
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(searcher, runtime=runtime),
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=5,
        )
    )
    sockets = listen(host, port)
    (on_listening or _log_listening)(address_of(sockets[0], host))
    with _ended_by_signals(server):
        server.run(sockets)


def _log_listening(address: str) -> None:
    # uvicorn shows its own log, and is silent about sockets that it is given.
    logging.getLogger("uvicorn.error").info("clip-text running on %s (Ctrl-C ends it)", address)


@contextmanager
def _ended_by_signals(server: "uvicorn.Server") -> Iterator[None]:
    """Let a server that a signal ends in good order return to its caller.

    uvicorn raises the signal again when it is done, for the handlers from before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears of signals, and may change handlers
        return

    def end(_signal: int, _frame: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
