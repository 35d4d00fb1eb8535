"""Pictures made searchable and found: ``clip-text index``, ``search``, ``serve``, ``demo``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from clip_text_cli import wiring
from clip_text_cli.hits import (
    facets_table,
    hit_as_json,
    hits_table,
    nothing_matches,
    printable,
    probable,
    tell_notes,
    titled,
)
from clip_text_cli.options import DEFAULT_INDEX, AsJson, Dimensions, IndexDir, Model, Runtime
from clip_text_cli.output import err, out, print_json
from clip_text_cli.queries import (
    Diverse,
    Fold,
    FoldAt,
    Images,
    Likes,
    Offset,
    Without,
    make_query,
    title,
)

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from retrieval.ingest import OnProgress

SOME_FILES_SET_ASIDE = 3
SHOWN_FAILURES = 10
REPORTED = (
    *("added", "updated", "unchanged", "duplicates", "moved", "removed", "failed", "ignored"),
    *("encoded", "total", "seconds", "images_per_second"),
)

CACHED_QUERIES = 1024
"""Of the service: how many queries keep their vectors, a few megabytes at most."""

DEMO_HITS = 8
DEMO_QUERIES = (
    "狗",
    "草莓蛋糕",
    "下雨",
    "红色的心",
    "开心地笑",
    "雪山",
    "a bicycle",
    "猫の顔",
)


def index(
    folder: Annotated[Path, typer.Argument(help="Folder of pictures, in any depth.")],
    index_dir: IndexDir = DEFAULT_INDEX,
    model: Model = "starter",
    runtime: Runtime = None,
    dimensions: Dimensions = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures per forward pass.")] = 64,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Decoding threads; one per core by default.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option(help="Try files again that failed and have not changed.")
    ] = False,
    allow_empty: Annotated[
        bool, typer.Option(help="Accept that the folder has no pictures any more, or is gone.")
    ] = False,
    prune: Annotated[
        bool, typer.Option(help="Forget the pictures of indexed folders that are gone.")
    ] = False,
    follow_links: Annotated[
        bool, typer.Option(help="Enter folders that are symbolic links, each folder once.")
    ] = False,
    ocr: Annotated[
        bool,
        typer.Option("--ocr", help="Then read the text in those pictures that nobody has read."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make pictures searchable; run it again after adding, changing, moving or deleting some.

    --dimensions makes a smaller index that finds less (see: clip-text evaluate vectors). The index
    remembers it: search, serve and the next index need not be told.

    Examples:
        clip-text index ~/Pictures

        clip-text index photos --index photos.index --model ./my-model
    """
    from retrieval.ingest import index_folder, recognise_texts

    reader = wiring.text_reader() if ocr else None
    encoder = wiring.load_encoder(model, runtime=runtime, rows_only=True, dimensions=dimensions)
    if dimensions is None:
        encoder = wiring.as_indexed(encoder, index_dir)
    named = None if as_json else partial(wiring.runtime_name, encoder, "image")
    with indexing_bar(named) as on_progress:
        report = index_folder(
            folder,
            index_dir,
            encoder,
            batch_size=batch_size,
            workers=workers,
            on_progress=on_progress,
            allow_empty=allow_empty,
            retry_failed=retry_failed,
            follow_directory_links=follow_links,
            prune=prune,
        )
    if not as_json:  # before the text is read, which takes longer
        for line in report.lines():
            out.print(escape(line), soft_wrap=True)
    read = None
    if reader and folder.is_dir():  # gone, it was just forgotten
        with reading_bar() as on_read:
            read = recognise_texts(folder, index_dir, reader, on_read)
    if as_json:
        figures: dict[str, Any] = {name: getattr(report, name) for name in REPORTED}
        failures = [{"path": printable(path), "reason": why} for path, why in report.failures]
        told = {**figures, "failures": failures, "notes": report.notes}
        if read:
            unread = [{"path": printable(path), "reason": why} for path, why in read.failures]
            told["ocr"] = {**asdict(read), "failures": unread}
        print_json(told)
    elif read:
        out.print(read.line(), soft_wrap=True)
        for path, why in read.failures[:SHOWN_FAILURES]:
            out.print(escape(f"  not read: {printable(path)}: {why}"), soft_wrap=True)
    if report.failed:
        raise typer.Exit(SOME_FILES_SET_ASIDE)


def search(
    query: Annotated[str | None, typer.Argument(help="What to look for, in words.")] = None,
    images: Images = None,
    likes: Likes = None,
    without: Without = None,
    index_dir: IndexDir = DEFAULT_INDEX,
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="How many pictures.")] = 10,
    offset: Offset = 0,
    fold: Fold = False,
    fold_at: FoldAt = None,
    diverse: Diverse = None,
    where: Annotated[
        str | None,
        typer.Option(
            help="Search only pictures this holds of: 'year >= 2020 and tags = \"海边\"'."
        ),
    ] = None,
    facets: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="Also count the pictures by the values of a field."),
    ] = None,
    min_probability: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Leave out hits less probable to be right than this."),
    ] = None,
    hybrid: Annotated[
        bool,
        typer.Option("--hybrid", help="Search captions, names, metadata and read text as well."),
    ] = False,
    model: Model = "starter",
    runtime: Runtime = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Also draw the pictures into this file (png, jpg).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find pictures by words and by pictures; the score is a cosine in [-1, 1].

    With a calibration (clip-text index calibrate; the starter has one) each hit has the
    probability that it is right, and a search that seems to have no answer says so.

    --hybrid counts what is said of pictures, too: for names, numbers, text in pictures.

    Examples:
        clip-text search 红色的心 --top-k 10

        clip-text search "a dog on the beach" --sheet dogs.png

        clip-text search 狗 --image beach.jpg --not 雪 --fold --offset 20

        clip-text search 日落 --where 'date >= 2024-05 and not folder = "截图"' --facets tags

        clip-text search 宫保鸡丁 --hybrid
    """
    from retrieval.search import Searcher
    from retrieval.sheet import contact_sheet

    asked = make_query(
        *(query, images, likes, without),
        where=where,
        top_k=top_k,
        offset=offset,
        fold=fold,
        fold_at=fold_at,
        diversity=diverse,
        hybrid=hybrid,
    )
    encoder = wiring.load_encoder(model, runtime=runtime, queries_only=True)
    encoder = wiring.as_indexed(encoder, index_dir)
    with Searcher.open(index_dir, encoder) as searcher:
        answer = searcher.answer(asked)
        counts = [] if facets is None else searcher.facets(facets, asked.where)
        notes = searcher.notes()
    hits = probable(answer.hits, min_probability)
    said = title(query, images, likes, without)
    if sheet is not None:
        contact_sheet([(said, hits)], sheet)
    if as_json:
        found: dict[str, Any] = {"query": said, "hits": [hit_as_json(hit) for hit in hits]}
        found |= {"probability": answer.probability, "nothing_matches": answer.nothing_matches}
        if facets is not None:
            found["facets"] = {facets: [asdict(count) for count in counts]}
        print_json({**found, "notes": notes})
        return
    out.print(hits_table(hits))
    if where is not None and not answer.hits and not offset and not likes:
        err.print(f"no picture has {where}", markup=False, soft_wrap=True)
    elif told := nothing_matches(answer, hits):
        err.print(told, soft_wrap=True)
    if facets is not None:
        out.print(facets_table(facets, counts))
    tell_notes(notes)
    if missing := sum(hit.missing for hit in hits):
        err.print(
            f"{missing} of these files are missing. Index the folder they are in now, or, if they "
            "are gone for good, again the one they were in.",
            soft_wrap=True,
        )
    if sheet is not None:
        err.print(f"drawn in {sheet}")


def serve(
    index_dir: IndexDir = DEFAULT_INDEX,
    model: Model = "starter",
    runtime: Runtime = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    head: Annotated[
        str | None,
        typer.Option(help="Classification head that names each query's category; the only one."),
    ] = None,
) -> None:
    """Open the search page and the HTTP API (page /, API page /docs).

    A model with a classification head says of what category a query is, by the same pass.

    Example:
        clip-text serve --port 8000
    """
    from retrieval.search import Searcher
    from retrieval.service.app import serve as serve_api

    encoder = wiring.load_encoder(model, runtime=runtime, queries_only=True)
    encoder = wiring.as_indexed(encoder, index_dir)
    classify = wiring.query_classifier(encoder, head)
    with Searcher.open(index_dir, encoder, classify, cached_queries=CACHED_QUERIES) as searcher:
        computed_by = wiring.query_runtime(encoder, head)

        def tell(address: str) -> None:
            told = f"{len(searcher):,} pictures. Page: {address}/   API: {address}/docs"
            err.print(told, markup=False, soft_wrap=True)
            if computed_by:
                err.print(f"Queries are computed by {computed_by}.", soft_wrap=True)
            tell_notes(searcher.notes())

        serve_api(searcher, host, port, tell, runtime=computed_by)


def demo(
    folder: Annotated[Path, typer.Option("--out", help="Where index and sheet go.")] = Path(
        ".demo"
    ),
    model: Model = "starter",
    runtime: Runtime = None,
) -> None:
    """Index the bundled gallery, answer a few queries, draw a contact sheet.

    Example:
        clip-text demo
    """
    from importlib.resources import as_file, files

    from retrieval.ingest import index_folder
    from retrieval.search import Searcher
    from retrieval.sheet import contact_sheet

    encoder = wiring.load_encoder(model, runtime=runtime, rows_only=True)
    index_dir, sheet = folder / "index", folder / "sheet.png"
    with as_file(files("retrieval") / "gallery") as gallery, indexing_bar() as on_progress:
        report = index_folder(gallery, index_dir, encoder, on_progress=on_progress)
        out.print(report.lines()[0], soft_wrap=True)
        with Searcher.open(index_dir, encoder) as searcher:
            groups = [(query, searcher.search(query, DEMO_HITS)) for query in DEMO_QUERIES]
        contact_sheet(groups, sheet)
    table = Table(box=None, pad_edge=False)
    for column in ("query", "score", "best picture", "and then"):
        table.add_column(column, justify="right" if column == "score" else "left")
    for query, hits in groups:
        first, *others = hits
        rest = "  ".join(f"{hit.caption} {hit.score:.2f}" for hit in others[:3])
        table.add_row(query, f"{first.score:.3f}", escape(titled(first)), escape(rest))
    out.print(table)
    out.print(f"\ncontact sheet  {sheet}")
    out.print("search page    make serve", f"(or: clip-text serve --index {index_dir})")


@contextmanager
def indexing_bar(runtime: "Callable[[], str | None] | None" = None) -> "Iterator[OnProgress]":
    """A bar with rate and time left, on stderr and only on a terminal.

    Args:
        runtime: Names what computes pictures; asked and told when it has computed the first.
    """
    from retrieval.ingest import Progress as Standing

    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
    task = bar.add_task("indexing", total=None, rate="")

    def on_progress(standing: Standing) -> None:
        nonlocal runtime
        if runtime and standing.encoded:
            if name := runtime():
                err.print(f"Pictures are computed by {name}.", soft_wrap=True)
            runtime = None
        rate = f"{standing.images_per_second:.1f} images/s"
        if standing.failed:
            rate += f", {standing.failed} set aside"
        bar.update(task, completed=standing.done, total=standing.total, rate=rate)

    with bar:
        yield on_progress


@contextmanager
def reading_bar() -> "Iterator[Callable[[int, int], None]]":
    """A bar with the time left for reading text, on stderr and only on a terminal."""
    bar = Progress(
        *(SpinnerColumn(), TextColumn("reading text"), BarColumn()),
        *(MofNCompleteColumn(), TimeRemainingColumn()),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
    task = bar.add_task("reading", total=None)
    with bar:
        yield lambda done, total: bar.update(task, completed=done, total=total)
