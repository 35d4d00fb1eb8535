"""Ways to routes that look at a body before FastAPI does."""

import json
from collections.abc import Callable, Coroutine
from contextlib import suppress
from http import HTTPStatus
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from retrieval.service.problems import ProblemError
from retrieval.service.service import service_of

__all__ = ["SparseRoute", "check_sparse", "quick_route"]

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def quick_route(message: type[BaseModel]) -> type[APIRoute]:
    """Make the class of routes whose usual requests skip what FastAPI does for all others.

    Solving what a function depends on takes FastAPI longer than all else on the way to a search. A
    request that is JSON, valid, and names no collection goes straight to the function; everything
    else, every mistake included, goes FastAPI's way, and is answered by it.

    Args:
        message: What the body is; the function takes it as ``body``, beside ``request``,
            ``service`` and ``collection``, and gives a Response. What else it depends on must hold
            of every request that comes this far.
    """

    class Quick(APIRoute):
        taken: ClassVar[type[BaseModel]] = message

        def get_route_handler(self) -> Handler:
            careful, answer = super().get_route_handler(), self.endpoint

            async def handle(request: Request) -> Response:
                is_usual = request.headers.get("content-type") == "application/json"
                if not is_usual or request.scope["query_string"]:
                    return await careful(request)
                try:
                    body = self.taken.model_validate(json.loads(await request.body()))
                except (ValueError, RecursionError, ClientDisconnect):
                    return await careful(request)  # says what is wrong with it
                service = service_of(request)
                given: Response = await answer(
                    body=body,
                    request=request,
                    service=service,
                    collection=service.collection(None),
                )
                return given

            return handle

    return Quick


_MOST_LISTS, _MOST_KEYS, _MOST_PARTS = 100_000, 100_000, 1_000_000
_ENDS_OF_KEYS = (b'":', b" :", b"\t:", b"\n:", b"\r:")  # of texts as well: never too few


def check_sparse(body: bytes) -> None:
    """Count the marks of a body of JSON, which takes milliseconds, before it is parsed.

    Millions of tiny lists fit into the bytes of a picture; to parse them takes seconds, in which
    nothing else is answered, also where another thread does it, and thirty times their memory.

    Raises:
        ProblemError: 413, if it is of more parts than anything has that is asked here.
    """
    lists = body.count(b"[") + body.count(b"{")
    keys = sum(map(body.count, _ENDS_OF_KEYS)) if body.count(b":") > _MOST_KEYS else 0
    if lists > _MOST_LISTS or keys > _MOST_KEYS or body.count(b",") > _MOST_PARTS:
        raise ProblemError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "request_too_large",
            f"expected a body of at most {_MOST_LISTS} lists and objects with {_MOST_PARTS} parts "
            f"and {_MOST_KEYS} keys, got more. Send several requests.",
        )


class SparseRoute(APIRoute):
    """A route whose bodies are large for what is in their texts, not for their many parts."""

    def get_route_handler(self) -> Handler:
        """Give what looks at how many parts a body has before it is parsed."""
        parse = super().get_route_handler()

        async def handle(request: Request) -> Response:
            with suppress(ClientDisconnect):  # is told so on the usual way
                check_sparse(await request.body())
            return await parse(request)

        return handle
