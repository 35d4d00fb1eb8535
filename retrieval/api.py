"""Hits over HTTP: the search service and its page.

    GET  /                            the page
    POST /v1/search                   text → hits
    GET  /v1/images/{row}             the original picture
    GET  /v1/images/{row}/thumbnail   a small WebP of it
    GET  /health                      is it up, how many pictures
    GET  /docs                        the same as an OpenAPI page, without network

Pictures are named by their row, never by a path, so nothing outside the index can be
asked for, and no answer says where on the disk they lie.
"""

import hashlib
import io
import json
import logging
import os
import re
import reprlib
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from email.utils import formatdate
from html import escape
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Final, cast

from PIL import Image, ImageOps

from retrieval.errors import (
    CorruptIndexError,
    IndexLockedError,
    IndexMismatchError,
    IndexNotFoundError,
    QueryError,
    RetrievalError,
)
from retrieval.searcher import Hit, Searcher

_NEEDS_SERVE = "expected the package {0} for the search service, got none. {1}"
_INSTALL_SERVE = "Run pip install 'clip-text[serve]'."

try:
    from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
    from fastapi.staticfiles import StaticFiles
    from fastapi_offline import FastAPIOffline
    from pydantic import BaseModel, ConfigDict, Field, JsonValue
    from starlette.datastructures import MutableHeaders
    from starlette.exceptions import HTTPException as StarletteHTTPException
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        _NEEDS_SERVE.format(error.name, _INSTALL_SERVE), name=error.name
    ) from error

__all__ = ["create_app", "serve"]

_LOG = logging.getLogger(__name__)

MAX_QUERY_CHARACTERS: Final = 1_000
MAX_TOP_K: Final = 200
# Room for the longest query with every character written as two \uXXXX escapes.
MAX_BODY_BYTES: Final = 64 * 1024
MIN_THUMBNAIL: Final = 16
MAX_THUMBNAIL: Final = 1_024
THUMBNAIL_CACHE_BYTES: Final = 32 * 1024 * 1024

_PAGE: Final = Path(__file__).parent / "page"
_EXAMPLE: Final[dict[str, JsonValue]] = {"query": "红色的心", "top_k": 10}
_SEND_EXAMPLE: Final = f"Send {json.dumps(_EXAMPLE, ensure_ascii=False)} as application/json"
_SHORT: Final = 80

_SECURITY_HEADERS: Final = {
    "x-content-type-options": "nosniff",
    # The query stands in the page's address; nobody else needs to read it.
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}
_PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
# Swagger UI and ReDoc start from an inline script, style themselves inline, and draw
# their icons from data: addresses.
_DOCS_POLICY: Final = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none'; "
    "frame-ancestors 'none'"
)


class SearchRequest(BaseModel):
    """What to look for."""

    # Strict: JSON has types of its own, and top_k: true is a mistake, not a 1.
    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": _EXAMPLE})

    query: str = Field(
        min_length=1,
        max_length=MAX_QUERY_CHARACTERS,
        description="The text to search with: Chinese, or any language the model has learned.",
        examples=["红色的心", "一只狗在雪地里", "a birthday party"],
    )
    top_k: int = Field(
        default=10,
        ge=1,
        le=MAX_TOP_K,
        description="How many hits at most. More than are indexed gives all of them.",
        examples=[10],
    )


class FoundPicture(BaseModel):
    """One picture found for a query."""

    rank: int = Field(description="Place in the result; 1 is best.", examples=[1])
    score: float = Field(
        description="Cosine of query and picture in [-1, 1]; higher is better.", examples=[0.3172]
    )
    image_id: str = Field(
        description="The picture's own name: its path below the indexed folder.",
        examples=["hearts/red.png"],
    )
    row: int = Field(
        description="The picture's number in the index; never given to another picture.",
        examples=[42],
    )
    caption: str | None = Field(
        description="Its caption from metadata.jsonl; null without one.", examples=["红心"]
    )
    metadata: dict[str, Any] = Field(
        description="Everything else metadata.jsonl says about it.",
        examples=[{"tags": ["爱", "心"], "author": "…", "licence": "Apache-2.0"}],
    )
    image_url: str = Field(description="The original picture.", examples=["/v1/images/42"])
    thumbnail_url: str = Field(
        description="A small WebP; add ?size= for another longest side, in pixels.",
        examples=["/v1/images/42/thumbnail"],
    )


class SearchResponse(BaseModel):
    """The pictures nearest to a query, best first."""

    query: str = Field(description="The query as received.", examples=["红色的心"])
    took_ms: float = Field(
        description="Milliseconds for encoding and search, without the network.", examples=[12.3]
    )
    total: int = Field(description="How many pictures are indexed.", examples=[1_200])
    hits: list[FoundPicture] = Field(description="At most top_k pictures, best first.")


class HealthResponse(BaseModel):
    """The service is up."""

    status: str = Field(description="Always ok; a service that is down does not answer.")
    total: int = Field(description="How many pictures are indexed.", examples=[1_200])
    version: str = Field(description="The version of clip-text.", examples=["0.1.0"])


class ErrorDetail(BaseModel):
    """What went wrong."""

    type: str = Field(description="For programs; stable.", examples=["invalid_request"])
    message: str = Field(
        description="For people: expected what, got what, what to do.",
        examples=["expected top_k to be less than or equal to 200, got 5000. Ask for fewer."],
    )


class ErrorResponse(BaseModel):
    """The form of every error."""

    error: ErrorDetail


class ThumbnailCache:
    """The thumbnails used last, as many as fit into a number of bytes. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = 0
        self._entries: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """The thumbnail under a key, which then counts as used last."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: str, thumbnail: bytes) -> None:
        """Keep a thumbnail and drop the ones used longest ago that no longer fit."""
        with self._lock:
            self._held += len(thumbnail) - len(self._entries.pop(key, b""))
            self._entries[key] = thumbnail
            while self._held > self._max_bytes:
                _, dropped = self._entries.popitem(last=False)
                self._held -= len(dropped)


def render_thumbnail(path: Path, size: int) -> bytes:
    """Draw a picture small: upright, never enlarged, without its EXIF data.

    Args:
        path: The picture.
        size: The longest side at most, in pixels.

    Returns:
        A WebP file.

    Raises:
        OSError: If the file cannot be read or is no picture.
    """
    try:
        with Image.open(path) as opened:
            # Lets the JPEG decoder leave out the detail nobody will see.
            opened.draft(None, (size, size))
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I;16"):
                # Pillow would clip 16-bit greys to white instead of scaling them.
                picture = picture.point(lambda grey: grey / 256, "L")
            mode = "RGBA" if picture.has_transparency_data else "RGB"
            if picture.mode != mode:
                # A CMYK or grey profile describes colours that are converted away here.
                picture.info.pop("icc_profile", None)
                picture = picture.convert(mode)
            picture.thumbnail((size, size), Image.Resampling.LANCZOS)
            webp = io.BytesIO()
            picture.save(webp, "WEBP", quality=82, method=4)
            return webp.getvalue()
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow's decoders report damaged files in all of these ways.
        raise OSError(str(error)) from error


class _ProblemError(Exception):
    """An answer in the house's error form."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class _Guard:
    """Puts the security headers on every answer and bounds the body of every request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = 0

        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                # FastAPI lets its own HTTPException through while it reads the body.
                # Closing ends a caller who would go on sending and never read the answer.
                raise HTTPException(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, headers={"connection": "close"}
                )
            return message

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                _guard_headers(MutableHeaders(scope=message), scope["path"])
            await send(message)

        await self._app(scope, receive_bounded, send_guarded)


def _guard_headers(headers: MutableHeaders, path: str) -> None:
    is_docs = path.rstrip("/").endswith(("/docs", "/redoc", "/docs/oauth2-redirect"))
    for name, value in _SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("content-security-policy", _DOCS_POLICY if is_docs else _PAGE_POLICY)
    # Everything here may change with the next indexing or the next version: browsers
    # may keep a copy, but ask whether it is still right; with an ETag that costs little.
    headers.setdefault("cache-control", "no-cache")


async def _searcher_of(request: Request) -> Searcher:
    return cast(Searcher, request.app.state.searcher)


_TheSearcher = Annotated[Searcher, Depends(_searcher_of)]


def _describe(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route, for the OpenAPI page."""
    described = {
        400: "The query has nothing to search for, or the body cannot be read.",
        404: "No such row in the index.",
        410: "The row is indexed, but its picture is gone from the disk or damaged.",
        413: f"The query is longer than {MAX_QUERY_CHARACTERS} characters.",
        422: "A field is missing, unknown, of the wrong type or out of range.",
        503: "The index cannot be used now.",
    }
    return {
        status: {"model": ErrorResponse, "description": described[status]} for status in statuses
    }


_router = APIRouter()


@_router.post(
    "/v1/search",
    tags=["search"],
    summary="Search the pictures with a text",
    responses=_describe(400, 413, 422, 503),
)
def search(body: SearchRequest, request: Request, searcher: _TheSearcher) -> SearchResponse:
    """Find the pictures nearest to a text.

    Pictures indexed since the last search are found without a restart.
    """
    start = time.perf_counter()
    searcher.refresh()
    hits = searcher.search(body.query, body.top_k)
    took_ms = round((time.perf_counter() - start) * 1_000, 2)
    prefix = request.scope.get("root_path", "")
    return SearchResponse(
        query=body.query,
        took_ms=took_ms,
        total=len(searcher),
        hits=[_as_found(hit, prefix) for hit in hits],
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
        **_describe(404, 410, 422),
    },
)
def read_image(row: int, request: Request, searcher: _TheSearcher) -> Response:
    """The file of one hit, byte for byte, with the content type its first bytes show."""
    path, status, etag = _find_picture(searcher, row)
    headers = {"etag": etag}
    if _still_right(request, etag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    try:
        with Image.open(path) as picture:
            media_type = picture.get_format_mimetype()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _gone(row, "a file that is no picture") from error
    if picture.format == "MPO":
        media_type = "image/jpeg"  # what phones write; browsers know it only by this name
    return FileResponse(path, headers=headers, media_type=media_type, stat_result=status)


@_router.head("/v1/images/{row}/thumbnail", include_in_schema=False)
@_router.get(
    "/v1/images/{row}/thumbnail",
    tags=["images"],
    summary="A small WebP of the picture",
    response_class=Response,
    responses={
        200: {"content": {"image/webp": {}}, "description": "Upright, without EXIF data."},
        304: {"description": "The copy named by If-None-Match is still right."},
        **_describe(404, 410, 422),
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
    """The picture of one hit, drawn small."""
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
        except OSError as error:
            raise _gone(row, "a file that cannot be read as a picture") from error
        cache.put(etag, webp)
    return Response(webp, headers=headers, media_type="image/webp")


@_router.head("/health", include_in_schema=False)
@_router.get("/health", tags=["service"], summary="Is the service up?")
async def check_health(request: Request, searcher: _TheSearcher) -> HealthResponse:
    """Answers from the event loop, so that a queue of searches does not look like a crash."""
    return HealthResponse(status="ok", total=len(searcher), version=request.app.version)


@_router.head("/", include_in_schema=False)
@_router.get("/", include_in_schema=False)
async def read_page(request: Request) -> HTMLResponse:
    return HTMLResponse(request.app.state.page)


def _as_found(hit: Hit, prefix: str) -> FoundPicture:
    image_url = f"{prefix}/v1/images/{hit.row}"
    return FoundPicture(
        rank=hit.rank,
        score=hit.score,
        image_id=hit.image_id,
        row=hit.row,
        caption=hit.caption,
        metadata=hit.metadata,
        image_url=image_url,
        thumbnail_url=f"{image_url}/thumbnail",
    )


def _find_picture(searcher: Searcher, row: int) -> tuple[Path, os.stat_result, str]:
    path = searcher.hit_path(row)
    if path is None:
        raise _ProblemError(
            HTTPStatus.NOT_FOUND,
            "row_not_found",
            f"expected a row of the index, got {_shorten(row)}. Use the rows of a search's hits.",
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


def _gone(row: int, found: str) -> _ProblemError:
    return _ProblemError(
        HTTPStatus.GONE,
        "image_gone",
        f"expected the picture of row {row} on the disk, got {found}. "
        "Put it back, or index the folder again.",
    )


def _answer(
    status: int, kind: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse({"error": {"type": kind, "message": message}}, status, headers)


async def _on_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, _ProblemError)
    return _answer(error.status, error.kind, str(error))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    path = _clip(request.url.path)
    kind, message = {
        400: (
            "invalid_request",
            f"expected a body in JSON, got one that cannot be read. {_SEND_EXAMPLE}.",
        ),
        404: ("not_found", f"expected a known address, got {path}. See /docs for the list."),
        405: (
            "method_not_allowed",
            f"expected another method for {path}, got {_clip(request.method)}. "
            "See /docs for the list.",
        ),
        413: (
            "request_too_large",
            f"expected at most {MAX_BODY_BYTES} bytes, got more. Send a shorter query.",
        ),
    }.get(
        error.status_code,
        ("http_error", f"expected another request, got {error.detail}. See /docs."),
    )
    return _answer(error.status_code, kind, message, error.headers)


async def _on_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = error.errors()
    too_long = next((fault for fault in faults if fault["type"] == "string_too_long"), None)
    if too_long is not None:
        return _answer(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "query_too_long",
            f"expected a query of at most {MAX_QUERY_CHARACTERS} characters, "
            f"got {len(too_long['input'])}. Shorten it.",
        )
    expectations = [_expectation(fault) for fault in faults[:3]]
    if len(faults) > len(expectations):
        expectations.append(f"and {len(faults) - len(expectations)} more")
    in_body = any(fault["loc"][0] == "body" for fault in faults)
    advice = _SEND_EXAMPLE if in_body else "Correct the address"
    return _answer(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid_request",
        f"{'; '.join(expectations)}. {advice}; see /docs.",
    )


def _expectation(fault: dict[str, Any]) -> str:
    """One of pydantic's findings as ``expected <what>, got <value>``."""
    field = ".".join(_clip(str(part)) for part in fault["loc"][1:]) or "the body"
    if fault["type"] == "json_invalid":
        return f"expected a body in JSON, got {fault['ctx']['error']} at character {field}"
    if fault["type"] == "missing":
        return f"expected {field}, got nothing"
    if fault["type"] == "extra_forbidden":
        return f"expected only query and top_k, got {field}"
    should = re.sub(r"^\w+ should", "to", fault["msg"])
    return f"expected {field} {should}, got {_shorten(fault['input'])}"


def _shorten(value: object) -> str:
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = 40
    shortener.maxdict = shortener.maxlist = 3
    shortener.maxlevel = 2
    return _clip(shortener.repr(value))


def _clip(text: str) -> str:
    """At most one short line, however long what the caller sent is."""
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"


async def _on_retrieval_error(request: Request, error: Exception) -> Response:
    if isinstance(error, QueryError):
        return _answer(HTTPStatus.BAD_REQUEST, "invalid_query", str(error))
    # The messages below stay general because the engine's own ones name folders.
    for kind, name, message in (
        (
            IndexMismatchError,
            "index_mismatch",
            "expected the index this service was started with, got one built by another model. "
            "Restart the service with that model.",
        ),
        (
            IndexLockedError,
            "index_locked",
            "expected an index at rest, got one being written. Try again in a moment.",
        ),
        (
            (IndexNotFoundError, CorruptIndexError),
            "index_unavailable",
            "expected a readable index, got none. Index the folder again; "
            "the service's log has more.",
        ),
    ):
        if isinstance(error, kind):
            _LOG.error("search refused: %s", error)
            return _answer(HTTPStatus.SERVICE_UNAVAILABLE, name, message)
    _LOG.error("search failed", exc_info=error)
    return await _on_crash(request, error)


async def _on_crash(request: Request, _error: Exception) -> Response:
    # Starlette sends this one from outside all middleware, so it needs its own headers;
    # the stack trace is left to the server's log.
    answer = _answer(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal_error",
        "expected an answer, got a failure inside the service. The service's log has the cause.",
    )
    _guard_headers(answer.headers, request.url.path)
    return answer


def _own_version() -> str:
    try:
        return version("clip-text")
    except PackageNotFoundError:  # a checkout that was never installed
        return "unknown"


def create_app(searcher: Searcher, *, title: str = "clip-text") -> FastAPI:
    """Build the search service as an ASGI application.

    Args:
        searcher: What answers the queries; the caller closes it.
        title: The name on the page and in /docs.

    Returns:
        The application, ready for any ASGI server; see :func:`serve`.
    """
    app = FastAPIOffline(
        title=title,
        version=_own_version(),
        description=(
            "Search pictures with Chinese text. Errors come as "
            '`{"error": {"type": …, "message": …}}`.'
        ),
        exception_handlers={
            _ProblemError: _on_problem,
            StarletteHTTPException: _on_http_error,
            RequestValidationError: _on_invalid,
            RetrievalError: _on_retrieval_error,
            Exception: _on_crash,
        },
    )
    app.state.searcher = searcher
    app.state.thumbnails = ThumbnailCache(THUMBNAIL_CACHE_BYTES)
    app.state.drawing = threading.BoundedSemaphore(os.cpu_count() or 1)
    app.state.page = (
        (_PAGE / "index.html").read_text(encoding="utf-8").replace("{{title}}", escape(title))
    )
    app.include_router(_router)
    app.mount("/page", StaticFiles(directory=_PAGE), name="page")
    app.add_middleware(_Guard)
    return app


def serve(searcher: Searcher, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Answer searches over HTTP until interrupted.

    Args:
        searcher: What answers the queries; the caller closes it.
        host: The address to listen on. There is no login: anybody who reaches it can
            see every indexed picture.
        port: The TCP port; 0 takes a free one.

    Raises:
        ModuleNotFoundError: If uvicorn is not installed.
    """
    try:
        import uvicorn  # noqa: PLC0415  an optional part, needed only here
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            _NEEDS_SERVE.format("uvicorn", _INSTALL_SERVE), name="uvicorn"
        ) from error
    uvicorn.run(
        create_app(searcher),
        host=host,
        port=port,
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=5,
    )
