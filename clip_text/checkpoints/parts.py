"""What a checkpoint is made of, whatever its format."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from open_clip import CustomTextCLIP
from torch import Tensor
from transformers import PreTrainedConfig

from clip_text.errors import CheckpointError
from clip_text.tokenizer import CONTEXT_LENGTH, Tokenizer
from clip_text.towers import TowerConfig

Format = Literal["cn_clip", "hf", "open_clip"]

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"

BROKEN = (
    *(AttributeError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError),
    *(ZeroDivisionError, StrictDataclassError),
)
"""What the libraries below raise over a config or a tokenizer file that is wrong."""

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a picture becomes the image tower's input: squash to a square, bicubic, normalise.

    Args:
        size: Side of the square in pixels.
        mean: Per channel, of values in [0, 1].
        std: Per channel, of values in [0, 1].
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything needed to compute features."""

    model: CustomTextCLIP
    config: TowerConfig
    tokenizer: Tokenizer
    preprocessing: Preprocessing


@dataclass(frozen=True, slots=True)
class Source:
    """What a reader found on disk, before a model is built from it.

    Args:
        format: What it is.
        path: The file with the weights.
        config: Shape of the towers.
        preprocessing: As the file says, or as its format always does.
        tokenizer: As the folder holds it, or the vocabulary of the format.
        weights: Under our names, as stored; ``dropped`` ones excepted.
        dropped: Tensors of the file that compute nothing.
        problems: What did not fit the format's key table, a phrase each.
        their_name: What the file calls one of our tensors.
    """

    format: Format
    path: Path
    config: TowerConfig
    preprocessing: Preprocessing
    tokenizer: Tokenizer
    weights: Mapping[str, Tensor]
    dropped: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    their_name: Callable[[str], str] = str


def incomplete(folder: Path, error: Exception) -> CheckpointError:
    """Say that a folder lacks something, or that its parts do not fit."""
    reason = " ".join(str(error).split()).rstrip(".")
    return CheckpointError(
        f"expected a complete checkpoint in {folder}, got {type(error).__name__}: {reason}. "
        "Save or download it again."
    )


def default_context_length(max_positions: int) -> int:
    """Chinese-CLIP's 52, or all positions of a smaller model."""
    return min(CONTEXT_LENGTH, max_positions)


def positions(backbone: PreTrainedConfig) -> int | None:
    """Tokens that a backbone has positions for; None where it has no table of them.

    RoBERTa's tables begin with rows that no token uses: its positions start behind the padding id.
    """
    rows = getattr(backbone, "max_position_embeddings", None)
    unused = backbone.model_type in ("roberta", "xlm-roberta", "camembert")
    return int(rows) - (int(backbone.pad_token_id or 0) + 1 if unused else 0) if rows else None


def check_positions(backbone: PreTrainedConfig, context_length: int, source: Path) -> None:
    """Refuse a context that is longer than the backbone can read.

    Raises:
        CheckpointError: If it is.
    """
    longest = positions(backbone)
    if longest and context_length > longest:
        raise CheckpointError(
            f"expected a context_length of at most {longest}, which {source} has positions for, "
            f"got {context_length}. Ask for fewer tokens."
        )


def check_tokenizer(tokenizer: Tokenizer, backbone: PreTrainedConfig, source: Path) -> None:
    """Refuse a tokenizer of another text tower.

    Fewer tokens than the tower has embeddings are fine: tables get padded to round numbers.

    Raises:
        CheckpointError: If an id has no embedding, or short rows are filled with an id that the
            tower takes for a word, so that a text's row would depend on its neighbours.
    """
    rows = getattr(backbone, "vocab_size", None)
    longest = max(tokenizer.backend.get_vocab().values(), default=-1)
    if rows is not None and longest >= rows:
        raise CheckpointError(
            f"expected token ids below {rows} (the text tower's embeddings) in {source}, got a "
            f"tokenizer with ids up to {longest}. Put the tokenizer files of this model there."
        )
    # as TextTower takes a missing one
    padding = int(getattr(backbone, "pad_token_id", 0) or 0)
    if tokenizer.backend.pad_token_id != padding:
        raise CheckpointError(
            f"expected a tokenizer that pads with id {padding} (pad_token_id of the text tower's "
            f"config) in {source}, got {tokenizer.backend.pad_token_id}. Put the tokenizer files "
            "of this model there, or correct its config.json."
        )


def load_weights(
    model: torch.nn.Module,
    weights: Mapping[str, Tensor],
    source: Path,
    problems: tuple[str, ...] = (),
    their_name: Callable[[str], str] = str,
) -> None:
    """Copy weights into a model, refusing to lose or invent a tensor.

    Args:
        model: Takes the weights.
        weights: By the model's own names.
        source: Named in the error.
        problems: What is already known to be wrong with the file.
        their_name: What the file calls a tensor of the model.

    Raises:
        CheckpointError: If a tensor is missing, extra or of another shape.
    """
    expected = model.state_dict()
    wrong = list(problems)
    wrong += [f"missing {their_name(name)}" for name in expected if name not in weights]
    wrong += [f"unknown {their_name(name)}" for name in weights if name not in expected]
    wrong += [
        f"{their_name(name)} is {list(weights[name].shape)}, not {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    wrong = list(dict.fromkeys(wrong))
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError(
            f"expected {len(expected)} tensors that fit each other and the config in {source}, "
            f"got: {'; '.join(wrong[:5])}{more}. "
            "Use the weights and the config of one and the same model."
        )
    model.load_state_dict(dict(weights))


def stored(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Cast weights to the type in which they are written.

    ``logit_scale`` stays fp32: one number, whose exp would be off by up to 0.2 %.

    Raises:
        CheckpointError: If a finite weight is too large for the type.
    """
    out = {}
    for name, tensor in weights.items():
        exact = not tensor.is_floating_point() or name.endswith("logit_scale")
        out[name] = tensor.detach().to(tensor.dtype if exact else dtype).cpu().contiguous()
        if out[name].isinf().any() and not tensor.isinf().any():
            raise CheckpointError(
                f"expected weights below {torch.finfo(dtype).max:,.0f} to store them in 16 bits, "
                f"got {tensor.abs().max():,.0f} in {name}. Write fp32."
            )
    return out
