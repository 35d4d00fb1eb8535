"""What the OpenAPI document says of all routes alike: who may ask, how often, how much."""

from collections.abc import Iterator
from typing import Any, Final

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from retrieval.service.keys import COOKIE, Needs, is_open
from retrieval.service.settings import Settings

__all__ = ["describe_access", "scope_of"]

_SCHEMES: Final = {
    "key": {"type": "http", "scheme": "bearer", "description": "A key of the service."},
    "x-api-key": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "The same, for clients that send it so.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "What POST /v1/session gives the page; may search.",
    },
}
_REFUSALS: Final = {
    "400": "The body cannot be read.",
    "401": "A key is needed, and there is none, or one that is unknown or has ended.",
    "403": "The key is not good for that.",
    "413": "The body, or a text in it, is too long.",
    "429": "Too many requests came, or more wait than can be answered soon; Retry-After says when "
    "to try again.",
}


def scope_of(route: APIRoute) -> str | None:
    """Say what scope a route needs; None if it says nothing."""
    found = [each.call.scope for each in _below(route.dependant) if isinstance(each.call, Needs)]
    return found[-1] if found else None


def describe_access(app: FastAPI, settings: Settings) -> None:
    """Have an application's document say what the gate asks for.

    Args:
        app: With all of its routes.
        settings: Of the service.
    """
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        is_new = app.openapi_schema is None
        document = plain()
        if is_new:
            _describe(app, settings, document)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend it


def _describe(app: FastAPI, settings: Settings, document: dict[str, Any]) -> None:
    statuses = (["401", "403"] if settings.keys else []) + (["429"] if settings.rate else [])
    if settings.keys:
        document["components"]["securitySchemes"] = _SCHEMES
    error = {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}
    routes: list[APIRoute] = app.state.routes
    for route in routes:
        for method in route.methods or ():
            operation = document["paths"].get(route.path_format, {}).get(method.lower())
            if operation is None:
                continue
            with_body = ["400", "413"] if "requestBody" in operation else []
            for status in with_body + ([] if is_open(route.path) else statuses):
                refusal = {"description": _REFUSALS[status], "content": {"application/json": error}}
                operation["responses"].setdefault(status, refusal)
            if settings.keys and not is_open(route.path):
                scope = scope_of(route) or "search"
                operation["security"] = [{name: []} for name in _SCHEMES]
                said = operation.get("description", "")
                operation["description"] = f"{said}\n\nNeeds a key of the scope {scope}.".strip()


def _below(dependant: Dependant) -> Iterator[Dependant]:
    for each in dependant.dependencies:
        yield each
        yield from _below(each)
