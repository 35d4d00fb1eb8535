"""The commands ``clip-text train …``, each in a module of its own."""

import typer

from . import distill_text, pretrain_mlm, train_classifier, train_contrastive, train_ner, train_qa

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


app.command("classifier")(train_classifier.command)
app.command("contrastive")(train_contrastive.command)
app.command("distill")(distill_text.distill)
app.command("mlm")(pretrain_mlm.mlm)
app.command("ner")(train_ner.command)
app.command("qa")(train_qa.command)
