"""``/v1/embeddings`` and ``/v1/models``, as OpenAI's clients, Jina's and Infinity's know them."""

import asyncio
import base64
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

import numpy as np
import orjson
from fastapi import APIRouter, Depends, Request, Response

from retrieval.protocols import Features
from retrieval.service.collection import Collection
from retrieval.service.embedding import check_dimensions, cut, in_parts
from retrieval.service.fetching import fetch_image
from retrieval.service.fitness import check_charset
from retrieval.service.keys import needs
from retrieval.service.messages.embeddings import (
    EmbeddingsRequest,
    EmbeddingsResponse,
    ModelInfo,
    ModelList,
    PictureInput,
)
from retrieval.service.messages.errors import ErrorResponse
from retrieval.service.problems import ProblemError, describe, shorten
from retrieval.service.quick import SparseRoute
from retrieval.service.room import Held
from retrieval.service.service import Service, TheService
from retrieval.service.settings import Settings
from retrieval.service.waiting import answered

__all__ = ["router"]

_BEGAN: Final = int(time.time())
_ROWS_AT_ONCE: Final = 64  # written between two looks at who else asks

_NUMPY: Final = orjson.OPT_SERIALIZE_NUMPY

router = APIRouter(tags=["embeddings"], dependencies=[needs("search")], route_class=SparseRoute)


@router.post(
    "/v1/embeddings",
    summary="Rows of texts and pictures, for clients of OpenAI, Jina and Infinity",
    response_model=EmbeddingsResponse,
    responses={
        403: {"model": ErrorResponse, "description": "The service fetches no pictures."},
        **describe(400, 404, 413, 415, 422, 429, 501, 503),
    },
    dependencies=[Depends(check_charset)],
)
async def embed(body: EmbeddingsRequest, request: Request, service: TheService) -> Response:
    """Give each text and picture its unit row in the space that both share.

    Texts of requests that arrive together are encoded together, and those of a long list in
    parts between which others have their turn. A text longer than the model reads is cut there.
    """
    name, collection = _model(service, body.model)
    work = _embed(body, name, collection, service, request.state.held)
    given = await answered(request, work, service.settings.timeout_s)
    return Response(given, media_type="application/json")


@router.get("/v1/models", summary="The models that embed")
async def list_models(service: TheService) -> ModelList:
    """Name what ``model`` may be: collections, and the models that they have."""
    return ModelList(data=[_info(*named) for named in _models(service).items()])


@router.get("/v1/models/{name:path}", summary="One of the models", responses=describe(404, 422))
async def read_model(name: str, service: TheService) -> ModelInfo:
    """Tell what a model gives."""
    return _info(*_model(service, name))


def _models(service: Service) -> dict[str, Collection]:
    """Find the collections that have their model, by its name and by theirs, which goes first."""
    have = [each for each in service.collections.values() if each.encoder is not None]
    models = {each.name: each for each in have}
    for each in have:
        if each.model is not None:
            models.setdefault(each.model, each)
    return models


def _model(service: Service, name: str | None) -> tuple[str, Collection]:
    models = _models(service)
    if name is None and models:
        name = next(iter(models))
    if name is None or name not in models:
        known = ", ".join(models) or "none here"
        raise ProblemError(
            HTTPStatus.NOT_FOUND,
            "model_not_found",
            f"expected one of the models that embed ({known}), got {shorten(name)}. "
            "GET /v1/models names them.",
        )
    return name, models[name]


def _info(name: str, collection: Collection) -> ModelInfo:
    encoder = collection.encoder
    assert encoder is not None
    return ModelInfo(
        id=name, created=_BEGAN, embed_dim=encoder.embed_dim, fingerprint=encoder.fingerprint
    )


async def _embed(
    body: EmbeddingsRequest, name: str, collection: Collection, service: Service, held: Held
) -> bytes:
    encoder = collection.encoder
    assert encoder is not None
    check_dimensions(body.dimensions, encoder.embed_dim)
    texts = [one for one in body.pieces if isinstance(one, str)]
    pictures = [one for one in body.pieces if not isinstance(one, str)]
    pictures = await _at_hand(pictures, service.settings, held)
    size = service.settings.batch
    parts = [texts[start : start + size] for start in range(0, len(texts), size)]
    of_texts = await in_parts(collection.embedder.texts, parts) if texts else []
    rows = np.empty((len(body.pieces), encoder.embed_dim), np.float32)
    are_texts = np.array([isinstance(one, str) for one in body.pieces])
    if texts:
        rows[are_texts] = np.concatenate([each.rows for each in of_texts])
    if pictures:
        of_pictures = await in_parts(collection.embedder.pictures, pictures)
        rows[~are_texts] = np.stack(of_pictures)
    counts = [each.tokens for each in of_texts if each.tokens is not None]
    tokens = sum(counts) if len(counts) == len(of_texts) else None
    return await _written(cut(rows, body.dimensions), name, tokens, in_base64=body.is_base64)


async def _at_hand(
    pictures: list[PictureInput], settings: Settings, held: Held
) -> list[PictureInput]:
    """Give pictures with their bytes; those that are said by their address are fetched, in turn."""
    found, fetched = [], 0
    for picture in pictures:
        said = picture.said
        if isinstance(said, str) and said[:6].lower().startswith(("http:", "https:")):
            content = await fetch_image(said, settings)
            fetched += len(content)
            held.take(len(content))
            if fetched > settings.upload_bytes:
                raise ProblemError(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                    "request_too_large",
                    f"expected pictures of at most {settings.upload_bytes} bytes together, got "
                    "more. Send fewer in a request.",
                )
            picture = PictureInput(picture.place, content)  # noqa: PLW2901
        found.append(picture)
    return found


async def _written(rows: Features, name: str, tokens: int | None, *, in_base64: bool) -> bytes:
    """Write an answer part by part, so that a long one keeps nobody waiting."""
    parts = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        if start:
            await asyncio.sleep(0)
        page = rows[start : start + _ROWS_AT_ONCE]
        parts.append(orjson.dumps(list(_data(page, start, in_base64)), option=_NUMPY)[1:-1])
    usage = None if tokens is None else {"prompt_tokens": tokens, "total_tokens": tokens}
    return orjson.dumps(
        {
            "object": "list",
            "data": orjson.Fragment(b"[" + b",".join(parts) + b"]"),
            "model": name,
            "usage": usage,
        }
    )


def _data(rows: Features, start: int, in_base64: bool) -> Iterator[dict[str, object]]:
    for place, row in enumerate(rows, start):
        said: object = row
        if in_base64:
            said = base64.b64encode(row.astype("<f4", copy=False).tobytes()).decode()
        yield {"object": "embedding", "index": place, "embedding": said}
