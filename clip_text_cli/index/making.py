"""``clip-text index SOURCE``: a folder, a data set or finished features, made searchable."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from clip_text_cli import sources, wiring
from clip_text_cli.hits import printable
from clip_text_cli.options import (
    DEFAULT_INDEX,
    AsJson,
    Dimensions,
    IndexPlace,
    Model,
    PictureFolder,
    Runtime,
    TrustRemoteCode,
    listed,
)
from clip_text_cli.output import indexing_bar, out, print_json, reading_bar

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from retrieval.ingest import IngestReport, RecognitionReport

SOME_FILES_SET_ASIDE = 3
SHOWN_FAILURES = 10
REPORTED = (
    *("added", "updated", "unchanged", "duplicates", "moved", "removed", "failed", "ignored"),
    *("encoded", "total", "seconds", "images_per_second"),
)

_DATA = "Of a data set"
_FEATURES = "Of finished features"


def index(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of pictures, in any depth; or a data set: a file, a folder, a pattern of "
            "tars, a URL, hf://owner/name; features.npy; or the shards of clip-text embed."
        ),
    ],
    index_dir: IndexPlace = DEFAULT_INDEX,
    model: Model = "starter",
    runtime: Runtime = None,
    trust_remote_code: TrustRemoteCode = False,
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
        bool,
        typer.Option(
            help="Forget the pictures of indexed folders that are gone, or what is not in this "
            "data set any more."
        ),
    ] = False,
    follow_links: Annotated[
        bool, typer.Option(help="Enter folders that are symbolic links, each folder once.")
    ] = False,
    ocr: Annotated[
        bool,
        typer.Option("--ocr", help="Then read the text in those pictures that nobody has read."),
    ] = False,
    format: Annotated[  # noqa: A002  (the option's name)
        sources.FormatName | None,
        typer.Option(
            help="Which format is meant, if the names of files leave it open.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Of data with several splits.", rich_help_panel=_DATA)
    ] = None,
    kinds: Annotated[
        str,
        typer.Option(
            "--kinds",
            "--kind",
            help="Fields of captions, like zh,en; the usual one.",
            rich_help_panel=_DATA,
        ),
    ] = "",
    images: PictureFolder = None,
    image_field: Annotated[
        str | None,
        typer.Option(
            help="Field of the picture, if it has an uncommon name.", rich_help_panel=_DATA
        ),
    ] = None,
    prefix: Annotated[
        str, typer.Option(help="Put before each id, like flickr/.", rich_help_panel=_DATA)
    ] = "",
    ids: Annotated[
        Path | None,
        typer.Option(help="Text file: the id of each row of a .npy.", rich_help_panel=_FEATURES),
    ] = None,
    metadata: Annotated[
        Path | None,
        typer.Option(
            help="A .jsonl: what is said of each row of a .npy.", rich_help_panel=_FEATURES
        ),
    ] = None,
    feature_field: Annotated[
        str | None,
        typer.Option(help="Column of the features in Parquet.", rich_help_panel=_FEATURES),
    ] = None,
    id_field: Annotated[
        str | None,
        typer.Option(help="Column of the ids; image_id, id or key.", rich_help_panel=_FEATURES),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make pictures searchable; run it again after adding, changing, moving or deleting some.

    The pictures of a data set become items of the index, by the ids that it gives them. Finished
    features are stored as they are; --model says which model made them, and none is run.

    --dimensions makes a smaller index that finds less (see: clip-text evaluate vectors). The index
    remembers it: search, serve and the next index need not be told.

    Examples:
        clip-text index ~/Pictures

        clip-text index photos --index photos.index --model ./my-model

        clip-text index flickr8k-cn/val.jsonl --kinds zh

        clip-text index "shards/train-{0000..0099}.tar" --prune

        clip-text index embedded --index photos.index

        clip-text index features.npy --ids ids.txt --metadata said.jsonl --model ./my-model
    """
    from retrieval.ingest import index_folder, recognise_texts

    asked = sources.Asked(
        source=source,
        format=format,
        split=split,
        kinds=listed(kinds),
        images=images,
        image_field=image_field,
        prefix=prefix,
        ids=ids,
        metadata=metadata,
        feature_field=feature_field,
        id_field=id_field,
    )
    data = None if sources.is_folder(asked, index_dir) else sources.read(asked)
    if data is not None:
        _check_data(context, data)
    reader = wiring.text_reader() if ocr else None
    encoder = wiring.load_encoder(
        model,
        runtime=runtime,
        rows_only=True,
        dimensions=dimensions,
        trust_remote_code=trust_remote_code,
    )
    if dimensions is None:
        encoder = wiring.as_indexed(encoder, index_dir)
    named = None if as_json else partial(wiring.runtime_name, encoder, "image")
    with indexing_bar(named) as on_progress:
        shared: dict[str, Any]
        shared = {"batch_size": batch_size, "workers": workers, "on_progress": on_progress}
        if data is None:
            report = index_folder(
                Path(source),
                index_dir,
                encoder,
                **shared,
                allow_empty=allow_empty,
                retry_failed=retry_failed,
                follow_directory_links=follow_links,
                prune=prune,
            )
        else:
            report = data.index(index_dir, encoder, **shared, allow_empty=allow_empty, prune=prune)
    if not as_json:  # before the text is read, which takes longer
        for line in report.lines():
            out.print(escape(line), soft_wrap=True)
    read = None
    if reader and Path(source).is_dir():  # gone, it was just forgotten
        with reading_bar() as on_read:
            read = recognise_texts(Path(source), index_dir, reader, on_read)
    _tell(report, read, as_json=as_json)
    if report.failed:
        raise typer.Exit(SOME_FILES_SET_ASIDE)


def _check_data(context: typer.Context, data: sources.DataSet) -> None:
    """Refuse options that have no use for a data set, and features of nobody knows which model."""
    for option in ("follow_links", "ocr", "retry_failed"):
        if context.params[option]:
            raise typer.BadParameter(
                f"expected no --{option.replace('_', '-')} for {data.name}, a data set, which has "
                "no use for it. Leave it out."
            )
    given = context.get_parameter_source("model")
    if data.width and not data.fingerprint and given is not None and given.name == "DEFAULT":
        raise typer.BadParameter(
            f"expected the model that made the features in {data.name}, got none. Name it: --model."
        )


def _tell(report: "IngestReport", read: "RecognitionReport | None", *, as_json: bool) -> None:
    if as_json:
        print_json(_flat(report, read))
    elif read:
        out.print(read.line(), soft_wrap=True)
        for path, why in read.failures[:SHOWN_FAILURES]:
            out.print(escape(f"  not read: {printable(path)}: {why}"), soft_wrap=True)


def _flat(report: "IngestReport", read: "RecognitionReport | None") -> dict[str, Any]:
    """The report for ``--json``; where an item failed, its id stands for a path."""
    from retrieval.ingest.report import failure_name

    figures: dict[str, Any] = {name: getattr(report, name) for name in REPORTED}
    failures = [{"path": failure_name(path), "reason": why} for path, why in report.failures]
    told = {**figures, "failures": failures, "notes": report.notes}
    if read:
        unread = [{"path": printable(path), "reason": why} for path, why in read.failures]
        told["ocr"] = {**asdict(read), "failures": unread}
    return told
