"""What ``clip-text compare`` was asked for: its options, checked before anything long begins."""

from collections.abc import Sequence
from pathlib import Path

import typer

from clip_text_cli.compare.page import PAGE_SUFFIXES
from clip_text_cli.compare.sources import Captioned, Source, Unlabelled
from clip_text_cli.drawing.figure import check_drawable
from clip_text_cli.options import listed, numbers

__all__ = ["check_outputs", "find_baseline", "read_depths", "read_source", "told_names"]

_DEPTHS, _DEPTH = (1, 5, 10), 8


def read_source(
    data: str | None,
    images: Path | None,
    kind: str,
    split: str | None,
    pictures: Path | None,
    queries: Path | None,
) -> Source:
    """Say what the models are compared on.

    Raises:
        typer.BadParameter: If it is nothing, or two things at once.
    """
    if data is not None:
        if pictures or queries:
            raise typer.BadParameter(
                "expected --data, or --pictures with --queries, got both. Compare on one at a time."
            )
        return Captioned(data, images, listed(kind), split)
    if pictures is None and queries is None:
        raise typer.BadParameter(
            "expected something to compare on, got neither --data nor --pictures. Name captioned "
            "pictures: --data val.jsonl; or a folder and queries: --pictures FOLDER --queries FILE."
        )
    if pictures is None or queries is None:
        has, lacks = (
            ("--queries", "--pictures FOLDER") if queries else ("--pictures", "--queries FILE")
        )
        raise typer.BadParameter(f"expected {lacks} beside {has}, got none. Name it.")
    if unused := [
        name
        for name, value in (("--images", images), ("--kind", kind), ("--split", split))
        if value
    ]:
        raise typer.BadParameter(
            f"expected no {', '.join(unused)} without --data, got one. Leave it out."
        )
    return Unlabelled(pictures, queries)


def told_names(models: Sequence[str]) -> dict[str, str]:
    """Say what each model is told by: the last part of a path, or more where two have the same.

    Raises:
        typer.BadParameter: If there is no model, or one comes twice.
    """
    if not models:
        raise typer.BadParameter(
            "expected models to compare, got none. Name two or more: clip-text compare starter "
            "./mine --data val.jsonl."
        )
    given: dict[str, str] = {}
    parts: dict[str, tuple[str, ...]] = {}
    for model in models:
        path = Path(model).expanduser()
        is_path = model != "starter" and path.exists()
        place = str(path.resolve()) if is_path else model
        if place in given:
            raise typer.BadParameter(
                f"expected models that differ, got {model} twice. Name it once."
            )
        given[place] = model
        # as it is named, not where links lead to
        parts[model] = path.absolute().parts if is_path else (model,)
    told = {}
    for model, own in parts.items():
        others = [each for other, each in parts.items() if other != model]
        shown = 1
        while shown < len(own) and any(each[-shown:] == own[-shown:] for each in others):
            shown += 1
        told[model] = "/".join(own[-shown:])
    return told


def find_baseline(baseline: str | None, names: dict[str, str], source: Source) -> str | None:
    """Find what the others are compared with; None for the first that can be measured.

    Raises:
        typer.BadParameter: If it is none of the models, or nothing is compared with anything.
    """
    if baseline is None:
        return None
    if not source.is_labelled:
        raise typer.BadParameter("expected no --baseline without --data, got one. Leave it out.")
    if baseline not in names and baseline not in names.values():
        raise typer.BadParameter(
            f"expected a baseline among {', '.join(names)}, got {baseline}. Name one of them."
        )
    return names.get(baseline, baseline)


def read_depths(top_k: str, source: Source) -> tuple[int, ...]:
    """Read the ks of recall, or how many hits to show.

    Raises:
        typer.BadParameter: If it is no number, or several where there is no recall.
    """
    ks = tuple(sorted(set(numbers(top_k))))
    if source.is_labelled:
        return ks or _DEPTHS
    if len(ks) > 1:
        raise typer.BadParameter(
            f"expected one number of hits without --data, got {top_k}. Name one: --top-k {ks[-1]}."
        )
    return ks or (_DEPTH,)


def check_outputs(plot: Path | None, html: Path | None, keep: Path | None, source: Source) -> None:
    """Refuse before the long part what could not be written after it.

    Raises:
        typer.BadParameter: If there is nothing to draw, or the page's name ends otherwise.
        ClipTextError: If matplotlib is missing, or a file cannot be written.
    """
    from clip_text.storage import check_writable

    if plot is not None:
        if not source.is_labelled:
            raise typer.BadParameter(
                "expected no --plot without --data, got one. Recall needs captions: leave it out."
            )
        check_drawable(plot)
    if keep is not None:
        check_writable(keep / "rows")
    if html is not None:
        if html.suffix.lower() not in PAGE_SUFFIXES:
            raise typer.BadParameter(
                f"expected a page's name that ends in {' or '.join(PAGE_SUFFIXES)}, got "
                f"{html.name!r}. Rename it."
            )
        check_writable(html)
