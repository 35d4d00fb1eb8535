"""The headers that every answer carries."""

from typing import Final

from starlette.datastructures import MutableHeaders

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


def guard_headers(headers: MutableHeaders, path: str) -> None:
    """Put the security headers on an answer to a path, where it has none of its own."""
    is_docs = path.rstrip("/").endswith(("/docs", "/redoc", "/docs/oauth2-redirect"))
    for name, value in _SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("content-security-policy", _DOCS_POLICY if is_docs else _PAGE_POLICY)
    # Everything here may change with the next indexing or the next version: browsers
    # may keep a copy, but ask whether it is still right; with an ETag that costs little.
    headers.setdefault("cache-control", "no-cache")
