"""Indexed folders: which of them a picture belongs to, which are gone, what was moved."""

import errno
import os
from pathlib import Path

from retrieval.catalogue import CATALOGUE_NAME
from retrieval.catalogue.store import Store
from retrieval.errors import FolderError
from retrieval.ingest.report import IngestReport
from retrieval.ingest.walk import Walk
from retrieval.records import Record, bounds_under, displayed
from retrieval.stores import Location

__all__ = [
    "MovedPictures",
    "check_not_lost",
    "check_there",
    "forget_folder",
    "is_gone",
    "owner_of",
    "prune_or_tell",
]

# There is no such name any more. Anything else, a drive that does not answer say, tells nothing.
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})


def is_gone(path: bytes) -> bool:
    """Tell whether there is nothing at a path; False if that cannot be told."""
    try:
        os.stat(path)  # noqa: PTH116  (bytes)
    except OSError as error:
        return error.errno in _ABSENT
    return False


def check_there(folder: Path, root: bytes, index_dir: Location, *, may_be_gone: bool) -> None:
    """Refuse to index what is no folder.

    Args:
        folder: The folder as the caller named it.
        root: Its real path, as the file system spells it.
        index_dir: Where the index is.
        may_be_gone: Accept that the folder is not there, where there is an index to forget it in.

    Raises:
        FolderError: If it is no folder, or is not there.
    """
    if os.path.isdir(root):  # noqa: PTH112  (keeps names that are no UTF-8)
        return
    if not is_gone(root):
        raise FolderError(f"expected a folder of pictures, got {folder}. Is it mounted?")
    if not may_be_gone:
        raise FolderError(
            f"expected a folder of pictures, got {folder}, which is not there. Is it mounted? If "
            "it was indexed and is gone for good, --allow-empty (allow_empty) forgets it."
        )
    if isinstance(index_dir, Path) and not (index_dir / CATALOGUE_NAME).is_file():
        raise FolderError(
            f"expected a folder of pictures, got {folder}, which is not there. There is no index "
            f"in {index_dir} to forget it in."
        )


def check_not_lost(
    root: bytes, walk: Walk, total: int, catalogue: Store, *, allow_empty: bool
) -> None:
    """Refuse to take a folder that cannot be read, or is not mounted, for an empty one.

    Args:
        root: The folder, as the file system spells it.
        walk: The walk over it, done once.
        total: How many pictures the walk came by.
        catalogue: What was indexed before.
        allow_empty: Accept that there were pictures and are none now.

    Raises:
        FolderError: If the folder cannot be read, or has lost all its pictures.
    """
    for path, reason in walk.unreadable:
        if path == root:
            raise FolderError(
                f"expected to read {displayed(root)}, got: {reason}. Check its permissions."
            )
    known = catalogue.count_under(root)
    if total == 0 and known and not allow_empty:
        raise FolderError(
            f"expected pictures in {displayed(root)}, where {known} were indexed before, got "
            "none. Is it mounted? To forget them, index with --allow-empty (allow_empty)."
        )


def owner_of(folder: bytes, catalogue: Store) -> bytes:
    """Find the folder that pictures below ``folder`` belong to: their ids are paths below it.

    Returns:
        The outermost indexed folder that ``folder`` lies in, or ``folder`` itself.
    """
    covering = [root for root in catalogue.roots() if _lies_in(folder, root)]
    return min(covering, key=len, default=folder)


def forget_folder(folder: bytes, catalogue: Store) -> int:
    """Forget all pictures of a folder that is gone.

    Returns:
        How many.

    Raises:
        FolderError: If none was indexed there.
    """
    with catalogue.transaction():
        count = catalogue.forget_under(folder)
    if count == 0:
        gone = [displayed(root) for root in catalogue.roots() if is_gone(root)]
        raise FolderError(
            f"expected a folder that is there or was indexed, got {displayed(folder)}. Indexed "
            f"folders that are gone: {', '.join(gone) or 'none'}."
        )
    return count


def prune_or_tell(catalogue: Store, report: IngestReport, *, prune: bool) -> None:
    """Forget the pictures of indexed folders that are gone, or note that they are.

    Args:
        catalogue: What is indexed.
        report: Is told how many pictures were removed, or which folders are gone.
        prune: Forget them. A drive that is not mounted is gone as well, so never unasked.
    """
    for folder in filter(is_gone, catalogue.roots()):
        if prune:
            with catalogue.transaction():
                report.removed += catalogue.forget_under(folder)
            continue
        report.notes.append(
            f"{displayed(folder)} is gone, with {catalogue.count_under(folder)} pictures that are "
            "in the index. Is it mounted? If it is gone for good, --prune forgets it."
        )


def _lies_in(folder: bytes, other: bytes) -> bool:
    low, high = bounds_under(other)
    return low <= folder < high


class MovedPictures:
    """Pictures whose file is gone, by content: where that turns up elsewhere, it was moved."""

    def __init__(self, catalogue: Store) -> None:
        self._catalogue = catalogue
        self._lost: dict[bytes, list[Record]] = {}  # only of contents that several files had

    def claim(self, content_hash: bytes, image_id: str) -> Record | None:
        """Take the picture that was moved to where this content has turned up.

        Args:
            content_hash: BLAKE2b of the file that is new.
            image_id: What the new file is called. Of several pictures with this content, the
                one of that id is taken, else of that file name, else the first.

        Returns:
            The picture as it was stored; None if none with this content has lost its file, so
            that the new one is a copy.
        """
        lost = self._lost.get(content_hash)
        if lost is None:
            same = self._catalogue.find_all_content(content_hash)
            lost = [record for record in same if is_gone(_file_of(record))]
            if len(same) > 1:
                self._lost[content_hash] = lost
        name = _last_part(image_id)

        def likeness(record: Record) -> tuple[bool, bool, int]:
            known_as = record.picture.image_id
            return known_as == image_id, _last_part(known_as) == name, -record.row

        while lost:
            record = max(lost, key=likeness)
            lost.remove(record)
            # It may have been taken or removed since it was looked up.
            if self._catalogue.find(_file_of(record)) == record:
                return record
        return None


def _file_of(record: Record) -> bytes:
    assert record.picture.path is not None  # it is of a folder
    return record.picture.path


def _last_part(image_id: str) -> str:
    return image_id.rpartition("/")[2]
