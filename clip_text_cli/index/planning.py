"""``clip-text index plan``: what so many pictures would take, before there are any."""

import re
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from clip_text_cli.index.sealing import read_bytes
from clip_text_cli.options import AsJson
from clip_text_cli.output import out, print_json

_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "万": 10**4, "亿": 10**8}
_BYTES = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
_TIMES = (("years", 365 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60), ("s", 1))


def plan(
    pictures: Annotated[str, typer.Option(help="How many, as 250000, 100M, 10B or 1亿.")],
    dim: Annotated[int, typer.Option(min=1, help="Width of the model's features.")] = 512,
    rate: Annotated[
        float, typer.Option(min=0.001, help="Pictures a worker encodes in a second.")
    ] = 28.3,
    workers: Annotated[int, typer.Option(min=1, help="How many workers encode.")] = 1,
    machine: Annotated[str, typer.Option(help="Memory of a machine that searches.")] = "64GB",
    disk: Annotated[str, typer.Option(help="What its disk reads in a second.")] = "1GB",
    record: Annotated[
        int, typer.Option(min=1, help="Bytes of a picture beside its feature.")
    ] = 870,
    as_json: AsJson = False,
) -> None:
    """Reckon memory, disk, machines and hours of so many pictures; no index is needed.

    Bytes follow from each kind's layout, times from measured figures; docs/scaling.md has the
    sources, and what they leave out. The rate by default is ViT-B/16's on 2 cores of an Intel Xeon
    with AMX.

    Examples:
        clip-text index plan --pictures 100M

        clip-text index plan --pictures 1B --dim 256 --rate 198 --workers 50 --machine 256GB
    """
    from retrieval.index.planning import plan as reckon

    planned = reckon(
        *(read_count(pictures), dim, rate, workers),
        machine=_size_of(machine, "--machine"),
        disk_rate=_size_of(disk, "--disk"),
        record=record,
    )
    if as_json:
        print_json(asdict(planned))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("index", "memory", "disk", "machines", "load"):
        table.add_column(column, justify="left" if column == "index" else "right", no_wrap=True)
    for size in planned.sizes:
        table.add_row(
            *(size.name, told_bytes(size.memory), told_bytes(size.disk) if size.disk else ""),
            *(f"{size.machines:,}", told_time(size.load_seconds)),
        )
    out.print(table)
    lines = [
        f"embedding       {told_time(planned.embed_hours * 3600)}",
        f"one catalogue   {told_bytes(planned.catalogue)}, filled in "
        f"{told_time(planned.fill_hours * 3600)}",
        f"{planned.recipe.factory}: {told_time(planned.build_hours * 3600)} of CPU to build, "
        f"{told_seconds(planned.query_seconds)} of CPU a search",
        *(f"- {limit}" for limit in planned.limits),
    ]
    out.print("\n".join(lines), soft_wrap=True)


def read_count(text: str) -> int:
    """Read a number of pictures like 100M.

    Raises:
        typer.BadParameter: If it is none, or below 1.
    """
    parsed = re.fullmatch(r"\s*([0-9][0-9_,]*(?:\.[0-9]+)?)\s*([kmb万亿]?)\s*", text.lower())
    number = (
        float(parsed[1].replace(",", "").replace("_", "")) * _COUNTS[parsed[2]] if parsed else 0
    )
    if number < 1:
        raise typer.BadParameter(
            f"expected a number of pictures like 250000, 100M or 10B, got {text!r}. Correct it."
        )
    return round(number)


def told_bytes(number: float) -> str:
    """Say a number of bytes in three digits and a unit of thousands."""
    unit, size = next(((u, s) for u, s in _BYTES if number >= s), ("B", 1.0))
    return f"{_digits(number / size)} {unit}"


def told_time(seconds: float) -> str:
    """Say a time in the largest unit that it fills."""
    unit, size = next(((u, s) for u, s in _TIMES if seconds >= s), ("s", 1))
    return f"{_digits(seconds / size)} {unit}"


def told_seconds(seconds: float) -> str:
    """Say a short time in ms, a longer one in seconds."""
    return f"{_digits(seconds * 1e3)} ms" if seconds < 1 else f"{_digits(seconds)} s"


def _digits(number: float) -> str:
    return (
        f"{number:,.0f}" if number >= 100 else f"{number:,.1f}" if number >= 10 else f"{number:.2f}"
    )


def _size_of(text: str, option: str) -> int:
    found = read_bytes(text)
    if not found:
        raise typer.BadParameter(
            f"expected a size like 64GB at {option}, got {text!r}. Correct it."
        )
    return found
