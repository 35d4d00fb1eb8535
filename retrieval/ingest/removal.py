"""Pictures taken out of an index, by id or by folder, without the model."""

import os
from collections.abc import Iterable
from pathlib import Path

from retrieval.catalogue.store import Store
from retrieval.errors import FolderError
from retrieval.ingest.items import resolve
from retrieval.records import displayed, displayed_text
from retrieval.stores import Location, open_for_writing

__all__ = ["remove_pictures"]


def remove_pictures(
    index_dir: Location,
    *,
    ids: Iterable[str] = (),
    folders: Iterable[Path] = (),
    roots: Iterable[Path] = (),
    sources: Iterable[str] = (),
) -> int:
    """Forget pictures, all that are named or none.

    Those of a folder that is there come back when it is indexed again.

    Args:
        index_dir: Where the index is.
        ids: Those that items were added under, or paths of pictures below their indexed folders.
        folders: Pictures of indexed folders that lie below these.
        roots: Folders that were indexed: all that belongs to them.
        sources: Names of data sets that were indexed, or paths of them: all of their items.

    Returns:
        How many were forgotten.

    Raises:
        IndexNotFoundError: If there is no index.
        IndexLockedError: If another process is writing to it.
        ItemNotFoundError: If no picture has one of the ids.
        ItemError: If several have.
        FolderError: If a folder or data set has no pictures in the index.
    """
    with open_for_writing(index_dir) as (catalogue, _), catalogue.transaction():
        records = resolve(catalogue, ids)
        catalogue.remove(record.row for record in records)
        removed = len(records)
        for root in roots:
            removed += _remove_root(root, catalogue)
        for folder in folders:
            removed += _remove_folder(folder, catalogue)
        for source in sources:
            removed += _remove_source(source, catalogue)
    return removed


def _remove_root(root: Path, catalogue: Store) -> int:
    removed = catalogue.forget_root(_real(root))
    if removed == 0:
        known = [displayed(path) for path in catalogue.roots()]
        raise FolderError(
            f"expected a folder that was indexed, got {root}. Indexed folders: "
            f"{', '.join(known) or 'none'}."
        )
    return removed


def _remove_folder(folder: Path, catalogue: Store) -> int:
    removed = catalogue.forget_under(_real(folder))
    if removed == 0:
        raise FolderError(
            f"expected a folder with pictures in the index, got {folder}. Name one that was "
            "indexed, or one in it."
        )
    return removed


def _remove_source(source: str, catalogue: Store) -> int:
    rows = catalogue.sources.rows(source)
    if not rows:  # files are named by where they really lie, from whichever folder that is said
        rows = catalogue.sources.rows(displayed_text(os.path.realpath(source)))
    if not rows:
        known = ", ".join(catalogue.sources.counts()) or "none"
        raise FolderError(
            f"expected a data set that was indexed, got {source}. Indexed data sets: {known}."
        )
    catalogue.remove(rows)
    return len(rows)


def _real(folder: Path) -> bytes:
    return os.fsencode(os.path.realpath(folder))
