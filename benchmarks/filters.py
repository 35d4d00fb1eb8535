"""What filters and facets cost, and what the table behind them costs when pictures are written.

    python benchmarks/filters.py --pictures 100000

Made-up pictures, no model: six fields of metadata each, twelve values or so. Figures are
milliseconds of CPU, the least of five; "first" is after a write, when nothing is kept, "again"
the same question once more.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from retrieval.catalogue import Catalogue, followers
from retrieval.filters import matches
from retrieval.filters.language import parse_where
from retrieval.records import Picture

FILTERS = (
    "serial < 0.0005",
    "serial < 0.01",
    "shelf = 7",
    'tags = "标签3"',
    "year >= 2022 and year < 2024",
    "serial < 0.5",
    "not shelf in (1, 2, 3, 4, 5)",
    'folder startswith "1/" and date >= 2001',
    'year >= 2020 and tags = "标签3" and not exists(gps) or author startswith "作者 99"',
)
FACETS = (
    ("year", None),
    ("tags", None),
    ("author", None),
    ("tags", "serial < 0.1"),
    ("date", None),
)


def pictures(count: int) -> Iterator[Picture]:
    """Make pictures up, always the same."""
    draw = random.Random(1)  # noqa: S311
    for i in range(count):
        metadata = {
            "year": draw.randrange(2004, 2024),
            "tags": [f"标签{draw.randrange(100)}" for _ in range(2)],
            "author": f"作者 {draw.randrange(1_000)}",
            "serial": draw.random(),
            "shelf": draw.randrange(100),
            "source": {"url": f"https://example.org/pictures/{i}", "licence": "CC0"},
        }
        if draw.random() < 0.5:
            metadata["gps"] = {"lat": draw.random(), "lon": draw.random()}
        image_id = f"{i % 100}/{i}.jpg"
        said = json.dumps(metadata, ensure_ascii=False)
        at = draw.randrange(10**18, 17 * 10**17)
        yield Picture(b"/p", b"/p/" + image_id.encode(), image_id, 1, at, b"", 640, 480, None, said)


def cpu_ms(work: Callable[[], object], before: Callable[[], object] = int) -> float:
    """Measure the least CPU time of five calls, in milliseconds."""
    times = []
    for _ in range(5):
        before()
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1_000 * min(times)


def write(folder: Path, count: int, *, fields: bool) -> tuple[float, int]:
    """Write pictures in batches of 64; gives CPU seconds and the bytes of the catalogue."""
    told = followers.FOLLOWERS[:]
    if not fields:
        followers.FOLLOWERS.remove(followers.FIELDS)
    feature = np.full(512, 512**-0.5, np.float32)
    made = list(pictures(count))
    with Catalogue.create_or_open(folder, fingerprint="f", embed_dim=512) as catalogue:
        start = time.process_time()
        for first in range(0, count, 64):
            with catalogue.transaction():
                for picture in made[first : first + 64]:
                    catalogue.add(picture, feature)
        took = time.process_time() - start
        catalogue.connection.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    followers.FOLLOWERS[:] = told
    return took, sum(path.stat().st_size for path in folder.iterdir())


def run(count: int, *, brute_force: bool) -> dict[str, float]:
    """Write with and without the table, then ask."""
    figures: dict[str, float] = {"pictures": count}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "with"
        for told, where in (("without", Path(name) / "without"), ("with", folder)):
            seconds, size = write(where, count, fields=told == "with")
            figures[f"{told}_table_write_us"] = 1e6 * seconds / count
            figures[f"{told}_table_bytes"] = size / count
        with Catalogue.open(folder) as catalogue:
            return figures | measure(catalogue, brute_force=brute_force)


def measure(catalogue: Catalogue, *, brute_force: bool) -> dict[str, float]:
    """Give how many pictures filters find, and what they and facets cost."""
    filters = catalogue.filters
    figures: dict[str, float] = {}

    def forget() -> None:
        filters._version = None

    def time_both(what: str, ask: Callable[[], object]) -> None:
        figures[f"{what}: first_ms"] = cpu_ms(ask, forget)
        figures[f"{what}: again_ms"] = cpu_ms(ask)

    for text in FILTERS:
        where = parse_where(text)
        time_both(text, partial(filters.rows, where))
        rows = filters.rows(where)
        figures[f"{text}: pictures"] = len(rows)
        if brute_force:
            assert rows.tolist() == [one.row for one in catalogue if matches(where, one)]
    for field, text in FACETS:
        where = None if text is None else parse_where(text)
        told = f"facets of {field}" + (f" where {text}" if text else "")
        time_both(told, partial(filters.facets, field, where))
    return figures


def show(figures: dict[str, float]) -> None:
    """Print a table."""
    for told in ("without", "with"):
        print(
            f"writing {figures['pictures']:,} pictures {told} the table: "
            f"{figures[f'{told}_table_write_us']:.0f} µs of CPU and "
            f"{figures[f'{told}_table_bytes']:.0f} bytes each"
        )
    print(f"{'pictures':>10} {'first':>8} {'again':>8}  ms of CPU")
    for what in (name.removesuffix(": first_ms") for name in figures if name.endswith("first_ms")):
        found = figures.get(f"{what}: pictures")
        first, again = figures[f"{what}: first_ms"], figures[f"{what}: again_ms"]
        print(f"{'' if found is None else f'{found:,}':>10} {first:>8.2f} {again:>8.2f}  {what}")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--brute-force", action="store_true", help="Check each answer.")
    parser.add_argument("--quick", action="store_true", help="Under a minute.")
    parser.add_argument("--json", action="store_true", help="A flat object of figures.")
    options = parser.parse_args()
    count = 5_000 if options.quick else options.pictures
    figures = run(count, brute_force=options.brute_force)
    if options.json:
        print(json.dumps(figures, ensure_ascii=False))
    else:
        show(figures)


if __name__ == "__main__":
    main()
