"""``clip-text index compact``, ``build``, ``advise``: how vectors of an index are searched."""

import re
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from clip_text_cli import wiring
from clip_text_cli.options import (
    DEFAULT_INDEX,
    AsJson,
    IndexDir,
    IndexPlace,
    Model,
    Runtime,
    TrustRemoteCode,
)
from clip_text_cli.output import err, out, print_json

if TYPE_CHECKING:
    from clip_text.loading import AnyEncoder
    from retrieval.catalogue.store import ReadableStore
    from retrieval.index import Manifest, Trial
    from retrieval.protocols import Features
    from retrieval.stores import Location, StoreAddress

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_MOST_QUERIES = 300

Loader = Callable[[], "AnyEncoder"]

Queries = Annotated[
    Path | None,
    typer.Option(
        help="Text file of queries, one a line; a log, say. By default the captions in the index."
    ),
]


def compact(index_dir: IndexPlace = DEFAULT_INDEX, as_json: AsJson = False) -> None:
    """Seal the vectors anew: searches are quickest then. Search and indexing go on meanwhile.

    Indexing does it by itself where much has changed; nothing is encoded again. On a server, its
    index is built anew.

    Example:
        clip-text index compact --index photos.index
    """
    from retrieval.index import compact as seal_anew
    from retrieval.stores import connect

    if isinstance(index_dir, Path):
        _tell(seal_anew(index_dir), as_json=as_json)
        return
    with connect(index_dir) as store:
        built = store.compact()
        if as_json:
            print_json({"pictures": len(store), "built": built})
        else:
            out.print(escape(built), soft_wrap=True)


def build(
    recall: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="The least recall@10, against exact search.")
    ] = 0.99,
    memory: Annotated[
        str | None, typer.Option(help="The most memory, as 500MB or 2GB; any if not given.")
    ] = None,
    queries: Queries = None,
    index_dir: IndexDir = DEFAULT_INDEX,
    model: Model = "starter",
    runtime: Runtime = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Seal the vectors by the recipe that measures best on your pictures and your queries.

    The next sealing chooses by the number of pictures again.

    Example:
        clip-text index build --recall 0.99 --memory 2GB --queries asked.txt
    """
    from retrieval.errors import QueryError
    from retrieval.index import best_of
    from retrieval.index import compact as seal_anew

    most = read_bytes(memory)
    load = partial(
        wiring.load_encoder,
        model,
        runtime=runtime,
        trust_remote_code=trust_remote_code,
        queries_only=True,
    )
    trials = _try(index_dir, queries, load)
    chosen = best_of(trials, recall, most)
    if chosen is None:
        smallest = min(trials, key=lambda trial: trial.memory)
        raise QueryError(
            f"expected a recipe of recall {recall} within {memory}, got {smallest.memory:,} bytes "
            "for the smallest. Allow more memory, or less recall: clip-text index advise shows all."
        )
    _tell(seal_anew(index_dir, chosen.recipe), as_json=as_json, trial=chosen)


def advise(
    queries: Queries = None,
    index_dir: IndexPlace = DEFAULT_INDEX,
    model: Model = "starter",
    runtime: Runtime = None,
    trust_remote_code: TrustRemoteCode = False,
    picture: Annotated[
        Path | None, typer.Option("--draw", help="Also draw recall against time (png, svg).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure recipes on your pictures and your queries: recall@10, time, memory, building.

    Nothing is changed; `clip-text index build` takes the quickest that is good enough. On a server,
    the settings of its search are measured.

    Example:
        clip-text index advise --queries asked.txt --draw recipes.png
    """
    load = partial(
        wiring.load_encoder,
        model,
        runtime=runtime,
        trust_remote_code=trust_remote_code,
        queries_only=True,
    )
    if picture is not None:
        from clip_text_cli.drawing.figure import check_drawable

        check_drawable(picture)
    if not isinstance(index_dir, Path):
        if picture is not None:
            raise typer.BadParameter(
                "expected no --draw for an index on a server, got one. Leave it out."
            )
        _advise_server(index_dir, queries, load, as_json=as_json)
        return
    trials = _try(index_dir, queries, load)
    if picture is not None:
        _draw(trials, picture)
        err.print(f"drawn in {picture}")
    if as_json:
        print_json([asdict(trial) for trial in trials])
        return
    table = Table(box=None, pad_edge=False)
    for column in ("recipe", "probes", "recall@10", "p50 ms", "p95 ms", "memory MB", "build s"):
        table.add_column(column, justify="left" if column == "recipe" else "right")
    for trial in trials:
        table.add_row(
            *(trial.recipe.factory, str(trial.recipe.probes or ""), f"{trial.recall:.4f}"),
            *(f"{trial.p50_ms:.2f}", f"{trial.p95_ms:.2f}", f"{trial.memory / 1e6:.1f}"),
            f"{trial.build_seconds:.1f}",
        )
    out.print(table)


def _advise_server(
    address: "StoreAddress",
    queries: Path | None,
    load: "Loader",
    *,
    as_json: bool,
) -> None:
    """Measure the settings of a server's search."""
    from retrieval.stores import connect

    with connect(address) as store:
        trials = store.advise(_asked(address, store, queries, load))
    names = ("setting", "recall@10", "p50 ms")
    if as_json:
        print_json([dict(zip(("setting", "recall", "p50_ms"), one, strict=True)) for one in trials])
        return
    table = Table(box=None, pad_edge=False)
    for column in names:
        table.add_column(column, justify="left" if column == "setting" else "right")
    for setting, recall, milliseconds in trials:
        table.add_row(escape(setting), f"{recall:.4f}", f"{milliseconds:.2f}")
    out.print(table)


def _try(index_dir: Path, queries: Path | None, load: "Loader") -> "list[Trial]":
    """Measure recipes with the queries of a file, or captions of the index."""
    from retrieval.catalogue import Catalogue
    from retrieval.features import as_halves
    from retrieval.index import try_recipes

    with Catalogue.open(index_dir) as catalogue:
        features = _asked(index_dir, catalogue, queries, load)
        halves = as_halves(catalogue.features(), len(catalogue), catalogue.embed_dim)
    return try_recipes(halves, features)


def _asked(
    place: "Location",
    store: "ReadableStore",
    queries: Path | None,
    load: "Loader",
) -> "Features":
    """Encode the queries of a file, or captions of the index."""
    from retrieval.errors import QueryError

    if len(store) == 0:
        raise QueryError("expected pictures in the index, got none. Index a folder first.")
    texts = _spread(_lines(queries) if queries else _captions(store))
    if not texts:
        raise QueryError(
            "expected queries to measure with, got no captions in the index. Name a file of "
            "them: --queries asked.txt"
        )
    encoder = load()
    encoder = wiring.as_indexed(encoder, place)
    store.check_model(fingerprint=encoder.fingerprint, embed_dim=encoder.embed_dim)
    return encoder.encode_text(texts)


def _lines(queries: Path) -> list[str]:
    try:
        lines = queries.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(
            f"expected queries in UTF-8, one a line, in {queries}, got: {error}. Save the file so."
        ) from error
    return [line.strip() for line in lines if line.strip()]


def _captions(store: "ReadableStore") -> list[str]:
    return [record.picture.caption for record in store if record.picture.caption]


def _spread(texts: list[str]) -> list[str]:
    """Take so many as measuring needs, evenly from all of them, each once."""
    every = list(dict.fromkeys(texts))
    step = max(1, len(every) / _MOST_QUERIES)
    return [every[int(i * step)] for i in range(min(len(every), _MOST_QUERIES))]


def read_bytes(text: str | None) -> int | None:
    """Read a size like 2GB.

    Raises:
        typer.BadParameter: If it is none.
    """
    if text is None:
        return None
    parsed = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?)i?b?\s*", text.lower())
    try:
        return int(float(parsed[1]) * _UNITS[parsed[2]]) if parsed else int(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"expected a size like 500MB or 2GB, got {text!r}. Give a number and a unit."
        ) from error


def _tell(manifest: "Manifest", *, as_json: bool, trial: "Trial | None" = None) -> None:
    recipe = manifest.recipe
    if as_json:
        figures = {"pictures": manifest.count, "generation": manifest.generation}
        measured = asdict(trial) if trial else {}
        print_json({**figures, "bytes": manifest.bytes, "recipe": asdict(recipe)} | measured)
        return
    out.print(f"{manifest.count:,} pictures sealed in {manifest.bytes:,} bytes: {recipe.factory}")
    if trial:
        out.print(f"recall@10 {trial.recall:.4f}, {trial.p50_ms:.2f} ms a query")


def _draw(trials: "list[Trial]", picture: Path) -> None:
    from clip_text_cli.drawing.figure import new_figure, save_figure

    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    for factory in dict.fromkeys(trial.recipe.factory for trial in trials):
        points = [
            (trial.recall, trial.p50_ms) for trial in trials if trial.recipe.factory == factory
        ]
        axes.plot(*zip(*points, strict=True), marker="o", label=factory)
    axes.set_xlabel("recall@10 against exact search")
    axes.set_ylabel("ms a query (p50)")
    axes.legend()
    save_figure(figure, picture)
