"""Retrieval measured so that it can be quoted: ``clip-text evaluate retrieval``."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from clip_text_cli import wiring
from clip_text_cli.drawing.figure import check_drawable, new_figure, save_figure
from clip_text_cli.options import (
    AsJson,
    CaptionKinds,
    Dimensions,
    PictureFolder,
    Resamples,
    Runtime,
    TrustRemoteCode,
    listed,
    numbers,
)
from clip_text_cli.output import err, named_bars, out, print_json

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from clip_text.data.duplicates import Duplicates
    from clip_text.evaluation import RetrievalSet
    from clip_text.evaluation.measure import Encoded, Measured
    from clip_text.loading import AnyEncoder

CURVE = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)


@dataclass(frozen=True, slots=True)
class Report:
    """One model on one data set.

    Args:
        collection: What was measured, with duplicates merged if that was asked for.
        model: Name of the model.
        encoded: Rows that the model gave for texts and pictures.
        measured: Figures of the retrieval, both ways.
        duplicates: Pictures and texts that come twice in the data set.
    """

    collection: "RetrievalSet"
    model: str
    encoded: "Encoded"
    measured: "Measured"
    duplicates: "Duplicates"


def evaluate(
    collection: "RetrievalSet",
    encoder: "AnyEncoder",
    model: str,
    *,
    ks: tuple[int, ...] = (1, 5, 10),
    merge: bool = False,
    batch_size: int = 64,
) -> Report:
    """Encode a data set and search it both ways.

    Args:
        collection: What to measure on.
        encoder: What to measure.
        model: What to call it.
        ks: The ks of recall and nDCG.
        merge: Count the twin of a right answer as right too.
        batch_size: Pictures per forward pass.
    """
    from clip_text.data.duplicates import find_duplicates, merge_duplicates
    from clip_text.evaluation.measure import encode_set, measure

    with named_bars() as progress:
        encoded = encode_set(encoder, collection, batch_size=batch_size, progress=progress)
    duplicates = find_duplicates(collection, encoded.digests)
    if merge:
        collection = merge_duplicates(collection, duplicates)
    return Report(collection, model, encoded, measure(collection, encoded, ks), duplicates)


def as_table(report: Report, resamples: int) -> Table:
    """Figures of both directions in percent, each with its 95% interval."""
    table = Table(title=f"{report.model} on {report.collection.name}", title_justify="left")
    table.add_column("")
    for direction in report.measured.by_direction:
        table.add_column(direction, justify="right")
    columns = [
        report.measured.intervals(direction, resamples=resamples)
        for direction in report.measured.by_direction
    ]
    for name in columns[0]:
        cells = [
            f"{100 * found[name].value:.1f} [{100 * found[name].low:.1f}, "
            f"{100 * found[name].high:.1f}]"
            for found in columns
        ]
        table.add_row(name, *cells)
    directions = report.measured.by_direction.values()
    for k in next(iter(directions)).ks:
        if any(found.recall[k] != found.pessimistic_recall[k] for found in directions):
            cells = [f"{found.pessimistic_recall[k]:.1%}"[:-1] for found in directions]
            table.add_row(f"recall@{k}, ties lost", *cells)
    table.add_row("median rank", *(f"{found.median_rank:g}" for found in directions))
    table.add_row("queries", *(f"{found.queries:,}" for found in directions))
    table.add_row("candidates", *(f"{found.candidates:,}" for found in directions))
    return table


def as_json(report: Report, resamples: int) -> dict[str, Any]:
    """Flatten the figures: ``t2i_recall@1``, ``t2i_recall@1_low`` and so on, shares in [0, 1]."""
    flat: dict[str, Any] = {"model": report.model, "data": report.collection.name}
    for direction, found in report.measured.by_direction.items():
        for name, each in report.measured.intervals(direction, resamples=resamples).items():
            flat[f"{direction}_{name}"] = each.value
            flat |= {f"{direction}_{name}_low": each.low, f"{direction}_{name}_high": each.high}
        for k, value in found.pessimistic_recall.items():
            flat[f"{direction}_recall@{k}_ties_lost"] = value
        flat[f"{direction}_median_rank"] = found.median_rank
        flat[f"{direction}_queries"] = found.queries
        flat[f"{direction}_candidates"] = found.candidates
    flat["duplicate_images"] = report.duplicates.extra_images
    flat["ambiguous_texts"] = report.duplicates.ambiguous_texts
    return flat


def duplicate_lines(report: Report) -> list[str]:
    """Say what comes twice, with the first few; empty if nothing does."""
    collection, lines = report.collection, []
    if report.duplicates.images:
        groups = [
            " = ".join(collection.image_ids[at] for at in group)
            for group in report.duplicates.images[:3]
        ]
        lines.append(
            f"{report.duplicates.extra_images:,} pictures equal another: {', '.join(groups)}"
        )
    if report.duplicates.texts:
        worded = [
            f"{collection.texts[group[0]].text} ({len(group)} pictures)"
            for group in sorted(report.duplicates.texts, key=len, reverse=True)[:3]
        ]
        lines.append(
            f"{report.duplicates.ambiguous_texts:,} texts are worded as one of another picture: "
            f"{', '.join(worded)}"
        )
    return lines


def comparison_table(first: Report, second: Report, resamples: int) -> tuple[Table, dict[str, Any]]:
    """The first model minus the second on the same queries, as a table and as flat figures."""
    table = Table(title=f"{first.model} minus {second.model}, in points", title_justify="left")
    for column in ("", "figure", "difference", "95% interval", "p"):
        table.add_column(column, justify="right")
    flat: dict[str, Any] = {"against": second.model}
    for direction in first.measured.by_direction:
        found = first.measured.compared_with(second.measured, direction, resamples=resamples)
        for name, each in found.items():
            low, value, high = (
                100 * end
                for end in (each.difference.low, each.difference.value, each.difference.high)
            )
            p = f"{each.p_value:.4f}"
            table.add_row(direction, name, f"{value:+.1f}", f"[{low:+.1f}, {high:+.1f}]", p)
            flat[f"{direction}_{name}_difference"] = each.difference.value
            flat[f"{direction}_{name}_difference_low"] = each.difference.low
            flat[f"{direction}_{name}_difference_high"] = each.difference.high
            flat[f"{direction}_{name}_p"] = each.p_value
    return table, flat


def draw_curves(reports: list[Report], file: Path, resamples: int) -> None:
    """Draw recall@k over k in both directions, with 95% bands.

    Raises:
        ClipTextError: If matplotlib is missing.
        DataError: If the file's ending is of no format that is known.
    """
    check_drawable(file)
    figure = new_figure(9, 4.2)
    titles = {"t2i": "text to image", "i2t": "image to text"}
    for axes, direction in zip(figure.subplots(1, 2, sharey=True), titles, strict=True):
        for report in reports:
            found = report.measured.by_direction[direction]
            ks = [k for k in CURVE if k <= found.candidates]
            points = [report.measured.recall_at(direction, k, resamples=resamples) for k in ks]
            (line,) = axes.plot(ks, [100 * p.value for p in points], marker="o", ms=3)
            line.set_label(report.model)
            low, high = ([100 * getattr(p, end) for p in points] for end in ("low", "high"))
            axes.fill_between(ks, low, high, alpha=0.2, color=line.get_color(), lw=0)
        axes.set_xscale("log")
        ticks = [k for k in (1, 5, 10, 50, 100) if k <= found.candidates]
        axes.set_xticks(ticks, [str(k) for k in ticks])
        axes.set_xlabel("k")
        axes.set_title(f"{titles[direction]} ({found.queries:,} over {found.candidates:,})")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    figure.axes[0].set_ylabel("recall@k in percent, with 95% intervals")
    save_figure(figure, file)


def draw_worst(report: Report, file: Path, count: int = 12, shown: int = 6) -> None:
    """Draw the texts that fare worst: their right picture first, then what was found instead."""
    import tempfile

    import numpy as np

    from clip_text.images import load_image
    from retrieval.search import Hit
    from retrieval.sheet import contact_sheet

    collection, encoded = report.collection, report.encoded
    ranks = report.measured.by_direction["t2i"].ranks
    groups = []
    with tempfile.TemporaryDirectory() as folder:

        def hit(image: int, place: int, score: float, *, right: bool) -> Hit:
            source = collection.images[image]
            path = Path(source) if isinstance(source, str | os.PathLike) else None
            if path is None:  # it lies in no file of its own
                path = Path(folder) / f"{image}.png"
                load_image(source).save(path)
            image_id = collection.image_ids[image]
            label = f"right: rank {place:,}" if right else f"{place:,}"
            return Hit(place, score, image, image_id, path, f"{label}  {image_id}", {})

        for text in np.argsort(-ranks, kind="stable")[:count]:
            scores = encoded.images @ encoded.texts[text]
            order = np.argsort(-scores, kind="stable")
            place = {int(image): at for at, image in enumerate(order, 1)}
            answers = collection.answers[text]
            best = max(answers, key=lambda image: float(scores[image]))
            hits = [hit(best, place[best], float(scores[best]), right=True)]
            hits += [
                hit(int(image), place[int(image)], float(scores[image]), right=False)
                for image in order[: shown - 1]
            ]
            groups.append((collection.texts[text].text, hits))
        contact_sheet(groups, file, columns=shown)


def command(
    data: Annotated[Path, typer.Argument(help="A file or folder of captioned pictures.")],
    images: PictureFolder = None,
    kind: CaptionKinds = "",
    split: Annotated[str | None, typer.Option(help="Of a folder with several splits.")] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", envvar="CLIP_TEXT_MODEL", help="What to measure.")
    ] = "starter",
    runtime: Runtime = None,
    trust_remote_code: TrustRemoteCode = False,
    dimensions: Dimensions = None,
    against: Annotated[
        str | None, typer.Option(help="Another model: print the differences and a paired test.")
    ] = None,
    top_k: Annotated[str, typer.Option("--top-k", "-k", help="Depths, like 1,5,10.")] = "1,5,10",
    merge_duplicates: Annotated[
        bool, typer.Option(help="Count the twin of a right picture or text as right too.")
    ] = False,
    resamples: Resamples = 2000,
    plot: Annotated[Path | None, typer.Option(help="Draw recall@k over k into this file.")] = None,
    worst: Annotated[
        Path | None, typer.Option(help="Draw the worst texts with their right pictures.")
    ] = None,
    as_json_: AsJson = False,
) -> None:
    """Measure recall@k, MRR and nDCG, text to image and image to text, with 95% intervals.

    It reads jsonl, csv, tsv, xlsx, COCO's captions, a folder with a metadata.jsonl, pictures with
    .txt beside them, and Chinese-CLIP's layout (MUGE, Flickr30K-CN, COCO-CN). Every caption is
    asked on its own. A right answer tied with wrong ones gets the middle rank, and the figures
    with ties lost are shown where they differ.

    Examples:
        clip-text evaluate retrieval flickr8k-cn/val.jsonl --kind zh

        clip-text evaluate retrieval MUGE --split valid --plot muge.png --worst worst.png

        clip-text evaluate retrieval val.jsonl --model ./mine --against starter
    """
    from clip_text.data.readers import read_retrieval_set

    if plot:
        check_drawable(plot)  # before the long part
    collection = read_retrieval_set(data, images=images, kinds=listed(kind), split=split)
    ks = tuple(sorted(set(numbers(top_k))))
    reports = [
        evaluate(
            collection,
            wiring.load_encoder(
                name, runtime=runtime, dimensions=dimensions, trust_remote_code=trust_remote_code
            ),
            name,
            ks=ks,
            merge=merge_duplicates,
        )
        for name in [model, *([against] if against else [])]
    ]
    flat = as_json(reports[0], resamples)
    if not as_json_:
        for line in duplicate_lines(reports[0]):
            err.print(line, markup=False, soft_wrap=True)
        for report in reports:
            out.print(as_table(report, resamples))
    if against:
        table, differences = comparison_table(reports[0], reports[1], resamples)
        flat |= differences
        if not as_json_:
            out.print(table)
    if plot:
        draw_curves(reports, plot, resamples)
    if worst:
        draw_worst(reports[0], worst)
    if as_json_:
        print_json(flat)
