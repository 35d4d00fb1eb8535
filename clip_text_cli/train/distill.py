"""Teach a text tower another language, from parallel sentences: ``clip-text train distill``.

python scripts/distill_text.py captions.jsonl --from en --to zh --out tower
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from clip_text_cli.options import AsJson, listed
from clip_text_cli.output import print_json
from clip_text_cli.train.runs import is_main, listening, tell

HELD_OUT = 1000
MODEL = "model"
PoolerChoice = Literal["auto", "cls", "mean", "max"]


def read_weights(text: str) -> tuple[list[str], dict[str, float] | None]:
    """Read ``zh,ja`` or ``zh=2,ja=1``: languages, and how often to draw each.

    Raises:
        typer.BadParameter: If it is neither.
    """
    parts = [part.partition("=") for part in listed(text) or []]
    names = [name.strip() for name, _, _ in parts]
    given = [value for _, sign, value in parts if sign]
    try:
        weights = [float(value) for value in given]
    except ValueError:
        weights = [0.0]
    if not names or len(given) not in (0, len(names)) or any(weight <= 0 for weight in weights):
        raise typer.BadParameter(f"expected languages like zh,ja or zh=2,ja=1, got {text!r}.")
    return names, dict(zip(names, weights, strict=True)) if given else None


def lines(report: dict[str, Any]) -> list[str]:
    """Say a report in words."""
    recalls = "  ".join(f"recall@{k} {report[f'recall@{k}']:.1%}" for k in (1, 5, 10))
    said = [f"{recalls}  ({report['candidates']:,} candidates, {report['queries']:,} queries)"]
    for name in sorted(report):
        language = name.removesuffix("_recall@1")
        if name.endswith("_recall@1") and not name.startswith("trial_"):
            said.append(f"  {language:8s} recall@1 {report[name]:.1%}")
    if report["known_originals"]:
        said.append(f"  {report['known_originals']:,} of the candidates were learnt from, too")
    said.append(
        f"pooler {report['pooler']}, best at step {report['best_step']:,} of {report['steps']:,}, "
        f"{report['pairs']:,} pairs, {report['seconds'] / 60:.1f} minutes"
    )
    return [*said, f"{report['model']} ({report['format']}, {report['parameters']:,} numbers)"]


def distill(
    data: Annotated[Path, typer.Argument(help="Parallel sentences: .jsonl, .csv, .tsv or .xlsx.")],
    source: Annotated[str, typer.Option("--from", help="Field the teacher reads.")],
    to: Annotated[str, typer.Option(help="Field(s) to learn: zh, or zh,ja, or zh=2,ja=1.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder of run and model.")],
    val: Annotated[
        Path | None, typer.Option(help="Sentences to examine by; lines held out if none.")
    ] = None,
    teacher: Annotated[
        str, typer.Option(help="minilm, a folder, a hub name, or open_clip:ViT-B-32/openai.")
    ] = "minilm",
    student: Annotated[
        str, typer.Option(help="tiny, mini, small, medium, base; or an encoder to start from.")
    ] = "mini",
    tokenizer: Annotated[
        Path | None, typer.Option(help="Of a new student; Chinese WordPiece if none.")
    ] = None,
    pooler: Annotated[PoolerChoice, typer.Option(help="auto lets validation choose.")] = "auto",
    trial_steps: Annotated[int, typer.Option(min=1, help="Steps per pooler, for auto.")] = 100,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the sentences.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences in a step.")] = 256,
    learning_rate: Annotated[float, typer.Option(help="At its peak.")] = 1e-3,
    contrastive: Annotated[
        float, typer.Option(min=0, help="Weight of the in-batch contrast; 0 for none.")
    ] = 0.1,
    token_dropout: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of tokens hidden in training.")
    ] = 0.1,
    evaluations: Annotated[int, typer.Option(min=1, help="How often to validate.")] = 10,
    held_out: Annotated[
        int, typer.Option(min=1, help="Lines held out without --val; a tenth at most.")
    ] = HELD_OUT,
    seed: Annotated[int, typer.Option(help="Of weights, draws and dropout.")] = 0,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for the teacher's rows; in your cache if none.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Teach a text tower a language by a teacher of another, without pictures.

    Each line of DATA holds the same sentence in two or more languages, or equally long lists of
    them. The same command again goes on from the last checkpoint. The result, OUT/model, is a pair
    of towers if the teacher is a CLIP, and a sentence-transformers folder if it is not.

    Examples:
        clip-text train distill captions.jsonl --from en --to zh --out tower

        clip-text train distill pairs.tsv --from en --to zh,ja --teacher open_clip:ViT-B-32/openai
        --student hfl/chinese-roberta-wwm-ext --learning-rate 5e-5 --out clip-zh-ja
    """
    from transformers.utils.logging import disable_progress_bar

    from clip_text.training import DistillationRecipe, ParallelData, train_distillation

    disable_progress_bar()  # type: ignore[no-untyped-call]  # of loading weights
    languages, weights = read_weights(to)
    recipe = DistillationRecipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        contrastive=contrastive,
        token_dropout=token_dropout,
        weights=weights,
        trial_steps=trial_steps,
        seed=seed,
        evaluations=evaluations,
    )
    sentences = ParallelData.read(data, source, languages, val, number=held_out, seed=seed)
    with listening() as listener:
        trained = train_distillation(
            *(student, sentences, recipe, folder),
            listener=listener,
            out=folder / MODEL,
            teacher=teacher,
            tokenizer=tokenizer,
            pooler=pooler,
            cache=cache,
        )
    if not is_main():
        return
    if as_json:
        print_json(trained.report)
    else:
        tell(lines(trained.report))
