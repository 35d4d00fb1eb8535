"""Runtimes: how an :class:`clip_text.Encoder` computes, a file for each library.

A runtime takes what texts and pictures have become, and gives unit rows; texts to tokens, pictures
to pixels, batches and their order are the Encoder's. Importing this package imports no library.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clip_text.images import Preprocessing
from clip_text.tokenizer import Tokenizer

__all__ = ["ExportedModel", "Features", "Pixels", "Runtime", "TokenIds"]

Features = NDArray[np.float32]
Pixels = NDArray[np.uint8]
TokenIds = NDArray[np.int64]


class Runtime(Protocol):
    """Computes both towers of one model; many threads may call one at once."""

    @property
    def name(self) -> str:
        """What it is asked for by, such as ``openvino-bf16``."""

    def text(self, tokens: TokenIds) -> Features:
        """Encode token ids.

        Args:
            tokens: int64 [n, length], padded at the end with the tokenizer's padding id; at least
                one row, each with at least one token.

        Returns:
            Unit rows, float32 [n, embed_dim].
        """

    def image(self, pixels: Pixels) -> Features:
        """Encode pictures of the model's input size; mean and deviation are the runtime's affair.

        Args:
            pixels: uint8 [n, size, size, 3], RGB; at least one.

        Returns:
            Unit rows, float32 [n, embed_dim].
        """


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """A model whose weights are in a runtime's own files: it encodes, and does no more.

    Args:
        path: Its folder, named in errors.
        tokenizer: Of texts.
        preprocessing: Of pictures.
        embed_dim: Width of the shared space.
        fingerprint: Of the model it was exported from, where its rows are the same.
        logit_scale: The factor that turned cosines into logits in training.
        runtime: Computes both towers.
    """

    path: Path
    tokenizer: Tokenizer
    preprocessing: Preprocessing
    embed_dim: int
    fingerprint: str
    logit_scale: float
    runtime: Runtime
