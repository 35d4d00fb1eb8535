"""Hits as people read them and as programs do: tables, JSON, and what is said beside them."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape
from rich.table import Table

from clip_text_cli.output import err

if TYPE_CHECKING:
    from retrieval.catalogue import Facet
    from retrieval.search import Answer, Hit


def hits_table(hits: "list[Hit]") -> Table:
    """Rank, score and path of each hit, or its id without a file; what else is known of one."""
    table = Table(box=None, pad_edge=False)
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    table.add_column("path", overflow="fold")
    judged = any(hit.probability is not None for hit in hits)
    captioned = any(hit.caption for hit in hits)
    if captioned:
        table.add_column("caption", overflow="fold")
    if judged:
        table.add_column("probability", justify="right")
    read = any(hit.recognised for hit in hits)
    if read:
        table.add_column("text in it", overflow="fold")
    for hit in hits:
        path = escape(printable(hit.path) if hit.path else hit.image_id) + (
            " [red](missing)[/]" if hit.missing else ""
        )
        path += f" (+{len(hit.folded)} like it)" if hit.folded else ""
        cells = [str(hit.rank), f"{hit.score:.3f}", path]
        cells += [escape(hit.caption or "")] if captioned else []
        cells += [as_percent(hit.probability)] if judged else []
        cells += [escape(" ".join((hit.recognised or "").split()))] if read else []
        table.add_row(*cells)
    return table


def facets_table(field: str, counts: "list[Facet]") -> Table:
    """How many pictures have each value of a field."""
    from retrieval.records import displayed_text

    table = Table(box=None, pad_edge=False)
    table.add_column("pictures", justify="right")
    table.add_column(escape(field), overflow="fold")
    for count in counts:
        value = count.value
        shown = value if isinstance(value, str) else json.dumps(value)
        table.add_row(f"{count.count:,}", escape(displayed_text(shown)))
    return table


def hit_as_json(hit: "Hit") -> dict[str, Any]:
    """What ``--json`` says of a hit."""
    return {
        "rank": hit.rank,
        "score": hit.score,
        "probability": hit.probability,
        "image_id": hit.image_id,
        "path": printable(hit.path) if hit.path else None,
        "missing": hit.missing,
        "caption": hit.caption,
        "metadata": hit.metadata,
        **folded_as_json(hit),
        "recognised": hit.recognised,
        "word_score": hit.word_score,
    }


def titled(hit: "Hit") -> str:
    """Caption of a hit, with the emoji itself where it is one."""
    return f"{hit.metadata.get('emoji') or ''} {hit.caption or hit.image_id}".strip()


def tell_notes(notes: list[str]) -> None:
    """Print what a searcher finds worth knowing, on stderr."""
    for note in notes:
        err.print(f"note: {escape(note)}", soft_wrap=True)


def printable(path: Path) -> str:
    """A path without bytes or line breaks that would spoil a terminal or JSON."""
    from retrieval.records import displayed

    return displayed(os.fsencode(path))


def folded_as_json(hit: "Hit") -> dict[str, Any]:
    """What ``--json`` says of the pictures folded into a hit; nothing of a hit without any."""
    if not hit.folded:
        return {}
    return {"folded": [{"image_id": each.image_id, "score": each.score} for each in hit.folded]}


def as_percent(probability: float | None) -> str:
    """A probability as a table shows it, below a tenth with a decimal; empty for none."""
    if probability is None:
        return ""
    return f"{probability:.0%}" if probability >= 0.1 else f"{probability:.1%}"


def probable(hits: "list[Hit]", least: float | None) -> "list[Hit]":
    """Keep the hits of at least a probability; all where none is asked for.

    Raises:
        typer.BadParameter: If one is asked for, and hits have no probabilities.
    """
    if least is None:
        return hits
    if any(hit.probability is None for hit in hits):
        raise typer.BadParameter(
            "expected hits with probabilities for --min-probability, got some without. They are "
            "known of one text by itself, without --hybrid, in an index of "
            "20 pictures with a calibration: clip-text index calibrate DATA."
        )
    return [hit for hit in hits if (hit.probability or 0.0) >= least]


def nothing_matches(answer: "Answer", shown: "list[Hit]") -> str | None:
    """Say that nothing matches, where that is so; None where something may.

    Args:
        answer: What the search came to.
        shown: Those of its hits that are shown.
    """
    if answer.hits and not shown:
        best = max(hit.probability or 0.0 for hit in answer.hits)
        return f"没有匹配 / nothing matches: the best hit is right with {as_percent(best)}"
    if not (shown and answer.nothing_matches):
        return None
    return (
        "没有匹配 / nothing matches; these are the nearest "
        f"(that there is a match at all: {as_percent(answer.probability)})"
    )
