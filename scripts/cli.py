"""The command ``clip-text``: parse, wire an Encoder to retrieval, print.

Exit codes: 0 done; 1 an error, told in one line; 2 a wrong option; 3 indexed, but some files
were set aside.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from platformdirs import user_data_path
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

from . import data, evaluate, train
from .options import AsJson, Model
from .output import err, out, print_json

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from clip_text import Encoder
    from retrieval.ingest import OnProgress
    from retrieval.protocols import EncodeAndClassify
    from retrieval.searcher import Hit

SOME_FILES_SET_ASIDE = 3

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Search pictures with Chinese (and other) words.",
)
app.add_typer(data.app, name="data")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(train.app, name="train")
IndexDir = Annotated[
    Path,
    typer.Option("--index", envvar="CLIP_TEXT_INDEX", help="Folder of the index."),
]
ModelFormat = Literal["cn_clip", "hf", "open_clip"]
Contract = Literal["clip_text", "cn_clip", "hf", "open_clip"]
StoredAs = Literal["fp32", "fp16"]

DEFAULT_INDEX = user_data_path("clip-text") / "index"


REPORTED = (
    *("added", "updated", "unchanged", "duplicates", "removed", "failed", "ignored", "encoded"),
    *("total", "seconds", "images_per_second"),
)


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(help="Folder of pictures, in any depth.")],
    index_dir: IndexDir = DEFAULT_INDEX,
    model: Model = "starter",
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures per forward pass.")] = 64,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Decoding threads; one per core by default.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option(help="Try files again that failed and have not changed.")
    ] = False,
    allow_empty: Annotated[
        bool, typer.Option(help="Accept that the folder has no pictures any more.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make pictures searchable; run it again after adding, changing or deleting some.

    Examples:
        clip-text index ~/Pictures

        clip-text index photos --index photos.index --model ./my-model
    """
    from retrieval.ingest import index_folder

    encoder = load_encoder(model)
    with indexing_bar() as on_progress:
        report = index_folder(
            folder,
            index_dir,
            encoder,
            batch_size=batch_size,
            workers=workers,
            on_progress=on_progress,
            allow_empty=allow_empty,
            retry_failed=retry_failed,
        )
    if as_json:
        figures: dict[str, Any] = {name: getattr(report, name) for name in REPORTED}
        failures = [{"path": printable(path), "reason": why} for path, why in report.failures]
        print_json({**figures, "failures": failures, "notes": report.notes})
    else:
        for line in report.lines():
            out.print(escape(line), soft_wrap=True)
    if report.failed:
        raise typer.Exit(SOME_FILES_SET_ASIDE)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What to look for, in words.")],
    index_dir: IndexDir = DEFAULT_INDEX,
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="How many pictures.")] = 10,
    model: Model = "starter",
    sheet: Annotated[
        Path | None, typer.Option(help="Also draw the pictures into this file (png, jpg).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find pictures by words; the score is a cosine in [-1, 1].

    Examples:
        clip-text search 红色的心 --top-k 10

        clip-text search "a dog on the beach" --sheet dogs.png
    """
    from retrieval.searcher import Searcher
    from retrieval.sheet import contact_sheet

    with Searcher.open(index_dir, load_encoder(model)) as searcher:
        hits = searcher.search(query, top_k)
    if sheet is not None:
        contact_sheet([(query, hits)], sheet)
    if as_json:
        print_json({"query": query, "hits": [hit_as_json(hit) for hit in hits]})
        return
    out.print(hits_table(hits))
    if sheet is not None:
        err.print(f"drawn in {sheet}")


@app.command()
def serve(
    index_dir: IndexDir = DEFAULT_INDEX,
    model: Model = "starter",
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
    from retrieval.api import serve as serve_api
    from retrieval.searcher import Searcher

    encoder = load_encoder(model)
    with Searcher.open(index_dir, encoder, query_classifier(encoder, head)) as searcher:
        err.print(f"{len(searcher):,} pictures. Page: http://{host}:{port}/   API: /docs")
        serve_api(searcher, host, port)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A file, a folder or a hub name.")],
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="A new folder; for cn_clip a new .pt file.")
    ],
    to: Annotated[ModelFormat, typer.Option(help="Format to write.")],
    dtype: Annotated[StoredAs, typer.Option(help="Type of the stored weights.")] = "fp32",
    context_length: Annotated[
        int | None, typer.Option(min=3, help="Tokens, if not what the source says.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an older checkpoint.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn a Chinese-CLIP into another format, and check that it is still the same model.

    The source's format is recognised: a cn_clip .pt, a Hugging Face ChineseCLIPModel or an
    open_clip folder. Exit code 1 if the written model's features differ; it is not kept then.

    Examples:
        clip-text convert clip_cn_vit-b-16.pt vit-b-16 --to open_clip

        clip-text convert OFA-Sys/chinese-clip-vit-base-patch16 vit-b-16.pt --to cn_clip
    """
    from .convert import DTYPES
    from .convert import as_json as flat
    from .convert import convert as run

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    parity = run(
        source,
        destination,
        to,
        dtype=DTYPES[dtype],
        context_length=context_length,
        force=force,
        say=lambda line: (err if as_json else out).print(escape(line), soft_wrap=True),
    )
    if as_json:
        print_json(flat(parity))
    if not parity.holds:
        raise typer.Exit(1)


@app.command()
def tokens(
    file: Annotated[Path, typer.Argument(allow_dash=True, help="Texts, one a line; - is stdin.")],
    model: Model = "starter",
    compat: Annotated[
        Contract | None, typer.Option(help="Whose tokens; by default those of the model.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Name the texts with words the model does not know, and those it cuts off.

    Examples:
        clip-text tokens captions.txt

        clip-text tokens captions.txt --compat cn_clip
    """
    from .tokens import as_json as flat
    from .tokens import as_table, read_texts, summary

    report = load_encoder(model, compat).text_report(read_texts(file))
    if as_json:
        print_json(flat(report))
        return
    for line in summary(report):
        out.print(escape(line), soft_wrap=True)
    if report.with_unknown or report.cut:
        out.print(as_table(report))


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Where index and sheet go.")] = Path(
        ".demo"
    ),
    model: Model = "starter",
) -> None:
    """Index the bundled gallery, answer a few queries, draw a contact sheet.

    Example:
        clip-text demo
    """
    from importlib.resources import as_file, files

    from retrieval.ingest import index_folder
    from retrieval.searcher import Searcher
    from retrieval.sheet import contact_sheet

    encoder = load_encoder(model)
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


def load_encoder(model: str, compat: Contract | None = None) -> "Encoder":
    """Load the model, with Hugging Face's own progress bars off."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from clip_text import Encoder

    return Encoder.from_pretrained(model, compat=compat)


def query_classifier(encoder: "Encoder", head: str | None) -> "EncodeAndClassify | None":
    """What encodes and classifies queries in one pass; None where the model has no head for it.

    Raises:
        ClipTextError: If a head is named that the model has not.
    """
    from clip_text.errors import ClipTextError

    if head is None and len(encoder.heads) != 1:
        return None
    if head is not None and head not in encoder.heads:
        raise ClipTextError(
            f"expected one of the model's classification heads "
            f"({', '.join(encoder.heads) or 'it has none'}), got {head!r}. Leave --head out, or "
            "train one: clip-text train classifier."
        )

    def classify(texts: "Sequence[str]") -> "tuple[Any, list[tuple[str, float] | None]]":
        rows, found = encoder.encode_and_classify(texts, head, top_k=1)
        # a head of several labels may find none
        return rows, [(one.label, one.probability) if one.chosen else None for one in found]

    return classify


@contextmanager
def indexing_bar() -> "Iterator[OnProgress]":
    """A bar with rate and time left, on stderr and only on a terminal."""
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
        rate = f"{standing.images_per_second:.1f} images/s"
        if standing.failed:
            rate += f", {standing.failed} set aside"
        bar.update(task, completed=standing.done, total=standing.total, rate=rate)

    with bar:
        yield on_progress


def hits_table(hits: "list[Hit]") -> Table:
    """Rank, score and path of each hit, with its caption where there is one."""
    table = Table(box=None, pad_edge=False)
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    table.add_column("path", overflow="fold")
    captioned = any(hit.caption for hit in hits)
    if captioned:
        table.add_column("caption", overflow="fold")
    for hit in hits:
        cells = [str(hit.rank), f"{hit.score:.3f}", escape(printable(hit.path))]
        table.add_row(*cells, *([escape(hit.caption or "")] if captioned else []))
    return table


def hit_as_json(hit: "Hit") -> dict[str, Any]:
    """What ``--json`` says of a hit."""
    return {
        "rank": hit.rank,
        "score": hit.score,
        "image_id": hit.image_id,
        "path": printable(hit.path),
        "caption": hit.caption,
        "metadata": hit.metadata,
    }


def titled(hit: "Hit") -> str:
    """Caption of a hit, with the emoji itself where it is one."""
    return f"{hit.metadata.get('emoji') or ''} {hit.caption or hit.image_id}".strip()


def printable(path: Path) -> str:
    """A path without bytes or line breaks that would spoil a terminal or JSON."""
    from retrieval.walk import displayed

    return displayed(os.fsencode(path))


def main() -> None:
    """Run the command; an error of ours is one line, not a stack trace."""
    from clip_text.allocator import keep_freed_memory
    from clip_text.errors import ClipTextError
    from retrieval.errors import RetrievalError

    keep_freed_memory()

    try:
        app()
    except (ClipTextError, RetrievalError, OSError) as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("stopped; the same command goes on from here")
        sys.exit(130)
