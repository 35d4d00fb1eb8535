"""A checkpoint of one format to another: ``clip-text convert``."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from clip_text.names import Format
from clip_text_cli.options import AsJson
from clip_text_cli.output import err, out, print_json

StoredAs = Literal["fp32", "fp16"]


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A file, a folder or a hub name.")],
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="A new folder; for cn_clip a new .pt file.")
    ],
    to: Annotated[Format, typer.Option(help="Format to write.")],
    dtype: Annotated[StoredAs, typer.Option(help="Type of the stored weights.")] = "fp32",
    context_length: Annotated[
        int | None, typer.Option(min=3, help="Tokens, if not what the source says.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an older checkpoint.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn a Chinese-CLIP into another format, and check that it is still the same model.

    The source's format is recognised: a cn_clip .pt, a Hugging Face ChineseCLIPModel or an
    open_clip folder. Exit code 1 if the written model's features differ; it is not kept then.

    Examples:
        clip-text convert clip_cn_vit-b-16.pt vit-b-16 --to open_clip

        clip-text convert OFA-Sys/chinese-clip-vit-base-patch16 vit-b-16.pt --to cn_clip
    """
    from clip_text.conversion import DTYPES
    from clip_text.conversion import as_json as flat
    from clip_text.conversion import convert as run

    parity = run(
        source,
        destination,
        to,
        dtype=DTYPES[dtype],
        context_length=context_length,
        force=force,
        say=lambda line: (err if as_json else out).print(escape(line), soft_wrap=True),
    )
    if as_json:
        print_json(flat(parity))
    if not parity.holds:
        raise typer.Exit(1)
