"""``/v1/items``: pictures added, changed and removed, one by one or many at once."""

import asyncio
from http import HTTPStatus
from io import BytesIO
from typing import Annotated, Any, BinaryIO, Final

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel

from retrieval.ingest.items import check_id
from retrieval.service.collection import Collection
from retrieval.service.fitness import check_charset, check_origin
from retrieval.service.given import Addresses, stored_item
from retrieval.service.keys import needs
from retrieval.service.messages.items import (
    MAX_BULK,
    BulkResponse,
    ItemPatch,
    NewItem,
    RemovalRequest,
    RemovalResponse,
    StoredItem,
)
from retrieval.service.problems import ProblemError, describe
from retrieval.service.quick import check_sparse
from retrieval.service.received import (
    Message,
    as_message,
    media_type_of,
    parsed,
    read_body,
    read_form,
    read_json,
    unsupported,
)
from retrieval.service.service import TheCollection, TheService
from retrieval.service.settings import Settings
from retrieval.service.waiting import answered
from retrieval.service.wanted import bulk_outcome, parts_of, wanted_of, wanted_or_why
from retrieval.service.writes import Add, Change, Outcome, Remove, Stored, Wanted, Write, the_one
from retrieval.service.writing import Writing

__all__ = ["router"]

router = APIRouter(tags=["items"], dependencies=[needs("search")])

ItemId = Annotated[
    str,
    Path(
        description="Its id, / and all; what an address has no letter for, "
        "percent-encoded in UTF-8.",
        examples=["shop/42"],
    ),
]

_FORM: Final = "multipart/form-data"
_JSON: Final = "application/json"
_LINES: Final = ("application/x-ndjson", "application/jsonl", "application/x-jsonlines")
_NEW: Final[dict[str, Any]] = NewItem.model_json_schema()
_PARTS: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["id"],
    "properties": {
        **{name: _NEW["properties"][name] for name in ("id", "caption")},
        "image": {"type": "string", "format": "binary", "description": "Its file."},
        **{
            name: {
                "type": "string",
                "contentMediaType": _JSON,
                "description": f"{_NEW['properties'][name]['description']} As JSON text.",
            }
            for name in ("metadata", "feature")
        },
    },
}
_WRITES: Final = (403, 413, 415, 422, 429, 501, 503, 507)


def _takes(message: type[BaseModel]) -> dict[str, Any]:
    """Describe a body that is read by hand: FastAPI reads one before it looks who sent it."""
    content = {_JSON: {"schema": message.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "/v1/items",
    summary="Add a picture, or put it in the place of the one that has its id",
    response_model=StoredItem,
    status_code=HTTPStatus.CREATED,
    responses={
        200: {"model": StoredItem, "description": "There was one; this one is in its place."},
        **describe(400, 404, *_WRITES),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {_FORM: {"schema": _PARTS}, _JSON: {"schema": _NEW}},
        }
    },
    dependencies=[needs("write"), Depends(check_origin), Depends(check_charset)],
)
async def add_item(request: Request, service: TheService, collection: TheCollection) -> Response:
    """Store a picture that is sent, lies on the service's machine, or comes as a finished row.

    Once this is answered, it is on the disk, and searches find it. Sending the same again changes
    nothing.
    """
    writing = _writing(collection)
    if media_type_of(request) == _FORM:
        async with read_form(request, files=1, fields=len(NewItem.model_fields)) as form:
            said, sent = parts_of(form)
            wanted = await asyncio.to_thread(_wanted, request, said, service.settings, sent)
            return await _add(request, service.settings, collection, writing, wanted)
    _check_json(request, _FORM, _JSON)
    said = await read_json(request)
    wanted = await asyncio.to_thread(_wanted, request, said, service.settings)
    return await _add(request, service.settings, collection, writing, wanted)


@router.post(
    "/v1/items/bulk",
    summary="Add many pictures",
    response_model=BulkResponse,
    responses=describe(400, 404, *_WRITES),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                _JSON: {"schema": {"type": "array", "items": _NEW, "maxItems": MAX_BULK}},
                _LINES[0]: {"schema": {"type": "string", "description": "An item on each line."}},
            },
        }
    },
    dependencies=[needs("write"), Depends(check_origin), Depends(check_charset)],
)
async def add_items(request: Request, service: TheService, collection: TheCollection) -> Response:
    """Store pictures, each as if it were alone: those that cannot be stored do not hinder others.

    The body is a list, or has one picture on each line (JSON Lines); 1,000 at most.
    """
    writing = _writing(collection)
    values = await _listed(request)
    looked_at = await asyncio.to_thread(_look_at_all, values, service.settings)
    wanted = tuple(each for each in looked_at if isinstance(each, Wanted))
    stored = iter(await _written(request, service.settings, writing, Add(wanted)) if wanted else ())
    outcomes = [next(stored) if isinstance(each, Wanted) else each for each in looked_at]
    ids = [value.get("id") if isinstance(value, dict) else None for value in values]
    items = [bulk_outcome(*pair) for pair in zip(ids, outcomes, strict=True)]
    count = sum(isinstance(outcome, Stored) for outcome in outcomes)
    return _said(BulkResponse(stored=count, failed=len(items) - count, items=items))


@router.post(
    "/v1/items/delete",
    summary="Forget many pictures",
    responses=describe(404, *_WRITES),
    openapi_extra=_takes(RemovalRequest),
    dependencies=[needs("write"), Depends(check_origin), Depends(check_charset)],
)
async def delete_items(
    request: Request, service: TheService, collection: TheCollection
) -> RemovalResponse:
    """Forget pictures, each as if it were alone; those of folders come back when these are indexed.

    10,000 at most.
    """
    writing = _writing(collection)
    check_sparse(await read_body(request))
    body = await _read(request, RemovalRequest)
    outcomes = await _written(request, service.settings, writing, Remove(tuple(body.ids)))
    items = [
        bulk_outcome(image_id, outcome, HTTPStatus.NO_CONTENT)
        for image_id, outcome in zip(body.ids, outcomes, strict=True)
    ]
    count = sum(isinstance(outcome, Stored) for outcome in outcomes)
    return RemovalResponse(deleted=count, failed=len(items) - count, items=items)


@router.get(
    "/v1/items/{id:path}",
    summary="What is stored of a picture",
    responses=describe(404, 409, 422, 503),
)
def read_item(id: ItemId, request: Request, collection: TheCollection) -> StoredItem:  # noqa: A002
    """Tell what is said of a picture, and where it is reached.

    What was written is told at once, whichever process of the service wrote it.
    """
    record = the_one(id, collection.searcher.find(check_id(id)))
    return stored_item(record, _addresses(request))


@router.patch(
    "/v1/items/{id:path}",
    summary="Change what is said of an item",
    responses=describe(404, 409, *_WRITES),
    openapi_extra=_takes(ItemPatch),
    dependencies=[needs("write"), Depends(check_origin), Depends(check_charset)],
)
async def change_item(
    id: ItemId,  # noqa: A002
    request: Request,
    service: TheService,
    collection: TheCollection,
) -> StoredItem:
    """Change caption and metadata by a merge patch: absent keys stay, null takes away.

    The picture and its row stay as they are.
    """
    writing = _writing(collection)
    patch = (await _read(request, ItemPatch)).model_dump(exclude_unset=True)
    (outcome,) = await _written(request, service.settings, writing, Change(id, patch))
    _raise_if(outcome)
    return await asyncio.to_thread(read_item, id, request, collection)


@router.delete(
    "/v1/items/{id:path}",
    summary="Forget a picture",
    status_code=HTTPStatus.NO_CONTENT,
    responses=describe(404, 409, *_WRITES),
    dependencies=[needs("write"), Depends(check_origin)],
)
async def delete_item(
    id: ItemId,  # noqa: A002
    request: Request,
    service: TheService,
    collection: TheCollection,
) -> Response:
    """Forget a picture; the file goes with it if it was sent here and no other item has it."""
    writing = _writing(collection)
    (outcome,) = await _written(request, service.settings, writing, Remove((id,)))
    _raise_if(outcome)
    return Response(status_code=HTTPStatus.NO_CONTENT)


def _writing(collection: Collection) -> Writing:
    """Give what writes to a collection, before anything is read that could not be written."""
    writing = collection.writing
    if writing is None:
        raise ProblemError(
            HTTPStatus.FORBIDDEN,
            "not_writable",
            "expected a collection that this service writes to, got one that it only searches. "
            "Index with clip-text index.",
        )
    collection.start()
    writing.writes.check()
    return writing


def _wanted(
    request: Request, said: object, settings: Settings, sent: tuple[BinaryIO, str] | None = None
) -> Wanted:
    """Judge what is said of a picture, and its header; beside the event loop, for it may be long.

    Raises:
        RequestValidationError: If it is no item.
        ProblemError: If it is none that may be added.
    """
    return wanted_of(as_message(request, said, NewItem), settings, sent)


async def _read(request: Request, message: type[Message]) -> Message:
    """Read a message; beside the event loop, for it may be long.

    Raises:
        RequestValidationError: If it is none.
        ProblemError: If it is no JSON.
    """
    _check_json(request, _JSON)
    return await asyncio.to_thread(as_message, request, await read_json(request), message)


async def _written(
    request: Request, settings: Settings, writing: Writing, write: Write
) -> list[Outcome]:
    return await answered(request, writing.writes(write), settings.timeout_s)


async def _add(
    request: Request,
    settings: Settings,
    collection: Collection,
    writing: Writing,
    wanted: Wanted,
) -> Response:
    (outcome,) = await _written(request, settings, writing, Add((wanted,)))
    stored = _raise_if(outcome)
    item = await asyncio.to_thread(read_item, wanted.id, request, collection)
    status = HTTPStatus.CREATED if stored.is_new else HTTPStatus.OK
    return _said(item, status, {"location": item.item_url})


def _raise_if(outcome: Outcome) -> Stored:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _said(
    message: BaseModel, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Response:
    return Response(message.model_dump_json(), status, headers, media_type=_JSON)


def _addresses(request: Request) -> Addresses:
    return Addresses(request.scope.get("root_path", ""), request.query_params.get("collection"))


def _check_json(request: Request, *expected: str) -> None:
    kind = media_type_of(request)
    if kind != _JSON and not kind.endswith("+json"):
        raise unsupported(request, *expected)


async def _listed(request: Request) -> list[Any]:
    """Read a list of anything from JSON, or from a line of JSON for each."""
    if media_type_of(request) in _LINES:
        return await asyncio.to_thread(_lines, await read_body(request))
    _check_json(request, _JSON, _LINES[0])
    values = await read_json(request)
    if not isinstance(values, list):
        raise _wrong(f"expected a list of items, got {type(values).__name__}. Wrap it in [].")
    _check_count(len(values))
    return values


def _lines(raw: bytes) -> list[Any]:
    values: list[Any] = []
    for line in BytesIO(raw):  # as many as are wanted: a body may be of line ends alone
        if line.strip():
            values.append(_line(line))
            _check_count(len(values))
    return values


def _line(line: bytes) -> Any:  # noqa: ANN401
    try:
        return parsed(line)
    except ProblemError as error:
        return error


def _check_count(count: int) -> None:
    if count > MAX_BULK:
        raise ProblemError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "too_many_items",
            f"expected at most {MAX_BULK} items, got more. Send them in several requests.",
        )


def _look_at_all(values: list[Any], settings: Settings) -> list[Wanted | Exception]:
    return [
        value if isinstance(value, Exception) else wanted_or_why(value, settings)
        for value in values
    ]


def _wrong(message: str) -> ProblemError:
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", message)
