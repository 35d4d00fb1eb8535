"""``clip-text embed SOURCE OUT``: pictures in bulk, as shards of features in Parquet."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.progress import TextColumn

from clip_text_cli import wiring
from clip_text_cli.index.making import SOME_FILES_SET_ASIDE
from clip_text_cli.options import AsJson, Dimensions, Model, Runtime, TrustRemoteCode, listed
from clip_text_cli.output import out, print_json, progress_bar

if TYPE_CHECKING:  # seconds to import: --help need not wait for it
    from clip_text.embedding import Report, Runner, Standing
    from clip_text.embedding.run import OnProgress
    from clip_text.names import RuntimeName

_SHARDS = "Of the shards; as before where OUT has some"
_SOURCE = "Of the source"


def embed(
    source: Annotated[
        str,
        typer.Argument(
            help="Parquet, webdataset's tars, a listing (.txt, .jsonl), a folder or a pattern; "
            "here, or in an object store (s3://…)."
        ),
    ],
    out_dir: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder of the shards; all workers see it.")
    ],
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="Workers of this machine, or of a Ray cluster."),
    ] = "local",
    model: Model = "starter",
    runtime: Runtime = None,
    trust_remote_code: TrustRemoteCode = False,
    dimensions: Dimensions = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="One per GPU, or as many as the cores allow.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Of the Ray cluster, if RAY_ADDRESS does not say it; else a Ray of its own "
            "is started."
        ),
    ] = None,
    readers: Annotated[
        int, typer.Option(min=1, help="Threads of each worker that fetch and decode.")
    ] = 4,
    retry_failed: Annotated[
        bool, typer.Option(help="Do shards again of which pictures could not be reached.")
    ] = False,
    shard_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Pictures of a shard (4096); a tar is one.", rich_help_panel=_SHARDS
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures per forward pass (64).", rich_help_panel=_SHARDS),
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16"] | None,
        typer.Option(help="How features are stored (float32).", rich_help_panel=_SHARDS),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="That compute in each worker (1).", rich_help_panel=_SHARDS),
    ] = None,
    kinds: Annotated[
        str,
        typer.Option(
            "--kinds",
            "--kind",
            help="Fields of captions, like zh,en; the usual one.",
            rich_help_panel=_SOURCE,
        ),
    ] = "",
    images: Annotated[
        str | None,
        typer.Option(
            help="Folder or URL that names of pictures are relative to.", rich_help_panel=_SOURCE
        ),
    ] = None,
    image_field: Annotated[
        str | None,
        typer.Option(
            help="Field of the picture, if it has an uncommon name.", rich_help_panel=_SOURCE
        ),
    ] = None,
    id_field: Annotated[
        str | None,
        typer.Option(help="Column of the ids; image_id, or file and row.", rich_help_panel=_SOURCE),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Encode pictures in bulk into Parquet: ids, features, captions and metadata.

    The same command goes on where one was stopped, or a machine died; nothing that is done is
    done again. What comes out is the same for any number of workers. What cannot be read is set
    aside in OUT/failed.

    clip-text index OUT makes an index of it.

    Examples:
        clip-text embed "shards/train-{0000..0099}.tar" features

        clip-text embed s3://bucket/photos/ /mnt/shared/features --engine ray --address auto

        clip-text embed goods.parquet features --id-field sku --model ./my-model
    """
    from clip_text.embedding import Settings, Wanted
    from clip_text.embedding import embed as run

    if address and engine != "ray":
        raise typer.BadParameter(
            f"expected no --address without --engine ray, got {address}. Leave it out, or add that."
        )
    wiring.checked_runtime(runtime)
    load = partial(load_model, model, dimensions, trust_remote_code=trust_remote_code)
    with _runner(engine, workers, address) as runner, _bar() as on_progress:
        report = run(
            source,
            out_dir,
            load,
            runner,
            model=wiring.model_name(model),
            runtime=runtime,
            settings=Settings(shard_size, batch_size, dtype, threads),
            wanted=Wanted(listed(kinds), images, image_field, id_field),
            readers=readers,
            retry_failed=retry_failed,
            on_progress=on_progress,
        )
    _tell(report, out_dir, as_json=as_json)
    if report.failed:
        raise typer.Exit(SOME_FILES_SET_ASIDE)


def load_model(
    model: str,
    dimensions: int | None,
    runtime: "RuntimeName | None",
    *,
    trust_remote_code: bool = False,
) -> Any:  # noqa: ANN401
    """Load the model in a worker, which is sent this by name.

    Args:
        model: As ``--model`` names it.
        dimensions: How many of each row's first dimensions are kept; all if None.
        runtime: How it computes; as the environment says if None.
        trust_remote_code: Whether code that lies beside its weights may run.
    """
    from clip_text_cli.process import set_up_process

    set_up_process()
    return wiring.load_encoder(
        model,
        runtime=runtime,
        rows_only=True,
        dimensions=dimensions,
        trust_remote_code=trust_remote_code,
    )


@contextmanager
def _runner(engine: str, workers: int | None, address: str | None) -> "Iterator[Runner]":
    """Give what distributes the work, and close it at the end."""
    if engine == "local":
        from clip_text.embedding.local import Local

        yield Local(workers)
        return
    from clip_text.embedding.ray import RayActors

    cluster = RayActors(workers, address)
    try:
        yield cluster
    finally:
        cluster.close()


@contextmanager
def _bar() -> "Iterator[OnProgress]":
    """A bar of shards with the rate in pictures and the time left, only on a terminal."""
    with progress_bar(None, TextColumn("{task.fields[rate]}")) as bar:
        task = bar.add_task("shards", total=None, rate="")

        def on_progress(standing: "Standing") -> None:
            rate = f"{standing.pictures_per_second:.1f} pictures/s"
            if standing.failed:
                rate += f", {standing.failed:,} set aside"
            bar.update(task, completed=standing.shards, total=standing.total, rate=rate)

        yield on_progress


def _tell(report: "Report", out_dir: Path, *, as_json: bool) -> None:
    if as_json:
        failures = [{"id": name, "reason": why} for name, why in report.failures]
        print_json({**asdict(report), "failures": failures})
        return
    before = f", {report.done_before:,} of them before" if report.done_before else ""
    rate = f"{report.seconds:.1f} s, {report.pictures_per_second:.1f} pictures/s"
    now = f"{report.encoded:,} now ({rate})" if report.encoded else "nothing to do"
    told = f"{report.rows:,} features in {report.shards:,} shards{before}: {now}"
    out.print(told, soft_wrap=True)
    for name, why in report.failures:
        out.print(escape(f"  failed: {name}: {why}"), soft_wrap=True)
    if report.failed:
        rest = report.failed - len(report.failures)
        more = f"  and {rest:,} more, all" if rest else "  all"
        out.print(escape(f"{more} set aside in {out_dir / 'failed'}"), soft_wrap=True)
    if report.unreachable:
        out.print(f"  {report.unreachable:,} could not be reached: --retry-failed tries again")
