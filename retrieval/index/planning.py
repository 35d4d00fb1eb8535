"""What so many pictures would take, on paper: memory, disk, machines, hours; nothing is measured.

Bytes follow from how each kind of index lays out its vectors; times are drawn on from what
docs/benchmarks.md has measured, and say so.
"""

import math
from dataclasses import dataclass, field

from retrieval.index.recipes import Recipe, choose_recipe

__all__ = ["Plan", "Size", "plan"]

USABLE = 0.7
"""Share of a machine's memory that vectors may have; the rest is the system's, the service's and
that of segments which are being replaced."""

LINKS = 16
"""M of HNSW; docs/benchmarks.md has it beside the others' recall."""

_ID = 8  # bytes of a row's number in FAISS's inverted lists
_SECTOR = 4096
# Milvus's defaults of DiskANN: max_degree, pq_code_budget_gb_ratio, search_cache_budget_gb_ratio.
_DEGREE, _CODES, _CACHE = 56, 0.125, 0.1

# Measured: docs/benchmarks.md, 27 November 2026, 2 cores of an Intel Xeon with AMX, width 512.
_MEASURED_DIM = 512
_BUILT = ((100_000, 5.8), (1_000_000, 129.0))  # rows of lists, and CPU seconds
_FILL_SECONDS = 952 / 1_000_000  # by the clock, an item: one writer, sealing included
_EXACT_SECONDS = 0.195 / 1_000_000  # CPU, a row and query
# of a million rows in 2,000 lists, looked through by 8 and by 256 of them
_LOOKED = ((4_000, 1.35e-3), (128_000, 6.89e-3))  # rows, and CPU seconds a query


@dataclass(frozen=True, slots=True)
class Size:
    """What one kind of index holds.

    Args:
        name: Of the kind, as FAISS or Milvus call it.
        memory: Bytes that have to be in memory.
        disk: Bytes that are read from a disk while searching, those in memory not among them.
        machines: How many of the given memory hold it.
        load_seconds: To read what has to be in memory from the machines' disks.
        note: What it is, or whose formula this is.
    """

    name: str
    memory: float
    disk: float
    machines: int
    load_seconds: float
    note: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What so many pictures would take.

    Args:
        pictures: How many.
        embed_dim: Width of the features.
        sizes: Kinds of index, from the exact to the smallest in memory.
        catalogue: Bytes of the embedded engine's catalogue: features in fp16, records, words.
        embed_hours: To compute the features, by all workers together.
        fill_hours: To write them into one catalogue, by its one writer.
        build_hours: CPU hours to build the lists that the embedded engine would choose.
        query_seconds: CPU seconds of a search by what the embedded engine would choose.
        recipe: Which that is.
        limits: What gives way, in words, the narrowest first; none if all is well.
    """

    pictures: int
    embed_dim: int
    sizes: list[Size]
    catalogue: float
    embed_hours: float
    fill_hours: float
    build_hours: float
    query_seconds: float
    recipe: Recipe
    limits: list[str] = field(default_factory=list)


def plan(  # noqa: PLR0917
    pictures: int,
    embed_dim: int,
    rate: float,
    workers: int = 1,
    machine: float = 64e9,
    disk_rate: float = 1e9,
    record: float = 870,
) -> Plan:
    """Reckon what so many pictures would take.

    Args:
        pictures: How many, 1 or more.
        embed_dim: Width of the features.
        rate: Pictures that one worker encodes in a second.
        workers: How many of these there are.
        machine: Bytes of memory of a machine; :data:`USABLE` of them are for vectors.
        disk_rate: Bytes a second that a machine reads from its disk.
        record: Bytes of a picture in the catalogue beside its feature.

    Raises:
        ValueError: If a number is not above 0.
    """
    given = {
        **{"pictures": pictures, "embed_dim": embed_dim, "rate": rate, "workers": workers},
        **{"machine": machine, "disk_rate": disk_rate, "record": record},
    }
    for name, value in given.items():
        if not value > 0:
            raise ValueError(f"expected {name} above 0, got {value}. Correct it.")
    recipe = choose_recipe(pictures, embed_dim)
    planned = Plan(
        pictures=pictures,
        embed_dim=embed_dim,
        sizes=[
            _size(name, note, (memory * pictures, disk * pictures), machine, disk_rate)
            for name, memory, disk, note in _bytes_each(pictures, embed_dim)
        ],
        catalogue=pictures * (2.0 * embed_dim + record),
        embed_hours=pictures / rate / workers / 3600,
        fill_hours=pictures * _FILL_SECONDS / 3600,
        build_hours=0.0 if recipe.is_exact else _build_seconds(pictures, embed_dim) / 3600,
        query_seconds=_query_seconds(pictures, embed_dim, recipe),
        recipe=recipe,
    )
    planned.limits.extend(_limits(planned, machine))
    return planned


def _size(
    name: str, note: str, held: tuple[float, float], machine: float, disk_rate: float
) -> Size:
    memory, disk = held
    machines = max(1, math.ceil(memory / (USABLE * machine)))
    return Size(name, memory, disk, machines, memory / machines / disk_rate, note)


def _bytes_each(count: int, dim: int) -> list[tuple[str, float, float, str]]:
    """Name kinds of index, and the bytes of a vector in memory and on disk.

    Source:
        FAISS's wiki, "Guidelines to choose an index" (HNSW: 4d + 8M bytes a vector) and "Faiss
        indexes" (flat 4d; SQ8 d; PQ a byte for each part). Milvus's documentation of DISKANN and
        of ``knowhere`` (codes an eighth of the vectors, a cache of a tenth, 56 neighbours), and
        Subramanya et al. 2019, "DiskANN", section 3.2 (a vector and its neighbours' numbers lie
        in one sector of the disk).
    """
    lists = min(count, math.isqrt(4 * count))
    centres = 4 * dim * lists / count
    node = 4 * dim + 4 * (_DEGREE + 1)
    fit = _SECTOR // node
    on_disk = _SECTOR / fit if fit else float(_SECTOR * math.ceil(node / _SECTOR))
    pairs = dim // 2 / 2
    return [
        ("exact, fp32", 4 * dim, 0, "FAISS Flat, Milvus FLAT"),
        (f"HNSW, M={LINKS}", 4 * dim + 8 * LINKS, 0, "FAISS HNSW16,Flat, Milvus HNSW"),
        ("exact, fp16", 2 * dim, 0, "of this package up to 50,000 pictures"),
        ("IVF-SQ8", dim + _ID + centres, 0, "FAISS IVF,SQ8, Milvus IVF_SQ8"),
        ("DiskANN", 4 * dim * (_CODES + _CACHE), on_disk, "Milvus DISKANN"),
        ("IVF-PQ4, fp16 mapped", pairs + _ID + centres, 2 * dim, "of this package"),
        ("IVF-PQ8", max(1, dim // 8) + _ID + centres, 0, "FAISS IVF,PQ, Milvus IVF_PQ"),
    ]


def _build_seconds(count: int, dim: int) -> float:
    """Draw on the measured CPU seconds of building lists.

    Teaching 2√n centres with 256 rows each takes a time in proportion to n, finding the centre of
    n rows among 2√n one in proportion to n√n; both in proportion to the width.
    """
    (few, quick), (many, slow) = _BUILT
    steep = (slow - quick * many / few) / (many**1.5 - few**1.5 * many / few)
    plain = (quick - steep * few**1.5) / few
    return float((plain * count + steep * count**1.5) * dim / _MEASURED_DIM)


def _query_seconds(count: int, dim: int, recipe: Recipe) -> float:
    """Draw on the measured CPU seconds of one search."""
    if recipe.is_exact:
        return _EXACT_SECONDS * count * dim / _MEASURED_DIM
    (few, quick), (many, slow) = _LOOKED
    each = (slow - quick) / (many - few)
    looked = min(recipe.probes, recipe.lists) / recipe.lists * count
    return quick + each * max(0.0, looked - few) * dim / _MEASURED_DIM


def _limits(planned: Plan, machine: float) -> list[str]:
    """Say what gives way first in one embedded index."""
    told = list[str]()
    if planned.fill_hours > 24:
        told.append(
            f"one writer takes {planned.fill_hours / 24:,.1f} days to fill one catalogue: write "
            "features into files beside each other, and load them into an engine that shares them "
            "out"
        )
    if planned.query_seconds > 0.1:
        told.append(
            f"a search takes {planned.query_seconds:,.2f} CPU seconds by {planned.recipe.factory} "
            f"with {planned.recipe.probes:,} lists: look into fewer (index build), or share the "
            "rows out"
        )
    if planned.build_hours > 12:
        told.append(
            f"building the lists takes {planned.build_hours:,.0f} CPU hours, each time that a "
            "twentieth of the pictures is new: build segments apart, as Milvus does"
        )
    own = next(size for size in planned.sizes if size.note == "of this package")
    if own.machines > 1:
        told.append(
            f"short codes take {own.memory / 1e9:,.0f} GB of memory, one machine has "
            f"{USABLE * machine / 1e9:,.0f} for them"
        )
    if planned.embed_hours > 24 * 30:
        told.append(
            f"computing the features takes {planned.embed_hours / 24 / 30:,.1f} months: more "
            "workers, or GPUs"
        )
    return told
