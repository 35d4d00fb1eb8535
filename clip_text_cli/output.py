"""Where commands print."""

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from clip_text.progress import Progress

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
