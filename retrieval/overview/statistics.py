"""What a collection consists of, in numbers."""

import functools
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from clip_text_pictures import ending_of
from retrieval.catalogue import Field
from retrieval.catalogue.store import ReadableStore
from retrieval.filters import Filter
from retrieval.overview.selection import feature_pages, records_of, selected
from retrieval.protocols import Rows
from retrieval.records import Failure, Picture, Record, displayed, displayed_text
from retrieval.stores import Location, open_as_store

__all__ = ["FeatureSummary", "Spread", "Statistics", "take_statistics"]

_MEGAPIXELS = (0.1, 0.5, 1, 2, 5, 12, 24)
_MEGAPIXEL_BINS = (
    *("below 0.1", "0.1 to 0.5", "0.5 to 1", "1 to 2", "2 to 5", "5 to 12", "12 to 24"),
    "24 and more",
)
_CHARACTERS = (6, 11, 21, 41, 81)
_CHARACTER_BINS = ("1 to 5", "6 to 10", "11 to 20", "21 to 40", "41 to 80", "81 and more")
_SQUARE = 1.05  # sides that differ by less look equal
_NOISE = 1e-6  # of fp16: equal rows have no spread
_ITEMS = "(items of no folder)"
# By the first words of Unicode's names; CJK stands for what Chinese and Japanese share.
_SCRIPTS = {"CJK": "Han", "HIRAGANA": "Kana", "KATAKANA": "Kana"}


@dataclass(frozen=True, slots=True)
class Spread:
    """How numbers are spread.

    Args:
        least: The smallest.
        median: Half of them are no larger.
        most: The largest.
        total: Their sum.
    """

    least: int
    median: float
    most: int
    total: int


@dataclass(frozen=True, slots=True)
class FeatureSummary:
    """How features lie.

    Args:
        embed_dim: Their width.
        centroid_cosine: Mean cosine to their centroid, in [0, 1]: that of a collection in which
            all look the same is 1. It is the length of the mean of the unit rows.
        pair_cosine: Mean cosine of two different pictures, in [-1, 1]; None for fewer than two.
        effective_dimensions: In how many directions they are spread, from 0 (not at all) to their
            width (evenly): (Σλ)² / Σλ² over the eigenvalues of their covariance.

    Source:
        Of the last one, the participation ratio: Gao et al. 2017, bioRxiv 214262, equation 3.
    """

    embed_dim: int
    centroid_cosine: float
    pair_cosine: float | None
    effective_dimensions: float


@dataclass(slots=True)
class Statistics:
    """What a collection consists of; counts are of pictures where nothing else is said.

    Args:
        pictures: How many.
        roots: By indexed folder.
        folders: By folder below the indexed one, ``""`` at its top, the fullest first.
        kinds: By the ending of the file's name.
        file_bytes: Sizes of files, each once; None where none is known.
        same: Files that are equal to one before them.
        megapixels: By size, as shown, the smallest first.
        sizes: By width and height, the commonest first.
        shapes: Upright, square or lying; a square's sides differ by less than 5%.
        first: When the oldest file was last modified, ISO 8601 in UTC; None where no date is known.
        last: When the newest was.
        months: By the month in UTC in which the file was last modified, the oldest first.
        captioned: Pictures with a caption.
        caption_lengths: By characters of the caption, the shortest first.
        caption_length: Characters; None without captions.
        scripts: By the script most letters of the caption are of, not the language.
        fields: Fields of metadata.
        features: How features lie; None without pictures.
        failures: Files that were set aside, by reason, the commonest first; whatever the filter.
    """

    pictures: int = 0
    roots: dict[str, int] = field(default_factory=dict)
    folders: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    file_bytes: Spread | None = None
    same: int = 0
    megapixels: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, int] = field(default_factory=dict)
    first: str | None = None
    last: str | None = None
    months: dict[str, int] = field(default_factory=dict)
    captioned: int = 0
    caption_lengths: dict[str, int] = field(default_factory=dict)
    caption_length: Spread | None = None
    scripts: dict[str, int] = field(default_factory=dict)
    fields: list[Field] = field(default_factory=list)
    features: FeatureSummary | None = None
    failures: dict[str, int] = field(default_factory=dict)


def take_statistics(index_dir: Location, where: Filter | None = None) -> Statistics:
    """Count what an index holds, all as of one moment; no file is opened.

    Args:
        index_dir: Where the index is, a folder or on a server.
        where: Counts only the pictures that this holds of.

    Raises:
        IndexNotFoundError: If there is no index.
        QueryError: If the filter cannot be used.
    """
    with open_as_store(index_dir) as catalogue, catalogue.snapshot():
        rows = selected(catalogue, where)
        told = _of_pictures(records_of(catalogue, rows))
        told.fields = catalogue.filters.fields(where)
        told.features = _of_features(catalogue, rows)
        told.failures = _of_failures(catalogue.failures())
    return told


class _Tally:
    """Counts pictures one by one."""

    def __init__(self) -> None:
        self.roots, self.folders, self.kinds = Counter[str](), Counter[str](), Counter[str]()
        self.sizes, self.shapes, self.scripts = Counter[str](), Counter[str](), Counter[str]()
        self.months = Counter[str]()
        self.megapixels, self.lengths = Counter[int](), Counter[int]()
        self.contents, self.paths = set[bytes](), set[bytes]()
        self.file_bytes: list[int] = []
        self.characters: list[int] = []
        self.moments: list[int] = []
        self.count = self.same = 0

    def add(self, picture: Picture) -> None:
        """Count a picture."""
        self.count += 1
        self.roots[_ITEMS if picture.root is None else displayed(picture.root)] += 1
        self.folders[picture.image_id.rpartition("/")[0]] += 1
        self.kinds["(no file)" if picture.path is None else _kind(picture.path)] += 1
        if picture.path is not None and picture.path not in self.paths:
            self._add_file(picture, picture.path)
        if picture.width and picture.height:
            self._add_size(picture.width, picture.height)
        if picture.mtime_ns is not None:
            self.moments.append(picture.mtime_ns)
        if picture.caption:
            self.characters.append(len(picture.caption))
            self.lengths[bisect_right(_CHARACTERS, len(picture.caption))] += 1
            self.scripts[_script(picture.caption)] += 1

    def _add_file(self, picture: Picture, path: bytes) -> None:
        self.paths.add(path)
        if picture.size is not None:
            self.file_bytes.append(picture.size)
        if picture.content_hash is not None:
            self.same += picture.content_hash in self.contents
            self.contents.add(picture.content_hash)

    def _add_size(self, width: int, height: int) -> None:
        self.sizes[f"{width} × {height}"] += 1
        self.megapixels[bisect_right(_MEGAPIXELS, width * height / 1e6)] += 1
        if max(width, height) < _SQUARE * min(width, height):
            self.shapes["square"] += 1
        else:
            self.shapes["lying" if width > height else "upright"] += 1


def _of_pictures(records: Iterable[Record]) -> Statistics:
    tally = _Tally()
    for record in records:
        tally.add(record.picture)
    moments = np.array(sorted(tally.moments), np.int64).view("datetime64[ns]")
    months, counts = np.unique(moments.astype("datetime64[M]"), return_counts=True)
    return Statistics(
        pictures=tally.count,
        roots=_ranked(tally.roots),
        folders=_ranked(tally.folders),
        kinds=_ranked(tally.kinds),
        file_bytes=_spread(tally.file_bytes),
        same=tally.same,
        megapixels=_binned(tally.megapixels, _MEGAPIXEL_BINS),
        sizes=_ranked(tally.sizes),
        shapes=_ranked(tally.shapes),
        first=_moment(tally.moments, min),
        last=_moment(tally.moments, max),
        months=dict(zip(months.astype(str).tolist(), counts.tolist(), strict=True)),
        captioned=len(tally.characters),
        caption_lengths=_binned(tally.lengths, _CHARACTER_BINS),
        caption_length=_spread(tally.characters),
        scripts=_ranked(tally.scripts),
    )


def _of_features(catalogue: ReadableStore, rows: Rows) -> FeatureSummary | None:
    """Sum features page by page: what it costs follows their number, not its square."""
    width, count = catalogue.embed_dim, 0
    total, products = np.zeros(width), np.zeros((width, width))
    for _, page in feature_pages(catalogue, rows):
        wide = page.astype(np.float64)
        count += len(wide)
        total += wide.sum(axis=0)
        products += wide.T @ wide
    if not count:
        return None
    centroid = total / count
    squared = float(centroid @ centroid)
    covariance = products / count - np.outer(centroid, centroid)
    # Σλ is the trace and Σλ² the sum of squares of a symmetric matrix: no eigenvalue is needed
    spread, squares = float(np.trace(covariance)), float(np.square(covariance).sum())
    return FeatureSummary(
        embed_dim=width,
        centroid_cosine=min(1.0, squared**0.5),
        pair_cosine=(count * squared - 1.0) / (count - 1) if count > 1 else None,
        effective_dimensions=spread**2 / squares if spread > _NOISE else 0.0,
    )


def _of_failures(failures: Iterable[Failure]) -> dict[str, int]:
    return _ranked(Counter(failure.reason for failure in failures))


def _kind(path: bytes) -> str:
    return displayed_text(ending_of(path)) or "(no ending)"


def _spread(numbers: list[int]) -> Spread | None:
    if not numbers:
        return None
    return Spread(min(numbers), float(np.median(numbers)), max(numbers), sum(numbers))


def _ranked(counts: Counter[str]) -> dict[str, int]:
    """Order counts, the largest first, those of one size by name."""
    return dict(sorted(counts.items(), key=lambda counted: (-counted[1], counted[0])))


def _binned(counts: Counter[int], names: Sequence[str]) -> dict[str, int]:
    """Name counts by bin, from the first bin that holds any to the last."""
    if not counts:
        return {}
    return {names[i]: counts[i] for i in range(min(counts), max(counts) + 1)}


def _moment(moments: list[int], choose: Callable[[list[int]], int]) -> str | None:
    if not moments:
        return None
    return str(np.array(choose(moments)).view("datetime64[ns]").astype("datetime64[s]")) + "Z"


def _script(text: str) -> str:
    """Name the script that most letters of a text are of; kana, since it stands beside Han."""
    counts = Counter(map(_script_of, filter(str.isalpha, text)))
    if not counts:
        return "no letters"
    return "Kana" if "Kana" in counts else counts.most_common(1)[0][0]


@functools.lru_cache(maxsize=16_384)
def _script_of(char: str) -> str:
    first = unicodedata.name(char, "unknown").split()[0]
    return _SCRIPTS.get(first, first.capitalize())
