"""Which files of a folder are pictures, in an order that never changes."""

import os
from collections.abc import Iterator
from pathlib import Path

from clip_text_pictures import judge_name, looks_like_picture
from retrieval.ingest.links import leads_back, leads_elsewhere

__all__ = ["ANNOTATIONS_NAME", "Walk"]

ANNOTATIONS_NAME = b"metadata.jsonl"

_SEPARATOR = os.fsencode(os.sep)


class Walk:
    """Yields the paths of the pictures below a folder in byte order.

    What counts as one, :func:`clip_text_pictures.kinds.looks_like_picture` says: kinds that are
    never read, too, so that they are named and not passed over.

    Links to files are yielded, links to folders are not entered unless asked for. Paths
    are bytes, as names need not be UTF-8. Every iteration walks anew.

    Args:
        root: The folder to walk, as the file system spells it.
        excluded: A folder that is passed over, as that of the index, if any.
        follow_directory_links: Enter links to folders, each folder once.
    """

    def __init__(
        self, root: bytes, *, excluded: Path | None, follow_directory_links: bool = False
    ) -> None:
        self._root = root
        self._real_root = os.path.realpath(root)
        self._excluded = None if excluded is None else _identity(os.fsencode(excluded))
        self._follow = follow_directory_links
        self._looked_into: dict[bytes, bool] = {}  # a second walk opens nothing again
        self.ignored = 0
        """Files and folder links passed over so far."""
        self.unreadable: list[tuple[bytes, str]] = []
        """Folders that could not be read so far, with the reason."""
        self.links: list[bytes] = []
        """Links to folders elsewhere that were not entered so far, and links to nothing."""

    def __iter__(self) -> Iterator[bytes]:
        self.ignored = 0
        self.unreadable = []
        self.links = []
        entered: set[tuple[int, int] | None] = {_identity(self._root)}
        if self._excluded not in entered:
            entered.add(self._excluded)
        stack = [iter(self._entries(self._root))]
        while stack:
            path = next(stack[-1], None)
            if path is None:
                stack.pop()
            elif not path.endswith(_SEPARATOR):
                yield path
            elif (identity := _identity(path)) not in entered:
                # Only links can lead back to a folder that was entered before, or will be.
                if self._follow:
                    if leads_back(path.rstrip(_SEPARATOR), self._real_root):
                        continue
                    entered.add(identity)
                stack.append(iter(self._entries(path)))

    def _entries(self, folder: bytes) -> list[bytes]:
        """List the paths in one folder: pictures, and folders with a separator at the end.

        With the separator, sorting each folder by itself sorts whole paths.
        """
        paths = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if self._is_folder(entry):
                        paths.append(entry.path + _SEPARATOR)
                    elif self._is_picture(entry):
                        paths.append(entry.path)
                    elif entry.name != ANNOTATIONS_NAME:
                        self.ignored += 1
                        if entry.is_symlink() and leads_elsewhere(entry.path, self._real_root):
                            self.links.append(entry.path)
        except OSError as error:
            self.unreadable.append((folder.rstrip(_SEPARATOR), error.strerror or str(error)))
        return sorted(paths)

    def _is_folder(self, entry: "os.DirEntry[bytes]") -> bool:
        try:
            return entry.is_dir(follow_symlinks=self._follow)
        except OSError:
            return False  # a link that leads round in circles

    def _is_picture(self, entry: "os.DirEntry[bytes]") -> bool:
        is_picture = judge_name(entry.name)
        if is_picture is None:
            is_picture = self._looked_into.get(entry.path)
        if is_picture is None:
            is_picture = self._looked_into[entry.path] = looks_like_picture(entry.path)
        if not is_picture:
            return False
        try:
            return not entry.is_dir()  # a link to a folder, not to be entered
        except OSError:
            return True  # a link that leads round in circles: reported when it is read


def _identity(path: bytes) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116  (bytes)
    except OSError:
        return None
    return status.st_dev, status.st_ino
