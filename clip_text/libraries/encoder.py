"""A model of another library as an encoder: what indexing, searching and evaluating ask of one."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from clip_text.errors import CheckpointError
from clip_text.features import ahead, hash_weights
from clip_text.images import ImageSource, check_several, load_image
from clip_text.lengths import by_length, check_batch_size
from clip_text.libraries.sides import ImageSide, LibraryModel, Prepared, TextSide
from clip_text.names import Precision
from clip_text.tokenizer.tokenizer import check_texts
from clip_text.vectors import check_dimensions, truncate

__all__ = ["RUNTIMES", "LibraryEncoder"]

RUNTIMES = ("torch", "torch-bf16")
"""How models of other libraries compute: their own modules, by PyTorch."""

Features = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Named:
    """What computes; only its name is asked for."""

    name: str


class LibraryEncoder:
    """A model of another library, with the calls of :class:`clip_text.Encoder` that need no heads.

    Rows are those of the library's own calls, made unit rows: its tokenizer, its context length,
    its preprocessing of the RGB that :func:`clip_text.images.load_image` reads.

    Args:
        model: As an adapter of :mod:`clip_text.libraries` gives it.
        device: Where its modules are.
        runtime: ``torch``, or ``torch-bf16``: matrix products in bfloat16.
        dimensions: How many of each row's first dimensions are kept; all if not given.

    Raises:
        DimensionsError: If rows have not so many.

    Example:
        >>> encoder = clip_text.load_encoder("open_clip:ViT-B-32/openai")
        >>> encoder.encode_text(["a dog"]).shape
        (1, 512)
    """

    heads: Mapping[str, NoReturn] = {}
    """It has none."""

    def __init__(
        self,
        model: LibraryModel,
        device: torch.device,
        runtime: str = "torch",
        dimensions: int | None = None,
    ) -> None:
        self.model = model
        self.device = device
        self.runtime = _Named(runtime)
        self._dimensions: int | None = None
        if dimensions is not None:  # the model's own width is told when it is asked for
            self._dimensions = self._width(dimensions)

    def truncated(self, dimensions: int) -> "LibraryEncoder":
        """Give another encoder of the same model, which keeps only so many dimensions of rows.

        Raises:
            DimensionsError: If this one's rows have not so many.
        """
        other = copy(self)
        other._dimensions = self._width(dimensions)
        return other

    @property
    def embed_dim(self) -> int:
        """Width of the rows."""
        return self._dimensions or self._full_embed_dim

    @cached_property
    def _full_embed_dim(self) -> int:
        """Width of the shared space, by what both sides give.

        Raises:
            CheckpointError: If they do not give the same.
        """
        widths: dict[str, int] = {}
        with torch.inference_mode(), self._precision():
            if self.model.text:
                widths["text"] = self._width_of(self.model.text.encode(["一"]))
            if self.model.image:
                grey = self.model.image.prepare(Image.new("RGB", (64, 48), (128, 128, 128)))
                widths["image"] = self._width_of(self.model.image.encode([grey]))
        if len(set(widths.values())) > 1:
            raise CheckpointError(
                f"expected texts and pictures in one space, got {self.model.name}, whose texts "
                f"have {widths['text']} dimensions and pictures {widths['image']}. Name two sides "
                "that were trained together."
            )
        return next(iter(widths.values()))

    def _width_of(self, rows: object) -> int:
        """Check that a side gives one row of each.

        Raises:
            CheckpointError: If it gives something else.
        """
        if isinstance(rows, Tensor) and rows.ndim == 2:
            return rows.shape[1]
        shape = list(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
        raise CheckpointError(
            f"expected one row of each text and picture from {self.model.name}, got {shape}. "
            "Name a model that puts both into one space."
        )

    @property
    def context_length(self) -> int | None:
        """Longest text in tokens; the rest is dropped. None where the library does not say."""
        return self.model.text.context_length if self.model.text else None

    @property
    def logit_scale(self) -> float | None:
        """The factor that turned cosines into logits in training; None where there is none."""
        return self.model.logit_scale

    @cached_property
    def _model_fingerprint(self) -> str:
        sides = [side for side in (self.model.text, self.model.image) if side]
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr([side.identity for side in sides]).encode())
        hashed: list[object] = []
        for side in sides:
            if side.module not in hashed:  # mostly one module has both
                hash_weights(side.module, digest)
                hashed.append(side.module)
        return digest.hexdigest()

    @property
    def fingerprint(self) -> str:
        """Digest of weights, preprocessing, tokens and, of cut rows, their width.

        32 hexadecimal digits; what the model was asked for by is no part of it.
        """
        if self.embed_dim == self._full_embed_dim:
            return self._model_fingerprint
        said = repr((self._model_fingerprint, self.embed_dim)).encode()
        return hashlib.blake2b(said, digest_size=16).hexdigest()

    @property
    def parameters(self) -> dict[Literal["text", "image"], int]:
        """How many numbers each side has; of a module that is both, told apart by their names."""
        sides: dict[Literal["text", "image"], TextSide | ImageSide | None] = {
            "text": self.model.text,
            "image": self.model.image,
        }
        one = self.model.text and self.model.image and self.model.text.module
        is_shared = self.model.image is not None and one is self.model.image.module
        return {
            name: sum(
                numbers.numel()
                for key, numbers in side.module.named_parameters()
                if not is_shared or ("vis" in key) == (name == "image")
            )
            for name, side in sides.items()
            if side is not None
        }

    def samples(self, tower: Literal["text", "image"]) -> list[list[Any]]:
        """Give batches to time a side on, as :meth:`text` and :meth:`image` take them."""
        if tower == "text":
            texts = ["一只狗在草地上奔跑", "两个人", "a photo of a dog", "海边的日落"] * 8
            return [texts[:1], texts[:8], texts]
        grey = self.load_pixels(Image.new("RGB", (400, 300), (120, 130, 140)))
        return [[grey], [grey] * 8]

    def text(self, texts: list[str]) -> Features:
        """Encode a batch of texts into unit rows."""
        return self.encode_text(texts)

    def image(self, pixels: list[Prepared]) -> Features:
        """Encode prepared pictures into unit rows."""
        return self.encode_pixels(pixels)

    def runtime_of(self, tower: Literal["text", "image"]) -> _Named:  # noqa: ARG002
        """Give what computes a tower: PyTorch does both."""
        return self.runtime

    @property
    def text_precision(self) -> Precision:
        """What rows of texts are computed in: ``fp32`` or ``bf16``."""
        return self._precision_of(self.model.text)

    @property
    def image_precision(self) -> Precision:
        """What rows of pictures are computed in, which an index remembers."""
        return self._precision_of(self.model.image)

    def _precision_of(self, side: TextSide | ImageSide | None) -> Precision:
        if side is not None and side.precision is not None:
            return side.precision()
        return "bf16" if self.runtime.name == "torch-bf16" else "fp32"

    @property
    def text_side(self) -> TextSide:
        """What reads texts.

        Raises:
            CheckpointError: If the model reads none.
        """
        if self.model.text is None:
            raise self._one_sided("texts", "pictures", "text")
        return self.model.text

    @property
    def image_side(self) -> ImageSide:
        """What reads pictures.

        Raises:
            CheckpointError: If the model reads none.
        """
        if self.model.image is None:
            raise self._one_sided("pictures", "texts", "image")
        return self.model.image

    def _one_sided(self, asked: str, has: str, side: str) -> CheckpointError:
        both = f"text={self.model.name},image=MODEL"
        if side == "text":
            both = f"text=MODEL,image={self.model.name}"
        return CheckpointError(
            f"expected a model that reads {asked}, got {self.model.name}, which reads {has} alone. "
            f"Name what reads {asked} beside it: {both}."
        )

    def encode_text(
        self, texts: Sequence[str], batch_size: int = 256, *, dimensions: int | None = None
    ) -> Features:
        """Encode texts into unit rows.

        Args:
            texts: Any number of texts; longer ones are cut at ``context_length``.
            batch_size: Texts per forward pass.
            dimensions: How many of each row's first dimensions to keep; ``embed_dim`` if not given.

        Returns:
            Unit rows, float32 [n, dimensions], in the order of ``texts``.

        Raises:
            CheckpointError: If the model reads pictures alone.
            TypeError: If ``texts`` is one string, or holds something else than strings.
            DimensionsError: If ``dimensions`` is not from 1 to ``embed_dim``.
            ValueError: If ``batch_size`` is below 1.
        """
        texts, side = check_texts(texts), self.text_side
        width = self._width(dimensions)
        out = np.empty((len(texts), width), np.float32)
        for places in by_length([len(text) for text in texts], batch_size):
            with torch.inference_mode(), self._precision():
                rows = side.encode([texts[place] for place in places])
            out[places] = truncate(_unit_rows(rows), width)
        return out

    def encode_image(
        self,
        images: Iterable[ImageSource] | NDArray[np.generic],
        batch_size: int = 64,
        *,
        dimensions: int | None = None,
    ) -> Features:
        """Encode pictures into unit rows.

        Args:
            images: As :meth:`clip_text.Encoder.encode_image` takes them.
            batch_size: Pictures per forward pass.
            dimensions: How many of each row's first dimensions to keep; ``embed_dim`` if not given.

        Returns:
            Unit rows, float32 [n, dimensions], in the order of ``images``.

        Raises:
            CheckpointError: If the model reads texts alone.
            TypeError: If ``images`` is one picture instead of several.
            OSError: If a file cannot be read.
            ImageError: If something is no picture (a ValueError).
            DimensionsError: If ``dimensions`` is not from 1 to ``embed_dim``.
            ValueError: If ``batch_size`` is below 1.
        """
        check_batch_size(batch_size)
        check_several(images)
        width = self._width(dimensions)
        prepared = self._prepared(images, batch_size)
        batches: Iterator[list[Prepared]] = iter(lambda: list(islice(prepared, batch_size)), [])
        chunks = [truncate(self.encode_pixels(batch), width) for batch in batches]
        return np.concatenate(chunks) if chunks else np.empty((0, width), np.float32)

    def _prepared(
        self, images: Iterable[ImageSource] | NDArray[np.generic], depth: int
    ) -> Iterator[Prepared]:
        if isinstance(images, Sized) and len(images) < 2:
            return map(self.load_pixels, images)
        return ahead(self.load_pixels, images, workers=2, depth=depth)

    def load_pixels(self, source: ImageSource) -> Prepared:
        """Decode one picture and prepare it as the library does; safe in many threads.

        Returns:
            What :meth:`encode_pixels` takes, the adapter's own affair.

        Raises:
            CheckpointError: If the model reads texts alone.
            OSError: If the file cannot be read.
            ImageError: If it is no picture.
        """
        return self.image_side.prepare(load_image(source))

    def encode_pixels(self, pixels: Sequence[Prepared]) -> Features:
        """Encode what :meth:`load_pixels` gave; unit rows [n, embed_dim]."""
        if not pixels:
            return np.empty((0, self.embed_dim), np.float32)
        at_once = len(pixels) if self.device.type != "cpu" else 16
        rows = []
        for start in range(0, len(pixels), at_once):
            chunk = pixels[start : start + at_once]
            # pictures that a model reads in as many parts as they are large are no stack
            is_stack = len({picture.dtype for picture in chunk}) == 1
            for part in [chunk] if is_stack else [[picture] for picture in chunk]:
                with torch.inference_mode(), self._precision():
                    features = self.image_side.encode(part)
                rows.append(_unit_rows(features))
        return truncate(np.concatenate(rows), self.embed_dim)

    def _width(self, dimensions: int | None) -> int:
        if dimensions is None:
            return self.embed_dim
        check_dimensions(dimensions, self.embed_dim)
        return int(dimensions)

    def _precision(self) -> AbstractContextManager[None]:
        if self.runtime.name == "torch":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def _unit_rows(features: Tensor) -> Features:
    rows: Features = normalize(features.float(), dim=-1).cpu().numpy()
    return rows
