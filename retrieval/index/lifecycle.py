"""The index of a catalogue: opened in whatever state its file is, and kept up to date."""

import logging
from pathlib import Path

from retrieval.catalogue import Catalogue
from retrieval.errors import CorruptIndexError
from retrieval.index.engine import AnyIndex
from retrieval.index.faiss import FaissIndex

__all__ = ["INDEX_NAME", "open_index", "sync"]

INDEX_NAME = "features.faiss"
_LOG = logging.getLogger(__name__)


def open_index(index_dir: Path, catalogue: Catalogue) -> tuple[FaissIndex, int]:
    """Open the index of a catalogue, whatever state its file is in.

    A file that is missing, damaged, stale or of another catalogue is brought up to date
    and written again; where it cannot be written, the next call does the same work.

    Returns:
        The index, and the generation of the catalogue it holds.
    """
    path = index_dir / INDEX_NAME
    index, held = _load_of(path, catalogue) or (FaissIndex(catalogue.embed_dim), None)
    index, generation = sync(index, held or 0, catalogue)
    if generation != held:
        try:
            index.save(path, f"{catalogue.uid}:{generation}")
        except OSError as error:
            _LOG.warning("cannot keep the vector index in %s: %s", path, error)
    return index, generation


def _load_of(path: Path, catalogue: Catalogue) -> tuple[FaissIndex, int] | None:
    """Read an index and its generation, if it is a past state of this catalogue."""
    try:
        index, stamp = FaissIndex.load(path)
    except FileNotFoundError:
        return None
    except (CorruptIndexError, OSError) as error:
        _LOG.warning("rebuilding the vector index from the catalogue: %s", error)
        return None
    uid, _, generation = stamp.partition(":")
    # A later generation means that the catalogue was put back from a copy.
    if uid != catalogue.uid or int(generation) > catalogue.generation:
        return None
    return index, int(generation)


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
