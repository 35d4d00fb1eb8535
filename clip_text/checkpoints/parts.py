"""What a checkpoint is made of, whatever its format."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from open_clip import CustomTextCLIP
from open_clip.transformer import QuickGELU
from torch import Tensor
from transformers import PreTrainedConfig

from clip_text.checkpoints.weights import first_few, misfits
from clip_text.errors import CheckpointError
from clip_text.heads import Head, StandaloneHead
from clip_text.images import Preprocessing
from clip_text.names import Format
from clip_text.tokenizer import CONTEXT_LENGTH, Tokenizer
from clip_text.towers import Pooler, Projection, TextTower, TowerConfig, build_model, is_vit

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
class LoadedTextTower:
    """A text tower and what belongs to it.

    Args:
        tower: In evaluation mode, fp32; ``checkpoint.with_text_tower(start)`` makes a pair of it.
        tokenizer: Of the folder.
        dropped: Tensors of the file that the tower has no use for.
        new: Tensors of the tower that start random.
    """

    tower: TextTower
    tokenizer: Tokenizer
    dropped: tuple[str, ...]
    new: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything needed to compute features, and what heads say of a text.

    Args:
        model: Both towers.
        config: Their shape.
        tokenizer: Of the text tower.
        preprocessing: Of pictures.
        heads: Of any task, by name.
    """

    model: CustomTextCLIP
    config: TowerConfig
    tokenizer: Tokenizer
    preprocessing: Preprocessing
    heads: Mapping[str, Head] = field(default_factory=dict)

    def without_readers(self) -> "Checkpoint":
        """Leave out the heads that read the text tower's backbone, where that is to be trained.

        Heads with a backbone of their own stay.
        """
        own = {name: head for name, head in self.heads.items() if head.tower is not None}
        return replace(self, heads=own)

    def with_text_tower(self, start: LoadedTextTower) -> "Checkpoint":
        """Put another text tower beside the image tower, to train the two together.

        Args:
            start: What :func:`clip_text.checkpoints.load_text_tower` gave.

        Returns:
            A new checkpoint with the tower, and the config and tokenizer that belong to it. It
            shares the image tower with this one, which stays as it is. Classification heads, which
            read the tower or its tokens, are left behind.

        Raises:
            CheckpointError: If the tower is not as wide as the shared space.
        """
        tower = start.tower
        if tower.output_dim != self.config.embed_dim:
            raise CheckpointError(
                f"expected a text tower of embed_dim {self.config.embed_dim} (the image tower's), "
                f"got {tower.output_dim}. Load it with embed_dim={self.config.embed_dim}."
            )
        tower.to(self.model.logit_scale.device)
        old = self.model
        # a copy that takes the one tower as it is, and the new one for the other
        model = copy.deepcopy(old, {id(old.visual): old.visual, id(old.text): tower})
        model.context_length, model.vocab_size = tower.context_length, tower.vocab_size
        heads = {
            name: head for name, head in self.heads.items() if isinstance(head, StandaloneHead)
        }
        config = replace(
            self.config,
            backbone=tower.config,
            pooler=cast(Pooler, tower.pooler),
            projection=cast(Projection, tower.projection),
            context_length=tower.context_length,
            matryoshka=(),  # the new tower's rows were trained for nothing of the kind
        )
        return replace(
            self, model=model.eval(), config=config, tokenizer=start.tokenizer, heads=heads
        )


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
        beside: What else the file holds, and nothing here reads: epoch, optimizer, …
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
    beside: tuple[str, ...] = ()


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


def check_fits(checkpoint: Checkpoint) -> None:
    """Refuse to write a config that is not the model's: it could not be read, or run otherwise.

    Of timm's image towers the shapes are not compared; some compute while they are made.

    Raises:
        CheckpointError: Naming what is different.
    """
    model, config, tower = checkpoint.model, checkpoint.config, checkpoint.model.text
    if not isinstance(tower, TextTower):
        raise CheckpointError(
            f"expected a clip_text.towers.TextTower to write, got a {type(tower).__name__}. "
            "Put one into the model with Checkpoint.with_text_tower."
        )
    settings: dict[str, tuple[object, object]] = {
        "embed_dim": (tower.output_dim, config.embed_dim),
        "pooler": (tower.pooler, config.pooler),
        "projection": (tower.projection, config.projection),
        "context_length": (tower.context_length, config.context_length),
        "context_length of the tokenizer": (
            checkpoint.tokenizer.context_length,
            config.context_length,
        ),
    }
    if is_vit(config.vision):
        quick_gelu = any(isinstance(module, QuickGELU) for module in model.visual.modules())
        settings["quick_gelu"] = (quick_gelu, config.quick_gelu)
    real, said = _settings(tower.config), _settings(config.backbone)
    settings |= {f"backbone {name}": (real.get(name), said.get(name)) for name in real | said}
    wrong = [
        f"{name} {has!r}, not {says!r}" for name, (has, says) in settings.items() if has != says
    ]
    wrong = wrong or _shape_misfits(model, config)
    if wrong:
        raise CheckpointError(
            f"expected a model that fits the checkpoint's config, to write both, got: "
            f"{first_few(wrong)}. Replace a part together with its config, a text tower with "
            "Checkpoint.with_text_tower."
        )


def _settings(backbone: PreTrainedConfig) -> dict[str, Any]:
    """What a backbone computes with; not who wrote its config, or when."""
    notes = {"transformers_version", "architectures", "dtype", "_name_or_path"}
    return {name: value for name, value in backbone.to_dict().items() if name not in notes}


def _shape_misfits(model: CustomTextCLIP, config: TowerConfig) -> list[str]:
    """Compare the weights with those the config asks for, without memory for the latter."""
    if "layers" in config.vision:
        with torch.device("meta"):
            expected = build_model(config)
        return misfits(expected.state_dict(), model.state_dict())
    with torch.device("meta"):
        tower = TextTower(config.backbone, config.embed_dim, config.pooler, config.projection)
    return misfits(tower.state_dict(), model.text.state_dict(), "text.{}".format)
