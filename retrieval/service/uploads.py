"""The files of pictures that were sent to a service: kept in a folder of their index.

Each is named by the hash of what is in it, so the same picture sent twice is one file. It appears
whole or not at all, and is on the disk before anything refers to it; what nothing refers to any
more is swept. All but reading is done by who holds the lock of the index's one writer, or, where
the index is on a server, by several.
"""

import contextlib
import os
import re
import shutil
import time
import uuid
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from retrieval.errors import StorageError
from retrieval.ingest.examine import hash_stream

__all__ = ["UPLOADS_NAME", "Uploads"]

UPLOADS_NAME: Final = "uploads"
_PARTIAL: Final = ".partial"
_OLD_S: Final = 3600.0
_NAME: Final = re.compile(r"([0-9a-f]{40})\.[a-z0-9]+")


class _Referring(Protocol):
    """What knows which files an index refers to, such as an IndexWriter."""

    def paths_of(self, content_hash: bytes) -> set[bytes]:
        """Give the files in which pictures with this content are."""
        ...


class Uploads:
    """The pictures of an index that were sent to it.

    Args:
        folder: In which they are kept.
        is_shared: Whether others keep theirs there meanwhile, whom no lock keeps out.
    """

    def __init__(self, folder: Path, *, is_shared: bool = False) -> None:
        self._folder = Path(os.path.abspath(folder))  # noqa: PTH100  as items have it
        self._is_shared = is_shared

    def keep(self, file: BinaryIO, ending: str) -> Path:
        """Store a picture; when this returns, it is on the disk, and survives a power cut.

        Args:
            file: What is in it, from its beginning.
            ending: How the name of such a file ends, with the dot.

        Raises:
            StorageError: If the disk is full or failing.
        """
        file.seek(0)
        name = hash_stream(file).hex()
        place = self._folder / name[:2] / f"{name}{ending}"
        size = file.tell()
        try:
            if not place.is_file() or place.stat().st_size != size:
                self._write(file, place)
            _sync(place.parent)
        except OSError as error:
            raise StorageError(
                f"expected to keep a picture in {self._folder}, got: {error.strerror or error}. "
                "Free some space; it was not stored."
            ) from error
        return place

    def release(self, path: Path, referring: _Referring) -> None:
        """Delete a file that one picture less refers to, if it was the last.

        By their names alone: others may reach the index by another path, or have moved it, and
        what they refer to is the same file.
        """
        found = _NAME.fullmatch(path.name)
        if found is None:
            return
        named = map(os.path.basename, referring.paths_of(bytes.fromhex(found[1])))
        if os.fsencode(path.name) not in named:
            with contextlib.suppress(OSError):  # it is swept later
                (self._folder / path.name[:2] / path.name).unlink()

    def clear(self) -> None:
        """Delete what who held the lock before, and died, had begun to write."""
        for partial in self._folder.glob(f"*{_PARTIAL}"):
            with contextlib.suppress(OSError):
                if self._is_old(partial):
                    partial.unlink()

    def folders(self) -> list[Path]:
        """Name the folders that :meth:`sweep` looks through, one after the other."""
        return list(self._folder.glob("[0-9a-f][0-9a-f]"))

    def sweep(self, folder: Path, referring: _Referring) -> None:
        """Delete the files of a folder that nothing refers to."""
        with contextlib.suppress(OSError):
            for path in list(folder.iterdir()):
                if self._is_old(path):
                    self.release(path, referring)

    def _is_old(self, path: Path) -> bool:
        """Say whether nobody is about to refer to a file, or still writes it."""
        return not self._is_shared or time.time() - path.stat().st_mtime > _OLD_S

    def _write(self, file: BinaryIO, place: Path) -> None:
        if not place.parent.is_dir():
            place.parent.mkdir(parents=True, exist_ok=True)
            _sync(self._folder.parent)
            _sync(self._folder)
        partial = self._folder / f"{uuid.uuid4().hex}{_PARTIAL}"
        file.seek(0)
        try:
            with partial.open("wb") as written:
                shutil.copyfileobj(file, written, 1 << 20)
                written.flush()
                os.fsync(written.fileno())
            partial.replace(place)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _sync(folder: Path) -> None:
    """Have what was renamed in a folder survive a power cut, where folders can be synced."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
