"""Who is let in: what can be refused before a byte of the body is read."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.responses import Response
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrieval.service.batching import OverloadedError
from retrieval.service.collection import Collection
from retrieval.service.hosts import check_host, is_handed_on
from retrieval.service.keys import Access, is_open
from retrieval.service.problems import ProblemError, overloaded, problem
from retrieval.service.rates import Rates, is_counted
from retrieval.service.service import Service

__all__ = ["Gate", "route_path"]


class Gate:
    """Refuses what is called by another name, has no key, comes too often, or waits too long."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        rate = service.settings.rate
        self._rates = None if rate is None else Rates(rate)
        scope = service.settings.without_keys
        self._of_everybody = Access(None, scope or "admin")
        self._of_strangers = Access(None, scope or "search")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request in, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told: dict[str, str] = {}
        refusal = await self._refusal(scope, told)

        async def send_told(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(told)
            await send(message)

        await (refusal or self._app)(scope, receive, send_told if told else send)

    async def _refusal(self, scope: Scope, told: dict[str, str]) -> Response | None:
        """Say why a request is not let in; fills in the headers of its answer."""
        headers, path = Headers(scope=scope), route_path(scope)
        try:
            _check_size(scope, self._service.settings.head_bytes)
            check_host(headers, self._service.settings.allowed_hosts)
            access, no_key = self._access(headers, path)
            if self._rates is not None and is_counted(path):
                name = None if access is None else access.name
                is_too_many, told_so = await self._rates.count(
                    self._rates.caller(name, scope.get("client"))
                )
                told.update(told_so)
                if is_too_many:
                    raise _too_many(told_so)
            if no_key is not None:
                raise no_key
        except ProblemError as error:
            return problem(error)
        scope.setdefault("state", {})["access"] = access
        if path == "/v1/search" and (collection := self._searched(scope)) is not None:
            try:
                collection.searches.check()
            except OverloadedError as error:
                return await overloaded(error)
        return None

    def _searched(self, scope: Scope) -> Collection | None:
        """Find the collection that a search names; None where there is no such one."""
        said = scope["query_string"]
        name = QueryParams(said).get("collection") if said else None
        collections = self._service.collections
        return self._service.collection(None) if name is None else collections.get(name)

    def _access(self, headers: Headers, path: str) -> tuple[Access | None, ProblemError | None]:
        """Say what the caller may do, or why nothing; an open address needs nothing."""
        keys = self._service.keys
        if keys is None:
            return self._of_strangers if is_handed_on(headers) else self._of_everybody, None
        if is_open(path):
            return None, None
        try:
            return keys.access(headers), None
        except ProblemError as error:
            return None, error


def route_path(scope: Mapping[str, Any]) -> str:
    """Give the address below the application's own, as Starlette's router sees it."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    below = path.removeprefix(prefix)
    return below if not below or below.startswith("/") else path


def _check_size(scope: Scope, most: int) -> None:
    size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    if size + sum(len(name) + len(value) for name, value in scope["headers"]) > most:
        raise ProblemError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            "headers_too_large",
            f"expected at most {most} bytes of headers and address, got more. Send less.",
            {"connection": "close"},
        )


def _too_many(told: Mapping[str, str]) -> ProblemError:
    return ProblemError(
        HTTPStatus.TOO_MANY_REQUESTS,
        "too_many_requests",
        f"expected at most {told['ratelimit-limit']} requests in the time allowed for them, got "
        f"more. Try again in {told['retry-after']} seconds.",
    )
