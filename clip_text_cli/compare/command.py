"""``clip-text compare MODEL MODEL …``: what each finds, and what each costs."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from clip_text_cli import wiring
from clip_text_cli.compare import processes
from clip_text_cli.compare.asked import (
    check_outputs,
    find_baseline,
    read_depths,
    read_source,
    told_names,
)
from clip_text_cli.compare.measuring import Job, Measured
from clip_text_cli.compare.page import Page, render, thumbnails
from clip_text_cli.compare.sources import Source
from clip_text_cli.compare.tables import (
    Difference,
    Recalls,
    agreement_table,
    costs_as_json,
    differences,
    differences_table,
    models_table,
    overlaps,
    recall_intervals,
    reports_as_json,
)
from clip_text_cli.drawing.models import ModelPoint, draw_models
from clip_text_cli.evaluate.retrieval import duplicate_lines, report_of
from clip_text_cli.options import (
    AsJson,
    CaptionKinds,
    Dimensions,
    PictureFolder,
    Resamples,
    Runtime,
    TrustRemoteCode,
)
from clip_text_cli.output import err, named_bars, out, print_json

if TYPE_CHECKING:  # it brings the readers: --help need not wait for it
    from clip_text.data.collection import RetrievalSet
    from clip_text.progress import Progress

SOME_MODELS_FAILED = 1
_NAMED = 5  # pictures that cannot be read, of those that are told of


@dataclass(slots=True)
class Comparison:
    """What is compared, and what became of it so far.

    Args:
        names: By a model as it was given, what it is told by; in the order of the command.
        collection: Texts and pictures.
        measured: By the name that a model is told by.
        failed: Likewise, why a model has no figures.
    """

    names: dict[str, str]
    collection: "RetrievalSet"
    measured: dict[str, Measured] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def compare(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="Each as --model names one elsewhere."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="Captioned pictures, as clip-text evaluate reads them; or else:"
        ),
    ] = None,
    images: PictureFolder = None,
    kind: CaptionKinds = "",
    split: Annotated[
        str | None,
        typer.Option(help="Of a folder with several splits."),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="What the others are compared with; the first if not given."
        ),
    ] = None,
    resamples: Resamples = 2000,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw recall, and recall over speed."),
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Pictures to search, without captions."),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What to search them for, a query a line."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write hits side by side into this page.")
    ] = None,
    top_k: Annotated[
        str,
        typer.Option(
            "--top-k", "-k", help="Depths of recall, like 1,5,10; without captions one: 8."
        ),
    ] = "",
    runtime: Runtime = None,
    trust_remote_code: TrustRemoteCode = False,
    dimensions: Dimensions = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Texts, and pictures, given to a model at once.")
    ] = 64,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep rows and figures here; the same again goes on."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare models: what each finds, how sure that is, how quick and how large each is.

    With captions (--data): recall with 95% intervals, and paired tests against the first model;
    the page shows the queries on which models differ most. Without (--pictures, --queries): the
    hits of each side by side, and how many they have in common.

    Each model runs in a process of its own. One that fails is told of at the end.

    Examples:
        clip-text compare starter ./mine --data val.jsonl --kind zh --plot models.png

        clip-text compare starter ./mine --pictures ~/Pictures --queries words.txt --html hits.html
    """
    names = told_names(models or [])
    source = read_source(data, images, kind, split, pictures, queries)
    base = find_baseline(baseline, names, source)
    ks = read_depths(top_k, source)
    check_outputs(plot, html, keep, source)
    wiring.checked_runtime(runtime)
    options: dict[str, Any] = {
        "runtime": runtime,
        "dimensions": dimensions,
        "batch_size": batch_size,
        "trust_remote_code": trust_remote_code,
    }
    with _folder(keep) as folder:
        compared = _measure_all(names, source, folder, options)
        _tell_of_models(compared)
        if not compared.measured:
            told = []
        elif source.is_labelled:
            told = _tell_labelled(compared, ks, base, resamples, plot, html, as_json=as_json)
        else:
            told = _tell_unlabelled(compared, ks[0], html, as_json=as_json)
    if as_json:
        told += [{"model": name, "error": why} for name, why in compared.failed.items()]
        print_json(told)
    for name, why in compared.failed.items():
        err.print(f"[bold red]error:[/] {escape(name)}: {escape(why)}", soft_wrap=True)
    if compared.failed:
        raise typer.Exit(SOME_MODELS_FAILED)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Give the folder of what is kept, or one that goes at the end."""
    if keep is not None:
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="clip-text-compare-") as folder:
        yield Path(folder)


def _measure_all(
    names: dict[str, str], source: Source, folder: Path, options: dict[str, Any]
) -> Comparison:
    """Measure one model after the other.

    Raises:
        DataError: If the data cannot be read.
    """
    from clip_text.data.identity import collection_digest

    closed: list[str] = []
    collection = source.read(closed)
    for line in closed:
        err.print(f"left out, a folder that cannot be read: {line}", markup=False, soft_wrap=True)
    compared = Comparison(names, collection)
    digest = collection_digest(collection)
    for model, name in names.items():
        job = Job(model, source, digest, keep=folder, **options)
        try:
            with _bars_of(name) as progress:
                compared.measured[name] = processes.measure_apart(job, progress)
        except processes.ModelError as error:
            compared.failed[name] = str(error)
    return compared


@contextmanager
def _bars_of(name: str) -> "Iterator[Progress]":
    """Bars that name the model, the first of them until it is loaded."""
    with named_bars() as bars:
        bars(f"{name}: loading", 0, 1)

        def progress(what: str, done: int, total: int) -> None:
            bars(f"{name}: loading", 1, 1)
            bars(f"{name}: {what}", done, total)

        yield progress


def _tell_of_models(compared: Comparison) -> None:
    """Say what is worth knowing of how the models were measured."""
    from clip_text_cli.compare.shown import unreadable_by_any

    by_fingerprint: dict[str, str] = {}
    for name, one in compared.measured.items():
        if one.was_kept:
            err.print(f"{name}: as kept from before", markup=False, soft_wrap=True)
        same = by_fingerprint.setdefault(one.facts.fingerprint, name)
        if same != name:
            told = f"{name} and {same} are one model: they have the same fingerprint"
            err.print(told, markup=False, soft_wrap=True)
    left_out = unreadable_by_any(compared.measured)
    if left_out:
        what = "1 picture" if len(left_out) == 1 else f"{len(left_out):,} pictures"
        err.print(f"left out, as not every model can read it: {what}", markup=False)
    for place, why in list(left_out.items())[:_NAMED]:
        told = f"  {compared.collection.image_ids[place]}: {why}"
        err.print(told, markup=False, soft_wrap=True)
    if len(left_out) > _NAMED:
        err.print(f"  and {len(left_out) - _NAMED:,} more", markup=False)


def _tell_labelled(
    compared: Comparison,
    ks: tuple[int, ...],
    base: str | None,
    resamples: int,
    plot: Path | None,
    html: Path | None,
    *,
    as_json: bool,
) -> list[dict[str, Any]]:
    """Print figures and differences, draw them, write the page; gives the figures as JSON."""
    from clip_text_cli.compare.shown import labelled_page

    measured = compared.measured
    reports = {
        name: report_of(compared.collection, one.encoded(), name, ks=ks)
        for name, one in measured.items()
    }
    base = base or next(iter(reports))
    found = differences(reports, base, resamples) if base in reports else []
    recalls = recall_intervals(reports, resamples)
    if not as_json:
        for line in duplicate_lines(next(iter(reports.values()))):
            err.print(line, markup=False, soft_wrap=True)
        out.print(models_table(measured, recalls))
        out.print(_how(compared, with_recall=True), soft_wrap=True)
        _print_differences(found, base, compared)
    if plot is not None:
        _draw(recalls, compared, plot)
    if html is not None:
        _write_page(labelled_page(measured, reports, recalls), compared, html)
    if not as_json:
        return []
    return [
        reports_as_json(report, [one for one in found if one.model == name], base, resamples)
        | costs_as_json(measured[name])
        for name, report in reports.items()
    ]


def _print_differences(found: Sequence[Difference], base: str, compared: Comparison) -> None:
    if found:
        out.print()
        out.print(differences_table(found, base))
        return
    why = f"the baseline {base} has no figures" if base in compared.failed else "of one model alone"
    out.print(f"No comparison is made: {why}.", markup=False, soft_wrap=True)


def _tell_unlabelled(
    compared: Comparison, k: int, html: Path | None, *, as_json: bool
) -> list[dict[str, Any]]:
    """Print what models have in common and cost, write the page; gives the same as JSON."""
    from clip_text_cli.compare.shown import search_all, unlabelled_page

    measured = compared.measured
    found = search_all(measured, k)
    shares = overlaps({name: places for name, (_, places) in found.items()})
    if not as_json:
        out.print(models_table(measured, {}))
        out.print(_how(compared, with_recall=False), soft_wrap=True)
        out.print()
        if shares:
            out.print(agreement_table(shares, k))
        else:
            out.print("No comparison is made: of one model alone.", markup=False)
    if html is not None:
        _write_page(unlabelled_page(compared.collection, measured, found), compared, html)
    told = []
    for name, one in measured.items():
        flat = {"model": name, "data": compared.collection.name} | costs_as_json(one)
        for pair, of_pair in shares.items():
            if name in pair:
                other = pair[1 - pair.index(name)]
                flat[f"overlap@{k} {other}"] = float(of_pair.mean())
        told.append(flat)
    return told


def _how(compared: Comparison, *, with_recall: bool) -> str:
    """Say what the figures of the table are."""
    some = next(iter(compared.measured.values())).facts
    by = {
        name: " and ".join(dict.fromkeys(filter(None, one.facts.runtimes.values())))
        for name, one in compared.measured.items()
    }
    told = ", ".join(f"{name} by {runtimes}" for name, runtimes in by.items() if runtimes)
    intervals = "Recall in percent, over its 95% interval. " if with_recall else ""
    return escape(
        f"{intervals}{some.texts:,} texts and {some.pictures:,} pictures by the wall's clock, "
        "pictures from their files; memory: the most that a model's process held, Python and "
        "libraries in it; bytes: of a picture's vector in an index, in fp16; ?: not known. "
        f"Computed: {told or 'nobody says by what'}."
    )


def _draw(recalls: Recalls, compared: Comparison, file: Path) -> None:
    points = [
        ModelPoint(
            name,
            {k: share for (direction, k), share in found.items() if direction == "t2i"},
            compared.measured[name].facts.pictures_per_second,
        )
        for name, found in recalls.items()
    ]
    draw_models(points, file, title=compared.collection.name)
    err.print(f"drawn in {file}", markup=False, soft_wrap=True)


def _write_page(page: Page, compared: Comparison, file: Path) -> None:
    from clip_text.storage import partial_file

    with named_bars() as bars:
        drawn = thumbnails(compared.collection.images, page.pictures(), bars)
    file.parent.mkdir(parents=True, exist_ok=True)
    with partial_file(file) as partial:
        partial.write_text(render(page, drawn), encoding="utf-8")
    err.print(f"written to {file}", markup=False, soft_wrap=True)
