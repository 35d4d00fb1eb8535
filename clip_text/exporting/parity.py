"""How far an exported model is from the one it was made from, at many shapes."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from clip_text.conversion import TEXTS, distance, picture
from clip_text.images import load_image, squash
from clip_text.names import Precision
from clip_text.runtimes import Features, Pixels, TokenIds
from clip_text.tokenizer import Tokenizer

TextTower = Callable[[TokenIds], Features]
ImageTower = Callable[[Pixels], Features]

BATCHES = (1, 2, 7, 32)
"""Texts at a time."""

PICTURES = (1, 2, 8)
"""Pictures at a time."""

COSINES: dict[Precision, float] = {"fp32": 0.9999999, "bf16": 0.99, "int8": 0.9}
"""Lowest cosine that a row may have to that of the source; a bare picture is one of the rows."""

DIFFERENCE = 1e-5
"""Largest difference that a number of a unit row may have in fp32. Elsewhere the cosine decides."""

SAME_ROWS = 0.999
"""Lowest cosine at which rows count as those of the source: they may share an index."""


@dataclass(frozen=True, slots=True)
class ShapeParity:
    """How far rows are apart at one shape.

    Args:
        tower: Which tower was run, text or image.
        batch: Rows at a time.
        length: Tokens of each text; None for pictures.
        difference: Largest over all numbers of all rows.
        cosine: Smallest cosine with the model's own rows, in [-1, 1].
    """

    tower: str
    batch: int
    length: int | None
    difference: float
    cosine: float


@dataclass(frozen=True, slots=True)
class ExportParity:
    """How far an exported model is from its source.

    Args:
        shapes: Each shape that was tried.
        precision: What the exported model computes in.
    """

    shapes: tuple[ShapeParity, ...]
    precision: Precision

    @property
    def holds(self) -> bool:
        """Whether every shape is within the bounds of the precision."""
        # a NaN is within none
        return all(
            shape.difference <= self._largest and shape.cosine >= COSINES[self.precision]
            for shape in self.shapes
        )

    @property
    def same_rows(self) -> bool:
        """Whether the rows may lie in one index with the source's; in int8 they never may."""
        near = all(shape.cosine >= SAME_ROWS for shape in self.shapes)
        return self.holds and near and self.precision != "int8"

    @property
    def _largest(self) -> float:
        return DIFFERENCE if self.precision == "fp32" else math.inf

    def lines(self) -> list[str]:
        """Say it, a line each."""
        said = []
        for tower in ("text", "image"):
            shapes = [shape for shape in self.shapes if shape.tower == tower]
            difference = max(shape.difference for shape in shapes)
            cosine = min(shape.cosine for shape in shapes)
            lengths = sorted({shape.length for shape in shapes if shape.length is not None})
            batches = sorted({shape.batch for shape in shapes})
            of = f", {lengths[0]} to {lengths[-1]} tokens" if lengths else ""
            said.append(
                f"{tower + ' rows':<15} max |difference| {difference:.1e}, lowest cosine "
                f"{cosine:.7f} ({len(shapes)} shapes: {batches[0]} to {batches[-1]} at a time{of})"
            )
        bound = f"cosine {COSINES[self.precision]}"
        if self.precision == "fp32":
            bound = f"{DIFFERENCE:.0e}, {bound}"
        said.append(f"{'bound':<15} {bound}: {'kept' if self.holds else 'BROKEN'}")
        return said

    def as_json(self) -> dict[str, Any]:
        """Say it as ``report.json`` and ``--json`` do."""
        return {
            "text": self._worst("text"),
            "image": self._worst("image"),
            "bound": {
                "max_difference": DIFFERENCE if self.precision == "fp32" else None,
                "lowest_cosine": COSINES[self.precision],
            },
            "holds": self.holds,
            "shapes": [asdict(shape) for shape in self.shapes],
        }

    def _worst(self, tower: str) -> dict[str, float]:
        shapes = [shape for shape in self.shapes if shape.tower == tower]
        return {
            "max_difference": max(shape.difference for shape in shapes),
            "lowest_cosine": min(shape.cosine for shape in shapes),
        }


def compare_shapes(
    tokenizer: Tokenizer,
    size: int,
    text: tuple[TextTower, TextTower],
    image: tuple[ImageTower, ImageTower],
    precision: Precision,
) -> ExportParity:
    """Run source and exported model on the same rows of many shapes.

    Args:
        tokenizer: Tokenizer of both, the model and its export.
        size: Side in pixels of the image tower's input.
        text: The source's and the exported model's text tower: int64 [n, length] to unit rows.
            Exported rows may have zeros behind the source's numbers, as Immich's have.
        image: Both image towers: uint8 [n, size, size, 3] to unit rows.
        precision: What the exported model computes in.
    """
    shapes = []
    for length in lengths(tokenizer):
        for batch in BATCHES:
            tokens = token_rows(tokenizer, batch, length)
            apart = _apart(*(tower(tokens) for tower in text))
            shapes.append(ShapeParity("text", batch, length, *apart))
    for batch in PICTURES:
        pixels = pictures(batch, size)
        apart = _apart(*(tower(pixels) for tower in image))
        shapes.append(ShapeParity("image", batch, None, *apart))
    return ExportParity(tuple(shapes), precision)


def _apart(rows: Features, exported: Features) -> tuple[float, float]:
    wider = exported.shape[1] - rows.shape[1]
    return distance(np.pad(rows, ((0, 0), (0, wider))), exported)


def lengths(tokenizer: Tokenizer) -> list[int]:
    """Choose lengths of texts in tokens: the shortest there is, the longest, and some between."""
    shortest, longest = len(tokenizer.frame([])), tokenizer.context_length
    between = (shortest + 1, 8, 13, longest // 2, longest - 1, longest)
    return sorted({shortest, *(length for length in between if shortest < length <= longest)})


def token_rows(tokenizer: Tokenizer, batch: int, length: int) -> TokenIds:
    """Lay out token ids of real texts, int64 [batch, length]; all but the first row are padded."""
    specials = tokenizer.frame([])
    stream = [token for ids in tokenizer.token_ids(TEXTS) for token in ids if token not in specials]
    rows = []
    for row in range(batch):
        room = length - len(specials) - (row % 5 if row else 0)
        start = (row * 17) % len(stream)
        words = [stream[(start + position) % len(stream)] for position in range(max(0, room))]
        rows.append(tokenizer.frame(words))
    return tokenizer.stack(rows, length)


def pictures(number: int, size: int) -> Pixels:
    """Draw pictures that differ, uint8 [number, size, size, 3]; noise and bare ones are among 8."""
    drawn = squash(load_image(picture()), size)
    noise = np.random.default_rng(0).integers(0, 256, drawn.shape, np.uint8)
    waves = [np.roll(drawn, (7 * turn, 31 * turn, turn), (0, 1, 2)) for turn in range(number)]
    odd = [noise, np.zeros_like(drawn), np.full_like(drawn, 255)]
    return np.stack([*waves[:5], *odd, *waves[5:]][:number])
