"""What every answer carries and every request is bounded by."""

import asyncio
import time
from http import HTTPStatus
from typing import Final

from fastapi import HTTPException, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrieval.service.batching import OverloadedError
from retrieval.service.headers import guard_headers
from retrieval.service.problems import overloaded
from retrieval.service.service import Service

# Who sends a picture by mistake reads the answer only after sending all of it.
_MOST_HEARD_BYTES: Final = 16 * 1024 * 1024

_ENDING: Final = JSONResponse(
    {
        "error": {
            "type": "service_ending",
            "message": "expected a service at work, got one that ends. Try again in a moment.",
        }
    },
    HTTPStatus.SERVICE_UNAVAILABLE,
)
# What takes pictures takes more bytes than what takes words.
_TAKE_PICTURES: Final = ("/v1/search/upload", "/v1/items", "/v1/embeddings")


class Guard:
    """Puts the security headers on every answer, bounds every request, and counts them all."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._measures = service.measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; what is not HTTP passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        era = self._service.turnover.enter()
        self._measures.in_flight.inc()

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                guard_headers(headers, scope["path"])
                if self._service.ending:  # no caller is cut off between two requests
                    headers["connection"] = "close"
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await refusal(scope, receive, send_guarded)
            else:
                await self._app(scope, self._bounded(scope, receive), send_guarded)
        except asyncio.CancelledError:  # the service ends, and this has taken too long
            if not status:
                await _ENDING(scope, receive, send_guarded)
        finally:
            self._service.turnover.leave(era)
            self._measures.in_flight.dec()
            route = getattr(scope.get("route"), "path", "other")
            self._measures.of_request(route, status, time.perf_counter() - began)

    def _refusal(self, scope: Scope) -> Response | None:
        """Say no before any work is done where too much waits already."""
        if scope["path"] == "/v1/search" and not scope["query_string"]:
            try:
                self._service.collection(None).searches.check()
            except OverloadedError as error:
                return overloaded(error)
        return None

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """Give what receives a request's body, and refuses one that is too long."""
        settings = self._service.settings
        takes_pictures = scope["path"].startswith(_TAKE_PICTURES)
        most = settings.upload_bytes if takes_pictures else settings.body_bytes
        declared, can_wait = _declared_length(scope)
        received = 0

        async def receive_bounded() -> Message:
            nonlocal received
            if declared > most and can_wait:
                raise _too_large(most)
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                if declared <= _MOST_HEARD_BYTES:
                    await _hear_out(receive, message)
                raise _too_large(most)
            return message

        return receive_bounded


def _declared_length(scope: Scope) -> tuple[int, bool]:
    """Read how many bytes are to be sent, 0 if unsaid, and whether the caller waits for a word."""
    headers = Headers(scope=scope)
    length = headers.get("content-length", "")
    can_wait = headers.get("expect", "").lower() == "100-continue"
    return int(length) if length.isascii() and length.isdigit() else 0, can_wait


async def _hear_out(receive: Receive, message: Message) -> None:
    """Take the rest of a body that is too long: a caller cut off may never see the answer."""
    heard = 0
    while message.get("more_body") and heard < _MOST_HEARD_BYTES:
        message = await receive()
        heard += len(message.get("body", b""))


def _too_large(most: int) -> HTTPException:
    # FastAPI lets its own HTTPException through while it reads the body. Closing ends a
    # caller who would go on sending and never read the answer.
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return HTTPException(status, str(most), headers={"connection": "close"})
