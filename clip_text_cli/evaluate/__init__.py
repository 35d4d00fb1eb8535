"""The commands ``clip-text evaluate …``, each in a module of its own."""

import typer

from clip_text_cli.evaluate import languages, retrieval, robustness, vectors, zero_shot
from clip_text_cli.groups import with_default

app = typer.Typer(
    cls=with_default("retrieval"),
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Measure a model: retrieval (the default), zero-shot, languages, robustness, vectors.

    Examples:
        clip-text evaluate flickr8k-cn/val.jsonl --kind zh

        clip-text evaluate zero-shot animals/ --confusion confusion.png
    """,
)
app.command("retrieval")(retrieval.command)
app.command("zero-shot")(zero_shot.command)
app.command("languages")(languages.command)
app.command("robustness")(robustness.command)
app.command("vectors")(vectors.command)
