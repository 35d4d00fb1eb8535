"""The commands ``clip-text train …``, each in a module of its own."""

import typer

from clip_text_cli.train import classifier, contrastive, distill, mlm, ner, pairs, qa

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@app.callback()
def train() -> None:
    """Train a model of your own.

    Example:
        clip-text train contrastive photos.jsonl --val val.jsonl --out my-model
    """


app.command("classifier")(classifier.command)
app.command("contrastive")(contrastive.command)
app.command("distill")(distill.distill)
app.command("mlm")(mlm.mlm)
app.command("ner")(ner.command)
app.command("pairs")(pairs.command)
app.command("qa")(qa.command)
