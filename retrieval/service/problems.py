"""Errors as answers: ``{"error": {"type": …, "message": …}}``, and never a stack trace."""

import asyncio
import logging
import math
import re
import reprlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from itertools import islice
from typing import Any, Final, get_args

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Match

from retrieval.errors import (
    CorruptIndexError,
    IndexLockedError,
    IndexMismatchError,
    IndexNotFoundError,
    ItemError,
    QueryError,
    QueryPictureError,
    RetrievalError,
    StorageError,
    StoreAccessError,
    StoreUnavailableError,
)
from retrieval.service.batching import OverloadedError
from retrieval.service.headers import guard_headers
from retrieval.service.logs import REQUEST_ID
from retrieval.service.messages.errors import ErrorResponse
from retrieval.service.messages.search import MAX_QUERY_CHARACTERS, SEND_EXAMPLE
from retrieval.service.room import RoomFullError

_LOG = logging.getLogger(__name__)
_SHORT: Final = 80
REFUSED_AFTER_S: Final = 0.5


class ProblemError(Exception):
    """An answer in the house's error form."""

    def __init__(
        self, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.headers = headers


def describe(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the error answers of a route, for the OpenAPI page."""
    described = {
        401: "A key is needed, and there is none, or one that is unknown or has ended.",
        400: "The query has nothing to search for, the filter cannot be used, or the body be read.",
        403: "The key is not good for that, or the service does not do it: write to this "
        "collection, read that folder, fetch an address.",
        404: "No such row or item in the index, or no such collection.",
        409: "The id is that of several pictures, or of one that cannot be changed here; or the "
        "service cannot do this as it is set up.",
        410: "A picture is gone from the disk or damaged, or a page's order is kept no longer.",
        413: f"The query is longer than {MAX_QUERY_CHARACTERS} characters, or something else in "
        "the request too large.",
        415: "The body is said to be in another encoding than Unicode, or of a type not read here.",
        416: "The picture has no bytes in that range.",
        422: "A field is missing, unknown, of the wrong type or out of range, or a picture cannot "
        "be read.",
        429: "More requests wait than can be answered soon; Retry-After says when to try again.",
        501: "The picture is of a kind that needs a package which is not installed.",
        503: "The index cannot be used now, or the answer took too long.",
        507: "The disk is full, or keeps the index from being written; nothing is lost.",
    }
    return {
        status: {"model": ErrorResponse, "description": described[status]} for status in statuses
    }


def _answer(
    status: int, kind: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse({"error": {"type": kind, "message": message}}, status, headers)


def problem(error: ProblemError) -> Response:
    """Give the answer that a problem is."""
    return _answer(error.status, error.kind, str(error), error.headers)


async def _on_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return problem(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    path = _clip(request.url.path)
    kind, message = {
        400: (
            "invalid_request",
            f"expected a body in JSON, in UTF-8, got one that cannot be read. {SEND_EXAMPLE}.",
        ),
        404: ("not_found", f"expected a known address, got {path}. See /docs for the list."),
        405: (
            "method_not_allowed",
            f"expected another method for {path}, got {_clip(request.method)}. "
            "See /docs for the list.",
        ),
        408: (
            "request_too_slow",
            f"expected a body, or more of it, within {error.detail} seconds, got a part of it. "
            "Send faster.",
        ),
        413: (
            "request_too_large",
            f"expected at most {error.detail} bytes, got more. Send less.",
        ),
        503: ("overloaded", str(RoomFullError())),
    }.get(
        error.status_code,
        ("http_error", f"expected another request, got {error.detail}. See /docs."),
    )
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["allow"] = ", ".join(_allowed(request)) or headers.get("allow", "")
    return _answer(error.status_code, kind, message, headers)


def _allowed(request: Request) -> list[str]:
    """Name the methods of an address; Starlette names those of one of its routes."""
    routes: Sequence[APIRoute] = request.app.state.routes
    here = [route for route in routes if route.matches(request.scope)[0] is Match.PARTIAL]
    return sorted({method for route in here for method in route.methods or ()})


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = error.errors()
    is_search = request.url.path.endswith("/v1/search")
    of_body = [fault for fault in faults if fault["loc"][0] == "body"]
    if beyond := next(filter(None, (too_long(fault, is_search) for fault in of_body)), None):
        return problem(beyond)
    message = getattr(request.state, "message", None)
    if message is None and (field := request.scope["route"].body_field):
        message = field.field_info.annotation
    kind = request.headers.get("content-type") or "none"
    expectations = explain(faults, message, kind)
    advice = SEND_EXAMPLE if of_body and is_search else "Correct it"
    return _answer(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid_request",
        f"{expectations}. {advice}; see /docs.",
    )


def too_long(fault: Mapping[str, Any], is_search: bool = False) -> ProblemError | None:
    """Refuse a text that is too long as such; None for any other of pydantic's findings."""
    if fault["type"] != "string_too_long" and "length" not in fault.get("ctx", ()):
        return None
    got = fault["ctx"].get("length") or len(fault["input"])
    what = "a query" if is_search else "texts" if "length" in fault["ctx"] else _name(fault)
    return ProblemError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "query_too_long" if is_search else "text_too_long",
        f"expected {what} of at most {fault['ctx']['max_length']} characters, got {got}. "
        "Shorten it.",
    )


def explain(faults: Sequence[Any], message: Any, content_type: str = "application/json") -> str:  # noqa: ANN401
    """Say pydantic's findings, their places beginning with ``body``, as the house does.

    Args:
        faults: As ``errors()`` gives them.
        message: The model that was to be read, to name its fields.
        content_type: What the body is said to be.
    """
    expectations = [_expectation(fault, message, content_type) for fault in faults[:3]]
    if len(faults) > len(expectations):
        expectations.append(f"and {len(faults) - len(expectations)} more")
    return "; ".join(expectations)


def _name(fault: Mapping[str, Any]) -> str:
    return ".".join(_clip(str(part)) for part in fault["loc"][1:]) or "the body"


def _expectation(fault: Mapping[str, Any], message: Any, content_type: str) -> str:  # noqa: ANN401
    """Say one of pydantic's findings as ``expected <what>, got <value>``."""
    field = _name(fault)
    if fault["type"] == "json_invalid":
        return f"expected a body in JSON, got {fault['ctx']['error']} at character {field}"
    if fault["type"] == "missing":
        return f"expected {field}, got nothing"
    if fault["type"] == "extra_forbidden":
        *names, last = _known_fields(message, fault["loc"][1:-1])
        return f"expected only {', '.join(names)} and {last}, got {field}"
    if isinstance(fault.get("input"), bytes):  # not even read, for what it is said to be
        return f"expected a body of the type application/json, got the type {_clip(content_type)}"
    if fault["type"].startswith("int_parsing"):
        return f"expected {field} to be an integer, got {shorten(fault['input'])}"
    said = "to be an object" if fault["type"] == "model_type" else fault["msg"]
    should = re.sub(r"^\w+ should", "to", said)
    return f"expected {field} {should}, got {shorten(fault['input'])}"


def _known_fields(message: Any, way: Sequence[int | str]) -> list[str]:  # noqa: ANN401
    """Name the fields of the message that stands where a field was that it does not know."""
    for step in way:
        if isinstance(step, str) and step in getattr(message, "model_fields", ()):
            message = message.model_fields[step].annotation
            while inner := [each for each in get_args(message) if each is not type(None)]:
                message = inner[0]
    return list(getattr(message, "model_fields", ())) or ["what /docs names", "nothing else"]


class _Shortener(reprlib.Repr):
    """Looks at no more of an object than it shows, however many keys it has."""

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        return super().repr_dict(dict(islice(x.items(), self.maxdict + 1)), level)


def shorten(value: object) -> str:
    """Write a value as Python does, in at most one short line."""
    shortener = _Shortener()
    shortener.maxstring = shortener.maxother = 40
    shortener.maxdict = shortener.maxlist = 3
    shortener.maxlevel = 2
    return _clip(shortener.repr(value))


def _clip(text: str) -> str:
    """Cut a text to one short line, however long what the caller sent is."""
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"


async def overloaded(error: OverloadedError) -> Response:
    """Refuse a request that would have to wait too long, and say when to try again.

    The answer takes a moment: whoever asks again at once would keep the service from its work.
    """
    await asyncio.sleep(REFUSED_AFTER_S)
    seconds = max(1, math.ceil(error.retry_after_s))
    return _answer(
        HTTPStatus.TOO_MANY_REQUESTS, "overloaded", str(error), {"retry-after": str(seconds)}
    )


async def _on_retrieval_error(request: Request, error: Exception) -> Response:
    if isinstance(error, OverloadedError):
        return await overloaded(error)
    if isinstance(error, RoomFullError):
        return _answer(
            HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", str(error), {"retry-after": "1"}
        )
    problem = as_problem(error)
    if problem is not None:
        return await _on_problem(request, problem)
    _LOG.error("search failed", exc_info=error)
    return await _on_crash(request, error)


def as_problem(error: Exception) -> ProblemError | None:
    """Say an error of the engine as an answer; None if it is our mistake."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, QueryPictureError):
        message = f"{' '.join(str(error).split())} Send the file of a sound picture."
        return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "picture_unreadable", message)
    if isinstance(error, QueryError):
        return ProblemError(HTTPStatus.BAD_REQUEST, "invalid_query", str(error))
    if isinstance(error, ItemError):
        return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_item", str(error))
    # The messages below stay general because the engine's own ones name folders.
    for kind, status, name, message in (
        (
            IndexMismatchError,
            HTTPStatus.SERVICE_UNAVAILABLE,
            "index_mismatch",
            "expected the index this service was started with, got one built by another model. "
            "Restart the service with that model.",
        ),
        (
            IndexLockedError,
            HTTPStatus.SERVICE_UNAVAILABLE,
            "index_locked",
            "expected an index at rest, got one being written. Try again in a moment.",
        ),
        (
            StoreUnavailableError,
            HTTPStatus.SERVICE_UNAVAILABLE,
            "store_unavailable",
            "expected the server that keeps the index, got no answer from it. Try again in a "
            "moment; what was acknowledged is there.",
        ),
        (
            StoreAccessError,
            HTTPStatus.SERVICE_UNAVAILABLE,
            "store_refuses",
            "expected the server that keeps the index to answer, got a refusal. The service's log "
            "has more.",
        ),
        (
            StorageError,
            HTTPStatus.INSUFFICIENT_STORAGE,
            "storage_failed",
            "expected a disk that can be written, got one that is full, failing or read-only. Free "
            "some space; what was stored before is there, and the service's log has more.",
        ),
        (
            (IndexNotFoundError, CorruptIndexError),
            HTTPStatus.SERVICE_UNAVAILABLE,
            "index_unavailable",
            "expected a readable index, got none. Index the folder again; "
            "the service's log has more.",
        ),
    ):
        if isinstance(error, kind):
            _LOG.error("request refused: %s", error)
            again = kind in (IndexLockedError, StoreUnavailableError)
            headers = {"retry-after": "1"} if again else None
            return ProblemError(status, name, message, headers)
    return None


async def _on_crash(request: Request, _error: Exception) -> Response:
    # Starlette sends this one from outside all middleware, so it needs its own headers;
    # the stack trace is left to the server's log.
    answer = _answer(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal_error",
        "expected an answer, got a failure inside the service. The service's log has the cause.",
    )
    guard_headers(answer.raw_headers, request.url.path)
    if REQUEST_ID.get():
        answer.headers["x-request-id"] = REQUEST_ID.get()
    return answer


HANDLERS: Final[dict[int | type[Exception], Callable[[Request, Any], Awaitable[Response]]]] = {
    ProblemError: _on_problem,
    StarletteHTTPException: _on_http_error,
    RequestValidationError: _on_invalid,
    RetrievalError: _on_retrieval_error,
    Exception: _on_crash,
}
"""By what is raised; for FastAPI's ``exception_handlers``."""
