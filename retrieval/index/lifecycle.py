"""The index of a catalogue: opened in whatever state its files are, kept up to date, sealed."""

import contextlib
import logging
from pathlib import Path

from retrieval.catalogue import Catalogue
from retrieval.errors import CorruptIndexError, IndexLockedError, StorageError
from retrieval.index.engine import AnyIndex
from retrieval.index.recipes import Recipe, choose_recipe
from retrieval.index.sealed import Manifest, current, read_manifest, read_segment, seal
from retrieval.index.segmented import SegmentedIndex

__all__ = [
    "compact",
    "disown_future",
    "follow",
    "open_index",
    "recipe_of",
    "seal_if_due",
    "state_of",
    "sync",
]

_LOG = logging.getLogger(__name__)
# What indexes were kept in before there were segments; rebuilt from the catalogue, and deleted.
_OLD_NAME = "features.faiss"
# Sealing pays when so many rows came or went since, or this share of those that are sealed.
_TAIL_ROWS = 10_000
_TAIL_SHARE = 0.05
# A segment that is replaced while it is opened is gone; its successor is there.
_ATTEMPTS = 5


def open_index(index_dir: Path, catalogue: Catalogue) -> tuple[SegmentedIndex, int]:
    """Open the index of a catalogue, whatever state its files are in.

    What is missing, damaged or of another catalogue is passed over: the index then holds all
    features in memory. Nothing is written; :func:`seal_if_due` does that.

    Returns:
        The index, and the generation of the catalogue it holds.
    """
    index, generation = _open_sealed(index_dir, catalogue)
    return sync(index, generation, catalogue)


def sync(index: AnyIndex, generation: int, catalogue: Catalogue) -> tuple[AnyIndex, int]:
    """Bring an index to the catalogue's present state, touching only what changed.

    Args:
        index: Holds the catalogue's features as of ``generation``; changed in place.
        generation: Of the catalogue, the one that the index holds; 0 for an empty index.
        catalogue: The pictures that the index is to hold.

    Returns:
        The index and the generation it now holds.
    """
    if catalogue.generation == generation:
        return index, generation
    with catalogue.changes(generation) as change:
        index.apply(change)
    return index, change.generation


def follow(
    index_dir: Path, index: SegmentedIndex, generation: int, catalogue: Catalogue
) -> tuple[SegmentedIndex, int]:
    """Give the present state of an index that is open, at a cost that follows what changed.

    Args:
        index_dir: Folder of the index.
        index: Holds the catalogue's features as of ``generation``; it is not changed.
        generation: Of the catalogue.
        catalogue: The same that the index was opened for.

    Returns:
        Another index and its generation, or those that were given where nothing has changed.
    """
    if current(index_dir) not in (index.origin, index.passed_over):
        opened, sealed_at = _open_sealed(index_dir, catalogue)
        if opened.origin != index.origin:
            return sync(opened, sealed_at, catalogue)
    if catalogue.generation == generation:
        return index, generation
    return sync(index.copy(), generation, catalogue)


def seal_if_due(
    index_dir: Path, catalogue: Catalogue, share: float | None = None
) -> Manifest | None:
    """Seal an index anew if much came or went since it was sealed; for whoever writes to it.

    Few pictures stay unsealed: reading their features from the catalogue is as quick. Where the
    files cannot be written, the index serves without them, and the next call tries again.

    Args:
        index_dir: Folder of the index.
        catalogue: What it holds now.
        share: Of what is sealed, how much must have come or gone; 5% by default.

    Returns:
        What was built, or None.
    """
    with contextlib.suppress(OSError):
        (index_dir / _OLD_NAME).unlink()
    count = len(catalogue)
    manifest = _manifest_of(index_dir, catalogue)
    sealed, since = (manifest.count, manifest.generation) if manifest else (0, 0)
    came = len(catalogue.rows(since))
    went = sealed + came - count
    least = _TAIL_SHARE if share is None else share
    if came + went <= max(_TAIL_ROWS, least * sealed):
        return None
    try:
        return seal(index_dir, catalogue, choose_recipe)
    except IndexLockedError:
        return None  # another process is at it
    except StorageError as error:
        _LOG.warning("cannot seal the vectors in %s: %s", index_dir, error)
        return None


def disown_future(index_dir: Path, catalogue: Catalogue) -> None:
    """Part a catalogue from vectors of a later generation; for whoever is about to write to it.

    It was put back from a copy then. Once it is written past that generation, what was sealed
    would pass for a past state of it, though the same rows stand for other pictures: under a new
    uid, neither the files nor searches that go on take the one for the other.

    Args:
        index_dir: Folder of the index.
        catalogue: Open for writing; nothing was written yet.
    """
    try:
        manifest = read_manifest(index_dir, current(index_dir))
    except (CorruptIndexError, OSError):
        return
    if manifest.uid == catalogue.uid and manifest.generation > catalogue.generation:
        catalogue.renew_uid()


def recipe_of(index_dir: Path, catalogue: Catalogue) -> Recipe | None:
    """Say how the vectors of a catalogue are sealed; None where they are not."""
    manifest = _manifest_of(index_dir, catalogue)
    return manifest.recipe if manifest else None


def compact(index_dir: Path, recipe: Recipe | None = None) -> Manifest:
    """Seal an index anew: no tail and no tombstones are left. Searches and writers go on.

    Args:
        index_dir: Folder of the index.
        recipe: How to build it; chosen by its size by default, and where there are fewer rows than
            it has lists.

    Returns:
        What was built.

    Raises:
        IndexNotFoundError: If there is no index.
        IndexLockedError: If another process is sealing.
        StorageError: If the disk is full, or the folder cannot be written. What was there stays.
    """

    def choose(count: int, embed_dim: int) -> Recipe:
        if recipe is None or recipe.lists > count:
            return choose_recipe(count, embed_dim)
        return recipe

    with Catalogue.open(index_dir) as catalogue:
        return seal(index_dir, catalogue, choose)


def state_of(index_dir: Path, catalogue: Catalogue) -> dict[str, int | str]:
    """Tell what the vector files of a catalogue hold, by name; numbers are counts.

    Nothing but the manifest is read; :func:`~retrieval.index.upkeep.verify` reads all.
    """
    for _ in range(_ATTEMPTS):
        name = current(index_dir)
        if not name:
            return {"state": "not sealed", "sealed": 0, "tail": len(catalogue), "tombstones": 0}
        with contextlib.suppress(CorruptIndexError, OSError):
            manifest = read_manifest(index_dir, name)
            break
        if current(index_dir) == name:  # else it was swept while it was read
            return {"state": "damaged"}
    else:
        return {"state": "damaged"}
    if not _is_past_of(manifest, catalogue):
        return {"state": "of another catalogue"}
    tail = len(catalogue.rows(manifest.generation))
    tombstones = manifest.count + tail - len(catalogue)
    return {
        "state": "behind" if tail or tombstones else "up to date",
        "generation": manifest.generation,
        "recipe": manifest.recipe.factory,
        "sealed": manifest.count,
        "tail": tail,
        "tombstones": tombstones,
        "bytes": manifest.bytes,
    }


def _open_sealed(index_dir: Path, catalogue: Catalogue) -> tuple[SegmentedIndex, int]:
    """Open the sealed segment, if it is a past state of this catalogue; else an empty index."""
    passed_over = ""
    for _ in range(_ATTEMPTS):
        name = current(index_dir)
        if not name:
            break
        try:
            manifest = read_manifest(index_dir, name)
            if not _is_past_of(manifest, catalogue):
                passed_over = name
                break
            segment = read_segment(index_dir, name, manifest)
        except (CorruptIndexError, OSError) as error:
            if current(index_dir) == name:  # else it was swept while it was read
                _LOG.warning("searching without the sealed vectors: %s", error)
                passed_over = name
                break
        else:
            return SegmentedIndex(catalogue.embed_dim, segment, name), manifest.generation
    return SegmentedIndex(catalogue.embed_dim, passed_over=passed_over), 0


def _manifest_of(index_dir: Path, catalogue: Catalogue) -> Manifest | None:
    try:
        manifest = read_manifest(index_dir, current(index_dir))
    except (CorruptIndexError, OSError):
        return None
    return manifest if _is_past_of(manifest, catalogue) else None


def _is_past_of(manifest: Manifest, catalogue: Catalogue) -> bool:
    # A later generation means that the catalogue was put back from a copy.
    return (
        manifest.uid == catalogue.uid
        and manifest.embed_dim == catalogue.embed_dim
        and manifest.generation <= catalogue.generation
    )
