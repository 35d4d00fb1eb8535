"""Where an index that is moved to another model has what belongs to that, beside it."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from retrieval.catalogue import Catalogue, IndexLock
from retrieval.catalogue.exchange import GATHERED_NAME, GatheredFeatures
from retrieval.catalogue.lock import LOCK_NAME
from retrieval.errors import IndexLockedError
from retrieval.protocols import Encoder

__all__ = ["MigrationPlace"]

_MIGRATING, _KEPT = ".migrating", ".before-migration"
_BEFORE = "before"  # the copy of the index as it was, until it has its own place


class MigrationPlace:
    """Where what is gathered lies, and what is kept of the index as it was.

    Args:
        index_dir: Folder of the index.
    """

    def __init__(self, index_dir: Path) -> None:
        self.index_dir = index_dir
        self._real = index_dir.resolve()  # beside the folder itself, not beside a link to it
        self.folder = self._real.with_name(self._real.name + _MIGRATING)
        self.gathered = self.folder / GATHERED_NAME
        self.before = self.folder / _BEFORE

    @property
    def is_there(self) -> bool:
        """Whether one was begun."""
        return self.folder.is_dir()

    def is_of_another(self, encoder: Encoder) -> bool:
        """Say whether what was gathered is of another model."""
        begun = GatheredFeatures.open(self.gathered)
        if begun is None:
            return False
        with begun:
            model = encoder.fingerprint, encoder.embed_dim
            return (begun.fingerprint, begun.embed_dim) != model

    def kept(self) -> list[Path]:
        """Name the folders in which the index was kept as it was before."""
        found = self._real.parent.glob("*")
        return sorted(path for path in found if path.name.startswith(self._real.name + _KEPT))

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only one that moves the index.

        Raises:
            IndexLockedError: If another process does.
        """
        lock = IndexLock(self.folder)
        try:
            lock.__enter__()
        except IndexLockedError as error:
            raise IndexLockedError(
                f"expected to be the only one that moves {self.index_dir} to another model, got "
                "another process at work. Wait until it ends."
            ) from error
        try:
            yield
        finally:
            lock.__exit__()

    def tidy(self) -> Path | None:
        """Delete what was gathered; gives where the index of before lies, if it was kept.

        The copy is one of before only if the index is of another model by now.
        """
        kept = None
        if self.before.is_dir():
            with Catalogue.open(self.index_dir) as now, Catalogue.open(self.before) as then:
                is_moved = (then.fingerprint, then.embed_dim) != (now.fingerprint, now.embed_dim)
            if is_moved:
                kept = self._free_name()
                self.before.rename(kept)
        for path in list(self.folder.iterdir()):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK_NAME:
                path.unlink()
        return kept

    def remove(self) -> None:
        """Delete the folder, if nothing is in it but its lock."""
        if [path.name for path in self.folder.glob("*")] == [LOCK_NAME]:
            with contextlib.suppress(OSError):  # another one begins this very moment
                (self.folder / LOCK_NAME).unlink()
                self.folder.rmdir()

    def _free_name(self) -> Path:
        name, number = self._real.name + _KEPT, 1
        while (kept := self._real.with_name(name if number == 1 else f"{name}-{number}")).exists():
            number += 1
        return kept
