"""``/v1/collections``: the indexes of a service, and what is said of their pictures."""

import os
from typing import Final

from fastapi import APIRouter

from retrieval.catalogue import Field
from retrieval.service.collection import Collection
from retrieval.service.keys import needs
from retrieval.service.messages.collections import (
    CollectionField,
    CollectionResponse,
    CollectionsResponse,
)
from retrieval.service.problems import describe
from retrieval.service.service import TheService
from retrieval.stores import StoreAddress

__all__ = ["router"]

router = APIRouter(tags=["collections"], dependencies=[needs("search")])

_KINDS: Final = {"texts": "text", "numbers": "number", "true and false": "boolean", "null": "null"}


@router.get("/v1/collections", summary="The indexes to search", responses=describe(422, 503))
def read_collections(service: TheService) -> CollectionsResponse:
    """Tell which indexes there are; the first answers where a request names none."""
    return CollectionsResponse(collections=[_told(each) for each in service.collections.values()])


@router.get(
    "/v1/collections/{name}", summary="One of the indexes", responses=describe(404, 422, 503)
)
def read_collection(name: str, service: TheService) -> CollectionResponse:
    """Tell what is in one index."""
    return _told(service.collection(name))


def _told(collection: Collection) -> CollectionResponse:
    searcher = collection.searcher
    return CollectionResponse(
        name=collection.name,
        total=len(searcher),
        fingerprint=searcher.fingerprint,
        embed_dim=searcher.embed_dim,
        runtime=collection.runtime,
        writable=_is_writable(collection),
        fields=[_field(field) for field in searcher.fields()],
    )


def _is_writable(collection: Collection) -> bool:
    place = collection.index_dir
    if collection.writing is None or place is None:
        return False
    return isinstance(place, StoreAddress) or os.access(place, os.W_OK)


def _field(field: Field) -> CollectionField:
    kinds = [_KINDS.get(kind, kind) for kind in field.kinds]
    kind = kinds[0] if len(kinds) == 1 else "mixed"
    return CollectionField(name=field.name, kind=kind, count=field.pictures, values=field.values)
