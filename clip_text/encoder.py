"""The Encoder: texts and pictures in, unit rows of one space out."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence, Sized
from copy import copy
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clip_text.errors import CheckpointError, needs
from clip_text.images import ImageSource, Preprocessing, check_several, load_square
from clip_text.lengths import by_length, check_batch_size
from clip_text.names import Compat, Precision
from clip_text.runtimes import ExportedModel, Features, Pixels, Runtime, TokenIds
from clip_text.runtimes.auto import AutoRuntime, Tower
from clip_text.runtimes.exported import is_exported, load_exported
from clip_text.runtimes.names import (
    asked_for,
    blaming_variable,
    computes_on,
    precision_of,
)
from clip_text.runtimes.processor import available_cores
from clip_text.text_heads import TextHeads
from clip_text.tokenizer import TokenReport
from clip_text.tokenizer.tokenizer import check_texts
from clip_text.vectors import check_dimensions, truncate

if TYPE_CHECKING:  # an exported model runs where none of these can be imported
    import torch
    from open_clip import CustomTextCLIP
    from torch import Tensor

    from clip_text.checkpoints import Checkpoint

# The states between the layers of 64 pictures of 272 pixels take 2.6 GB, and a CPU computes no
# faster for having them all at once: 41 pictures a second of one core, with 16 as with 64.
_PICTURES_ON_CPU = 16

_TOKENISED_AT_ONCE = 16_384
"""Texts that are sorted by length together."""


class Encoder(TextHeads):
    """A pair of towers with their tokenizer and preprocessing.

    Args:
        model: The parts, as :func:`clip_text.checkpoints.load_checkpoint` gives them, or a model
            that was exported: it encodes, and has neither weights to train nor heads.
        device: Where to compute; the GPU if there is one and the runtime computes there, else the
            CPU.
        runtime: How, one of :data:`clip_text.names.RUNTIMES`; ``torch`` runs the
            modules themselves, so that rows follow weights that change. All others compute with
            the weights as they are when texts or pictures are first encoded.
        dimensions: How many of each row's first dimensions are kept, made unit rows again; all
            if not given. See :func:`clip_text.vectors.truncate`.

    Example:
        >>> encoder = Encoder.from_pretrained("starter")
        >>> encoder.encode_text(["红色的心", "一只狗"]).shape
        (2, 256)
    """

    def __init__(
        self,
        model: "Checkpoint | ExportedModel",
        device: "str | torch.device | None" = None,
        runtime: str = "torch",
        dimensions: int | None = None,
    ) -> None:
        self.tokenizer = model.tokenizer
        self.preprocessing: Preprocessing = model.preprocessing
        self._exported: ExportedModel | None = None
        if isinstance(model, ExportedModel):
            self._exported = model
            self.runtime: Runtime = model.runtime
            self.heads, self.has_own_rows = {}, False
        else:
            self._take(model, device, runtime)
        self._dimensions: int | None = None
        self._dimensions = self._checked(dimensions)

    def _take(
        self, checkpoint: "Checkpoint", device: "str | torch.device | None", runtime: str
    ) -> None:
        """Put a checkpoint's modules on the device, and make what encodes by them."""
        import torch

        from clip_text.runtimes.choice import Parts, make_runtime

        self._checkpoint = checkpoint
        self._hashed: tuple[object, str] | None = None
        on_gpu = torch.cuda.is_available() and computes_on(runtime, "cuda")
        self._device = torch.device(device or ("cuda" if on_gpu else "cpu"))
        checkpoint.model.eval().to(self._device)
        self.heads = dict(checkpoint.heads)
        for head in self.heads.values():
            head.module.eval().to(self._device)
        parts = Parts(
            checkpoint.model,
            self.preprocessing,
            self.tokenizer,
            self._device,
            lambda: self._weights_fingerprint,
        )
        self._runtime_name, self.has_own_rows = runtime, precision_of(runtime) == "int8"
        self.runtime = make_runtime(runtime, parts)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "starter",
        device: "str | torch.device | None" = None,
        *,
        context_length: int | None = None,
        compat: Compat | None = None,
        runtime: str | None = None,
        dimensions: int | None = None,
    ) -> "Encoder":
        """Load a model.

        Args:
            name: ``"starter"`` (bundled), a local folder or file of any format that
                :mod:`clip_text.checkpoints` reads, a folder of ``clip-text export``, or a Hugging
                Face hub name.
            device: Where to compute; the GPU if there is one and the runtime computes there, else
                the CPU.
            context_length: Longest text in tokens, if not the model's own.
            compat: Whose tokens a text becomes, if not those the model was saved with:
                ``clip_text``, ``cn_clip``, ``hf`` or ``open_clip``; see
                :mod:`clip_text.tokenizer`. Both are part of the fingerprint.
            runtime: How rows are computed: ``auto``, ``torch``, ``torch-bf16``, ``openvino``,
                ``openvino-bf16``, ``openvino-int8``, ``onnxruntime`` or ``onnxruntime-int8``;
                ``auto`` if not given, which is the quickest whose rows have a cosine of at least
                0.999 to those of ``torch``, and never int8. Take ``torch`` to change the weights.
                ``CLIP_TEXT_RUNTIME`` names another where none is given; a model that was exported
                has its own, whatever the variable says.
            dimensions: How many of each row's first dimensions are kept, from 1 to the model's
                own number; all if not given. Part of the fingerprint.

        Raises:
            CheckpointError: If there is none, it is damaged, or it cannot have that context or
                contract.
            MissingPackageError: If the runtime's library is not installed.
            DimensionsError: If rows have not so many dimensions.
            ValueError: If there is no such runtime, or it does not compute on that device.

        Example:
            >>> Encoder.from_pretrained("starter", compat="cn_clip").tokenizer.contract
            'cn_clip/1'
        """
        folder = Path(name).expanduser()
        if is_exported(folder):
            exported = load_exported(folder, context_length, compat, runtime)
            return cls(exported, device, dimensions=dimensions)
        with needs("clip-text", "a model that was not exported"):
            from clip_text.checkpoints import load_checkpoint

        chosen = asked_for(runtime, device)
        checkpoint = load_checkpoint(name, context_length, compat)
        with blaming_variable(runtime):
            encoder = cls(checkpoint, device, chosen)
        return encoder if dimensions is None else encoder.truncated(dimensions)

    def truncated(self, dimensions: int) -> "Encoder":
        """Give another encoder of the same model, which keeps only so many dimensions of rows.

        Raises:
            DimensionsError: If this one's rows have not so many.
        """
        other = copy(self)
        other._dimensions = self._checked(dimensions)
        return other

    def _checked(self, dimensions: int | None) -> int:
        """Say how wide rows are to be; as wide as this encoder's if nothing is asked for."""
        if dimensions is None:
            return self.embed_dim
        check_dimensions(dimensions, self.embed_dim)
        return int(dimensions)

    def save_pretrained(self, folder: str | Path, dtype: "torch.dtype | None" = None) -> None:
        """Write the model as a folder that :meth:`from_pretrained` reads, whole.

        Of an encoder that keeps some ``dimensions``, too: they are asked for anew.

        Args:
            folder: Created with its parents.
            dtype: Of the stored floating-point weights; float32 if not given.
        """
        import torch

        from clip_text.checkpoints import save_checkpoint

        save_checkpoint(self.checkpoint, Path(folder), dtype=dtype or torch.float32)

    def save_sentence_transformers(self, folder: str | Path) -> None:
        """Write the text half as a folder that ``SentenceTransformer(folder)`` loads.

        It needs nothing of this package to load, and gives the rows of :meth:`encode_text`, with
        as many dimensions as this encoder keeps.

        Raises:
            CheckpointError: If the tokeniser contract or the backbone cannot be carried over; see
                :func:`clip_text.checkpoints.sentence_transformers.save_sentence_transformers`.
            FileExistsError: If the folder exists.
        """
        from clip_text.checkpoints.sentence_transformers import save_sentence_transformers

        save_sentence_transformers(self.checkpoint, Path(folder), self.embed_dim)

    @property
    def checkpoint(self) -> "Checkpoint":
        """The parts it was made of.

        Raises:
            CheckpointError: If the model was exported.
        """
        self.require_weights()
        return self._checkpoint

    @property
    def model(self) -> "CustomTextCLIP":
        """Both towers, in evaluation mode on the device.

        Raises:
            CheckpointError: If the model was exported.
        """
        return self.checkpoint.model

    @property
    def device(self) -> "torch.device":
        """Where the towers are.

        Raises:
            CheckpointError: If the model was exported.
        """
        self.require_weights()
        return self._device

    @property
    def embed_dim(self) -> int:
        """Width of the rows: of the model's shared space, or as many dimensions as are kept."""
        return self._dimensions or self._full_embed_dim

    @property
    def _full_embed_dim(self) -> int:
        return self._exported.embed_dim if self._exported else self.checkpoint.config.embed_dim

    @property
    def context_length(self) -> int:
        """Longest text in tokens, [CLS] and [SEP] included; the rest is dropped."""
        return self.tokenizer.context_length

    @property
    def logit_scale(self) -> float:
        """The factor that turned cosines into logits in training (the exp, not the log)."""
        if self._exported:
            return self._exported.logit_scale
        return float(self.model.logit_scale.detach().exp())

    @property
    def fingerprint(self) -> str:
        """Digest of weights, preprocessing, tokeniser contract and, of cut rows, their width.

        32 hexadecimal digits. Encoders with equal fingerprints give comparable rows; an index
        keeps it and refuses queries from another model. A runtime in int8 has one of its own.
        """
        if self.embed_dim == self._full_embed_dim:
            return self._model_fingerprint
        said = repr((self._model_fingerprint, self.embed_dim)).encode()
        return hashlib.blake2b(said, digest_size=16).hexdigest()

    @property
    def _model_fingerprint(self) -> str:
        """Digest of the model's whole rows, whatever is kept of them."""
        if self._exported:
            return self._exported.fingerprint
        from clip_text.runtimes.choice import rows_of

        return rows_of(self._runtime_name, self._weights_fingerprint)

    @property
    def _weights_fingerprint(self) -> str:
        """Digest of what the modules compute with, whatever the runtime; anew once they learnt."""
        from clip_text.features import hash_weights, weights_state

        state = weights_state(self.model)
        if self._hashed and self._hashed[0] == state:
            return self._hashed[1]
        digest = hashlib.blake2b(digest_size=16)
        config = self.checkpoint.config
        shape = (config.pooler, config.projection, config.context_length, config.quick_gelu)
        vocabulary = sorted(self.tokenizer.backend.get_vocab().items())
        contract = self.tokenizer.contract
        digest.update(repr((contract, shape, self.preprocessing, vocabulary)).encode())
        hash_weights(self.model, digest)
        self._hashed = state, digest.hexdigest()
        return self._hashed[1]

    def runtime_of(self, tower: Tower) -> Runtime:
        """Give what computes a tower; ``auto`` chooses that now, if it has not yet."""
        return self.runtime.of(tower) if isinstance(self.runtime, AutoRuntime) else self.runtime

    @property
    def text_precision(self) -> Precision:
        """What rows of texts are computed in: ``fp32``, ``bf16`` or ``int8``."""
        return precision_of(self.runtime_of("text").name)

    @property
    def image_precision(self) -> Precision:
        """What rows of pictures are computed in, which an index remembers."""
        return precision_of(self.runtime_of("image").name)

    def require_weights(self) -> None:
        """Refuse a model that was exported, where more than encoding is asked for.

        Raises:
            CheckpointError: If it was.
        """
        if self._exported:
            raise CheckpointError(
                f"expected a model with its weights, got {self._exported.path}, which was exported "
                "and only encodes. Load the model it was exported from."
            )

    def text_report(self, texts: Sequence[str]) -> TokenReport:
        """Say which parts of the texts are unknown to the vocabulary, and which are cut off."""
        return self.tokenizer.report(texts)

    def encode_text(
        self, texts: Sequence[str], batch_size: int = 256, *, dimensions: int | None = None
    ) -> Features:
        """Encode texts into unit rows.

        An empty text is a text of no words: it has a row like any other. A text longer than
        ``context_length`` tokens is cut there.

        Args:
            texts: Any number of texts, in any language the vocabulary knows.
            batch_size: Texts per forward pass; the rows don't depend on it.
            dimensions: How many of each row's first dimensions to keep, made unit rows again;
                ``embed_dim`` if not given.

        Returns:
            Unit rows, float32 [n, dimensions], in the order of ``texts``.

        Raises:
            TypeError: If ``texts`` is one string, or holds something else than strings.
            DimensionsError: If ``dimensions`` is not from 1 to ``embed_dim``.
            ValueError: If ``batch_size`` is below 1.
        """
        check_batch_size(batch_size)
        texts = check_texts(texts)
        out = np.empty((len(texts), self._checked(dimensions)), np.float32)
        if texts:
            self.runtime_of("text")  # auto chooses before a thread tokenises beside it
        for places, tokens in self._padded_batches(texts, batch_size):
            out[places] = truncate(self.runtime.text(tokens), out.shape[1])
        return out

    def _padded_batches(
        self, texts: Sequence[str], batch_size: int, context_length: int | None = None
    ) -> Iterator[tuple[list[int], TokenIds]]:
        """Give positions in ``texts`` and int64 [n, length], texts of like length together.

        Of many texts, the next thousands are tokenised while the model computes the last.
        """
        step = batch_size * max(1, _TOKENISED_AT_ONCE // batch_size)
        starts = range(0, len(texts), step)

        def tokenise(start: int) -> tuple[int, list[list[int]]]:
            return start, self.tokenizer.token_ids(texts[start : start + step], context_length)

        chunks: Iterable[tuple[int, list[list[int]]]] = map(tokenise, starts)
        if len(starts) > 1:
            from clip_text.features import ahead

            chunks = ahead(tokenise, starts, workers=1, depth=1)
        for start, rows in chunks:
            for places in by_length([len(row) for row in rows], batch_size):
                tokens = self.tokenizer.stack([rows[place] for place in places])
                yield [start + place for place in places], tokens

    def token_batches(
        self, texts: Sequence[str], batch_size: int = 256, context_length: int | None = None
    ) -> "Iterator[tuple[list[int], Tensor]]":
        """Give texts of like length together, so that little padding is computed.

        Args:
            texts: Any number.
            batch_size: Texts at a time.
            context_length: Where longer texts are cut, if not at the encoder's own.

        Yields:
            Positions in ``texts``, and token ids [n, length] on the encoder's device.

        Raises:
            TypeError: If ``texts`` is one string, or holds something else than strings.
        """
        import torch

        for places, tokens in self._padded_batches(texts, batch_size, context_length):
            yield places, torch.from_numpy(tokens).to(self.device)

    def encode_image(
        self,
        images: Iterable[ImageSource] | NDArray[np.generic],
        batch_size: int = 64,
        *,
        dimensions: int | None = None,
    ) -> Features:
        """Encode pictures into unit rows.

        Args:
            images: A list, a generator or any other iterable of paths, PIL images, arrays (uint8 or
                float in [0, 1]; [H, W], [H, W, 3] or [H, W, 4]) or encoded bytes, mixed at will; or
                one array of pictures of one size, [n, H, W, 3].
            batch_size: Pictures per forward pass; the rows don't depend on it.
            dimensions: How many of each row's first dimensions to keep, as :meth:`encode_text`.

        Returns:
            Unit rows, float32 [n, dimensions], in the order of ``images``.

        Raises:
            TypeError: If ``images`` is one picture instead of several.
            OSError: If a file cannot be read.
            ImageError: If something is no picture (a ValueError).
            DimensionsError: If ``dimensions`` is not from 1 to ``embed_dim``.
            ValueError: If ``batch_size`` is below 1.
        """
        check_batch_size(batch_size)
        width = self._checked(dimensions)
        check_several(images)
        pixels = self._decoded(images, depth=batch_size)
        batches = iter(lambda: list(islice(pixels, batch_size)), [])
        chunks = [truncate(self.encode_pixels(batch), width) for batch in batches]
        return np.concatenate(chunks) if chunks else np.empty((0, width), np.float32)

    def _decoded(
        self, images: Iterable[ImageSource] | NDArray[np.generic], depth: int
    ) -> Iterator[Pixels]:
        """Decode pictures in threads, a batch ahead of the model."""
        if isinstance(images, Sized) and len(images) < 2:
            return map(self.load_pixels, images)
        from clip_text.features import ahead

        self.runtime_of("image")  # auto chooses before threads decode beside it
        return ahead(self.load_pixels, images, available_cores(), depth)

    def load_pixels(self, source: ImageSource) -> Pixels:
        """Decode one picture and squash it to the model's input size; safe in many threads.

        Returns:
            uint8 [size, size, 3], RGB.

        Raises:
            OSError: If the file cannot be read.
            ImageError: If it is no picture.
        """
        return load_square(source, self.preprocessing.size)

    def encode_pixels(self, pixels: Sequence[Pixels]) -> Features:
        """Encode what :meth:`load_pixels` gave; unit rows [n, embed_dim].

        On a CPU, a few pictures pass through at a time.
        """
        if not pixels:
            return np.empty((0, self.embed_dim), np.float32)
        on_gpu = not self._exported and self.device.type != "cpu"
        at_once = len(pixels) if on_gpu else _PICTURES_ON_CPU
        batches = [pixels[start : start + at_once] for start in range(0, len(pixels), at_once)]
        rows = np.concatenate([self.runtime.image(np.stack(batch)) for batch in batches])
        return truncate(rows, self.embed_dim)

    def to_input(self, pixels: Pixels) -> "Tensor":
        """Normalise uint8 [n, size, size, 3] into the image tower's input [n, 3, size, size].

        Raises:
            CheckpointError: If the model was exported.
        """
        import torch

        from clip_text.runtimes.torch_runtime import to_input

        batch = torch.from_numpy(pixels).to(self.device)
        return to_input(batch, self.preprocessing)
