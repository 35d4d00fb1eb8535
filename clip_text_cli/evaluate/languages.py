"""Recall by the language of the texts, over the same pictures: ``clip-text evaluate languages``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from clip_text.evaluation.languages import LanguageRecall, by_language
from clip_text_cli.evaluate.forms import Forms, check_plot, show
from clip_text_cli.options import AsJson, Model, Runtime, TrustRemoteCode, listed

KS = (1, 5, 10)


def by_recall(results: Sequence[LanguageRecall]) -> list[LanguageRecall]:
    """Best first; by the deepest recall, then by the median rank."""
    return sorted(
        results, key=lambda result: (-result.recall[max(result.recall)], result.median_rank)
    )


def as_table(results: Sequence[LanguageRecall]) -> Table:
    """Draw the results for a terminal, best language first."""
    table = Table(box=None, pad_edge=False)
    table.add_column("language")
    ks = list(results[0].recall) if results else []
    for column in (*(f"recall@{k}" for k in ks), "median rank", "texts", "pictures", "[UNK]"):
        table.add_column(escape(column), justify="right")
    for result in by_recall(results):
        recalls = [f"{result.recall[k]:.1%}" for k in ks]
        counts = [f"{result.median_rank:g}", f"{result.texts:,}", f"{result.pictures:,}"]
        unknown = "–" if result.unknown is None else f"{result.unknown:.1%}"
        table.add_row(escape(result.language or "none"), *recalls, *counts, unknown)
    return table


def as_json(results: Sequence[LanguageRecall]) -> dict[str, Any]:
    """Flatten the results: ``zh_recall@1`` and so on, shares in [0, 1]; best language first."""
    flat: dict[str, Any] = {}
    for result in by_recall(results):
        name = result.language or "none"
        flat |= {f"{name}_recall@{k}": value for k, value in result.recall.items()}
        flat[f"{name}_median_rank"] = result.median_rank
        flat[f"{name}_texts"] = result.texts
        flat[f"{name}_pictures"] = result.pictures
        flat[f"{name}_unknown"] = result.unknown
    return flat


def draw(results: Sequence[LanguageRecall], out: Path) -> None:
    """Draw the deepest recall of each language, best first; see :func:`.bars.draw_bars`."""
    from clip_text_cli.drawing.bars import draw_bars

    ordered = by_recall(results)
    k = max(ordered[0].recall)
    names = [result.language or "none" for result in ordered]
    title = f"Text to image by language, {ordered[0].pictures:,} pictures"
    values = [result.recall[k] for result in ordered]
    draw_bars(out, names, values, title=title, label=f"recall@{k}, percent")


FORMS = Forms(as_table, as_json, draw)


def command(
    data: Annotated[
        Path | None,
        typer.Argument(help="A data set with texts of several kinds; the bundled emoji if none."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the pictures, if not beside the texts.")
    ] = None,
    kind: Annotated[
        str, typer.Option(help="Languages to ask in, like zh,en,ja; of the emoji all, if none.")
    ] = "",
    model: Model = "starter",
    runtime: Runtime = None,
    trust_remote_code: TrustRemoteCode = False,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Ask only so many texts a language, at random.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    as_json_: AsJson = False,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw recall by language (png, pdf, …).")
    ] = None,
) -> None:
    """Measure text-to-image recall in each language, over the same pictures.

    Without DATA: the emoji of the bundled gallery by their names in 28 languages. [UNK] is the
    share of tokens the model has no word for; a language full of them cannot be found by.

    Examples:
        clip-text evaluate languages

        clip-text evaluate languages captions.jsonl --kind zh,en --plot languages.png
    """
    from clip_text_cli import wiring
    from clip_text_cli.evaluate.sets import encode_pictures, read_sample

    check_plot(plot)
    collection = read_sample(data, images, listed(kind), sample, seed)
    encoder = wiring.load_encoder(model, runtime=runtime, trust_remote_code=trust_remote_code)
    results = by_language(encoder, collection, encode_pictures(encoder, collection), KS)
    show(results, FORMS, plot, as_json=as_json_)
