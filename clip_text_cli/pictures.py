"""Pictures found: ``clip-text search``, ``demo``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from clip_text_cli import wiring
from clip_text_cli.hits import (
    facets_table,
    hit_as_json,
    hits_table,
    nothing_matches,
    probable,
    tell_notes,
    titled,
)
from clip_text_cli.options import DEFAULT_INDEX, AsJson, IndexPlace, Model, Runtime, TrustRemoteCode
from clip_text_cli.output import check_sheet, err, indexing_bar, out, print_json
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


def search(
    query: Annotated[str | None, typer.Argument(help="What to look for, in words.")] = None,
    images: Images = None,
    likes: Likes = None,
    without: Without = None,
    index_dir: IndexPlace = DEFAULT_INDEX,
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
    trust_remote_code: TrustRemoteCode = False,
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

    check_sheet(sheet)
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
    encoder = wiring.load_encoder(
        model, runtime=runtime, queries_only=True, trust_remote_code=trust_remote_code
    )
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
