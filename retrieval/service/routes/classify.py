"""``/v1/classify``."""

from fastapi import APIRouter, Depends, Request

from retrieval.service.embedding import Labelling
from retrieval.service.fitness import check_charset
from retrieval.service.keys import needs
from retrieval.service.messages.classify import (
    ClassifyRequest,
    ClassifyResponse,
    Label,
    TextLabels,
)
from retrieval.service.problems import describe
from retrieval.service.service import TheCollection, TheService
from retrieval.service.waiting import answered

__all__ = ["router"]

router = APIRouter(tags=["embeddings"], dependencies=[needs("search")])


@router.post(
    "/v1/classify",
    summary="Labels of texts, by a classification head of the model",
    responses=describe(400, 404, 413, 415, 422, 429, 503),
    dependencies=[Depends(check_charset)],
)
async def classify(
    body: ClassifyRequest, request: Request, service: TheService, collection: TheCollection
) -> ClassifyResponse:
    """Say of each text its likeliest labels, with calibrated probabilities.

    404, `no_head`, where the model has no such head.
    """
    waiting = collection.embedder.labels.submit(Labelling(body.texts, body.head))
    given = await answered(request, waiting, service.settings.timeout_s)
    return ClassifyResponse(
        results=[
            TextLabels(
                labels=[
                    Label(label=label, probability=round(probability, 4))
                    for label, probability in labels[: body.top_k]
                ]
            )
            for labels in given
        ]
    )
