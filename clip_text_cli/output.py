"""Where commands print."""

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from clip_text.progress import Progress

if TYPE_CHECKING:
    from retrieval.ingest import OnProgress

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def set_up_output() -> None:
    r"""Let stdout and stderr take every character, and keep other libraries' bars off them.

    A Windows console may be GBK or cp1252, and a file's name may hold an emoji, or bytes that are
    no text at all: ``\U0001f436`` stands for a character that the encoding has not. The bars are
    those of huggingface_hub and transformers, of the shards of one small file, say.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read when they are imported
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # tests put other things there
            stream.reconfigure(errors="backslashreplace")


def print_json(value: object) -> None:
    """Print one JSON document on stdout; all of it in ASCII where its encoding lacks a character.

    JSON's own escapes stand for that one then, so that it is the same document.
    """
    text = json.dumps(value, ensure_ascii=False, indent=2)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    sys.stdout.write(text + "\n")


def check_sheet(sheet: Path | None) -> None:
    """Refuse early a sheet that could not be drawn after the work; None is none.

    Raises:
        typer.BadParameter: If its ending is of no format.
        StorageError: If the file cannot be written.
    """
    if sheet is None:
        return
    from clip_text.storage import check_writable
    from retrieval.sheet import SHEET_SUFFIXES

    if sheet.suffix.lower() not in SHEET_SUFFIXES:
        raise typer.BadParameter(
            f"expected a sheet's name that ends in {', '.join(SHEET_SUFFIXES)}, got "
            f"{sheet.name!r}. Rename it."
        )
    check_writable(sheet)


def progress_bar(
    count: ProgressColumn | None = None, *more: str | ProgressColumn, shown: bool = True
) -> Bars:
    """A bar with the name of what is done, a count and the time left, on stderr.

    Args:
        count: What tells how much is done; so many of so many by default.
        more: Columns behind it, in rich's words.
        shown: False for none; there is none off a terminal either.
    """
    return Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        count or MofNCompleteColumn(),
        *more,
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not (shown and err.is_terminal),
    )


@contextmanager
def named_bars(*, shown: bool = True) -> Iterator[Progress]:
    """A bar for each thing that is told of, as long as it goes on.

    Yields:
        What to tell.
    """
    tasks: dict[str, TaskID] = {}
    with progress_bar(shown=shown) as bar:

        def progress(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name)
            bar.update(tasks[name], completed=done, total=total, visible=done < total)

        yield progress


@contextmanager
def indexing_bar(
    runtime: "Callable[[], str | None] | None" = None, what: str = "indexing"
) -> "Iterator[OnProgress]":
    """A bar with rate and time left, on stderr and only on a terminal.

    Args:
        runtime: Names what computes pictures; asked and told when it has computed the first.
        what: Is done, in a word.
    """
    from retrieval.ingest import Progress as Standing

    bar = Bars(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
    task = bar.add_task(what, total=None, rate="")

    def on_progress(standing: Standing) -> None:
        nonlocal runtime
        if runtime and standing.encoded:
            if name := runtime():
                err.print(f"Pictures are computed by {name}.", soft_wrap=True)
            runtime = None
        rate = f"{standing.images_per_second:.1f} images/s"
        if standing.failed:
            rate += f", {standing.failed} set aside"
        bar.update(task, completed=standing.done, total=standing.total, rate=rate)

    with bar:
        yield on_progress


@contextmanager
def reading_bar() -> "Iterator[Callable[[int, int], None]]":
    """A bar with the time left for reading text, on stderr and only on a terminal."""
    bar = Bars(
        *(SpinnerColumn(), TextColumn("reading text"), BarColumn()),
        *(MofNCompleteColumn(), TimeRemainingColumn()),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
    task = bar.add_task("reading", total=None)
    with bar:
        yield lambda done, total: bar.update(task, completed=done, total=total)
