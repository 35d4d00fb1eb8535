"""Connections with an end: uvicorn's, with bounds on what it waits for and keeps.

uvicorn waits for ever for headers that do not come, and keeps as many of them as do; so do bodies
in chunks with what stands between the chunks.
"""

import asyncio
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from retrieval.service.logs import configuration
from retrieval.service.settings import Settings

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

__all__ = ["BoundedProtocol", "server_options"]

_BETWEEN: Final = 8
"""Bytes around each byte of a body at most; a chunk of one byte has five."""


def server_options(settings: Settings) -> dict[str, Any]:
    """Say how uvicorn is to serve, for its ``Config``."""
    bounded = type("BoundedBySettings", (BoundedProtocol,), {"settings": settings})
    return {
        "http": bounded,
        "ws": "none",
        "server_header": False,
        "access_log": False,
        "log_config": configuration(settings.log),
    }


class BoundedProtocol(HttpToolsProtocol):
    """A connection whose caller has to send, and to read, at some pace."""

    settings = Settings()

    def __init__(
        self,
        config: "Config",
        server_state: "ServerState",
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._received = self._body = 0
        self._is_past_head = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for headers."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._stop_waiting()
        if self._send_timer is not None:
            self._send_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came, if it is not too much beside the body."""
        if not self._is_past_head:
            # from the first byte, for a line end before a request is not yet one
            self._await_head()
        self._received += len(data)
        super().data_received(data)
        beside = self._received - self._body
        if beside > self.settings.head_bytes + _BETWEEN * self._body:
            self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers_too_large",
                f"expected at most {self.settings.head_bytes} bytes of headers, got more. "
                "Send less.",
            )

    def on_headers_complete(self) -> None:
        """Begin to wait for the body, which whoever reads it does."""
        self._stop_waiting()
        self._is_past_head = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Begin to count anew."""
        self._received = self._body = 0
        self._is_past_head = False
        super().on_message_complete()
        if self.cycle.response_complete:  # uvicorn waited for no more than this body
            self._stop_waiting()
            self._await_head()

    def on_response_complete(self) -> None:
        """Begin to wait for the rest of a body that nobody reads any more."""
        super().on_response_complete()
        if self._is_past_head and self.cycle.response_complete:
            self._await_head()

    def pause_writing(self) -> None:
        """Begin to wait for the caller to read."""
        super().pause_writing()
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(self.settings.send_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on, for the caller has read."""
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Refuse what is no HTTP, in the form of all errors."""
        self._refuse(
            HTTPStatus.BAD_REQUEST,
            "invalid_request",
            "expected a request in HTTP/1.1, got something else. Use a client for HTTP.",
        )

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.settings.head_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._await_head()  # what was asked before is answered first
        elif self._received:
            self._refuse(
                HTTPStatus.REQUEST_TIMEOUT,
                "request_too_slow",
                f"expected a request's headers within {self.settings.head_s:g} seconds, got a "
                "part of them. Send faster.",
            )
        else:
            self.transport.close()

    def _refuse(self, status: HTTPStatus, kind: str, message: str) -> None:
        """Answer and close, below all that answers otherwise."""
        self._stop_waiting()
        if self.transport.is_closing():
            return
        is_begun = self.cycle is not None and self.cycle.response_started
        if is_begun and (self._is_past_head or not self.cycle.response_complete):
            self.transport.close()  # this one is answered, or half of another answer has been sent
            return
        body = json.dumps({"error": {"type": kind, "message": message}}).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-content-type-options: nosniff\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()
