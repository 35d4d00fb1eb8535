"""What a request says of itself and its bytes, held against what there is and may be done."""

import re
from email.message import Message
from http import HTTPStatus
from typing import Final

from fastapi import Request

from retrieval.service.problems import ProblemError, shorten

__all__ = ["check_charset", "check_origin", "settle_range"]

_UNICODE: Final = re.compile(r"utf.?(8|16|32).*|us-ascii|ascii", re.IGNORECASE)
_SPAN: Final = r"(?:\d{1,18}-\d{0,18}|-\d{1,18})"
# white space stands around commas, and nowhere within a number
_RANGE: Final = re.compile(rf"\s*bytes=\s*{_SPAN}(?:\s*,\s*{_SPAN})*\s*", re.ASCII)


async def check_charset(request: Request) -> None:
    """Refuse a body said to be in an encoding that it is not read in: JSON is Unicode.

    Raises:
        ProblemError: 415, if it is said to be in GBK or the like.
    """
    content_type = request.headers.get("content-type", "")
    if content_type == "application/json":  # what nearly all say, and quicker than parsing it
        return
    said = Message()
    said["content-type"] = content_type
    charset = str(said.get_param("charset", "utf-8"))
    if not _UNICODE.fullmatch(charset):
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "unsupported_charset",
            f"expected a body in UTF-8, got the charset {shorten(charset)}. Convert it.",
        )


async def check_origin(request: Request) -> None:
    """Refuse a write that a page of another site has a browser send.

    Browsers send forms anywhere without asking, also to a service that only their machine reaches,
    and add a password that a proxy has asked for. A key in a header is none that such a page can
    send unless it is allowed to, as one of ``Settings.cors_origins`` is.

    Raises:
        ProblemError: 403, if it comes from such a page.
    """
    headers = request.headers
    if "x-api-key" in headers or headers.get("authorization", "")[:7].lower() == "bearer ":
        return
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if origin is not None and origin in request.app.state.service.settings.cors_origins:
        return
    if site is not None:  # newer browsers say it themselves, where nobody between can read it
        is_own = site in ("same-origin", "none")
    elif origin is not None:
        is_own = origin.partition("://")[2].lower() == headers.get("host", "").lower()
    else:  # no browser
        is_own = True
    if not is_own:
        raise ProblemError(
            HTTPStatus.FORBIDDEN,
            "foreign_page",
            f"expected a write from a page of this service, got one from {shorten(origin)}. Send "
            "it from a program, or with a key in a header.",
        )


def settle_range(request: Request, size: int) -> None:
    """Let a part of a file be asked for only if the file has that part.

    What is no range of bytes is passed over, as RFC 9110, section 14.2, allows.

    Args:
        request: Loses its ``Range`` where that is none.
        size: Bytes of the picture's file.

    Raises:
        ProblemError: 416, if it is a range that the file does not have.
    """
    said = request.headers.get("range", "")
    wanted = re.sub(r"\s", "", said)
    spans = [span.split("-") for span in wanted.removeprefix("bytes=").split(",")]
    if not _RANGE.fullmatch(said) or any(a and b and int(a) > int(b) for a, b in spans):
        kept = [pair for pair in request.scope["headers"] if pair[0] != b"range"]
        request.scope["headers"] = kept
    elif any(int(first) >= size if first else int(last) == 0 for first, last in spans):
        raise ProblemError(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            "range_not_satisfiable",
            f"expected a range within the picture's {size} bytes, got {shorten(wanted)}. "
            "Ask for less, or for the whole.",
            {"content-range": f"bytes */{size}"},
        )
