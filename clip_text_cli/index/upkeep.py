"""``clip-text index info``, ``verify``, ``remove``, ``copy``, ``text``: looking after an index."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from clip_text_cli.options import DEFAULT_INDEX, AsJson, IndexDir, IndexPlace, index_place
from clip_text_cli.output import named_bars, out, print_json

UNSOUND = 1


def info(index_dir: IndexPlace = DEFAULT_INDEX, as_json: AsJson = False) -> None:
    """Tell what an index holds: pictures, folders, bytes, model, state of its files.

    Examples:
        clip-text index info

        clip-text index info --index photos.index --json
    """
    from retrieval.stores import describe

    told = describe(index_dir)
    if as_json:
        print_json({"index": str(index_dir), **asdict(told), "total_bytes": told.total_bytes})
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    pictures = f"{told.pictures:,}"
    if told.items:
        pictures += f", of which {told.items:,} are items of no folder"
    lines: list[tuple[str, str]] = [("index", str(index_dir)), ("pictures", pictures)]
    lines += [("folder", f"{root} ({count:,})") for root, count in told.roots.items()]
    lines += [("data set", f"{name} ({count:,})") for name, count in told.sources.items()]
    lines += [
        ("set aside", f"{told.failures:,} files"),
        ("model", ", ".join([f"{told.fingerprint} (width {told.embed_dim})", *told.precisions])),
        (
            "generation",
            f"{told.generation:,} of catalogue {told.uid}, schema {told.schema_version}",
        ),
        (
            "vectors",
            ", ".join(f"{name.replace('_', ' ')} {is_}" for name, is_ in told.vectors.items()),
        ),
    ]
    lines += [("file", f"{name} ({size:,} bytes)") for name, size in told.files.items()]
    if told.files:  # of a server's nothing is known
        lines.append(("bytes", f"{told.total_bytes:,}"))
    for name, value in lines:
        table.add_row(name, escape(value))
    out.print(table)


def verify(
    index_dir: IndexPlace = DEFAULT_INDEX,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Make again what is derived; forget pictures without a sound feature.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check an index: the catalogue's file, every feature, and what is derived from them.

    Exit code 0 if it is sound, or has been repaired; 1 if it is not.

    Examples:
        clip-text index verify

        clip-text index verify --repair --index photos.index
    """
    from retrieval.stores import verify as check

    verification = check(index_dir, repair=repair)
    if as_json:
        print_json({"sound": not verification.problems, **asdict(verification)})
    else:
        for line in verification.repaired:
            out.print(f"repaired: {escape(line)}", soft_wrap=True)
        for problem in verification.problems:
            told = f"{problem.kind}: {problem.what}. {problem.remedy}"
            out.print(escape(told), soft_wrap=True)
        if not verification.problems:
            out.print("sound")
    if verification.problems:
        raise typer.Exit(UNSOUND)


def remove(
    ids: Annotated[
        list[str] | None,
        typer.Argument(help="Ids of items, or paths of pictures below their indexed folders."),
    ] = None,
    folder: Annotated[
        list[Path] | None,
        typer.Option(
            help="Pictures of indexed folders below this one; may be given several times."
        ),
    ] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(help="All that belongs to this indexed folder; may be given several times."),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="All items of this data set, as index info names it; may be given several times."
        ),
    ] = None,
    index_dir: IndexPlace = DEFAULT_INDEX,
    as_json: AsJson = False,
) -> None:
    """Forget pictures: all that are named, or none. Their files are not touched.

    Those of a folder or data set come back when that is indexed again.

    Examples:
        clip-text index remove 2024/beach.jpg

        clip-text index remove --root ~/Pictures/old
    """
    from retrieval.ingest import remove_pictures

    if not (ids or folder or root or source):
        raise typer.BadParameter(
            "expected ids, --folder, --root or --source, got none. Name what is to go."
        )
    removed = remove_pictures(
        index_dir, ids=ids or (), folders=folder or (), roots=root or (), sources=source or ()
    )
    figures: dict[str, Any] = {"removed": removed}
    if as_json:
        print_json(figures)
    else:
        out.print(f"{removed:,} pictures removed")


def copy(
    source: Annotated[
        str, typer.Argument(metavar="PLACE", help="Folder or address of the index that is there.")
    ],
    index_dir: IndexPlace = DEFAULT_INDEX,
    as_json: AsJson = False,
) -> None:
    """Take an index somewhere else, to a server, say: no picture is read or encoded again.

    What is there already stays; a copy that was stopped is continued by the same command.

    Examples:
        clip-text index copy photos.index --index postgresql://me@db/archive/photos

        clip-text index copy milvus://localhost:19530/photos --index photos.index
    """
    from retrieval.stores import copy_index

    with named_bars() as progress:
        report = copy_index(
            index_place(source), index_dir, lambda done, of: progress("copying", done, of)
        )
    if as_json:
        print_json(asdict(report))
        return
    out.print(f"{report.pictures:,} pictures, {report.written:,} of them written")
    if report.left_out:
        out.print(f"text read in {report.left_out:,} pictures was left out: no text index there")


def text(
    index_dir: IndexDir = DEFAULT_INDEX,
    words: Annotated[
        Path | None,
        typer.Option(
            help="File of words that jieba is to know, a line each; the index keeps them. An "
            "empty file takes away those it has."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the text index anew, from what the index knows: no picture is read.

    Searches with --hybrid need it. An index has one as soon as it is written to; this is for those
    from before, for words of your own (names, brands), and after installing OpenCC.

    Examples:
        clip-text index text

        clip-text index text --words brands.txt --index photos.index
    """
    from retrieval.catalogue.remaking import remake_words

    try:
        own = None if words is None else words.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(
            f"expected a file of words in UTF-8, got {words} ({error}). Name another."
        ) from error
    count = remake_words(index_dir, own)
    if as_json:
        print_json({"pictures": count})
    else:
        out.print(f"what is said of {count:,} pictures can be searched")
