"""Which texts hold words a model does not know, and which are cut off: ``clip-text tokens``."""

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from clip_text.names import Compat
from clip_text_cli import wiring
from clip_text_cli.options import AsJson, Model
from clip_text_cli.output import out, print_json

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from clip_text.tokenizer import TokenReport

COMMON = 10
"""How many of the most frequent unknown parts the summary names."""


def command(
    file: Annotated[Path, typer.Argument(allow_dash=True, help="Texts, one a line; - is stdin.")],
    model: Model = "starter",
    compat: Annotated[
        Compat | None, typer.Option(help="Whose tokens; by default those of the model.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Name the texts with words the model does not know, and those it cuts off.

    Examples:
        clip-text tokens captions.txt

        clip-text tokens captions.txt --compat cn_clip
    """
    encoder = wiring.load_own(model, compat, tokens_only=True)
    report = encoder.text_report(read_texts(file))
    if json:
        print_json(as_json(report))
        return
    for line in summary(report):
        out.print(escape(line), soft_wrap=True)
    if report.with_unknown or report.cut:
        out.print(as_table(report))


def read_texts(source: Path) -> list[str]:
    """Read one text a line; the path ``-`` is standard input.

    Raises:
        NoFileError: If there is no file that can be read.
        DataError: If a line is not in the file's encoding; it names line and byte.
    """
    from clip_text.data.text_files import decode_lines, text_lines

    if str(source) == "-":
        return decode_lines(sys.stdin.buffer.read(), "standard input", Path("standard input"))
    return [line.removesuffix("\n") for _, line in text_lines(source)]


def summary(report: "TokenReport") -> list[str]:
    """Say how many texts suffer, and how much."""
    unknown, cut = report.with_unknown, report.cut
    lines = [
        f"{_texts(len(report.texts))}, {report.words:,} tokens without the special ones, "
        f"contract {report.compat}",
        f"{_texts(len(unknown))} with [UNK]: {report.unknown_share:.2%} of the tokens read",
        f"{_texts(len(cut))} cut at {report.context_length} tokens: "
        f"{report.lost_share:.2%} of all tokens lost",
    ]
    counts = Counter(part for text in unknown for part in text.unknown)
    if counts:
        common = "  ".join(f"{part} ({times:,})" for part, times in counts.most_common(COMMON))
        lines.append(f"most often unknown: {common}")
    return lines


def as_table(report: "TokenReport") -> Table:
    """List the texts with something wrong, by line."""
    table = Table(box=None, pad_edge=False)
    for column in ("line", "tokens"):
        table.add_column(column, justify="right")
    for column in ("[UNK]", "cut off"):
        table.add_column(escape(column), overflow="fold")
    for number, text in enumerate(report.texts, 1):
        if text.unknown or text.is_cut:
            unknown = "  ".join(dict.fromkeys(text.unknown))
            table.add_row(str(number), str(text.tokens), escape(unknown), escape(text.lost))
    return table


def as_json(report: "TokenReport") -> dict[str, Any]:
    """Flatten the report; shares in [0, 1]."""
    return {
        "texts": len(report.texts),
        "tokens": report.words,
        "contract": report.compat,
        "context_length": report.context_length,
        "with_unknown": len(report.with_unknown),
        "unknown_share": report.unknown_share,
        "cut": len(report.cut),
        "lost_share": report.lost_share,
        "lines": [
            {
                "line": number,
                "tokens": text.tokens,
                "unknown": list(text.unknown),
                "lost": text.lost,
            }
            for number, text in enumerate(report.texts, 1)
            if text.unknown or text.is_cut
        ],
    }


def _texts(number: int) -> str:
    return f"{number:,} {'text' if number == 1 else 'texts'}"
