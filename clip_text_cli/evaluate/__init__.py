"""The commands ``clip-text evaluate …``, each in a module of its own."""

from typing import Any

import typer
from typer.core import TyperGroup

from clip_text_cli.evaluate import languages, retrieval, robustness, zero_shot


class _RetrievalByDefault(TyperGroup):
    """``clip-text evaluate FILE`` is ``clip-text evaluate retrieval FILE``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  (click's)
        """Put in the command that was left out."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["retrieval", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RetrievalByDefault,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Measure a model: retrieval (the default), zero-shot, languages, robustness.

    Examples:
        clip-text evaluate flickr8k-cn/val.jsonl --kind zh

        clip-text evaluate zero-shot animals/ --confusion confusion.png
    """,
)
app.command("retrieval")(retrieval.command)
app.command("zero-shot")(zero_shot.command)
app.command("languages")(languages.command)
app.command("robustness")(robustness.command)
