"""What smaller vectors cost in recall: ``clip-text evaluate vectors``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from clip_text_cli import wiring
from clip_text_cli.options import (
    AsJson,
    CaptionKinds,
    Model,
    PictureFolder,
    Resamples,
    Runtime,
    TrustRemoteCode,
    listed,
    numbers,
)
from clip_text_cli.output import named_bars, out, print_json

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from clip_text.evaluation.vectors import VectorCost


def as_table(costs: "Sequence[VectorCost]", title: str) -> Table:
    """Draw bytes and recall for a terminal, costs in points of the deepest recall."""
    deepest = max(costs[0].recall)
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.caption = (
        "scanned: bytes of a vector that every search reads; stored: bytes in all. "
        f"points: recall@{deepest} against fp32 of all dimensions on the same texts"
    )
    recalls = [f"recall@{k}" for k in costs[0].recall]
    for column in ("dimensions", "vectors", "scanned", "stored", *recalls, "points", "95%", "p"):
        table.add_column(column, justify="left" if column == "vectors" else "right")
    for number, cost in enumerate(costs):
        change = cost.difference[deepest]
        low, value, high = (
            100 * end
            for end in (change.difference.low, change.difference.value, change.difference.high)
        )
        table.add_row(
            str(cost.dimensions),
            cost.form,
            f"{cost.scanned:,}",
            f"{cost.stored:,}",
            *(f"{100 * found.value:.1f}" for found in cost.recall.values()),
            f"{value:+.1f}",
            f"[{low:+.1f}, {high:+.1f}]",
            f"{change.p_value:.4f}",
            end_section=number + 1 == len(costs) or costs[number + 1].dimensions != cost.dimensions,
        )
    return table


def as_json(costs: "Sequence[VectorCost]") -> list[dict[str, Any]]:
    """Say the costs in flat figures, one object each: shares in [0, 1]."""
    listed_costs = []
    for cost in costs:
        flat: dict[str, Any] = {
            "dimensions": cost.dimensions,
            "vectors": cost.form,
            "bytes_scanned": cost.scanned,
            "bytes_stored": cost.stored,
        }
        for k, found in cost.recall.items():
            change = cost.difference[k]
            flat |= {
                f"t2i_recall@{k}": found.value,
                f"t2i_recall@{k}_low": found.low,
                f"t2i_recall@{k}_high": found.high,
                f"t2i_recall@{k}_difference": change.difference.value,
                f"t2i_recall@{k}_difference_low": change.difference.low,
                f"t2i_recall@{k}_difference_high": change.difference.high,
                f"t2i_recall@{k}_p": change.p_value,
            }
        listed_costs.append(flat)
    return listed_costs


def command(
    data: Annotated[Path, typer.Argument(help="A file or folder of captioned pictures.")],
    images: PictureFolder = None,
    kind: CaptionKinds = "",
    split: Annotated[str | None, typer.Option(help="Of a folder with several splits.")] = None,
    model: Model = "starter",
    runtime: Runtime = None,
    trust_remote_code: TrustRemoteCode = False,
    dimensions: Annotated[
        str, typer.Option(help="Like 256,64; all, half and a quarter of the model's if none.")
    ] = "",
    resamples: Resamples = 2000,
    as_json_: AsJson = False,
) -> None:
    """Measure what smaller vectors cost: fp16, int8, sign bits, fewer dimensions.

    Texts search pictures. Each form of the pictures' vectors stands with its bytes, its recall,
    and the points of recall that it costs, with their 95% interval and a paired test.

    Examples:
        clip-text evaluate vectors flickr8k-cn/val.jsonl --kind zh

        clip-text evaluate vectors val.jsonl --model ./mine --dimensions 512,128,64
    """
    from clip_text.data.readers import read_retrieval_set
    from clip_text.evaluation.measure import encode_set
    from clip_text.evaluation.vectors import measure_vectors
    from clip_text.vectors import check_dimensions

    wanted = numbers(dimensions)
    collection = read_retrieval_set(data, images=images, kinds=listed(kind), split=split)
    encoder = wiring.load_encoder(model, runtime=runtime, trust_remote_code=trust_remote_code)
    for number in wanted:
        check_dimensions(number, encoder.embed_dim)  # before the long part
    with named_bars() as progress:
        encoded = encode_set(encoder, collection, progress=progress)
    costs = measure_vectors(collection, encoded, wanted, resamples=resamples)
    if as_json_:
        print_json({"model": model, "data": collection.name, "vectors": as_json(costs)})
    else:
        out.print(as_table(costs, f"{model} on {collection.name}, text to image"))
