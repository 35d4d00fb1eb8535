"""Bodies read by hand: forms with pictures in them, and JSON where a route takes either."""

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from io import BytesIO
from typing import Any, BinaryIO, Final, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from clip_text_pictures import ending_of
from retrieval.errors import StorageError
from retrieval.pictures import NoDecoderError, PictureError, PictureSizeError, ending_and_size
from retrieval.service.problems import ProblemError, shorten

__all__ = [
    "Message",
    "as_message",
    "as_picture",
    "check_picture",
    "media_type_of",
    "parsed",
    "read_body",
    "read_form",
    "read_json",
    "unsupported",
]

Message = TypeVar("Message", bound=BaseModel)

_LONG: Final = 64 * 1024  # bytes of JSON that are not read on the event loop


def media_type_of(request: Request) -> str:
    """Give what a body is said to be, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def unsupported(request: Request, *expected: str) -> ProblemError:
    """Refuse a body for what it is said to be."""
    return ProblemError(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        f"expected a body of the type {' or '.join(expected)}, got "
        f"{shorten(media_type_of(request) or 'none')}. Say what it is in content-type; see /docs.",
    )


@asynccontextmanager
async def read_form(request: Request, *, files: int, fields: int) -> AsyncIterator[FormData]:
    """Read a form of several parts; its files are gone at the end.

    Args:
        request: Its body has not been read.
        files: How many at most.
        fields: How many other parts at most.

    Raises:
        ProblemError: 400, if it cannot be read, or has more parts, or its caller leaves.
        StorageError: If there is no room for its files, which wait on the disk.
    """
    try:
        form = await request.form(max_files=files, max_fields=fields)
    except HTTPException as error:
        if error.status_code != HTTPStatus.BAD_REQUEST:
            raise
        raise ProblemError(
            HTTPStatus.BAD_REQUEST,
            "invalid_request",
            f"expected a form of parts (multipart/form-data), at most {files} of them files and "
            f"{fields} others, got one of which is said: {shorten(error.detail)}. Correct it; see "
            "/docs.",
        ) from error
    except ClientDisconnect as error:
        raise _cut_off() from error
    except OSError as error:
        raise StorageError(
            f"expected room for a form in the folder of temporary files, got: {error.strerror}. "
            "Free some space."
        ) from error
    try:
        yield form
    finally:
        await form.close()


async def read_body(request: Request) -> bytes:
    """Read a body of any kind.

    Raises:
        ProblemError: 400, if its caller leaves before its end; nobody sees that but the log.
    """
    try:
        return await request.body()
    except ClientDisconnect as error:
        raise _cut_off() from error


async def read_json(request: Request) -> Any:  # noqa: ANN401
    """Read a body of JSON into lists, dicts and the rest.

    Raises:
        ProblemError: 422, if it is none; 400, if its caller leaves before its end.
    """
    raw = await read_body(request)
    return await asyncio.to_thread(parsed, raw) if len(raw) > _LONG else parsed(raw)


def parsed(raw: bytes) -> Any:  # noqa: ANN401
    """Read JSON in UTF-8, or in what else of Unicode it shows itself to be.

    Raises:
        ProblemError: 422, if it is none.
    """
    try:
        encoding = json.detect_encoding(raw)
        text = raw if encoding == "utf-8" else raw.decode(encoding).encode()
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "invalid_request",
            f"expected JSON in UTF-8, got what cannot be read: {shorten(str(error))}. Correct it; "
            "see /docs.",
        ) from error


def as_message(request: Request, value: object, message: type[Message]) -> Message:
    """Make a message of what was read.

    Raises:
        RequestValidationError: If it is none; it is explained as for other routes.
    """
    try:
        return message.model_validate(value)
    except ValidationError as error:
        request.state.message = message
        faults = [fault | {"loc": ("body", *fault["loc"])} for fault in error.errors()]
        raise RequestValidationError(faults) from error


def as_picture(text: str) -> BinaryIO:
    """Decode a picture that stands in JSON.

    Args:
        text: Base64, also as a ``data:`` address.

    Raises:
        ProblemError: 422, if it is none.
    """
    _, is_address, rest = text.partition(";base64,") if text.startswith("data:") else ("", "", "")
    try:
        return BytesIO(base64.b64decode(rest if is_address else text, validate=True))
    except (binascii.Error, ValueError) as error:
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "picture_unreadable",
            f"expected a picture in base64, got {shorten(text)}. Encode the bytes of its file.",
        ) from error


def check_picture(file: BinaryIO, name: str, most_pixels: int) -> str:
    """Look at the header of a picture that was sent, before anything of it is decoded.

    Args:
        file: The picture's; left at its beginning.
        name: What the file is said to be called; empty if nothing is said.
        most_pixels: How many it may have.

    Returns:
        How the name of such a file ends, with the dot.

    Raises:
        ProblemError: 413, 422 or 501, if it has more, is no picture, or needs a package to be read.
    """
    try:
        ending, (width, height) = ending_and_size(file, ending_of(name.replace("\0", "")))
    except PictureSizeError as error:
        raise _too_large(str(error)) from error
    except NoDecoderError as error:
        raise ProblemError(HTTPStatus.NOT_IMPLEMENTED, "decoder_missing", str(error)) from error
    except PictureError as error:
        message = " ".join(str(error).split())
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "picture_unreadable",
            message if message.count(". ") else f"{message} Send the file of a picture.",
        ) from error
    if width * height > most_pixels:
        raise _too_large(
            f"expected a picture of at most {most_pixels} pixels, got {width} x {height}. Scale it "
            "down."
        )
    return ending


def _cut_off() -> ProblemError:
    return ProblemError(
        HTTPStatus.BAD_REQUEST,
        "invalid_request",
        "expected a whole body, got a part of it. Send it again.",
    )


def _too_large(message: str) -> ProblemError:
    return ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "picture_too_large", message)
