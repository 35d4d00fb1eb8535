"""The commands ``clip-text train …``, each in a module of its own."""

import typer

from . import distill_text, train_contrastive

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Train a model of your own.",
)


@app.callback()
def train() -> None:
    """Train a model of your own."""  # with it, a single command keeps its name


app.command("contrastive")(train_contrastive.command)
app.command("distill")(distill_text.distill)
