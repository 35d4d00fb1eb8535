"""Who waits for an answer: not for ever, and not once it has left."""

import asyncio
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Any, Final, TypeVar

from fastapi import Request

from retrieval.service.problems import ProblemError

__all__ = ["answered"]

Given = TypeVar("Given")

_LOOKED_S: Final = 0.1  # between looks whether the caller is still there


async def answered(
    request: Request, work: Coroutine[Any, Any, Given] | asyncio.Future[Given], timeout_s: float
) -> Given:
    """Wait for what is given to a request; give up the work where nobody waits for it any more.

    Args:
        request: Its body has been read.
        work: Gives the answer, such as what a batcher was asked; cancelled where the caller
            leaves or it takes too long.
        timeout_s: Seconds that it may take.

    Raises:
        ProblemError: 503, if it takes longer; or if the caller has left, who sees no answer.
    """
    task = asyncio.ensure_future(work)
    deadline = asyncio.get_running_loop().time() + timeout_s
    try:
        while not (await asyncio.wait({task}, timeout=_LOOKED_S))[0]:
            if await request.is_disconnected():
                raise ProblemError(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    "caller_left",
                    "expected a caller who waits, got one that left. Ask again.",
                )
            if asyncio.get_running_loop().time() >= deadline:
                raise ProblemError(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    "took_too_long",
                    f"expected an answer within {timeout_s:g} seconds, got none yet. Ask for "
                    "less, or again in a moment.",
                    {"retry-after": "1"},
                )
        return task.result()
    finally:
        task.cancel()
