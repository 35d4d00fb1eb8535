"""``/v1/suggest``."""

import asyncio
from dataclasses import asdict
from typing import Annotated, Final

from fastapi import APIRouter, Query

from retrieval.service.keys import needs
from retrieval.service.messages.suggest import Suggestion, SuggestResponse
from retrieval.service.problems import describe
from retrieval.service.service import TheCollection

__all__ = ["router"]

MAX_TYPED: Final = 100
MAX_SUGGESTIONS: Final = 50
_FIRST_S: Final = 5.0

router = APIRouter(tags=["search"], dependencies=[needs("search")])


@router.get(
    "/v1/suggest",
    summary="What is said of pictures, as it is typed",
    responses=describe(404, 413, 422),
)
async def suggest(
    collection: TheCollection,
    q: Annotated[
        str,
        Query(
            max_length=MAX_TYPED,
            description="What was typed: a beginning, something inside, pinyin or its initials.",
            examples=["gou"],
        ),
    ] = "",
    limit: Annotated[int, Query(ge=1, le=MAX_SUGGESTIONS, description="How many at most.")] = 8,
) -> SuggestResponse:
    """Complete what was typed by captions, tags and names: those that begin with it, then others.

    The first request waits until they are read, or 5 seconds, and is answered with nothing then.
    """
    suggestions = collection.suggestions
    suggestions.follow()
    if not suggestions.is_ready:
        await asyncio.to_thread(suggestions.wait, _FIRST_S)
    return SuggestResponse(suggestions=[Suggestion(**asdict(one)) for one in suggestions(q, limit)])
