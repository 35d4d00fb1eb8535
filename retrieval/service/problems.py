"""Errors as answers: ``{"error": {"type": …, "message": …}}``, and never a stack trace."""

import logging
import math
import re
import reprlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, get_args

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from retrieval.errors import (
    CorruptIndexError,
    IndexLockedError,
    IndexMismatchError,
    IndexNotFoundError,
    QueryError,
    RetrievalError,
)
from retrieval.service.batching import OverloadedError
from retrieval.service.headers import guard_headers
from retrieval.service.messages.errors import ErrorResponse
from retrieval.service.messages.search import MAX_QUERY_CHARACTERS, SEND_EXAMPLE

_LOG = logging.getLogger(__name__)
_SHORT: Final = 80


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
        400: "The query has nothing to search for, the filter cannot be used, or the body be read.",
        404: "No such row in the index, or no such collection.",
        409: "The service cannot do this as it is set up, or what is there keeps it from it.",
        410: "A picture is gone from the disk or damaged, or a page's order is kept no longer.",
        413: f"The query is longer than {MAX_QUERY_CHARACTERS} characters.",
        415: "The body is said to be in another encoding than Unicode.",
        416: "The picture has no bytes in that range.",
        422: "A field is missing, unknown, of the wrong type or out of range.",
        429: "More requests wait than can be answered soon; Retry-After says when to try again.",
        501: "The picture is of a kind that needs a package which is not installed.",
        503: "The index cannot be used now, or the answer took too long.",
    }
    return {
        status: {"model": ErrorResponse, "description": described[status]} for status in statuses
    }


def _answer(
    status: int, kind: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse({"error": {"type": kind, "message": message}}, status, headers)


async def _on_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return _answer(error.status, error.kind, str(error), error.headers)


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
        413: (
            "request_too_large",
            f"expected at most {error.detail} bytes, got more. Send less.",
        ),
    }.get(
        error.status_code,
        ("http_error", f"expected another request, got {error.detail}. See /docs."),
    )
    return _answer(error.status_code, kind, message, error.headers)


async def _on_invalid(request: Request, error: Exception) -> Response:
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
    expectations = [_expectation(fault, request) for fault in faults[:3]]
    if len(faults) > len(expectations):
        expectations.append(f"and {len(faults) - len(expectations)} more")
    in_body = any(fault["loc"][0] == "body" for fault in faults)
    is_search = request.url.path.endswith("/v1/search")
    advice = SEND_EXAMPLE if in_body and is_search else "Correct it"
    return _answer(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid_request",
        f"{'; '.join(expectations)}. {advice}; see /docs.",
    )


def _expectation(fault: dict[str, Any], request: Request) -> str:
    """Say one of pydantic's findings as ``expected <what>, got <value>``."""
    field = ".".join(_clip(str(part)) for part in fault["loc"][1:]) or "the body"
    if fault["type"] == "json_invalid":
        return f"expected a body in JSON, got {fault['ctx']['error']} at character {field}"
    if fault["type"] == "missing":
        return f"expected {field}, got nothing"
    if fault["type"] == "extra_forbidden":
        *names, last = _known_fields(request, fault["loc"][1:-1])
        return f"expected only {', '.join(names)} and {last}, got {field}"
    if isinstance(fault.get("input"), bytes):  # not even read, for what it is said to be
        kind = request.headers.get("content-type") or "none"
        return f"expected a body of the type application/json, got the type {_clip(kind)}"
    if fault["type"].startswith("int_parsing"):
        return f"expected {field} to be an integer, got {shorten(fault['input'])}"
    should = re.sub(r"^\w+ should", "to", fault["msg"])
    return f"expected {field} {should}, got {shorten(fault['input'])}"


def _known_fields(request: Request, way: Sequence[int | str]) -> list[str]:
    """Name the fields of the message that stands where a field was that it does not know."""
    message: Any = request.scope["route"].body_field.field_info.annotation
    for step in way:
        if isinstance(step, str) and step in getattr(message, "model_fields", ()):
            message = message.model_fields[step].annotation
            while inner := [each for each in get_args(message) if each is not type(None)]:
                message = inner[0]
    return list(getattr(message, "model_fields", ())) or ["what /docs names", "nothing else"]


def shorten(value: object) -> str:
    """Write a value as Python does, in at most one short line."""
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = 40
    shortener.maxdict = shortener.maxlist = 3
    shortener.maxlevel = 2
    return _clip(shortener.repr(value))


def _clip(text: str) -> str:
    """Cut a text to one short line, however long what the caller sent is."""
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"


def overloaded(error: OverloadedError) -> Response:
    """Refuse a request that would have to wait too long, and say when to try again."""
    seconds = max(1, math.ceil(error.retry_after_s))
    return _answer(
        HTTPStatus.TOO_MANY_REQUESTS, "overloaded", str(error), {"retry-after": str(seconds)}
    )


async def _on_retrieval_error(request: Request, error: Exception) -> Response:
    if isinstance(error, OverloadedError):
        return overloaded(error)
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
    guard_headers(answer.headers, request.url.path)
    return answer


HANDLERS: Final[dict[int | type[Exception], Callable[[Request, Any], Awaitable[Response]]]] = {
    ProblemError: _on_problem,
    StarletteHTTPException: _on_http_error,
    RequestValidationError: _on_invalid,
    RetrievalError: _on_retrieval_error,
    Exception: _on_crash,
}
"""By what is raised; for FastAPI's ``exception_handlers``."""
