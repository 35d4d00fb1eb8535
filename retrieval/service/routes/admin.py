"""``/v1/admin``: what those who run the service ask of it."""

import logging
from http import HTTPStatus

from fastapi import APIRouter, Request

from retrieval.service.keys import needs
from retrieval.service.messages.standing import ReloadResponse
from retrieval.service.problems import ProblemError, describe, shorten
from retrieval.service.service import TheService

__all__ = ["router"]

_LOG = logging.getLogger(__name__)

router = APIRouter(tags=["service"], dependencies=[needs("admin")])


@router.post(
    "/v1/admin/reload",
    summary="Open the indexes anew",
    responses=describe(409, 415),
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {}}}},
)
async def reload(request: Request, service: TheService) -> ReloadResponse:
    """Open all indexes again, with the models that the configuration names now.

    The answer comes when every process of the service answers from them. No request fails
    meanwhile: those at work end with what they began with. SIGHUP does the same.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # which no page of another site can send
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            f"expected the content-type application/json, got {shorten(kind)}. Send it so.",
        )
    if not service.can_reload:
        raise ProblemError(
            HTTPStatus.CONFLICT,
            "not_reloadable",
            "expected a service that knows where its indexes are from, got one that was handed "
            "them open. Start it anew.",
        )
    try:
        await service.reload_all()
    except Exception as error:
        # The cause stays in the log: it names folders.
        _LOG.error("cannot reload: %s", error)
        raise ProblemError(
            HTTPStatus.CONFLICT,
            "reload_failed",
            "expected indexes that can be opened as the configuration has them now, got one that "
            "cannot. The service goes on with those from before; its log has the cause.",
        ) from error
    return ReloadResponse(
        collections={name: len(each.searcher) for name, each in service.collections.items()}
    )
