"""Results of commands that measure several kinds of texts: drawn, as JSON or as a table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from rich.table import Table

from clip_text_cli.output import err, out, print_json

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Forms(Generic[Result]):
    """The three forms in which a command shows its results.

    Args:
        as_table: Makes a table for a terminal.
        as_json: Makes a flat object of names and figures.
        draw: Draws the results into a file.
    """

    as_table: Callable[[Sequence[Result]], Table]
    as_json: Callable[[Sequence[Result]], dict[str, Any]]
    draw: Callable[[Sequence[Result], Path], None]


def check_plot(plot: Path | None) -> None:
    """Refuse a picture that could not be drawn, before the long part.

    Args:
        plot: File to draw into, or None for no picture.

    Raises:
        MissingPackageError: If matplotlib is missing.
        DataError: If the file's ending is of no format.
    """
    if plot is not None:
        from clip_text_cli.drawing.figure import check_drawable

        check_drawable(plot)


def show(
    results: Sequence[Result], forms: Forms[Result], plot: Path | None, *, as_json: bool
) -> None:
    """Draw the results if asked for, and print them.

    Args:
        results: What was measured, one for each kind of texts.
        forms: The forms in which the results can be shown.
        plot: File to draw into, or None for no picture.
        as_json: Whether to print JSON instead of a table.
    """
    if plot is not None:
        forms.draw(results, plot)
    if as_json:
        print_json(forms.as_json(results))
        return
    out.print(forms.as_table(results))
    if plot is not None:
        err.print(f"drawn in {plot}")
