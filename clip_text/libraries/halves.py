"""Texts as one model reads them, pictures as another: Multilingual-CLIP's way.

A text encoder that was trained to give the rows of a CLIP's own text tower finds the pictures that
this CLIP's image tower encoded.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clip_text.libraries.encoder import LibraryEncoder
from clip_text.libraries.sides import ImageSide, LibraryModel, Prepared, TextSide
from clip_text.names import Precision

__all__ = ["joined"]

Features = NDArray[np.float32]


class _Encoder(Protocol):
    """What is asked of the encoder of this package; any other is a LibraryEncoder."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def context_length(self) -> int | None: ...
    @property
    def logit_scale(self) -> float | None: ...
    @property
    def text_precision(self) -> Precision: ...
    @property
    def image_precision(self) -> Precision: ...
    def load_pixels(self, source: Any) -> Prepared: ...  # noqa: ANN401
    def encode_pixels(self, pixels: Sequence[Prepared]) -> Features: ...
    def encode_text(self, texts: Sequence[str]) -> Features: ...


def joined(name: str, texts: _Encoder, pictures: _Encoder) -> LibraryModel:
    """Make one model of two.

    Args:
        name: What it was asked for by.
        texts: Reads the texts.
        pictures: Reads the pictures.

    Raises:
        CheckpointError: If one of them does not read what it is to read.
    """
    return LibraryModel(
        name=name,
        about=f"two models, {name}",
        text=_text_side(texts),
        image=_image_side(pictures),
        logit_scale=texts.logit_scale,
    )


def _text_side(encoder: _Encoder) -> TextSide:
    if isinstance(encoder, LibraryEncoder):
        return encoder.text_side

    def encode(texts: list[str]) -> Tensor:
        return torch.from_numpy(encoder.encode_text(texts))

    # an empty module: its weights are in its fingerprint
    return TextSide(
        nn.Module(),
        encoder.fingerprint,
        encode,
        encoder.context_length,
        precision=lambda: encoder.text_precision,
    )


def _image_side(encoder: _Encoder) -> ImageSide:
    if isinstance(encoder, LibraryEncoder):
        return encoder.image_side

    def encode(pictures: Sequence[Prepared]) -> Tensor:
        return torch.from_numpy(encoder.encode_pixels(pictures))

    return ImageSide(
        nn.Module(),
        encoder.fingerprint,
        encoder.load_pixels,
        encode,
        precision=lambda: encoder.image_precision,
    )
