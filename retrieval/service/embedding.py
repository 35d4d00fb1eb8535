"""From texts and pictures to rows, and to labels: what a collection's model says of them."""

import asyncio
import base64
import binascii
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from io import BytesIO
from itertools import accumulate, pairwise
from typing import Final, TypeVar

import numpy as np

from retrieval.features import check_encoded
from retrieval.protocols import Encoder, Feature, Features, Pixels
from retrieval.service.batching import Batcher
from retrieval.service.messages.embeddings import PictureInput
from retrieval.service.problems import ProblemError, shorten
from retrieval.service.received import check_picture

__all__ = [
    "Classify",
    "CountTokens",
    "Labelled",
    "Labelling",
    "TextRows",
    "check_dimensions",
    "cut",
    "in_parts",
    "label_texts",
    "picture_rows",
    "text_rows",
]

Part = TypeVar("Part")
Given = TypeVar("Given")

CountTokens = Callable[[Sequence[str]], Sequence[int]]
"""Texts → how many tokens of each the model reads, special ones included."""

Labelled = Sequence[tuple[str, float]]
"""All labels of a text with their calibrated probabilities, the likeliest first."""

Classify = Callable[[Sequence[str], str | None], Sequence[Labelled]]
"""Texts, and the name of a head, None for the only one → their labels.

Raises ValueError where there is no such head."""

_AT_ONCE: Final = 2  # parts of one request that wait: the model never does, and others come between
_REMEDY: Final = "Start the service with a model that gives unit rows."


@dataclass(frozen=True, slots=True)
class TextRows:
    """What became of texts.

    Args:
        rows: Unit rows, [n, embed_dim].
        tokens: How many tokens all of them have; None where nobody counts.
    """

    rows: Features
    tokens: int | None


def text_rows(
    encoder: Encoder, count_tokens: CountTokens | None, asked: Sequence[Sequence[str]]
) -> list[TextRows | Exception]:
    """Encode the texts of several requests by one pass of the model.

    Args:
        encoder: The model.
        count_tokens: Its tokeniser, if it is known.
        asked: The texts of each request, at least one.
    """
    texts = [text for own in asked for text in own]
    rows = encoder.encode_text(texts)
    check_encoded(rows, len(texts), encoder.embed_dim, _REMEDY, "rows, one for each text")
    counts = None if count_tokens is None else count_tokens(texts)
    bounds = pairwise([0, *accumulate(map(len, asked))])
    return [
        TextRows(rows[first:last], None if counts is None else sum(counts[first:last]))
        for first, last in bounds
    ]


def picture_rows(
    encoder: Encoder, asked: Sequence[PictureInput], most_pixels: int
) -> list[Feature | Exception]:
    """Encode pictures by one pass of the model; one that cannot be read is its own error.

    Args:
        encoder: The model.
        asked: The pictures.
        most_pixels: How many each may have.
    """
    given: list[Feature | Exception] = []
    pixels: list[Pixels] = []
    for one in asked:
        try:
            pixels.append(_pixels(encoder, one, most_pixels))
            given.append(np.empty(0, np.float32))
        except ProblemError as error:
            given.append(error)
    if pixels:
        rows = encoder.encode_pixels(pixels)
        check_encoded(rows, len(pixels), encoder.embed_dim, _REMEDY, "rows, one for each picture")
        of_pictures = iter(rows)
        given = [one if isinstance(one, Exception) else next(of_pictures) for one in given]
    return given


def _pixels(encoder: Encoder, picture: PictureInput, most_pixels: int) -> Pixels:
    what = f"a picture at place {picture.place} of the input"
    said = picture.said
    content = said if isinstance(said, bytes) else _decoded(what, said)
    try:
        check_picture(BytesIO(content), "", most_pixels)
    except ProblemError as error:
        message = f"expected {what}, got one of which is said: {error}"
        raise ProblemError(error.status, error.kind, message) from error
    try:
        return encoder.load_pixels(content)
    except ImportError as error:
        status = HTTPStatus.NOT_IMPLEMENTED
        raise ProblemError(status, "decoder_missing", " ".join(str(error).split())) from error
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())  # has what it expected, and what to do
        raise _unreadable(what, f"one of which is said: {reason}") from error


def _decoded(what: str, said: str) -> bytes:
    head, comma, data = said.partition(",")
    if head.startswith("data:") and not (comma and head.endswith(";base64")):
        raise _unreadable(f"{what}, data:image/…;base64,… or base64 alone", shorten(head))
    try:
        return base64.b64decode(data if comma else said, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _unreadable(f"{what}, in base64", f"other characters ({error})") from error


def _unreadable(expected: str, got: str) -> ProblemError:
    message = f"expected {expected}, got {got.rstrip('.')}. Send the bytes of a JPEG, PNG or WebP."
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "picture_unreadable", message)


def cut(rows: Features, dimensions: int | None) -> Features:
    """Keep the first dimensions of rows, made unit rows again; all of them for None.

    Args:
        rows: Unit rows, [n, embed_dim].
        dimensions: How many to keep.

    Raises:
        ProblemError: 422, if rows have not so many, or a row nothing in those.

    Source:
        Kusupati et al. 2022, section 3 (arXiv:2205.13147).
    """
    width = rows.shape[1]
    if dimensions is None or dimensions == width:
        return rows
    check_dimensions(dimensions, width)
    kept = rows[:, :dimensions]
    lengths = np.linalg.norm(kept, axis=1, keepdims=True)
    if not lengths.all():
        raise _no_dimensions(f"more of them than {dimensions}", "fewer, whose rows are all zero")
    unit: Features = kept / lengths
    return unit


def check_dimensions(dimensions: int | None, width: int) -> None:
    """Refuse more dimensions than rows have.

    Raises:
        ProblemError: 422, if they have not so many.
    """
    if dimensions is not None and dimensions > width:
        raise _no_dimensions(
            f"dimensions to be from 1 to {width} (the width of the model's rows)",
            shorten(dimensions),
        )


def _no_dimensions(expected: str, got: str) -> ProblemError:
    message = f"expected {expected}, got {got}. Ask for others, or leave dimensions out."
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", message)


async def in_parts(batcher: Batcher[Part, Given], parts: Sequence[Part]) -> list[Given]:
    """Have all parts of one request worked on, between those of others.

    Args:
        batcher: Works on them.
        parts: In order; no more than two wait at once, whatever their number.

    Returns:
        What was given for each, in order.

    Raises:
        OverloadedError: If too many wait already; later parts are taken whoever waits.
    """
    if len(parts) == 1:
        return [await batcher(parts[0])]
    batcher.check()
    given: list[Given] = []
    waiting: deque[asyncio.Future[Given]] = deque()
    try:
        for part in parts:
            if len(waiting) == _AT_ONCE:
                given.append(await waiting.popleft())
            waiting.append(batcher.go_on(part))
        while waiting:
            given.append(await waiting[0])
            waiting.popleft()
    finally:
        for future in waiting:
            future.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    return given


@dataclass(frozen=True, slots=True)
class Labelling:
    """Texts to be classified.

    Args:
        texts: At least one.
        head: Name of the head; None for the only one.
    """

    texts: Sequence[str]
    head: str | None


def label_texts(
    classify: Classify | None, asked: Sequence[Labelling]
) -> list[Sequence[Labelled] | Exception]:
    """Classify the texts of several requests, those of one head by one pass of the model."""
    given: list[Sequence[Labelled] | Exception] = [_no_head(None)] * len(asked)
    if classify is None:
        return given
    for head in dict.fromkeys(each.head for each in asked):
        places = [place for place, each in enumerate(asked) if each.head == head]
        texts = [text for place in places for text in asked[place].texts]
        try:
            labels = classify(texts, head)
        except ValueError as error:
            reason = str(error).replace("Name one: head=…", "Name one as head.")
            for place in places:
                given[place] = _no_head(reason)
            continue
        bounds = pairwise([0, *accumulate(len(asked[place].texts) for place in places)])
        for place, (first, last) in zip(places, bounds, strict=True):
            given[place] = labels[first:last]
    return given


def _no_head(reason: str | None) -> ProblemError:
    return ProblemError(
        HTTPStatus.NOT_FOUND,
        "no_head",
        reason
        or "expected a model with a classification head, got one without. Train one (clip-text "
        "train classifier DATA --out FOLDER), and serve that folder with --model.",
    )
