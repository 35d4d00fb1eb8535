"""The headers that every answer carries."""

from typing import Final

__all__ = ["guard_headers"]

_SECURITY_HEADERS: Final = {
    "x-content-type-options": "nosniff",
    # The query stands in the page's address; nobody else needs to read it.
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    # No other site may show pictures or read answers, nor frame the page.
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
# Swagger UI and ReDoc start from an inline script, style themselves inline, and draw
# their icons from data: addresses.
_DOCS_POLICY: Final = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none'; "
    "frame-ancestors 'none'"
)
# Everything here may change with the next indexing or the next version: browsers may keep a copy,
# but ask whether it is still right; with an ETag that costs little.
_CACHE: Final = {"cache-control": "no-cache"}


def _encoded(policy: str) -> list[tuple[bytes, bytes]]:
    headers = {**_SECURITY_HEADERS, "content-security-policy": policy, **_CACHE}
    return [(name.encode(), value.encode()) for name, value in headers.items()]


_OF_PAGE: Final = _encoded(_PAGE_POLICY)
_OF_DOCS: Final = _encoded(_DOCS_POLICY)


def guard_headers(headers: list[tuple[bytes, bytes]], path: str) -> None:
    """Put the security headers on an answer to a path, where it has none of its own.

    Args:
        headers: Of the answer, as ASGI has them: this is done for every one.
        path: That was asked for.
    """
    is_docs = path.rstrip("/").endswith(("/docs", "/redoc", "/docs/oauth2-redirect"))
    own = {name for name, _ in headers}
    headers.extend(pair for pair in (_OF_DOCS if is_docs else _OF_PAGE) if pair[0] not in own)
