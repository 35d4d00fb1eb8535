"""``/v1/search``."""

import time

from fastapi import APIRouter, Depends, Request, Response

from retrieval.service.asked import Search, keeper
from retrieval.service.fitness import check_charset
from retrieval.service.given import Addresses
from retrieval.service.keys import needs
from retrieval.service.messages.search import SearchRequest, SearchResponse
from retrieval.service.problems import describe
from retrieval.service.quick import quick_route
from retrieval.service.service import TheCollection, TheService
from retrieval.service.waiting import answered

__all__ = ["router"]

router = APIRouter(
    tags=["search"],
    dependencies=[needs("search")],
    route_class=quick_route(SearchRequest),  # the gate has seen that the caller may search
)


@router.post(
    "/v1/search",
    summary="Search the pictures with texts, and with pictures of the index",
    response_model=SearchResponse,
    responses=describe(400, 404, 410, 413, 415, 422, 429, 503),
    dependencies=[Depends(check_charset)],
)
async def search(
    body: SearchRequest, request: Request, service: TheService, collection: TheCollection
) -> Response:
    """Find the pictures nearest to texts and pictures, among those that `where` holds of.

    Pictures indexed since the last search are found without a restart, from a second after
    they were stored; no search waits for that. Searches that arrive together are computed
    together.
    """
    since = time.perf_counter()
    collection.start()  # where the service runs inside another one, nothing else starts it
    collection.refresher.check()
    addresses = Addresses(
        request.scope.get("root_path", ""), request.query_params.get("collection")
    )
    slot = None if body.page is None else keeper(body.page)
    if slot is not None and service.elsewhere is not None and service.is_another(slot):
        text = body.model_dump_json(exclude_unset=True)
        further = slot, text, addresses.collection, addresses.prefix
        waiting = service.elsewhere.submit(further)
    else:
        waiting = collection.searches.submit(Search(body, addresses, since))
    given = await answered(request, waiting, service.settings.timeout_s)
    return Response(given, media_type="application/json")
