"""Searches over HTTP under load: requests/s and latencies as connections grow, and beyond.

    python benchmarks/serve.py                     100,000 entries
    python benchmarks/serve.py --workers 2
    python benchmarks/serve.py --before OLD        beside another checkout's service

The load comes from wrk and, beyond what can be served, from hey, in processes of their own on the
same machine. Each round asks the service, the same one with batches of one, and an empty route of
the same application in turn. No two queries are alike but in "again", where 200 are.
"""

import argparse
import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from serve_data import fill, searches
from serve_load import Load, Served, Told, overload, press, served

CONNECTIONS = (1, 8, 32, 128)
MEASURED = 32
EMPTY = Load("/healthz")
ROOT = Path(__file__).parents[1]


def start(index: Path, workers: int, *, batch: int | None = None, tree: Path | None = None) -> list:
    """Say how a service is started, and with which variables."""
    options = ["serve", "--index", str(index), "--port", "{port}"]
    options += ["--workers", str(workers)] if workers > 1 else []
    environment = {} if batch is None else {"CLIP_TEXT_SERVE_BATCH": str(batch)}
    environment["PYTHONPATH"] = str(tree or ROOT)
    command = [sys.executable, "-P", "-c", "from clip_text_cli.main import main; main()"]
    return [[*command, *options], "/health" if tree else "/healthz", environment]


def rounds(
    services: dict[str, Served], load: Load, many: int, seconds: float
) -> dict[tuple[str, int], list[Told]]:
    """Ask all services in turn, at each number of connections."""
    told: dict[tuple[str, int], list[Told]] = {}
    for _ in range(many):
        for connections in CONNECTIONS:
            for name, service in services.items():
                told.setdefault((name, connections), []).append(
                    press(service, load, connections, seconds)
                )
        batched = services["service"]
        told.setdefault(("empty", MEASURED), []).append(press(batched, EMPTY, MEASURED, seconds))
        again = Load(load.path, load.bodies[:200])
        told.setdefault(("again", MEASURED), []).append(press(batched, again, MEASURED, seconds))
    return told


def beyond(service: Served, load: Load, seconds: float) -> dict[str, float]:
    """Ask ten times as much as fills the service, then a little again."""
    calm = press(service, load, 1, seconds)
    memory = service.resident_bytes()
    statuses, p99 = overload(service, load, 10 * MEASURED, 2 * seconds)
    later = press(service, load, 1, seconds)
    others = {status: many for status, many in statuses.items() if status not in (200, 429)}
    return {
        "overload_accepted": statuses.get(200, 0),
        "overload_refused": statuses.get(429, 0),
        "overload_other": sum(others.values()),
        "overload_accepted_p99_ms": p99,
        "overload_p99_over_calm": p99 / calm.p99,
        "overload_memory_growth_bytes": service.resident_bytes() - memory,
        "after_p50_over_before": later.p50 / calm.p50,
    }


def median(told: list[Told]) -> Told:
    """Take the round in the middle, by requests/s."""
    middle = statistics.median_low([each.per_second for each in told])
    return next(each for each in told if each.per_second == middle)


def main() -> None:
    """Print a table, or with --json a flat object of figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000, help="Entries of the index.")
    parser.add_argument("--index", type=Path, help="Keep the index here; else it is thrown away.")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--before", type=Path, help="Another checkout, to be asked in turn.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="Of each load.")
    parser.add_argument("--quick", action="store_true", help="Under a minute.")
    parser.add_argument("--json", action="store_true", help="A flat object of figures.")
    options = parser.parse_args()
    rows, seconds = (3_000, 1.0) if options.quick else (options.rows, options.seconds)
    with ExitStack() as stack:
        folder = options.index or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "index"
        fill(folder, rows)
        load = Load("/v1/search", searches(folder, 2_000 if options.quick else 50_000))
        ways = {
            "service": start(folder, options.workers),
            "batches of one": start(folder, options.workers, batch=1),
        }
        if options.before:
            ways["before"] = start(folder, 1, tree=options.before.resolve())
        services = {name: stack.enter_context(served(*way)) for name, way in ways.items()}
        for service in services.values():
            press(service, load, 8, seconds)  # compiled, mapped, in caches
        many = 1 if options.quick else options.rounds
        told = {key: median(each) for key, each in rounds(services, load, many, seconds).items()}
        figures: dict[str, float] = {"rows": rows, "workers": options.workers}
        for (name, connections), each in told.items():
            figures |= each.figures(f"{name.replace(' ', '_')}_{connections}")
            if not options.json:
                print(
                    f"{name:15s} {connections:4d} connections {each.per_second:8.1f} requests/s  "
                    f"p50 {each.p50:7.1f}  p95 {each.p95:7.1f}  p99 {each.p99:7.1f} ms  "
                    f"CPU {each.cpu_ms:5.2f} ms  failed {each.failed}",
                    flush=True,
                )
        batched = told["service", MEASURED].per_second
        for name in ("batches of one", "empty", *(["before"] if options.before else [])):
            figures[f"over_{name.replace(' ', '_')}"] = batched / told[name, MEASURED].per_second
        figures |= beyond(services["service"], load, seconds)
    if options.json:
        print(json.dumps(figures))
    else:
        for name in [name for name in figures if name.startswith(("over", "after"))]:
            print(f"{name:30s} {figures[name]:12.3f}")


if __name__ == "__main__":
    main()
