"""What every answer carries and every request is bounded by."""

from http import HTTPStatus
from typing import Final

from fastapi import HTTPException
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Room for the longest query with every character written as two \uXXXX escapes.
MAX_BODY_BYTES: Final = 64 * 1024

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
                guard_headers(MutableHeaders(scope=message), scope["path"])
            await send(message)

        await self._app(scope, receive_bounded, send_guarded)


def guard_headers(headers: MutableHeaders, path: str) -> None:
    """Put the security headers on an answer to a path, where it has none of its own."""
    is_docs = path.rstrip("/").endswith(("/docs", "/redoc", "/docs/oauth2-redirect"))
    for name, value in _SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("content-security-policy", _DOCS_POLICY if is_docs else _PAGE_POLICY)
    # Everything here may change with the next indexing or the next version: browsers
    # may keep a copy, but ask whether it is still right; with an ETag that costs little.
    headers.setdefault("cache-control", "no-cache")
