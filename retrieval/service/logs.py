"""A line for each request, and the request's id in all other lines.

Neither keys nor what is searched for stands in it: of the address, what comes after ``?`` is left
out.
"""

import json
import logging
import re
import secrets
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, Literal

from starlette.datastructures import Headers
from starlette.types import Scope

from retrieval.records import displayed_text

__all__ = ["REQUEST_ID", "JsonLines", "TextLines", "configuration", "log_request", "name_request"]

REQUEST_ID: Final[ContextVar[str]] = ContextVar("REQUEST_ID", default="")
"""Of the request that is being answered; empty outside of one."""

_LOG = logging.getLogger("retrieval.access")
_HARMLESS: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LONGEST_PATH: Final = 200


def name_request(headers: Headers) -> str:
    """Give a request its id, for all that is logged about it: the caller's, if it is harmless."""
    said = headers.get("x-request-id", "")
    name = said if _HARMLESS.fullmatch(said) else secrets.token_hex(8)
    REQUEST_ID.set(name)
    return name


def log_request(scope: Scope, route: str, status: int, took_s: float, key: str | None) -> None:
    """Write the line of a request.

    Args:
        scope: Of the request.
        route: Such as ``/v1/images/{row}``.
        status: Of the answer; 0 if the caller left before there was one.
        took_s: Seconds from its first byte to the last of its answer.
        key: Name of the caller's key, if it has one.
    """
    if not _LOG.isEnabledFor(logging.INFO):
        return
    client = scope.get("client")
    about = {
        "client": client[0] if client else None,
        "method": scope["method"],
        "route": route,
        "path": scope["path"][:_LONGEST_PATH],
        "status": status,
        "ms": round(took_s * 1_000, 1),
        "key": key,
    }
    _LOG.info(
        '%s "%s %s" %d %.1f ms',
        about["client"] or "-",
        about["method"],
        displayed_text(about["path"]),
        status,
        about["ms"],
        extra={"about": about},
    )


def configuration(form: Literal["text", "json"]) -> dict[str, Any]:
    """Say how the process logs, for :func:`logging.config.dictConfig`: all of it on stderr."""
    formatter = f"{__name__}.{'JsonLines' if form == 'json' else 'TextLines'}"
    logger = {"handlers": ["stderr"], "level": "INFO", "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": formatter}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "lines"}},
        "loggers": {
            "uvicorn": logger,
            # what a process that serves in a thread does with its log stays as it is
            "retrieval": logger | {"propagate": True},
        },
    }


class TextLines(logging.Formatter):
    """Lines for people: level, what there is to say, the request's id and key."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record as a line, and a stack trace below it, if it has one."""
        about = getattr(record, "about", {})
        names = {"key": about.get("key"), "id": REQUEST_ID.get()}
        said = "".join(f" {name}={value}" for name, value in names.items() if value)
        text = super().format(record)
        first, end, rest = text.partition("\n")
        return f"{record.levelname + ':':9} {first}{said}{end}{rest}"


class JsonLines(logging.Formatter):
    """Lines for programs: a JSON object each."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record as one line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "request_id": REQUEST_ID.get() or None,
        }
        about = getattr(record, "about", None)
        line |= {"message": record.getMessage()} if about is None else about
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)
