"""What the pictures of figures share: matplotlib, without a display."""

from pathlib import Path
from typing import TYPE_CHECKING

from clip_text.errors import DataError, needs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")


def check_drawable(out: Path) -> None:
    """Refuse early what could not be drawn after a long run.

    Raises:
        MissingPackageError: If matplotlib is missing.
        DataError: If the file's ending is none of :data:`SUFFIXES`.
        StorageError: If the file cannot be written.
    """
    from clip_text.storage import check_writable

    if out.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"expected a picture's name that ends in {', '.join(SUFFIXES)}, got {out.name!r}. "
            "Rename it."
        )
    check_writable(out)
    with needs("clip-text[evaluate]", "a picture"):
        import matplotlib.figure  # noqa: F401


def new_figure(width: float, height: float) -> "Figure":
    """Make a figure, sides in inches; without pyplot nothing global is touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: "Figure", out: Path) -> None:
    """Write a figure, making its folder."""
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
