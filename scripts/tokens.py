"""Which texts hold words a model does not know, and which are cut off: ``clip-text tokens``."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from clip_text import DataError
from clip_text.tokenizer import TokenReport

COMMON = 10
"""How many of the most frequent unknown parts the summary names."""


def read_texts(source: Path) -> list[str]:
    """Read one text a line, in UTF-8; the path ``-`` is standard input.

    Raises:
        DataError: If a line is no UTF-8.
        OSError: If the file cannot be read.
    """
    raw = sys.stdin.buffer.read() if str(source) == "-" else source.read_bytes()
    lines = raw.removeprefix(b"\xef\xbb\xbf").split(b"\n")  # Unicode knows more ends of a line
    if not lines[-1]:
        lines.pop()
    texts = []
    for number, line in enumerate(lines, 1):
        try:
            texts.append(line.removesuffix(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(
                f"expected UTF-8 in line {number} of {source}, got byte {line[error.start]:#04x}. "
                "Save the file as UTF-8."
            ) from None
    return texts


def summary(report: TokenReport) -> list[str]:
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


def as_table(report: TokenReport) -> Table:
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


def as_json(report: TokenReport) -> dict[str, Any]:
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
