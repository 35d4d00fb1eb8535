"""Teach a backbone your field's language by masked words: ``clip-text train mlm``.

python scripts/pretrain_mlm.py texts/ --out field
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from clip_text_cli.drawing.curves import CURVES, draw_course
from clip_text_cli.options import AsJson, Model, listed
from clip_text_cli.output import print_json
from clip_text_cli.train.runs import is_main, listening, tell

MODEL, RUN = "model", "run"
Preset = Literal["continue", "scratch", "roberta"]
Size = Literal["tiny", "mini", "small", "medium", "base"]


def lines(report: dict[str, Any]) -> list[str]:
    """Say a report in words."""
    head = " (its head was new)" if report["new_head"] else ""
    return [
        f"perplexity {report['perplexity']:,.1f}, before {report['perplexity_before']:,.1f}{head}; "
        f"{report['accuracy']:.1%} of the masked tokens right",
        f"best at step {report['best_step']:,} of {report['steps']:,}, {report['tokens']:,} tokens "
        f"in {report['sequences']:,} sequences, {report['seconds'] / 60:.1f} minutes",
        f"{report['model']} ({report['parameters']:,} numbers)",
    ]


def mlm(
    texts: Annotated[list[Path], typer.Argument(help="Folders, or .txt, .jsonl, .csv, .tsv.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder of run and model.")],
    model: Model = "starter",
    from_scratch: Annotated[
        Size | None, typer.Option(help="Start from random weights, of a size.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Of a model from scratch; Chinese WordPiece if none.")
    ] = None,
    fields: Annotated[
        str, typer.Option("--field", help="Field(s) of the text: text, or zh,zh_mt.")
    ] = "",
    line_documents: Annotated[
        bool, typer.Option(help="Each line of a .txt is a document; else a blank line ends one.")
    ] = False,
    user_dict: Annotated[Path | None, typer.Option(help="Words for jieba, a line each.")] = None,
    val: Annotated[
        list[Path] | None, typer.Option(help="Text to validate on; held out if none.")
    ] = None,
    held_out: Annotated[
        float, typer.Option(min=0.0001, max=0.5, help="Share of the documents, without --val.")
    ] = 0.02,
    preset: Annotated[
        Preset | None, typer.Option(help="Of rate, batch and warm-up; continue, or scratch.")
    ] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the text; 0.5 is half of one.")] = 1.0,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Sequences in a step.")] = None,
    micro_batch: Annotated[int, typer.Option(min=1, help="Of these, how many at a time.")] = 32,
    learning_rate: Annotated[float | None, typer.Option(help="At its peak.")] = None,
    warmup: Annotated[float | None, typer.Option(help="Share of the steps.")] = None,
    schedule: Annotated[
        Literal["linear", "cosine"], typer.Option(help="How the rate falls.")
    ] = "linear",
    context_length: Annotated[
        int | None, typer.Option(min=3, help="Tokens of a sequence; the model's if none.")
    ] = None,
    grow_positions: Annotated[
        bool, typer.Option("--grow-positions", help="Give a model of fewer as many positions.")
    ] = False,
    dropout: Annotated[
        float | None, typer.Option(min=0, max=0.9, help="In this run; the model's if none.")
    ] = None,
    packing: Annotated[
        Literal["document", "full"],
        typer.Option(help="full: sequences go on from one document to the next."),
    ] = "document",
    share: Annotated[float, typer.Option(help="Of the tokens, to be guessed.")] = 0.15,
    evaluations: Annotated[int, typer.Option(min=1, help="How often to validate.")] = 10,
    patience: Annotated[
        int | None,
        typer.Option(min=1, help="Validations without a better one that end it; its end if none."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of head, masks, order and dropout.")] = 0,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for tokenised text; in your cache if none.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Teach a backbone your field's language: it guesses masked words of plain text.

    OUT/model is a plain Hugging Face folder, for `AutoModelForMaskedLM`, for `train distill
    --student` and for `load_text_tower`. The same command again goes on from the last checkpoint.

    Examples:
        clip-text train mlm texts/ --out field

        clip-text train mlm reviews.csv --field review --user-dict words.txt --out shop

        clip-text train mlm wiki.txt --from-scratch small --preset roberta --micro-batch 64
        --out wiki
    """
    from transformers.utils.logging import disable_progress_bar

    from clip_text.training import MaskedLMRecipe, TextData, train_masked_lm
    from clip_text.training.masked_sequences import PRESETS

    disable_progress_bar()  # type: ignore[no-untyped-call]  # of loading weights
    if from_scratch is None and tokenizer is not None:
        raise typer.BadParameter("expected --from-scratch with --tokenizer: a model has its own.")
    given = {"learning_rate": learning_rate, "batch_size": batch_size, "warmup": warmup}
    numbers: dict[str, Any] = dict(PRESETS[preset or ("scratch" if from_scratch else "continue")])
    numbers |= {name: value for name, value in given.items() if value is not None}
    numbers["micro_batch"] = min(micro_batch, int(numbers["batch_size"]))
    recipe = MaskedLMRecipe(
        epochs=epochs,
        schedule=schedule,
        context_length=context_length,
        packing=packing,
        share=share,
        seed=seed,
        evaluations=evaluations,
        patience=patience,
        **numbers,
    )
    data = TextData(texts, val or (), held_out, listed(fields) or (), line_documents, user_dict)
    # a folder that is called like a size is no size
    start = Path(model) if Path(model).exists() else model
    with listening() as listener:
        trained = train_masked_lm(
            *(from_scratch or start, data, recipe, folder),
            listener=listener,
            out=folder / MODEL,
            tokenizer=tokenizer,
            grow=grow_positions,
            dropout=dropout,
            cache=cache,
        )
    if not is_main():
        return
    picture = draw_course(folder / RUN, "perplexity", folder / CURVES)
    if as_json:
        print_json(trained.report)
    else:
        tell([*lines(trained.report), *([f"curves: {picture}"] if picture else [])])
