"""``clip-text index calibrate``: how likely hits are right, fitted on questions with answers."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from clip_text_cli import wiring
from clip_text_cli.drawing.figure import check_drawable
from clip_text_cli.drawing.reliability import draw_reliability
from clip_text_cli.options import (
    DEFAULT_INDEX,
    AsJson,
    CaptionKinds,
    IndexPlace,
    Model,
    PictureFolder,
    Runtime,
    TrustRemoteCode,
    listed,
)
from clip_text_cli.output import err, named_bars, out, print_json

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from clip_text.evaluation import RetrievalSet
    from clip_text.loading import AnyEncoder
    from retrieval.catalogue.store import ReadableStore
    from retrieval.protocols import Feature, Features
    from retrieval.search.calibrating import Discrimination, FitReport, Labelled

MOST_PICTURES = 100_000
"""Of a larger index, so many are drawn and searched while fitting."""


def calibrate(
    data: Annotated[
        list[str], typer.Argument(help="Captioned pictures like those that are searched.")
    ],
    index_dir: IndexPlace = DEFAULT_INDEX,
    kind: CaptionKinds = "",
    images: PictureFolder = None,
    split: Annotated[str | None, typer.Option(help="Of data with several splits.")] = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="Search DATA's pictures without the index's others.")
    ] = False,
    model: Model = "starter",
    runtime: Runtime = None,
    trust_remote_code: TrustRemoteCode = False,
    report_only: Annotated[
        bool, typer.Option("--report", help="Only measure; the index stays as it is.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the reliability diagrams into this file.")
    ] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Also write the calibration into this JSON file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Learn how likely a hit is right, from captions whose pictures are known.

    Half of the pictures are taken out at random, so that half of the captions have no answer.
    Every figure is of captions whose pictures were not learned from. DATA's pictures need not be
    in the index; the index's own are searched beside them. Searches then tell probabilities, and
    say when nothing matches.

    Examples:
        clip-text index calibrate val.jsonl

        clip-text index calibrate val.jsonl --report --plot reliability.png
    """
    from clip_text.data.readers import read_retrieval_set
    from clip_text.storage import partial_file
    from retrieval.search.calibrating import calibrate as fit
    from retrieval.search.relevance import store_calibration
    from retrieval.stores import open_for_reading

    if plot:
        check_drawable(plot)  # before the long part
    sets = [
        read_retrieval_set(each, kinds=listed(kind), images=images, split=split) for each in data
    ]
    encoder = wiring.as_indexed(
        wiring.load_encoder(model, runtime=runtime, trust_remote_code=trust_remote_code), index_dir
    )
    with open_for_reading(index_dir) as catalogue:
        catalogue.check_model(fingerprint=encoder.fingerprint, embed_dim=encoder.embed_dim)
        labelled = [labelled_of(collection, encoder, catalogue, alone=alone) for collection in sets]
    calibration, report = fit(labelled, encoder.fingerprint)
    if out_file:  # first: it is there even where another process holds the index
        with partial_file(out_file) as partial:
            partial.write_text(calibration.to_json() + "\n", encoding="utf-8")
    if not report_only:
        store_calibration(index_dir, calibration)
    if plot:
        draw_reliability(
            {"a hit is right": report.hits, "there is an answer": report.answers}, plot
        )
    if as_json:
        print_json({"stored": not report_only, "calibration": asdict(calibration)} | flat(report))
        return
    for table in tables(report):
        out.print(table)
    out.print(
        f"Nothing matches below {calibration.nothing_below:.3f}: that refuses "
        f"{report.pooled.refused:.1%} of the queries without an answer, and "
        f"{report.pooled.wrongly_refused:.1%} of those with one.",
        soft_wrap=True,
    )
    if not report_only:
        err.print(f"stored with {index_dir}", markup=False, soft_wrap=True)


def labelled_of(
    collection: "RetrievalSet",
    encoder: "AnyEncoder",
    catalogue: "ReadableStore",
    *,
    alone: bool = False,
) -> "Labelled":
    """Encode captions and pictures, and put the index's other pictures beside them.

    What the index has already is not encoded again. Captions of equal wording are one question,
    and all of their pictures are right, and pictures of equal content.

    Args:
        collection: Captions, and which pictures they are right of.
        encoder: The model that built the index.
        catalogue: Of the index.
        alone: Leave the index's other pictures out.
    """
    import numpy as np

    from clip_text.data.duplicates import find_duplicates, merge_duplicates
    from retrieval.search.calibrating import Labelled
    from retrieval.search.relevance import length_of

    rows, features = catalogue.draw(MOST_PICTURES)
    records = catalogue.records(rows.tolist())
    indexed = {
        content.hex(): feature
        for row, feature in zip(rows.tolist(), features, strict=True)
        if row in records and (content := records[row].picture.content_hash)
    }
    pictures, digests = _rows_of(collection, encoder, indexed)
    merged = merge_duplicates(collection, find_duplicates(collection, digests))
    right_of = {
        text.text: pictures for text, pictures in zip(merged.texts, merged.answers, strict=True)
    }
    texts = list(right_of)
    known = set(digests)
    hashes = [
        records[row].picture.content_hash if row in records else None for row in rows.tolist()
    ]
    other = np.array(
        [not alone and (content is None or content.hex() not in known) for content in hashes], bool
    )
    return Labelled(
        collection.name,
        encoder.encode_text(texts),
        np.array([length_of(text) for text in texts]),
        list(right_of.values()),
        np.concatenate([pictures, features[other]]),
    )


def _rows_of(
    collection: "RetrievalSet", encoder: "AnyEncoder", indexed: "Mapping[str, Feature]"
) -> "tuple[Features, list[str]]":
    """Give the pictures' rows, [pictures, embed_dim], and what names the content of each.

    Args:
        collection: The pictures.
        encoder: Encodes those that are not there yet.
        indexed: By the hash of a file, its row.
    """
    import numpy as np

    from clip_text.evaluation.measure import encode_images
    from retrieval.ingest.examine import hash_file

    sources = collection.images
    digests = [
        hash_file(Path(source)).hex() if isinstance(source, str | os.PathLike) else ""
        for source in sources
    ]
    rows = np.zeros((len(sources), encoder.embed_dim), np.float32)
    unknown = [at for at, digest in enumerate(digests) if digest not in indexed]
    for at, digest in enumerate(digests):
        if digest in indexed:
            rows[at] = indexed[digest]
    if unknown:
        with named_bars() as progress:
            encoded, pixels = encode_images(
                encoder,
                [sources[at] for at in unknown],
                [collection.image_ids[at] for at in unknown],
                progress=progress,
            )
        rows[unknown] = encoded
        for at, digest_of_pixels in zip(unknown, pixels, strict=True):
            digests[at] = digests[at] or digest_of_pixels
    return rows, digests


def tables(report: "FitReport") -> list[Table]:
    """What was tried, how reliable the best of it is, and how it tells what has an answer."""
    losses = Table(title="log-loss by evidence", title_justify="left")
    for column in ("of", "evidence", "log-loss"):
        losses.add_column(column, justify="right" if column == "log-loss" else "left")
    for what, tried, base in (
        ("hits", report.hit_losses, report.hits.base_loss),
        ("answers", report.answer_losses, report.answers.base_loss),
    ):
        losses.add_row(what, "none: the overall share", f"{base:.4f}")
        for names, loss in tried.items():
            kept = " *" if loss == min(tried.values()) else "  "
            losses.add_row(what, names, f"{loss:.4f}{kept}")
    sure = Table(title="reliability", title_justify="left")
    for column in ("", "foretold", "came true", "expected error"):
        sure.add_column(column, justify="left" if not column else "right")
    for what, found in (("a hit is right", report.hits), ("there is an answer", report.answers)):
        ends = [found.bins[0], found.bins[len(found.bins) // 2], found.bins[-1]]
        sure.add_row(
            what,
            " ".join(f"{one.foretold:.3f}" for one in ends),
            " ".join(f"{one.came_true:.3f}" for one in ends),
            f"{found.error:.4f}",
        )
    return [losses, sure, _discrimination_table([*report.discrimination, report.pooled])]


def _discrimination_table(rows: "list[Discrimination]") -> Table:
    table = Table(title="is there an answer? (area under the curve)", title_justify="left")
    table.add_column("data", overflow="fold")
    for column in ("pictures", "queries", "probability", "best hit's", "flat cosine"):
        table.add_column(column, justify="right")
    for row in rows:
        areas = (row.probability, row.best_hit, row.cosine)
        size = f"{row.size:,}" if row.size else "all"
        table.add_row(row.name, size, f"{row.queries:,}", *(f"{area:.3f}" for area in areas))
    return table


def flat(report: "FitReport") -> dict[str, Any]:
    """The report for ``--json``: shares and areas in [0, 1], losses in nats."""
    return {
        "hit_losses": report.hit_losses,
        "answer_losses": report.answer_losses,
        "hit_reliability": asdict(report.hits),
        "answer_reliability": asdict(report.answers),
        "discrimination": [asdict(row) for row in [*report.discrimination, report.pooled]],
    }
