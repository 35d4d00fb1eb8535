"""Pictures that are there more than once: the same file again, and others that look like it."""

import os
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from retrieval.catalogue import Catalogue
from retrieval.catalogue.store import ReadableStore
from retrieval.errors import CorruptIndexError, QueryError
from retrieval.features import Halves, as_halves
from retrieval.filters import Filter
from retrieval.index.leaders import Agrees, Leaders, find_leaders
from retrieval.index.scoring import Positions
from retrieval.overview.looks import LEAST_CORRELATION, read_looks
from retrieval.overview.selection import feature_pages, records_of, selected
from retrieval.protocols import Rows, Scores
from retrieval.records import Picture, Record, kept_mtime
from retrieval.stores import Location, open_for_reading

__all__ = ["ALIKE", "ALIKE_UNSEEN", "Copy", "Duplicates", "Group", "find_duplicates"]

OnProgress = Callable[[str, int, int], None]
"""Told what is done, how much of it, and of how much."""

ALIKE = 0.9
"""Cosine from which pictures are compared by their pixels; docs/looking.md has the figures."""

ALIKE_UNSEEN = 0.95
"""Cosine from which pictures are near-duplicates where there are no pixels to compare."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A picture that could go.

    Args:
        record: The picture.
        cosine: Of its features and those of the picture that would stay, in [-1, 1].
        is_same: True if the files are equal to the last byte.
    """

    record: Record
    cosine: float
    is_same: bool


@dataclass(frozen=True, slots=True)
class Group:
    """A picture, and those that are the same or look like it.

    Args:
        best: The one to keep: one with a file, of most pixels, then of most bytes, then the oldest.
        copies: The others, those nearest to it first.
    """

    best: Record
    copies: tuple[Copy, ...]

    @property
    def extra_bytes(self) -> int:
        """Bytes of the files that could go; those of an unknown size count nothing."""
        pictures = [copy.record.picture for copy in self.copies]
        return sum(picture.size or 0 for picture in pictures if picture.path is not None)


@dataclass(frozen=True, slots=True)
class Duplicates:
    """What a collection has more than once.

    Args:
        at: Cosine from which pictures were told as alike.
        pictures: How many were looked at.
        groups: Those with most bytes to gain first.
        gone: Pictures near to others whose files are not there any more; they are in no group.
        changed: The same of files that were written since they were indexed.
    """

    at: float
    pictures: int
    groups: list[Group]
    gone: list[Record] = field(default_factory=list)
    changed: list[Record] = field(default_factory=list)

    @property
    def extra_pictures(self) -> int:
        """How many pictures could go."""
        return sum(len(group.copies) for group in self.groups)

    @property
    def extra_bytes(self) -> int:
        """How many bytes their files have."""
        return sum(group.extra_bytes for group in self.groups)


def find_duplicates(
    index_dir: Location,
    at: float = ALIKE,
    where: Filter | None = None,
    *,
    pixels: bool = True,
    on_progress: OnProgress | None = None,
) -> Duplicates:
    """Group the pictures of an index that are the same or look alike; nothing is deleted.

    Each copy of a group is as near as ``at`` to the picture that would stay, and looks like it
    in its pixels. Links to one file, symbolic or hard, are that one file. Works while another
    process writes: what that changes meanwhile is left out.

    Args:
        index_dir: Where the index is, a folder or on a server; files are opened here.
        at: Cosine of features, above 0; 1 groups only pictures of equal ones, as equal files have.
        where: Looks only at the pictures that this holds of.
        pixels: Whether files are opened of pictures that are near. Where not, or where a file
            cannot be shown or is of one colour, a cosine of 0.95 is asked for, if ``at`` is less.
        on_progress: Told what is done ("comparing", "reading"), how much, and of how much.

    Raises:
        IndexNotFoundError: If there is no index.
        CorruptIndexError: If it is damaged, or pictures lack their features.
        QueryError: If ``at`` or the filter cannot be used.
    """
    if not 0.0 < at <= 1.0:
        raise QueryError(f"expected a cosine above 0, up to 1, got {at}. Take 0.9, say.")
    near = at if pixels else max(at, ALIKE_UNSEEN)
    tell = on_progress or _untold
    with open_for_reading(index_dir) as catalogue:
        with catalogue.snapshot():
            generation = catalogue.generation
            rows = selected(catalogue, where)
            order = _best_first(rows, records_of(catalogue, rows))
            halves = _halves(catalogue, rows, index_dir)
        leaders = find_leaders(halves, order, near, partial(tell, "comparing"))
        with catalogue.snapshot():
            involved = np.setdiff1d(rows[leaders.near], _changed(catalogue, generation))
            known = {record.row: record for record in records_of(catalogue, involved)}
    files, gone, changed = _one_a_file(known)
    count = len(rows)
    if len(files):  # led anew: some may be gone, and others look otherwise
        rows, halves, order = _only(files, rows, halves, order)
        agrees = _agreeing(rows, known, partial(tell, "reading")) if pixels and at < 1.0 else None
        leaders = find_leaders(halves, order, near, agrees=agrees)
    groups = _groups(rows, leaders, known) if len(files) else []
    return Duplicates(near, count, groups, gone, changed)


def _untold(what: str, done: int, total: int) -> None:
    """Stand for nobody who wants to know."""


def _agreeing(rows: Rows, known: dict[int, Record], tell: Callable[[int, int], None]) -> Agrees:
    """Have pictures that are near compared by their pixels."""
    records = [known[row] for row in rows.tolist()]
    looks = read_looks([record.path for record in records], tell)

    def agrees(row: int, mates: Positions, cosines: Scores) -> NDArray[np.bool_]:
        correlations = looks.correlations(row, mates)
        unseen = np.isnan(correlations)
        return np.where(unseen, cosines >= ALIKE_UNSEEN, correlations >= LEAST_CORRELATION)

    return agrees


def _changed(catalogue: ReadableStore, generation: int) -> Rows:
    """Read the rows of pictures that are others since; servers do not tell."""
    if isinstance(catalogue, Catalogue):
        return catalogue.rows(generation)
    return np.empty(0, np.int64)


def _halves(catalogue: ReadableStore, rows: Rows, place: Location) -> Halves:
    halves = as_halves(feature_pages(catalogue, rows), len(rows), catalogue.embed_dim)
    if len(halves) != len(rows):
        folder = shlex.quote(str(place))
        raise CorruptIndexError(
            f"expected features of {len(rows):,} pictures, got {len(halves):,}. Repair the index: "
            f"clip-text index verify --repair --index {folder}"
        )
    return halves


def _one_a_file(known: dict[int, Record]) -> tuple[Rows, list[Record], list[Record]]:
    """Choose rows, one for each file: an item may have that of a folder, a link that of another.

    Args:
        known: Pictures by row.

    Returns:
        The chosen rows, ascending; the pictures whose files are gone; those whose files are others
        since they were indexed.
    """
    chosen: dict[object, int] = {}
    gone, changed = [], []
    for row, record in sorted(known.items()):
        picture, file = record.picture, _file_of(record)
        if file is None:
            gone.append(record)
        elif isinstance(file, os.stat_result) and _differs(file, picture):
            changed.append(record)
        else:
            key: object = file
            if isinstance(file, os.stat_result):
                # some file systems number no files
                key = (file.st_dev, file.st_ino) if file.st_ino else picture.path
            other = chosen.setdefault(key, row)
            if other != row and _linked(picture) < _linked(known[other].picture):
                chosen[key] = row
    return np.array(sorted(chosen.values()), np.int64), gone, changed


def _file_of(record: Record) -> os.stat_result | bytes | int | None:
    """Look at a picture's file: None if it is gone; what else tells it apart if it is not seen."""
    path = record.picture.path
    if path is None:
        return record.row
    try:
        return os.stat(path)  # noqa: PTH116  (as the file system spells it)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:  # out of reach, but not thereby gone
        return path


def _differs(file: os.stat_result, picture: Picture) -> bool:
    """Say whether a file is another than when it was indexed; of some nothing is known."""
    if picture.mtime_ns is None:
        return False
    return (file.st_size, kept_mtime(file)) != (picture.size, picture.mtime_ns)


def _linked(picture: Picture) -> tuple[bool, bool]:
    """Say whether a picture's path is a link, and whether it leads over any: the file has one."""
    path = picture.path
    assert path is not None
    return os.path.islink(path), os.path.realpath(path) != path  # noqa: PTH114  (bytes)


def _best_first(rows: Rows, records: Iterable[Record]) -> Positions:
    """Order positions of rows by how much their pictures are worth keeping."""
    worth = np.zeros((len(rows), 4), np.int64)
    for record in records:
        worth[np.searchsorted(rows, record.row)] = _worth(record.picture)
    return np.lexsort((rows, *worth.T[::-1]))


def _worth(picture: Picture) -> tuple[int, int, int, int]:
    """Give numbers that are the lower the more a picture is worth keeping.

    What is there as a file comes before all that is not, of which nothing can go.
    """
    pixels = (picture.width or 0) * (picture.height or 0)
    return picture.path is None, -pixels, -(picture.size or 0), picture.mtime_ns or 0


def _only(
    kept: Rows, rows: Rows, halves: Halves, order: Positions
) -> tuple[Rows, Halves, Positions]:
    """Leave out all rows but some, ascending."""
    place = np.full(len(rows), -1, np.int64)
    positions = np.searchsorted(rows, kept)
    place[positions] = np.arange(len(kept))
    ordered = place[order]
    return kept, halves[positions], ordered[ordered >= 0]


def _groups(rows: Rows, leaders: Leaders, known: dict[int, Record]) -> list[Group]:
    copies: dict[int, list[Copy]] = {}
    for position in np.flatnonzero(leaders.leader != np.arange(len(rows))).tolist():
        best = known[int(rows[leaders.leader[position]])]
        record = known[int(rows[position])]
        content = record.picture.content_hash
        is_same = content is not None and content == best.picture.content_hash
        copy = Copy(record, float(leaders.cosine[position]), is_same)
        copies.setdefault(best.row, []).append(copy)
    groups = [
        Group(known[row], tuple(sorted(found, key=_by_nearness))) for row, found in copies.items()
    ]
    return sorted(groups, key=lambda group: (-group.extra_bytes, group.best.row))


def _by_nearness(copy: Copy) -> tuple[bool, float, int]:
    return not copy.is_same, -copy.cosine, copy.record.row
