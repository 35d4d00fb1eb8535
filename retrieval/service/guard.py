"""What every answer carries and every request is bounded by."""

import asyncio
from http import HTTPStatus
from typing import Final

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Room for the longest query with every character written as two \uXXXX escapes.
MAX_BODY_BYTES: Final = 64 * 1024
# Who sends a picture by mistake reads the answer only after sending all of it.
_MOST_HEARD_BYTES: Final = 16 * 1024 * 1024

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


_ENDING: Final = JSONResponse(
    {
        "error": {
            "type": "service_ending",
            "message": "expected a service at work, got one that ends. Try again in a moment.",
        }
    },
    HTTPStatus.SERVICE_UNAVAILABLE,
)


class Guard:
    """Puts the security headers on every answer and bounds the body of every request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; what is not HTTP passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = 0
        declared, can_wait = _declared_length(scope)

        async def receive_bounded() -> Message:
            nonlocal received
            if declared > MAX_BODY_BYTES and can_wait:
                raise _too_large()
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                if declared <= _MOST_HEARD_BYTES:
                    await _hear_out(receive, message)
                raise _too_large()
            return message

        has_begun = False

        async def send_guarded(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            if message["type"] == "http.response.start":
                guard_headers(MutableHeaders(scope=message), scope["path"])
            await send(message)

        try:
            await self._app(scope, receive_bounded, send_guarded)
        except asyncio.CancelledError:  # the service ends, and this has taken too long
            if not has_begun:
                await _ENDING(scope, receive, send_guarded)


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


def _too_large() -> HTTPException:
    # FastAPI lets its own HTTPException through while it reads the body. Closing ends a
    # caller who would go on sending and never read the answer.
    return HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, headers={"connection": "close"})


def guard_headers(headers: MutableHeaders, path: str) -> None:
    """Put the security headers on an answer to a path, where it has none of its own."""
    is_docs = path.rstrip("/").endswith(("/docs", "/redoc", "/docs/oauth2-redirect"))
    for name, value in _SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("content-security-policy", _DOCS_POLICY if is_docs else _PAGE_POLICY)
    # Everything here may change with the next indexing or the next version: browsers
    # may keep a copy, but ask whether it is still right; with an ETag that costs little.
    headers.setdefault("cache-control", "no-cache")
