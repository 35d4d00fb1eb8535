"""Asks a clip-text service, at once or asynchronously; needs neither a model nor torch.

ClientError                 all that goes wrong
├── UnreachableError        no answer came, or a broken one
└── ServiceError            the service said no: status, type, message
├── InvalidRequestError     400, 413, 415, 416, 422
├── UnauthorizedError       401
├── ForbiddenError          403
├── NotFoundError           404
├── GoneError               410
│   └── PageGoneError           its order is kept no longer: ask anew
├── OverloadedError         429, after all retries
└── UnavailableError        5xx, after all retries
"""

from clip_text_client.answers import (
    Answer,
    Collection,
    Facet,
    Field,
    Folded,
    Hit,
    Item,
    Label,
    Outcome,
    Suggestion,
)
from clip_text_client.async_client import AsyncClient
from clip_text_client.calls import NewItem, Picture, SearchOptions, Term
from clip_text_client.client import Client
from clip_text_client.errors import (
    ClientError,
    ForbiddenError,
    GoneError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PageGoneError,
    ServiceError,
    UnauthorizedError,
    UnavailableError,
    UnreachableError,
)

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "ClientError",
    "Collection",
    "Facet",
    "Field",
    "Folded",
    "ForbiddenError",
    "GoneError",
    "Hit",
    "InvalidRequestError",
    "Item",
    "Label",
    "NewItem",
    "NotFoundError",
    "Outcome",
    "OverloadedError",
    "PageGoneError",
    "Picture",
    "SearchOptions",
    "ServiceError",
    "Suggestion",
    "Term",
    "UnauthorizedError",
    "UnavailableError",
    "UnreachableError",
]
