"""``clip-text index map``: a picture of all pictures, those together that look alike."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clip_text_cli.hits import printable
from clip_text_cli.options import DEFAULT_INDEX, AsJson, IndexPlace, Where
from clip_text_cli.output import err, print_json
from clip_text_cli.queries import parse_filter

if TYPE_CHECKING:
    from retrieval.overview import PictureMap


def draw(
    picture: Annotated[
        Path | None, typer.Argument(help="File to draw into (png, jpg, webp, pdf, svg).")
    ] = None,
    index_dir: IndexPlace = DEFAULT_INDEX,
    where: Where = None,
    color_by: Annotated[
        str | None,
        typer.Option(
            "--color-by", metavar="FIELD", help="Frame pictures by a field, or by root: the folder."
        ),
    ] = None,
    sample: Annotated[
        int, typer.Option(min=1, help="Of more pictures, draw so many at random.")
    ] = 5000,
    seed: Annotated[int, typer.Option(min=0, help="The same gives the same map.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Draw a map of the pictures: what looks alike lies together (t-SNE).

    Where several would lie, one is shown. Only nearness means something: neither the axes nor
    the distance between islands do. --json prints all places, from the top left, in [0, 1].

    Examples:
        clip-text index map map.png

        clip-text index map map.svg --color-by folder --where 'date >= 2024'
    """
    from clip_text_cli.drawing.figure import check_drawable

    if picture is None and not as_json:
        raise typer.BadParameter("expected a file to draw into, or --json, got neither. Name one.")
    if picture is not None:
        check_drawable(picture)
    from retrieval.overview import map_pictures

    placed = map_pictures(index_dir, parse_filter(where), field=color_by, sample=sample, seed=seed)
    if len(placed.records) < placed.total:
        err.print(
            f"{len(placed.records):,} of {placed.total:,} pictures, drawn at random; --sample "
            "takes more",
            soft_wrap=True,
        )
    if picture is not None:
        from clip_text_cli.drawing.map import draw_map

        shown = draw_map(placed, picture, color_by or "")
        err.print(f"drawn in {picture}: {shown:,} pictures to be seen", markup=False)
    if as_json:
        print_json(_as_json(placed))


def _as_json(placed: "PictureMap") -> dict[str, Any]:
    pictures = []
    for i, (record, (x, y)) in enumerate(
        zip(placed.records, placed.positions.tolist(), strict=True)
    ):
        told: dict[str, Any] = {
            "image_id": record.picture.image_id,
            "path": printable(record.path) if record.path else None,
            "x": round(x, 6),
            "y": round(y, 6),
        }
        if placed.values is not None:
            told["value"] = placed.values[i]
        pictures.append(told)
    return {"total": placed.total, "pictures": pictures}
