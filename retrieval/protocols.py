"""What retrieval asks of an encoder, and nothing more.

``retrieval`` never imports ``clip_text``: anything with these members can fill an index.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]
"""Unit rows of the shared space, float32 [n, embed_dim]."""

Feature = NDArray[np.float32]
"""One unit row of the shared space, float32 [embed_dim]."""

Rows = NDArray[np.int64]
"""Numbers of pictures: the catalogue's rows, int64 [n]."""

Scores = NDArray[np.float32]
"""Cosines in [-1, 1], higher is better, float32."""

Pixels = NDArray[np.uint8]
"""One decoded picture at the model's input size, uint8 [height, width, 3], RGB."""


class Encoder(Protocol):
    """Turns text and pictures into rows of one space."""

    @property
    def embed_dim(self) -> int:
        """Width of the shared space."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies weights, preprocessing and tokeniser contract together.

        Two encoders with equal fingerprints give comparable rows.
        """
        ...

    def load_pixels(self, source: Path | bytes) -> Pixels:
        """Decode and resize one picture. Safe to call from many threads at once.

        Args:
            source: Its file, or what would be in it.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If its content is not a picture this encoder can use.
            ImportError: If it may be one, but the package that decodes it is not installed; such
                a file is tried again in every run.
        """
        ...

    def encode_pixels(self, pixels: Sequence[Pixels]) -> Features:
        """Encode what :meth:`load_pixels` returned; [n, embed_dim], unit rows."""
        ...

    def encode_text(self, texts: Sequence[str]) -> Features:
        """Encode texts; [n, embed_dim], unit rows."""
        ...


class TextReader(Protocol):
    """Reads the text that stands in pictures."""

    def __call__(self, path: Path) -> str:
        """Read one picture.

        Args:
            path: Its file.

        Returns:
            Lines of text as they stand there, from the top; empty where there are none.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If its content is no picture that can be read.
        """
        ...


EncodeAndClassify = Callable[[Sequence[str]], tuple[Features, Sequence[tuple[str, float] | None]]]
"""Texts → what :meth:`Encoder.encode_text` gives, and of each text its category with the
probability in [0, 1], or None, by one pass of the model."""
