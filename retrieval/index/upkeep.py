"""What an index is, and whether it is sound: told, checked, repaired."""

import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from retrieval.catalogue import Catalogue, IndexLock
from retrieval.catalogue.soundness import Problem, check_catalogue, mend_catalogue
from retrieval.catalogue.store import Store
from retrieval.errors import CorruptIndexError
from retrieval.index.lifecycle import disown_future, state_of
from retrieval.index.recipes import choose_recipe
from retrieval.index.sealed import (
    Manifest,
    check_files,
    current,
    read_manifest,
    read_segment,
    seal,
)
from retrieval.records import displayed

__all__ = ["IndexInfo", "Verification", "describe", "verify"]

# A segment that is replaced while it is checked is gone; its successor is there.
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What there is to know of an index without its model.

    Args:
        pictures: How many, items included.
        items: How many of them are of no folder.
        roots: Indexed folders, safe to print, and how many pictures belong to each.
        sources: Indexed data sets, by name, and how many items are of each.
        failures: How many files are set aside.
        schema_version: Of the catalogue as it lies there.
        fingerprint: Of the model.
        embed_dim: Width of the model's features.
        precisions: What the features were computed in; empty where nobody said.
        uid: Ties what is derived to the catalogue.
        generation: How many transactions have changed features.
        vectors: What the derived vector files hold, by name; numbers are counts.
        files: Bytes of each file in the folder of the index, by its path below it.
    """

    pictures: int
    items: int
    roots: dict[str, int]
    sources: dict[str, int]
    failures: int
    schema_version: int
    fingerprint: str
    embed_dim: int
    precisions: tuple[str, ...]
    uid: str
    generation: int
    vectors: dict[str, int | str]
    files: dict[str, int]

    @classmethod
    def of(cls, store: Store, vectors: dict[str, int | str], files: dict[str, int]) -> Self:
        """Tell what a store holds, beside what is known of its vectors and its files."""
        return cls(
            pictures=len(store),
            items=store.count_of(None),
            roots={displayed(root): store.count_of(root) for root in store.roots()},
            sources=store.sources.counts(),
            failures=len(store.failures()),
            schema_version=store.schema_version,
            fingerprint=store.fingerprint,
            embed_dim=store.embed_dim,
            precisions=store.precisions,
            uid=store.uid,
            generation=store.generation,
            vectors=vectors,
            files=files,
        )

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


@dataclass(slots=True)
class Verification:
    """What a check came to.

    Args:
        problems: What is wrong now.
        repaired: What was done about it, a line each.
    """

    problems: list[Problem]
    repaired: list[str] = field(default_factory=list)


def describe(index_dir: Path) -> IndexInfo:
    """Tell what an index holds; works while another process writes.

    Raises:
        IndexNotFoundError: If there is none.
        CorruptIndexError: If the catalogue is damaged or of an unknown schema version.
    """
    with Catalogue.open(index_dir) as catalogue, catalogue.snapshot():
        # First: the moment of the snapshot is that of the first read from the catalogue, which
        # is not to be before what was sealed.
        vectors = state_of(index_dir, catalogue)
        return IndexInfo.of(catalogue, vectors, dict(sorted(_files(index_dir))))


def verify(index_dir: Path, *, repair: bool = False) -> Verification:
    """Check all of an index: the catalogue's file, its features, and what is derived from them.

    Works while another process writes, if nothing is to be repaired.

    Args:
        index_dir: Folder of the index.
        repair: Mend what can be mended: what is derived is made again, and pictures without a
            sound feature are forgotten.

    Raises:
        IndexNotFoundError: If there is none.
        CorruptIndexError: If the catalogue cannot even be opened.
        IndexLockedError: If it is to be repaired and another process is writing.
    """
    with Catalogue.open(index_dir) as catalogue:
        verification = Verification(_check(index_dir, catalogue))
    if not repair or not verification.problems:
        return verification
    with ExitStack() as held:
        held.enter_context(IndexLock(index_dir))
        catalogue = held.enter_context(Catalogue.open_for_writing(index_dir))
        disown_future(index_dir, catalogue)
        kinds = {problem.kind for problem in verification.problems}
        if "catalogue" in kinds:
            verification.repaired = mend_catalogue(catalogue)
        if current(index_dir):
            seal(index_dir, catalogue, choose_recipe)
            verification.repaired.append("sealed the vectors again")
        verification.problems = _check(index_dir, catalogue)
    return verification


def _check(index_dir: Path, catalogue: Catalogue) -> list[Problem]:
    with catalogue.snapshot():
        problems = check_catalogue(catalogue)
    # What is derived from what is damaged says nothing.
    return problems or _check_vectors(index_dir, catalogue)


def _check_vectors(index_dir: Path, catalogue: Catalogue) -> list[Problem]:
    """Compare the sealed vectors with their digests, and with the catalogue where they hold it."""
    what: str | None = None
    for _ in range(_ATTEMPTS):
        name = current(index_dir)
        if not name:
            return []  # what is small is not sealed
        try:
            what = _difference(index_dir, name, catalogue)
        except (CorruptIndexError, OSError) as error:
            what = str(error)
        if what is None or current(index_dir) == name:  # else it was swept while it was read
            break
    remedy = "They are sealed again by repairing; nothing is lost."
    return [Problem("vectors", what, remedy, is_derived=True)] if what else []


def _difference(index_dir: Path, name: str, catalogue: Catalogue) -> str | None:
    """Tell in what a segment differs from what it claims to be; None if in nothing.

    Raises:
        CorruptIndexError: If its files are not what its manifest says.
        OSError: If one cannot be read.
    """
    manifest = read_manifest(index_dir, name)
    check_files(index_dir, name, manifest)
    with catalogue.snapshot():  # begun after what is sealed was read, so not before it
        return _difference_from(catalogue, index_dir, name, manifest)


def _difference_from(
    catalogue: Catalogue, index_dir: Path, name: str, manifest: Manifest
) -> str | None:
    """Compare a segment whose files are sound with the catalogue as it is now."""
    if manifest.uid != catalogue.uid or manifest.generation > catalogue.generation:
        return f"{name} is of another catalogue"
    if manifest.generation < catalogue.generation:
        return None  # a past state, from which a search goes on
    segment = read_segment(index_dir, name, manifest)
    if not np.array_equal(segment.rows, catalogue.rows()):
        return f"{name} holds other rows than the catalogue"
    start = 0
    for rows, features in catalogue.features():
        held = segment.halves[start : start + len(rows)]
        off = (held != features.astype(np.float16)).any(axis=1)
        if off.any():
            return f"{name} holds another feature for row {rows[off][0]}"
        start += len(rows)
    return None


def _files(index_dir: Path) -> list[tuple[str, int]]:
    found = []
    for folder, _, names in os.walk(index_dir):  # passes over folders that are gone meanwhile
        for path in (Path(folder, name) for name in names):
            with suppress(FileNotFoundError):
                name = displayed(os.fsencode(path.relative_to(index_dir)))
                found.append((name, path.stat().st_size))
    return found
