"""An Encoder in the clothes of CLIP_benchmark and of MTEB.

Each adapter gives the rows of ``encode_text`` and ``encode_image``, so that those programs measure
the very model that this package searches with. Neither program is needed to import this module.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from clip_text.encoder import Encoder
from clip_text.errors import needs
from clip_text.images import ImageSource, load_square
from clip_text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from mteb.models.model_meta import ModelMeta

__all__ = ["ClipBenchmarkParts", "MtebEncoder", "for_clip_benchmark", "for_mteb"]

Rows = NDArray[np.float32]


class ClipBenchmarkModel(torch.nn.Module):
    """The two calls that CLIP_benchmark makes; rows on the device of what it hands in."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.towers = encoder.model
        self.embed_dim = encoder.embed_dim

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode what the transform gave, float32 [n, 3, size, size]; unit rows [n, embed_dim]."""
        return self._unit_rows(self.towers.encode_image(images))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Encode what the tokenizer gave, int64 [n, length]; unit rows [n, embed_dim]."""
        return self._unit_rows(self.towers.encode_text(tokens))

    def _unit_rows(self, features: Tensor) -> Tensor:
        """Keep what the encoder keeps of rows; see :func:`clip_text.vectors.truncate`."""
        return normalize(features[:, : self.embed_dim].float(), dim=-1)


@dataclass(frozen=True)
class ClipBenchmarkTransform:
    """A picture to the image tower's input; holds no weights, so workers can be sent it.

    Args:
        size: Side of the square, pixels.
        mean: Per channel, of values in [0, 1].
        std: Per channel, of values in [0, 1].
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, image: ImageSource) -> Tensor:
        """Squash and normalise one picture, float32 [3, size, size], on the CPU."""
        pixels = load_square(image, self.size)
        # the arithmetic of Encoder.to_input, so that the rows are those of encode_image
        mean, std = torch.tensor(self.mean) * 255, torch.tensor(self.std) * 255
        return ((torch.from_numpy(pixels).float() - mean) / std).permute(2, 0, 1)


class ClipBenchmarkParts(NamedTuple):
    """In the order of ``clip_benchmark.models.load_clip``."""

    model: ClipBenchmarkModel
    transform: ClipBenchmarkTransform
    tokenizer: Tokenizer


def for_clip_benchmark(encoder: Encoder) -> ClipBenchmarkParts:
    """Give what CLIP_benchmark's evaluate functions take.

    Args:
        encoder: Whose rows are to be measured. The parts share its weights.

    Returns:
        Model, transform (for the data set) and tokenizer, in place of its ``load_clip``.

    Example:
        >>> model, transform, tokenizer = for_clip_benchmark(encoder)
        >>> zeroshot_retrieval.evaluate(model, loader, tokenizer, "cpu", amp=False)
    """
    preprocessing = encoder.checkpoint.preprocessing
    transform = ClipBenchmarkTransform(preprocessing.size, preprocessing.mean, preprocessing.std)
    return ClipBenchmarkParts(ClipBenchmarkModel(encoder).eval(), transform, encoder.tokenizer)


class MtebEncoder:
    """What MTEB calls an encoder (``mteb.EncoderProtocol``); made by :func:`for_mteb`.

    Args:
        encoder: Whose rows are to be measured.
        meta: Under which name and revision MTEB keeps the results.
    """

    def __init__(self, encoder: Encoder, meta: "ModelMeta") -> None:
        self.encoder = encoder
        self._meta = meta

    @property
    def mteb_model_meta(self) -> "ModelMeta":
        """Name, revision and shape of the model."""
        return self._meta

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        precision: str | None = None,
        **options: Any,  # noqa: ANN401, ARG002  (task, split, batch size: the rows don't depend on them)
    ) -> Rows:
        """Encode batches as MTEB's loaders give them.

        Args:
            inputs: Batches with texts in ``text``, pictures in ``image``, or both, which then are
                one item: its row is in the middle between the two.
            precision: Only ``"float32"``.
            options: What else MTEB tells an encoder. No prompt is put before a text: the models
                of this package are trained without.

        Returns:
            Unit rows, float32 [n, embed_dim].

        Raises:
            ValueError: If a batch has neither texts nor pictures, or another precision is asked
                for.
        """
        if precision not in (None, "float32"):
            raise ValueError(f"expected the precision float32, got {precision}. Leave it out.")
        rows = [self._encode_batch(batch) for batch in inputs]
        return np.concatenate(rows) if rows else np.empty((0, self.encoder.embed_dim), np.float32)

    def _encode_batch(self, batch: Mapping[str, Any]) -> Rows:
        rows = []
        if "text" in batch:
            rows.append(self.encoder.encode_text(batch["text"]))
        if "image" in batch:
            rows.append(self.encoder.encode_image(batch["image"]))
        if not rows:
            raise ValueError(
                f"expected texts or images in a batch, got {', '.join(batch) or 'nothing'}. "
                "Choose a task of these modalities."
            )
        if len(rows) == 1:
            return rows[0]
        both: Rows = normalize(torch.from_numpy(rows[0] + rows[1]), dim=-1).numpy()
        return both

    def similarity(self, embeddings1: Rows | Tensor, embeddings2: Rows | Tensor) -> Tensor:
        """Cosines of all pairs, [n, m]; the inputs are unit rows."""
        return torch.as_tensor(embeddings1) @ torch.as_tensor(embeddings2).T

    def similarity_pairwise(self, embeddings1: Rows | Tensor, embeddings2: Rows | Tensor) -> Tensor:
        """Cosines of row and row, [n]; the inputs are unit rows."""
        return (torch.as_tensor(embeddings1) * torch.as_tensor(embeddings2)).sum(-1)


def for_mteb(encoder: Encoder, name: str = "clip-text/encoder") -> MtebEncoder:
    """Give what ``mteb.evaluate`` takes as a model.

    Args:
        encoder: Whose rows are to be measured.
        name: ``organisation/model``, under which MTEB shows and caches results. The revision is
            the encoder's fingerprint, so results of two models are never taken for each other.

    Raises:
        MissingPackageError: If ``mteb`` is not installed.

    Example:
        >>> mteb.evaluate(for_mteb(encoder), mteb.get_task("Flickr30kT2IRetrieval"))
    """
    with needs("mteb", "describing the model to MTEB"):
        from mteb.models.model_meta import ModelMeta, ScoringFunction  # noqa: PLC0415  (optional)
    meta = ModelMeta(
        loader=None,
        name=name,
        revision=encoder.fingerprint,
        release_date=None,
        languages=None,
        n_parameters=sum(weight.numel() for weight in encoder.model.parameters()),
        memory_usage_mb=None,
        max_tokens=encoder.context_length,
        embed_dim=encoder.embed_dim,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=False,
        training_datasets=None,
        modalities=["image", "text"],
    )
    return MtebEncoder(encoder, meta)
