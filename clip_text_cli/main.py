"""The command ``clip-text``: its subcommands, and how an error of theirs reads.

Exit codes: 0 done; 1 an error, told in one line; 2 a wrong option; 3 indexed, but some files
were set aside; 130 stopped by Ctrl-C.
"""

import sys
from collections.abc import Callable

import typer
from rich.markup import escape

from clip_text_cli import convert, data, evaluate, pictures, tokens, train
from clip_text_cli.output import err, set_up_output

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Search pictures with Chinese (and other) words.",
)
app.command("index")(pictures.index)
app.command("search")(pictures.search)
app.command("serve")(pictures.serve)
app.command("convert")(convert.convert)
app.command("tokens")(tokens.command)
app.command("demo")(pictures.demo)
app.add_typer(data.app, name="data")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(train.app, name="train")


def main(*before: str) -> None:
    """Run the command.

    Args:
        before: What the command line is taken to begin with, such as ``train``, ``ner``.
    """
    sys.argv[1:1] = before
    run(app)


def run(command: Callable[[], object]) -> None:
    """Run a command; an error of ours is one line, not a stack trace."""
    from clip_text.allocator import keep_freed_memory
    from clip_text.errors import ClipTextError
    from retrieval.errors import RetrievalError

    keep_freed_memory()
    set_up_output()
    try:
        command()
    except (ClipTextError, RetrievalError, OSError) as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("stopped; the same command goes on from here")
        sys.exit(130)
