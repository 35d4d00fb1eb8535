"""Teach a backbone your field's language by masked words: ``clip-text train mlm``.

python scripts/pretrain_mlm.py texts/ --out field
"""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from platformdirs import user_cache_path
from rich.markup import escape
from rich.progress import TaskProgressColumn

from clip_text_cli.drawing.curves import CURVES, draw_course
from clip_text_cli.options import AsJson, Model, listed
from clip_text_cli.output import err, out, print_json, progress_bar
from clip_text_cli.runs import begin, finished, how_it_went, step_bar, write_report

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from transformers import PreTrainedModel

    from clip_text.data.corpus import Tokens
    from clip_text.tokenizer import Tokenizer
    from clip_text.training.masked_sequences import MaskedLMRecipe

CACHE = user_cache_path("clip-text") / "tokens"
BEFORE, MODEL, RUN = "before.json", "model", "run"
Preset = Literal["continue", "scratch", "roberta"]
Size = Literal["tiny", "mini", "small", "medium", "base"]


def read(
    texts: list[Path],
    val: list[Path],
    tokenizer: "Tokenizer",
    cache: Path,
    held_out: float,
    **options: Any,  # noqa: ANN401
) -> "tuple[Tokens, Tokens]":
    """Tokenise what to learn from and what to validate on."""
    from clip_text.data.corpus import tokenise
    from clip_text.data.plain_text import text_files

    with progress_bar(TaskProgressColumn()) as bar:

        def some(paths: list[Path], share: float) -> "tuple[Tokens, Tokens]":
            task = bar.add_task("tokens")

            def told(_: str, done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            return tokenise(
                text_files(paths), tokenizer, cache, held_out=share, progress=told, **options
            )

        learnt, held = some(texts, 0.0 if val else held_out)
        return (learnt, some(val, 0.0)[0]) if val else (learnt, held)


def run(
    model: "PreTrainedModel",
    tokenizer: "Tokenizer",
    learnt: "Tokens",
    held: "Tokens",
    recipe: "MaskedLMRecipe",
    folder: Path,
    *,
    main: bool,
) -> dict[str, Any]:
    """Measure, train and report perplexity on the text held out; the main process writes it."""
    from clip_text.storage import partial_file, write_json
    from clip_text.training.masked_lm import MaskedLMTrainer, Perplexity, save_masked_lm
    from clip_text.training.masked_sequences import MaskedSequences

    sequences = MaskedSequences(learnt, tokenizer, recipe)
    # the same masks whatever the seed, so that runs can be compared
    fixed = replace(recipe, seed=0)
    exam = Perplexity(MaskedSequences(held, tokenizer, fixed, recipe.held_sequences))
    with step_bar(lambda metrics: f"perplexity {metrics['perplexity']:,.1f}") as steps:
        trainer = MaskedLMTrainer(model, sequences, exam, recipe, folder / RUN, [steps])
        if not (folder / BEFORE).is_file():
            before = trainer.measure()
            if main:
                with partial_file(folder / BEFORE) as file:
                    write_json(file, before)
        else:
            before = json.loads((folder / BEFORE).read_text(encoding="utf-8"))
        err.print(f"  before       perplexity {before['perplexity']:,.1f}")
        started = time.monotonic()
        trainer.fit()
    report = how_it_went(trainer.state, started)
    report |= {f"{name}_before": value for name, value in before.items()}
    report |= trainer.measure()
    report |= {"sequences": len(sequences), "held_sequences": len(exam.sequences)}
    report |= {"tokens": len(learnt.ids), "held_tokens": len(held.ids)}
    report |= {"documents": learnt.documents, "held_documents": held.documents}
    if main:
        save_masked_lm(model, tokenizer, folder / MODEL)
    report["parameters"] = model.num_parameters()
    report["model"] = str(folder / MODEL)
    return report


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


def start(
    model: str,
    from_scratch: str | None,
    tokenizer: Path | None,
    length: int | None,
    seed: int,
    *,
    grow: bool,
) -> "tuple[PreTrainedModel, Tokenizer, bool]":
    """Load or make the model; beside it its tokenizer, and whether its head is new."""
    from clip_text.checkpoints import resolve
    from clip_text.tokenizer import CONTEXT_LENGTH, Tokenizer
    from clip_text.training.masked_models import load_masked_lm, new_masked_lm

    if from_scratch is None:
        if tokenizer is not None:
            raise typer.BadParameter(
                "expected --from-scratch with --tokenizer: a model has its own."
            )
        return load_masked_lm(model, context_length=length, grow=grow, seed=seed)
    own = Tokenizer.from_folder(tokenizer or resolve("starter"), length or CONTEXT_LENGTH)
    return new_masked_lm(from_scratch, own, seed=seed), own, True


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
    cache: Annotated[Path, typer.Option(help="Folder for tokenised text.")] = CACHE,
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

    from clip_text.training.masked_models import drop_less
    from clip_text.training.masked_sequences import PRESETS, MaskedLMRecipe
    from clip_text.training.trainer import join_processes

    disable_progress_bar()  # type: ignore[no-untyped-call]  # of loading weights
    given = {"learning_rate": learning_rate, "batch_size": batch_size, "warmup": warmup}
    numbers: dict[str, Any] = dict(PRESETS[preset or ("scratch" if from_scratch else "continue")])
    numbers |= {name: value for name, value in given.items() if value is not None}
    numbers["micro_batch"] = min(micro_batch, int(numbers["batch_size"]))
    recipe = MaskedLMRecipe(
        epochs=epochs,
        schedule=schedule,
        packing=packing,
        share=share,
        seed=seed,
        evaluations=evaluations,
        patience=patience,
        **numbers,
    )
    network, own, new_head = start(
        model, from_scratch, tokenizer, context_length, seed, grow=grow_positions
    )
    if dropout is not None:
        drop_less(network, dropout)
    recipe = replace(recipe, context_length=own.context_length)
    options = {"fields": listed(fields) or (), "line_documents": line_documents}
    processes = join_processes()
    main = processes.is_main_process
    with processes.main_process_first():  # the others find it all in the cache
        learnt, held = read(texts, val or [], own, cache, held_out, user_dict=user_dict, **options)
        for each in (learnt, held):
            each.sequences(recipe.context_length, recipe.packing)
    asked: dict[str, Any] = {"model": from_scratch or model, "learnt": learnt.path.parent.name}
    asked |= {} if dropout is None else {"dropout": dropout}
    asked |= {"held": held.path.parent.name}
    # what is not given stays out, so that runs of before there was the option go on
    asked |= {name: value for name, value in asdict(recipe).items() if value is not None}
    if main:
        begin(folder, asked)
    report = finished(folder)
    if report is None:
        done = run(network, own, learnt, held, recipe, folder, main=main)
        report = {"new_head": new_head} | done
    if not main:
        return
    write_report(folder, report)
    picture = draw_course(folder / RUN, "perplexity", folder / CURVES)
    if as_json:
        print_json(report)
        return
    for line in [*lines(report), *([f"curves: {picture}"] if picture else [])]:
        out.print(escape(line), soft_wrap=True)
