"""``clip-text index migrate --to MODEL``: the same pictures, as another model sees them."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from clip_text.names import RuntimeName
from clip_text_cli import wiring
from clip_text_cli.options import (
    DEFAULT_INDEX,
    AsJson,
    Dimensions,
    IndexPlace,
    Runtime,
    TrustRemoteCode,
)
from clip_text_cli.output import err, indexing_bar, out, print_json

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from clip_text.loading import AnyEncoder
    from retrieval.ingest import MigrationReport

NOT_MOVED = 1


def migrate(
    to: Annotated[
        str | None,
        typer.Option(
            "--to", help="The model to move to, as --model names one: starter, a folder, …"
        ),
    ] = None,
    index_dir: IndexPlace = DEFAULT_INDEX,
    runtime: Runtime = None,
    dimensions: Dimensions = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures per forward pass.")] = 64,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Decoding threads; one per core by default.")
    ] = None,
    features_from: Annotated[
        list[Path] | None,
        typer.Option(
            help="Another index of that model: what it has is not encoded; may be given several "
            "times."
        ),
    ] = None,
    drop_missing: Annotated[
        bool,
        typer.Option("--drop-missing", help="Leave out pictures that cannot be encoded anew."),
    ] = False,
    delete_old: Annotated[
        bool, typer.Option("--delete-old", help="Keep no copy of the index as it was.")
    ] = False,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="Forget a migration that was begun, and what it has.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Move an index to another model: every picture is encoded anew, and nothing else changes.

    The index is searched and written meanwhile. The same command goes on where one was stopped or
    killed; at the end, all features are exchanged in one step. The index of before is kept beside
    it, as INDEX.before-migration.

    With the model of the index and fewer --dimensions, the rows are cut: nothing is encoded.

    Examples:
        clip-text index migrate --to ./my-model --index photos.index

        clip-text index migrate --to starter --dimensions 64

        clip-text index migrate --abandon --index photos.index
    """
    from retrieval.ingest import abandon_migration, migrate_index

    folder = _folder(index_dir)
    if abandon:
        if to is not None:
            raise typer.BadParameter("expected --to or --abandon, got both. Leave one out.")
        freed = abandon_migration(folder)
        if as_json:
            print_json({"freed_bytes": freed})
        else:
            out.print(f"forgot what was begun ({freed:,} bytes); the index stays as it is")
        return
    if to is None:
        raise typer.BadParameter("expected the model to move to, got none. Name it: --to.")
    encoder, cut = _load(to, folder, runtime, dimensions, trust_remote_code=trust_remote_code)
    named = None if as_json else partial(wiring.runtime_name, encoder, "image")
    with indexing_bar(named, "moving") as on_progress:
        report = migrate_index(
            folder,
            encoder,
            model=to,
            cut=cut,
            batch_size=batch_size,
            workers=workers,
            on_progress=on_progress,
            on_wait=lambda: err.print("waiting for who writes to the index …"),
            drop_missing=drop_missing,
            keep_old=not delete_old,
            features_from=features_from or (),
        )
    if as_json:
        print_json(_flat(report))
    else:
        _tell(report, to, dimensions)
    if not (report.is_moved or report.is_same):
        raise typer.Exit(NOT_MOVED)


def _folder(index_dir: Any) -> Path:  # noqa: ANN401  (as IndexPlace gives it)
    if isinstance(index_dir, Path):
        return index_dir
    raise typer.BadParameter(
        f"expected the folder of an index, got {index_dir}, which is on a server. Index its "
        "pictures with the other model under another name there (clip-text index SOURCE --index "
        "…_new --model …), and let the two names change places: docs/milvus.md, docs/postgresql.md."
    )


def _load(
    to: str,
    folder: Path,
    runtime: RuntimeName | None,
    dimensions: int | None,
    *,
    trust_remote_code: bool,
) -> "tuple[AnyEncoder, bool]":
    """Load the model; say whether the index is its own, with rows that need only be cut."""
    from retrieval.catalogue import Catalogue

    with Catalogue.open(folder) as catalogue:  # before a model is loaded
        fingerprint, embed_dim = catalogue.fingerprint, catalogue.embed_dim
    whole = wiring.load_encoder(
        to, runtime=runtime, rows_only=True, trust_remote_code=trust_remote_code
    )
    own = wiring.as_indexed(whole, folder)
    if dimensions is None:
        return whole, False
    encoder = whole.truncated(dimensions)
    return encoder, own.fingerprint == fingerprint and dimensions < embed_dim


def _flat(report: "MigrationReport") -> dict[str, Any]:
    from retrieval.ingest.report import failure_name

    missing = [{"path": failure_name(path), "reason": why} for path, why in report.missing]
    kept = None if report.kept is None else str(report.kept)
    told = {**asdict(report), "missing": missing, "kept": kept}
    return {**told, "images_per_second": report.images_per_second}


def _tell(report: "MigrationReport", to: str, dimensions: int | None) -> None:
    from retrieval.ingest.report import failure_lines

    if report.is_same:
        out.print(escape(f"the index is one of {to} already: nothing to do"), soft_wrap=True)
        if report.kept:
            out.print(escape(f"the index of before is kept as {report.kept}"), soft_wrap=True)
        return
    counts = [
        (report.encoded, "encoded"),
        (report.known, "known from elsewhere"),
        (report.dropped, "left out"),
    ]
    if dimensions is not None and not report.encoded:
        counts[1] = (report.known, f"of {dimensions} dimensions")
    told = ", ".join(f"{count:,} {name}" for count, name in counts if count) or "nothing to encode"
    rate = f"{report.seconds:.1f} s"
    if report.encoded:
        rate += f", {report.images_per_second:.1f} images/s"
    if not report.is_moved:
        count = len(report.missing)
        for line in failure_lines(report.missing, "missing"):
            out.print(escape(line), soft_wrap=True)
        err.print(
            f"[bold red]error:[/] expected pictures that can be encoded anew, got {count:,} that "
            f"cannot; the index stays as it is, and what was encoded is kept ({told}, {rate}). "
            "Bring the index up to date with its own model, and give this command again; or leave "
            "them out of the index: --drop-missing.",
            soft_wrap=True,
        )
        return
    out.print(
        escape(f"{report.total:,} pictures are as {to} sees them now: {told} ({rate})"),
        soft_wrap=True,
    )
    for line in failure_lines(report.missing, "left out"):
        out.print(escape(line), soft_wrap=True)
    if report.kept:
        line = f"the index of before is kept as {report.kept} ({report.old_bytes:,} bytes)"
    else:
        line = f"the features of before are gone; the catalogue had {report.old_bytes:,} bytes"
    out.print(escape(line), soft_wrap=True)
    out.print(escape(f"from now on: --model {to}, for search, serve and index"), soft_wrap=True)
