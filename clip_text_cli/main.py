"""The command ``clip-text``: its subcommands, and how an error of theirs reads.

Exit codes: 0 done; 1 an error, told in one line; 2 a wrong option; 3 indexed or embedded, but some
files were set aside; 130 stopped by Ctrl-C.
"""

import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from clip_text_cli import (
    compare,
    convert,
    data,
    embed,
    evaluate,
    export,
    index,
    info,
    keys,
    pictures,
    serving,
    tokens,
    train,
)
from clip_text_cli.output import err, out
from clip_text_cli.process import set_up_process

STOPPED = 130  # as shells have it: 128 and the number of the signal

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        out.print(f"clip-text {version('clip-text')}")
        raise typer.Exit


@app.callback()
def clip_text(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Search pictures with Chinese (and other) words.

    Example:
        clip-text demo
    """


app.command("search")(pictures.search)
app.command("serve")(serving.serve)
app.command("embed")(embed.embed)
app.command("compare")(compare.compare)
app.command("convert")(convert.convert)
app.command("export")(export.export)
app.command("info")(info.info)
app.command("tokens")(tokens.command)
app.command("demo")(pictures.demo)
app.add_typer(data.app, name="data")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(index.app, name="index")
app.add_typer(keys.app, name="keys")
app.add_typer(train.app, name="train")


def main(*before: str) -> None:
    """Run the command.

    Args:
        before: What the command line is taken to begin with, such as ``train``, ``ner``.
    """
    sys.argv[1:1] = before
    run(app, goes_on=_goes_on(sys.argv[1:]))


def _goes_on(words: list[str]) -> bool:
    """Say whether a command that was stopped goes on from what it has stored by then."""
    if words[:1] == ["index"]:
        others = {one.name for one in index.app.registered_commands} - {"folder", "migrate"}
        return not others.intersection(words[1:2])
    if words[:1] == ["compare"]:
        return any(word.partition("=")[0] == "--keep" for word in words)
    return words[:1] in (["train"], ["demo"], ["embed"])


def run(command: Callable[[], object], *, goes_on: bool = True) -> None:
    """Run a command; an error of ours, or of a full disk, is one line, not a stack trace.

    Args:
        command: What to run.
        goes_on: Whether the same again goes on where it was stopped, which is told then.
    """
    try:
        _run(command)
    except SystemExit as stop:
        # typer ends a command with this code when it is stopped, and says nothing.
        if stop.code == STOPPED:
            _say_stopped(goes_on=goes_on)
        raise
    except KeyboardInterrupt:
        _say_stopped(goes_on=goes_on)
        sys.exit(STOPPED)


def _run(command: Callable[[], object]) -> None:
    from clip_text.errors import ClipTextError
    from retrieval.errors import RetrievalError

    set_up_process()
    try:
        try:
            command()
        finally:
            _flush()
    except (ClipTextError, RetrievalError) as error:
        _fail(str(error))
    except Exception as error:
        from clip_text.storage import disk_trouble

        if reason := disk_trouble(error):
            name = getattr(error, "filename", None)
            where = f"to write {name}" if name else "room on the disk"
            _fail(f"expected {where}, got: {reason}. Free some space, or write to another disk.")
        if isinstance(error, BrokenPipeError):
            sys.exit(1)  # who reads our output has seen enough, as head does
        if not isinstance(error, OSError | sqlite3.OperationalError):
            raise
        _fail(str(error))


def _flush() -> None:
    """Write out what was printed while an error can still be told."""
    try:
        sys.stdout.flush()
    except OSError:
        # Python would try once more at its end, and complain in its own words.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _fail(message: str) -> NoReturn:
    err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(1)


def _say_stopped(*, goes_on: bool) -> None:
    err.print("stopped; the same command goes on from here" if goes_on else "stopped")
