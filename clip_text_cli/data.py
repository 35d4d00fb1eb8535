"""The commands ``clip-text data …``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from clip_text_cli.options import AsJson, Model, PictureFolder, listed
from clip_text_cli.output import named_bars, out, print_json

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from clip_text.data.check import Finding, Report

SHOWN = 3
"""How many offenders of a kind the report names; --json names all."""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Look at data before a run.

    Examples:
        clip-text data check train.jsonl --against val.jsonl
    """,
)


@app.callback()
def _group() -> None:
    """Keep ``check`` a word of its own while it is the only command."""


@app.command("check")
def check_data(
    data: Annotated[
        str, typer.Argument(help="A file, a folder, a pattern of tars, a URL, or hf://owner/name.")
    ],
    split: Annotated[str | None, typer.Option(help="Of data with several splits.")] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(help="Data that must not have the same pictures; may be given several times."),
    ] = None,
    against_split: Annotated[
        str | None, typer.Option(help="Its split; of DATA itself where no --against is given.")
    ] = None,
    kinds: Annotated[
        str,
        typer.Option("--kinds", "--kind", help="Fields of captions, like zh,en; the usual one."),
    ] = "",
    images: PictureFolder = None,
    image_field: Annotated[
        str | None, typer.Option(help="Field of the picture, if it has an uncommon name.")
    ] = None,
    model: Model = "starter",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Decoding threads; one per core by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Name what would stop or harm training: missing and broken pictures, empty captions, leaks.

    Every picture is decoded, and everything is told in one go: what is there twice, captions too
    long for the model, captions that several pictures share, pictures that are in another split
    too. The model is named for its tokenizer. Exit code 0 if all is well, 1 if something would
    stop or harm training; warnings and notes don't count.

    Examples:
        clip-text data check flickr8k-cn/train.jsonl --against flickr8k-cn/val.jsonl

        clip-text data check "shards/train-{0000..0099}.tar" --model ./my-model

        clip-text data check hf://owner/name --split train --against-split test --kinds caption
    """
    from clip_text.data.check import check
    from clip_text.data.collection import Problem
    from clip_text.data.readers import read_retrieval_set
    from clip_text_cli import wiring

    fields = listed(kinds)
    problems: list[Problem] = []
    collection = read_retrieval_set(
        data, split=split, kinds=fields, images=images, image_field=image_field, problems=problems
    )
    other_splits = against or ([data] if against_split else [])
    others = [
        read_retrieval_set(
            other,
            split=against_split,
            kinds=fields,
            images=images,
            image_field=image_field,
            problems=[],
        )
        for other in other_splits
    ]
    tokenizer = wiring.load_own(model, tokens_only=True).tokenizer
    with named_bars() as progress:
        report = check(
            collection,
            tokenizer=tokenizer,
            against=others,
            problems=problems,
            workers=workers,
            progress=progress,
        )
    if as_json:
        print_json(flat(report))
    else:
        for line in lines(report):
            out.print(line, soft_wrap=True)
    if report.harmful:
        raise typer.Exit(1)


def lines(report: "Report") -> list[str]:
    """Say what was found, for people; in rich's markup."""
    from clip_text.data.check import KINDS

    fewest, median, most = report.captions_per_picture
    each = f"{median}" if fewest == most else f"{fewest} to {most}, mostly {median},"
    told = [
        escape(report.name),
        f"  {report.pictures:,} pictures, {report.texts:,} captions, {each} a picture"
        + (f"; {report.negatives:,} hard negatives" if report.negatives else ""),
    ]
    if report.unknown_share is not None:
        told.append(
            f"  {report.unknown_share:.2%} of the tokens unknown, {report.lost_share:.2%} cut off"
        )
    for finding in report.findings:
        told += ["", *_finding_lines(finding)]
    if report.fine:
        fine = ", ".join(KINDS[kind].what for kind in report.fine)
        told += ["", f"[green]none of[/]  {escape(fine)}"]
    verdict = (
        "[bold red]The errors would stop or harm training.[/]"
        if report.harmful
        else "[green]Nothing would stop or harm training.[/]"
    )
    rate = f"{report.decoded:,} pictures in {report.seconds:.1f} s"
    return [*told, "", f"{verdict} {rate}, {report.pictures_per_second:,.0f} pictures/s."]


def _finding_lines(finding: "Finding") -> list[str]:
    from clip_text.data.check import KINDS

    kind = KINDS[finding.kind]
    colour = {"error": "red", "warning": "yellow", "note": "cyan"}[kind.severity]
    head = f"[{colour}]{kind.severity:<7}[/]  {escape(kind.what)}: {finding.count:,}"
    who = [f"           {escape(' '.join(one.split()))}" for one in finding.offenders[:SHOWN]]
    more = len(finding.offenders) - SHOWN
    who += [f"           … and {more:,} more"] if more > 0 else []
    return [head, *who, f"         [dim]{escape(kind.remedy)}[/]"]


def flat(report: "Report") -> dict[str, Any]:
    """Flatten the report for ``--json``; shares in [0, 1], every offender named."""
    from clip_text.data.check import KINDS

    fewest, median, most = report.captions_per_picture
    return {
        "data": report.name,
        "pictures": report.pictures,
        "texts": report.texts,
        "captions_per_picture_min": fewest,
        "captions_per_picture_median": median,
        "captions_per_picture_max": most,
        "negatives": report.negatives,
        "unknown_share": report.unknown_share,
        "lost_share": report.lost_share,
        "seconds": round(report.seconds, 3),
        "pictures_per_second": round(report.pictures_per_second, 1),
        "well": not report.harmful,
        "findings": [
            {
                "kind": finding.kind,
                "severity": finding.severity,
                "count": finding.count,
                "what": KINDS[finding.kind].what,
                "offenders": finding.offenders,
                "remedy": KINDS[finding.kind].remedy,
            }
            for finding in report.findings
        ],
        "fine": report.fine,
    }
