"""What commands say of how likely hits are right."""

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from retrieval.search import Answer, Hit


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
            "expected an index with a calibration and 20 pictures for --min-probability, got one "
            "without. Make it: clip-text index calibrate DATA."
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
