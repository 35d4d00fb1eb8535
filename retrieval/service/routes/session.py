"""``/v1/session``: the page goes on with a key, though its pictures cannot send one."""

from http import HTTPStatus

from fastapi import APIRouter, Request, Response

from retrieval.service.keys import COOKIE
from retrieval.service.problems import ProblemError, describe
from retrieval.service.service import TheService

__all__ = ["router"]

router = APIRouter(tags=["session"])


@router.post(
    "/v1/session",
    summary="Let this browser search with a key",
    status_code=HTTPStatus.NO_CONTENT,
    response_class=Response,
    responses=describe(401, 503),
)
async def open_session(request: Request, service: TheService) -> Response:
    """Set a cookie that may search, for as long as the key may, and no longer than a while.

    The key stands in the header. Scripts cannot read the cookie, and browsers send it for this
    service's own pages alone.
    """
    answer = Response(status_code=HTTPStatus.NO_CONTENT)
    if service.keys is None:  # nobody needs one
        return answer
    access = service.keys.access(request.headers)
    if access.by_session or access.name is None:
        raise ProblemError(
            HTTPStatus.UNAUTHORIZED,
            "unauthorized",
            "expected a key, got a session. Send one as Authorization: Bearer KEY.",
            {"www-authenticate": 'Bearer realm="clip-text"'},
        )
    lasting_s = service.settings.session_s
    answer.set_cookie(
        COOKIE,
        service.keys.session(access.name, lasting_s),
        max_age=int(lasting_s),
        path=_path(request),
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return answer


@router.delete(
    "/v1/session",
    summary="Forget the key in this browser",
    status_code=HTTPStatus.NO_CONTENT,
    response_class=Response,
)
async def close_session(request: Request) -> Response:
    """Take the cookie away."""
    answer = Response(status_code=HTTPStatus.NO_CONTENT)
    answer.delete_cookie(COOKIE, path=_path(request), httponly=True, samesite="strict")
    return answer


def _path(request: Request) -> str:
    return str(request.scope.get("root_path", "")) or "/"
