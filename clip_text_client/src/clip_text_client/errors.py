"""What can go wrong, by what the service says of it."""

from typing import Any, Final

import httpx

__all__ = [
    "ClientError",
    "ForbiddenError",
    "GoneError",
    "InvalidRequestError",
    "NotFoundError",
    "OverloadedError",
    "PageGoneError",
    "ServiceError",
    "UnauthorizedError",
    "UnavailableError",
    "UnreachableError",
    "error_of",
    "unwritable",
]


class ClientError(Exception):
    """The root of all that this package raises by itself."""


class UnreachableError(ClientError):
    """No answer came whole: no service there, no network, not in time, or broken on its way."""


class ServiceError(ClientError):
    """The service said no.

    Args:
        status: Of HTTP.
        type: The service's name for it, which does not change.
        message: For people: expected what, got what, what to do.
    """

    def __init__(self, status: int, type: str, message: str) -> None:  # noqa: A002  the service's word
        super().__init__(message)
        self.status, self.type, self.message = status, type, message

    def __str__(self) -> str:
        return f"{self.message} ({self.status}, {self.type})"


class InvalidRequestError(ServiceError):
    """The request cannot be answered as it is."""


class UnauthorizedError(ServiceError):
    """The service wants a key, or another one."""


class ForbiddenError(ServiceError):
    """The key does not allow that, or the service does not do it."""


class NotFoundError(ServiceError):
    """There is no such picture, item, collection, model or head."""


class GoneError(ServiceError):
    """It was there, and is not any more."""


class PageGoneError(GoneError):
    """The service keeps the order of that answer no longer; ask the query again."""


class OverloadedError(ServiceError):
    """Too much is asked of the service at once."""


class UnavailableError(ServiceError):
    """The service cannot answer now; what went wrong is in its log."""


_BY_TYPE: Final[dict[str, type[ServiceError]]] = {"page_gone": PageGoneError}
_BY_STATUS: Final[dict[int, type[ServiceError]]] = {
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    410: GoneError,
    429: OverloadedError,
}


def error_of(response: httpx.Response) -> ServiceError:
    """Make the error that an answer tells of.

    Args:
        response: Read whole, with a status of 300 or more.
    """
    status, said = response.status_code, _said(response)
    kind = str(said.get("type", "http_error"))
    message = str(
        said.get("message") or f"expected an answer, got {status}. See the service's log."
    )
    of_status = UnavailableError if status >= 500 else InvalidRequestError
    return _BY_TYPE.get(kind, _BY_STATUS.get(status, of_status))(status, kind, message)


def unwritable(error: UnicodeEncodeError) -> ValueError:
    """Say that a text has half a character, which no request can carry."""
    half = error.object[error.start : error.end]
    return ValueError(
        f"expected text that UTF-8 can write, got one with {half!a}. Leave lone surrogates out."
    )


def _said(response: httpx.Response) -> dict[str, Any]:
    """Read the service's own words; what stands before it, such as a proxy, says others."""
    try:
        body = response.json()
    except ValueError:
        return {}
    said = body.get("error") if isinstance(body, dict) else None
    return said if isinstance(said, dict) else {}
