"""What an adapter makes of a library's model: what reads texts, and what reads pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from clip_text.names import Precision

__all__ = ["ImageSide", "LibraryModel", "Prepared", "TextSide", "pack", "unpack"]

Prepared = NDArray[Any]
"""What a picture has become when it is ready for a model: one array, the adapter's own affair."""


@dataclass(frozen=True, slots=True)
class TextSide:
    """What reads texts.

    Args:
        module: Holds the weights; a digest of them is part of the fingerprint.
        identity: What rows depend on beside weights: the tokens that texts become.
        encode: Texts of one batch → features [n, embed_dim], not unit rows yet. One thread at a
            time calls it.
        context_length: Longest text in tokens; None where the library does not say.
        vocabulary: How many tokens there are; None where that is not known.
        precision: Says what rows are computed in, of a side with a runtime of its own.
    """

    module: nn.Module
    identity: object
    encode: Callable[[list[str]], Tensor]
    context_length: int | None = None
    vocabulary: int | None = None
    precision: Callable[[], Precision] | None = None


@dataclass(frozen=True, slots=True)
class ImageSide:
    """What reads pictures.

    Args:
        module: Holds the weights.
        identity: What rows depend on beside weights: how a picture is resized and normalised.
        prepare: An RGB picture → what the model reads of it. Many threads call it at once.
        encode: Some of those → features [n, embed_dim], not unit rows yet.
        precision: Says what rows are computed in, of a side with a runtime of its own.
    """

    module: nn.Module
    identity: object
    prepare: Callable[[Image.Image], Prepared]
    encode: Callable[[Sequence[Prepared]], Tensor]
    precision: Callable[[], Precision] | None = None


@dataclass(frozen=True, slots=True)
class LibraryModel:
    """A model of another library, or one half of it.

    Args:
        name: What it was asked for by, such as ``open_clip:ViT-B-32/openai``.
        about: What it is, a line.
        text: None of a model of pictures alone.
        image: None of a model of texts alone.
        logit_scale: The factor that turned cosines into logits in training; None where there is
            none.
        looks: How pictures are prepared, in words.
    """

    name: str
    about: str
    text: TextSide | None
    image: ImageSide | None
    logit_scale: float | None = None
    looks: str = "as its library does"


def pack(features: Mapping[str, Any]) -> Prepared | None:
    """Put what a processor gives of one picture into one array, a field for each tensor.

    Args:
        features: By name, tensors [1, ...]; what is no tensor, or None, is left out.

    Returns:
        A structured array of no dimensions, so that :func:`unpack` can stack several; None where a
        tensor has not one row of one picture, as in models of pictures of any size.
    """
    tensors = {name: value for name, value in features.items() if isinstance(value, Tensor)}
    if not tensors or any(value.ndim == 0 or len(value) != 1 for value in tensors.values()):
        return None
    arrays = {name: value[0].cpu().numpy() for name, value in tensors.items()}
    kind = np.dtype([(name, array.dtype, array.shape) for name, array in arrays.items()])
    out = np.empty((), kind)
    for name, array in arrays.items():
        out[name] = array
    return out


def unpack(pictures: Sequence[Prepared], device: torch.device) -> dict[str, Tensor]:
    """Stack what :func:`pack` gave of several pictures; by name, [n, ...] on the device."""
    stacked = np.stack(pictures)
    return {
        name: torch.from_numpy(np.ascontiguousarray(stacked[name])).to(device)
        for name in stacked.dtype.names or ()
    }
