"""Where links to folders lead, seen from the folder that is walked."""

import os

from retrieval.records import bounds_under

__all__ = ["leads_back", "leads_elsewhere"]


def leads_back(link: bytes, root: bytes) -> bool:
    """Tell whether a link leads to the folder that is walked, or to one in it.

    Args:
        link: A folder or a link to one.
        root: The folder that is walked, its own path resolved.
    """
    return os.path.islink(link) and _is_in(os.path.realpath(link), root)  # noqa: PTH114  (bytes)


def leads_elsewhere(link: bytes, root: bytes) -> bool:
    """Tell whether a link leads to nothing, or to a folder apart from the one walked.

    Args:
        link: A symbolic link.
        root: The folder that is walked, its own path resolved.
    """
    target = os.path.realpath(link)
    if os.path.exists(target) and not os.path.isdir(target):  # noqa: PTH110, PTH112  (bytes)
        return False
    return not _is_in(target, root) and not _is_in(root, target)


def _is_in(path: bytes, folder: bytes) -> bool:
    low, high = bounds_under(folder)
    return path == folder or low <= path < high
