"""From pictures that are sent to be added to what a writer takes, and from outcomes to answers."""

import logging
from dataclasses import replace
from http import HTTPStatus
from typing import Any, BinaryIO, Final

from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from retrieval.service.messages.errors import ErrorDetail
from retrieval.service.messages.items import BulkOutcome, NewItem
from retrieval.service.problems import ProblemError, as_problem, explain, too_long
from retrieval.service.received import as_picture, check_picture, parsed
from retrieval.service.roots import allowed_file
from retrieval.service.settings import Settings
from retrieval.service.writes import Outcome, Stored, Wanted

__all__ = ["bulk_outcome", "parts_of", "wanted_of", "wanted_or_why"]

_LOG = logging.getLogger(__name__)
_AS_JSON: Final = ("metadata", "feature")  # parts of a form that are JSON


def wanted_of(
    message: NewItem, settings: Settings, sent: tuple[BinaryIO, str] | None = None
) -> Wanted:
    """Look at a picture that is to be added: at its header, and whether it is allowed.

    Args:
        message: What is said of it.
        settings: Of the service.
        sent: Its file and what that is called, if it came beside the message.

    Raises:
        ProblemError: If there is no picture, or two, or it is larger or elsewhere than allowed.
    """
    wanted = Wanted(
        message.id, feature=message.feature, caption=message.caption, metadata=message.metadata
    )
    if message.image is not None:
        sent = as_picture(message.image), ""
    if sent is not None and message.path is not None:
        raise _wrong("expected either image or path, got both. Leave one out.")
    if message.path is not None:
        return _of_path(wanted, message.path, settings)
    if sent is None and message.feature is None:
        raise _wrong("expected an image, a path or a feature, got none. Send one of them.")
    if sent is None:
        return wanted
    file, name = sent
    return replace(wanted, file=file, ending=check_picture(file, name, settings.pixels))


def wanted_or_why(value: object, settings: Settings) -> Wanted | Exception:
    """Look at one of several pictures that are to be added, each by itself.

    Args:
        value: What JSON says of it.
        settings: Of the service.

    Returns:
        What a writer takes, or why it is not to be.
    """
    try:
        return wanted_of(NewItem.model_validate(value), settings)
    except ValidationError as error:
        faults = [fault | {"loc": ("body", *fault["loc"])} for fault in error.errors()]
        beyond = next(filter(None, map(too_long, faults)), None)
        return beyond or _wrong(f"{explain(faults, NewItem)}. Correct it; see /docs.")
    except (ProblemError, OSError) as error:  # the others are stored all the same
        return error


def parts_of(form: FormData) -> tuple[dict[str, Any], tuple[BinaryIO, str] | None]:
    """Take a form for one picture apart.

    Returns:
        What it says, as :class:`NewItem` has it, and the file with what that is called.

    Raises:
        ProblemError: If a part comes twice, or is what it should not be.
    """
    said: dict[str, Any] = {}
    sent: tuple[BinaryIO, str] | None = None
    for name, value in form.multi_items():
        if name in said or (sent is not None and name == "image"):
            raise _wrong(f"expected one part {name[:40]}, got several. Send one item at a time.")
        if isinstance(value, UploadFile):
            if name != "image":
                raise _wrong(f"expected the file as the part image, got {name[:40]}. Rename it.")
            sent = value.file, value.filename or ""
        elif name == "image":
            raise _wrong("expected the part image to be a file, got text. Send it as a file.")
        else:
            said[name] = (
                parsed(value.encode("utf-8", "surrogatepass")) if name in _AS_JSON else value
            )
    return said, sent


def bulk_outcome(image_id: object, outcome: Outcome, done: int | None = None) -> BulkOutcome:
    """Say what has become of one of several pictures.

    Args:
        image_id: As it was sent.
        outcome: As the writer gave it.
        done: The status of one that went well; by default, 201 or 200 as it was added or replaced.
    """
    known = image_id if isinstance(image_id, str) else None
    if isinstance(outcome, Stored):
        status = done or (HTTPStatus.CREATED if outcome.is_new else HTTPStatus.OK)
        return BulkOutcome(id=known, status=status, row=outcome.row)
    problem = as_problem(outcome)
    if problem is None:
        _LOG.error("cannot write an item", exc_info=outcome)
        problem = ProblemError(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "internal_error",
            "expected to write it, got a failure inside the service. The service's log has the "
            "cause.",
        )
    detail = ErrorDetail(type=problem.kind, message=str(problem))
    return BulkOutcome(id=known, status=problem.status, error=detail)


def _of_path(wanted: Wanted, path: str, settings: Settings) -> Wanted:
    place = allowed_file(path, settings.roots)
    try:
        with place.open("rb") as file:
            check_picture(file, place.name, settings.pixels)
    except OSError as error:
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "picture_unreadable",
            f"expected a file that can be read, got: {error.strerror or 'none'}. Let the service's "
            "account read it.",
        ) from error
    return replace(wanted, path=place)


def _wrong(message: str) -> ProblemError:
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", message)
