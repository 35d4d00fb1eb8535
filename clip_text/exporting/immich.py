"""Models in the layout that Immich's machine-learning service loads for an OpenCLIP model.

::

    config.json                       context_length
    textual/model.onnx                int32 ``text`` [n, context_length] to rows
    textual/tokenizer.json, tokenizer_config.json
    visual/model.onnx                 float32 ``image`` [n, 3, size, size], normalised, to rows
    visual/preprocess_cfg.json        how a picture becomes ``image``

The service feeds ids without a mask, so the text graph masks the padding itself; and it cleans
texts by putting one space for each run of white space, no more, so the tokenizer.json holds what
the contract does to a text. It knows models by name, and with the name the width of their rows:
rows are filled up with zeros to the next such width, which changes no cosine.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from tokenizers import Tokenizer as Pipeline
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from clip_text.checkpoints import Checkpoint
from clip_text.checkpoints.files import read_json
from clip_text.checkpoints.folder import preprocess_cfg
from clip_text.errors import CheckpointError, needs
from clip_text.images import ImageSource, load_image, squash
from clip_text.runtimes import Features, Pixels, TokenIds
from clip_text.storage import write_json
from clip_text.tokenizer.files import TokenizerFiles
from clip_text.tokenizer.portable import portable

ResizeMode = Literal["squash", "shortest"]

NAMES = {
    512: "ViT-B-32__openai",
    640: "ViT-B-16-plus-240__laion400m_e32",
    768: "ViT-L-14__openai",
    1024: "ViT-H-14__laion2b-s32b-b79k",
}
"""By the width of its rows, a name of Immich's list that an exported model may go by."""


def immich_width(embed_dim: int) -> int:
    """Choose the width of the rows Immich gets.

    Args:
        embed_dim: Size of the model's shared space.

    Raises:
        CheckpointError: If Immich's list has no model as wide.
    """
    for width in NAMES:
        if width >= embed_dim:
            return width
    raise CheckpointError(
        f"expected an embed_dim of at most {max(NAMES)}, the widest of Immich's models here, "
        f"got {embed_dim}. Export to onnx and serve it with clip-text serve."
    )


class Normalised(nn.Module):
    """An image tower over pictures whose mean and deviation are taken care of: to unit rows.

    Args:
        visual: open_clip's tower.
    """

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, image: Tensor) -> Tensor:
        """Encode float32 [n, 3, size, size] into unit rows [n, embed_dim]."""
        return nn.functional.normalize(self.visual(image), dim=-1)


class Widened(nn.Module):
    """A tower whose rows are filled up with zeros.

    Args:
        tower: Gives unit rows [n, embed_dim].
        width: Size of the rows that come out, zeros behind the model's own.
    """

    def __init__(self, tower: nn.Module, width: int) -> None:
        super().__init__()
        self.tower = tower
        self.width = width

    def forward(self, inputs: Tensor) -> Tensor:
        """Give unit rows [n, width]."""
        rows: Tensor = self.tower(inputs)
        return nn.functional.pad(rows, (0, self.width - rows.shape[-1]))


def check_immich(checkpoint: Checkpoint) -> None:
    """Refuse a model that Immich cannot run.

    Raises:
        CheckpointError: If its rows are wider than those of Immich's models here, or its contract
            is open_clip's, whose cleaning no tokenizer.json can hold.
    """
    immich_width(checkpoint.config.embed_dim)
    _portable(checkpoint)


def write_parts(checkpoint: Checkpoint, folder: Path) -> None:
    """Write what lies beside the graphs, into folders ``textual`` and ``visual`` that exist."""
    TokenizerFiles.of(_portable(checkpoint)).save_pretrained(str(folder / "textual"))
    config, preprocessing = checkpoint.config, checkpoint.preprocessing
    write_json(
        folder / "config.json",
        {
            "embed_dim": immich_width(config.embed_dim),
            "vision_cfg": {"image_size": preprocessing.size},
            "text_cfg": {"context_length": config.context_length},
        },
    )
    write_json(
        folder / "visual" / "preprocess_cfg.json",
        {**preprocess_cfg(preprocessing), "mode": "RGB", "fill_color": 0},
    )


def _portable(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    try:
        return portable(checkpoint.tokenizer)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


class ImmichModel:
    """Runs a folder by the calls of Immich's service, to measure what a search there finds.

    Args:
        folder: Folder of an export, as :func:`clip_text.exporting.export` writes it.
        resize_mode: ``squash`` as the folder says, or ``shortest``: the crop from the middle that
            older versions of the service make of every picture.

    Raises:
        MissingPackageError: If onnxruntime is not installed.
    """

    def __init__(self, folder: Path, resize_mode: ResizeMode = "squash") -> None:
        with needs("onnxruntime", "running what was exported"):
            import onnxruntime  # noqa: PLC0415  (few need it)

        context = read_json(folder / "config.json")["text_cfg"]["context_length"]
        pad = read_json(folder / "textual" / "tokenizer_config.json")["pad_token"]
        self._tokenizer = Pipeline.from_file(str(folder / "textual" / "tokenizer.json"))
        self._tokenizer.enable_padding(
            length=context, pad_token=pad, pad_id=self._tokenizer.token_to_id(pad)
        )
        self._tokenizer.enable_truncation(max_length=context)
        self._preprocessing = read_json(folder / "visual" / "preprocess_cfg.json")
        self._text = onnxruntime.InferenceSession(folder / "textual" / "model.onnx")
        self._image = onnxruntime.InferenceSession(folder / "visual" / "model.onnx")
        self._resize_mode = resize_mode

    def encode_text(self, texts: Sequence[str]) -> Features:
        """Encode texts one at a time; unit rows [n, width]."""
        cleaned = [" ".join(text.split()) for text in texts]
        tokens = [self._tokenizer.encode(text).ids for text in cleaned]
        return np.concatenate([self.text(np.array([ids], np.int64)) for ids in tokens])

    def load_pixels(self, source: ImageSource) -> Pixels:
        """Decode a picture and make it square; uint8 [size, size, 3]."""
        size = self._preprocessing["size"]
        picture = load_image(source)
        if self._resize_mode == "squash":
            return squash(picture, size)
        width, height = picture.size
        wide, high = (size, int(height / width * size))
        if width >= height:
            wide, high = int(width / height * size), size
        picture = picture.resize((wide, high), Image.Resampling.BICUBIC)
        left, upper = int(wide / 2 - size / 2), int(high / 2 - size / 2)
        return np.asarray(picture.crop((left, upper, left + size, upper + size)), np.uint8)

    def encode_pixels(self, pixels: Sequence[Pixels]) -> Features:
        """Encode what :meth:`load_pixels` gave; unit rows [n, width]."""
        return self.image(np.stack(pixels))

    def text(self, tokens: TokenIds) -> Features:
        """Run the text graph: ids [n, context_length] to unit rows [n, width]."""
        rows: Features = self._text.run(None, {"text": tokens.astype(np.int32)})[0]
        return rows

    def image(self, pixels: Pixels) -> Features:
        """Run the image graph: uint8 [n, size, size, 3] to unit rows [n, width]."""
        mean, std = (np.array(self._preprocessing[name], np.float32) for name in ("mean", "std"))
        values = (pixels.astype(np.float32) / 255 - mean) / std
        rows: Features = self._image.run(None, {"image": values.transpose(0, 3, 1, 2)})[0]
        return rows
