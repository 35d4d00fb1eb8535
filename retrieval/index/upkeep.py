"""What an index is, and whether it is sound: told, checked, repaired."""

import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from retrieval.catalogue import Catalogue, IndexLock
from retrieval.catalogue.soundness import Problem, check_catalogue, mend_catalogue
from retrieval.errors import CorruptIndexError
from retrieval.index.faiss import FaissIndex
from retrieval.index.lifecycle import INDEX_NAME, open_index
from retrieval.records import displayed

__all__ = ["IndexInfo", "Verification", "describe", "verify"]

_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What there is to know of an index without its model.

    Args:
        pictures: How many, items included.
        items: How many of them are of no folder.
        roots: Indexed folders, safe to print, and how many pictures belong to each.
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
    failures: int
    schema_version: int
    fingerprint: str
    embed_dim: int
    precisions: tuple[str, ...]
    uid: str
    generation: int
    vectors: dict[str, int | str]
    files: dict[str, int]

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
        return IndexInfo(
            pictures=len(catalogue),
            items=catalogue.count_of(None),
            roots={displayed(root): catalogue.count_of(root) for root in catalogue.roots()},
            failures=len(catalogue.failures()),
            schema_version=catalogue.schema_version,
            fingerprint=catalogue.fingerprint,
            embed_dim=catalogue.embed_dim,
            precisions=catalogue.precisions,
            uid=catalogue.uid,
            generation=catalogue.generation,
            vectors=_describe_vectors(index_dir, catalogue),
            files=dict(sorted(_files(index_dir))),
        )


def verify(index_dir: Path, *, repair: bool = False) -> Verification:
    """Check all of an index: the catalogue's file, its features, and what is derived from them.

    Args:
        index_dir: Folder of the index.
        repair: Mend what can be mended: what is derived is made again, and pictures without a
            sound feature are forgotten.

    Raises:
        IndexNotFoundError: If there is none.
        CorruptIndexError: If the catalogue cannot even be opened.
        IndexLockedError: If it is to be repaired and another process is writing.
    """
    with Catalogue.open(index_dir) as catalogue, catalogue.snapshot():
        verification = Verification(_check(index_dir, catalogue))
    if not repair or not verification.problems:
        return verification
    with ExitStack() as held:
        held.enter_context(IndexLock(index_dir))
        catalogue = held.enter_context(Catalogue.open_for_writing(index_dir))
        kinds = {problem.kind for problem in verification.problems}
        if "catalogue" in kinds:
            verification.repaired = mend_catalogue(catalogue)
        (index_dir / INDEX_NAME).unlink(missing_ok=True)
        open_index(index_dir, catalogue)
        verification.repaired.append("made the vector index again")
        verification.problems = _check(index_dir, catalogue)
    return verification


def _check(index_dir: Path, catalogue: Catalogue) -> list[Problem]:
    problems = check_catalogue(catalogue)
    # What is derived from what is damaged says nothing.
    return problems or _check_vectors(index_dir, catalogue)


def _describe_vectors(index_dir: Path, catalogue: Catalogue) -> dict[str, int | str]:
    """Tell what the vector files are derived from."""
    try:
        uid, generation = _parts(FaissIndex.read_stamp(index_dir / INDEX_NAME))
    except FileNotFoundError:
        return {"state": "not made yet"}
    except (CorruptIndexError, OSError):
        return {"state": "damaged"}
    if uid != catalogue.uid or generation > catalogue.generation:
        return {"state": "of another catalogue"}
    behind = catalogue.generation - generation
    state = "up to date" if behind == 0 else "behind"
    return {"state": state, "generation": generation, "generations_behind": behind}


def _check_vectors(index_dir: Path, catalogue: Catalogue) -> list[Problem]:
    """Compare the vector file with the catalogue, as far as it claims to hold the same."""
    try:
        index, stamp = FaissIndex.load(index_dir / INDEX_NAME)
    except FileNotFoundError:
        return []  # made at the first search
    except (CorruptIndexError, OSError) as error:
        what: str | None = str(error)
    else:
        what = _difference(index, *_parts(stamp), catalogue)
    remedy = "It is made again by the next search, or by repairing; nothing is lost."
    return [Problem("vectors", what, remedy, is_derived=True)] if what else []


def _difference(index: FaissIndex, uid: str, generation: int, catalogue: Catalogue) -> str | None:
    """Tell in what an index differs from what it claims to be; None if in nothing."""
    if uid != catalogue.uid or generation > catalogue.generation:
        return f"{INDEX_NAME} is of another catalogue"
    if generation < catalogue.generation:
        return None  # a past state, from which a search goes on
    if not np.array_equal(np.sort(index.rows), catalogue.rows()):
        return f"{INDEX_NAME} holds other rows than the catalogue"
    for rows, features in catalogue.features():
        off = np.abs(index.features_of(rows) - features).max(axis=1) > _TOLERANCE
        if off.any():
            return f"{INDEX_NAME} holds another feature for row {rows[off][0]}"
    return None


def _parts(stamp: str) -> tuple[str, int]:
    uid, _, generation = stamp.partition(":")
    return uid, int(generation)


def _files(index_dir: Path) -> list[tuple[str, int]]:
    found = []
    for path in index_dir.rglob("*"):
        try:
            if path.is_file():
                name = displayed(os.fsencode(path.relative_to(index_dir)))
                found.append((name, path.stat().st_size))
        except FileNotFoundError:  # gone meanwhile
            continue
    return found
