"""``/v1/search/upload``: a search that brings pictures."""

import asyncio
import time
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, Depends, Request, Response
from pydantic_core import from_json
from starlette.datastructures import FormData, UploadFile

from retrieval.search import PictureTerm
from retrieval.search.query import WITHOUT_WEIGHT
from retrieval.service.asked import Search
from retrieval.service.fitness import check_charset
from retrieval.service.given import Addresses
from retrieval.service.keys import needs
from retrieval.service.messages.search import SearchRequest, SearchResponse
from retrieval.service.problems import ProblemError, describe, shorten
from retrieval.service.received import (
    as_message,
    check_picture,
    media_type_of,
    read_form,
    unsupported,
)
from retrieval.service.service import TheCollection, TheService
from retrieval.service.waiting import answered

__all__ = ["router"]

router = APIRouter(tags=["search"], dependencies=[needs("search")])

MAX_PICTURES: Final = 8
_FORM: Final = "multipart/form-data"
_PARTS: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "image": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "maxItems": MAX_PICTURES,
            "description": "Pictures to find the like of.",
        },
        "without_image": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "maxItems": MAX_PICTURES,
            "description": "Pictures to stay away from.",
        },
        "request": {
            "type": "string",
            "contentMediaType": "application/json",
            "description": "What a search by words asks, as /v1/search has it, as JSON text.",
            "example": '{"query": "夜晚", "top_k": 10}',
        },
    },
}


@router.post(
    "/v1/search/upload",
    summary="Search the pictures with pictures that are sent along",
    response_model=SearchResponse,
    responses=describe(400, 404, 413, 415, 422, 429, 501, 503),
    openapi_extra={
        "requestBody": {"required": True, "content": {_FORM: {"schema": _PARTS}}},
    },
    dependencies=[Depends(check_charset)],
)
async def search_by_pictures(
    request: Request, service: TheService, collection: TheCollection
) -> Response:
    """Find the pictures nearest to those that are sent, and to texts beside them.

    The pictures are not kept. Further pages are asked of `/v1/search`, by the `page` of the answer.
    """
    since = time.perf_counter()
    if media_type_of(request) != _FORM:
        raise unsupported(request, _FORM)
    collection.start()
    collection.refresher.check()
    collection.pictures.check()  # before the pictures are taken
    async with read_form(request, files=2 * MAX_PICTURES, fields=1) as form:
        body = _body(request, form, service.settings.body_bytes)
        pictures = await _pictures(form, service.settings.pixels)
    addresses = Addresses(
        request.scope.get("root_path", ""), request.query_params.get("collection")
    )
    waiting = collection.pictures(Search(body, addresses, since, pictures))
    given = await answered(request, waiting, service.settings.timeout_s)
    return Response(given, media_type="application/json")


def _body(request: Request, form: FormData, most_bytes: int) -> SearchRequest:
    unknown = sorted(set(form) - {"image", "without_image", "request"})
    if unknown:
        raise _wrong(f"expected the parts image, without_image and request, got {unknown[0][:40]}")
    sent = form.get("request", "{}")
    if isinstance(sent, UploadFile):
        raise _wrong("expected the part request to be text, got a file")
    if len(sent.encode("utf-8", "surrogatepass")) > most_bytes:  # it is read on the event loop
        raise ProblemError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "request_too_large",
            f"expected the part request to have at most {most_bytes} bytes, got more. Send less.",
        )
    try:
        parsed = from_json(sent, allow_inf_nan=False)
    except ValueError as error:
        raise _wrong(
            f"expected the part request to be JSON, got {shorten(sent)} ({error})"
        ) from error
    return as_message(request, parsed, SearchRequest)


async def _pictures(form: FormData, most_pixels: int) -> tuple[PictureTerm, ...]:
    terms: list[PictureTerm] = []
    for name, weight in (("image", 1.0), ("without_image", -WITHOUT_WEIGHT)):
        sent = form.getlist(name)
        if len(sent) > MAX_PICTURES:
            raise _wrong(f"expected at most {MAX_PICTURES} parts {name}, got {len(sent)}")
        for part in sent:
            if not isinstance(part, UploadFile):
                raise _wrong(f"expected the part {name} to be a file, got text")
            await asyncio.to_thread(check_picture, part.file, part.filename or "", most_pixels)
            terms.append(PictureTerm(await part.read(), weight))
    if not terms:
        raise _wrong("expected a part image or without_image, a file, got none")
    return tuple(terms)


def _wrong(what: str) -> ProblemError:
    return ProblemError(422, "invalid_request", f"{what}. Correct the form; see /docs.")
