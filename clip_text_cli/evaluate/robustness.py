"""Recall before and after the texts are changed: ``clip-text evaluate robustness``."""

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from clip_text.evaluation.robustness import PERTURBATIONS, Robustness, robustness
from clip_text_cli.evaluate.forms import Forms, check_plot, show
from clip_text_cli.options import AsJson, Model, Runtime, TrustRemoteCode

KS = (1, 5, 10)


def as_table(results: Sequence[Robustness]) -> Table:
    """Draw the results for a terminal; recalls in percent, of the texts changed unless it says."""
    table = Table(box=None, pad_edge=False)
    table.add_column("perturbation", no_wrap=True)
    ks = list(results[0].clean) if results else []
    deepest = [f"all texts @{max(ks)}"] if ks else []
    for column in ("changed", *(f"recall@{k}" for k in ks), "change", *deepest, "cosine"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        recalls = [_moved(result.changed_clean[k], result.changed_perturbed[k]) for k in ks]
        last = max(ks)
        gained = "" if not result.changed else f"{100 * result.change[last]:+.1f}"
        table.add_row(
            escape(result.perturbation),
            f"{result.changed:,} of {result.texts:,}",
            *recalls,
            gained,
            _moved(result.clean[last], result.perturbed[last]),
            "" if isnan(result.cosine) else f"{result.cosine:.3f}",
        )
    return table


def _moved(before: float, after: float) -> str:
    return "" if isnan(before) else f"{100 * before:.1f} → {100 * after:.1f}"


def as_json(results: Sequence[Robustness]) -> dict[str, Any]:
    """Flatten the results: ``homophone_change@10`` and so on, shares in [0, 1].

    ``clean`` and ``perturbed`` are over all texts; ``changed_clean``, ``changed_perturbed``,
    ``change`` and ``cosine`` over those that a perturbation changes, and None if there are none.
    """
    flat: dict[str, Any] = {"texts": results[0].texts if results else 0}
    for result in results:
        name = result.perturbation
        flat[f"{name}_changed"] = result.changed
        for what in ("clean", "perturbed", "changed_clean", "changed_perturbed", "change"):
            flat |= {f"{name}_{what}@{k}": _known(r) for k, r in getattr(result, what).items()}
        flat[f"{name}_cosine"] = _known(result.cosine)
    return flat


def _known(value: float) -> float | None:
    return None if isnan(value) else value


def draw(results: Sequence[Robustness], out: Path) -> None:
    """Draw how far each perturbation moves the deepest recall; see :func:`.bars.draw_bars`."""
    from clip_text_cli.drawing.bars import draw_bars

    k = max(results[0].clean)
    draw_bars(
        out,
        [f"{result.perturbation} ({result.changed:,})" for result in results],
        [result.change[k] for result in results],
        title=f"What a change to the text does to text-to-image recall, {results[0].texts:,} texts",
        label=f"change of recall@{k} over the texts changed, percentage points",
    )


FORMS = Forms(as_table, as_json, draw)


def command(
    data: Annotated[
        Path | None, typer.Argument(help="A data set; the bundled emoji and their names if none.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the pictures, if not beside the texts.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="Kind of captions to change; zh where there are several.")
    ] = None,
    model: Model = "starter",
    runtime: Runtime = None,
    trust_remote_code: TrustRemoteCode = False,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Ask only so many texts, drawn at random.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample and of the changes.")] = 0,
    as_json_: AsJson = False,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw the change of recall (png, pdf, …).")
    ] = None,
) -> None:
    """Misspell, retype and reword the texts, and measure what that does to recall.

    Traditional characters, full width, punctuation, homophones, dropped and swapped letters, word
    order, synonyms, spaces, case. The change counts the texts that a perturbation changes at all.

    Examples:
        clip-text evaluate robustness

        clip-text evaluate robustness val.jsonl --kind zh --sample 1000 --plot robustness.png
    """
    from clip_text_cli import wiring
    from clip_text_cli.evaluate.sets import encode_pictures, read_sample

    check_plot(plot)
    for perturbation in PERTURBATIONS.values():  # a missing library shows before the long part
        perturbation("一个男人")
    kind = kind or ("zh" if data is None else None)  # a data set has a usual kind of its own
    collection = read_sample(data, images, [kind] if kind else None, sample, seed)
    encoder = wiring.load_encoder(model, runtime=runtime, trust_remote_code=trust_remote_code)
    pictures = encode_pictures(encoder, collection)
    results = robustness(encoder.encode_text, collection, pictures, ks=KS, seed=seed)
    show(results, FORMS, plot, as_json=as_json_)
