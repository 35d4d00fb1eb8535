"""Files of the service's machine that may be named from outside: those below folders it allows."""

from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

from retrieval.service.problems import ProblemError

__all__ = ["allowed_file"]


def allowed_file(path: str, roots: Sequence[Path]) -> Path:
    """Give the file that a path means, without links in it.

    Whether there is a file is told only where the service may read it.

    Args:
        path: Absolute, or below one of the roots; of several, the first that has it.
        roots: Folders whose files may be named.

    Raises:
        ProblemError: 403, if it leads outside, by a link, too; 422, if there is no file.
    """
    inside = [
        place
        for root in roots
        if (place := _resolved(root / path)) is not None
        and any(place.is_relative_to(each) for each in map(_resolved, roots) if each is not None)
    ]
    if not inside:
        raise ProblemError(
            HTTPStatus.FORBIDDEN,
            "path_not_allowed",
            "expected a path below a folder that this service may read, got another. "
            + ("Send the picture itself." if roots else "There is none; send the picture itself."),
        )
    for place in inside:
        if _is_file(place):
            return place
    raise ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "picture_unreadable",
        "expected the path of a file, got one where there is none. Correct it.",
    )


def _is_file(place: Path) -> bool:
    try:
        return place.is_file()
    except OSError:  # a name that is too long, a folder that is closed to the service
        return False


def _resolved(path: Path) -> Path | None:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, NUL
        return None
