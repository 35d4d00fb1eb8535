"""What every answer carries and every request is bounded by."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Final

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrieval.service.gate import route_path
from retrieval.service.headers import guard_headers
from retrieval.service.keys import access_of
from retrieval.service.logs import log_request, name_request
from retrieval.service.room import Held, RoomFullError
from retrieval.service.service import Service

_REQUEST_ID: Final = b"x-request-id"
# Who sends a picture by mistake reads the answer only after sending all of it.
_MOST_HEARD_BYTES: Final = 16 * 1024 * 1024
_BYTES_A_SECOND: Final = 16 * 1024
"""How fast a body has to come; what comes faster is no patience beyond ``body_s`` for the rest."""

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
_MOST_PATCH_BYTES: Final = 1024 * 1024
"""Room for all that may be said of an item, with every character as two \\uXXXX escapes."""


class Guard:
    """Puts the security headers on every answer, bounds every body, counts and logs all requests.

    It is outside all else, the gate included.
    """

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
        name = name_request(Headers(scope=scope))
        era = self._service.turnover.enter()
        self._measures.in_flight.inc()
        held = Held(self._service.room)
        scope.setdefault("state", {})["held"] = held

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [pair for pair in message.get("headers", ()) if pair[0] != _REQUEST_ID]
                headers.append((_REQUEST_ID, name.encode()))
                if self._service.settings.cors_origins:
                    headers.append((b"cross-origin-resource-policy", b"cross-origin"))
                if self._service.ending:  # no caller is cut off between two requests
                    headers.append((b"connection", b"close"))
                guard_headers(headers, scope["path"])
                message["headers"] = headers
            await send(message)

        try:
            await self._app(scope, self._bounded(scope, receive, held), send_guarded)
        except asyncio.CancelledError:  # the service ends, and this has taken too long
            if not status:
                await _ENDING(scope, receive, send_guarded)
        except Exception:
            status = status or HTTPStatus.INTERNAL_SERVER_ERROR  # as it is answered, outside
            raise
        finally:
            held.give_back()
            self._service.turnover.leave(era)
            self._measures.in_flight.dec()
            self._tell(scope, int(status), time.perf_counter() - began)

    def _tell(self, scope: Scope, status: int, took_s: float) -> None:
        """Count and log a request."""
        route, access = _route_of(scope), access_of(scope)
        self._measures.of_request(route, status, took_s)
        log_request(scope, route, status, took_s, access.name if access else None)

    def _bounded(self, scope: Scope, receive: Receive, held: Held) -> Receive:
        """Give what receives a request's body, and refuses one too long, too slow or too many."""
        settings = self._service.settings
        takes_pictures = route_path(scope).startswith(_TAKE_PICTURES)
        most = settings.upload_bytes if takes_pictures else settings.body_bytes
        if scope["method"] == "PATCH":  # it is read on the event loop
            most = min(most, _MOST_PATCH_BYTES)
        declared, can_wait = _declared_length(scope)
        received, is_whole = 0, False
        patience_s, clock = settings.body_s, asyncio.get_running_loop().time

        async def receive_bounded() -> Message:
            nonlocal received, is_whole, patience_s
            if is_whole:  # what comes now is that the caller has left
                return await receive()
            if declared > most and can_wait:
                raise _too_large(most)
            began = clock()
            try:
                async with asyncio.timeout(patience_s):
                    message = await receive()
            except TimeoutError:
                raise _too_slow(settings.body_s) from None
            came = len(message.get("body", b""))
            received += came
            # what came fast is no reason to hold it for long while nothing comes
            earned_s = patience_s - (clock() - began) + came / _BYTES_A_SECOND
            patience_s = min(settings.body_s, earned_s)
            is_whole = not message.get("more_body", False)
            refusal = _too_large(most) if received > most else None
            try:
                if refusal is None:
                    held.check(max(came, declared - received + came))
                    held.take(came)
            except RoomFullError:
                refusal = _no_room()
            if refusal is not None:
                if declared <= _MOST_HEARD_BYTES:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(settings.body_s):
                            await _hear_out(receive, message)
                raise refusal
            return message

        return receive_bounded


def _route_of(scope: Scope) -> str:
    """Name a request's route, also where it was refused on the way there, as in an overload."""
    found = scope.get("route")
    if found is None and (app := scope.get("app")) is not None:
        routes: Sequence[APIRoute] = app.state.routes
        found = next((each for each in routes if each.matches(scope)[0] is Match.FULL), None)
    return getattr(found, "path", "other")


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


def _too_slow(body_s: float) -> HTTPException:
    headers = {"connection": "close"}
    return HTTPException(HTTPStatus.REQUEST_TIMEOUT, f"{body_s:.0f}", headers=headers)


def _no_room() -> HTTPException:
    headers = {"retry-after": "1", "connection": "close"}
    return HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "", headers=headers)


def _too_large(most: int) -> HTTPException:
    # FastAPI lets its own HTTPException through while it reads the body. Closing ends a
    # caller who would go on sending and never read the answer.
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return HTTPException(status, str(most), headers={"connection": "close"})
