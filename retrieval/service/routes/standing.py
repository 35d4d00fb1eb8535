"""What the service says of itself: is it up, is it ready, what answers, its figures."""

from asyncio import to_thread
from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from prometheus_client import CONTENT_TYPE_LATEST

from retrieval.service.keys import needs
from retrieval.service.messages.standing import HealthResponse, VersionResponse
from retrieval.service.problems import ProblemError, describe
from retrieval.service.service import TheCollection, TheService

__all__ = ["router"]

router = APIRouter(tags=["service"])


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", summary="Is the service up?")
async def check_health(service: TheService) -> HealthResponse:
    """Answer from the event loop, so that a queue of searches does not look like a crash."""
    total = len(service.collection(None).searcher)
    return HealthResponse(status="ok", total=total, version=service.version)


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", summary="Can it answer searches?", responses=describe(429, 503))
async def check_readiness(service: TheService) -> HealthResponse:
    """Say whether a search sent now would be answered: every index readable, nothing ending.

    503 tells a load balancer to send requests elsewhere for a while; 429, that more wait than can
    be answered soon.
    """
    if service.ending:
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "service_ending",
            "expected a service at work, got one that ends. Send requests to another.",
        )
    for collection in service.collections.values():
        collection.start()
        collection.refresher.check()
        collection.searches.check()
    return await check_health(service)


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    dependencies=[needs("admin", of_keys_alone=True)],
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format."}},
)
async def read_metrics(service: TheService) -> Response:
    """Tell times by stage, sizes of batches, what waits, how the cache of queries serves.

    Of several processes, each has its own figures, under its number as `worker`.
    """
    text = (
        service.measures.text() if service.crew is None else await to_thread(service.crew.metrics)
    )
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@router.head("/version", include_in_schema=False, dependencies=[needs("search")])
@router.get(
    "/version",
    summary="Which model answers, and what computes it",
    responses=describe(404, 422, 503),
    dependencies=[needs("search")],
)
def read_version(service: TheService, collection: TheCollection) -> VersionResponse:
    """Name what searches are answered by."""
    return VersionResponse(
        version=service.version,
        fingerprint=collection.searcher.fingerprint,
        embed_dim=collection.searcher.embed_dim,
        runtime=collection.runtime,
        notes=collection.searcher.notes(),
    )


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def read_page(request: Request) -> HTMLResponse:
    """Send the search page."""
    return HTMLResponse(request.app.state.page)
