"""``/v1/images``: originals and thumbnails."""

import hashlib
import os
import re
import stat
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse

from clip_text_pictures import ending_of
from retrieval.pictures import NoDecoderError, PictureError, media_type, render_thumbnail
from retrieval.search import Searcher
from retrieval.service.fitness import settle_range
from retrieval.service.keys import needs
from retrieval.service.problems import ProblemError, describe, shorten
from retrieval.service.service import TheCollection

__all__ = ["router"]

MIN_THUMBNAIL: Final = 16
MAX_THUMBNAIL: Final = 1_024
_MOST_NAME: Final = 100  # characters

router = APIRouter(tags=["images"], dependencies=[needs("search")])


@router.head("/v1/images/{row}", include_in_schema=False)
@router.get(
    "/v1/images/{row}",
    summary="The original picture",
    response_class=Response,
    responses={
        200: {"content": {"image/*": {}}, "description": "The file as it was indexed."},
        304: {"description": "The copy named by If-None-Match is still right."},
        **describe(404, 410, 416, 422),
    },
)
def read_image(row: int, request: Request, collection: TheCollection) -> Response:
    """Send the file of one hit, byte for byte, with the content type its first bytes show."""
    path, status, etag, name = _find_picture(collection.searcher, row)
    headers = {"etag": etag}
    if _still_right(request, etag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    settle_range(request, status.st_size)
    try:
        kind = media_type(path)
    except PictureError as error:
        raise _gone(row, "a file that is no picture") from error
    return FileResponse(
        path,
        headers=headers,
        media_type=kind,
        filename=name,
        stat_result=status,
        content_disposition_type="inline",
    )


@router.head("/v1/images/{row}/thumbnail", include_in_schema=False)
@router.get(
    "/v1/images/{row}/thumbnail",
    summary="A small WebP of the picture",
    response_class=Response,
    responses={
        200: {"content": {"image/webp": {}}, "description": "Upright, without EXIF data."},
        304: {"description": "The copy named by If-None-Match is still right."},
        **describe(404, 410, 422, 501),
    },
)
def read_thumbnail(
    row: int,
    request: Request,
    collection: TheCollection,
    size: Annotated[
        int,
        Query(
            ge=MIN_THUMBNAIL,
            le=MAX_THUMBNAIL,
            description="Longest side in pixels; a smaller picture is not enlarged.",
        ),
    ] = 256,
) -> Response:
    """Send the picture of one hit, drawn small."""
    path, status, file_etag, _ = _find_picture(collection.searcher, row)
    etag = f'{file_etag[:-1]}-{size}"'
    headers = {"etag": etag, "last-modified": formatdate(status.st_mtime, usegmt=True)}
    if _still_right(request, etag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    webp = collection.thumbnails.get(etag)
    if webp is None:
        try:
            # As many large pictures in memory as there are cores to work on them.
            with collection.drawing:
                webp = render_thumbnail(path, size)
        except NoDecoderError as error:
            problem = HTTPStatus.NOT_IMPLEMENTED, "decoder_missing", str(error)
            raise ProblemError(*problem) from error
        except (OSError, PictureError) as error:
            raise _gone(row, "a file that cannot be read as a picture") from error
        collection.thumbnails.put(etag, webp)
    return Response(webp, headers=headers, media_type="image/webp")


def _find_picture(searcher: Searcher, row: int) -> tuple[Path, os.stat_result, str, str]:
    """Give a picture's file, what the system says of it, its ETag, and what to save it as."""
    record = searcher.record(row)
    path = record.path if record is not None else None
    if record is None or path is None:
        raise ProblemError(
            HTTPStatus.NOT_FOUND,
            "row_not_found",
            f"expected a row of the index whose picture has a file, got {shorten(row)}. "
            "Use the rows of a search's hits.",
        )
    try:
        status = path.stat()
    except OSError as error:
        raise _gone(row, "no file in its place") from error
    if not stat.S_ISREG(status.st_mode):
        raise _gone(row, "something that is no file")
    # The path is part of it: copied files often share both time and size.
    identity = f"{os.fspath(path)}\0{status.st_mtime_ns}\0{status.st_size}"
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()
    return path, status, f'"{digest[:32]}"', _file_name(record.picture.image_id, path)


def _file_name(image_id: str, path: Path) -> str:
    """Name a picture's file by its id: a name without folders, that ends as its file does.

    Starlette writes it as RFC 6266 has it, so that no letter of it ends the header.
    """
    name = re.split(r"[/\\]", image_id)[-1].strip(". ")[-_MOST_NAME:] or "picture"
    ending = ending_of(path)
    return name if name.lower().endswith(ending) else f"{name}{ending}"


def _still_right(request: Request, etag: str) -> bool:
    # If-Modified-Since is not looked at: a replaced picture may carry an older date.
    known = request.headers.get("if-none-match", "")
    return known.strip() == "*" or etag in (
        tag.strip().removeprefix("W/") for tag in known.split(",")
    )


def _gone(row: int, got: str) -> ProblemError:
    return ProblemError(
        HTTPStatus.GONE,
        "image_gone",
        f"expected the picture of row {row} on the disk, got {got}. "
        "Put it back, or index the folder again.",
    )
